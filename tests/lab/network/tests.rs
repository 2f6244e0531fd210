//! Tests of the network with packets made by hand.

use std::net::SocketAddr;

use etherparse::PacketBuilder;

use super::*;
use crate::{
    ip::Quoted,
    topology::{Topology, plan::plan},
};

/// A network as a topology describes it, with a device for each host's first interface.
fn network(topology: &Topology) -> Network {
    let plan = plan(topology).unwrap();
    let mut network = Network::new(1);
    for node in &plan.nodes {
        network.add_router(node.lan.clone(), node.nat.clone(), &node.external, node.up, node.line);
    }
    for (host, interfaces) in plan.hosts.iter().enumerate() {
        let first = &interfaces[0];
        let ips = vec![first.ip4.into(), first.ip6.into()];
        network.add_device(Device { host, at: Some(first.at), ips });
    }
    network
}

fn udp(from: &str, to: &str, ttl: u8) -> Vec<u8> {
    let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (from.ip(), to.ip()) else { panic!("IPv4") };
    let mut bytes = Vec::new();
    let builder = PacketBuilder::ipv4(source.octets(), destination.octets(), ttl);
    builder.udp(from.port(), to.port()).write(&mut bytes, b"x").unwrap();
    bytes
}

fn ping(from: [u8; 4], to: [u8; 4], ttl: u8) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4(from, to, ttl).icmpv4_echo_request(7, 1).write(&mut bytes, b"x").unwrap();
    bytes
}

/// Everything that leaves within an hour after a packet has come in from a device.
fn after(network: &mut Network, device: usize, bytes: Vec<u8>) -> Vec<(usize, Datagram)> {
    network.enter(device, bytes, Duration::ZERO);
    let mut out = Vec::new();
    while let Some((device, bytes)) = network.leave(Duration::from_secs(3600)) {
        out.push((device, Datagram::parse(bytes).unwrap()));
    }
    out
}

/// The only packet that leaves.
fn answer(network: &mut Network, device: usize, bytes: Vec<u8>) -> (usize, Datagram) {
    let mut out = after(network, device, bytes);
    assert_eq!(out.len(), 1, "{out:?}");
    out.remove(0)
}

const BEHIND_A_CARRIER: &str = "linux+symmetric";

#[test]
fn every_router_of_the_way_answers_a_packet_whose_time_is_up() {
    let topology = Topology::new().router("home", BEHIND_A_CARRIER).host("alice", "home").internet("relay");
    let mut network = network(&topology);
    for (ttl, hop) in [(1, "192.168.77.1"), (2, "100.64.0.1"), (3, "203.0.113.254")] {
        let (device, error) = answer(&mut network, 0, udp("192.168.77.2:5000", "198.51.100.20:33434", ttl));
        assert_eq!((device, error.source().to_string()), (0, hop.to_owned()));
        let Some(Quoted::Flow { source, .. }) = error.quoted() else { panic!("it quotes the packet") };
        assert_eq!(source.to_string(), "192.168.77.2:5000", "as the host sent it");
        let (device, error) = answer(&mut network, 0, ping([192, 168, 77, 2], [198, 51, 100, 20], ttl));
        assert_eq!((device, error.source().to_string()), (0, hop.to_owned()));
        let quoted =
            Quoted::Echo { id: 7, source: [192, 168, 77, 2].into(), destination: [198, 51, 100, 20].into() };
        assert_eq!(error.quoted(), Some(quoted), "as the host sent it");
    }
    let (device, arrived) = answer(&mut network, 0, udp("192.168.77.2:5000", "198.51.100.20:33434", 4));
    assert_eq!((device, arrived.source().to_string()), (1, "203.0.113.1".to_owned()));
}

#[test]
fn from_outside_the_carriers_router_answers_and_then_the_home_router() {
    let topology = Topology::new().router("home", BEHIND_A_CARRIER).host("alice", "home").internet("relay");
    let mut network = network(&topology);
    let (_, arrived) = answer(&mut network, 0, udp("192.168.77.2:5000", "198.51.100.20:7", 64));
    let port = arrived.ports().unwrap().0;
    let to = format!("203.0.113.1:{port}");
    for (ttl, hop) in [(1, "203.0.113.254"), (2, "203.0.113.1"), (3, "203.0.113.1")] {
        let (device, error) = answer(&mut network, 1, udp("198.51.100.20:7", &to, ttl));
        // The home router's own address is the carrier's secret: the carrier's NAT translates the error.
        assert_eq!((device, error.source().to_string()), (1, hop.to_owned()));
    }
}

#[test]
fn an_error_from_a_host_reaches_the_sender_outside() {
    let topology = Topology::new().router("home", "linux").host("alice", "home").internet("relay");
    let mut network = network(&topology);
    let (_, arrived) = answer(&mut network, 0, udp("192.168.77.2:5000", "198.51.100.20:7", 64));
    let mapped = SocketAddr::new(arrived.source(), arrived.ports().unwrap().0);
    let (_, inside) = answer(&mut network, 1, udp("198.51.100.20:7", &mapped.to_string(), 64));
    let error = inside.icmp([192, 168, 77, 2].into(), IcmpReason::PortUnreachable).unwrap();
    let (device, error) = answer(&mut network, 0, error);
    assert_eq!((device, error.source()), (1, mapped.ip()));
    let Some(Quoted::Flow { destination, .. }) = error.quoted() else { panic!("it quotes the packet") };
    assert_eq!(destination, mapped);
}

#[test]
fn routers_answer_pings_themselves() {
    let topology = Topology::new().router("home", "linux").host("alice", "home").internet("relay");
    let mut network = network(&topology);
    let (device, reply) = answer(&mut network, 0, ping([192, 168, 77, 2], [192, 168, 77, 1], 64));
    assert_eq!(
        (device, reply.is_echo_request(), reply.source().to_string()),
        (0, false, "192.168.77.1".into())
    );
    let (device, reply) = answer(&mut network, 1, ping([198, 51, 100, 20], [203, 0, 113, 1], 64));
    assert_eq!((device, reply.source().to_string()), (1, "203.0.113.1".into()));
}

#[test]
fn neighbours_behind_a_carrier_reach_each_other_without_it() {
    let topology = Topology::new()
        .router("carrier", "symmetric")
        .router("one", "full-cone")
        .behind("carrier")
        .router("two", "full-cone")
        .behind("carrier")
        .host("alice", "one")
        .host("bob", "two")
        .internet("relay");
    let mut network = network(&topology);
    // Bob's mapping on the carrier's LAN, learnt from what he sends there: his router is the second one.
    let out = after(&mut network, 1, udp("192.168.79.2:6000", "198.51.100.20:7", 64));
    assert_eq!((out.len(), out[0].0), (1, 2));
    let to = network.router(2).nat.external()[0];
    let (device, arrived) = answer(&mut network, 0, udp("192.168.78.2:5000", &format!("{to}:6000"), 64));
    assert_eq!((device, arrived.destination().to_string()), (1, "192.168.79.2".into()));
    assert_eq!(network.router(0).summary(Duration::ZERO).sent.packets, 1, "only what went to the Internet");
}

#[test]
fn multicast_stays_on_the_lan() {
    let topology = Topology::new()
        .router("home", "linux")
        .host("alice", "home")
        .host("bob", "home")
        .host("carol", "home");
    let mut network = network(&topology);
    let out = after(&mut network, 0, udp("192.168.77.2:5353", "224.0.0.251:5353", 1));
    assert_eq!(out.iter().map(|(device, _)| *device).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn what_happened_is_counted() {
    let topology = Topology::new().router("home", "symmetric").host("alice", "home").internet("relay");
    let mut network = network(&topology);
    for port in [7, 8] {
        answer(&mut network, 0, udp("192.168.77.2:5000", &format!("198.51.100.20:{port}"), 64));
    }
    assert!(after(&mut network, 1, udp("198.51.100.20:9", "203.0.113.1:9", 64)).is_empty());
    network.set_link(0, false);
    assert!(after(&mut network, 0, udp("192.168.77.2:5000", "198.51.100.20:7", 64)).is_empty());
    let summary = network.summary(&["alice".into(), "relay".into()], Duration::ZERO);
    let nat = &summary.nats[0];
    assert_eq!((nat.mappings_made, nat.sent.packets, nat.received.packets), (2, 3, 0));
    assert_eq!(nat.dropped_in.iter().collect::<Vec<_>>(), [(&"no mapping".to_owned(), &1)]);
    assert_eq!(nat.dropped_out.iter().collect::<Vec<_>>(), [(&"link down".to_owned(), &1)]);
    assert_eq!((summary.direct("alice", "relay", "ipv4"), summary.direct("alice", "relay", "ipv6")), (2, 0));
    assert!(summary.between("alice", "relay").contains("over IPv4 (2 packets from alice, 0 from relay)"));
    network.restart_nat(0, None, None, Duration::ZERO);
    assert_eq!(
        network.summary(&[], Duration::ZERO).nats[0].mappings_made,
        2,
        "restarts are no loss of memory"
    );
}
