//! The rendezvous of the real program: it shares the port of STUN over TCP, can be switched off, and ten thousand
//! sessions that wait cost little.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use shared::rendezvous::{Limits, PATH, ToClient, ToServer, VERSION};
use tokio::net::TcpSocket;
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// The program, killed when dropped.
struct Program {
    child: Child,
    at: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start(arguments: &[&str]) -> Program {
    let mut child = Command::new(env!("CARGO_BIN_EXE_probe-server"))
        .args(["--local", "--port", "0", "--alternate-port", "0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let ready = lines.by_ref().map(|line| line.expect("text")).find(|line| line.starts_with("ready tcp "));
    let at =
        ready.expect("a ready line").split_whitespace().nth(2).expect("an address").parse().expect("one");
    Program { child, at }
}

type Client = WebSocketStream<tokio::net::TcpStream>;

/// A session that waits, opened from this address.
async fn open(server: SocketAddr, from: Ipv4Addr) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).expect("an address of loopback");
    let stream = socket.connect(server).await.expect("a connection");
    let config = WebSocketConfig::default().read_buffer_size(512).write_buffer_size(0);
    let url = format!("ws://{server}{PATH}");
    let (mut client, _) = client_async_with_config(url, stream, Some(config)).await.expect("a websocket");
    let message = serde_json::to_string(&ToServer::Open { version: VERSION }).expect("json");
    client.send(Message::text(message)).await.expect("sent");
    for number in 0..2 {
        let answer = client.next().await.expect("an answer").expect("a message");
        let answer: ToClient = serde_json::from_str(answer.to_text().expect("text")).expect("json");
        let wanted = matches!((number, &answer), (0, ToClient::Here { .. }) | (1, ToClient::Waiting { .. }));
        assert!(wanted, "{answer:?}");
    }
    client
}

/// A host on loopback in a network of its own.
fn host(number: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + (u32::try_from(number).expect("few") << 8))
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    line.split_whitespace().nth(1).expect("a figure").parse::<u64>().expect("a number") * 1024
}

#[test]
#[cfg(target_os = "linux")]
fn ten_thousand_waiting_sessions_fit_into_64_mib() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const SESSIONS: usize = 10_000;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("a soft limit may be raised");
    let enough = files.maximum.is_none_or(|most| most > SESSIONS as u64 + 200);
    assert!(enough, "this test needs {SESSIONS} open files; the hard limit is {:?}", files.maximum);

    let program = start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let before = resident(program.child.id());
        let mut clients = Vec::with_capacity(SESSIONS);
        for number in 0..SESSIONS {
            // As many from each host as one may have.
            let from = host(number / Limits::default().per_host);
            clients.push(open(program.at, from).await);
        }
        let after = resident(program.child.id());
        println!(
            "{} waiting sessions: {:.1} MiB resident before, {:.1} MiB after, {} bytes a session",
            clients.len(),
            before as f64 / 1048576.0,
            after as f64 / 1048576.0,
            (after - before) / SESSIONS as u64
        );
        assert!(after - before <= 64 << 20, "{} bytes", after - before);
    });
}

#[test]
fn one_switch_turns_it_off() {
    let begin = |program: &Program| {
        let mut stream = TcpStream::connect(program.at).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        let request = format!(
            "GET {PATH} HTTP/1.1\r\nHost: probe\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).map(|()| String::from_utf8_lossy(&answer).into_owned())
    };
    assert_eq!(begin(&start(&[])).expect("an answer"), "HTTP/1.1 101");
    assert!(begin(&start(&["--no-rendezvous"])).is_err(), "there is somebody");
}
