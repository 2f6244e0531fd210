//! The networks of the operator's page (docs/operating.md), built as it says: behind a 1:1 NAT, with two interfaces, and
//! with and without connection tracking. The server is the real program; packets pass real interfaces.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod namespace;

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::Duration,
};

use namespace::{Host, ask, in_a_namespace, nft, run};
use shared::stun::attr::{CHANGE_IP, CHANGE_PORT};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

/// The program, ended with the test.
struct Server(Child);

impl Server {
    fn start(host: &Host, arguments: &str) -> Self {
        let mut command = host.command(env!("CARGO_BIN_EXE_probe-server"));
        command.args(arguments.split(' ')).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("ready udp "), "{line}");
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// A client at 198.18.0.2 behind this router.
fn client() -> Host {
    let client = Host::new();
    client.connect("client", "eth0");
    run("ip address add 198.18.0.1/24 dev client");
    client.run("ip address add 198.18.0.2/24 dev eth0");
    client.run("ip route add default via 198.18.0.1");
    run("sysctl -q -w net.ipv4.ip_forward=1");
    client
}

/// All four ways that an answer may leave, as the client at `from` sees them.
fn answers_come_from_all_endpoints(client: &Host, primary: &str, alternate: &str) {
    let at = |ip: &str, port: u16| format!("{ip}:{port}").parse().unwrap();
    let rows = [
        (0, at(primary, 3478)),
        (CHANGE_PORT, at(primary, 3479)),
        (CHANGE_IP, at(alternate, 3478)),
        (CHANGE_IP | CHANGE_PORT, at(alternate, 3479)),
    ];
    for (change, from) in rows {
        let answer = client.run_inside(|| ask(&format!("{primary}:3478"), change, LONG));
        assert_eq!(answer, Some((from, Some(from), Some(at(alternate, 3479)))), "change {change}");
    }
}

#[test]
fn behind_a_real_one_to_one_nat_clients_are_told_public_addresses() {
    in_a_namespace("behind_a_real_one_to_one_nat_clients_are_told_public_addresses", &["nft"], || {
        let (client, server) = (client(), Host::new());
        server.connect("server", "eth0");
        run("ip address add 10.0.0.1/24 dev server");
        for ip in ["10.0.0.4/24", "10.0.0.5/24"] {
            server.run(&format!("ip address add {ip} dev eth0"));
        }
        server.run("ip route add default via 10.0.0.1");
        nft("table ip cloud {
            chain in { type nat hook prerouting priority dstnat;
                dnat to ip daddr map { 203.0.113.10 : 10.0.0.4, 203.0.113.11 : 10.0.0.5 }
            }
            chain out { type nat hook postrouting priority srcnat;
                snat to ip saddr map { 10.0.0.4 : 203.0.113.10, 10.0.0.5 : 203.0.113.11 }
            }
        }");
        let _program = Server::start(
            &server,
            "--primary 10.0.0.4 --alternate 10.0.0.5 --advertise 10.0.0.4=203.0.113.10 \
             --advertise 10.0.0.5=203.0.113.11 --check",
        );
        answers_come_from_all_endpoints(&client, "203.0.113.10", "203.0.113.11");
    });
}

#[test]
fn with_two_interfaces_each_address_needs_a_route_of_its_own() {
    in_a_namespace("with_two_interfaces_each_address_needs_a_route_of_its_own", &["nft"], || {
        let (client, server) = (client(), Host::new());
        for (i, net) in [(0, "10.1.0"), (1, "10.2.0")] {
            server.connect(&format!("uplink{i}"), &format!("eth{i}"));
            run(&format!("ip address add {net}.1/24 dev uplink{i}"));
            server.run(&format!("ip address add {net}.2/24 dev eth{i}"));
        }
        server.run("ip route add default via 10.1.0.1 dev eth0");
        // Each provider drops what does not come from the addresses that it gave.
        nft("table ip providers {
            chain forward { type filter hook forward priority filter;
                iifname uplink0 ip saddr != 10.1.0.0/24 drop
                iifname uplink1 ip saddr != 10.2.0.0/24 drop
            }
        }");
        let _program = Server::start(&server, "--primary 10.1.0.2 --alternate 10.2.0.2 --check");
        let other = || client.run_inside(|| ask("10.1.0.2:3478", CHANGE_IP, SHORT));
        assert_eq!(
            other(),
            None,
            "the self-check sees only this host: from outside, the second address is silent"
        );

        // The recipe.
        server.run("ip route add default via 10.2.0.1 dev eth1 table 102");
        server.run("ip rule add from 10.2.0.2 table 102");
        answers_come_from_all_endpoints(&client, "10.1.0.2", "10.2.0.2");
    });
}

#[test]
fn without_tracking_the_table_of_connections_stays_empty() {
    in_a_namespace("without_tracking_the_table_of_connections_stays_empty", &["nft", "conntrack"], || {
        let (client, server) = (client(), Host::new());
        server.connect("server", "eth0");
        run("ip address add 10.0.0.1/24 dev server");
        for ip in ["10.0.0.4/24", "10.0.0.5/24"] {
            server.run(&format!("ip address add {ip} dev eth0"));
        }
        server.run("ip route add default via 10.0.0.1");
        // Any rule that asks for the state of connections makes the kernel track them.
        server.nft(
            "table ip firewall {
            chain input { type filter hook input priority filter; ct state invalid drop; }
        }",
        );
        let _program = Server::start(&server, "--primary 10.0.0.4 --alternate 10.0.0.5");
        let requests = 200;
        let entries = || {
            client.run_inside(|| {
                for _ in 0..requests {
                    assert!(ask("10.0.0.4:3478", CHANGE_IP, LONG).is_some());
                }
            });
            let count =
                server.command("cat").arg("/proc/sys/net/netfilter/nf_conntrack_count").output().unwrap();
            String::from_utf8(count.stdout).unwrap().trim().parse::<usize>().unwrap()
        };
        let tracked = entries();
        // One entry for the request and one for the answer, except where a client got the same port again.
        assert!(tracked > requests * 3 / 2, "{tracked}");

        // The recipe.
        server.nft(
            "table inet raw {
            chain prerouting { type filter hook prerouting priority raw; udp dport { 3478, 3479 } notrack; }
            chain output { type filter hook output priority raw; udp sport { 3478, 3479 } notrack; }
        }",
        );
        assert!(server.command("conntrack").arg("-F").output().unwrap().status.success());
        let untracked = entries();
        println!(
            "{requests} requests leave {tracked} entries in the table of connections, with the recipe {untracked}"
        );
        assert_eq!(untracked, 0);
    });
}
