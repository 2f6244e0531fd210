//! Sessions: who is let in, who is handed what, who has to make room.

use shared::rendezvous::VERSION;

use super::*;

const T0: Duration = Duration::from_secs(1000);

fn ip(last: u32) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0xCB00_0000 + last).into()
}

fn memory() -> MemoryStore {
    MemoryStore::new(SessionLimits::default())
}

fn ready(step: u32, rtt_ms: u32, said: u16) -> ToServer {
    ToServer::Ready { step, rtt_ms, payload: payload(said) }
}

fn payload(said: u16) -> Payload {
    Payload::write(&said).unwrap()
}

fn pair(memory: &mut MemoryStore) -> (Participant, Participant) {
    let opened = memory.open(ip(1), 7, T0).unwrap();
    let (second, told) = memory.join(opened.code, ip(2), T0).unwrap();
    assert_eq!(told[0].message, ToClient::Paired { role: Role::First, you: ip(1), peer: ip(2) });
    assert_eq!(told[1].message, ToClient::Paired { role: Role::Second, you: ip(2), peer: ip(1) });
    (opened.participant, second)
}

#[test]
fn both_start_when_both_are_ready_and_the_nearer_one_waits() {
    let mut memory = memory();
    let (first, second) = pair(&mut memory);
    assert_eq!(memory.handle(first, ready(0, 100, 1), 10, T0).unwrap(), []);
    let told = memory.handle(second, ready(0, 20, 2), 10, T0).unwrap();
    assert_eq!(
        told[0],
        Delivery {
            participant: first,
            message: ToClient::Start { step: 0, after_ms: 0, payload: payload(2) }
        }
    );
    assert_eq!(
        told[1],
        Delivery {
            participant: second,
            message: ToClient::Start { step: 0, after_ms: 40, payload: payload(1) }
        }
    );
    // A lie about the round trip holds nobody back for long.
    memory.handle(first, ready(1, u32::MAX, 1), 10, T0).unwrap();
    let told = memory.handle(second, ready(1, 20, 2), 10, T0).unwrap();
    assert!(matches!(told[1].message, ToClient::Start { step: 1, after_ms: 1000, .. }));
}

#[test]
fn what_is_out_of_place_is_refused() {
    let mut memory = memory();
    let opened = memory.open(ip(1), 7, T0).unwrap();
    assert_eq!(
        memory.handle(opened.participant, ready(0, 1, 1), 10, T0),
        Err(Refusal::BadMessage),
        "nobody is there yet"
    );
    let (second, _) = memory.join(opened.code, ip(2), T0).unwrap();
    assert_eq!(memory.join(opened.code, ip(3), T0), Err(Refusal::UnknownCode), "a third one");
    assert_eq!(memory.handle(second, ready(1, 1, 1), 10, T0), Err(Refusal::BadMessage), "a step ahead");
    memory.handle(second, ready(0, 1, 1), 10, T0).unwrap();
    assert_eq!(memory.handle(second, ready(0, 1, 1), 10, T0), Err(Refusal::BadMessage), "twice");
    assert_eq!(memory.handle(second, ToServer::Open { version: VERSION }, 10, T0), Err(Refusal::BadMessage));
}

#[test]
fn a_flood_ends_the_session_of_the_flooder() {
    let limits = SessionLimits { messages: 5, bytes: 1000, ..SessionLimits::default() };
    let mut memory = MemoryStore::new(limits);
    let (first, second) = pair(&mut memory);
    for id in 0..5 {
        memory.handle(first, ToServer::Ping { id }, 10, T0).unwrap();
    }
    assert_eq!(memory.handle(first, ToServer::Ping { id: 5 }, 10, T0), Err(Refusal::TooMuch));
    assert_eq!(memory.handle(second, ToServer::Ping { id: 5 }, 1001, T0), Err(Refusal::TooMuch));
    assert_eq!(memory.leave(first), [Delivery { participant: second, message: ToClient::PeerLeft }]);
    assert_eq!(memory.leave(second), []);
    assert_eq!(memory.count(), 0);
}

#[test]
fn room_is_bounded_in_all_and_for_each_host() {
    let limits = SessionLimits { sessions: 3, per_host: 2, ..SessionLimits::default() };
    let mut memory = MemoryStore::new(limits);
    let open = |memory: &mut MemoryStore, from, entropy| memory.open(ip(from), entropy, T0);
    let one = open(&mut memory, 1, 1).unwrap();
    open(&mut memory, 1, 2).unwrap();
    assert_eq!(open(&mut memory, 1, 3).unwrap_err(), Refusal::HostFull);
    open(&mut memory, 2, 3).unwrap();
    assert!(open(&mut memory, 3, 4).unwrap().deliveries.len() == 1, "somebody had to go");
    assert_eq!(memory.count(), 3);
    memory.leave(one.participant);
}

#[test]
fn time_is_bounded() {
    let mut memory = memory();
    let limits = SessionLimits::default();
    let opened = memory.open(ip(1), 1, T0).unwrap();
    assert_eq!(memory.join(opened.code, ip(2), T0 + limits.wait), Err(Refusal::UnknownCode));
    let late = T0 + limits.wait - Duration::from_secs(1);
    let (second, _) = memory.join(opened.code, ip(2), late).unwrap();
    assert_eq!(memory.deadline(second), Some(late + limits.last));
    assert_eq!(memory.handle(second, ToServer::Ping { id: 1 }, 1, late + limits.last), Err(Refusal::Expired));
}

/// Wrong codes of however many others lock nobody out.
#[test]
fn whoever_knows_the_code_gets_in() {
    let mut memory = memory();
    let opened = memory.open(ip(1), 1, T0).unwrap();
    for guesser in 0..20_000 {
        assert_eq!(memory.join(Code::from_bits(2), ip(guesser), T0), Err(Refusal::UnknownCode));
    }
    assert!(memory.join(opened.code, ip(2), T0).is_ok());
    assert_eq!(
        memory.join(opened.code, ip(3), T0),
        Err(Refusal::UnknownCode),
        "a code is good for one guest"
    );
}

#[test]
fn a_network_has_a_share_and_hosts_that_are_refused_leave_nothing() {
    for (per_host, per_net) in [(0, 9), (9, 0)] {
        let mut memory = MemoryStore::new(SessionLimits { per_host, per_net, ..SessionLimits::default() });
        assert_eq!(memory.open(ip(1), 1, T0).unwrap_err(), Refusal::HostFull);
        assert_eq!(memory.clients.len(), 0);
    }
    let mut memory = MemoryStore::new(SessionLimits { per_net: 3, ..SessionLimits::default() });
    for i in 0..3 {
        memory.open(ip(i), i.into(), T0).unwrap();
    }
    assert_eq!(memory.open(ip(3), 3, T0).unwrap().deliveries.len(), 1, "it makes room within itself");
    assert_eq!(memory.open(ip(256), 4, T0).unwrap().deliveries, []);
    let v6 = |n: u128| std::net::Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + (n << 72)).into();
    for i in 0..3 {
        memory.open(v6(i), 10 + i as u64, T0).unwrap();
    }
    assert_eq!(memory.open(v6(3), 13, T0).unwrap().deliveries.len(), 1, "another /56 of the same /48");
    assert_eq!(memory.open(v6(256), 14, T0).unwrap().deliveries, []);
}

/// Whoever fills all places loses one of them to each stranger.
#[test]
fn the_largest_network_makes_room() {
    let limits = SessionLimits { sessions: 300, per_net: 300, ..SessionLimits::default() };
    let mut memory = MemoryStore::new(limits);
    let hoarded: Vec<_> = (0..300_u32).map(|i| memory.open(ip(i % 150), i.into(), T0).unwrap()).collect();
    let (modest, told) = {
        let opened = memory.open(ip(1 << 16), 1000, T0).unwrap();
        (opened.code, opened.deliveries)
    };
    let refused =
        |participant| Delivery { participant, message: ToClient::Refused { reason: Refusal::Full } };
    assert_eq!(told, [refused(hoarded[0].participant)], "the oldest one");
    assert_eq!(memory.leave(hoarded[0].participant), []);
    assert!(memory.join(hoarded[0].code, ip(2 << 16), T0).is_err());
    for i in 0..150_u32 {
        let opened = memory.open(ip(0x2_0000 + (i << 8)), 2000 + u64::from(i), T0).unwrap();
        assert_eq!(opened.deliveries, [refused(hoarded[i as usize + 1].participant)]);
    }
    assert_eq!(memory.count(), 300);
    assert!(memory.join(modest, ip(1 << 16), T0).is_ok(), "who has few places keeps them");
}

#[test]
fn clients_are_bounded_too() {
    let mut memory = MemoryStore::new(SessionLimits { clients: 4, ..SessionLimits::default() });
    let opened: Vec<_> = (0..3_u32).map(|i| memory.open(ip(i << 8), i.into(), T0).unwrap()).collect();
    memory.join(opened[0].code, ip(3 << 8), T0).unwrap();
    let (second, told) = memory.join(opened[2].code, ip(4 << 8), T0).unwrap();
    let refused =
        |participant| Delivery { participant, message: ToClient::Refused { reason: Refusal::Full } };
    let oldest = opened[0].participant;
    assert_eq!(told[..2], [refused(oldest), refused(oldest.peer())], "both of the oldest session");
    assert_eq!((told[3].participant, memory.count()), (second, 2));
}

/// All sessions that there may be, from a network each of one IPv6 allocation, against two honest clients.
#[test]
fn one_allocation_takes_nothing_from_an_honest_pair() {
    for shift in [80, 96] {
        let mut memory = memory();
        let honest = memory.open(ip(1), 1 << 40, T0).unwrap();
        for n in 0..12_000_u64 {
            let from = std::net::Ipv6Addr::from_bits((0x2001_0db8_u128 << 96) + (u128::from(n) << shift));
            let now = T0 + Duration::from_micros(260 * n);
            let opened = memory.open(from.into(), n, now).unwrap();
            assert!(opened.deliveries.iter().all(|told| told.participant != honest.participant), "{n}");
        }
        assert_eq!(memory.count(), SessionLimits::default().sessions);
        assert!(memory.join(honest.code, ip(1 << 16), T0 + Duration::from_secs(4)).is_ok());
    }
}

#[test]
fn a_guest_does_not_push_out_its_host() {
    let mut memory = MemoryStore::new(SessionLimits { clients: 2, ..SessionLimits::default() });
    let host = memory.open(ip(1), 1, T0).unwrap();
    memory.open(ip(1 << 16), 2, T0).unwrap();
    let (guest, told) = memory.join(host.code, ip(2), T0).unwrap();
    assert_eq!((told.len(), guest.peer()), (3, host.participant));
    assert_eq!(memory.count(), 1);
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// What somebody does: who, from where, and how it goes on.
    fn step() -> impl Strategy<Value = (u8, IpAddr, usize, u64)> {
        let v4 = (0..3_u32, 0..2_u32, 0..3_u32, 0..3_u32).prop_map(|(a, b, c, d)| {
            IpAddr::from(std::net::Ipv4Addr::from_bits((20 + a) << 24 | b << 16 | c << 8 | d))
        });
        let v6 = (0..3_u128, 0..2_u128, 0..3_u128, 0..3_u128).prop_map(|(a, b, c, d)| {
            IpAddr::from(std::net::Ipv6Addr::from_bits((0x2000 + a) << 112 | b << 96 | c << 80 | d << 72))
        });
        (0..8_u8, prop_oneof![v4, v6], 0..64_usize, 0..5_000_u64)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Whatever clients do, in whatever order: the limits hold, what is delivered goes to the two of a session or
        /// tells somebody that it has to go, a lone client is neither refused nor ended by others, and nothing stays.
        #[test]
        fn limits_hold_whatever_clients_do(
            steps in prop::collection::vec(step(), 1..300),
            sessions in 9..16_usize,
            clients in 9..20_usize,
            per_host in 1..4_usize,
            per_net in 1..6_usize,
            lone_comes in 0..300_usize,
        ) {
            let limits = SessionLimits { sessions, clients, per_host, per_net, ..SessionLimits::default() };
            let mut store = MemoryStore::new(limits);
            let (mut codes, mut known) = (Vec::new(), Vec::new());
            let mut lone = None;
            let mut now = T0;
            for (number, (kind, from, pick, passes)) in steps.into_iter().enumerate() {
                // Not so long that the lone client's session is over.
                now += Duration::from_millis(passes / 4);
                if number == lone_comes {
                    let opened = store.open("99.0.0.1".parse().unwrap(), 1 << 40, now);
                    prop_assert!(opened.is_ok(), "{opened:?}");
                    lone = opened.ok().map(|opened| opened.participant);
                }
                let somebody = known.get(pick % known.len().max(1)).copied();
                let told = match (kind, somebody) {
                    (0..=2, _) => store.open(from, number as u64, now).map(|opened| {
                        known.push(opened.participant);
                        codes.push(opened.code);
                        opened.deliveries
                    }),
                    (3 | 4, _) => {
                        let code = codes.get(pick % codes.len().max(1)).copied();
                        store.join(code.unwrap_or(Code::from_bits(1 << 41)), from, now).map(|(guest, told)| {
                            known.push(guest);
                            told
                        })
                    }
                    (5, Some(one)) => store.handle(one, ready(pick as u32 % 3, passes as u32, 1), 50, now),
                    (6, Some(one)) => {
                        let told = store.handle(one, ToServer::PeerPing { id: 1 }, 20, now);
                        let own = told.iter().flatten().all(|told| told.participant == one.peer());
                        prop_assert!(own, "{told:?} for {one:?}");
                        told
                    }
                    (_, Some(one)) => Ok(store.leave(one)),
                    (_, None) => Ok(Vec::new()),
                };
                let told = told.unwrap_or_default();
                prop_assert!(told.iter().all(|told| Some(told.participant) != lone), "{told:?}");
                prop_assert!(store.count() <= sessions && store.clients.len() <= clients);
                let members: usize = store.sessions.values().map(|session| session.members().count()).sum();
                prop_assert_eq!(members, store.clients.len());
                prop_assert!(lone.is_none_or(|lone| store.deadline(lone).is_some()));
            }
            known.extend(lone);
            for one in known {
                store.leave(one);
            }
            prop_assert_eq!((store.count(), store.clients.len(), store.waiting.len()), (0, 0, 0));
        }
    }
}
