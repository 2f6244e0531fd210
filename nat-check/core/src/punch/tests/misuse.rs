//! What a lying peer can make this side send: every packet and every connection of an attempt is counted by where it goes.

use std::{collections::BTreeMap, io, net::IpAddr};

use shared::{
    nat::{Filtering, Mapping, PortAllocation, PortPolicy},
    rendezvous::peer::{MAX_ADDRESSES, NextPort, Offer, RoundCandidates, RoundReport, TcpSide},
};

use super::{
    hostile::{against_net, bait, hostile, nonsense},
    wire::{Kind, Packet},
    *,
};
use crate::{
    net::{Boxed, Datagram, Listener, TcpPort},
    verdict::predict::tcp::{CONNECTIONS, ROUNDS},
};

/// Packets and connections, by where they went.
#[derive(Debug, Default)]
struct Sent {
    packets: BTreeMap<SocketAddr, u32>,
    connections: BTreeMap<SocketAddr, u32>,
}

/// A network that takes note of everything that leaves it.
struct Witness {
    net: Arc<dyn Net>,
    sent: Arc<Mutex<Sent>>,
}

#[derive(Debug)]
struct WitnessSocket {
    socket: Box<dyn Datagram>,
    sent: Arc<Mutex<Sent>>,
}

impl Net for Witness {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        Box::pin(async move {
            let socket = self.net.bind(local).await?;
            Ok(Box::new(WitnessSocket { socket, sent: Arc::clone(&self.sent) }) as Box<dyn Datagram>)
        })
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        self.net.source_for(remote)
    }

    fn prefix_len(&self, own: IpAddr) -> Option<u8> {
        self.net.prefix_len(own)
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        *self.sent.lock().unwrap().connections.entry(remote).or_default() += 1;
        self.net.connect(local, remote)
    }

    fn tcp_port(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn TcpPort>>> {
        Box::pin(async move {
            let port = self.net.tcp_port(local).await?;
            Ok(Box::new(WitnessPort { port, sent: Arc::clone(&self.sent) }) as Box<dyn TcpPort>)
        })
    }
}

#[derive(Debug)]
struct WitnessPort {
    port: Box<dyn TcpPort>,
    sent: Arc<Mutex<Sent>>,
}

impl TcpPort for WitnessPort {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.port.local_addr()
    }

    fn connect(&self, remote: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        *self.sent.lock().unwrap().connections.entry(remote).or_default() += 1;
        self.port.connect(remote)
    }

    fn listen(&self) -> io::Result<Box<dyn Listener>> {
        self.port.listen()
    }
}

impl Datagram for WitnessSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        *self.sent.lock().unwrap().packets.entry(to).or_default() += 1;
        self.socket.send_to(datagram, to)
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        self.socket.recv_from(buffer)
    }

    fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.set_ttl(ttl)
    }
}

/// What is sent when the peer, whatever it is asked, says that it is at these endpoints.
async fn lured(named: &[SocketAddr], next: Option<NextPort>, range: (u16, u16)) -> (Sent, PunchReport) {
    let mut offer = bait(named.to_vec());
    if let Some(ports) = &mut offer.behaviour.ports {
        ports.range = range;
    }
    lured_by(offer, named, next).await
}

/// The same by a peer that makes this offer.
async fn lured_by(offer: Offer, named: &[SocketAddr], next: Option<NextPort>) -> (Sent, PunchReport) {
    let world = world("port-restricted-cone", "open");
    let sent = Arc::new(Mutex::new(Sent::default()));
    let net = Arc::new(Witness { net: world.host(0, 0), sent: Arc::clone(&sent) });
    let (report, ()) = against_net(net, &world, async |code| {
        let mut liar = hostile(&world, code, offer).await;
        let candidates = RoundCandidates { at: named.to_vec(), next };
        while liar.introducer.exchange(PeerMessage::RoundCandidates(candidates.clone())).await.is_ok() {}
    })
    .await;
    // The servers, and the external address that the hairpinning test sends to.
    let mut expected: Vec<IpAddr> = world.servers().iter().flat_map(|s| [s.primary, s.alternate]).collect();
    expected.push([203, 0, 113, 1].into());
    let mut sent = std::mem::take(&mut *sent.lock().unwrap());
    sent.packets.retain(|to, _| !expected.contains(&to.ip()));
    sent.connections.retain(|to, _| !expected.contains(&to.ip()));
    (sent, report.expect("a report"))
}

impl Sent {
    /// What went elsewhere than to the peer's own address, or to ports of services there.
    fn to_others(&self) -> BTreeMap<SocketAddr, u32> {
        let own = |to: &SocketAddr| {
            to.ip() == IpAddr::from([203, 0, 113, 17])
                && to.port() >= 1024
                && !shared::ports::is_reflector(to.port())
        };
        let all = self.packets.iter().chain(&self.connections);
        all.filter(|(to, _)| !own(to)).map(|(to, count)| (*to, *count)).collect()
    }
}

fn endpoints(named: &[&str]) -> Vec<SocketAddr> {
    named.iter().map(|at| at.parse().unwrap()).collect()
}

#[test]
fn a_peer_cannot_have_the_host_or_its_network_scanned() {
    run(async {
        for named in [
            ["127.0.0.1:6000", "127.0.0.1:6001", "[::1]:6000", "[::ffff:127.0.0.1]:6000"],
            ["192.168.77.1:8080", "192.168.77.2:6000", "192.168.1.1:8080", "10.0.0.1:6000"],
            ["169.254.169.254:8080", "239.255.255.250:1900", "255.255.255.255:6000", "0.0.0.0:6000"],
            ["203.0.113.17:53", "203.0.113.17:1900", "203.0.113.17:22", "[fe80::1]:6000"],
        ] {
            let (sent, report) = lured(&endpoints(&named), None, (1024, 65535)).await;
            println!("{named:?}: {:?}", sent.to_others());
            assert!(sent.to_others().is_empty(), "{named:?}: {:?}", sent.to_others());
            assert_eq!(report.outcome, PunchOutcome::Failed);
        }
    });
}

#[test]
fn strangers_on_the_internet_get_a_few_packets_and_no_connection() {
    run(async {
        let named = ["203.0.113.99:6000", "203.0.113.99:6001", "[2001:db8::99]:6000", "203.0.113.98:6000"];
        let (sent, _) = lured(&endpoints(&named), None, (1024, 65535)).await;
        println!("packets to strangers whom a peer names: {:?}", sent.to_others());
        assert!(sent.connections.is_empty(), "{sent:?}");
        let packets: u32 = sent.to_others().values().sum();
        assert!((1..=contacts::UNVOUCHED_PACKETS).contains(&packets), "{sent:?}");
    });
}

#[test]
fn guesses_stay_above_the_ports_of_services_whatever_the_range() {
    run(async {
        // The second host is open: its own address is where the server has seen it.
        let own = endpoints(&["203.0.113.17:6000"]);
        for (range, next) in [
            ((1, 1023), None),
            ((0, 0), None),
            ((1023, 1), None),
            ((1, 65535), Some(NextPort { port: 20, step: -1 })),
            ((1, 65535), Some(NextPort { port: 1030, step: -7 })),
        ] {
            let (sent, _) = lured(&own, next, range).await;
            let all = sent.packets.keys().chain(sent.connections.keys());
            let low: Vec<_> = all.filter(|to| to.port() < 1024).collect();
            assert!(low.is_empty(), "{range:?} {next:?}: {low:?}");
        }
        let (sent, _) = lured(&own, None, (1, 65535)).await;
        let (packets, ports) = (sent.packets.values().sum::<u32>(), sent.packets.len());
        println!("to the peer's own address: {packets} packets to {ports} ports, {:?}", sent.connections);
        assert!(ports > 100, "nothing was guessed, so nothing was shown: {sent:?}");
    });
}

#[test]
fn connections_go_to_the_peers_own_address_and_are_no_more_than_stated() {
    let counted = |step| PortAllocation {
        policy: PortPolicy::Sequential,
        delta: Some(step),
        range: (1024, 65535),
        external_ips: 1,
        parity: None,
        external_ip_by_destination: None,
        cross_traffic_per_s: None,
    };
    let moving = |cross_traffic| TcpSide {
        nominates: true,
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        ports: Some(counted(1)),
        cross_traffic: Some(cross_traffic),
        ..TcpSide::default()
    };
    let fixed = TcpSide { mapping: Some(Mapping::EndpointIndependent), fixed: true, ..moving(0.0) };
    run(async {
        let named = ["203.0.113.17:6000", "203.0.113.99:6000", "127.0.0.1:6000"];
        let mut most = 0;
        for (tcp, rtt_ms) in [(fixed, 20), (moving(0.0), 20), (moving(10.0), 2000), (moving(1000.0), 2000)] {
            let next = Some(NextPort { port: 7000, step: 1 });
            let told = format!("{tcp:?}");
            let offer = Offer { tcp: Some(tcp), rtt_ms, ..bait(endpoints(&named)) };
            let (sent, _) = lured_by(offer, &endpoints(&named), next).await;
            let others: Vec<_> = sent.connections.keys().filter(|to| to.ip() != named_ip(named[0])).collect();
            assert!(others.is_empty(), "{told}: {others:?}");
            most = most.max(sent.connections.values().sum());
        }
        println!("to the peer's own address: {most} connections");
        let stated = ROUNDS * CONNECTIONS;
        assert!((CONNECTIONS..=stated).contains(&most), "{most}, and {stated} is what the page states");
    });
}

fn named_ip(at: &str) -> IpAddr {
    at.parse::<SocketAddr>().unwrap().ip()
}

#[test]
fn a_peer_is_not_told_of_errors() {
    let report = RoundReport { through: false, sent: 1, heard: 0, to: Vec::new() };
    let told = PeerMessage::RoundReport(report).write().unwrap();
    assert!(!told.as_text().contains("refused"), "{}", told.as_text());
}

/// Somebody who has not spoken, or nobody.
fn stranger(rng: &mut fastrand::Rng) -> SocketAddr {
    let ip: IpAddr = match rng.u8(..6) {
        0 => [203, 0, 113, 17].into(),
        1 => [192, 168, rng.u8(..3), rng.u8(..)].into(),
        2 => [127, 0, 0, rng.u8(..)].into(),
        3 => [0x2001, 0xdb8, 0, 0, 0, 0, 0, rng.u16(..)].into(),
        _ => [203, 0, 113, rng.u8(90..120)].into(),
    };
    SocketAddr::new(ip, if rng.bool() { rng.u16(..) } else { rng.u16(5000..5010) })
}

fn strangers(rng: &mut fastrand::Rng) -> Vec<SocketAddr> {
    (0..rng.usize(..=MAX_ADDRESSES)).map(|_| stranger(rng)).collect()
}

/// What is sent when a peer makes this offer, and then says and sends anything: signed packets of every kind, stamped at
/// random, and garbage.
async fn sent_to(offer: Offer, seed: u64) -> Sent {
    let world = world("port-restricted-cone", "open");
    let sent = Arc::new(Mutex::new(Sent::default()));
    let net = Arc::new(Witness { net: world.host(0, 0), sent: Arc::clone(&sent) });
    _ = against_net(net, &world, async |code| {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut liar = hostile(&world, code, offer).await;
        let keys = Keys::new(liar.offer.nonce, liar.peer.nonce);
        let socket = world.host(1, 0).bind("0.0.0.0:0".parse().unwrap()).await.unwrap();
        loop {
            for to in liar.peer.external.iter().cycle().take(rng.usize(..40)) {
                let kinds = [
                    Kind::Ping,
                    Kind::Pong,
                    Kind::Ack,
                    Kind::Nominate,
                    Kind::Nominated,
                    Kind::HeartbeatReply,
                ];
                let packet =
                    Packet { kind: *rng.choice(&kinds).unwrap(), round: rng.u8(..9), stamp: rng.u64(..) };
                let datagram =
                    if rng.u8(..5) == 0 { vec![rng.u8(..); 48] } else { packet.write(&keys).to_vec() };
                socket.send_to(&datagram, *to).await.unwrap();
            }
            let said = match rng.u8(..5) {
                0 => PeerMessage::RoundReport(RoundReport { heard: rng.u32(..), ..RoundReport::default() }),
                _ => PeerMessage::RoundCandidates(RoundCandidates {
                    at: strangers(&mut rng),
                    next: rng.bool().then(|| NextPort { port: rng.u16(..), step: rng.i32(-9..9) }),
                }),
            };
            if liar.introducer.exchange(said).await.is_err() {
                return;
            }
        }
    })
    .await;
    let mut sent = std::mem::take(&mut *sent.lock().unwrap());
    let servers: Vec<IpAddr> = world.servers().iter().flat_map(|s| [s.primary, s.alternate]).collect();
    let is_other = |to: &SocketAddr| !servers.contains(&to.ip()) && to.ip() != IpAddr::from([203, 0, 113, 1]);
    sent.packets.retain(|to, _| is_other(to));
    sent.connections.retain(|to, _| is_other(to));
    sent
}

#[test]
fn whatever_a_peer_says_and_sends_who_has_not_spoken_gets_no_more_than_stated() {
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut most, mut any) = (0, 0);
    for round in 0..60 {
        let mut offer = nonsense(&mut rng);
        (offer.lan, offer.external) = (strangers(&mut rng), strangers(&mut rng));
        offer.behaviour.addresses = strangers(&mut rng).iter().map(SocketAddr::ip).collect();
        // Of every second one more is believed.
        if round % 2 == 0 {
            let bait = bait(offer.external.clone());
            (offer.techniques, offer.behaviour.udp) = (bait.techniques, true);
        }
        let sent = run(sent_to(offer.clone(), round));
        let others = sent.to_others();
        let packets: u32 = others.values().sum();
        assert!(packets <= contacts::UNVOUCHED_PACKETS, "{round}: {others:?}\n{offer:#?}");
        let connected = sent.connections.keys().filter(|to| to.ip() != IpAddr::from([203, 0, 113, 17]));
        assert_eq!(connected.count(), 0, "{round}: {:?}", sent.connections);
        let never = |to: &SocketAddr| to.ip().is_loopback() || to.port() < 1024;
        assert!(!others.keys().any(never), "{round}: {others:?}");
        most = most.max(packets);
        any += u32::from(packets > 0);
    }
    println!("to all who have not spoken, of whatever a peer says and sends: {most} packets");
    assert!(any > 20, "of 60 peers only {any} made it send anything, so little was shown");
}
