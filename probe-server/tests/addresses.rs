//! Addresses that are missing, come, vanish and return, in a network namespace of the test's own: one family does not
//! wait for the other, and nothing has to be restarted.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod namespace;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use namespace::{in_a_namespace, run};
use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_probe-server");
struct Server {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Server {
    fn start(arguments: &str) -> Self {
        let mut command = Command::new(PROGRAM);
        command.args(arguments.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    fn ready(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn log_until(&mut self, text: &str) {
        let mut line = String::new();
        while !line.contains(text) {
            line.clear();
            assert!(self.stderr.read_line(&mut line).unwrap() > 0, "the log ends without '{text}'");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// What OTHER-ADDRESS says to a request to this address.
fn other_address(server: &str) -> Option<SocketAddr> {
    let (from, _, other) = namespace::ask(server, 0, Duration::from_secs(10)).unwrap();
    assert_eq!(from, server.parse().unwrap());
    other
}

fn health() -> String {
    let mut stream = TcpStream::connect("127.0.0.1:9478").unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn addresses_may_come_late_vanish_and_return() {
    in_a_namespace("addresses_may_come_late_vanish_and_return", &[], || {
        run("ip address add 192.0.2.10/32 dev lo");
        run("ip address add 192.0.2.11/32 dev lo");
        run("ip address add 2001:db8::10/128 dev lo nodad");
        let mut server = Server::start(
            "--primary 192.0.2.10 --alternate 192.0.2.11 --primary 2001:db8::10 --alternate 2001:db8::11 \
             --admin 9478 --check --no-tcp",
        );
        // One family is ready although the other is not; what is left of that one is honest about it.
        assert_eq!(
            server.ready(),
            "ready udp 192.0.2.10:3478 192.0.2.10:3479 192.0.2.11:3478 192.0.2.11:3479"
        );
        server.log_until("2001:db8::11");
        assert_eq!(other_address("[2001:db8::10]:3478"), None);
        assert!(health().contains("2001:db8::11 is not an address of this host"));

        run("ip address add 2001:db8::11/128 dev lo nodad");
        assert!(server.ready().starts_with("ready udp [2001:db8::10]:3478"));
        assert_eq!(other_address("[2001:db8::10]:3478"), Some("[2001:db8::11]:3479".parse().unwrap()));
        assert!(health().contains("ok, 32 combinations answered"), "{}", health());

        for _ in 0..3 {
            run("ip address delete 192.0.2.11/32 dev lo");
            server.log_until("an address is gone");
            assert_eq!(other_address("192.0.2.10:3478"), None);
            assert_eq!(other_address("[2001:db8::10]:3479"), Some("[2001:db8::11]:3478".parse().unwrap()));
            run("ip address add 192.0.2.11/32 dev lo");
            server.log_until("an address is there");
            assert_eq!(other_address("192.0.2.11:3479"), Some("192.0.2.10:3478".parse().unwrap()));
        }
        assert!(health().contains("ok, 32 combinations answered"), "{}", health());
        kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
        assert_eq!(server.child.wait().unwrap().code(), Some(0));
    });
}

#[test]
fn with_no_address_at_all_it_ends() {
    in_a_namespace("with_no_address_at_all_it_ends", &[], || {
        let arguments = ["--primary", "192.0.2.10", "--alternate", "192.0.2.11", "--primary", "2001:db8::10"];
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains("udp 192.0.2.10:3478: not an address of this host"), "{message}");
    });
}
