//! The rendezvous of the real program: it shares the port of STUN over TCP, can be switched off, ten thousand
//! sessions that wait cost little, and whatever strangers do, it stays below the memory that its unit file allows.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use probe_server::{
    Server, config::Config, http::HttpOptions, rendezvous::SessionLimits, test_session::TestLimits,
    topology::Endpoint,
};
use shared::rendezvous::{
    Code, MAX_MESSAGE, MAX_PAYLOAD, PATH, Payload, Refusal, ToClient, ToServer, VERSION,
    room::MAX_ROOM_PAYLOAD,
};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpSocket;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, crypto::ring};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        Message,
        client::IntoClientRequest,
        protocol::{WebSocketConfig, frame::coding::CloseCode},
    },
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
    start_over("tcp", arguments)
}

fn start_over(transport: &str, arguments: &[&str]) -> Program {
    let mut child = Command::new(env!("CARGO_BIN_EXE_probe-server"))
        .args(["--local", "--port", "0", "--alternate-port", "0"])
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let ready = lines
        .by_ref()
        .map(|line| line.expect("text"))
        .find(|line| line.starts_with(&format!("ready {transport} ")));
    let at =
        ready.expect("a ready line").split_whitespace().nth(2).expect("an address").parse().expect("one");
    Program { child, at }
}

type Client = WebSocketStream<tokio::net::TcpStream>;

/// A client that has said this and been welcomed, from this address.
async fn begin(server: SocketAddr, from: Ipv4Addr, first: &ToServer) -> Client {
    let mut client = connect(server, from, None).await;
    say(&mut client, first).await;
    assert!(matches!(hear(&mut client).await, ToClient::Welcome { .. }));
    client
}

/// A WebSocket from this address, which a proxy says is of another client.
async fn connect(server: SocketAddr, from: Ipv4Addr, forwarded_for: Option<&str>) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(IpAddr::V4(from), 0)).expect("an address of loopback");
    let stream = socket.connect(server).await.expect("a connection");
    let config = WebSocketConfig::default().read_buffer_size(512).write_buffer_size(0);
    let mut request = format!("ws://{server}{PATH}").into_client_request().expect("a request");
    if let Some(client) = forwarded_for {
        request.headers_mut().insert("x-forwarded-for", client.parse().expect("a header"));
    }
    client_async_with_config(request, stream, Some(config)).await.expect("a websocket").0
}

async fn say(client: &mut Client, message: &ToServer) {
    let text = serde_json::to_string(message).expect("json");
    client.send(Message::text(text)).await.expect("sent");
}

async fn hear(client: &mut Client) -> ToClient {
    let answer = client.next().await.expect("an answer").expect("a message");
    ToClient::parse(answer.to_text().expect("text")).expect("a message").expect("a known one")
}

/// A session that waits, opened from this address.
async fn open(server: SocketAddr, from: Ipv4Addr) -> (Client, Code) {
    let mut client = begin(server, from, &ToServer::Open { version: VERSION }).await;
    let ToClient::Waiting { code, .. } = hear(&mut client).await else { panic!("no code") };
    (client, code)
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
fn ten_thousand_waiting_sessions_fit_into_48_mib() {
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
            let from = host(number / SessionLimits::default().per_host);
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
        assert!(after - before <= 48 << 20, "{} bytes", after - before);
    });
}

/// A client over TLS that can stop in the middle of everything.
struct TlsClient {
    tls: ClientConnection,
    stream: TcpStream,
}

impl TlsClient {
    fn connect(server: SocketAddr, from: Ipv4Addr, config: &Arc<ClientConfig>) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.bind(&SocketAddr::new(IpAddr::V4(from), 0).into()).expect("an address of loopback");
        socket.connect(&server.into()).expect("a connection");
        let name = "probe.example.org".try_into().expect("a name");
        let tls = ClientConnection::new(Arc::clone(config), name).expect("a client");
        let mut client = Self { tls, stream: socket.into() };
        client.stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        client.stream.set_nodelay(true).expect("a mode");
        client.tls.complete_io(&mut client.stream).expect("a handshake");
        client
    }

    /// What comes with these bytes in a record of its own.
    fn record(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.tls.writer().write_all(bytes).expect("room");
        let mut record = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut record).expect("memory");
        }
        record
    }

    fn send(&mut self, bytes: &[u8]) {
        let record = self.record(bytes);
        self.stream.write_all(&record).expect("sent");
    }

    /// Reads until this text has come; everything since the last time.
    fn read_until(&mut self, text: &str) -> String {
        let mut read = Vec::new();
        loop {
            let mut piece = [0; 4096];
            match self.tls.reader().read(&mut piece) {
                Ok(0) => panic!("it ends before {text}: {}", String::from_utf8_lossy(&read)),
                Ok(length) => read.extend_from_slice(&piece[..length]),
                Err(_) => {
                    self.tls.read_tls(&mut self.stream).expect("bytes");
                    self.tls.process_new_packets().expect("records");
                }
            }
            let so_far = String::from_utf8_lossy(&read);
            if so_far.contains(text) {
                return so_far.into_owned();
            }
        }
    }

    /// A WebSocket on which this was said.
    fn say_first(server: SocketAddr, from: Ipv4Addr, config: &Arc<ClientConfig>, first: &ToServer) -> Self {
        let mut client = Self::connect(server, from, config);
        client.send(UPGRADE.as_bytes());
        client.read_until("\r\n\r\n");
        client.send(&frame(&serde_json::to_string(first).expect("json")));
        client
    }
}

const UPGRADE: &str = "GET /punch HTTP/1.1\r\nHost: probe\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// The longest payload that a record of TLS 1.3 of 4 KiB has.
const RECORD: usize = 4096 - 5 - 1 - 16;

/// A text frame, masked with zeros.
fn frame(text: &str) -> Vec<u8> {
    let length = u16::try_from(text.len()).expect("short").to_be_bytes();
    [&[0x81, 0xfe], &length[..], &[0; 4], text.as_bytes()].concat()
}

/// The longest payload that is allowed.
fn longest_payload() -> ToServer {
    let payload = Payload::write(&"x".repeat(MAX_PAYLOAD - 2)).expect("as long as may be");
    ToServer::Ready { step: 0, rtt_ms: 1, payload }
}

/// As many clients as there may be, over TLS, each in a session with another, each with the longest payload waiting for its
/// peer or as good as, the longest message begun and the longest record begun.
#[test]
#[cfg(target_os = "linux")]
fn the_worst_that_clients_can_do_fits_into_the_memory_of_the_unit() {
    const PAIRS: usize = 300;
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let issued = rcgen::generate_simple_self_signed(["probe.example.org".to_owned()]).expect("a certificate");
    std::fs::write(&certificate, issued.cert.pem()).expect("a file");
    std::fs::write(&key, issued.signing_key.serialize_pem()).expect("a file");
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = Arc::new(config);
    let path = |path: &std::path::Path| path.to_str().expect("text").to_owned();
    let program = start_over(
        "tls",
        &[
            "--tls-certificate",
            &path(&certificate),
            "--tls-key",
            &path(&key),
            "--tls-port",
            "0",
            "--tls-alternate-port",
            "0",
        ],
    );
    let payload = frame(&serde_json::to_string(&longest_payload()).expect("json"));
    let long = frame(&"x".repeat(MAX_MESSAGE));
    let hold = |client: &mut TlsClient| {
        let heard = client.read_until("paired");
        // All but the last byte of a message, then all but the last byte of a record.
        client.send(&long[..long.len() - 1]);
        let record = client.record(&[b'x'; RECORD]);
        client.stream.write_all(&record[..record.len() - 1]).expect("sent");
        heard
    };
    let before = resident(program.child.id());
    let mut clients = Vec::new();
    for number in 0..PAIRS {
        let say = |message| TlsClient::say_first(program.at, host(number / 5), &config, message);
        let mut first = say(&ToServer::Open { version: VERSION });
        let waiting = first.read_until("seconds");
        let code = waiting.split("\"code\":\"").nth(1).and_then(|rest| rest.get(..19)).expect("a code");
        let mut second = say(&ToServer::Join { version: VERSION, code: code.parse().expect("a code") });
        first.send(&payload);
        first.send(&frame(r#"{"type":"ping","id":1}"#));
        let heard = hold(&mut first);
        hold(&mut second);
        // The server has read the payload and taken it.
        if !heard.contains("pong") {
            first.read_until("pong");
        }
        clients.extend([first, second]);
    }
    let after = resident(program.child.id());
    let each = (after - before) / clients.len() as u64;
    let (introduced, tests) = (SessionLimits::default().clients, TestLimits::default());
    let tested = tests.sessions + tests.held;
    let rooms = SessionLimits::default().rooms;
    let worst = before + each * (introduced + tested + rooms.members + 1000) as u64;
    // Both results of each pair of each member, each with what a map takes for it.
    let results = rooms.members * 2 * (rooms.per_room - 1) * (MAX_ROOM_PAYLOAD + 144);
    let worst = worst + results as u64;
    let unit = include_str!("../deploy/probe-server.service");
    let allowed =
        unit.lines().find_map(|line| line.strip_prefix("MemoryMax=")?.strip_suffix('M')).expect("a limit");
    let allowed = allowed.parse::<u64>().expect("a number") << 20;
    println!(
        "{each} bytes a connection at the worst: {:.0} MiB with {introduced} in sessions, {} in rooms, {tested} in test sessions and 1000 others, of {} MiB",
        worst as f64 / 1048576.0,
        rooms.members,
        allowed >> 20
    );
    assert!(worst * 3 / 2 <= allowed, "{worst} bytes");
    // They are all still there.
    for client in &mut clients {
        client.stream.set_nonblocking(true).expect("a mode");
        let end = client.stream.peek(&mut [0]);
        assert!(end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "one was cut off");
    }
}

#[test]
fn a_server_that_stops_tells_those_who_wait_and_lets_pairs_finish() {
    let drain = Duration::from_secs(60);
    let server = Server::start(Config { drain, ..Config::local() }).expect("a server");
    let at = server.topologies()[0].bound(Endpoint::Primary).expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut waiting, _) = open(at, host(1)).await;
        let (mut first, code) = open(at, host(2)).await;
        let mut second = begin(at, host(3), &ToServer::Join { version: VERSION, code }).await;
        assert!(matches!(hear(&mut first).await, ToClient::Paired { .. }));
        assert!(matches!(hear(&mut second).await, ToClient::Paired { .. }));
        assert_eq!(server.stream_counts().open, 3, "connections in sessions are open, too");

        let end = std::thread::spawn(move || server.stop());
        assert_eq!(hear(&mut waiting).await, ToClient::Refused { reason: Refusal::Stopping });
        let close = waiting.next().await.expect("a frame").expect("a frame");
        assert!(matches!(close, Message::Close(Some(frame)) if frame.code == CloseCode::Away));
        say(&mut first, &ToServer::PeerPing { id: 1 }).await;
        assert_eq!(hear(&mut second).await, ToClient::PeerPing { id: 1 });
        drop(first);
        assert_eq!(hear(&mut second).await, ToClient::PeerLeft);
        // With the last of them, the server has ended.
        end.join().expect("no panic");
        assert!(TcpStream::connect(at).is_err());
    });
}

/// Behind a trusted proxy, clients are told and limited by their own addresses; behind any other, by the proxy's.
#[test]
fn a_trusted_proxy_makes_no_neighbours_of_its_clients() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let trusting = HttpOptions { trusted_proxies, ..HttpOptions::default() };
    for (http, is_trusted) in [(trusting, true), (HttpOptions::default(), false)] {
        let server = Server::start(Config { http, ..Config::local() }).expect("a server");
        let at = server.topologies()[0].bound(Endpoint::Primary).expect("an address");
        runtime.block_on(async {
            let proxied = async |client: &str, first: &ToServer| {
                let mut socket = connect(at, host(1), Some(client)).await;
                say(&mut socket, first).await;
                let first = hear(&mut socket).await;
                (socket, first)
            };
            let open = ToServer::Open { version: VERSION };
            let most = SessionLimits::default().per_host;
            let mut all = Vec::new();
            for n in 0..most {
                let (socket, heard) = proxied(&format!("192.0.2.{n}"), &open).await;
                assert!(matches!(heard, ToClient::Welcome { .. }), "{heard:?}");
                all.push(socket);
            }
            let (mut one_more, heard) = proxied("203.0.113.7", &open).await;
            assert_eq!(heard == ToClient::Refused { reason: Refusal::HostFull }, !is_trusted, "{heard:?}");
            if is_trusted {
                let ToClient::Waiting { code, .. } = hear(&mut one_more).await else { panic!("no code") };
                let (mut guest, _) = proxied("2001:db8::7", &ToServer::Join { version: VERSION, code }).await;
                let ToClient::Paired { you, peer, .. } = hear(&mut guest).await else { panic!("no peer") };
                assert_eq!([you.to_string(), peer.to_string()], ["2001:db8::7", "203.0.113.7"]);
                // And one client has its share, however many connections its proxy may have.
                for n in 0..=most {
                    let (socket, heard) = proxied("198.51.100.7", &open).await;
                    assert_eq!(matches!(heard, ToClient::Welcome { .. }), n < most, "{n}: {heard:?}");
                    all.push(socket);
                }
            }
        });
        server.stop();
    }
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
    assert_eq!(begin(&start(&["--no-rendezvous"])).expect("an answer"), "HTTP/1.1 404");
    let nothing = start(&["--no-rendezvous", "--no-test-sessions", "--no-page"]);
    assert!(begin(&nothing).is_err(), "there is somebody");
}
