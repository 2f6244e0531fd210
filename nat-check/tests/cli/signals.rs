//! Signals: an interrupted run prints what it knows.

#![expect(clippy::disallowed_methods, reason = "real signals reach real programs in real time")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, UdpSocket},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use probe_server::{Server, config::Config, topology::Endpoint};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::nat_check;

/// Long enough for a busy machine, far below what the runs would take otherwise.
const SOON: Duration = Duration::from_secs(10);

fn started(line: &str) -> Child {
    nat_check(line).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits until a line on standard error has these words.
fn ended_test(child: &mut Child, test: &str) {
    let lines = BufReader::new(child.stderr.as_mut().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains(test)), "{test} never ended");
}

fn end(mut child: Child) -> (Option<i32>, String, String) {
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    (child.wait().unwrap().code(), out, err)
}

/// A run that knows what there is to know over UDP, and waits for an idle connection to be forgotten.
fn waiting(options: &str) -> (Server, Child) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let server = Server::start(Config::local()).unwrap();
    let at = server.topologies().first().and_then(|t| t.bound(Endpoint::Primary)).unwrap();
    let mut child = started(&format!("--server {at} --tcp-idle=60 -v {options}"));
    ended_test(&mut child, "  mapping");
    drop(inside);
    (server, child)
}

#[test]
fn an_interrupted_run_prints_what_is_known_by_then() {
    for (signal, expected) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let (_server, child) = waiting("--json");
        let begun = Instant::now();
        send(&child, signal);
        let (code, out, err) = end(child);
        assert_eq!(code, Some(expected), "{err}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(report["partial"], true);
        assert_eq!(report["ipv4"]["udp"]["mapping"]["value"], "direct", "{out}");
        assert!(err.ends_with("nat-check: interrupted: the report is partial\n"), "{err}");
    }
}

#[test]
fn the_table_says_that_it_is_partial() {
    let (_server, child) = waiting("");
    send(&child, Signal::INT);
    let (code, out, _) = end(child);
    assert_eq!(code, Some(130));
    assert!(out.contains("ended early"), "{out}");
}

/// A terminal that closes may say so twice: what is open is closed all the same, and the report printed.
#[test]
fn the_end_of_the_terminal_is_told_twice() {
    // Whoever runs the tests may ignore the signal, and programs inherit that.
    let mut command = std::process::Command::new("env");
    command.args([
        "--default-signal=HUP",
        env!("CARGO_BIN_EXE_nat-check"),
        "--local",
        "--tcp-idle=60",
        "-v",
        "--json",
    ]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    ended_test(&mut child, "  mapping");
    send(&child, Signal::HUP);
    send(&child, Signal::HUP);
    let (code, out, err) = end(child);
    assert_eq!(code, Some(129), "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["partial"], true);
}

#[test]
fn a_silent_server_is_not_waited_for_any_longer() {
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let child = started(&format!("--server {} --timeout 60 --json", silent.local_addr().unwrap()));
    silent.recv(&mut [0; 2048]).unwrap();
    let begun = Instant::now();
    send(&child, Signal::INT);
    let (code, out, err) = end(child);
    assert_eq!(code, Some(130), "{err}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&report["partial"], &report["ipv4"]["status"]), (&Value::Bool(true), &"unreachable".into()));
}

#[test]
fn an_interrupted_punch_prints_what_is_known_by_then() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let server = Server::start(Config::local()).unwrap();
    let at = server.topologies().first().and_then(|t| t.bound(Endpoint::Primary)).unwrap();
    drop(inside);
    for (signal, expected) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut child = started(&format!("punch --server {at} --json"));
        ended_test(&mut child, "code: ");
        send(&child, signal);
        let begun = Instant::now();
        let (code, out, err) = end(child);
        assert_eq!(code, Some(expected), "{err}");
        assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&report["partial"], &report["punch"]["outcome"]),
            (&true.into(), &"unknown".into()),
            "{out}"
        );
        assert!(report["punch"]["why"].as_str().unwrap().starts_with("Interrupted"), "{out}");
        assert!(err.ends_with("nat-check: interrupted: the report is partial\n"), "{err}");
    }
    let mut child = started(&format!("punch --server {at}"));
    ended_test(&mut child, "code: ");
    send(&child, Signal::INT);
    let (code, out, _) = end(child);
    assert_eq!(code, Some(130));
    assert!(out.contains("ended early"), "{out}");
}

#[test]
fn the_second_signal_ends_even_a_program_that_cannot_write() {
    // A pipe that is full: the report waits for ever.
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).unwrap();
    let mut child = nat_check("--local -v --json").stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
    ended_test(&mut child, "mapping");
    let begun = Instant::now();
    // Two signals at the same time count as one, so there are some more of them.
    let code = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status.code();
        }
        assert!(begun.elapsed() < SOON, "it does not end");
        send(&child, Signal::INT);
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(code, Some(130));
    let mut read = Vec::new();
    drop(child);
    reader.read_to_end(&mut read).unwrap();
    assert!(read.iter().all(|&byte| byte == b'x'), "the report was written after all");
}
