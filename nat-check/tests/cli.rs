//! The command line from outside: the built program, its output and exit codes.

#![expect(clippy::unwrap_used, reason = "a helper of tests may panic as a test may")]

use std::{
    io::Read,
    net::{Ipv4Addr, UdpSocket},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

fn nat_check(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat-check"));
    command.args(line.split_whitespace()).env_remove("NAT_CHECK_SERVER").env_remove("COLUMNS");
    command.stdin(Stdio::null());
    command
}

fn run(line: &str) -> (i32, String, String) {
    let Output { status, stdout, stderr } = nat_check(line).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn json(line: &str) -> Value {
    let (code, out, err) = run(line);
    assert_eq!(code, 0, "{line}: {err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn help_is_what_was_reviewed() {
    let (code, out, err) = run("-h");
    assert_eq!((code, err.as_str()), (0, ""));
    insta::assert_snapshot!("short help", out);
    insta::assert_snapshot!("long help", run("--help").1);
    insta::assert_snapshot!("punch help", run("punch --help").1);
}

#[test]
fn usage_errors_name_the_value_and_exit_with_2() {
    for (line, named) in [
        ("", "NAT_CHECK_SERVER"),
        ("--server example.org:0", "`0` is not a port"),
        ("--server [::1] -4", "[::1] is an IPv6 address"),
        ("--local --server example.org", "--local"),
        ("--simulate no-such-nat", "no-such-nat"),
        ("--simulate linux --only bogus", "bogus"),
        ("--simulate linux --require ipv4.udp.maping=direct", "maping"),
        ("--simulate linux --format yaml", "yaml"),
        ("--simulate linux --timeout -1", "-1"),
        ("--server 192.0.2.1 --bind 192.0.2.77", "192.0.2.77"),
        ("--server 192.0.2.1 --bind ::1 -4", "::1"),
        ("--bogus", "--bogus"),
    ] {
        let (code, out, err) = run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.contains(named), "{line} says {err}");
        assert!(!err.contains("panicked"), "{err}");
    }
}

#[test]
fn a_port_that_is_in_use_is_named() {
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = taken.local_addr().unwrap();
    let (code, _, err) = run(&format!("--server 127.0.0.1:9 --bind {at}"));
    assert_eq!(code, 2, "{err}");
    assert!(err.contains(&at.to_string()) && err.lines().count() == 1, "{err}");
}

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
    assert_eq!(report["warnings"], serde_json::json!([]));
}

#[test]
fn a_server_that_is_not_there_gives_3_and_still_a_report() {
    // A port that was free a moment ago: nobody answers there.
    let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (code, out, err) = run(&format!("--server {gone} --json --timeout 3"));
    assert_eq!(code, 3, "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(err.contains(&gone.to_string()), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["ipv4"]["status"], "unreachable");
    assert_eq!(report["server"]["query"], gone.to_string());
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
fn the_committed_schema_is_current() {
    let generated: Value = serde_json::from_str(&run("--generate schema").1).unwrap();
    assert_eq!(
        committed_schema(),
        generated,
        "run: cargo run -p nat-check -- --generate schema > nat-check/schema/report.schema.json"
    );
}

#[test]
fn the_committed_schema_of_a_punch_is_current() {
    let generated: Value = serde_json::from_str(&run("--generate punch-schema").1).unwrap();
    let committed: Value = serde_json::from_str(include_str!("../schema/punch.schema.json")).unwrap();
    assert_eq!(
        committed, generated,
        "run: cargo run -p nat-check -- --generate punch-schema > nat-check/schema/punch.schema.json"
    );
}

#[test]
fn a_punch_that_cannot_begin_says_why() {
    for (line, code, named) in [
        ("punch", 2, "NAT_CHECK_SERVER"),
        ("punch --server 127.0.0.1 --code nonsense", 2, "nonsense"),
        ("punch --server 127.0.0.1 --techniques magic", 2, "magic"),
        ("punch --server 127.0.0.1:1", 3, "no connection to the rendezvous at 127.0.0.1:1"),
        ("--local punch --server 127.0.0.1", 2, "punch"),
    ] {
        let (got, out, err) = run(line);
        assert_eq!((got, out.as_str()), (code, ""), "{line}: {err}");
        assert!(err.contains(named), "{line} says {err}");
    }
}

fn committed_schema() -> Value {
    serde_json::from_str(include_str!("../schema/report.schema.json")).unwrap()
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = nat_check("--simulate full-cone --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the report is there, so that all of it meets a closed pipe.
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn no_terminal_means_neither_colour_nor_progress() {
    let (code, out, err) = run("--simulate full-cone");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!out.contains('\u{1b}'));
}

#[test]
fn the_server_may_come_from_the_environment() {
    let output = nat_check("-6").env("NAT_CHECK_SERVER", "192.0.2.1").output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("192.0.2.1 is an IPv4 address"));
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
            found.as_str().map_or_else(|| found.to_string(), str::to_owned)
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
    ("lifetime", "/ipv4/udp/lifetime/value/unreplied/alive_s", "5.0", None),
    ("response-port", "/server/features/response_port/value", "true", Some("response-port")),
    ("classic", "/server/features/classic/value", "true", Some("classic")),
];

#[cfg(target_os = "linux")]
#[test]
fn a_report_that_cannot_be_written_is_no_unreachable_server() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let output = nat_check("--simulate full-cone --json").stdout(full).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("standard output") && errors.lines().count() == 1, "{errors}");
}
