//! A socket that the program owns is measured while the program's own traffic flows on it: simulated NATs in virtual
//! time, and real sockets on loopback.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use nat_check_core::{
    Check,
    nat::Mapping,
    net::{
        Datagram, Net,
        os::OsNet,
        owned::OwnedSocket,
        sim::{PathSpec, World},
    },
    probe,
    report::{Confidence, Report},
};
use probe_server::{Server, config::Config, topology::Endpoint};
use shared::stun::{Class, TransactionId, View, Writer};
use tokio::{
    net::UdpSocket,
    sync::watch,
    time::{sleep, timeout},
};

const LIMIT: Duration = Duration::from_secs(60);
/// Between two datagrams of the owner's own traffic.
const PACE: Duration = Duration::from_millis(5);

/// The owner's own traffic: numbered datagrams to an echo service, and what came back that was not taken.
#[derive(Default)]
struct Traffic {
    sent: Mutex<Vec<Vec<u8>>>,
    left: Mutex<Vec<Vec<u8>>>,
}

impl Traffic {
    /// The next datagram. Its first byte looks like a QUIC packet's, DTLS, or even STUN.
    fn next(&self) -> Vec<u8> {
        let mut sent = self.sent.lock().unwrap();
        let number = sent.len();
        let first = [0x4e, 0xc3, 0x16, 0x01][number % 4];
        let mut datagram = vec![first, 0x01];
        datagram.extend(number.to_be_bytes());
        datagram.resize(20 + number % 500, number as u8);
        sent.push(datagram.clone());
        datagram
    }

    fn left(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.left.lock().unwrap()
    }

    /// Every datagram came back exactly once and unmodified, and nothing else was left to the owner.
    fn assert_untouched(&self) {
        let count = |datagrams: &[Vec<u8>]| {
            let mut counts: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
            datagrams.iter().for_each(|datagram| *counts.entry(datagram.clone()).or_default() += 1);
            counts
        };
        let (sent, left) = (self.sent.lock().unwrap(), self.left());
        assert!(sent.len() > 20, "too little traffic to tell anything: {}", sent.len());
        assert_eq!(count(&sent), count(&left));
    }
}

async fn measure(owned: &OwnedSocket, others: Arc<dyn Net>, server: SocketAddr) -> Report {
    Check::with([server]).owned_socket(owned).net(others).run().await
}

/// Runs a future that never waits.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it waits"),
    }
}

/// Measures a socket behind this NAT, with traffic of its own; what its owner learns of its external endpoint by STUN of
/// its own is what the report must say.
async fn behind(nat: &str) -> (Report, SocketAddr) {
    let path = PathSpec::with_delay_ms(10);
    let world = World::builder(3).nat(nat.parse().unwrap()).path(path).build();
    let (net, server, echo) = (world.client(), world.server(), world.echo());
    let local = SocketAddr::new(net.source_for(server).unwrap(), 44_330);
    let socket: Arc<dyn Datagram> = net.bind(local).await.unwrap().into();
    let sending = Arc::clone(&socket);
    let owned = OwnedSocket::new(local, LIMIT, move |datagram, to| at_once(sending.send_to(datagram, to)));

    let traffic = Arc::new(Traffic::default());
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(9));
    let (external, mut learned) = watch::channel(None);
    let receiver = tokio::spawn({
        let (socket, owned, traffic) = (Arc::clone(&socket), owned.clone(), Arc::clone(&traffic));
        async move {
            let mut buffer = [0; 2000];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let datagram = &buffer[..length];
                if owned.offer(datagram, from) {
                    continue;
                }
                match View::parse(datagram).ok().filter(|view| view.id() == id) {
                    Some(view) => drop(external.send(view.mapped())),
                    None => traffic.left().push(datagram.to_vec()),
                }
            }
        }
    });
    let talker = tokio::spawn({
        let (socket, traffic) = (Arc::clone(&socket), Arc::clone(&traffic));
        async move {
            loop {
                socket.send_to(&traffic.next(), echo).await.unwrap();
                sleep(PACE).await;
            }
        }
    });
    let report = measure(&owned, net, server).await;
    assert!(owned.has_ended());

    // The owner's own STUN, after the measurement and on the same socket.
    let mut request = [0; 20];
    let length = Writer::new(&mut request, Class::Request, &id).finish().unwrap();
    socket.send_to(&request[..length], server).await.unwrap();
    let external = timeout(LIMIT, learned.wait_for(Option::is_some)).await.unwrap().unwrap().unwrap();
    talker.abort();
    sleep(Duration::from_secs(1)).await;
    receiver.abort();
    traffic.assert_untouched();
    (report, external)
}

#[tokio::test(start_paused = true)]
async fn a_socket_in_use_is_measured_behind_simulated_nats() {
    for (nat, mapping) in [
        ("open", Mapping::Direct),
        ("full-cone", Mapping::EndpointIndependent),
        ("port-restricted-cone", Mapping::EndpointIndependent),
        ("mapping=ad,filtering=apd", Mapping::AddressDependent),
        ("symmetric", Mapping::AddressAndPortDependent),
    ] {
        let (report, external) = behind(nat).await;
        let udp = report.ipv4.udp.unwrap();
        assert_eq!(udp.local.map(|local| local.port()), Some(44_330), "{nat}");
        assert_eq!(udp.external.first(), Some(&external), "{nat}");
        assert_eq!(
            (udp.mapping.value, udp.mapping.confidence),
            (Some(mapping), Confidence::Certain),
            "{nat}"
        );
        assert!(udp.filtering.value.is_some(), "{nat}: measured on other sockets");
    }
}

#[tokio::test]
async fn a_tokio_socket_in_use_is_measured_on_loopback() {
    let server = Server::start(Config::local()).unwrap();
    let primary = server.topologies()[0].bound(Endpoint::Primary).unwrap();
    let echo = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let echo_at = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = echo.recv_from(&mut buffer).await {
            echo.send_to(&buffer[..length], from).await.unwrap();
        }
    });

    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let owned = OwnedSocket::from_tokio(&socket, LIMIT).unwrap();
    let traffic = Arc::new(Traffic::default());
    let (stop, stopped) = watch::channel(false);
    // Each datagram is sent when the one before it is back, so that the queues of the system cannot overflow.
    let owner = tokio::spawn({
        let (socket, owned, traffic) = (Arc::clone(&socket), owned.clone(), Arc::clone(&traffic));
        async move {
            let mut buffer = [0; 2000];
            while !*stopped.borrow() || traffic.left().len() < 200 {
                socket.send_to(&traffic.next(), echo_at).await.unwrap();
                loop {
                    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                    if !owned.offer(&buffer[..length], from) {
                        traffic.left().push(buffer[..length].to_vec());
                        break;
                    }
                }
            }
        }
    });
    let report = measure(&owned, Arc::new(OsNet), primary).await;
    assert!(owned.has_ended());
    stop.send(true).unwrap();
    timeout(LIMIT, owner).await.unwrap().unwrap();
    let udp = report.ipv4.udp.unwrap();
    let local = socket.local_addr().unwrap();
    assert_eq!((udp.local, udp.external), (Some(local), vec![local]));
    assert_eq!(udp.mapping.value, Some(Mapping::Direct));
    traffic.assert_untouched();
    assert_eq!(Arc::strong_count(&socket), 1, "nobody else holds it");
}

#[tokio::test(start_paused = true)]
async fn what_arrives_after_the_time_limit_is_the_owners() {
    let world =
        World::builder(4).nat("full-cone".parse().unwrap()).path(PathSpec::with_delay_ms(200)).build();
    let (net, server) = (world.client(), world.server());
    let local = SocketAddr::new(net.source_for(server).unwrap(), 44_330);
    let socket: Arc<dyn Datagram> = net.bind(local).await.unwrap().into();
    let sending = Arc::clone(&socket);
    // Ends while the first answers are on their way.
    let limit = Duration::from_millis(300);
    let owned = OwnedSocket::new(local, limit, move |datagram, to| at_once(sending.send_to(datagram, to)));
    let left = Arc::new(Mutex::new(0));
    tokio::spawn({
        let (socket, owned, left) = (Arc::clone(&socket), owned.clone(), Arc::clone(&left));
        async move {
            let mut buffer = [0; 2000];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                assert!(!owned.offer(&buffer[..length], from));
                *left.lock().unwrap() += 1;
            }
        }
    });
    let check = Check::with([server]).owned_socket(&owned).net(net).only([probe::mapping::PROBE.name]);
    let report = check.run().await;
    assert!(owned.has_ended() && *left.lock().unwrap() > 0);
    let udp = report.ipv4.udp.unwrap();
    assert_ne!(udp.local.map(|local| local.port()), Some(44_330), "no answer came to this socket");
}
