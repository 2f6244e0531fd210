//! Whole networks in memory: a switch that filters and loses what the test wants, and hosts that speak to each other through it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{
    beacon::{Beacon, LONGEST},
    conclude::{Beside, Findings, conclude},
    neighbourhood::{MOST_NEIGHBOURS, Neighbourhood, Outgoing, Us},
    report::Reach,
    way::Way,
};
use crate::report::{Confidence, Finding, ReasonCode};

/// A packet on the switch: from which host to which, by which way.
#[derive(Clone, Copy, Debug)]
struct Crossing {
    from: usize,
    to: usize,
    way: Way,
    round: u16,
}

/// Lets everything through.
fn open(_: Crossing) -> bool {
    true
}

struct Switch {
    hosts: Vec<Neighbourhood>,
    rng: fastrand::Rng,
    /// Chance that a packet gets lost.
    loss: f64,
}

fn at(host: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, host as u8 + 2), 40_000)
}

fn at6(host: usize) -> SocketAddrV6 {
    SocketAddrV6::new(format!("fe80::{:x}", host + 2).parse().unwrap(), 40_001, 0, 0)
}

fn us(host: usize) -> Us {
    Us {
        id: [host as u8 + 1; 8],
        nonce: [0xa0 + host as u8; 8],
        at: at(host),
        at6: Some(at6(host)),
        prefix: 24,
        own: vec![IpAddr::from(*at(host).ip()), IpAddr::from(*at6(host).ip())],
        peers: Vec::new(),
    }
}

impl Switch {
    fn new(hosts: usize, seed: u64, loss: f64) -> Self {
        let hosts = (0..hosts).map(|host| Neighbourhood::new(us(host), 0xff, 0xff)).collect();
        Self { hosts, rng: fastrand::Rng::with_seed(seed), loss }
    }

    /// So many rounds. A host hears itself in any case.
    fn run(&mut self, rounds: u16, lets_through: impl Fn(Crossing) -> bool) -> &mut Self {
        for round in 0..rounds {
            for from in 0..self.hosts.len() {
                for out in self.hosts[from].next_round() {
                    self.deliver(from, round, &out, &lets_through);
                }
            }
        }
        self
    }

    fn deliver(&mut self, from: usize, round: u16, out: &Outgoing, lets_through: impl Fn(Crossing) -> bool) {
        assert!(out.bytes.len() <= LONGEST);
        let source = if out.way.is_ipv6() { at6(from).into() } else { at(from).into() };
        for to in 0..self.hosts.len() {
            let is_for_it = match out.to {
                None => true,
                Some(SocketAddr::V4(v4)) => v4 == at(to),
                Some(SocketAddr::V6(v6)) => v6.ip() == at6(to).ip(),
            };
            let crossing = Crossing { from, to, way: out.way, round };
            if is_for_it && (from == to || lets_through(crossing) && self.rng.f64() >= self.loss) {
                self.hosts[to].take(source, &out.bytes);
            }
        }
    }

    fn says(&self, host: usize) -> Findings {
        conclude(&self.hosts[host], Beside { gateway: None, devices: &[], ended_early: false })
    }
}

/// Neither side's finding is sure and wrong.
#[track_caller]
fn right<T: PartialEq + std::fmt::Debug>(finding: &Finding<T>, truth: T) -> bool {
    let is_right = finding.value.as_ref() == Some(&truth);
    assert!(is_right || finding.confidence < Confidence::Strong, "{truth:?} is true: {finding:?}");
    is_right && finding.confidence >= Confidence::Strong
}

/// A group is passed on to hosts from `first` on, or to none.
fn without(ways: &'static [Way]) -> impl Fn(Crossing) -> bool {
    move |it| !ways.contains(&it.way)
}

const LOCAL: &[Way] = &[Way::Multicast, Way::MulticastTtl4];
const GROUPS: &[Way] = &[Way::Multicast, Way::MulticastTtl4, Way::MdnsGroup, Way::MulticastIpv6];
const ALL_GROUPS: &[Way] = &[
    Way::Multicast,
    Way::MulticastTtl4,
    Way::MdnsGroup,
    Way::MulticastIpv6,
    Way::SubnetBroadcast,
    Way::LimitedBroadcast,
];

#[test]
fn an_open_switch_is_open_and_settles_soon() {
    for hosts in [2, 3, 8] {
        let mut switch = Switch::new(hosts, 1, 0.0);
        switch.run(9, open);
        for host in 0..hosts {
            let found = switch.says(host);
            assert!(switch.hosts[host].is_settled(), "{hosts} hosts");
            assert!(right(&found.multicast, Reach::Works) && right(&found.broadcast, Reach::Works));
            assert!(right(&found.ipv6_multicast, Reach::Works));
            assert!(right(&found.isolation, false) && right(&found.one_way, false));
            assert_eq!(found.lasts.reason_code, Some(ReasonCode::NotAskedFor));
        }
    }
}

#[test]
fn alone_nothing_is_known() {
    let mut switch = Switch::new(1, 1, 0.0);
    let found = switch.run(20, open).says(0);
    for finding in [found.multicast.reason_code, found.isolation.reason_code, found.one_way.reason_code] {
        assert_eq!(finding, Some(ReasonCode::NoNeighbour));
    }
}

#[test]
fn filters_are_named_for_what_they_filter() {
    let both = |lets_through: &dyn Fn(Crossing) -> bool| {
        let mut switch = Switch::new(2, 1, 0.0);
        switch.run(22, lets_through);
        [switch.says(0), switch.says(1)]
    };
    for found in both(&without(LOCAL)) {
        assert!(right(&found.multicast, Reach::LinkLocalOnly) && right(&found.broadcast, Reach::Works));
    }
    for found in both(&without(GROUPS)) {
        assert!(right(&found.multicast, Reach::Filtered) && right(&found.ipv6_multicast, Reach::Filtered));
        assert!(right(&found.broadcast, Reach::Works) && right(&found.isolation, false));
    }
    for found in both(&|it| it.to == 0 || !GROUPS.contains(&it.way)) {
        assert!(right(&found.multicast, Reach::OneWay) && right(&found.one_way, false));
    }
    for found in both(&without(&[Way::SubnetBroadcast, Way::LimitedBroadcast])) {
        assert!(right(&found.broadcast, Reach::Filtered) && right(&found.multicast, Reach::Works));
    }
    for found in both(&without(&[Way::Unicast, Way::UnicastIpv6])) {
        assert!(right(&found.isolation, true) && right(&found.multicast, Reach::Works));
    }
}

#[test]
fn what_holds_of_some_hosts_is_not_said_of_all() {
    let from_third = |it: &Crossing| (it.from, it.to) == (2, 0) && GROUPS.contains(&it.way);
    let mut switch = Switch::new(3, 1, 0.0);
    let found = switch.run(22, |it| !from_third(&it)).says(0);
    assert!(right(&found.multicast, Reach::Partly) && right(&found.ipv6_multicast, Reach::Partly));
    // One that falls silent is no group that is forgotten, as long as another one is heard.
    let mut later = Switch::new(3, 1, 0.0);
    let found = later.run(60, |it| it.round < 20 || !from_third(&it)).says(0);
    assert_eq!(found.lasts.value, None, "{:?}", found.lasts);
}

#[test]
fn isolation_shows_with_a_third_host() {
    let isolated = |it: Crossing| it.from == 2 || it.to == 2;
    let mut switch = Switch::new(3, 1, 0.0);
    switch.run(12, isolated);
    for host in 0..3 {
        assert!(switch.says(host).isolation.confidence < Confidence::Strong, "{host}: it is too early");
    }
    switch.run(13, isolated);
    for host in 0..3 {
        let found = switch.says(host);
        assert!(switch.hosts[host].is_settled(), "{host}");
        assert!(right(&found.isolation, true), "{host}: {:?}", found.isolation);
        assert!(right(&found.one_way, false) && right(&found.multicast, Reach::Works));
    }
    let mut alone = Switch::new(2, 1, 0.0);
    alone.run(25, |_| false);
    assert_eq!(alone.says(0).isolation.reason_code, Some(ReasonCode::NoNeighbour));
}

#[test]
fn one_way_shows_where_something_arrives_and_is_sure_with_a_third_host() {
    let to_first_only = |it: Crossing| it.to == 0 || it.from == 2 || it.to == 2;
    let mut two = Switch::new(2, 1, 0.0);
    two.run(25, to_first_only);
    let found = two.says(0).one_way;
    assert_eq!((found.value, found.confidence), (Some(true), Confidence::Weak));
    assert_eq!(two.says(1).one_way.value, None, "nothing arrives here");
    let mut three = Switch::new(3, 1, 0.0);
    three.run(25, to_first_only);
    for host in [0, 2] {
        assert!(right(&three.says(host).one_way, true), "{host}: {:?}", three.says(host).one_way);
        assert!(three.says(host).isolation.sure() != Some(&true));
    }
    // The deaf one learns from the third that it is heard.
    assert!(right(&three.says(1).one_way, true), "{:?}", three.says(1).one_way);
}

#[test]
fn a_group_that_is_forgotten_is_noticed_and_one_that_lasts_takes_its_time() {
    let mut switch = Switch::new(2, 1, 0.0);
    switch.run(330, |it| it.round < 260 || !LOCAL.contains(&it.way));
    for host in 0..2 {
        let found = switch.says(host);
        assert!(right(&found.lasts, false), "{:?}", found.lasts);
        assert_eq!(found.lasts.evidence["last_heard_round"], 259);
        assert_eq!(found.multicast.reason_code, Some(ReasonCode::GroupForgotten));
    }
    let mut lasting = Switch::new(2, 1, 0.1);
    assert!(right(&lasting.run(310, open).says(0).lasts, true));
    let mut short = Switch::new(2, 1, 0.1);
    assert_eq!(short.run(290, open).says(0).lasts.value, None);
}

/// Whatever is lost: nothing is sure and wrong. With the loss of a radio network nearly all is found out.
#[test]
fn loss_does_not_read_as_a_filter() {
    let mut decided = 0;
    for (loss, runs) in [(0.05, 300), (0.2, 300), (0.4, 300), (0.6, 300), (0.8, 300)] {
        for seed in 0..runs {
            let mut switch = Switch::new(2 + seed as usize % 2, seed, loss);
            switch.run(22, open);
            for host in 0..2 {
                let found = switch.says(host);
                let all = [
                    right(&found.multicast, Reach::Works),
                    right(&found.broadcast, Reach::Works),
                    right(&found.ipv6_multicast, Reach::Works),
                    right(&found.isolation, false),
                    right(&found.one_way, false),
                ];
                assert!(found.lasts.value.is_none(), "{:?}", found.lasts);
                decided += if loss < 0.3 { all.iter().filter(|it| **it).count() } else { 0 };
            }
        }
    }
    assert!(decided * 100 >= 2 * 300 * 2 * 5 * 90, "{decided}");
}

/// The same where groups lose much and unicast nothing, as on radio networks, which repeat unicast.
#[test]
fn groups_that_lose_half_are_not_filtered() {
    for seed in 0..2000 {
        let rng = std::cell::RefCell::new(fastrand::Rng::with_seed(seed));
        let mut switch = Switch::new(2, seed, 0.0);
        switch.run(22, |it| !it.way.is_group() || rng.borrow_mut().bool());
        let found = switch.says(0);
        for finding in [&found.multicast, &found.broadcast, &found.ipv6_multicast] {
            right(finding, Reach::Works);
        }
        assert!(right(&found.isolation, false));
    }
}

#[test]
fn what_mostly_gets_lost_works_perhaps() {
    let mut switch = Switch::new(2, 1, 0.0);
    let found = switch.run(22, |it| !it.way.is_group() || it.round % 4 == 0).says(0).multicast;
    assert_eq!((found.value, found.confidence), (Some(Reach::Works), Confidence::Weak));
    assert_eq!(found.reason_code, Some(ReasonCode::LossLeavesDoubt));
}

#[test]
fn filters_are_found_on_lossy_networks_too() {
    let mut found_out = 0;
    for seed in 0..300 {
        let mut switch = Switch::new(2, seed, 0.1);
        switch.run(22, without(LOCAL));
        let found = switch.says(0);
        found_out += u32::from(right(&found.multicast, Reach::LinkLocalOnly));
        right(&found.broadcast, Reach::Works);
        let mut all = Switch::new(2, seed, 0.1);
        // They find each other by the first round, then no group passes.
        all.run(22, |it| it.round == 0 || !ALL_GROUPS.contains(&it.way));
        right(&all.says(0).isolation, false);
    }
    assert!(found_out > 270, "{found_out}");
}

#[test]
fn a_host_that_does_not_hear_itself_says_nothing_of_the_network() {
    let mut switch = Switch::new(2, 1, 0.0);
    for host in &mut switch.hosts {
        host.sends = 0xff;
    }
    for round in 0..22 {
        for from in 0..2 {
            for out in switch.hosts[from].next_round() {
                // The firewall of host 0 drops everything to groups, its own included.
                let to = 1 - from;
                if to == 1 || !GROUPS.contains(&out.way) {
                    let crossing = |_: Crossing| true;
                    let before = switch.hosts[from].looped;
                    switch.deliver(from, round, &out, crossing);
                    if from == 0 && GROUPS.contains(&out.way) {
                        switch.hosts[0].looped = before;
                    }
                }
            }
        }
    }
    let found = switch.says(0);
    assert_eq!(found.multicast.value, None, "{:?}", found.multicast);
    assert_eq!(found.multicast.reason_code, Some(ReasonCode::SystemRefused));
    assert!(right(&found.broadcast, Reach::Works));
}

/// A beacon of a host that is not there, from this endpoint.
fn forged(id: u8, at: SocketAddrV4) -> Beacon {
    Beacon {
        way: Way::Multicast,
        flags: 0,
        ways: 0xff,
        round: 1,
        id: [id; 8],
        nonce: [id; 8],
        at,
        at6: None,
        records: Vec::new(),
    }
}

#[test]
fn a_flood_displaces_nobody_and_is_not_answered() {
    let mut switch = Switch::new(2, 1, 0.0);
    switch.run(3, open);
    let mut sent = 0;
    for round in 0..100_u16 {
        for id in 0..200_u8 {
            let ip = Ipv4Addr::new(192, 168, 77, 10 + id);
            let beacon = Beacon {
                id: [round as u8 | 0x80, id, 3, 4, 5, 6, 7, 8],
                ..forged(9, SocketAddrV4::new(ip, 5000))
            };
            switch.hosts[0].take(beacon.at.into(), &beacon.write());
        }
        let out = switch.hosts[0].next_round();
        assert!(out.len() <= 6 + 2 * MOST_NEIGHBOURS);
        let is_strange = |it: &&Outgoing| it.to.is_some_and(|to| to.port() == 5000);
        sent += out.iter().filter(is_strange).map(|it| it.bytes.len()).sum::<usize>();
    }
    assert!(switch.hosts[0].neighbours.len() <= MOST_NEIGHBOURS);
    assert!(switch.hosts[0].neighbours.iter().any(|it| it.is_proven));
    let ids = |host: &Neighbourhood| host.neighbours.iter().map(|it| it.id).collect::<Vec<_>>();
    let (before, late) = (ids(&switch.hosts[0]), "192.168.77.249:5000".parse().unwrap());
    switch.hosts[0].take(SocketAddr::V4(late), &forged(3, late).write());
    assert_eq!(ids(&switch.hosts[0]), before, "those who come later displace nobody");
    // Only so many are read in a round, of all and of one.
    let read = |host: &mut Neighbourhood, count: u32, ip: fn(u32) -> [u8; 4]| {
        let before = host.ignored;
        for number in 0..count {
            // It hears itself: of what it sends nothing is ignored but what is too much.
            let own = Beacon { id: host.us.id, nonce: host.us.nonce, ..forged(1, host.us.at) }.write();
            host.us.own.push(ip(number).into());
            host.take((ip(number), 5000).into(), &own);
        }
        host.next_round();
        host.ignored - before
    };
    let host = &mut switch.hosts[0];
    assert_eq!(read(host, 50, |_| [192, 168, 77, 2]), 10);
    assert_eq!(read(host, 1200, |number| [10, 9, (number >> 8) as u8, number as u8]), 200);
    assert_eq!(read(host, 40, |_| [192, 168, 77, 2]), 0);
    assert_eq!(read(host, 2000, |number| [10, 9, 9, u8::from(number >= 1960)]), 1920, "one of two floods");
    host.us.own.truncate(2);
    assert!(sent <= 160 * 97, "{sent} bytes");
    // One who proves itself still finds room.
    let us = switch.hosts[0].us.clone();
    let tally = super::beacon::Tally { sent: [1; 8], heard: [1; 8] };
    let newcomer = forged(77, "192.168.77.250:5001".parse().unwrap());
    let proof =
        super::beacon::Record { from: us.id, to: newcomer.id, at: us.at, nonce: us.nonce, age: 0, tally };
    let newcomer = Beacon { records: vec![proof], ..newcomer };
    switch.hosts[0].take(newcomer.at.into(), &newcomer.write());
    assert!(switch.hosts[0].neighbours.iter().any(|it| it.is_proven && it.id == newcomer.id));
}

#[test]
fn nobody_who_is_proven_makes_room() {
    let mut host = Neighbourhood::new(us(0), 0xff, 0xff);
    let ids = |host: &Neighbourhood| host.neighbours.iter().map(|it| it.id).collect::<Vec<_>>();
    let mut before = Vec::new();
    for number in 0..40_u8 {
        let at = SocketAddrV4::new(Ipv4Addr::new(192, 168, 77, 100 + number), 5000);
        let tally = super::beacon::Tally { sent: [1; 8], heard: [1; 8] };
        let (from, to, nonce) = (host.us.id, [100 + number; 8], host.us.nonce);
        let proof = super::beacon::Record { from, to, at: host.us.at, nonce, age: 0, tally };
        let beacon = Beacon { records: vec![proof], ..forged(100 + number, at) };
        host.take(at.into(), &beacon.write());
        if host.neighbours.len() < MOST_NEIGHBOURS {
            before = ids(&host);
        }
    }
    assert_eq!(host.neighbours.len(), MOST_NEIGHBOURS);
    assert_eq!(ids(&host)[..MOST_NEIGHBOURS - 1], before);
}

#[test]
fn what_is_forged_is_not_believed() {
    let mut switch = Switch::new(2, 1, 0.0);
    switch.run(9, open);
    let before = switch.says(0);
    let ignored = switch.hosts[0].ignored;
    let us = switch.hosts[0].us.clone();
    let real = switch.hosts[1].us.clone();
    let host = &mut switch.hosts[0];
    let inside: SocketAddrV4 = "192.168.77.9:5000".parse().unwrap();
    // In the name of a host that is there: with another nonce, from another endpoint.
    let named = Beacon { id: real.id, nonce: [1; 8], round: 4000, ..forged(1, real.at) };
    host.take(real.at.into(), &named.write());
    let elsewhere = Beacon { nonce: real.nonce, at: inside, ..named.clone() };
    host.take(inside.into(), &elsewhere.write());
    // Of another sender than it names, of another network, of this host itself, of a well-known port.
    host.take("192.168.77.8:5000".parse().unwrap(), &forged(50, inside).write());
    for at in
        ["192.168.78.9:5000", "8.8.8.8:5000", "192.168.77.255:5000", "192.168.77.9:1900", "127.0.0.1:5000"]
    {
        let at: SocketAddrV4 = at.parse().unwrap();
        host.take(at.into(), &forged(51, at).write());
    }
    host.take(us.at.into(), &Beacon { at: us.at, ..forged(52, us.at) }.write());
    host.take(inside.into(), &Beacon { id: us.id, ..forged(53, inside) }.write());
    // It claims to have heard this host, and does not know the nonce.
    let tally = super::beacon::Tally { sent: [9; 8], heard: [9; 8] };
    let lie = super::beacon::Record { from: us.id, to: [54; 8], at: us.at, nonce: [7; 8], age: 0, tally };
    host.take(inside.into(), &Beacon { records: vec![lie], ..forged(54, inside) }.write());
    assert_eq!(host.ignored - ignored, 11);
    assert_eq!(host.neighbours.len(), 1);
    let after = switch.says(0);
    assert_eq!((before.multicast, before.isolation), (after.multicast, after.isolation));
}

/// A host that is not proven names others: nothing is sent to them. One that is proven can have this host send a few short packets to
/// hosts of the network, and none to others.
#[test]
fn hearsay_is_bounded() {
    let mut switch = Switch::new(2, 1, 0.0);
    switch.run(5, open);
    let (us, real) = (switch.hosts[0].us.clone(), switch.hosts[1].us.clone());
    let host = &mut switch.hosts[0];
    let tally = super::beacon::Tally { sent: [9; 8], heard: [9; 8] };
    let record = |id: u8, to, at: &str| super::beacon::Record {
        from: [id; 8],
        to,
        at: at.parse().unwrap(),
        nonce: [id; 8],
        age: 0,
        tally,
    };
    let stranger: SocketAddrV4 = "192.168.77.9:5000".parse().unwrap();
    let told = Beacon { records: vec![record(61, [60; 8], "192.168.77.10:5001")], ..forged(60, stranger) };
    host.take(stranger.into(), &told.write());
    assert!(host.neighbours.iter().all(|it| it.id != [61; 8]));
    let records = vec![
        record(62, real.id, "192.168.77.11:5002"),
        record(63, real.id, "8.8.8.8:5002"),
        record(64, real.id, "192.168.77.255:5002"),
        record(65, real.id, "192.168.77.12:1900"),
        record(66, [67; 8], "192.168.77.13:5002"),
        super::beacon::Record { age: 2, ..record(68, real.id, "192.168.77.14:5002") },
    ];
    let mut sent = Vec::new();
    for round in 10..60 {
        let beacon =
            Beacon { id: real.id, nonce: real.nonce, round, records: records.clone(), ..forged(1, real.at) };
        host.take(real.at.into(), &beacon.write());
        sent.extend(host.next_round().into_iter().filter(|it| it.to.is_some_and(|to| to != real.at.into())));
    }
    let to = |ip: &str| sent.iter().filter(|it| it.to.is_some_and(|to| to.ip().to_string() == ip)).count();
    assert_eq!(to("192.168.77.11"), 16);
    assert_eq!(to("192.168.77.9"), 16, "it was heard itself");
    let to6 = sent.iter().filter(|it| it.to.is_some_and(|to| to.is_ipv6())).count();
    assert_eq!(sent.len(), 32 + to6, "{sent:?}");
    assert!(us.peers.is_empty());
}

/// That a host is there is counted once a round, and for one that is heard here only with its nonce.
#[test]
fn a_word_for_another_counts_once_a_round() {
    let mut switch = Switch::new(2, 1, 0.0);
    switch.run(5, open);
    let [ours, real] = [0, 1].map(|host| switch.hosts[host].us.clone());
    let host = &mut switch.hosts[0];
    let stranger: SocketAddrV4 = "192.168.77.9:5000".parse().unwrap();
    host.take(stranger.into(), &forged(60, stranger).write());
    let tally = super::beacon::Tally { sent: [9; 8], heard: [9; 8] };
    let record = |id: u8, nonce: u8, at: &str| super::beacon::Record {
        from: [id; 8],
        to: real.id,
        at: at.parse().unwrap(),
        nonce: [nonce; 8],
        age: 0,
        tally,
    };
    let mut say = |nonce: u8, round: u16| {
        // What 62 has heard of this host is passed on, too.
        let passed_on =
            super::beacon::Record { from: ours.id, to: [62; 8], ..record(1, nonce, "192.168.77.2:40000") };
        let records =
            vec![record(60, nonce, "192.168.77.9:5000"), record(62, 62, "192.168.77.11:5002"), passed_on];
        let beacon = Beacon { id: real.id, nonce: real.nonce, round, records, ..forged(1, real.at) };
        (0..8).for_each(|_| host.take(real.at.into(), &beacon.write()));
        host.next_round();
        let find = |id: u8| host.neighbours.iter().find(|it| it.id == [id; 8]).unwrap();
        (find(60).is_confirmed, find(62).vouched, find(62).told.is_some())
    };
    assert_eq!(say(1, 10), (false, 1, false));
    assert_eq!(say(60, 11), (true, 2, false));
    assert_eq!(say(0xa0, 12), (true, 3, true), "that is the nonce of this host");
}

/// Any bytes, mutations of real beacons among them.
#[test]
fn any_bytes_are_borne() {
    let mut switch = Switch::new(3, 1, 0.0);
    switch.run(4, open);
    let real: Vec<Vec<u8>> =
        switch.hosts.iter_mut().flat_map(Neighbourhood::next_round).map(|out| out.bytes).collect();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..3000 {
        let mut input = Vec::new();
        for _ in 0..rng.usize(1..20) {
            let mut packet = real[rng.usize(..real.len())].clone();
            for _ in 0..rng.usize(..4) {
                let at = rng.usize(..packet.len());
                packet[at] = rng.u8(..);
            }
            packet.truncate(if rng.bool() { packet.len() } else { rng.usize(..=packet.len()) });
            input.extend([0x80 | (packet.len() >> 8) as u8, packet.len() as u8, rng.u8(..) & 0x3]);
            input.extend(packet);
        }
        super::fuzz::beacons(&input);
    }
}
