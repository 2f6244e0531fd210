//! The rules, whatever is said in whatever order.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proptest::{collection::vec, prelude::*};
use shared::test_session::{
    CONNECTS_AT_ONCE, CONNECTS_IN_FLIGHT, Decline, HELD_CONNECTIONS, MAX_TTL, NAMED_PORTS,
    NAMED_PORTS_PER_HOUR, Nonce, Refusal, Source, SourceAddress, ToClient, ToServer, Token, VERSION,
};

use super::*;

const OWN: [u16; 2] = [3478, 3479];
const NONCE: Nonce = Nonce([1; 16]);
const EVERYTHING: Offer = Offer { alternate: true, pending: [true, true] };

/// Two addresses of one host, one of another host, and one of another family.
fn ip(number: usize) -> IpAddr {
    ["2001:db8::1", "2001:db8::2", "192.0.2.1", "2001:db8:1::1"][number % 4].parse().unwrap()
}

/// What counts as one host, said independently of the rules.
fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("{:014x}", ip.to_bits() >> 72),
    }
}

/// The same for a network.
fn network(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string().rsplit_once('.').unwrap().0.to_owned(),
        IpAddr::V6(ip) => format!("{:012x}", ip.to_bits() >> 80),
    }
}

/// Connects of all: so many that a network may have more than a host.
const CONNECTS: usize = 500;

#[derive(Clone, Debug)]
enum Step {
    Open(usize),
    Say(usize, ToServer),
    Prove(usize, usize, u16),
    ProveFlow(usize, usize, u16),
    Pass(u32),
    EndOne,
    Close(usize),
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![any::<u16>(), 1020_u16..1060, Just(OWN[0]), Just(OWN[1]), Just(0)]
}

fn message() -> impl Strategy<Value = ToServer> {
    let nonce = Nonce([1; 16]);
    let after_ms = prop_oneof![Just(0), 0_u32..3000, any::<u32>()];
    let syn = (0_u32..1200, port(), any::<bool>(), any::<bool>(), after_ms, 0_u32..12_000);
    let syn = syn.prop_map(|(id, port, alternate, pending, after_ms, wait_ms)| ToServer::Syn {
        id,
        port,
        from: if alternate { SourceAddress::Alternate } else { SourceAddress::Primary },
        source: if pending { Source::Pending } else { Source::Ephemeral },
        after_ms,
        wait_ms,
    });
    let hold = (0_u32..20, 0_u32..1_000_000).prop_map(move |(connection, after_ms)| ToServer::Hold {
        id: 1,
        connection,
        nonce,
        after_ms,
    });
    let trace = (any::<u8>(), any::<u8>(), 0_u32..3000).prop_map(|(ttl_from, ttl_to, wait_ms)| {
        let (ttl_from, ttl_to) = (ttl_from % 40, ttl_to % 40);
        ToServer::Trace { id: 1, ttl_from, ttl_to, wait_ms }
    });
    prop_oneof![
        8 => syn,
        2 => hold,
        2 => trace,
        1 => Just(ToServer::Ping { id: 1 }),
        1 => Just(ToServer::Open { version: VERSION }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let any = 0_usize..1000;
    prop_oneof![
        2 => any.clone().prop_map(Step::Open),
        20 => (any.clone(), message()).prop_map(|(session, message)| Step::Say(session, message)),
        3 => (any.clone(), any.clone(), port()).prop_map(|(session, ip, port)| Step::Prove(session, ip, port)),
        2 => (any.clone(), any.clone(), port()).prop_map(|(session, ip, port)| Step::ProveFlow(session, ip, port)),
        4 => (0_u32..3000).prop_map(Step::Pass),
        1 => (0_u32..4_000_000).prop_map(Step::Pass),
        6 => Just(Step::EndOne),
        1 => any.prop_map(Step::Close),
    ]
}

/// What a victim, or an operator, would count.
#[derive(Default)]
struct Ledger {
    /// By session: its address, the ports that it proved from there, and those that it named.
    sessions: Vec<(u64, IpAddr, HashSet<u16>, HashSet<u16>)>,
    /// By host: when it had connects, and what they cost.
    connects: HashMap<String, Vec<(Duration, u32)>>,
    named: HashMap<String, Vec<(Duration, u16)>>,
    under_way: Vec<IpAddr>,
    held: Vec<IpAddr>,
}

impl Ledger {
    fn connect(&mut self, session: usize, to: SocketAddr, now: Duration) {
        let (_, ip, proven, named) = &mut self.sessions[session];
        assert_eq!(to.ip(), *ip, "an address that is not the session's own");
        assert!(!OWN.contains(&to.port()), "a port of the server");
        if !proven.contains(&to.port()) {
            assert!(to.port() >= 1024, "a low port");
            named.insert(to.port());
            assert!(named.len() <= NAMED_PORTS);
            let hour = self.named.entry(host(*ip)).or_default();
            hour.push((now, to.port()));
            let last = hour.iter().filter(|(at, _)| *at + Duration::from_secs(3600) > now);
            assert!(last.map(|(_, port)| port).collect::<HashSet<_>>().len() <= NAMED_PORTS_PER_HOUR);
        }
        let ip = *ip;
        self.cost(ip, 1, now);
    }

    fn cost(&mut self, ip: IpAddr, cost: u32, now: Duration) {
        let all = self.connects.entry(host(ip)).or_default();
        all.push((now, cost));
        let mut sum = 0;
        for (at, cost) in all.iter().rev() {
            sum += cost;
            let allowed = f64::from(CONNECTS_AT_ONCE) + (now - *at).as_secs_f64();
            assert!(f64::from(sum) <= allowed, "{sum} connects in {:?}", now - *at);
        }
        self.under_way.push(ip);
        let of_network = self.under_way.iter().filter(|it| network(**it) == network(ip)).count();
        assert!(self.under_way.len() <= CONNECTS && of_network <= CONNECTS / 20);
        assert!(self.under_way.iter().filter(|it| host(**it) == host(ip)).count() <= CONNECTS_IN_FLIGHT);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// No sequence of messages makes the server send anything to an address that is not the session's own, nor to more ports
    /// or more often than is written down.
    #[test]
    fn nothing_goes_anywhere_else_nor_more_often(steps in vec(step(), 1..300)) {
        let mut table = SessionTable::new(TestLimits { connects: CONNECTS, ..TestLimits::default() }, OWN.to_vec());
        let mut ledger = Ledger::default();
        let mut now = Duration::ZERO;
        let token = |number: usize| Token((number as u128 + 1).to_be_bytes());
        let nonces = |number: usize| Nonce([number as u8; 16]);
        for step in steps {
            let known = ledger.sessions.len().max(1);
            match step {
                Step::Open(from) => {
                    let number = ledger.sessions.len();
                    let opened = table.open(ip(from), EVERYTHING, (token(number), nonces(number)), now);
                    if let Ok((session, _)) = opened {
                        ledger.sessions.push((session, ip(from), HashSet::new(), HashSet::new()));
                    }
                }
                Step::Say(session, message) => {
                    let Some((id, own, ..)) = ledger.sessions.get(session % known) else { continue };
                    let (id, own) = (*id, *own);
                    match table.handle(id, &message, now) {
                        Ok(Order::Connect(order)) => {
                            assert!(order.after <= Duration::from_secs(2));
                            let first = u128::from_be_bytes(nonces(session % known).0);
                            let written = u128::from_be_bytes(order.nonce.0).wrapping_sub(first);
                            assert!(written < 1024, "bytes of the client's choice");
                            ledger.connect(session % known, order.to, now);
                        }
                        Ok(Order::Trace(order)) => {
                            assert_eq!(order.to.ip(), own);
                            assert!(!OWN.contains(&order.to.port()));
                            assert!(order.ttls.0 > 0 && order.ttls.1 <= MAX_TTL);
                            assert!(order.wait <= rules::MAX_TRACE_WAIT);
                            ledger.cost(own, 4, now);
                        }
                        Ok(Order::Hold(order)) => {
                            assert!(order.after <= TestLimits::default().hold);
                            ledger.held.push(own);
                            let of_host = ledger.held.iter().filter(|it| host(**it) == host(own)).count();
                            assert!(of_host <= HELD_CONNECTIONS);
                        }
                        Ok(Order::Tell(_) | Order::TracePort(_)) | Err(_) => {}
                    }
                }
                Step::Prove(session, from, port) => {
                    let session = session % known;
                    if table.prove(&token(session), SocketAddr::new(ip(from), port), now).is_some()
                        && ledger.sessions[session].1 == ip(from)
                    {
                        ledger.sessions[session].2.insert(port);
                    }
                }
                Step::ProveFlow(session, from, port) => {
                    let Some((id, own, ..)) = ledger.sessions.get(session % known) else { continue };
                    if table.prove_flow(*id, SocketAddr::new(ip(from), port)) {
                        assert_eq!(*own, ip(from));
                    }
                }
                Step::Pass(milliseconds) => now += Duration::from_millis(milliseconds.into()),
                Step::EndOne => {
                    if let Some(ip) = ledger.under_way.pop() {
                        table.end_connect(ip);
                    } else if let Some(ip) = ledger.held.pop() {
                        table.end_hold(ip);
                    }
                }
                Step::Close(session) => {
                    if let Some((id, ..)) = ledger.sessions.get(session % known) {
                        table.close(*id);
                    }
                }
            }
        }
    }
}

fn syn(port: u16) -> ToServer {
    let (from, source) = (SourceAddress::Primary, Source::Ephemeral);
    ToServer::Syn { id: 1, port, from, source, after_ms: 0, wait_ms: 1500 }
}

fn declined(order: &Order) -> Option<Decline> {
    match order {
        Order::Tell(ToClient::Declined { reason, .. }) => Some(*reason),
        _ => None,
    }
}

#[test]
fn a_port_that_another_address_proved_is_not_connected_to() {
    let mut table = SessionTable::new(TestLimits::default(), OWN.to_vec());
    let (now, token) = (Duration::ZERO, Token([1; 16]));
    let (session, _) = table.open(ip(2), EVERYTHING, (token, NONCE), now).unwrap();
    table.prove(&token, SocketAddr::new(ip(3), 80), now).unwrap();
    assert_eq!(declined(&table.handle(session, &syn(80), now).unwrap()), Some(Decline::LowPort));
    table.prove(&token, SocketAddr::new(ip(2), 80), now).unwrap();
    let Order::Connect(order) = table.handle(session, &syn(80), now).unwrap() else { panic!() };
    assert_eq!(order.to, SocketAddr::new(ip(2), 80));
    assert!(!table.prove_flow(session, SocketAddr::new(ip(3), 5000)));
    assert!(table.prove_flow(session, SocketAddr::new(ip(2), 5000)));
    assert!(!table.prove_flow(session, SocketAddr::new(ip(2), 5000)), "no news");
    assert_eq!(table.prove(&Token([2; 16]), SocketAddr::new(ip(2), 81), now), None);
}

#[test]
fn a_host_has_16_named_ports_an_hour_over_all_its_sessions_and_16_connects_at_once() {
    let mut table = SessionTable::new(TestLimits::default(), OWN.to_vec());
    let mut now = Duration::ZERO;
    let mut answers = Vec::new();
    for number in 0..3 {
        let (session, _) = table.open(ip(2), EVERYTHING, (Token([number; 16]), NONCE), now).unwrap();
        for port in 0..9 {
            let order = table.handle(session, &syn(2000 + 10 * u16::from(number) + port), now).unwrap();
            answers.push(declined(&order));
            if declined(&order).is_none() {
                table.end_connect(ip(2));
            }
            now += Duration::from_secs(1);
        }
    }
    let expected = |n| match n {
        8 | 17 => Some(Decline::TooManyPorts),
        18.. => Some(Decline::PortsTooFast),
        _ => None,
    };
    assert_eq!(answers, (0..27).map(expected).collect::<Vec<_>>());
    let (session, _) = table.open(ip(2), EVERYTHING, (Token([9; 16]), NONCE), now).unwrap();
    let answers: Vec<_> =
        (0..18).map(|_| declined(&table.handle(session, &syn(2000), now).unwrap())).collect();
    assert_eq!(answers.iter().filter(|it| it.is_none()).count(), 16, "{answers:?}");
    assert_eq!(answers[17], Some(Decline::TooFast));
}

#[test]
fn sessions_have_a_place_and_an_end() {
    let limits = TestLimits { sessions: 2, per_host: 1, ..TestLimits::default() };
    let mut table = SessionTable::new(limits, Vec::new());
    let now = Duration::ZERO;
    let (first, _) = table.open(ip(0), EVERYTHING, (Token([1; 16]), NONCE), now).unwrap();
    assert_eq!(table.open(ip(1), EVERYTHING, (Token([2; 16]), NONCE), now), Err(Refusal::HostFull));
    table.open(ip(2), EVERYTHING, (Token([3; 16]), NONCE), now).unwrap();
    let (_, victim) = table.open(ip(3), EVERYTHING, (Token([4; 16]), NONCE), now).unwrap();
    assert_eq!((victim, table.count()), (Some(first), 2));
    assert_eq!(table.handle(first, &syn(2000), now), Err(Refusal::Expired));
    let later = limits.last;
    assert_eq!(table.handle(first + 1, &ToServer::Ping { id: 1 }, later), Err(Refusal::Expired));
}

#[test]
fn one_network_cannot_take_all_connects_however_many_hosts_it_has() {
    let mut table = SessionTable::new(TestLimits::default(), OWN.to_vec());
    let (now, mut number) = (Duration::ZERO, 0);
    let mut asked = |table: &mut SessionTable, ip: IpAddr| {
        number += 1;
        let (session, _) = table.open(ip, EVERYTHING, (Token([number; 16]), NONCE), now).unwrap();
        let orders = (2000..2008).map(|port| table.handle(session, &syn(port), now).unwrap());
        orders.map(|order| declined(&order)).collect::<Vec<_>>()
    };
    let host_of_one_48 = |host: u128| IpAddr::V6((0x2001_0db8_0001_u128 << 80 | host << 72).into());
    let answers: Vec<_> = (0..50).flat_map(|host| asked(&mut table, host_of_one_48(host))).collect();
    assert_eq!(answers.iter().filter(|it| it.is_none()).count(), 50, "a twentieth of 1,000");
    assert!(answers.iter().all(|it| matches!(it, None | Some(Decline::Busy))), "{answers:?}");
    assert_eq!(asked(&mut table, ip(2)), [None; 8], "somebody else");
}

#[test]
fn a_connect_is_put_off_for_two_seconds_at_the_most_and_has_a_low_number() {
    let mut table = SessionTable::new(TestLimits::default(), OWN.to_vec());
    let now = Duration::ZERO;
    let (session, _) = table.open(ip(2), EVERYTHING, (Token([1; 16]), NONCE), now).unwrap();
    let (port, from, source, wait_ms) = (2000, SourceAddress::Primary, Source::Ephemeral, 1500);
    let mut ask = |id, after_ms| {
        let message = ToServer::Syn { id, port, from, source, after_ms, wait_ms };
        declined(&table.handle(session, &message, now).unwrap())
    };
    assert_eq!(
        [ask(1023, 2000), ask(1, 2001), ask(1024, 0)],
        [None, Some(Decline::TooLong), Some(Decline::HighId)]
    );
}
