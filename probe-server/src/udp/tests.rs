//! Who is limited, who is not, and what a sequence of datagrams can make the server send.

use std::{collections::HashMap, net::IpAddr};

use proptest::prelude::*;
use shared::stun::{Class, TransactionId, Writer};

use super::*;
use crate::{
    config::Streams,
    limits::Limits,
    respond::{budget, tests::hostile_request},
    topology::Topology,
};

fn worker(egress_mbit: u32) -> Worker {
    worker_at(["2001:db8::10", "2001:db8::11"], Limits { egress_mbit, ..Limits::default() })
}

fn worker_at(own: [&str; 2], limits: Limits) -> Worker {
    let [primary, alternate] = own.map(|ip| ip.parse().unwrap());
    let current = Current {
        topologies: vec![Topology::new(primary, Some(alternate), (3478, 3479))],
        tls: Vec::new(),
        limits,
        streams: Streams::default(),
        page_topologies: Vec::new(),
        page: None,
        http: Arc::default(),
    };
    Worker::new(0, &Arc::new(Shared::new(current, 1, false).unwrap()))
}

/// How many of so many requests from here are answered.
fn answered(worker: &Worker, from: &str, times: usize) -> usize {
    let mut request = [0; 20];
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(1));
    _ = Writer::new(&mut request, Class::Request, &id).len();
    let current = worker.shared.current();
    let mut out = Answers::new();
    let mut ask = || {
        let mut batch = BatchContext::new(worker, &current);
        batch.take(Endpoint::Primary, from.parse().unwrap(), &request, &mut out);
        batch.finish();
        !out.is_empty()
    };
    (0..times).filter(|_| ask()).count()
}

#[test]
fn whoever_claims_the_own_address_of_the_server_is_limited() {
    let worker = worker(0);
    let most = Limits::default().host_burst as usize;
    // Time passes while they are asked, so a few more than the burst are fair.
    assert!((most..most + 200).contains(&answered(&worker, "[2001:db8::11]:40000", 5000)));
}

#[test]
fn the_running_self_check_is_charged_to_nobody_and_capped_by_nothing() {
    let worker = worker(1);
    let check = "[2001:db8::11]:40000";
    let turn = worker.shared.self_check.begin();
    let registered = turn.register(check.parse().unwrap());
    assert_eq!(answered(&worker, check, 5000), 5000, "more than the cap lets through");
    assert!(answered(&worker, "[2001:db8:1::1]:40000", 1) == 0, "the cap holds for all others");
    drop(registered);
    assert_eq!(answered(&worker, check, 1), 0);
}

/// A datagram: whom it claims to be from, where it goes, how long after the one before it comes, its bytes.
fn datagram() -> impl Strategy<Value = ((usize, u16), usize, u64, Vec<u8>)> {
    let port = prop_oneof![4 => Just(40000), 1 => Just(53), 1 => Just(3478), 1 => any::<u16>()];
    let bytes = prop_oneof![4 => hostile_request(), 1 => prop::collection::vec(any::<u8>(), 0..100)];
    ((0..6_usize, port), 0..4_usize, 0..20_000_000_u64, bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is sent in whoever's name, no address gets more than what came in its name and the budget of each
    /// datagram, headers counted, nor more answers than its limit; and nobody gets anything in whose name nothing came.
    #[test]
    fn nobody_gets_more_than_what_came_in_his_name_pays_for(
        datagrams in prop::collection::vec(datagram(), 1..150), six in any::<bool>(),
    ) {
        let (own, claimed, headers) = if six {
            let claimed = ["2001:db8:1::1", "2001:db8:1:1::1", "2001:db8:2::1", "2001:db8::10", "ff02::1", "fe80::1"];
            (["2001:db8::10", "2001:db8::11"], claimed, 48)
        } else {
            let claimed = ["192.0.2.1", "192.0.2.2", "203.0.113.1", "198.51.100.10", "224.0.0.1", "10.0.0.1"];
            (["198.51.100.10", "198.51.100.11"], claimed, 28)
        };
        let limits = Limits { host_rate: 2, host_burst: 3, net_rate: 3, net_burst: 5, egress_mbit: 0 };
        let worker = worker_at(own, limits);
        let current = worker.shared.current();
        let mut out = Answers::new();
        let (mut paid, mut sent, mut answered) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (mut now, begun) = (1_000_000_000, 1_000_000_000);
        for ((who, port), at, passes, bytes) in datagrams {
            now += passes;
            let from = SocketAddr::new(claimed[who].parse().unwrap(), port);
            let mut batch = BatchContext { now, ..BatchContext::new(&worker, &current) };
            batch.take(Endpoint::ALL[at], from, &bytes, &mut out);
            batch.finish();
            *paid.entry(from.ip()).or_insert(0) += budget(bytes.len(), from) + headers;
            if !out.is_empty() {
                *answered.entry(from.ip()).or_insert(0) += 1;
            }
            for (_, to, answer) in out.iter() {
                *sent.entry(to.ip()).or_insert(0) += answer.len() + headers;
            }
        }
        for (to, bytes) in &sent {
            let paid = paid.get(to).copied().unwrap_or(0);
            prop_assert!(*bytes <= paid, "{to} got {bytes} bytes for {paid}");
        }
        let most = 3 + (now - begun) / 500_000_000 + 1;
        let over = answered.iter().find(|(_, count)| **count > most);
        prop_assert!(over.is_none(), "{over:?}, at most {most}");
        let never: [IpAddr; 2] = [claimed[4].parse().unwrap(), IpAddr::from([0, 0, 0, 0])];
        prop_assert!(never.iter().all(|ip| !sent.contains_key(ip)), "{sent:?}");
    }
}
