//! Who is taken, who has to go, and what is counted.

use super::*;

fn enter_over(
    transport: Transport,
    limiter: &Arc<ConnectionLimiter>,
    limits: &Streams,
    ip: &str,
    now: u64,
) -> Option<ConnectionSlot> {
    ConnectionLimiter::enter(limiter, limits, transport, SocketAddr::new(ip.parse().unwrap(), 1), now)
}

fn enter(limiter: &Arc<ConnectionLimiter>, limits: &Streams, ip: &str, now: u64) -> Option<ConnectionSlot> {
    enter_over(Transport::Tcp, limiter, limits, ip, now)
}

#[test]
fn slots_for_each_host_and_each_network() {
    let limiter = Arc::new(ConnectionLimiter::default());
    let limits = Streams { most_per_host: 2, most_per_net: 3, ..Streams::default() };
    for (ips, other) in [
        (["192.0.2.1", "192.0.2.2", "192.0.2.3"], "192.0.3.1"),
        (["2001:db8::1", "2001:db8:0:100::1", "2001:db8:0:200::1"], "2001:db8:1::1"),
    ] {
        let first = enter(&limiter, &limits, ips[0], 0).unwrap();
        let second = enter(&limiter, &limits, ips[0], 0).unwrap();
        assert!(enter(&limiter, &limits, ips[0], 0).is_none(), "a third from the same host");
        let _third = enter(&limiter, &limits, ips[1], 0).unwrap();
        let before = limiter.counts();
        let _fourth = enter(&limiter, &limits, ips[2], 0).expect("the network makes room within itself");
        assert_eq!(limiter.counts().evicted, before.evicted + 1);
        let _fifth = enter(&limiter, &limits, other, 0).unwrap();
        assert_eq!(limiter.counts().open, 4, "the others stay");
        drop((first, second));
    }
    let counts = limiter.counts();
    assert_eq!((counts.accepted, counts.host_full, counts.evicted), (10, 2, 2));
    assert_eq!(counts.open, 0);
    let table = limiter.lock();
    assert_eq!((table.admission.len(), table.handshakes.len()), (0, 0));
}

#[tokio::test]
async fn whoever_takes_all_places_loses_one_to_each_stranger() {
    let limiter = Arc::new(ConnectionLimiter::default());
    let limits = Streams { most: 40, most_per_net: 40, ..Streams::default() };
    let hold = |ip: &str, now| {
        let slot = enter(&limiter, &limits, ip, now).unwrap();
        let task = tokio::spawn(std::future::pending::<()>());
        slot.handle().set_task(task.abort_handle());
        (slot, task)
    };
    let mut hoarded: Vec<_> = (0..40).map(|i| hold(&format!("192.0.2.{}", i / 4), i)).collect();
    hoarded[0].0.touch(50);
    let strangers: Vec<_> = (0..20).map(|i| hold(&format!("198.51.{i}.1"), 60 + i)).collect();
    for (i, (_, task)) in hoarded.iter_mut().enumerate() {
        // The two that were idle longest of each of the ten hosts, which have as many each.
        if matches!(i, 1..=2) || i >= 4 && i % 4 < 2 {
            assert!(task.await.unwrap_err().is_cancelled(), "{i}");
        } else {
            assert!(!task.is_finished(), "{i}");
        }
    }
    assert!(strangers.iter().all(|(_, task)| !task.is_finished()));
    assert_eq!((limiter.counts().evicted, limiter.counts().open), (20, 40));
    drop(hoarded);
    assert_eq!(limiter.counts().open, 20, "those that had to go are not counted twice");
    // Where all have as many, it is the longest idle one.
    let _more: Vec<_> = (20..41).map(|i| hold(&format!("198.51.{i}.1"), 100 + i)).collect();
    tokio::task::yield_now().await;
    let gone: Vec<_> = (0..20).filter(|i| strangers[*i].1.is_finished()).collect();
    assert_eq!(gone, [0]);
}

#[test]
fn handshakes_are_few_at_a_time() {
    let limiter = Arc::new(ConnectionLimiter::default());
    let limits = Streams { most_per_host: 1000, most_per_net: 1000, handshake_rate: 0, ..Streams::default() };
    let tls = |ip| enter_over(Transport::Tls, &limiter, &limits, ip, 0);
    let handshakes = || limiter.lock().handshakes.len();
    let begun: Vec<_> = (0..MAX_HANDSHAKES).map(|_| tls("192.0.2.1").unwrap()).collect();
    let stranger = tls("198.51.100.1").unwrap();
    assert_eq!((handshakes(), limiter.counts().evicted), (MAX_HANDSHAKES, 1));
    stranger.handshake_done();
    stranger.handshake_done();
    let _next = tls("198.51.100.2").unwrap();
    assert_eq!((handshakes(), limiter.counts().evicted), (MAX_HANDSHAKES, 1));
    enter(&limiter, &limits, "198.51.100.3", 0).unwrap();
    assert_eq!(limiter.counts().evicted, 1, "TCP needs none");
    drop((begun, stranger));
    assert_eq!(handshakes(), 1);
}

#[test]
fn who_was_handed_over_is_open_and_takes_no_slot() {
    let limiter = Arc::new(ConnectionLimiter::default());
    let limits = Streams { most_per_host: 1, ..Streams::default() };
    let mut first = enter(&limiter, &limits, "192.0.2.1", 0).unwrap();
    first.hand_over();
    let _second = enter(&limiter, &limits, "192.0.2.1", 0).unwrap();
    assert_eq!(limiter.counts().open, 2);
    drop(first);
    assert_eq!(limiter.counts().open, 1);
}

#[test]
fn handshakes_are_few_a_second_over_all_networks() {
    let limiter = Arc::new(ConnectionLimiter::default());
    let limits = Streams { handshake_rate: 50, most: 10_000, ..Streams::default() };
    let mut slots = Vec::new();
    let mut handshakes = |now: u64, net: u32| {
        let from = |n: u32| std::net::Ipv4Addr::from_bits((net << 24) + (n << 8)).to_string();
        let enter = |n| enter_over(Transport::Tls, &limiter, &limits, &from(n), now);
        let taken: Vec<_> = (0..200).filter_map(enter).collect();
        let count = taken.len();
        slots.extend(taken);
        count
    };
    const SECOND: u64 = 1_000_000_000;
    assert_eq!(handshakes(SECOND, 20), 50);
    assert_eq!(handshakes(SECOND + SECOND / 2, 30), 25);
    assert_eq!(limiter.counts().handshakes_too_fast, 325);
    assert!(enter(&limiter, &limits, "192.0.2.1", SECOND).is_some(), "TCP needs none");
    let none = Streams { handshake_rate: 0, ..limits };
    assert!(enter_over(Transport::Tls, &limiter, &none, "192.0.2.1", SECOND).is_some(), "no limit");
}
