//! The simulated network judged by a client of a few lines: sockets, one request at a time, no probes, no engine.

use std::time::Duration;

use probe_server::topology::Endpoint;
use shared::{
    nat::{Filtering, Mapping},
    stun::{Class, TransactionId, View, Writer, attr},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};

use super::*;
use crate::net::{Datagram, Net};

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("runtime")
        .block_on(test)
}

fn world(nat: &str) -> World {
    World::builder(7).nat(nat.parse().expect(nat)).trace(true).build()
}

async fn socket(net: &SimNet) -> Box<dyn Datagram> {
    net.bind("0.0.0.0:0".parse().expect("address")).await.expect("socket")
}

fn request(seed: u64, change: u32) -> Vec<u8> {
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(seed));
    let mut buffer = vec![0; 64];
    let mut writer = Writer::new(&mut buffer, Class::Request, &id);
    if change != 0 {
        writer.u32(attr::CHANGE_REQUEST, change);
    }
    let length = writer.finish().expect("room");
    buffer.truncate(length);
    buffer
}

/// The answer to one request: who sent it, and the external address that it tells.
async fn ask(socket: &dyn Datagram, to: SocketAddr, change: u32) -> Option<(SocketAddr, SocketAddr)> {
    socket.send_to(&request(u64::from(to.port()) + u64::from(change), change), to).await.expect("sent");
    let mut buffer = [0; 512];
    let (length, from) =
        timeout(Duration::from_secs(1), socket.recv_from(&mut buffer)).await.ok()?.expect("received");
    Some((from, View::parse(&buffer[..length]).expect("STUN").mapped().expect("mapped")))
}

/// The server's endpoints in the order of [`Endpoint::ALL`].
fn endpoints(world: &World) -> [SocketAddr; 4] {
    let spec = &world.servers()[0];
    let topology = probe_server::topology::Topology::new(spec.primary, Some(spec.alternate), spec.ports);
    Endpoint::ALL.map(|e| topology.bound(e).expect("endpoint"))
}

async fn filtering(world: &World) -> Filtering {
    let socket = socket(&world.client()).await;
    let server = world.server();
    ask(&*socket, server, 0).await.expect("a first answer");
    let ip = ask(&*socket, server, attr::CHANGE_IP).await.is_some();
    let port = ask(&*socket, server, attr::CHANGE_PORT).await.is_some();
    let both = ask(&*socket, server, attr::CHANGE_IP | attr::CHANGE_PORT).await.is_some();
    match (both, port, ip) {
        (true, true, true) => Filtering::EndpointIndependent,
        (false, true, false) => Filtering::AddressDependent,
        (false, false, false) => Filtering::AddressAndPortDependent,
        (false, false, true) => Filtering::PortDependent,
        other => panic!("no such filter: {other:?}"),
    }
}

async fn mapping(world: &World) -> Mapping {
    let socket = socket(&world.client()).await;
    let mut seen = Vec::new();
    for to in endpoints(world) {
        seen.push(ask(&*socket, to, 0).await.expect("an answer").1);
    }
    let local = SocketAddr::new(
        world.client().source_for(seen[0]).expect("route"),
        socket.local_addr().expect("bound").port(),
    );
    match (seen[0] == seen[1], seen[0] == seen[2]) {
        (true, true) if seen[0] == local => Mapping::Direct,
        (true, true) => Mapping::EndpointIndependent,
        (true, false) => Mapping::AddressDependent,
        (false, true) => Mapping::PortDependent,
        (false, false) => Mapping::AddressAndPortDependent,
    }
}

#[test]
fn every_class_is_what_its_spec_says() {
    let maps = ["direct", "ei", "ad", "apd", "pd"];
    let filters = ["ei", "ad", "apd", "pd"];
    let ports = ["preserving", "sequential", "random", "block"];
    let mut specs = Vec::new();
    for m in maps {
        for f in filters {
            specs.extend(ports.map(|p| format!("mapping={m},filtering={f},ports={p}")));
        }
    }
    let named = shared::nat::model::PRESETS.iter().map(|p| p.name.to_owned());
    let stacks = ["linux+carrier", "full-cone+symmetric", "firewall+restricted-cone", "linux-open-input"];
    for spec in specs.into_iter().chain(named).chain(stacks.map(str::to_owned)) {
        let stack: Stack = spec.parse().expect(&spec);
        let Some(expected) = stack.behaviour().udp else { continue };
        run(async {
            let world = world(&spec);
            assert_eq!(filtering(&world).await, expected.filtering, "{spec}");
            assert_eq!(mapping(&world).await, expected.mapping, "{spec}");
        });
    }
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    let trace = |seed| {
        run(async move {
            let path = PathSpec {
                jitter: Duration::from_millis(5),
                duplicate: 0.1,
                reorder: 0.1,
                ..PathSpec::default().with_loss(Loss::Independent(0.2))
            };
            let world =
                World::builder(seed).nat("symmetric".parse().expect("nat")).path(path).trace(true).build();
            let socket = socket(&world.client()).await;
            for _ in 0..20 {
                for to in endpoints(&world) {
                    ask(&*socket, to, 0).await;
                }
            }
            world.trace().iter().map(ToString::to_string).collect::<Vec<_>>()
        })
    };
    let first = trace(1);
    assert_eq!(first, trace(1));
    assert_ne!(first, trace(2));
    for fate in ["lost", "let out", "let in", "sent", "received"] {
        assert!(first.iter().any(|line| line.ends_with(fate)), "{fate}");
    }
}

#[test]
fn a_round_trip_takes_twice_the_delay() {
    run(async {
        let world = World::builder(1).path(PathSpec::with_delay_ms(350)).build();
        let socket = socket(&world.client()).await;
        let begin = Instant::now();
        ask(&*socket, world.server(), 0).await.expect("an answer");
        let took = begin.elapsed();
        assert!((Duration::from_millis(700)..Duration::from_millis(702)).contains(&took), "{took:?}");
    });
}

#[test]
fn a_receipt_tells_a_second_run_of_the_first() {
    run(async {
        let world = world("full-cone");
        let [server, _, alternate, _] = endpoints(&world);
        let socket = socket(&world.client()).await;
        let unheard = async |seed| {
            let id = TransactionId::modern(&mut fastrand::Rng::with_seed(seed));
            let mut buffer = [0; 512];
            let mut writer = Writer::new(&mut buffer, Class::Request, &id);
            writer.u32(attr::CHANGE_REQUEST, attr::CHANGE_IP).zeros(attr::RECEIPT, 140);
            let length = writer.finish().expect("room");
            socket.send_to(&buffer[..length], server).await.expect("sent");
            for _ in 0..2 {
                let (length, _) = socket.recv_from(&mut buffer).await.expect("received");
                let told = View::parse(&buffer[..length]).expect("STUN").u32(attr::ALTERNATE_UNHEARD);
                if told.is_some() {
                    return told;
                }
            }
            None
        };
        assert_eq!(unheard(1).await, Some(600), "a world that has just begun");
        ask(&*socket, alternate, 0).await.expect("an answer");
        tokio::time::sleep(Duration::from_secs(90)).await;
        assert_eq!(unheard(2).await, Some(90));
    });
}

#[test]
fn tcp_answers_where_udp_is_blocked() {
    run(async {
        let world = world("udp-blocked");
        let socket = socket(&world.client()).await;
        assert_eq!(ask(&*socket, world.server(), 0).await, None);
        let mut stream = world.client().connect(None, world.server()).await.expect("connected");
        stream.write_all(&request(1, 0)).await.expect("written");
        let mut answer = vec![0; 20];
        stream.read_exact(&mut answer).await.expect("a header");
        let length = usize::from(u16::from_be_bytes([answer[2], answer[3]]));
        answer.resize(20 + length, 0);
        stream.read_exact(&mut answer[20..]).await.expect("a body");
        let mapped = View::parse(&answer).expect("STUN").mapped().expect("mapped");
        assert_eq!(mapped.ip().to_string(), "203.0.113.1");
    });
}

#[test]
fn refused_and_silent_tcp_ports_are_told_apart() {
    run(async {
        let server = ServerSpec::with_faults([Fault::TcpClosed]);
        let world = World::builder(1).server(server).build();
        let net = world.client();
        let refused = net.connect(None, world.server()).await.err().map(|e| e.kind());
        assert_eq!(refused, Some(std::io::ErrorKind::ConnectionRefused));
        let begin = Instant::now();
        let silent =
            net.connect(None, "192.0.2.1:80".parse().expect("address")).await.err().map(|e| e.kind());
        assert_eq!(silent, Some(std::io::ErrorKind::TimedOut));
        assert_eq!(begin.elapsed().as_secs(), 63);
    });
}

#[test]
fn two_hosts_behind_cones_punch_over_udp_and_tcp() {
    run(async {
        let site = SiteSpec { nat: "linux".parse().expect("nat"), ..SiteSpec::default() };
        let world = World::builder(3).nat("linux".parse().expect("nat")).site(site).build();
        let (a, b) = (world.client(), world.host(1, 0));
        let (sa, sb) = (socket(&a).await, socket(&b).await);
        let xa = ask(&*sa, world.server(), 0).await.expect("an answer").1;
        let xb = ask(&*sb, world.server(), 0).await.expect("an answer").1;
        sa.send_to(b"too early", xb).await.expect("sent");
        sb.send_to(b"hello", xa).await.expect("sent");
        let mut buffer = [0; 64];
        let (length, from) = sa.recv_from(&mut buffer).await.expect("received");
        assert_eq!((&buffer[..length], from), (&b"hello"[..], xb));

        let (la, lb) = ("0.0.0.0:5000".parse().expect("address"), "0.0.0.0:6000".parse().expect("address"));
        let (ga, gb) =
            ("203.0.113.1:5000".parse().expect("address"), "203.0.113.17:6000".parse().expect("address"));
        let (one, two) = tokio::join!(a.connect(Some(la), gb), b.connect(Some(lb), ga));
        let (mut one, mut two) = (one.expect("open"), two.expect("open"));
        one.write_all(b"ping").await.expect("written");
        let mut heard = [0; 4];
        two.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"ping");
    });
}

#[test]
fn customers_of_one_carrier_meet_inside_its_realm() {
    run(async {
        let home =
            |behind| SiteSpec { nat: "full-cone".parse().expect("nat"), behind, ..SiteSpec::default() };
        let carrier = SiteSpec { nat: "carrier".parse().expect("nat"), hosts: 0, ..SiteSpec::default() };
        let world =
            World::builder(3).site(carrier).site(home(Some(1))).site(home(Some(1))).trace(true).build();
        let (a, b) = (world.host(2, 0), world.host(3, 0));
        let (sa, sb) = (socket(&a).await, socket(&b).await);
        let seen = ask(&*sa, world.server(), 0).await.expect("an answer").1;
        assert_eq!(
            seen.ip().to_string().rsplit_once('.').map(|(net, _)| net.to_owned()),
            Some("203.0.113".into())
        );
        sb.send_to(b"over the carrier's hairpin", seen).await.expect("sent");
        let mut buffer = [0; 64];
        let (_, from) =
            timeout(Duration::from_secs(1), sa.recv_from(&mut buffer)).await.expect("hairpin").expect("ok");
        assert_eq!(
            from.ip().to_string().rsplit_once('.').map(|(net, _)| net.to_owned()),
            Some("203.0.113".into())
        );
    });
}

#[test]
fn short_lived_packets_die_on_the_way() {
    run(async {
        let world = world("linux");
        let socket = socket(&world.client()).await;
        let server = world.server();
        for (ttl, alive) in [(1, false), (2, false), (4, false), (5, true)] {
            socket.set_ttl(ttl).expect("set");
            assert_eq!(ask(&*socket, server, 0).await.is_some(), alive, "time to live {ttl}");
        }
    });
}

#[test]
fn each_fault_shows() {
    let ask_with = |fault: Fault, change: u32| {
        run(async move {
            let world = World::builder(1).server(ServerSpec::with_faults([fault])).build();
            let socket = socket(&world.client()).await;
            socket.send_to(&request(9, change), world.server()).await.expect("sent");
            let mut all = Vec::new();
            let mut buffer = [0; 512];
            while let Ok(got) = timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await {
                let (length, from) = got.expect("received");
                all.push((buffer[..length].to_vec(), from));
            }
            all
        })
    };
    let both = attr::CHANGE_IP | attr::CHANGE_PORT;
    let single = |fault, change| {
        let mut all = ask_with(fault, change);
        assert_eq!(all.len(), 1, "{fault:?}");
        all.remove(0)
    };
    let other = |bytes: &[u8]| View::parse(bytes).expect("STUN").address(attr::OTHER_ADDRESS);
    let text = |address: Option<SocketAddr>| address.map(|a| a.to_string());
    assert_eq!(ask_with(Fault::AlternateDead, both).len(), 0);
    assert_eq!(ask_with(Fault::UdpDead, 0).len(), 0);
    assert_eq!(ask_with(Fault::ClassicOnly, 0).len(), 0);
    assert_eq!(ask_with(Fault::ModernOnly, 0).len(), 1);
    assert_eq!(ask_with(Fault::Duplicate, 0).len(), 2);
    assert_eq!(ask_with(Fault::Garbage, 0).len(), 3);
    assert_eq!(text(other(&single(Fault::OtherSameIp, 0).0)), Some("198.51.100.10:3479".into()));
    assert_eq!(text(other(&single(Fault::OtherPrivate, 0).0)), Some("10.0.0.5:3479".into()));
    assert_eq!(text(other(&single(Fault::OtherUnspecified, 0).0)), Some("0.0.0.0:3479".into()));
    assert_eq!(other(&single(Fault::SingleAddress, 0).0), None);
    let ignored = single(Fault::ChangeIgnored, both);
    assert_eq!(ignored.1.to_string(), "198.51.100.10:3478");
    let faked = single(Fault::ChangeFaked, both);
    assert_eq!(faked.1.to_string(), "198.51.100.10:3478");
    let origin = View::parse(&faked.0).expect("STUN").address(attr::RESPONSE_ORIGIN);
    assert_eq!(text(origin), Some("198.51.100.11:3479".into()));
    let refused = single(Fault::ChangeRefused, both).0;
    assert_eq!(View::parse(&refused).expect("STUN").error().map(|e| e.0), Some(420));
    let lie = single(Fault::OriginLies, 0).0;
    assert_eq!(
        text(View::parse(&lie).expect("STUN").address(attr::RESPONSE_ORIGIN)),
        Some("192.0.2.99:3478".into())
    );
    let unmasked = single(Fault::NoXor, 0).0;
    let view = View::parse(&unmasked).expect("STUN");
    assert!(view.find(attr::XOR_MAPPED_ADDRESS).is_none() && view.find(attr::MAPPED_ADDRESS).is_some());
}
