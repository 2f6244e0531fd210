//! Command lines that make no sense: one line that names the value, exit code 2, and nothing on standard output.

use std::net::{Ipv4Addr, UdpSocket};

use crate::{ended, nat_check, run};

/// A command line, and what its message must name.
const BAD: &[(&str, &str)] = &[
    ("", "NAT_CHECK_SERVER"),
    ("punch", "NAT_CHECK_SERVER"),
    // Servers.
    ("--server example.org:0", "`0` is not a port"),
    ("--server example.org:99999", "99999"),
    ("--server [::1", "[::1"),
    ("--server ..", ".."),
    ("--server [::1] -4", "[::1]: an IPv6 address"),
    ("--server 192.0.2.1 -6", "192.0.2.1: an IPv4 address"),
    ("--server 127.0.0.1 --bind ::1", "--bind ::1 means IPv6"),
    ("--server", "--server <HOST[:PORT]>"),
    ("--local --server example.org", "--local"),
    ("", "--public"),
    ("--server @/nonexistent", "--server @/nonexistent: "),
    ("--server @/dev/null", "no server in it"),
    ("--public=/nonexistent", "--public /nonexistent: "),
    ("--public --local", "--local"),
    ("--public --simulate linux", "--simulate"),
    ("--local --simulate linux", "--simulate"),
    ("--simulate no-such-nat", "no-such-nat"),
    ("--simulate mapping=magic", "magic"),
    // What to measure.
    ("-4 -6 --local", "--ipv6"),
    ("--local --bind 10.0.0", "--bind 10.0.0"),
    ("--local --bind 192.0.2.77", "192.0.2.77"),
    ("--server 192.0.2.1 --bind ::1 -4", "::1"),
    ("--simulate linux --only bogus", "bogus: no such test; there are: mapping"),
    ("--simulate linux --skip mapping,bogus", "bogus"),
    ("--simulate linux --only mapping --skip alg", "--skip"),
    ("--simulate linux --timeout 0", "--timeout 0"),
    ("--simulate linux --timeout -1", "-1"),
    ("--simulate linux --timeout nan", "NaN"),
    ("--simulate linux --timeout inf", "inf"),
    ("--simulate linux --timeout 1e9", "--timeout 1000000000"),
    ("--simulate linux --timeout 5s", "5s"),
    ("--simulate linux --lifetime=1", "--lifetime 1"),
    ("--simulate linux --lifetime 1e9", "--lifetime"),
    ("--simulate linux --lifetime soon", "soon"),
    ("--simulate linux --seed -1", "-1"),
    ("--simulate linux --seed 1.5", "1.5"),
    // Output.
    ("--simulate linux --format yaml", "yaml"),
    ("--generate pdf", "pdf"),
    ("--generate man --local", "--generate"),
    // Conditions.
    ("--simulate linux --require ipv4.udp.maping=direct", "maping"),
    ("--simulate linux --require ipv4.udp.rtt_s", "quotes"),
    ("--simulate linux --require ipv4.udp.mapping<direct", "numbers only"),
    ("--simulate linux --require hole-punching=perfect", "any-peer"),
    ("--simulate linux --require hole_punching.level=perfect", "any-peer"),
    // Names.
    ("--bogus", "--bogus"),
    ("--timeot 5", "--timeout"),
    ("stray", "stray"),
    ("-x", "-x"),
    // A punch.
    ("punch --server 127.0.0.1 --code nonsense", "nonsense"),
    ("punch --server 127.0.0.1 --techniques magic", "magic"),
    ("punch --server 127.0.0.1 --wait -1", "-1"),
    ("punch --server 127.0.0.1 --wait 1e9", "--wait"),
    ("punch --server 127.0.0.1 --hold 1e9", "--hold"),
    ("punch --server 127.0.0.1 --tls 0", "0"),
    ("punch --server 127.0.0.1 --tls 70000", "70000"),
    ("punch --server 127.0.0.1 --ca /dev/null", "--tls"),
    ("punch --server 127.0.0.1 --tls --no-tls", "--no-tls"),
    ("punch --server 127.0.0.1 --tls --ca /nonexistent.pem", "/nonexistent.pem"),
    ("punch --server 127.0.0.1 --tls --ca /dev/null", "/dev/null"),
    ("punch --server 127.0.0.1 --local", "--local"),
    ("--local punch --server 127.0.0.1", "punch"),
];

#[test]
fn a_bad_command_line_gets_one_line_and_2() {
    for (line, named) in BAD {
        let (code, out, err) = run(line);
        assert_eq!((code, out.as_str()), (2, ""), "{line}: {err}");
        assert!(err.contains(named), "{line} says {err}");
        assert!(err.starts_with("nat-check: ") && err.lines().count() == 1, "{line} says {err}");
    }
}

#[test]
fn a_value_that_is_not_text_is_refused_as_well() {
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        let mut command = nat_check("--server");
        command.arg(std::ffi::OsStr::from_bytes(b"\xff\xfe"));
        let (code, out, err) = ended(command);
        assert_eq!((code, out.as_str(), err.lines().count()), (2, "", 1), "{err}");
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
fn the_server_may_come_from_the_environment() {
    let mut command = nat_check("-6");
    command.env("NAT_CHECK_SERVER", "192.0.2.1");
    let (code, _, err) = ended(command);
    assert_eq!(code, 2, "{err}");
    assert!(err.contains("192.0.2.1: an IPv4 address"), "{err}");
}

#[test]
fn what_is_repeated_is_no_error() {
    for line in [
        "--simulate linux -q -q",
        "--simulate linux -q -v --json --json",
        "--simulate linux --json --format line --timeout 5 --timeout 9 -q",
        "--simulate linux --lifetime 5 --only mapping -q",
    ] {
        let (code, out, err) = run(line);
        assert_eq!(code, 0, "{line}: {err}");
        assert!(!out.is_empty(), "{line}");
    }
}
