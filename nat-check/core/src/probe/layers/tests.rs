//! Every kind of way, with all its evidence and with parts of it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proptest::prelude::*;
use shared::{
    nat::{Filtering, Mapping},
    port_mapping::Protocol,
    test_session::Icmp,
};

use super::{
    conclude::conclude,
    evidence::{Counted, Evidence, Hop},
};
use crate::{
    net::InterfaceKind,
    observation::{layers::Turned, made::without_loss},
    probe::Found,
    report::{
        Confidence::{self, Certain, Strong, Unknown, Weak},
        Finding, HopKind,
        LayersKind::{self, CarrierGrade, DsLite, MultiWan, One, OwnDouble, Vpn, Xlat464},
        MappingProtocol, PortMapping, ReasonCode,
    },
};

const EXTERNAL: &str = "203.0.113.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn hop(text: &str, is_expired: bool) -> Hop {
    Hop { address: ip(text), is_expired, took: Duration::from_millis(1) }
}

/// A host behind a NAT, of which nothing else is known.
fn behind_nat() -> Evidence {
    Evidence {
        local: Some(ip("192.168.1.2")),
        interface: InterfaceKind::Ordinary,
        external: vec![ip(EXTERNAL)],
        mapping: Finding::known(Mapping::EndpointIndependent, Certain, ""),
        filtering: Finding::known(Filtering::AddressAndPortDependent, Strong, ""),
        gateway: Some(ip("192.168.1.1")),
        ..Evidence::default()
    }
}

impl Evidence {
    fn named(mut self, by_gateway: &str) -> Self {
        self.named = vec![(Protocol::Upnp, ip(by_gateway))];
        self
    }

    fn second_named(mut self, by_second: &str) -> Self {
        self.second_named = vec![(Protocol::NatPmp, ip(by_second))];
        self
    }

    fn distance(mut self, hops: u8) -> Self {
        self.distance = Finding::known(hops, Strong, "");
        self
    }

    /// Where packets to the own external address were turned back.
    fn turned_at(mut self, hop: u8) -> Self {
        self.turned_at = Some(hop);
        self
    }

    /// Routers that told the server of packets that died at them, the outermost NAT being the last.
    fn inwards(mut self, routers: u8) -> Self {
        self.from_outermost = routers;
        self
    }

    /// Routers on the way to the server, the gateway being the first.
    fn way(mut self, beyond: &[&str]) -> Self {
        let routers = ["192.168.1.1"].iter().chain(beyond);
        self.to_server = (1..).zip(routers.map(|at| hop(at, true))).collect();
        self.at_gateway[0] = Counted { sent: 2, reported: 2 };
        self
    }

    /// Routers on the way to the own external address; who has that address answers for it.
    fn own_way(mut self, routers: &[&str]) -> Self {
        self.to_external = (1..).zip(routers.iter().map(|at| hop(at, *at != EXTERNAL))).collect();
        self.at_gateway[1] = Counted { sent: 2, reported: if routers.is_empty() { 0 } else { 2 } };
        self
    }
}

#[test]
fn every_kind_is_told() {
    let own = |local: &str| Evidence { local: Some(ip(local)), ..behind_nat() };
    let direct = |filtering| Evidence {
        local: Some(ip(EXTERNAL)),
        mapping: Finding::known(Mapping::Direct, Certain, ""),
        filtering: Finding::known(filtering, Certain, ""),
        ..behind_nat()
    };
    let over = |interface| Evidence { interface, takes_all: true, ..behind_nat() };
    let kept = || behind_nat().named(EXTERNAL).way(&["198.51.100.1"]).own_way(&[]);
    let opened = |evidence| Evidence { is_opened: true, ..evidence };
    let mismatch = |evidence| Evidence { is_nat_before_second: true, ..evidence };
    let several = Evidence {
        external: vec![ip(EXTERNAL), ip("203.0.113.2")],
        several: Some(Finding::known(MultiWan, Weak, "").because((ReasonCode::SeveralExternalAddresses, ""))),
        ..behind_nat()
    };
    let table: Vec<(&str, Evidence, Option<LayersKind>, Confidence, u8)> = vec![
        ("nothing at all", direct(Filtering::EndpointIndependent), Some(LayersKind::None), Certain, 0),
        ("a firewall", direct(Filtering::AddressAndPortDependent), Some(LayersKind::None), Certain, 1),
        (
            "the gateway names the address that the server sees, which may be the carrier's",
            behind_nat().named(EXTERNAL),
            Some(One),
            Weak,
            1,
        ),
        (
            "and the carrier may have opened the port",
            opened(behind_nat().named(EXTERNAL)),
            Some(One),
            Weak,
            1,
        ),
        ("the gateway names that address, and keeps it in silence", kept(), Some(One), Strong, 1),
        ("and a port that it opened was reached", opened(kept()), Some(One), Certain, 1),
        (
            "the gateway answers for it",
            behind_nat().way(&["198.51.100.1"]).own_way(&[EXTERNAL]),
            Some(One),
            Strong,
            1,
        ),
        (
            "the gateway keeps it in silence",
            behind_nat().way(&["198.51.100.1"]).own_way(&[]),
            Some(One),
            Weak,
            1,
        ),
        (
            "the gateway turns packets to it back",
            behind_nat().way(&["198.51.100.1"]).turned_at(1),
            Some(One),
            Strong,
            1,
        ),
        (
            "the gateway turns packets back, and lets those die first that may go no farther",
            behind_nat().way(&["198.51.100.1"]).own_way(&["192.168.1.1"]).turned_at(1),
            Some(One),
            Strong,
            1,
        ),
        ("whoever is near turns them back, and hides", behind_nat().turned_at(1), None, Unknown, 1),
        (
            "the gateway names that address, and turns packets to it back",
            behind_nat().named(EXTERNAL).turned_at(1),
            Some(One),
            Strong,
            1,
        ),
        ("one router tells the server of itself", behind_nat().inwards(1), None, Unknown, 1),
        ("two do", behind_nat().inwards(2), Some(CarrierGrade), Weak, 2),
        (
            "two do, and the second one is a carrier's",
            behind_nat().way(&["100.64.0.1"]).inwards(2),
            Some(CarrierGrade),
            Strong,
            2,
        ),
        (
            "a carrier's router turns them back",
            behind_nat().way(&["100.64.0.1"]).turned_at(2),
            Some(CarrierGrade),
            Strong,
            2,
        ),
        (
            "behind whoever turns them back routers have any address",
            behind_nat().way(&["192.168.0.1", "100.64.0.1"]).turned_at(2).inwards(2),
            Some(OwnDouble),
            Weak,
            2,
        ),
        ("the gateway is in 100.64/10", behind_nat().named("100.64.0.2"), Some(CarrierGrade), Strong, 2),
        (
            "routers of a carrier stand before the external address",
            behind_nat().way(&["100.64.0.1"]).own_way(&["192.168.1.1", "100.64.0.1", EXTERNAL]),
            Some(CarrierGrade),
            Strong,
            2,
        ),
        (
            "or the gateway sends packets to an address that it does not know there",
            behind_nat().way(&["100.64.0.1"]).own_way(&["192.168.1.1", "100.64.0.1"]),
            Some(CarrierGrade),
            Weak,
            2,
        ),
        (
            "behind the outermost NAT routers have any address",
            behind_nat().way(&["192.168.0.1", "100.64.0.1"]).own_way(&["192.168.1.1", EXTERNAL]).distance(2),
            Some(OwnDouble),
            Weak,
            2,
        ),
        (
            "so do they behind the outermost filter",
            behind_nat().way(&["192.168.0.1", "100.64.0.1"]).own_way(&["192.168.1.1"]).distance(2),
            Some(CarrierGrade),
            Weak,
            2,
        ),
        (
            "the filter is beyond the gateway, at a carrier's router",
            behind_nat().way(&["100.64.0.1"]).own_way(&["192.168.1.1", EXTERNAL]).distance(2),
            Some(CarrierGrade),
            Strong,
            2,
        ),
        ("a carrier's router somewhere", behind_nat().way(&["100.64.0.1"]), Some(CarrierGrade), Weak, 2),
        ("a phone in 100.64/10, or a host of a VPN", own("100.70.0.9"), Some(CarrierGrade), Weak, 1),
        ("the gateway is in 10/8", behind_nat().named("10.1.2.3"), Some(CarrierGrade), Weak, 2),
        ("the gateway is in 192.168/16", behind_nat().named("192.168.0.7"), Some(OwnDouble), Weak, 2),
        (
            "the second router is one of a home",
            behind_nat().named("192.168.0.7").way(&["192.168.0.1"]).second_named(EXTERNAL),
            Some(OwnDouble),
            Strong,
            2,
        ),
        (
            "the gateway was told an address, and the second router sees a NAT before itself",
            mismatch(behind_nat().named(EXTERNAL).way(&["192.168.0.1"]).second_named(EXTERNAL)),
            Some(OwnDouble),
            Strong,
            2,
        ),
        (
            "a NAT before a router that names another address",
            mismatch(behind_nat().way(&["192.168.0.1"]).second_named("100.64.0.9")),
            Some(OwnDouble),
            Weak,
            2,
        ),
        (
            "a second router without UPnP anywhere",
            behind_nat().way(&["192.168.0.1"]).own_way(&["192.168.1.1", EXTERNAL]),
            Some(OwnDouble),
            Weak,
            2,
        ),
        (
            "a home's second router behind a carrier's NAT",
            behind_nat().named("192.168.0.7").own_way(&[
                "192.168.1.1",
                "192.168.0.1",
                "100.64.0.1",
                EXTERNAL,
            ]),
            Some(CarrierGrade),
            Strong,
            2,
        ),
        ("a second filter, and silent routers", behind_nat().distance(2), Some(CarrierGrade), Weak, 2),
        ("WireGuard", over(InterfaceKind::WireGuard), Some(Vpn), Strong, 1),
        ("a tunnel", over(InterfaceKind::Tunnel { is_carried: true }), Some(Vpn), Strong, 1),
        (
            "DS-Lite at the gateway",
            behind_nat().named("192.0.0.2").way(&["192.0.0.1"]),
            Some(DsLite),
            Strong,
            1,
        ),
        ("DS-Lite, or not", behind_nat().way(&["192.0.0.1"]), Some(DsLite), Weak, 1),
        (
            "DS-Lite on this host",
            Evidence { interface: InterfaceKind::InIpv6, ..own("192.0.0.2") },
            Some(DsLite),
            Strong,
            1,
        ),
        (
            "464XLAT on this host",
            Evidence { interface: InterfaceKind::Tunnel { is_carried: true }, ..own("192.0.0.4") },
            Some(Xlat464),
            Strong,
            1,
        ),
        ("several connections", several, Some(MultiWan), Weak, 1),
    ];
    for (what, evidence, kind, confidence, at_least) in table {
        let layers = conclude(&evidence);
        assert_eq!(
            (layers.kind.value, layers.kind.confidence),
            (kind, confidence),
            "{what}: {:?}",
            layers.kind
        );
        assert_eq!(layers.at_least.value, Some(at_least), "{what}: {:?}", layers.at_least);
        let needs_reason = layers.kind.confidence <= Weak;
        assert_eq!(layers.kind.reason.is_some(), needs_reason, "{what}");
    }
}

#[test]
fn what_contradicts_itself_is_not_believed() {
    let own_double = || behind_nat().named("192.168.0.7").way(&["192.168.0.1"]).second_named(EXTERNAL);
    let kept_by_gateway = || behind_nat().named(EXTERNAL).way(&["198.51.100.1"]).own_way(&[]);
    let contradictions = [
        // A gateway that was told its address.
        behind_nat().named(EXTERNAL).distance(2),
        behind_nat().named(EXTERNAL).way(&["100.64.0.1"]).own_way(&["192.168.1.1", "100.64.0.1"]),
        behind_nat().named(EXTERNAL).turned_at(2),
        kept_by_gateway().inwards(2),
        behind_nat().way(&["198.51.100.1"]).turned_at(1).inwards(2),
        behind_nat().way(&["100.64.0.1"]).own_way(&[EXTERNAL]).inwards(2),
        behind_nat().way(&["100.64.0.1"]).own_way(&[EXTERNAL]).turned_at(2),
        own_double().inwards(3),
        own_double().turned_at(3),
        own_double().turned_at(1),
        // One that names the address of a connection that is not in use.
        behind_nat().named("100.64.0.2").turned_at(1),
        behind_nat().named("100.64.0.2").way(&["198.51.100.1"]).own_way(&[EXTERNAL]),
        behind_nat().named("192.168.0.7").way(&["198.51.100.1"]).own_way(&[EXTERNAL]),
        behind_nat().named("100.64.0.2").way(&["198.51.100.1"]).own_way(&[]),
        // A filter of the Internet, at a router that is numbered like a carrier's.
        behind_nat().way(&["192.168.0.1", "100.64.0.1"]).own_way(&["192.168.1.1", EXTERNAL]).distance(3),
        // Both routers are the user's own, and a third NAT follows.
        own_double().distance(3),
        own_double().own_way(&["192.168.1.1", "192.168.0.1"]),
        own_double().own_way(&["192.168.1.1", "192.168.0.1", EXTERNAL]),
        // Packets show that the gateway has the address, whatever the second router says of a NAT before itself.
        Evidence {
            is_nat_before_second: true,
            ..behind_nat().way(&["192.168.0.1"]).own_way(&[EXTERNAL]).second_named(EXTERNAL)
        },
    ];
    for evidence in contradictions {
        let layers = conclude(&evidence);
        assert!(layers.kind.confidence <= Weak, "{layers:?}");
        assert!(layers.at_least.value < Some(2) || layers.at_least.confidence <= Weak, "{layers:?}");
    }
    // Both addresses are public: a second connection, a VPN, or a second NAT.
    let other = conclude(&behind_nat().named("203.0.113.77"));
    assert_eq!(other.kind.reason_code, Some(ReasonCode::AnotherPublicAddress));
    // A device that does not count hops lets a farther one answer first.
    let mut uncounted = behind_nat().own_way(&[EXTERNAL]);
    uncounted.to_server.insert(1, hop("100.64.0.1", true));
    assert!(conclude(&uncounted).kind.confidence <= Weak);
}

#[test]
fn a_tunnel_is_a_vpn_where_it_takes_everything() {
    let over = |takes_all| Evidence { interface: InterfaceKind::WireGuard, takes_all, ..behind_nat() };
    assert_eq!(conclude(&over(true)).kind.value, Some(Vpn));
    assert_eq!(conclude(&over(false)).kind.value, None, "the default route is another");
    let near: crate::report::Reason = (ReasonCode::ServerNotInInternet, "near").into();
    let private = Evidence { no_word_of_the_way: Some(near), ..over(true) };
    assert_eq!(conclude(&private).kind.reason_code, Some(ReasonCode::ServerNotInInternet));
}

#[test]
fn boxes_are_counted_where_packets_show_them() {
    let counted = |evidence: &Evidence| {
        let count = conclude(evidence).at_least;
        (count.value, count.confidence, count.reason_code)
    };
    let named = behind_nat().named("100.64.0.2");
    assert_eq!(counted(&named), (Some(2), Weak, Some(ReasonCode::GatewaysWordOnly)));
    for shown in [named.clone().own_way(&["192.168.1.1"]), named.clone().inwards(2), named.turned_at(2)] {
        assert_eq!(counted(&shown), (Some(2), Strong, None));
    }
}

#[test]
fn only_what_the_gateway_itself_opened_counts_for_it() {
    let gateway = ip("192.168.1.1");
    let opened_by = |at| {
        let mut pcp = MappingProtocol::default();
        (pcp.gateway, pcp.reachable_udp) = (Some(at), Finding::known(true, Certain, ""));
        let mut log = without_loss();
        log.layers.gateway = Some(gateway);
        let mapping = PortMapping { pcp: Some(pcp), ..PortMapping::default() };
        Evidence::of(&log, &Found::default(), Some(&mapping), None).is_opened
    };
    assert!(opened_by(gateway));
    assert!(!opened_by(ip("192.168.1.77")), "another device of the network");
}

#[test]
fn what_is_not_known_says_why() {
    let code = |evidence: &Evidence| conclude(evidence).kind.reason_code;
    assert_eq!(code(&behind_nat()), Some(ReasonCode::RoutersSilent));
    let elsewhere = Evidence { no_trace: Some("unsupported".into()), ..behind_nat() };
    assert_eq!(code(&elsewhere), Some(ReasonCode::SystemCannotTell));
    let near: crate::report::Reason = (ReasonCode::ServerNotInInternet, "near").into();
    let private = Evidence { no_word_of_the_way: Some(near), ..behind_nat().named("10.0.0.1") };
    assert_eq!(code(&private), Some(ReasonCode::ServerNotInInternet));
    assert_eq!(conclude(&Evidence::default()).kind.value, None);
}

#[test]
fn hops_are_told_by_their_addresses() {
    let layers = conclude(&behind_nat().way(&["10.0.0.1", "100.64.0.1", "203.0.113.9"]));
    let kinds: Vec<HopKind> = layers.hops.iter().map(|hop| hop.kind).collect();
    assert_eq!(kinds, [HopKind::Gateway, HopKind::Private, HopKind::Carrier, HopKind::Public]);
}

/// A TTL that packets were sent with, and what was left of it.
fn turned(packets: &[(u8, u8, bool)]) -> Option<u8> {
    let mut log = without_loss();
    let packet = |&(sent, arrived, is_external)| Turned { sent, arrived, is_external };
    log.layers.turned = packets.iter().map(packet).collect();
    Evidence::of(&log, &Found::default(), None, None).turned_at
}

#[test]
fn what_is_left_of_the_ttl_tells_where_packets_were_turned_back() {
    assert_eq!(turned(&[(64, 63, true), (40, 39, true)]), Some(1));
    assert_eq!(turned(&[(64, 61, true), (40, 37, true), (64, 61, true)]), Some(2));
    for (what, packets) in [
        ("nothing came", vec![]),
        ("one TTL alone may be set by a router", vec![(64, 63, true), (64, 63, true)]),
        ("a router sets it anew", vec![(64, 63, true), (40, 63, true)]),
        ("a router sets it to what it was", vec![(64, 64, true), (40, 64, true)]),
        ("a router adds to it, or does not count", vec![(64, 62, true), (40, 38, true)]),
        ("the way has changed meanwhile", vec![(64, 63, true), (40, 37, true)]),
        ("somebody nearer puts the internal address there", vec![(64, 63, false), (40, 39, false)]),
        ("and only for some", vec![(64, 63, true), (40, 39, false)]),
    ] {
        assert_eq!(turned(&packets), None, "{what}");
    }
}

#[test]
fn routers_are_counted_from_the_outermost_nat_inwards() {
    let counted = |hops: &[(u8, u8, &str)], arrived: &[u8]| {
        let mut log = without_loss();
        let said = |&(ttl, kind, from): &(u8, u8, &str)| {
            let icmp = Icmp { kind, code: 0, from: ip(from) };
            shared::test_session::Hop { ttl, icmp, after_us: 0 }
        };
        log.tcp.trace.flow = Some(SocketAddr::new(ip(EXTERNAL), 50_000));
        log.tcp.trace.hops = Some(hops.iter().map(said).collect());
        log.tcp.trace.arrived = arrived.to_vec();
        Evidence::of(&log, &Found::default(), None, None).from_outermost
    };
    let outside = (1, 11, "198.51.100.1");
    assert_eq!(counted(&[outside, (2, 11, EXTERNAL)], &[3, 4]), 1);
    assert_eq!(counted(&[outside, (2, 11, EXTERNAL), (4, 11, EXTERNAL)], &[5]), 2, "one was silent");
    assert_eq!(counted(&[outside, (2, 11, EXTERNAL), (3, 3, EXTERNAL)], &[4]), 1, "unreachable is no router");
    assert_eq!(counted(&[outside, (2, 11, EXTERNAL), (2, 11, EXTERNAL)], &[4]), 1, "each counts once");
    assert_eq!(counted(&[outside, (2, 11, EXTERNAL), (3, 11, EXTERNAL)], &[3]), 0, "the way has changed");
    assert_eq!(counted(&[outside, (2, 11, EXTERNAL)], &[]), 0, "nothing has arrived");
    assert_eq!(counted(&[outside], &[2]), 0, "the NAT is silent");
}

fn address() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        EXTERNAL,
        "192.168.1.1",
        "192.168.0.1",
        "10.0.0.1",
        "100.64.0.1",
        "192.0.0.1",
        "192.0.0.2",
        "198.51.100.1",
    ])
}

fn any_evidence() -> impl Strategy<Value = Evidence> {
    let routers = || prop::collection::vec(prop::option::of((address(), any::<bool>())), 0..4);
    let names = || prop::collection::vec(address(), 0..2);
    let host = (prop::sample::select(vec!["192.168.1.2", "100.64.0.9", "192.0.0.4"]), 0..3_usize);
    let counts = (0..4_u8, prop::option::of(1..4_u8), 0..4_u8);
    (host, names(), names(), routers(), routers(), counts, any::<[bool; 2]>()).prop_map(
        |((local, interface), named, second, way, own, counts, [is_opened, is_nat_before_second])| {
            let (distance, turned_at, from_outermost) = counts;
            let hops = |routers: Vec<Option<(&str, bool)>>| {
                let numbered = (1..).zip(routers).filter_map(|(ttl, it)| Some((ttl, it?)));
                numbered.map(|(ttl, (at, is_expired))| (ttl, hop(at, is_expired))).collect()
            };
            let mut evidence = behind_nat();
            evidence.local = Some(ip(local));
            evidence.interface =
                [InterfaceKind::Ordinary, InterfaceKind::InIpv6, InterfaceKind::Tunnel { is_carried: false }]
                    [interface];
            evidence.named = named.into_iter().map(|at| (Protocol::NatPmp, ip(at))).collect();
            evidence.second_named = second.into_iter().map(|at| (Protocol::NatPmp, ip(at))).collect();
            (evidence.to_server, evidence.to_external) = (hops(way), hops(own));
            (evidence.is_opened, evidence.is_nat_before_second) = (is_opened, is_nat_before_second);
            (evidence.turned_at, evidence.from_outermost) = (turned_at, from_outermost);
            if distance > 0 { evidence.distance(distance) } else { evidence }
        },
    )
}

proptest! {
    /// With less evidence less may be known, and never something else for sure.
    #[test]
    fn less_evidence_never_makes_another_kind_sure(
        evidence in any_evidence(),
        keeps in prop::array::uniform8(any::<bool>()),
        longest in 0..4_u8,
    ) {
        let mut less = evidence.clone();
        if !keeps[0] { less.named.clear(); }
        if !keeps[1] { less.second_named.clear(); }
        if !keeps[2] { less.distance = Finding::default(); }
        if !keeps[3] { less.to_external.retain(|ttl, _| *ttl <= longest); }
        if !keeps[4] { less.to_server.retain(|ttl, _| *ttl <= longest); }
        less.is_nat_before_second &= keeps[5];
        if !keeps[6] { less.turned_at = None; }
        if !keeps[7] { less.from_outermost = less.from_outermost.min(longest); }
        let [all, part] = [&evidence, &less].map(|it| conclude(it).kind);
        if all.confidence >= Strong && part.confidence >= Strong {
            prop_assert_eq!(all.value, part.value, "{:?} and {:?}", evidence, less);
        }
        for kind in [all, part] {
            prop_assert_eq!(kind.confidence <= Weak, kind.reason_code.is_some());
        }
    }
}
