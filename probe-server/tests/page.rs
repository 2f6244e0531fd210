//! The page for browsers of the real program: a thousand measurements at once, and what forged ones get.

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use shared::stun::{
    TransactionId,
    ice::{self, Credentials, MAX_CHECK},
};
use tokio::{net::TcpSocket, time::Instant};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

/// The program, killed when dropped.
struct Program {
    child: Child,
    /// Where the page is.
    http: SocketAddr,
    /// Where it measures.
    page: SocketAddr,
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Program {
    let mut child = Command::new(env!("CARGO_BIN_EXE_probe-server"))
        .args(["--local", "--port", "0", "--alternate-port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let (mut http, mut page) = (None, None);
    for line in lines.map(|line| line.expect("text")) {
        let at = || line.split_whitespace().nth(2).and_then(|at| at.parse().ok());
        http = http.or(at().filter(|_| line.starts_with("ready tcp ")));
        page = page.or(at().filter(|_| line.starts_with("ready page ")));
        if http.is_some() && page.is_some() {
            break;
        }
    }
    Program { child, http: http.expect("a ready line"), page: page.expect("a ready line") }
}

/// A page, as far as the server can tell.
struct Page(WebSocketStream<tokio::net::TcpStream>);

impl Page {
    async fn open(server: SocketAddr, from: Ipv4Addr) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((from, 0).into()).expect("an address of loopback");
        let stream = socket.connect(server).await.expect("a connection");
        let config = WebSocketConfig::default().read_buffer_size(512).write_buffer_size(0);
        let url = format!("ws://{server}/see");
        Self(client_async_with_config(url, stream, Some(config)).await.expect("a websocket").0)
    }

    async fn say(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.expect("sent");
    }

    /// The next message of this type.
    async fn hear(&mut self, kind: &str) -> Value {
        loop {
            let message = self.0.next().await.expect("an answer").expect("a message");
            let message: Value = serde_json::from_str(message.to_text().expect("text")).expect("json");
            assert_ne!(message["type"], "refused", "{message}");
            if message["type"] == kind {
                return message;
            }
        }
    }

    /// Everything that a page says at the beginning.
    async fn offer(&mut self) {
        for connection in 0..10 {
            let own = browser();
            self.say(json!({ "type": "offer", "connection": connection, "ufrag": own.ufrag, "password": own.password }))
                .await;
        }
        self.say(json!({ "type": "ready" })).await;
    }
}

fn browser() -> Credentials {
    Credentials { ufrag: "brow".into(), password: "p".repeat(24) }
}

/// Resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    line.split_whitespace().nth(1).expect("a figure").parse().expect("a number")
}

/// As many as there may be connections; no browser ever comes, which takes each of them longest.
#[test]
#[cfg(target_os = "linux")]
fn a_thousand_measurements_at_once_fit_into_64_mib() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    const PAGES: u32 = 1000;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("a soft limit may be raised");
    let program = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let before = resident(program.child.id());
        let begun = Instant::now();
        let mut pages = Vec::new();
        for number in 0..PAGES {
            // Ten of each host, each in a network of its own.
            let from = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 1).to_bits() + ((number / 10) << 8));
            let mut page = Page::open(program.http, from).await;
            page.hear("begin").await;
            page.offer().await;
            page.hear("answer").await;
            pages.push(page);
        }
        let during = resident(program.child.id()) - before;
        for page in &mut pages {
            let report = page.hear("report").await;
            assert_eq!(report["report"]["version"], 1);
        }
        let peak = resident(program.child.id()) - before;
        println!(
            "{PAGES} measurements at once: {during} KiB, {} KiB each; {peak} KiB with their reports, all in {:.1} s",
            during / u64::from(PAGES),
            begun.elapsed().as_secs_f64()
        );
        assert!(peak < 64 * 1024, "{peak} KiB");
    });
}

/// Whoever has no password gets nothing; who has one and does not answer gets no more than it sends. After the end of a
/// session its own checks get nothing.
#[test]
fn forged_checks_get_nothing_and_an_unproven_address_no_more_than_it_sends() {
    let program = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut page = Page::open(program.http, Ipv4Addr::LOCALHOST).await;
        page.offer().await;
        let answer = page.hear("answer").await;
        let text = |name: &str| answer[name].as_str().expect("text").to_owned();
        let server = Credentials { ufrag: text("ufrag"), password: text("password") };
        let [forger, victim] = [(); 2].map(|()| {
            let socket = UdpSocket::bind("127.0.0.9:0").expect("a socket");
            socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
            socket
        });
        let send = |from: &UdpSocket, to: &Credentials, own: &str, number: u8| {
            let mut buffer = [0; MAX_CHECK];
            let id = TransactionId::modern_from([number; 12]);
            let length = ice::write_check(&mut buffer, &id, own, to, 0x6e00_1eff, 1).expect("it fits");
            from.send_to(&buffer[..length], program.page).expect("sent");
            length
        };
        let received = |by: &UdpSocket| {
            let mut buffer = [0; 2048];
            let lengths = std::iter::from_fn(|| by.recv_from(&mut buffer).ok()).map(|(length, _)| length);
            lengths.collect::<Vec<_>>()
        };
        for number in 0..50 {
            send(&forger, &Credentials { password: "0".repeat(32), ..server.clone() }, "brow", number);
            send(&forger, &Credentials { ufrag: "ffffffff0".into(), ..server.clone() }, "brow", number);
            send(&forger, &server, "other", number);
        }
        let came: usize = (0..50).map(|number| send(&victim, &server, "brow", number)).sum();
        // By then the session has ended, and what it had to send has been sent.
        page.hear("report").await;
        drop(page);
        assert_eq!(received(&forger), [0; 0], "forged");
        let left: Vec<usize> = received(&victim);
        println!(
            "{came} bytes in 50 checks from an address that does not answer, {} bytes in {} to it",
            left.iter().sum::<usize>(),
            left.len()
        );
        assert!(!left.is_empty() && left.len() <= 50 && left.iter().sum::<usize>() <= came, "{left:?}");
        send(&victim, &server, "brow", 99);
        assert_eq!(received(&victim), [0; 0], "a check of a session that is over");
    });
}
