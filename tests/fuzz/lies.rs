//! A server that may say anything: any bytes become a run's requests and what a hostile server answered to them, and
//! whatever it was, the report that is made of it is whole.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use nat_check_core::{
    classify,
    engine::Observed,
    observation::{LocalSocket, ObservationLog, Purpose, RequestKind, SocketId, Transaction},
    probe::REGISTRY,
    report::{FamilyReport, FamilyStatus, ReasonCode},
    server_endpoints::ServerEndpoint,
    verdict,
};
use serde_json::Value;
use shared::stun::{Class, Dialect, TransactionId, Writer, attr};

/// Sockets of a run, and requests at the most.
const SOCKETS: usize = 6;
const MOST_TRANSACTIONS: usize = 120;

/// Bytes that are used up one after another, zeros when there are no more.
struct Choices<'a>(std::slice::Iter<'a, u8>);

impl Choices<'_> {
    fn byte(&mut self) -> u8 {
        self.0.next().copied().unwrap_or(0)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::from(self.byte()) % limit
    }

    fn millis(&mut self) -> Duration {
        Duration::from_millis(u64::from(self.byte()) << (self.byte() % 8))
    }

    /// Mostly an address that matters to the client, sometimes any.
    fn address(&mut self) -> SocketAddr {
        let ip: IpAddr = match self.byte() % 8 {
            0 => [198, 51, 100, 10].into(),
            1 => [198, 51, 100, 11].into(),
            2 | 3 => [203, 0, 113, 1].into(),
            4 => [192, 168, 77, 2].into(),
            5 => [0, 0, 0, 0].into(),
            6 => [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(self.byte())].into(),
            _ => [self.byte(), self.byte(), self.byte(), self.byte()].into(),
        };
        let port = match self.byte() % 4 {
            0 => 3478,
            1 => 3479,
            2 => 40000 + u16::from(self.byte()),
            _ => u16::from_be_bytes([self.byte(), self.byte()]),
        };
        SocketAddr::new(ip, port)
    }
}

/// Draws the conclusions from a run that the bytes choose, and holds the report against its own promises.
pub(crate) fn lies(bytes: &[u8]) {
    let mut choose = Choices(bytes.iter());
    let mut log = ObservationLog::new(SocketAddr::from(([198, 51, 100, 10], 3478)));
    log.tests = REGISTRY.iter().map(|probe| probe.name).collect();
    log.sockets =
        (0..SOCKETS as u16).map(|n| LocalSocket { local: ([192, 168, 77, 2], 40000 + n).into() }).collect();
    log.lifetime = (choose.byte() & 1 == 1).then_some(Duration::from_secs(180));
    log.ended_early = choose.byte() & 1 == 1;
    let mut rng = fastrand::Rng::with_seed(u64::from(choose.byte()));
    let mut ids = Vec::new();
    let mut now = Duration::ZERO;
    while choose.0.len() > 0 && ids.len() < MOST_TRANSACTIONS {
        now += choose.millis();
        let transaction = transaction(&mut choose, now);
        let id = match transaction.dialect {
            Dialect::Modern => TransactionId::modern(&mut rng),
            Dialect::Classic => TransactionId::classic(&mut rng),
        };
        log.sent(id, transaction);
        ids.push(id);
        for _ in 0..choose.below(4) {
            let id = ids[ids.len() - 1 - choose.below(ids.len().min(8))];
            let mut buffer = [0; 600];
            let Some(length) = answer(&mut choose, &id, &mut buffer) else { continue };
            let (from, on) = (choose.address(), SocketId(choose.below(SOCKETS)));
            _ = log.received(&buffer[..length], from, on, now + choose.millis());
        }
    }
    log.ended = now + Duration::from_secs(1);
    conclude(log);
}

fn transaction(choose: &mut Choices<'_>, sent: Duration) -> Transaction {
    let place = ServerEndpoint::ALL[choose.below(4)];
    let (port, long) = (40000 + u16::from(choose.byte()), choose.byte() & 1 == 1);
    let kind = match choose.below(8) {
        0 | 1 => RequestKind::ChangeRequest(place),
        2 => RequestKind::ResponsePort { port, long },
        3 => RequestKind::ResponsePortOf { socket: SocketId(choose.below(SOCKETS)), port, long },
        4 => RequestKind::Hairpin,
        _ => RequestKind::Binding,
    };
    Transaction {
        purpose: Purpose::main(REGISTRY[choose.below(REGISTRY.len())].name),
        socket: SocketId(choose.below(SOCKETS)),
        to: choose.address(),
        kind,
        round: u32::from(choose.byte() % 8),
        dialect: if choose.byte() % 8 == 7 { Dialect::Classic } else { Dialect::Modern },
        wants_receipt: matches!(kind, RequestKind::ChangeRequest(_)),
        sent,
        responses: Vec::new(),
        unsent: choose.byte() % 16 == 15,
        receipt: None,
        alternate_unheard: None,
    }
}

fn answer(choose: &mut Choices<'_>, id: &TransactionId, buffer: &mut [u8]) -> Option<usize> {
    const NUMBERS: [u16; 8] = [
        attr::MAPPED_ADDRESS,
        attr::XOR_MAPPED_ADDRESS,
        attr::OTHER_ADDRESS,
        attr::CHANGED_ADDRESS,
        attr::RESPONSE_ORIGIN,
        attr::SOURCE_ADDRESS,
        attr::RECEIPT,
        attr::SOFTWARE,
    ];
    let class = [Class::Success, Class::Success, Class::Error, Class::Request][choose.below(4)];
    let mut writer = Writer::new(buffer, class, id);
    for _ in 0..choose.below(6) {
        let number = NUMBERS[choose.below(NUMBERS.len())];
        match choose.byte() % 8 {
            0 => _ = writer.error(u16::from(choose.byte()) * 4),
            1 => {
                let any = [choose.byte(), choose.byte(), choose.byte(), choose.byte(), choose.byte()];
                _ = writer.bytes(number, &any[..choose.below(6)]);
            }
            2 | 3 => _ = writer.xor_address(attr::XOR_MAPPED_ADDRESS, choose.address()),
            _ => _ = writer.address(number, choose.address()),
        }
    }
    writer.finish().ok()
}

fn conclude(log: ObservationLog) {
    let observed = Observed { log, tcp: None, rtt: None, partial: false };
    let found = classify::found(&observed);
    let server = classify::server(&observed, &found);
    let udp = observed.udp_works().then_some(found.udp);
    let mut tested = FamilyReport::default();
    (tested.status, tested.udp) = (FamilyStatus::Tested, udp);
    let mut skipped = FamilyReport::default();
    skipped.reason = Some("not asked for".into());
    skipped.reason_code = Some(ReasonCode::NotAskedFor);
    let verdict = verdict::conclude(&tested, &skipped);
    assert!(!verdict.summary.is_empty());
    for peer in &verdict.peers {
        assert!(peer.probability.is_none_or(|p| (0.0..=1.0).contains(&p)), "{peer:?}");
    }
    for part in [
        serde_json::to_value(&tested),
        serde_json::to_value(&server.features),
        serde_json::to_value(&verdict),
    ] {
        is_whole(&part.expect("a report can be written"));
    }
}

/// Every finding has a value, or a reason why there is none.
fn is_whole(value: &Value) {
    if let Some(confidence) = value.get("confidence") {
        assert_eq!(value["value"].is_null(), confidence == "unknown", "{value}");
        assert!(confidence != "unknown" || value["reason"].is_string(), "{value}");
    }
    if let Some(reason) = value.get("reason") {
        assert_eq!(reason.is_string(), value["reason_code"].is_string(), "{value}");
    }
    match value {
        Value::Object(fields) => fields.values().for_each(is_whole),
        Value::Array(items) => items.iter().for_each(is_whole),
        _ => {}
    }
}
