//! Fixed reports in every format, as snapshots.

use serde_json::json;
use shared::nat::{Bracket, Filtering, Lifetime, Mapping, NatType, PortAllocation, PortPolicy, Refresh};

use super::*;
use nat_check_core::{
    report::{
        AddressKind, Confidence, FamilyReport, FamilyStatus, Finding, HolePunching, OwnAddress, ReasonCode,
        ServerAddresses, TcpReport, UdpReport,
    },
    verdict,
};

const STYLE: Style = Style { width: 100, evidence: false };

fn text(format: &str, report: &Report, style: Style) -> String {
    anstream::adapter::strip_str(&(by_name(format).render)(report, &style)).to_string()
}

fn certain<T>(value: T) -> Finding<T> {
    Finding::known(value, Confidence::Certain, "RFC 5780 4.3").with("sent", 5).with("answered", 5)
}

fn unknown<T>(reason: &str) -> Finding<T> {
    Finding::unknown((ReasonCode::NotAskedFor, reason), "RFC 4787")
}

/// The verdict, as a check draws it.
fn conclude(report: &mut Report) {
    for family in [&mut report.ipv4, &mut report.ipv6] {
        family.hole_punching = verdict::over(family);
    }
    report.hole_punching = verdict::conclude(&report.ipv4, &report.ipv6);
}

fn skipped(reason: &str) -> FamilyReport {
    absent(FamilyStatus::Unavailable, ReasonCode::NoRoute, reason)
}

fn absent(status: FamilyStatus, code: ReasonCode, reason: &str) -> FamilyReport {
    let mut family = FamilyReport::default();
    family.status = status;
    family.reason = Some(reason.into());
    family.reason_code = Some(code);
    family
}

/// A home router as there are many.
fn home() -> Report {
    let mut udp = UdpReport::default();
    udp.local = Some("192.168.77.2:53211".parse().unwrap());
    udp.external = vec!["203.0.113.1:53211".parse().unwrap()];
    udp.rtt_s = Some(0.0213);
    udp.loss = Some(0.0);
    udp.nat_type = certain(NatType::PortRestrictedCone);
    udp.mapping = certain(Mapping::EndpointIndependent);
    udp.filtering = Finding::known(Filtering::AddressAndPortDependent, Confidence::Strong, "RFC 5780 4.4")
        .with("controls_answered", 8);
    udp.port_allocation = certain(PortAllocation {
        policy: PortPolicy::Preserving,
        delta: None,
        range: (1024, 65535),
        external_ips: 1,
        parity: None,
        external_ip_by_destination: None,
        cross_traffic_per_s: None,
    });
    udp.hairpinning = unknown("no answer, which a filter on this host would explain as well");
    udp.alg = certain(false);
    udp.inbound_first_remap = certain(false);
    udp.distance = certain(1);
    udp.lifetime = certain(Lifetime {
        unreplied: Some(Bracket { alive_s: 30.0, expired_s: Some(31.0) }),
        stream: Some(Bracket { alive_s: 60.0, expired_s: None }),
        refresh: Refresh { outbound: Some(true), inbound: Some(true), elsewhere: None },
        granularity: None,
    });
    let mut report = Report::default();
    report.version = 1;
    report.tool = "nat-check 0.1.0".into();
    report.started_at = "2026-01-31T12:00:00Z".into();
    report.duration_s = 0.61;
    report.server.query = "probe.example.org".into();
    report.server.found_by = Some("srv".into());
    let [primary, alternate] = ["198.51.100.10:3478", "198.51.100.11:3479"].map(|at| at.parse().unwrap());
    report.server.ipv4 = Some(ServerAddresses::new(primary, Some(alternate)));
    report.server.features.change_request = certain(true);
    report.server.features.response_port = certain(true);
    report.server.features.classic = certain(true);
    report.ipv4.status = FamilyStatus::Tested;
    report.ipv4.udp = Some(udp);
    report.ipv6 = skipped("this host has no IPv6 address");
    conclude(&mut report);
    report
}

/// Nothing is known, and the server is to blame.
fn poor() -> Report {
    let mut report = home();
    let udp = report.ipv4.udp.as_mut().unwrap();
    udp.nat_type = unknown("filtering is not known");
    udp.mapping.confidence = Confidence::Weak;
    udp.mapping.reason = Some("the server does not answer at 198.51.100.11:3478".into());
    udp.mapping.reason_code = Some(ReasonCode::ServerEndpointSilent);
    udp.filtering = unknown("the server cannot answer from another address");
    udp.port_allocation = unknown("not asked for");
    udp.lifetime = unknown("not asked for");
    udp.loss = Some(0.1);
    report.simulated = true;
    report.partial = true;
    report.server.ipv4.as_mut().unwrap().alternate = None;
    report.server.features.change_request = certain(false);
    report.server.faults = vec!["names itself as its other address".into()];
    report.warnings = vec!["the port 53211 was already mapped by an earlier run".into()];
    conclude(&mut report);
    report
}

/// UDP is blocked, TCP is not.
fn blocked() -> Report {
    let mut report = home();
    let udp = report.ipv4.udp.as_mut().unwrap();
    let nat_type = certain(NatType::UdpBlocked).because((
        ReasonCode::UdpBlocked,
        "the server answers over TCP but not over UDP: UDP is blocked on the way, or not served there",
    ));
    *udp = UdpReport::default();
    udp.nat_type = nat_type;
    let mut tcp = TcpReport::default();
    (tcp.reachable, tcp.external) = (true, vec!["203.0.113.1:40112".parse().unwrap()]);
    report.ipv4.tcp = Some(tcp);
    conclude(&mut report);
    report
}

/// No server answered.
fn unreachable() -> Report {
    let mut report = home();
    let reason = "198.51.100.10:3478 did not answer over UDP or TCP";
    report.ipv4 = absent(FamilyStatus::Unreachable, ReasonCode::ServerUnreachable, reason);
    let reason = "probe.example.org has no IPv6 address; this host has one, 2001:db8::2";
    report.ipv6 = absent(FamilyStatus::Unavailable, ReasonCode::ServerHasNoAddress, reason);
    report.hole_punching = HolePunching::default();
    report.hole_punching.summary = "Whether hole punching works is not known: no server answered.".into();
    report
}

/// IPv4 behind a symmetric NAT, IPv6 behind no filter at all.
fn dual() -> Report {
    let mut report = home();
    report.ipv6 = report.ipv4.clone();
    let [four, six] = [&mut report.ipv4, &mut report.ipv6].map(|family| family.udp.as_mut().unwrap());
    four.mapping = certain(Mapping::AddressAndPortDependent);
    four.nat_type = certain(NatType::Symmetric);
    six.mapping = certain(Mapping::Direct);
    six.filtering = certain(Filtering::EndpointIndependent);
    six.nat_type = certain(NatType::OpenInternet);
    let own = |address: &str, kind| OwnAddress::new(address.parse().unwrap(), kind);
    report.ipv6.addresses =
        vec![own("2001:db8::5", AddressKind::Stable), own("2001:db8::dead:beef", AddressKind::Temporary)];
    report.ipv6.addresses[1].used = true;
    conclude(&mut report);
    report
}

#[test]
fn two_families_are_two_verdicts() {
    insta::assert_snapshot!("dual", text("table", &dual(), STYLE));
    insta::assert_snapshot!("dual_lines", text("line", &dual(), STYLE));
}

#[test]
fn the_table_answers_in_its_first_line() {
    insta::assert_snapshot!("home", text("table", &home(), STYLE));
    insta::assert_snapshot!("poor", text("table", &poor(), STYLE));
    insta::assert_snapshot!("blocked", text("table", &blocked(), STYLE));
    insta::assert_snapshot!("unreachable", text("table", &unreachable(), STYLE));
}

#[test]
fn the_table_shows_evidence_when_asked() {
    insta::assert_snapshot!("evidence", text("table", &home(), Style { evidence: true, ..STYLE }));
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    for report in [home(), poor(), blocked(), unreachable()] {
        for evidence in [false, true] {
            for width in [40, 50, 60, 80, 100, 140] {
                let text = text("table", &report, Style { width, evidence });
                for line in text.lines() {
                    assert!(line.chars().count() <= usize::from(width), "{width}: {line}");
                }
            }
        }
    }
}

#[test]
fn a_narrow_terminal_gets_cells_below_each_other() {
    insta::assert_snapshot!("narrow", text("table", &home(), Style { width: 40, ..STYLE }));
}

#[test]
fn our_own_text_is_plain_ascii() {
    for report in [home(), poor(), blocked(), unreachable()] {
        let text = text("table", &report, Style { evidence: true, ..STYLE });
        assert!(text.is_ascii(), "{text}");
    }
}

#[test]
fn a_line_for_each_family() {
    let all: String =
        [home(), poor(), blocked(), unreachable()].iter().map(|r| text("line", r, STYLE)).collect();
    insta::assert_snapshot!("lines", all);
}

#[test]
fn json_is_what_the_schema_says() {
    let schema = jsonschema::validator_for(&nat_check_core::schema::report()).unwrap();
    for report in [home(), poor(), blocked(), unreachable()] {
        let value = serde_json::from_str(&text("json", &report, STYLE)).unwrap();
        let errors: Vec<String> = schema.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
    assert!(!schema.is_valid(&json!({ "version": 1 })));
    insta::assert_snapshot!("json", text("json", &home(), STYLE));
}

/// A document is as large as what it shows, and what it shows is bounded.
#[test]
fn html_is_one_small_document_that_loads_nothing() {
    for report in [home(), poor(), blocked(), unreachable(), dual()] {
        let html = (by_name("html").render)(&report, &STYLE);
        assert!(html.starts_with("<!doctype html>") && html.ends_with("</html>\n"));
        assert!(html.len() < 200_000, "{} bytes", html.len());
        assert!(html.contains(&report.hole_punching.summary));
        let markup = html.split("<script").next().unwrap_or_default();
        for word in ["http://", "https://", "src=", "url(", "@import"] {
            assert!(!markup.contains(word), "{word}");
        }
    }
}

#[test]
fn a_terminal_gets_colour_and_a_file_does_not() {
    let coloured = (by_name("table").render)(&home(), &STYLE);
    assert!(coloured.starts_with("\u{1b}["));
    assert!(!text("table", &home(), STYLE).contains('\u{1b}'));
    assert!(!(by_name("json").render)(&home(), &STYLE).contains('\u{1b}'));
}
