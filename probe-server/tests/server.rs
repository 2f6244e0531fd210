//! A running server on loopback: every endpoint, every dialect, streams, limits, reload, stop.
#![expect(clippy::disallowed_methods, reason = "a real server is waited for")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use probe_server::{
    Server,
    config::{Config, Family, Streams},
    drop_reason::DropReason,
    limits::Limits,
    respond::Outcome,
    topology::{Endpoint, Topology},
};
use shared::stun::{Class, TransactionId, View, Writer, attr, frame};

const LONG: Duration = Duration::from_secs(10);

fn id(seed: u64) -> TransactionId {
    TransactionId::modern(&mut fastrand::Rng::with_seed(seed))
}

fn request(seed: u64, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let mut writer = Writer::new(&mut buffer, Class::Request, &id(seed));
    fill(&mut writer);
    let length = writer.finish().unwrap();
    buffer[..length].to_vec()
}

/// What the server does without telling, once it has done it.
fn until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Some(it) => return it,
            None => assert!(begun.elapsed() < 6 * LONG, "it does not come about"),
        }
        std::thread::yield_now();
    }
}

fn client(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(server.ip(), 0)).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

/// The next datagram: who sent it, and its bytes.
fn receive(socket: &UdpSocket) -> (SocketAddr, Vec<u8>) {
    let mut buffer = [0; 2048];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (from, buffer[..length].to_vec())
}

fn primary(server: &Server) -> (Topology, SocketAddr) {
    let topology = server.topologies()[0].clone();
    let address = topology.bound(Endpoint::Primary).unwrap();
    (topology, address)
}

#[test]
fn it_checks_itself_with_and_without_batches_and_with_more_workers() {
    for (batch, workers) in [(64, 1), (1, 1), (64, 3), (1, 2)] {
        let server = Server::start(Config { batch, workers, check: true, ..Config::local() }).unwrap();
        assert_eq!(server.check().unwrap(), 16, "batch {batch}, workers {workers}");
        // On a busy machine it asks again.
        let counters = server.counters();
        assert!(counters.answered(Outcome::Success) + counters.answered(Outcome::Changed) >= 32);
        assert!(counters.received.iter().all(|&received| received >= 8), "{:?}", counters.received);
        server.stop();
    }
}

#[test]
fn a_single_address_is_checked_as_such_in_ipv6_too() {
    let family = Family { primary: "::1".parse().unwrap(), alternate: None };
    let server = Server::start(Config { check: true, ..Config::new(vec![family], (0, 0)) }).unwrap();
    let services: Vec<_> = server.services().into_iter().map(|s| (s.transport, s.addresses.len())).collect();
    assert_eq!(services, [("udp", 1), ("tcp", 1)]);
    assert!(server.counters().answered(Outcome::UnknownAttribute) >= 3, "changes are refused");
}

#[test]
fn a_public_address_is_what_clients_are_told() {
    let advertise = vec!["127.0.0.1=203.0.113.4".parse().unwrap(), "127.0.0.2=203.0.113.5".parse().unwrap()];
    let server = Server::start(Config { advertise, check: true, ..Config::local() }).unwrap();
    let (topology, address) = primary(&server);
    let socket = client(address);
    socket.send_to(&request(1, |_| {}), address).unwrap();
    let (_, bytes) = receive(&socket);
    let other = View::parse(&bytes).unwrap().address(attr::OTHER_ADDRESS).unwrap();
    assert_eq!(other.ip(), "203.0.113.5".parse::<std::net::IpAddr>().unwrap());
    assert_eq!(Some(other), topology.advertised(Endpoint::Alternate));
}

#[test]
fn a_receipt_and_the_tested_answer_come_from_different_endpoints() {
    let server = Server::start(Config::local()).unwrap();
    let (topology, address) = primary(&server);
    let socket = client(address);
    let asked = request(1, |w| {
        w.u32(attr::CHANGE_REQUEST, attr::CHANGE_IP | attr::CHANGE_PORT).zeros(attr::RECEIPT, 140);
    });
    socket.send_to(&asked, address).unwrap();
    let answers = [receive(&socket), receive(&socket)];
    let from = |at| answers.iter().find(|(from, _)| Some(*from) == topology.bound(at)).unwrap().1.clone();
    let receipt = from(Endpoint::Primary);
    let receipt = View::parse(&receipt).unwrap();
    assert_eq!(receipt.address(attr::RECEIPT), topology.bound(Endpoint::Alternate));
    assert_eq!(View::parse(&from(Endpoint::Alternate)).unwrap().id(), id(1));
}

/// What a receipt says on how long this host has not been heard at the other address.
fn unheard(socket: &UdpSocket, address: SocketAddr) -> u32 {
    let asked = request(1, |w| {
        w.u32(attr::CHANGE_REQUEST, attr::CHANGE_IP | attr::CHANGE_PORT).zeros(attr::RECEIPT, 140);
    });
    socket.send_to(&asked, address).unwrap();
    let answers = [receive(socket), receive(socket)];
    answers.iter().find_map(|(_, bytes)| View::parse(bytes).unwrap().u32(attr::ALTERNATE_UNHEARD)).unwrap()
}

#[test]
fn a_receipt_says_for_how_long_the_other_address_has_not_heard_this_host() {
    // Two workers, two sockets each: whoever hears it, all of them know.
    for (batch, workers) in [(32, 2), (1, 1)] {
        let server = Server::start(Config { batch, workers, ..Config::local() }).unwrap();
        let (topology, address) = primary(&server);
        let socket = client(address);
        assert!(unheard(&socket, address) >= 600, "unused before the start");
        let rubbish = b"no STUN, and no answer";
        let other = topology.bound(Endpoint::AlternatePrimaryPort).unwrap();
        UdpSocket::bind(SocketAddr::new(address.ip(), 0)).unwrap().send_to(rubbish, other).unwrap();
        while server.counters().received.iter().sum::<u64>() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(unheard(&socket, address), 0, "another socket of this host has sent there");
    }
    let server = Server::start(Config { unused_before: false, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    assert!(unheard(&client(address), address) < 60, "nobody knows what was before the start");
}

#[test]
fn rubbish_is_counted_and_harms_nothing() {
    for batch in [1, 64] {
        let server = Server::start(Config { batch, ..Config::local() }).unwrap();
        let (_, address) = primary(&server);
        let socket = client(address);
        let good = request(1, |w| _ = w.bytes(attr::SOFTWARE, b"good"));
        let rubbish: Vec<Vec<u8>> = (0..good.len()).map(|n| good[..n].to_vec()).collect();
        for bytes in rubbish.iter().chain([&vec![0xff; 500], &vec![0; 3000]]) {
            socket.send_to(bytes, address).unwrap();
        }
        socket.send_to(&good, address).unwrap();
        let (_, answer) = receive(&socket);
        assert_eq!(
            View::parse(&answer).unwrap().id(),
            id(1),
            "the only answer is the one to the good request"
        );
        let counters = server.counters();
        assert_eq!(counters.drops.iter().sum::<u64>(), rubbish.len() as u64 + 2);
        assert_eq!(counters.dropped(DropReason::Short), 20);
        assert_eq!(counters.dropped(DropReason::Length), rubbish.len() as u64 - 20);
        assert_eq!(counters.dropped(DropReason::NotStun), 1);
        assert_eq!(counters.dropped(DropReason::Long), 1);
        assert_eq!(counters.received.iter().sum::<u64>(), rubbish.len() as u64 + 3);
    }
}

#[test]
fn ports_in_use_and_foreign_addresses_are_named() {
    let server = Server::start(Config { workers: 2, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    // Also when the port is shared among workers, no other server gets in between.
    for workers in [1, 2] {
        let same = Config { ports: (address.port(), 0), workers, ..Config::local() };
        let error = Server::start(same).unwrap_err().to_string();
        assert_eq!(error, format!("udp {address}: the port is in use"));
    }
    let family = Family { primary: "203.0.113.1".parse().unwrap(), alternate: None };
    let error = Server::start(Config::new(vec![family], (34780, 0))).unwrap_err().to_string();
    assert_eq!(error, "udp 203.0.113.1:34780: not an address of this host");
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// One message from a stream.
fn read_message(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes).unwrap();
    bytes.resize(frame::length(&bytes, 4096).unwrap().unwrap(), 0);
    stream.read_exact(&mut bytes[4..]).unwrap();
    bytes
}

#[test]
fn streams_answer_in_order_whatever_the_pieces() {
    let server = Server::start(Config::local()).unwrap();
    let (topology, _) = primary(&server);
    for at in Endpoint::ALL {
        let address = topology.bound(at).unwrap();
        let mut stream = connect(address);
        let all: Vec<u8> =
            (0..20).flat_map(|i| request(i, |w| _ = w.zeros(attr::FILLER, i as usize))).collect();
        for piece in all.chunks(7) {
            stream.write_all(piece).unwrap();
        }
        for i in 0..20 {
            let answer = read_message(&mut stream);
            let view = View::parse(&answer).unwrap();
            assert_eq!((view.id(), view.class()), (id(i), Class::Success));
            assert_eq!(view.mapped(), Some(stream.local_addr().unwrap()));
            assert_eq!(view.address(attr::RESPONSE_ORIGIN), Some(address));
            assert_eq!(view.address(attr::OTHER_ADDRESS), topology.bound(at.other()));
        }
    }
}

#[test]
fn a_stream_refuses_what_only_datagrams_can_do() {
    let server = Server::start(Config::local()).unwrap();
    let (_, address) = primary(&server);
    let mut stream = connect(address);
    for (i, bytes) in
        [request(1, |w| _ = w.u32(attr::CHANGE_REQUEST, 2)), request(2, |w| _ = w.response_port(50000))]
            .iter()
            .enumerate()
    {
        stream.write_all(bytes).unwrap();
        let answer = read_message(&mut stream);
        let view = View::parse(&answer).unwrap();
        assert_eq!((view.id(), view.error().unwrap().0), (id(i as u64 + 1), 400));
    }
    assert_eq!(server.stream_counts().error, 2);
}

/// Reads until the server ends the connection; whether it did so by itself.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn slow_idle_broken_and_too_many_connections_end() {
    let short = Duration::from_millis(100);
    let streams = Streams { most: 10, most_per_host: 3, idle: short, slow: short, ..Streams::default() };
    let server = Server::start(Config { streams, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    assert!(is_closed(&mut connect(address)), "idle");

    let mut slow = connect(address);
    slow.write_all(&request(1, |_| {})[..10]).unwrap();
    assert!(is_closed(&mut slow), "a message that does not end");

    let mut broken = connect(address);
    broken.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert!(is_closed(&mut broken), "another protocol");

    let patient = Streams { idle: LONG, slow: LONG, ..streams };
    let server = Server::start(Config { streams: patient, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    let mut open: Vec<_> = (0..3).map(|_| connect(address)).collect();
    for stream in &mut open {
        stream.write_all(&request(1, |_| {})).unwrap();
        read_message(stream);
    }
    assert!(is_closed(&mut connect(address)), "the fourth of one host");
    open[0].write_all(&request(2, |_| {})).unwrap();
    read_message(&mut open[0]);
    assert_eq!(server.stream_counts().host_full, 1);
}

#[test]
fn no_connection_lasts_for_ever() {
    let streams = Streams { longest: Duration::from_secs(2), ..Streams::default() };
    let server = Server::start(Config { streams, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    let mut stream = connect(address);
    let mut asked = 0;
    // It says something all the time, and would never be idle.
    while stream.write_all(&request(asked, |_| {})).is_ok() && stream.read_exact(&mut [0; 68]).is_ok() {
        asked += 1;
    }
    assert!(asked > 0);
    assert_eq!((server.stream_counts().old, server.stream_counts().idle), (1, 0));
}

#[test]
fn limits_hold_and_a_reload_changes_them_without_a_lost_packet() {
    // Loopback is never limited by source, so what is tried here is the cap on everything.
    let limits = Limits { egress_mbit: 1, ..Limits::default() };
    let mut server = Server::start(Config { limits, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    let socket = client(address);
    let ask = |times| {
        for i in 0..times {
            socket.send_to(&request(i, |w| _ = w.zeros(attr::PADDING, 1000)), address).unwrap();
        }
    };
    ask(100);
    let counts =
        || (server.counters().answered(Outcome::Success), server.counters().dropped(DropReason::EgressCap));
    let (answered, dropped) =
        until(|| Some(counts()).filter(|(answered, dropped)| answered + dropped == 100));
    (0..answered).for_each(|_| _ = receive(&socket));
    assert!(dropped > 0, "a megabit a second is not enough for 100 kilobytes at once");

    let restart = server.reload(Config { limits: Limits::NONE, ports: (9, 9), ..Config::local() }).unwrap();
    assert_eq!(restart, ["port", "alternate-port"]);
    for _ in 0..5 {
        ask(20);
        (0..20).for_each(|_| _ = receive(&socket));
    }
    assert_eq!(server.counters().dropped(DropReason::EgressCap), dropped);
}

#[test]
fn what_has_come_before_the_end_is_answered() {
    for batch in [32, 1] {
        ends_well(Server::start(Config { batch, drain: 6 * LONG, ..Config::local() }).unwrap());
    }
}

fn ends_well(server: Server) {
    let (_, address) = primary(&server);
    let socket = client(address);
    let mut open = connect(address);
    // The answer to a whole message tells that the beginning of the next, sent along with it, has arrived.
    open.write_all(&[&request(0, |_| {})[..], &request(1, |_| {})[..10]].concat()).unwrap();
    read_message(&mut open);
    for i in 0..50 {
        socket.send_to(&request(i, |_| {}), address).unwrap();
    }
    // The stream's message has begun: it may still be completed while the server ends.
    let end = std::thread::spawn(move || server.stop());
    (0..50).for_each(|_| _ = receive(&socket));
    // No new connections: the end has begun. Datagrams are answered until the last connection has ended.
    while TcpStream::connect(address).is_ok() {}
    for i in 50..60 {
        socket.send_to(&request(i, |_| {}), address).unwrap();
        assert_eq!(View::parse(&receive(&socket).1).unwrap().id(), id(i));
    }
    open.write_all(&request(1, |_| {})[10..]).unwrap();
    assert_eq!(View::parse(&read_message(&mut open)).unwrap().id(), id(1));
    assert!(is_closed(&mut open));
    end.join().unwrap();
    UdpSocket::bind(address).unwrap();
}

fn get(admin: SocketAddr, path: &str) -> String {
    let mut stream = connect(admin);
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_and_health() {
    let admin = Some("127.0.0.1:0".parse().unwrap());
    let server = Server::start(Config { admin, ..Config::local() }).unwrap();
    let address = server.services().into_iter().find(|s| s.transport == "admin").unwrap().addresses[0];
    let health = get(address, "/healthz");
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
    assert!(health.ends_with("ok, 16 combinations answered, 4 endpoints over tcp\n"), "{health}");
    assert!(get(address, "/livez").ends_with("\r\n\r\nok\n"));
    assert_eq!(get(address, "/readyz"), health);
    // The check's own connections are closed, which the server has yet to see.
    let has_closed = |metrics: &String| metrics.lines().any(|line| line == "probe_stream_open 0");
    let metrics = until(|| Some(get(address, "/metrics")).filter(has_closed));
    // Two checks; on a busy machine they ask some things again.
    for (name, fewest) in [
        ("probe_udp_received_total{family=\"ipv4\",endpoint=\"alternate\"}", 8),
        ("probe_udp_answered_total{family=\"ipv4\",outcome=\"changed\"}", 24),
        ("probe_udp_dropped_total{family=\"ipv4\",reason=\"rate-limited\"}", 0),
        ("probe_udp_batches_total{family=\"ipv4\"}", 32),
    ] {
        let figure = metrics.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
        assert!(figure.is_some_and(|it| it >= fewest && (fewest > 0 || it == 0)), "{name}\n{metrics}");
    }
    for line in metrics.split("\r\n\r\n").nth(1).unwrap().lines() {
        let number = line.rsplit(' ').next().unwrap();
        assert!(
            line.starts_with("# HELP ") || line.starts_with("# TYPE ") || number.parse::<u64>().is_ok(),
            "{line}"
        );
    }
    assert!(get(address, "/metrics?name=x").starts_with("HTTP/1.1 200"));
    assert!(get(address, "/").starts_with("HTTP/1.1 404"));
    let mut head = connect(address);
    write!(head, "HEAD /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    head.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[test]
fn a_server_at_its_egress_cap_is_ready() {
    let admin = Some("127.0.0.1:0".parse().unwrap());
    let limits = Limits { egress_mbit: 1, ..Limits::default() };
    let server = Server::start(Config { admin, limits, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    let operators = server.services().into_iter().find(|s| s.transport == "admin").unwrap().addresses[0];
    let is_over = AtomicBool::new(false);
    let health = std::thread::scope(|scope| {
        scope.spawn(|| {
            let flood = client(address);
            let long = request(1, |w| _ = w.zeros(attr::PADDING, 1400));
            let received = || server.counters().received.iter().sum::<u64>();
            while !is_over.load(Ordering::Relaxed) {
                // Far more than may be sent at once, and never so much that the system's queue is full: what is lost there
                // may be the check's own.
                let before = received();
                (0..256).for_each(|_| _ = flood.send_to(&long, address).unwrap());
                while received() < before + 256 && !is_over.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
            }
        });
        while server.counters().dropped(DropReason::EgressCap) < 1000 {
            std::thread::yield_now();
        }
        let health = get(operators, "/readyz");
        is_over.store(true, Ordering::Relaxed);
        health
    });
    assert!(health.starts_with("HTTP/1.1 200 OK\r\n"), "{health}");
}

/// With a single slot, the checks over TCP of four endpoints take it from nobody, and find the server ready.
#[test]
fn the_check_over_tcp_takes_no_slot_of_a_client() {
    let admin = Some("127.0.0.1:0".parse().unwrap());
    let streams = Streams { most: 1, ..Streams::default() };
    let server = Server::start(Config { admin, streams, ..Config::local() }).unwrap();
    let (_, address) = primary(&server);
    let mut open = connect(address);
    open.write_all(&request(1, |_| {})).unwrap();
    assert_eq!(View::parse(&read_message(&mut open)).unwrap().id(), id(1));
    let operators = server.services().into_iter().find(|s| s.transport == "admin").unwrap().addresses[0];
    let health = get(operators, "/readyz");
    assert!(health.ends_with("4 endpoints over tcp\n"), "{health}");
    assert_eq!((server.stream_counts().evicted, server.stream_counts().accepted), (0, 5));
    open.write_all(&request(2, |_| {})).unwrap();
    assert_eq!(View::parse(&read_message(&mut open)).unwrap().id(), id(2));
}

#[test]
fn a_sign_of_life_from_every_thread() {
    for batch in [32, 1] {
        let mut server = Server::start(Config { batch, ..Config::local() }).unwrap();
        assert!(!server.is_stuck(), "there is nothing to compare with");
        // Asked again at once, the threads cannot all have moved; left alone, they do.
        while !server.is_stuck() {}
        let moves = || {
            std::thread::sleep(Duration::from_millis(500));
            !server.is_stuck()
        };
        let lives = std::iter::repeat_with(moves).take(20).any(|moves| moves);
        assert!(lives, "batch {batch}: a thread does not move");
    }
}

#[test]
fn a_reload_for_other_addresses_leaves_the_advertised_ones() {
    let advertise = vec!["127.0.0.1=203.0.113.4".parse().unwrap(), "127.0.0.2=203.0.113.5".parse().unwrap()];
    let mut server = Server::start(Config { advertise, ..Config::local() }).unwrap();
    let families =
        vec![Family { primary: "127.0.0.3".parse().unwrap(), alternate: Some("127.0.0.4".parse().unwrap()) }];
    let advertise = vec!["127.0.0.3=203.0.113.6".parse().unwrap()];
    let restart = server.reload(Config { families, advertise, ..Config::local() }).unwrap();
    assert_eq!(restart, ["primary", "alternate", "advertise"]);
    let advertised = server.topologies()[0].advertised(Endpoint::Alternate).unwrap();
    assert_eq!(advertised.ip(), "203.0.113.5".parse::<std::net::IpAddr>().unwrap());
}
