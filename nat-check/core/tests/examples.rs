//! The examples run, and print what they promise.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{net::SocketAddr, path::PathBuf, process::Command};

use probe_server::{Server, config::Config, topology::Endpoint};

/// Runs an example, which cargo builds beside the tests, and gives what it prints.
fn run(example: &str, args: &[&str]) -> String {
    let mut path: PathBuf = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.extend(["examples", example]);
    path.set_extension(std::env::consts::EXE_EXTENSION);
    let output = Command::new(&path).args(args).output().unwrap_or_else(|e| {
        panic!("{}: {e}; `cargo test` builds it, unless a target is chosen", path.display())
    });
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{example}: {error}");
    println!("{example}:\n{out}");
    out.into_owned()
}

fn server() -> (Server, SocketAddr) {
    let server = Server::start(Config::local()).unwrap();
    let primary = server.topologies()[0].bound(Endpoint::Primary).unwrap();
    (server, primary)
}

/// The number before this word.
fn number(text: &str, word: &str) -> u32 {
    let before = text.split(word).next().unwrap().trim_end();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_in_use_is_measured_while_its_own_traffic_flows() {
    let (_server, primary) = server();
    let out = run("owned_socket", &[&primary.to_string()]);
    let (sent, back) = (number(&out, "sent"), number(&out, "came back"));
    assert!(sent >= 1000 && back == sent && number(&out, "wrong") == 0, "{out}");
    assert!(number(&out, "meanwhile") > 1, "{out}");
    assert!(number(&out, "datagrams\n") > 0 && out.contains("mapping: direct"), "{out}");
    let port = out.split("on port ").nth(1).unwrap().split(' ').next().unwrap();
    assert!(out.contains(&format!("127.0.0.1:{port}]")), "{out}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_server_is_asked() {
    let (_server, primary) = server();
    let out = run("real_server", &[&primary.to_string()]);
    assert!(out.contains("IPv4: open-internet (") && out.contains("hole punching: "), "{out}");
}

#[test]
fn a_simulated_nat_is_recognised() {
    let out = run("simulated_nat", &["mapping=apd,filtering=apd,ports=sequential"]);
    assert!(out.contains("mapping:   address-and-port-dependent"), "{out}");
    assert!(out.contains("NAT type:  symmetric"), "{out}");
}
