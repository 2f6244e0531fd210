//! RESPONSE-PORT (RFC 5780 section 7.5): can the server answer to another port of ours? A feature of the server, which
//! the lifetime measurement builds on.

use std::sync::Arc;

use crate::{
    observation::{ObservationLog, Purpose, RequestKind, Transaction},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode},
    session::{Contact, Request, Session, Socket},
};

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("response-port");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whether the server can answer to another port, which the lifetime measurement needs",
    needs: &[],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(learn_both(session)) },
        Step { stage: Stage::Alternate, run: |session| Box::pin(divert(session)) },
    ],
    udp: &[],
    tcp: &[],
    server: &[Slot::of::<ResponsePort>()],
};

/// What it finds out.
struct ResponsePort;

impl Measured for ResponsePort {
    type Value = bool;
    const KEY: &'static str = "response_port";
    const LABEL: &'static str = "RESPONSE-PORT";
    const OF_THE_NAT: bool = false;
    slot!(server.response_port);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<bool> {
        conclude(log)
    }

    fn text(value: &bool) -> String {
        if *value { "honoured" } else { "not honoured" }.into()
    }
}

const METHOD: &str = "RFC 5780 7.5, answer diverted to a second socket, value of 2 and of 4 bytes";

/// Learns where the socket that asks and the one that is answered are seen. On a long way each exchange takes its time, and
/// the next one waits for the next stage.
async fn learn_both(session: Arc<Session>) {
    let (Ok(asks), Ok(gets)) = (session.open().await, session.open().await) else { return };
    let server = session.server();
    session.retained_sockets(|retained| retained.response_port = Some([asks.clone(), gets.clone()]));
    tokio::join!(
        session.learn_external(&asks, PURPOSE, server, 4),
        session.learn_external(&gets, PURPOSE, server, 4)
    );
    if !session.is_far() {
        divert(session).await;
    }
}

async fn divert(session: Arc<Session>) {
    let Some([asks, gets]) = session.retained_sockets(|retained| retained.response_port.take()) else {
        return;
    };
    let server = session.server();
    let external = |socket: &Socket| session.read(|log| log.mapped(socket.id, server));
    let (Some(from), Some(to)) = (external(&asks), external(&gets)) else { return };
    // Through a pool of external addresses the answer would go to a stranger.
    if session.contact().await == Contact::None || from.ip() != to.ip() || session.is_slow() {
        return;
    }
    for _ in 0..3 {
        let round = session.round();
        for long in [false, true] {
            let kind = RequestKind::ResponsePort { port: to.port(), long };
            session.send(&asks, Request { purpose: PURPOSE, to: server, kind, round }).await;
        }
        let told = |l: &ObservationLog| {
            (honoured(l, false) && honoured(l, true)) || l.of(PURPOSE).any(|t| t.error_code().is_some())
        };
        session.until_due(session.now(), told).await;
        if session.read(|log| reaction(log).is_some()) {
            return;
        }
    }
}

/// What the server makes of RESPONSE-PORT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// It obeys, where the value has 2 or 4 bytes.
    Honours { short: bool, long: bool },
    /// It answers with this error.
    Refuses(u16),
    /// It answers to the port that asked.
    Ignores,
}

fn diverted(log: &ObservationLog, long: bool) -> impl Iterator<Item = &Transaction> {
    log.of(PURPOSE).filter(move |t| matches!(t.kind, RequestKind::ResponsePort { long: l, .. } if l == long))
}

fn honoured(log: &ObservationLog, long: bool) -> bool {
    diverted(log, long).any(|t| t.successes().any(|a| a.on != t.socket && a.from == t.to))
}

/// Whether the two sockets were seen at different external addresses.
pub(crate) fn scattered(log: &ObservationLog) -> bool {
    let mut seen = log.of(PURPOSE).filter_map(|t| t.direct()?.mapped()).map(|a| a.ip());
    let first = seen.next();
    seen.any(|ip| Some(ip) != first)
}

/// Whether both sockets were seen, at one external address.
fn is_possible(log: &ObservationLog) -> bool {
    let seen = log.of(PURPOSE).filter(|t| t.direct().is_some_and(|a| a.mapped().is_some())).map(|t| t.socket);
    let mut seen: Vec<_> = seen.collect();
    seen.sort_unstable();
    seen.dedup();
    seen.len() == 2 && !scattered(log)
}

/// What the server was seen to make of it, if that is known.
pub(crate) fn reaction(log: &ObservationLog) -> Option<Reaction> {
    let (short, long) = (honoured(log, false), honoured(log, true));
    if short || long {
        return Some(Reaction::Honours { short, long });
    }
    let all = || diverted(log, false).chain(diverted(log, true));
    if let Some(code) = all().find_map(Transaction::error_code) {
        return Some(Reaction::Refuses(code));
    }
    all().any(|t| t.successes().any(|a| a.on == t.socket)).then_some(Reaction::Ignores)
}

/// Draws the conclusion.
fn conclude(log: &ObservationLog) -> Finding<bool> {
    let sent = diverted(log, false).chain(diverted(log, true)).count();
    let finding = match reaction(log) {
        Some(Reaction::Honours { short, long }) => Finding::known(true, Confidence::Certain, METHOD)
            .with("two_bytes", short)
            .with("four_bytes", long),
        Some(Reaction::Refuses(code)) => Finding::known(false, Confidence::Certain, METHOD).because((
            ReasonCode::ServerRefuses,
            format!("the server refuses RESPONSE-PORT with error {code}"),
        )),
        Some(Reaction::Ignores) => Finding::known(false, Confidence::Certain, METHOD).because((
            ReasonCode::ServerIgnores,
            "the server ignores RESPONSE-PORT: it answers to the port that asked",
        )),
        None if log.of(PURPOSE).next().is_none() => Finding::not_asked_for(METHOD),
        None if sent == 0 && is_possible(log) => Finding::unknown(
            (
                ReasonCode::ServerSlow,
                "each request takes so long that what the verdict does not rest on was left out",
            ),
            METHOD,
        ),
        None if sent == 0 => Finding::unknown(
            (
                ReasonCode::SeveralExternalAddresses,
                "two sockets with one external address are needed, and they could not be had",
            ),
            METHOD,
        ),
        None => Finding::unknown(
            (ReasonCode::NoAnswer, "no answer came, neither to the one socket nor to the other"),
            METHOD,
        ),
    };
    finding.with("sent", sent)
}
