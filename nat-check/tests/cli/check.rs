//! Whole checks: reports, exit codes, conditions.
use serde_json::Value;

use crate::{json, run};

#[test]
fn the_embedded_server_shows_an_open_host() {
    let report = json("--local --json");
    assert_eq!(report["server"]["found_by"], "local");
    assert_eq!(report["simulated"], false);
    let udp = &report["ipv4"]["udp"];
    assert_eq!(udp["mapping"]["value"], "direct", "{udp:#}");
    assert_eq!(udp["filtering"]["value"], "endpoint-independent", "{udp:#}");
    assert_eq!(udp["nat_type"]["value"], "open-internet", "{udp:#}");
    assert_eq!(report["hole_punching"]["level"], "any-peer");
    assert_eq!(report["server"]["faults"], serde_json::json!([]));
    let warnings = report["warnings"].as_array().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].as_str().unwrap().contains("is on this host"), "{warnings:?}");
}

#[test]
fn a_server_that_is_not_there_gives_3_and_still_a_report() {
    // An address on loopback that no test listens at.
    let gone = "127.99.0.1:3478";
    let (code, out, err) = run(&format!("--server {gone} --json --timeout 3"));
    assert_eq!(code, 3, "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.contains(gone), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ipv4"]["status"], "unreachable");
    assert_eq!(report["server"]["query"], gone);
    assert_eq!(report["hole_punching"]["level"], "unknown");
}

#[test]
fn a_name_that_does_not_resolve_gives_3() {
    let (code, out, err) = run("--server probe.invalid --json --require hole-punching=none");
    assert_eq!(code, 3, "{err}");
    assert!(err.contains("probe.invalid") && err.lines().count() == 1, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["server"]["found_by"], Value::Null);
    assert!(report["ipv4"]["reason"].as_str().unwrap().contains("probe.invalid"), "{report:#}");
}

#[test]
fn requirements_decide_the_exit_code() {
    let (code, _, err) = run("--simulate symmetric --json --require hole-punching=some-peers");
    assert_eq!((code, err.as_str()), (0, ""));
    let (code, _, err) =
        run("--simulate symmetric --json --require ipv4.udp.rtt_s<0.2 --require ipv4.udp.loss<=0");
    assert_eq!((code, err.as_str()), (0, ""));
    let (code, _, err) = run("--simulate symmetric --json --require ipv4.udp.rtt_s>=10");
    assert_eq!(code, 1);
    assert!(err.starts_with("nat-check: required ipv4.udp.rtt_s>=10, got 0."), "{err}");
    let (code, out, err) =
        run("--simulate symmetric --require hole-punching=most-peers --require ipv4.udp.mapping=direct");
    assert_eq!(code, 1);
    assert!(out.contains("symmetric"), "the report is still printed: {out}");
    assert!(err.contains("required hole-punching=most-peers, got some-peers"), "{err}");
    assert!(err.contains("required ipv4.udp.mapping=direct, got address-and-port-dependent"), "{err}");
}

#[test]
fn a_simulated_report_says_so_and_fits_the_schema() {
    let schema = jsonschema::validator_for(&committed_schema()).unwrap();
    for nat in ["open", "full-cone", "symmetric", "udp-blocked"] {
        let report = json(&format!("--simulate {nat} --json --seed 1"));
        let errors: Vec<String> = schema.iter_errors(&report).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{nat}: {errors:?}");
        assert_eq!(report["simulated"], true);
    }
    let (_, table, _) = run("--simulate full-cone");
    assert!(table.lines().take(4).any(|line| line.contains("Simulated network")), "{table}");
}

#[test]
fn a_punch_without_a_server_gives_3() {
    let (code, out, err) = run("punch --server 127.0.0.1:1");
    assert_eq!((code, out.as_str()), (3, ""), "{err}");
    assert!(err.contains("no connection to the rendezvous at 127.0.0.1:1"), "{err}");
}

#[test]
fn every_listed_test_can_be_run_alone_or_left_out() {
    let (code, list, _) = run("--list");
    assert_eq!(code, 0);
    let names: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    for name in &names {
        assert!(FINDINGS.iter().any(|(test, ..)| test == name), "what {name} finds is not said here");
    }
    for &(test, finding, value, without) in FINDINGS {
        assert!(names.contains(&test), "{test} is not listed: {list}");
        let told = |options: &str| {
            let report = json(&format!("--simulate {NAT} --json --seed 1 {options}"));
            let found = report.pointer(finding).unwrap_or_else(|| panic!("{options}: no {finding}"));
            // What happens at the same moment is not always taken in the same order, which costs a hundredth of a second.
            let number = found.as_f64().map(|number| format!("{number:.0}"));
            number.or_else(|| found.as_str().map(str::to_owned)).unwrap_or_else(|| found.to_string())
        };
        let lifetime = if test == "lifetime" { "--lifetime=5" } else { "" };
        assert_eq!(told(&format!("--only {test} {lifetime}")), value, "--only {test}");
        if let Some(without) = without {
            assert_eq!(told(&format!("--skip {without}")), "null", "--skip {without}");
        }
    }
    let only = json(&format!("--simulate {NAT} --json --only mapping"));
    assert_eq!(only["ipv4"]["udp"]["filtering"]["value"], Value::Null);
    let without = json(&format!("--simulate {NAT} --json --skip hairpinning"));
    assert_eq!(without["ipv4"]["udp"]["filtering"]["value"], "address-and-port-dependent");
}

/// A NAT behind which every test has something to find.
const NAT: &str = "port-restricted-cone,hairpin=external";

/// A test, where the report has what it finds, what that is behind [`NAT`], and what to leave out so that it is not
/// run: itself and all that build on it. None, where every answer that another test gets tells as much.
type Expected = (&'static str, &'static str, &'static str, Option<&'static str>);

const FINDINGS: &[Expected] = &[
    (
        "mapping",
        "/ipv4/udp/mapping/value",
        "endpoint-independent",
        Some("mapping,filtering,inbound-first,distance"),
    ),
    (
        "filtering",
        "/ipv4/udp/filtering/value",
        "address-and-port-dependent",
        Some("filtering,inbound-first,distance"),
    ),
    ("port-allocation", "/ipv4/udp/port_allocation/value/policy", "preserving", None),
    ("hairpinning", "/ipv4/udp/hairpinning/value", "true", Some("hairpinning")),
    ("alg", "/ipv4/udp/alg/value", "false", None),
    ("inbound-first", "/ipv4/udp/inbound_first_remap/value", "false", Some("inbound-first")),
    ("distance", "/ipv4/udp/distance/value", "1", Some("distance")),
    // The simulated host has no IPv6.
    ("ipv6", "/ipv6/status", "unavailable", None),
    ("layers", "/layers/at_least/value", "1", None),
    ("lifetime", "/ipv4/udp/lifetime/value/unreplied/alive_s", "5", None),
    // The gateway of this one opens no ports.
    ("port-mapping", "/port_mapping/gateway", "192.168.77.1", None),
    ("response-port", "/server/features/response_port/value", "true", Some("response-port")),
    ("classic", "/server/features/classic/value", "true", Some("classic")),
    ("tcp-mapping", "/ipv4/tcp/mapping/value", "endpoint-independent", None),
    (
        "tcp-filtering",
        "/ipv4/tcp/filtering/value",
        "address-and-port-dependent",
        Some("tcp-filtering,tcp-syn"),
    ),
    ("tcp-syn", "/ipv4/tcp/unsolicited_syn/value/answer", "drop", None),
    ("tcp-simultaneous-open", "/ipv4/tcp/simultaneous_open/value", "true", Some("tcp-simultaneous-open")),
    // Simulated NATs see no more of a connection than its handshake.
    ("tcp-idle", "/ipv4/tcp/idle/reason_code", "server-honours-part", None),
];

fn committed_schema() -> Value {
    serde_json::from_str(include_str!("../../schema/report.schema.json")).unwrap()
}
