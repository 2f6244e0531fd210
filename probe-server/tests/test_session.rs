//! Test sessions over real sockets: the server connects back to its client, and to nobody else.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod namespace;

use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use probe_server::{
    Server,
    config::{Config, Family},
    http::HttpOptions,
    test_session::TestLimits,
    topology::Endpoint,
};
use rustix::process::{Resource, getrlimit, setrlimit};
use shared::{
    stun::{Class, TransactionId, Writer, attr},
    test_session::{
        Decline, HoldOutcome, Icmp, Nonce, PATH, Refusal, Source, SourceAddress, SynOutcome, ToClient,
        ToServer, Token, VERSION, Welcome,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

/// The address of clients whose server is on this host.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
const NONCE: Nonce = Nonce([0xA5; 16]);
/// How long anything may take on this host, while it is busy.
const PATIENCE: Duration = Duration::from_secs(10);

struct Session {
    socket: WebSocketStream<TcpStream>,
    welcome: Welcome,
    server: SocketAddr,
}

fn start(config: Config) -> (Server, SocketAddr) {
    let server = Server::start(config).expect("a server");
    let at = server.topologies()[0].bound(Endpoint::Primary).expect("an address");
    (server, at)
}

/// A socket of the client whose port others of its sockets may have, too.
fn socket(port: u16) -> TcpSocket {
    socket_at(CLIENT, port)
}

fn socket_at(ip: Ipv4Addr, port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("a mode");
    socket.set_reuseport(true).expect("a mode");
    // Two messages in a row are not to wait for an acknowledgement of the first one.
    socket.set_nodelay(true).expect("a mode");
    socket.bind(SocketAddr::new(IpAddr::V4(ip), port)).expect("a port");
    socket
}

async fn web_socket(server: SocketAddr, headers: &[(&'static str, &str)]) -> WebSocketStream<TcpStream> {
    let stream = socket(0).connect(server).await.expect("a connection");
    let mut request = format!("ws://{server}{PATH}").into_client_request().expect("a request");
    for (name, value) in headers {
        request.headers_mut().append(*name, value.parse().expect("a header"));
    }
    client_async(request, stream).await.expect("a websocket").0
}

impl Session {
    async fn open(server: SocketAddr) -> Self {
        Self::open_over(web_socket(server, &[]).await, server).await
    }

    async fn open_over(mut socket: WebSocketStream<TcpStream>, server: SocketAddr) -> Self {
        say(&mut socket, &ToServer::Open { version: VERSION }).await;
        let ToClient::Welcome(welcome) = hear(&mut socket).await else { panic!("no welcome") };
        Self { socket, welcome: *welcome, server }
    }

    async fn say(&mut self, message: &ToServer) {
        say(&mut self.socket, message).await;
    }

    async fn hear(&mut self) -> ToClient {
        hear(&mut self.socket).await
    }

    /// A connection from this port that has shown the token; its number.
    async fn prove(&mut self, port: u16) -> (TcpStream, u32) {
        self.prove_from(CLIENT, port).await
    }

    async fn prove_from(&mut self, ip: Ipv4Addr, port: u16) -> (TcpStream, u32) {
        let mut stream = socket_at(ip, port).connect(self.server).await.expect("a connection");
        let from = stream.local_addr().expect("an address");
        stream.write_all(&request(Some(self.welcome.token))).await.expect("sent");
        let mut header = [0; 20];
        timeout(PATIENCE, stream.read_exact(&mut header)).await.expect("in time").expect("an answer");
        let rest = u16::from_be_bytes([header[2], header[3]]);
        stream.read_exact(&mut vec![0; rest.into()]).await.expect("all of it");
        let ToClient::Proven { connection, at, to } = self.hear().await else { panic!("not proven") };
        assert_eq!((at, to), (from, self.server));
        (stream, connection)
    }

    /// Has the server connect; what came of it.
    async fn syn(&mut self, port: u16, from: SourceAddress, source: Source) -> ToClient {
        self.syn_and_wait(port, from, source, 1500).await
    }

    async fn syn_and_wait(
        &mut self,
        port: u16,
        from: SourceAddress,
        source: Source,
        wait_ms: u32,
    ) -> ToClient {
        let message = ToServer::Syn { id: 7, port, from, source, after_ms: 0, wait_ms };
        self.say(&message).await;
        match self.hear().await {
            ToClient::SynSent { id: 7 } => self.hear().await,
            other => other,
        }
    }
}

async fn say(socket: &mut WebSocketStream<TcpStream>, message: &ToServer) {
    socket.send(Message::text(serde_json::to_string(message).expect("json"))).await.expect("sent");
}

async fn hear(socket: &mut WebSocketStream<TcpStream>) -> ToClient {
    let message = timeout(PATIENCE, socket.next()).await.expect("in time").expect("an answer");
    ToClient::parse(message.expect("a message").to_text().expect("text")).expect("a known one")
}

/// A Binding request, with the token of a session or without.
fn request(token: Option<Token>) -> Vec<u8> {
    let mut bytes = [0; 64];
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(1));
    let mut writer = Writer::new(&mut bytes, Class::Request, &id);
    if let Some(token) = token {
        writer.bytes(attr::TOKEN, &token.0);
    }
    let length = writer.len();
    bytes[..length].to_vec()
}

/// Takes one connection and sends back what comes over it, which is to be this; where it came from.
async fn echo_once(listener: Arc<TcpListener>, expected: Nonce) -> SocketAddr {
    let (mut stream, from) = listener.accept().await.expect("a connection");
    let mut nonce = [0; 16];
    stream.read_exact(&mut nonce).await.expect("a nonce");
    assert_eq!(nonce, expected.0);
    stream.write_all(&nonce).await.expect("sent");
    // The server closes it.
    _ = stream.read(&mut nonce).await;
    from
}

fn outcome_of(message: &ToClient) -> SynOutcome {
    let ToClient::SynResult { id: 7, outcome, .. } = message else { panic!("{message:?}") };
    *outcome
}

#[tokio::test]
async fn the_server_connects_back_to_a_proven_port_from_all_its_sources() {
    let (server, at) = start(Config::local());
    let mut session = Session::open(at).await;
    let alternate = session.welcome.alternate.clone().expect("an alternate address");
    assert_eq!(session.welcome.you.ip(), IpAddr::V4(CLIENT));
    assert_eq!(session.welcome.primary.stun[0], at);
    assert_eq!(alternate.stun.len(), 2);
    let listener = socket(0);
    let (_stream, _) = session.prove(listener.local_addr().expect("an address").port()).await;
    let listener = Arc::new(listener.listen(8).expect("a listener"));
    let port = listener.local_addr().expect("an address").port();
    let pending = session.welcome.primary.pending.expect("a full listener");
    assert_eq!(pending.port(), alternate.pending.expect("another one").port());
    for (address, source, ip) in [
        (SourceAddress::Primary, Source::Ephemeral, at.ip()),
        (SourceAddress::Alternate, Source::Ephemeral, alternate.stun[0].ip()),
        (SourceAddress::Primary, Source::Pending, at.ip()),
    ] {
        let accepted = tokio::spawn(echo_once(Arc::clone(&listener), session.welcome.nonce(7)));
        let result = session.syn(port, address, source).await;
        let ToClient::SynResult { outcome, from, after_us, icmp, .. } = result else { panic!("{result:?}") };
        assert_eq!((outcome, icmp), (SynOutcome::Echoed, None));
        let seen = accepted.await.expect("no panic");
        assert_eq!((Some(seen), seen.ip()), (from, ip));
        assert!(after_us < 1_000_000, "{after_us}");
        assert_eq!(source == Source::Pending, seen.port() == pending.port());
    }
    // Whoever takes the connection and does not know the nonce is told apart, and so is a port without a listener.
    let silent = tokio::spawn(async move { listener.accept().await });
    assert_eq!(
        outcome_of(&session.syn(port, SourceAddress::Primary, Source::Ephemeral).await),
        SynOutcome::Connected
    );
    drop(silent.await.expect("no panic"));
    let result = session.syn(port, SourceAddress::Primary, Source::Ephemeral).await;
    assert_eq!(outcome_of(&result), SynOutcome::Refused);
    let counts = server.test_sessions().expect("test sessions");
    assert_eq!((counts.opened, counts.proven, counts.connects, counts.sessions), (1, 1, 5, 1));
}

#[tokio::test]
async fn a_simultaneous_open_needs_no_privileges() {
    let (_server, at) = start(Config::local());
    let mut session = Session::open(at).await;
    let pending = session.welcome.primary.pending.expect("a full listener");
    let client = socket(0);
    let port = client.local_addr().expect("an address").port();
    let connecting = tokio::spawn(async move {
        let mut stream = client.connect(pending).await.expect("a connection");
        let mut nonce = [0; 16];
        stream.read_exact(&mut nonce).await.expect("a nonce");
        stream.write_all(&nonce).await.expect("sent");
        nonce
    });
    // It has begun to connect before the server is told to.
    tokio::task::yield_now().await;
    // The port is named, not proven: nothing could have been sent from it.
    let (from, source) = (SourceAddress::Primary, Source::Pending);
    let message = ToServer::Syn { id: 7, port, from, source, after_ms: 200, wait_ms: 1500 };
    session.say(&message).await;
    assert_eq!(session.hear().await, ToClient::SynSent { id: 7 });
    let result = session.hear().await;
    assert_eq!(outcome_of(&result), SynOutcome::Echoed, "{result:?}");
    assert_eq!(connecting.await.expect("no panic"), session.welcome.nonce(7).0);
}

#[tokio::test]
async fn a_held_connection_is_silent_until_the_server_speaks() {
    let (_server, at) = start(Config::local());
    let mut session = Session::open(at).await;
    let (mut stream, connection) = session.prove(0).await;
    let (gone, lost) = session.prove(0).await;
    let hold = |id, connection, after_ms| ToServer::Hold { id, connection, nonce: NONCE, after_ms };
    session.say(&hold(1, connection, 300)).await;
    let mut nonce = [0; 16];
    timeout(PATIENCE, stream.read_exact(&mut nonce)).await.expect("in time").expect("a nonce");
    assert_eq!(nonce, NONCE.0);
    stream.write_all(&nonce).await.expect("sent");
    let ToClient::HoldResult { id: 1, outcome, .. } = session.hear().await else { panic!("no result") };
    assert_eq!(outcome, HoldOutcome::Echoed);
    // Once; and only what is there, for no longer than allowed.
    drop(gone);
    for (id, connection, after_ms, reason) in [
        (2, connection, 300, Decline::NoConnection),
        (3, 99, 300, Decline::NoConnection),
        (4, lost, 900_001, Decline::TooLong),
    ] {
        session.say(&hold(id, connection, after_ms)).await;
        assert_eq!(session.hear().await, ToClient::Declined { id, reason });
    }
}

#[tokio::test]
async fn what_may_not_be_is_declined() {
    let limits = TestLimits { hold: Duration::ZERO, ..TestLimits::default() };
    let (_server, at) = start(Config { test_sessions: Some(limits), ..Config::local() });
    let mut session = Session::open(at).await;
    let declined = |reason| ToClient::Declined { id: 7, reason };
    let (primary, ephemeral) = (SourceAddress::Primary, Source::Ephemeral);
    assert_eq!(session.syn(80, primary, ephemeral).await, declined(Decline::LowPort));
    assert_eq!(session.syn(at.port(), primary, ephemeral).await, declined(Decline::OwnPort));
    let (_stream, connection) = session.prove(0).await;
    session.say(&ToServer::Hold { id: 7, connection, nonce: NONCE, after_ms: 1 }).await;
    assert_eq!(session.hear().await, declined(Decline::NotOffered));
    // Nobody listens at a port that was named; the ninth one is not even tried.
    let mut named = (1024..).filter(|port| *port != at.port());
    for _ in 0..8 {
        let result = session.syn(named.next().expect("a port"), primary, ephemeral).await;
        assert!(matches!(result, ToClient::SynResult { .. }), "{result:?}");
    }
    assert_eq!(session.syn(40_000, primary, ephemeral).await, declined(Decline::TooManyPorts));
    session.say(&ToServer::Open { version: VERSION }).await;
    assert_eq!(session.hear().await, ToClient::Refused { reason: Refusal::BadMessage });
}

#[tokio::test]
async fn what_a_proxy_says_of_an_address_is_no_reason_to_connect_there() {
    let trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    let http = HttpOptions { trusted_proxies, ..HttpOptions::default() };
    let (_server, at) = start(Config { http, ..Config::local() });
    // Whatever is made up beside what the proxy says, its own address does not become the client's.
    for headers in [
        &[("x-forwarded-for", "192.0.2.1")][..],
        &[("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=1.1.1.1")],
        &[("forwarded", "for=unknown")],
        &[],
    ] {
        let mut socket = web_socket(at, headers).await;
        assert_eq!(hear(&mut socket).await, ToClient::Refused { reason: Refusal::Proxied }, "{headers:?}");
    }
    // Nor does that of a proxy that the operator has not named.
    let (_server, at) = start(Config::local());
    for headers in [("x-forwarded-for", "192.0.2.1"), ("forwarded", "for=192.0.2.1"), ("via", "1.1 proxy")] {
        let mut socket = web_socket(at, &[headers]).await;
        assert_eq!(hear(&mut socket).await, ToClient::Refused { reason: Refusal::Proxied }, "{headers:?}");
    }
}

#[tokio::test]
async fn one_option_turns_them_off_and_tokens_of_nobody_are_ignored() {
    let (_server, at) = start(Config { test_sessions: None, ..Config::local() });
    let mut stream = socket(0).connect(at).await.expect("a connection");
    stream.write_all(&request(Some(Token([1; 16])))).await.expect("sent");
    let mut answer = [0; 2];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.expect("in time").expect("an answer");
    assert_eq!(answer, [1, 1], "a success response");
    let stream = socket(0).connect(at).await.expect("a connection");
    let error = client_async(format!("ws://{at}{PATH}"), stream).await.expect_err("there is none");
    assert!(error.to_string().contains("404"), "{error}");
}

#[test]
fn a_server_that_stops_tells_its_clients() {
    let (server, at) = start(Config::local());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut session = Session::open(at).await;
        let (mut stream, connection) = session.prove(0).await;
        session.say(&ToServer::Hold { id: 1, connection, nonce: NONCE, after_ms: 600_000 }).await;
        session.say(&ToServer::Ping { id: 2 }).await;
        assert_eq!(session.hear().await, ToClient::Pong { id: 2 });
        let end = std::thread::spawn(move || server.stop());
        assert_eq!(session.hear().await, ToClient::Refused { reason: Refusal::Stopping });
        drop(session);
        let closed = timeout(PATIENCE, stream.read(&mut [0; 16])).await.expect("in time");
        assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
        end.join().expect("no panic");
    });
}

/// Sessions of a thousand clients at once, in the real program, each with a connection held.
#[test]
fn a_thousand_sessions_with_a_held_connection_each_fit_into_16_mib() {
    const SESSIONS: u32 = 1000;
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).expect("a soft limit may be raised");
    let mut program = Command::new(env!("CARGO_BIN_EXE_probe-server"))
        .args(["--local", "--port", "0", "--alternate-port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program starts");
    let lines = BufReader::new(program.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
    let ready = lines.into_iter().find(|line| line.starts_with("ready tcp ")).expect("a ready line");
    let at = ready.split(' ').nth(2).expect("an address").parse().expect("an address");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let before = resident(program.id());
        let mut clients = Vec::new();
        for number in 0..SESSIONS {
            // Ten from each host, each host of a provider of its own.
            let ip = Ipv4Addr::from_bits(CLIENT.to_bits() + ((number / 10) << 16));
            let stream = socket_at(ip, 0).connect(at).await.expect("a connection");
            let socket = client_async(format!("ws://{at}{PATH}"), stream).await.expect("a websocket").0;
            let mut session = Session::open_over(socket, at).await;
            let (stream, connection) = session.prove_from(ip, 0).await;
            session.say(&ToServer::Hold { id: 1, connection, nonce: NONCE, after_ms: 600_000 }).await;
            session.say(&ToServer::Ping { id: 2 }).await;
            assert_eq!(session.hear().await, ToClient::Pong { id: 2 });
            clients.push((session, stream));
        }
        let after = resident(program.id());
        println!(
            "{SESSIONS} test sessions with a held connection each: {:.1} MiB resident before, {:.1} MiB after, {} bytes each",
            before as f64 / 1048576.0,
            after as f64 / 1048576.0,
            (after - before) / u64::from(SESSIONS)
        );
        assert!(after - before <= 16 << 20, "{} bytes", after - before);
    });
    program.kill().expect("it runs");
    program.wait().expect("it ends");
}

/// Resident memory of a process, in bytes.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a figure");
    line.split_whitespace().nth(1).expect("a figure").parse::<u64>().expect("a number") * 1024
}

/// Behind whatever stands on the server's own host and hides where clients come from, a session would be one with that host.
#[test]
fn who_comes_from_an_address_of_the_servers_own_host_gets_no_session() {
    let test = "who_comes_from_an_address_of_the_servers_own_host_gets_no_session";
    namespace::in_a_namespace(test, &[], || {
        let client = namespace::Host::new();
        client.connect("client", "eth0");
        client.run("ip address add 198.18.0.2/24 dev eth0");
        for last in [1, 10, 11] {
            namespace::run(&format!("ip address add 198.18.0.{last}/24 dev client"));
        }
        let [primary, alternate] = ["198.18.0.10", "198.18.0.11"].map(|ip| ip.parse().expect("an address"));
        let family = Family { primary, alternate: Some(alternate) };
        let (server, at) = start(Config::new(vec![family], (3478, 3479)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        // The server's own two, a third one of its host, and loopback.
        for ip in ["198.18.0.10", "198.18.0.11", "198.18.0.1", "127.0.0.1"] {
            let first = runtime.block_on(first_answer(ip.parse().expect("an address"), at));
            assert_eq!(first, ToClient::Refused { reason: Refusal::Proxied }, "{ip}");
        }
        assert_eq!(server.test_sessions().expect("test sessions").opened, 0);
        let first = client.run_inside(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(first_answer(Ipv4Addr::new(198, 18, 0, 2), at))
        });
        assert!(matches!(first, ToClient::Welcome(_)), "{first:?}");
    });
}

/// What a client at this address is told first.
async fn first_answer(ip: Ipv4Addr, server: SocketAddr) -> ToClient {
    let stream = socket_at(ip, 0).connect(server).await.expect("a connection");
    let mut socket = client_async(format!("ws://{server}{PATH}"), stream).await.expect("a websocket").0;
    say(&mut socket, &ToServer::Open { version: VERSION }).await;
    hear(&mut socket).await
}

/// Through a router, at a client that drops, or refuses in one way or the other.
#[test]
fn drop_reset_icmp_and_hops_are_told_apart_and_two_syns_are_sent() {
    let test = "drop_reset_icmp_and_hops_are_told_apart_and_two_syns_are_sent";
    namespace::in_a_namespace(test, &["nft"], || {
        let (client, host) = (namespace::Host::new(), namespace::Host::new());
        for (host, link, net) in [(&client, "client", "198.18.0"), (&host, "server", "198.19.0")] {
            host.connect(link, "eth0");
            namespace::run(&format!("ip address add {net}.1/24 dev {link}"));
            for last in [2, 3] {
                host.run(&format!("ip address add {net}.{last}/24 dev eth0"));
            }
            host.run(&format!("ip route add default via {net}.1"));
        }
        namespace::run("sysctl -q -w net.ipv4.ip_forward=1");
        // A third SYN follows after 3 s, as on older systems: a busy machine has time to hold it back.
        host.run("sysctl -q -e -w net.ipv4.tcp_syn_linear_timeouts=0");
        client.nft(
            "table ip firewall {
                counter syns { }
                chain in { type filter hook input priority filter;
                    tcp dport 5001 counter name syns drop;
                    tcp dport 5002 reject with icmp type port-unreachable;
                    tcp dport 5003 reject with tcp reset;
                }
            }",
        );
        let [primary, alternate] = ["198.19.0.2", "198.19.0.3"].map(|ip| ip.parse().expect("an address"));
        let family = Family { primary, alternate: Some(alternate) };
        let server =
            host.run_inside(|| Server::start(Config::new(vec![family], (3478, 3479))).expect("a server"));
        let at = server.topologies()[0].bound(Endpoint::Primary).expect("an address");
        client.run_inside(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let here = Ipv4Addr::new(198, 18, 0, 2);
                let stream = socket_at(here, 0).connect(at).await.expect("a connection");
                let socket = client_async(format!("ws://{at}{PATH}"), stream).await.expect("a websocket").0;
                let mut session = Session::open_over(socket, at).await;
                let unreachable = Icmp { kind: 3, code: 3, from: IpAddr::V4(here) };
                for (port, wait_ms, expected, icmp) in [
                    (5001, 4000, SynOutcome::Timeout, None),
                    (5002, 1500, SynOutcome::Unreachable, Some(unreachable)),
                    (5003, 1500, SynOutcome::Refused, None),
                ] {
                    let from = SourceAddress::Alternate;
                    let result = session.syn_and_wait(port, from, Source::Ephemeral, wait_ms).await;
                    let ToClient::SynResult { outcome, icmp: seen, after_us, from, .. } = result else {
                        panic!("{result:?}")
                    };
                    assert_eq!((outcome, seen), (expected, icmp));
                    assert_eq!(from.expect("it left").ip(), alternate);
                    let is_late = expected == SynOutcome::Timeout;
                    assert_eq!(after_us >= 4_000_000, is_late, "{after_us}");
                }
                // The router between the two answers for what does not reach the client.
                session.say(&ToServer::Trace { id: 8, ttl_from: 1, ttl_to: 4, wait_ms: 1500 }).await;
                assert_eq!(session.hear().await, ToClient::Declined { id: 8, reason: Decline::NoFlow });
                session.say(&ToServer::TracePort { id: 8 }).await;
                let ToClient::TracePort { id: 8, at } = session.hear().await else { panic!("no port") };
                let flow = std::net::UdpSocket::bind((here, 0)).expect("a socket");
                flow.send_to(&request(Some(session.welcome.token)), at).expect("sent");
                let from = flow.local_addr().expect("an address");
                assert_eq!(session.hear().await, ToClient::Flow { at: from });
                session.say(&ToServer::Trace { id: 8, ttl_from: 1, ttl_to: 4, wait_ms: 1500 }).await;
                // Everything else goes on meanwhile: three of the packets reach the client, so the trace waits for longer.
                session.say(&ToServer::Ping { id: 9 }).await;
                assert_eq!(session.hear().await, ToClient::Pong { id: 9 });
                let ToClient::TraceResult { id: 8, hops } = session.hear().await else { panic!("no result") };
                let router = Icmp { kind: 11, code: 0, from: IpAddr::from([198, 19, 0, 1]) };
                assert_eq!(hops.iter().map(|hop| (hop.ttl, hop.icmp)).collect::<Vec<_>>(), [(1, router)]);
                let mut packet = [0; 16];
                let (length, source) = flow.recv_from(&mut packet).expect("the second one");
                assert_eq!((length, packet[7], source), (8, 2, at));
            });
        });
        let counter = client.command("nft").args(["list", "counter", "ip", "firewall", "syns"]).output();
        let counter = String::from_utf8(counter.expect("nft runs").stdout).expect("text");
        assert!(counter.contains("packets 2 "), "{counter}");
        drop(server);
    });
}
