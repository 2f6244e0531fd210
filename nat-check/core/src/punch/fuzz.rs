//! What the fuzzer holds the parts of an attempt against that take a peer's word: messages that came through the server,
//! and datagrams, of a peer that may say anything and knows its own key.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    nat::{Filtering, Mapping, PortAllocation, PortPolicy},
    rendezvous::{
        Role, ToClient,
        peer::{Behaviour, Nonce, Offer, PeerMessage, TcpSide, WireTechnique},
    },
};
use tokio::time::{Instant, sleep_until};

use super::{
    burst::{Burst, RESEND_AT_MS, pairs},
    checks::{self, ACKS, MAX_ANSWERS, NOMINATIONS, RoundContext},
    contacts::Contacts,
    forecast::Pair,
    sockets::Sockets,
    technique,
    wire::{Keys, Kind, Packet, Stamps},
};
use crate::{
    net::{Boxed, Datagram, Net, Stream},
    randomness::Randomness,
};

/// Rounds that no list may exceed: each technique once, and the predictions of ports.
const MOST_ROUNDS: usize = 16;

/// Whatever a peer offers, both sides expect the same of it and plan the same rounds. The first byte chooses what this
/// side offers, the rest is the peer's payload.
pub fn messages(bytes: &[u8]) {
    let Some((choice, text)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(text);
    let start = format!(r#"{{"type":"start","step":0,"after_ms":0,"payload":{text}}}"#);
    let Ok(Some(ToClient::Start { payload, .. })) = ToClient::parse(&start) else { return };
    let Ok(message) = PeerMessage::read(&payload) else { return };
    let again = message.write().map(|payload| PeerMessage::read(&payload).is_ok());
    assert!(again.unwrap_or(true), "what is written can be read: {message:?}");
    let PeerMessage::Offer(theirs) = message else { return };
    let mine = own_offer(*choice);
    let (here, elsewhere) = (ip(1), ip(9));
    let there = if choice & 64 == 0 { elsewhere } else { here };
    let first = Pair::new(Role::First, mine.clone(), (*theirs).clone(), here, there);
    let second = Pair::new(Role::Second, *theirs, mine, there, here);
    let [a, b] = [&first, &second].map(Pair::forecast);
    assert_eq!((a.direct, a.probability, a.technique), (b.direct, b.probability, b.technique));
    assert!(a.probability.is_none_or(|p| (0.0..=1.0).contains(&p)), "{a:?}");
    let [plan, other] = [&first, &second].map(technique::plan);
    assert!(plan.iter().map(|method| method.technique).eq(other.iter().map(|method| method.technique)));
    assert!(plan.len() <= MOST_ROUNDS, "{} rounds", plan.len());
    // What it costs is told for any pair.
    plan.iter().for_each(|method| _ = (method.cost)(&first));
}

/// Whatever datagrams come in a round, it ends in time, sends no more than its bounds, nothing to where nothing may go, and
/// takes no path to where nothing came from that the peer has signed. To be run in paused time. The first byte chooses the
/// side; then seven for each datagram: what, kind, round, from where, at which socket, how much later, any value.
pub async fn datagrams(bytes: &[u8]) {
    let Some((choice, records)) = bytes.split_first() else { return };
    let (mine, theirs) = (Nonce([1; 16]), Nonce([2; 16]));
    let script = Arc::new(Script {
        begun: Instant::now(),
        peers: Keys::new(theirs, mine),
        arrivals: records_of(records).map(Mutex::new),
        opened: Mutex::default(),
        sent: Mutex::default(),
        signed: Mutex::default(),
    });
    let server = SocketAddr::new(ip(0), 3478);
    let local = Some((OWN, 24));
    let contacts = Contacts::new(server, vec![server], ip(9), local);
    let (net, random) = (Scripted(Arc::clone(&script)), Randomness::Seeded(1).source());
    let mut sockets = Sockets::new(Arc::new(net), contacts, random, fastrand::Rng::with_seed(1));
    for _ in 0..SOCKETS {
        assert!(sockets.open(OWN).await.is_ok());
    }
    let targets = pairs(&[0, 1], &ADDRESSES.map(|at| SocketAddr::new(at.0, at.1)));
    let burst = Burst::short(targets);
    let keys = Keys::new(mine, theirs);
    let grace = Duration::from_secs(1);
    let role = if choice & 1 == 0 { Role::First } else { Role::Second };
    let stamps = Stamps::new(script.begun, [3; 16]);
    let context = RoundContext { sockets: &mut sockets, keys: &keys, stamps: &stamps, role, round: 1, grace };
    let outcome = checks::run(&mut { context }, &burst).await;
    let (sent, signed) = (lock(&script.sent), lock(&script.signed));
    assert!(script.begun.elapsed() <= burst.window + grace + Duration::from_millis(1));
    let scheduled = burst.targets.len() * RESEND_AT_MS.len();
    let more = MAX_ANSWERS as usize + 2 * ACKS + RESEND_AT_MS.len() + NOMINATIONS as usize;
    assert!(sent.len() <= scheduled + more, "{} packets", sent.len());
    let allowed = |to: &SocketAddr| ADDRESSES.iter().any(|at| at.2 && (at.0, at.1) == (to.ip(), to.port()));
    assert!(sent.iter().all(|(to, _)| allowed(to)), "{sent:?}");
    assert!(outcome.path.is_none_or(|path| signed.contains(&path.remote)), "{outcome:?}");
}

/// What this side offers, by choice.
fn own_offer(choice: u8) -> Offer {
    let mapping = [
        Mapping::Direct,
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
    ];
    let ports = [PortPolicy::Preserving, PortPolicy::Sequential, PortPolicy::Random, PortPolicy::Block];
    let policy = ports[usize::from(choice >> 2 & 3)];
    let filtering =
        if choice & 16 == 0 { Filtering::EndpointIndependent } else { Filtering::AddressAndPortDependent };
    let at = SocketAddr::new(ip(1), 40000);
    Offer {
        nonce: Nonce([1; 16]),
        behaviour: Behaviour {
            udp: choice & 128 == 0,
            mapping: Some(mapping[usize::from(choice & 3)]),
            filtering: Some(filtering),
            ports: Some(PortAllocation {
                policy,
                delta: (policy == PortPolicy::Sequential).then_some(1),
                range: (1024, 65535),
                external_ips: 1,
                parity: None,
                external_ip_by_destination: None,
                cross_traffic_per_s: None,
            }),
            ..Behaviour::default()
        },
        techniques: WireTechnique::ALL.to_vec(),
        lan: vec![SocketAddr::new(OWN, 40000)],
        external: vec![at],
        ipv6: None,
        tcp: (choice & 32 == 0).then_some(TcpSide { fixed: true, ..TcpSide::default() }),
        remaps: Some(choice & 32 != 0),
        opener_ttl: None,
        rtt_ms: 20,
        hold_ms: 0,
        prepares: true,
        ice: None,
    }
}

const OWN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 1, 2));
const SOCKETS: usize = 2;
/// Where packets go and come from, and whether any may go there.
const ADDRESSES: [(IpAddr, u16, bool); 8] = [
    (v4(203, 0, 113, 9), 40000, true),
    (v4(203, 0, 113, 9), 53, false),
    (v4(203, 0, 113, 10), 40000, true),
    (v4(192, 168, 1, 3), 40000, true),
    (v4(192, 168, 2, 3), 40000, false),
    (v4(127, 0, 0, 1), 40000, false),
    (v4(239, 255, 255, 250), 40000, false),
    (v4(203, 0, 113, 9), 50000, true),
];

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

fn ip(last: u8) -> IpAddr {
    v4(203, 0, 113, last)
}

/// A datagram that is to come in.
struct Record {
    at: Duration,
    what: u8,
    packet: (u8, u8),
    from: SocketAddr,
    value: u8,
}

/// By socket, in the order of time.
fn records_of(bytes: &[u8]) -> [VecDeque<Record>; SOCKETS] {
    let mut all = [const { VecDeque::new() }; SOCKETS];
    let mut at = Duration::ZERO;
    for record in bytes.chunks_exact(7) {
        let (ip, port, _) = ADDRESSES[usize::from(record[3]) % ADDRESSES.len()];
        at += Duration::from_millis(record[5].into());
        let packet = (record[1], record[2]);
        let from = SocketAddr::new(ip, port);
        all[usize::from(record[4]) % SOCKETS].push_back(Record {
            at,
            what: record[0],
            packet,
            from,
            value: record[6],
        });
    }
    all
}

/// What comes in, and what went out.
struct Script {
    begun: Instant,
    /// What the peer signs with.
    peers: Keys,
    arrivals: [Mutex<VecDeque<Record>>; SOCKETS],
    opened: Mutex<usize>,
    sent: Mutex<Vec<(SocketAddr, Vec<u8>)>>,
    /// Where packets came from that the peer has signed.
    signed: Mutex<BTreeSet<SocketAddr>>,
}

impl Script {
    fn write(&self, record: &Record) -> Vec<u8> {
        let sent = lock(&self.sent);
        let echoed = sent.get(usize::from(record.value) % sent.len().max(1)).map(|(_, bytes)| bytes.clone());
        let stamp = match record.what % 4 {
            0 => return vec![record.packet.0; usize::from(record.value)],
            1 => return echoed.unwrap_or_default(),
            2 => echoed.and_then(|bytes| Some(u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?))),
            _ => None,
        };
        lock(&self.signed).insert(record.from);
        let kind = Kind::of(record.packet.0 % 7).unwrap_or(Kind::Ping);
        let stamp = stamp.unwrap_or(record.value.into());
        Packet { kind, round: record.packet.1, stamp }.write(&self.peers).to_vec()
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Scripted(Arc<Script>);

impl Net for Scripted {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        let mut opened = lock(&self.0.opened);
        let socket = Socket { script: Arc::clone(&self.0), number: *opened, local };
        *opened += 1;
        Box::pin(async { Ok(Box::new(socket) as Box<dyn Datagram>) })
    }

    fn source_for(&self, _: SocketAddr) -> io::Result<IpAddr> {
        Ok(OWN)
    }

    fn connect(&self, _: Option<SocketAddr>, _: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }
}

struct Socket {
    script: Arc<Script>,
    number: usize,
    local: SocketAddr,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Datagram for Socket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        lock(&self.script.sent).push((to, datagram.to_vec()));
        Box::pin(async { Ok(()) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let next = self.script.arrivals.get(self.number).and_then(|arrivals| lock(arrivals).pop_front());
            let Some(record) = next else { return std::future::pending().await };
            sleep_until(self.script.begun + record.at).await;
            let bytes = self.script.write(&record);
            buffer[..bytes.len()].copy_from_slice(&bytes);
            Ok((bytes.len(), record.from))
        })
    }

    fn set_ttl(&self, _: u32) -> io::Result<()> {
        Ok(())
    }
}
