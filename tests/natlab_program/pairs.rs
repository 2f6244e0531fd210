//! Two commands: whose end is the end, where outputs go, what is told.

use std::{fs, time::Duration};

use tokio::time::Instant;

use super::linux::{Stage, command, natlab};

pub(crate) const TESTS: [(&str, fn()); 8] = [
    ("the_end_of_one_side_can_be_the_end", the_end_of_one_side_can_be_the_end),
    ("the_time_can_be_up", the_time_can_be_up),
    ("programs_in_the_background_are_not_waited_for", programs_in_the_background_are_not_waited_for),
    ("the_first_side_gets_standard_input", the_first_side_gets_standard_input),
    ("outputs_go_where_they_should", outputs_go_where_they_should),
    ("the_side_that_failed_is_named", the_side_that_failed_is_named),
    ("the_family_of_direct_packets_is_named", the_family_of_direct_packets_is_named),
    ("an_interrupt_ends_a_pair_that_does_not_listen", an_interrupt_ends_a_pair_that_does_not_listen),
];

const TWO: &str = "pair --nat linux --nat linux";

fn the_end_of_one_side_can_be_the_end() {
    let ran = natlab(&format!("{TWO} -q --until b -- sleep 86400 --- sh -c {{exit 4}}"));
    assert_eq!(ran.code, 4);
    let ran = natlab(&format!("{TWO} -q --until a -- true --- sleep 86400"));
    assert_eq!(ran.code, 0);
}

fn the_time_can_be_up() {
    let ran = natlab(&format!("{TWO} --timeout 300ms -- sleep 86400 --- true"));
    assert_eq!(ran.code, 124);
    assert!(ran.stderr.contains("the time is up"), "{}", ran.stderr);
}

fn programs_in_the_background_are_not_waited_for() {
    let start = Instant::now();
    let ran = natlab(&format!("{TWO} -q -- sh -c {{sleep 86400 & echo up}} --- true"));
    assert_eq!((ran.code, &*ran.stdout), (0, "a| up\n"));
    assert!(start.elapsed() < Duration::from_secs(60));
}

fn the_first_side_gets_standard_input() {
    use std::io::Write as _;
    let mut child = command(&format!("{TWO} -q --raw -- cat --- cat"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("natlab starts");
    child.stdin.take().expect("a pipe").write_all(b"hello\n").expect("written");
    let output = child.wait_with_output().expect("an end");
    assert_eq!((output.status.code(), &*output.stdout), (Some(0), &b"hello\n"[..]));
}

fn outputs_go_where_they_should() {
    let folder = tempfile::tempdir().expect("a folder");
    let line =
        format!("{TWO} -q --output {} -- sh -c {{echo 1; echo 2 >&2}} --- echo 3", folder.path().display());
    let ran = natlab(&line);
    assert_eq!((ran.code, &*ran.stdout), (0, ""), "{}", ran.stderr);
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).expect(name);
    assert_eq!([read("a.out"), read("a.err"), read("b.out")], ["1\n", "2\n", "3\n"]);
}

fn the_side_that_failed_is_named() {
    let ran = natlab(&format!("{TWO} -- true --- sh -c {{exit 9}}"));
    assert_eq!(ran.code, 9);
    assert!(ran.stderr.contains("b ended with exit code 9"), "{}", ran.stderr);
}

fn the_family_of_direct_packets_is_named() {
    // What is under way at the very end is not counted any more.
    let send = "bash -c {echo hello > /dev/udp/b/9; sleep 2}";
    for (family, said) in [("", "over IPv4 (1 packets from a"), ("-6", "over IPv6 (1 packets from a")] {
        let line = format!("pair {family} --nat linux --nat open --summary - -- {send} --- true");
        let ran = natlab(&line);
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
        let json = ran.stdout.find('{').map_or("", |at| &ran.stdout[at..]);
        let summary: serde_json::Value = serde_json::from_str(json).expect(&ran.stdout);
        assert_eq!(summary["flows"][0]["family"], if family.is_empty() { "ipv4" } else { "ipv6" });
        assert_eq!(summary["nats"][0]["mappings_made"], 1, "{summary}");
    }
    let nothing = natlab(&format!("{TWO} -- true --- true"));
    assert!(nothing.stderr.contains("no packet of a reached b directly"), "{}", nothing.stderr);
}

fn an_interrupt_ends_a_pair_that_does_not_listen() {
    let deaf = "sh -c {trap true INT; echo up; while :; do sleep 86400; done}";
    let mut stage = Stage::begin_with(&format!("{TWO} -q -- {deaf} --- true"), "a| up\n");
    let pid = rustix::process::Pid::from_child(&stage.child);
    rustix::process::kill_process_group(pid, rustix::process::Signal::INT).expect("a signal");
    assert_eq!(stage.child.wait().expect("an end").code(), Some(130));
    stage.everything_ends();
}
