//! The rules over reports that are written by hand. That nothing is met that is not is held over modelled NATs elsewhere.

use std::collections::HashSet;

use shared::nat::{Bracket, Filtering, Lifetime, PortAllocation, PortPolicy, Refresh};

use super::*;
use crate::report::{
    AddressKind, Confidence, FamilyStatus, Finding, Ipv6Inbound, Layers, LayersKind, OwnAddress,
    RequirementVerdict as V, SynAnswer, TcpReport, UdpReport, UnsolicitedSyn,
};

fn sure<T>(value: T) -> Finding<T> {
    Finding::known(value, Confidence::Strong, "test")
}

/// A report over IPv4 with one NAT, of a host without a firewall.
fn report(change: impl FnOnce(&mut UdpReport, &mut TcpReport)) -> Report {
    let mut udp = UdpReport { mapping: sure(Mapping::EndpointIndependent), ..UdpReport::default() };
    let mut tcp = TcpReport { mapping: sure(Mapping::EndpointIndependent), ..TcpReport::default() };
    change(&mut udp, &mut tcp);
    let ipv4 = FamilyReport {
        status: FamilyStatus::Tested,
        udp: Some(udp),
        tcp: Some(tcp),
        ..FamilyReport::default()
    };
    Report { ipv4, host_tracks_connections: Some(false), ..Report::default() }
}

fn verdict(report: &Report, rfc: u16, requirement: &str) -> V {
    let all = of(report);
    all.iter().find(|it| (it.rfc, it.requirement.as_str()) == (rfc, requirement)).unwrap().verdict
}

#[test]
fn every_requirement_has_a_name_of_its_own_and_a_reason() {
    let all = of(&Report::default());
    assert_eq!(all.len(), names().count());
    assert_eq!(names().collect::<HashSet<_>>().len(), all.len());
    for it in &all {
        assert!(matches!(it.verdict, V::NotSettled | V::NotApplicable), "{it:?}: nothing was measured");
        assert!(!it.why.is_empty(), "{it:?}");
    }
}

#[test]
fn only_what_is_sure_is_judged() {
    let judged = |confidence| {
        let report = report(|udp, _| udp.mapping = Finding::known(Mapping::AddressDependent, confidence, ""));
        verdict(&report, 4787, "REQ-1")
    };
    assert_eq!(judged(Confidence::Certain), V::NotMet);
    assert_eq!(judged(Confidence::Strong), V::NotMet);
    assert_eq!(judged(Confidence::Weak), V::NotSettled);
    assert_eq!(
        verdict(&report(|udp, _| udp.mapping = sure(Mapping::Direct)), 4787, "REQ-1"),
        V::NotApplicable
    );
}

#[test]
fn what_this_hosts_own_firewall_may_do_is_not_held_against_the_nat() {
    let judged = |tracks: Option<bool>, filtering| {
        let mut report = report(|udp, tcp| {
            udp.filtering = sure(filtering);
            // A lone SYN has arrived here.
            tcp.simultaneous_open = sure(true);
            tcp.filtering = sure(Filtering::AddressAndPortDependent);
            tcp.unsolicited_syn = sure(UnsolicitedSyn::new(SynAnswer::Reset, 0.01));
        });
        report.host_tracks_connections = tracks;
        [(4787, "REQ-8"), (5382, "REQ-3"), (5382, "REQ-4")].map(|(rfc, name)| verdict(&report, rfc, name))
    };
    let strict = Filtering::AddressAndPortDependent;
    assert_eq!(judged(Some(false), strict), [V::NotMet; 3]);
    assert_eq!(judged(Some(true), strict), [V::NotSettled; 3]);
    assert_eq!(judged(None, strict), [V::NotSettled; 3]);
    // That UDP comes in tells nothing of TCP.
    assert_eq!(judged(None, Filtering::EndpointIndependent), [V::Met, V::NotSettled, V::NotSettled]);
}

#[test]
fn shorter_timers_are_allowed_towards_well_known_ports() {
    let short = Some(Bracket { alive_s: 29.5, expired_s: Some(30.2) });
    let refresh = Refresh { outbound: None, inbound: None, elsewhere: None };
    let lifetime = Lifetime { unreplied: short, stream: short, refresh, granularity: None };
    let mut report = report(|udp, _| udp.lifetime = sure(lifetime));
    let at = |port| Some(crate::report::ServerAddresses::new(([198, 51, 100, 10], port).into(), None));
    report.server.ipv4 = at(3478);
    assert_eq!(verdict(&report, 4787, "REQ-5"), V::NotMet);
    report.server.ipv4 = at(443);
    assert_eq!(verdict(&report, 4787, "REQ-5"), V::NotSettled);
}

#[test]
fn the_shorter_timer_counts_and_a_bracket_around_the_bound_settles_nothing() {
    let judged = |unreplied: Option<(f64, Option<f64>)>, stream: Option<(f64, Option<f64>)>| {
        let [unreplied, stream] =
            [unreplied, stream].map(|it| it.map(|(alive_s, expired_s)| Bracket { alive_s, expired_s }));
        let refresh = Refresh { outbound: None, inbound: None, elsewhere: None };
        let lifetime = Lifetime { unreplied, stream, refresh, granularity: None };
        let report = report(|udp, _| udp.lifetime = sure(lifetime));
        verdict(&report, 4787, "REQ-5")
    };
    let (long, short) = (Some((180.0, None)), Some((29.5, Some(30.2))));
    assert_eq!(judged(long, long), V::Met);
    assert_eq!(judged(short, long), V::NotMet);
    assert_eq!(judged(long, short), V::NotMet);
    assert_eq!(judged(long, Some((119.7, Some(120.4)))), V::PartlySettled);
    assert_eq!(judged(long, Some((60.0, None))), V::PartlySettled);
    assert_eq!(judged(long, None), V::NotSettled);
}

#[test]
fn a_syn_is_left_alone_for_six_seconds() {
    let judged = |answer, after| {
        verdict(
            &report(|_, tcp| {
                tcp.simultaneous_open = sure(true);
                tcp.rtt_s = Some(0.3);
                tcp.unsolicited_syn = sure(UnsolicitedSyn::new(answer, after));
            }),
            5382,
            "REQ-4",
        )
    };
    // ICMP may be kept from the server.
    assert_eq!(judged(SynAnswer::Drop, 7.0), V::PartlySettled);
    assert_eq!(judged(SynAnswer::Drop, 0.5), V::PartlySettled);
    assert_eq!(judged(SynAnswer::Icmp, 6.4), V::Met);
    assert_eq!(judged(SynAnswer::Icmp, 6.1), V::NotMet, "the way there and back counts");
    assert_eq!(judged(SynAnswer::Icmp, 0.1), V::NotMet);
    assert_eq!(judged(SynAnswer::Reset, 0.1), V::NotMet);
}

#[test]
fn what_answers_in_the_servers_place_tells_nothing_of_a_nat() {
    let report = report(|_, tcp| tcp.intercepted = sure(true));
    assert!(of(&report).iter().filter(|it| it.rfc == 5382).all(|it| it.verdict == V::NotSettled));
}

#[test]
fn what_carriers_owe_is_asked_of_carriers_alone() {
    let judged = |kind| {
        let mut report = report(|udp, _| udp.filtering = sure(Filtering::EndpointIndependent));
        report.layers = Some(Layers::from(kind));
        verdict(&report, 6888, "REQ-7")
    };
    assert_eq!(judged(sure(LayersKind::CarrierGrade)), V::Met);
    assert_eq!(judged(sure(LayersKind::One)), V::NotSettled, "it may be the carrier's");
    assert_eq!(judged(sure(LayersKind::OwnDouble)), V::NotApplicable);
    assert_eq!(judged(Finding::known(LayersKind::CarrierGrade, Confidence::Weak, "")), V::NotSettled);
}

#[test]
fn hairpinning_that_is_not_seen_settles_nothing_and_its_source_is_looked_at() {
    let judged = |source: Option<&str>| {
        let report = report(|udp, _| {
            udp.local = "192.168.1.2:4000".parse().ok();
            udp.external = vec!["203.0.113.9:4000".parse().unwrap()];
            udp.hairpinning = match source {
                Some(source) => sure(true).with("source_seen", source),
                None => sure(false),
            };
        });
        ["REQ-9", "REQ-9a"].map(|name| verdict(&report, 4787, name))
    };
    assert_eq!(judged(Some("203.0.113.9:4001")), [V::Met, V::PartlySettled]);
    assert_eq!(judged(Some("192.168.1.2:4001")), [V::Met, V::NotMet]);
    assert_eq!(judged(Some("203.0.113.77:4001")), [V::Met, V::NotSettled]);
    assert_eq!(judged(None), [V::NotSettled, V::NotSettled]);
}

#[test]
fn a_mapping_that_keeps_its_port_may_be_one_for_each_destination() {
    let judged = |external: &str, remaps: bool| {
        let report = report(|udp, tcp| {
            (udp.local, udp.external) = ("192.168.1.2:4000".parse().ok(), vec![external.parse().unwrap()]);
            udp.inbound_first_remap = sure(remaps);
            (tcp.local, tcp.external) = (udp.local, udp.external.clone());
        });
        [(4787, "REQ-1"), (5382, "REQ-1")].map(|(rfc, name)| verdict(&report, rfc, name))
    };
    assert_eq!(judged("203.0.113.9:4000", false), [V::PartlySettled; 2]);
    assert_eq!(judged("203.0.113.9:50000", false), [V::Met; 2]);
    assert_eq!(judged("203.0.113.9:50000", true), [V::NotMet, V::Met]);
}

#[test]
fn rules_of_this_host_without_state_are_not_held_against_the_nat() {
    let report = report(|_, tcp| {
        tcp.filtering = sure(Filtering::AddressAndPortDependent);
        tcp.simultaneous_open = sure(false);
        tcp.unsolicited_syn = sure(UnsolicitedSyn::new(SynAnswer::Reset, 0.01));
    });
    for name in ["REQ-2", "REQ-3", "REQ-4"] {
        assert_eq!(verdict(&report, 5382, name), V::NotSettled, "{name}");
    }
}

#[test]
fn several_addresses_are_of_a_pool_or_of_several_connections() {
    let judged = |kind| {
        let allocation = PortAllocation {
            policy: PortPolicy::Random,
            delta: None,
            range: (1024, 65535),
            external_ips: 2,
            external_ip_by_destination: None,
            parity: None,
            cross_traffic_per_s: None,
        };
        let mut report = report(|udp, _| udp.port_allocation = sure(allocation));
        report.layers = Some(Layers::from(sure(kind)));
        [4787, 6888].map(|rfc| verdict(&report, rfc, "REQ-2"))
    };
    assert_eq!(judged(LayersKind::CarrierGrade), [V::NotSettled; 2]);
    assert_eq!(judged(LayersKind::DsLite)[1], V::NotMet);
}

#[test]
fn ipv6_that_this_host_has_and_the_server_has_not_is_not_settled() {
    let ipv6 = |address: Option<&str>, kind| FamilyReport {
        status: FamilyStatus::Unavailable,
        addresses: address.into_iter().map(|it| OwnAddress::new(it.parse().unwrap(), kind)).collect(),
        ..FamilyReport::default()
    };
    let judged = |ipv6| verdict(&Report { ipv6, ..Report::default() }, 6092, "REC-17");
    assert_eq!(judged(ipv6(None, AddressKind::Stable)), V::NotApplicable);
    assert_eq!(judged(ipv6(Some("fd00::2"), AddressKind::UniqueLocal)), V::NotApplicable);
    assert_eq!(judged(ipv6(Some("2001:db8::2"), AddressKind::Stable)), V::NotSettled);
}

#[test]
fn an_open_port_that_has_sent_is_what_a_firewall_should_have() {
    let judged = |comes_in: bool| {
        let udp = UdpReport { filtering: sure(Filtering::EndpointIndependent), ..UdpReport::default() };
        let tcp = TcpReport { filtering: sure(Filtering::AddressAndPortDependent), ..TcpReport::default() };
        let inbound = Ipv6Inbound { udp: sure(comes_in), tcp: sure(comes_in) };
        let ipv6 = FamilyReport {
            status: FamilyStatus::Tested,
            udp: Some(udp),
            tcp: Some(tcp),
            inbound: Some(inbound),
            ..FamilyReport::default()
        };
        let report = Report { ipv6, host_tracks_connections: Some(false), ..Report::default() };
        ["REC-17", "REC-33"].map(|name| verdict(&report, 6092, name))
    };
    assert_eq!(judged(false), [V::Met, V::NotSettled]);
    assert_eq!(judged(true), [V::NotApplicable; 2]);
}
