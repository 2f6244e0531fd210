//! Tests of the packets: checksums, ICMP errors, resets, cut packets.

use etherparse::PacketBuilder;

use super::{icmp::Quoted, *};

fn udp4(payload: &[u8]) -> Datagram {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([192, 168, 77, 2], [198, 51, 100, 10], 3)
        .udp(40000, 3478)
        .write(&mut bytes, payload)
        .unwrap();
    Datagram::parse(bytes).unwrap()
}

fn udp6(payload: &[u8]) -> Datagram {
    let mut bytes = Vec::new();
    PacketBuilder::ipv6([1; 16], [2; 16], 3).udp(40000, 3478).write(&mut bytes, payload).unwrap();
    Datagram::parse(bytes).unwrap()
}

fn tcp4(payload: &[u8]) -> Datagram {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([192, 168, 77, 2], [198, 51, 100, 10], 3)
        .tcp(40000, 3478, 7, 8)
        .syn()
        .write(&mut bytes, payload)
        .unwrap();
    Datagram::parse(bytes).unwrap()
}

/// A checksum over everything, computed by etherparse from scratch.
fn sums_are_right(d: &Datagram) {
    let sliced = etherparse::SlicedPacket::from_ip(d.bytes()).unwrap();
    let payload = |d: &Datagram| d.bytes[d.payload()..].to_vec();
    if let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net {
        assert_eq!(ip.header().to_header().calc_header_checksum(), ip.header().header_checksum());
    }
    match (sliced.net.unwrap(), sliced.transport.unwrap()) {
        (etherparse::NetSlice::Ipv4(ip), etherparse::TransportSlice::Udp(udp)) => assert_eq!(
            udp.to_header().calc_checksum_ipv4(&ip.header().to_header(), &payload(d)).unwrap(),
            udp.checksum()
        ),
        (etherparse::NetSlice::Ipv6(ip), etherparse::TransportSlice::Udp(udp)) => assert_eq!(
            udp.to_header().calc_checksum_ipv6(&ip.header().to_header(), &payload(d)).unwrap(),
            udp.checksum()
        ),
        (etherparse::NetSlice::Ipv4(ip), etherparse::TransportSlice::Tcp(tcp)) => assert_eq!(
            tcp.to_header().calc_checksum_ipv4(&ip.header().to_header(), &payload(d)).unwrap(),
            tcp.checksum()
        ),
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn translation_keeps_check_sums_right() {
    for mut d in [udp4(b"odd"), udp4(b"even"), tcp4(b""), tcp4(b"odd"), udp6(b"seven..")] {
        let mut packet = d.model(d.ports().unwrap()).unwrap();
        assert_eq!(packet.tcp.syn, packet.protocol == Protocol::Tcp);
        packet.source = match d.is_v6() {
            true => "[2001:db8::5]:61000".parse().unwrap(),
            false => "203.0.113.1:61000".parse().unwrap(),
        };
        packet.payload.iter_mut().for_each(|byte| *byte = byte.wrapping_mul(7));
        d.apply(&packet);
        assert!(d.hop());
        sums_are_right(&d);
        let again = d.model(d.ports().unwrap()).unwrap();
        assert_eq!((again.source, &again.payload), (packet.source, &packet.payload));
        assert_eq!(again.ttl, 2);
    }
}

#[test]
fn hops_run_out() {
    let mut d = udp4(b"x");
    assert!(d.hop() && d.hop() && !d.hop());
    let icmp = Datagram::parse(d.icmp([203, 0, 113, 254].into(), IcmpReason::Expired).unwrap()).unwrap();
    assert_eq!(icmp.carries(), Carries::IcmpError);
    assert_eq!(
        icmp.quoted().unwrap(),
        Quoted::Flow {
            protocol: Protocol::Udp,
            source: "192.168.77.2:40000".parse().unwrap(),
            destination: "198.51.100.10:3478".parse().unwrap(),
        }
    );
    assert_eq!(icmp.icmp([203, 0, 113, 254].into(), IcmpReason::NoRoute), None, "no error about an error");
}

#[test]
fn an_error_finds_the_way_inside() {
    let about = udp4(b"x");
    let mut icmp =
        Datagram::parse(about.icmp([198, 51, 100, 10].into(), IcmpReason::PortUnreachable).unwrap()).unwrap();
    icmp.redirect_error(IpAddr::from([10, 0, 0, 7]), Some(5000));
    assert_eq!(icmp.destination(), IpAddr::from([10, 0, 0, 7]));
    let Quoted::Flow { source, .. } = icmp.quoted().unwrap() else { panic!("it quotes a flow") };
    assert_eq!(source, "10.0.0.7:5000".parse().unwrap());
    let header = etherparse::Icmpv4Header::from_slice(&icmp.bytes[icmp.transport..]).unwrap();
    assert_eq!(header.0.icmp_type.calc_checksum(header.1), header.0.checksum);
}

#[test]
fn a_reset_answers_a_syn() {
    let reset = Datagram::parse(tcp4(b"").reset().unwrap()).unwrap();
    sums_are_right(&reset);
    let packet = reset.model(reset.ports().unwrap()).unwrap();
    assert!(packet.tcp.rst);
    assert_eq!(packet.destination, "192.168.77.2:40000".parse().unwrap());
}

#[test]
fn what_is_cut_short_is_no_packet() {
    for whole in [udp4(b"xyz"), udp6(b"xyz"), tcp4(b"xyz")] {
        for length in 0..whole.transport + 8 {
            assert_eq!(Datagram::parse(whole.bytes[..length].to_vec()), None, "{length} bytes");
        }
    }
}
