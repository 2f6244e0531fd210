//! Raw IP packets for the user-space NAT: parsed into the model's terms, rewritten in place with updated checksums,
//! answered with ICMP errors or TCP resets (RFC 791, RFC 8200, RFC 1624).

use std::net::{IpAddr, SocketAddr};

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4, icmpv6};
use shared::nat::model::{Fragment, Packet, Protocol, TcpFlags, spec::Hops};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const FRAGMENT6: u8 = 44;
/// TTL of packets that are made here.
const TTL: u8 = 64;

/// One IP packet and the offsets of its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    bytes: Vec<u8>,
    protocol: u8,
    transport: usize,
    pub(crate) fragment: Option<Fragment>,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Carries {
    /// UDP or TCP: what the model translates.
    Flow(Protocol),
    /// An ICMP echo request or reply, with its identifier.
    Echo(u16),
    /// An ICMP error about a packet that is quoted in it.
    IcmpError,
    /// Anything else.
    Other,
}

/// The reason of an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IcmpReason {
    /// TTL exceeded.
    Expired,
    /// Host unreachable.
    NoRoute,
    /// Port unreachable.
    PortUnreachable,
}

impl Datagram {
    /// Parses the headers; `None` if it is not a complete IP packet.
    pub(crate) fn parse(bytes: Vec<u8>) -> Option<Self> {
        match bytes.first()? >> 4 {
            4 => Self::parse4(bytes),
            6 => Self::parse6(bytes),
            _ => None,
        }
    }

    fn parse4(bytes: Vec<u8>) -> Option<Self> {
        let transport = usize::from(bytes[0] & 0x0f) * 4;
        if transport < 20 || bytes.len() < transport {
            return None;
        }
        let flags = u16_at(&bytes, 6);
        let (more, offset) = (flags & 0x2000 != 0, flags & 0x1fff);
        let fragment =
            (more || offset != 0).then(|| Fragment { id: u16_at(&bytes, 4).into(), first: offset == 0 });
        let protocol = bytes[9];
        Self { bytes, protocol, transport, fragment }.complete()
    }

    fn parse6(bytes: Vec<u8>) -> Option<Self> {
        if bytes.len() < 40 {
            return None;
        }
        if bytes[6] != FRAGMENT6 {
            let protocol = bytes[6];
            return Self { bytes, protocol, transport: 40, fragment: None }.complete();
        }
        let header = bytes.get(40..48)?;
        let (protocol, first) = (header[0], u16_at(header, 2) & 0xfff8 == 0);
        let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        Self { bytes, protocol, transport: 48, fragment: Some(Fragment { id, first }) }.complete()
    }

    /// Whether the transport header is complete, where the packet has one.
    fn complete(self) -> Option<Self> {
        let needed = match self.protocol {
            _ if self.fragment.is_some_and(|f| !f.first) => 0,
            UDP | ICMP | ICMP6 => 8,
            TCP => 20,
            _ => 0,
        };
        (self.bytes.len() >= self.transport + needed).then_some(self)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.bytes[0] >> 4 == 6
    }

    pub(crate) fn source(&self) -> IpAddr {
        self.ip_at(if self.is_v6() { 8 } else { 12 })
    }

    pub(crate) fn destination(&self) -> IpAddr {
        self.ip_at(if self.is_v6() { 24 } else { 16 })
    }

    pub(crate) fn carries(&self) -> Carries {
        let first = self.fragment.is_none_or(|f| f.first);
        let kind = self.bytes.get(self.transport).copied().unwrap_or_default();
        let echo = || Carries::Echo(u16_at(&self.bytes, self.transport + 4));
        match (self.protocol, kind) {
            (UDP, _) => Carries::Flow(Protocol::Udp),
            (TCP, _) => Carries::Flow(Protocol::Tcp),
            (ICMP, 0 | 8) | (ICMP6, 128 | 129) if first => echo(),
            (ICMP, 3 | 11 | 12) | (ICMP6, 1..=4) if first => Carries::IcmpError,
            _ => Carries::Other,
        }
    }

    /// Source and destination port; `None` in later fragments and in what has none.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        let first = self.fragment.is_none_or(|f| f.first);
        (first && matches!(self.protocol, UDP | TCP))
            .then(|| (u16_at(&self.bytes, self.transport), u16_at(&self.bytes, self.transport + 2)))
    }

    /// The packet in the model's terms, with the ports of the whole.
    pub(crate) fn model(&self, ports: (u16, u16)) -> Option<Packet> {
        let Carries::Flow(protocol) = self.carries() else { return None };
        let flags = match (protocol, self.ports()) {
            (Protocol::Tcp, Some(_)) => self.bytes[self.transport + 13],
            (Protocol::Tcp | Protocol::Udp, _) => 0,
        };
        Some(Packet {
            protocol,
            source: SocketAddr::new(self.source(), ports.0),
            destination: SocketAddr::new(self.destination(), ports.1),
            ttl: self.ttl(),
            tcp: TcpFlags {
                fin: flags & 1 != 0,
                syn: flags & 2 != 0,
                rst: flags & 4 != 0,
                ack: flags & 16 != 0,
            },
            fragment: self.fragment,
            payload: self.bytes[self.payload()..].to_vec(),
        })
    }

    /// Gives the packet the addresses, ports and payload that the model decided on.
    pub(crate) fn apply(&mut self, packet: &Packet) {
        let mut change = 0;
        change += self.put_ip(true, packet.source.ip());
        change += self.put_ip(false, packet.destination.ip());
        if self.ports().is_some() {
            change += self.put(self.transport, &packet.source.port().to_be_bytes());
            change += self.put(self.transport + 2, &packet.destination.port().to_be_bytes());
        }
        let payload = self.payload();
        if packet.payload.len() == self.bytes.len() - payload && packet.payload != self.bytes[payload..] {
            change += self.put(payload, &packet.payload);
        }
        let sum = match self.protocol {
            _ if self.ports().is_none() => return,
            UDP => self.transport + 6,
            _ => self.transport + 16,
        };
        let old = u16_at(&self.bytes, sum);
        if self.protocol == UDP && old == 0 {
            // Sent without a checksum (RFC 768).
            return;
        }
        let new = match fold(u64::from(!old) + change) {
            0 if self.protocol == UDP => 0xffff,
            new => new,
        };
        self.bytes[sum..sum + 2].copy_from_slice(&new.to_be_bytes());
    }

    pub(crate) fn ttl(&self) -> u8 {
        self.bytes[self.ttl_at()]
    }

    /// Passes a router, which decrements the TTL; `false` when it has expired.
    pub(crate) fn hop(&mut self) -> bool {
        self.pass(Hops::Counted)
    }

    /// Passes a device that does this to the TTL; `false` when it has expired.
    pub(crate) fn pass(&mut self, hops: Hops) -> bool {
        let at = self.ttl_at();
        let left = hops.after(self.bytes[at]);
        if left == 0 {
            return false;
        }
        self.bytes[at] = left;
        self.sum_header();
        true
    }

    /// Replaces the source of an echo request or the destination of a reply.
    pub(crate) fn readdress(&mut self, source: bool, ip: IpAddr) {
        self.put_ip(source, ip);
        self.sum_icmp();
    }

    /// The packet quoted in an ICMP error: protocol, source, destination.
    pub(crate) fn quoted(&self) -> Option<(Protocol, SocketAddr, SocketAddr)> {
        let quote = Self::parse_quote(self.bytes.get(self.transport + 8..)?)?;
        let Carries::Flow(protocol) = quote.carries() else { return None };
        let (from, to) = quote.ports()?;
        Some((protocol, SocketAddr::new(quote.source(), from), SocketAddr::new(quote.destination(), to)))
    }

    /// Translates an ICMP error for an internal host: its destination, and the source of the quoted packet.
    pub(crate) fn redirect_error(&mut self, inside: SocketAddr) {
        self.put_ip(false, inside.ip());
        let at = self.transport + 8;
        let Some(mut quote) = self.bytes.get(at..).and_then(Self::parse_quote) else { return };
        quote.put_ip(true, inside.ip());
        quote.put(quote.transport, &inside.port().to_be_bytes());
        // Remove the padding that completed the quoted packet.
        let length = self.bytes.len() - at;
        self.bytes[at..].copy_from_slice(&quote.bytes[..length]);
        self.sum_icmp();
    }

    /// Only eight bytes of the transport header have to be quoted: enough for the ports.
    fn parse_quote(bytes: &[u8]) -> Option<Self> {
        let mut bytes = bytes.to_vec();
        bytes.resize(bytes.len() + 12, 0);
        Self::parse(bytes)
    }

    /// The ICMP error for the sender.
    pub(crate) fn icmp(&self, router: IpAddr, reason: IcmpReason) -> Option<Vec<u8>> {
        if matches!(self.carries(), Carries::IcmpError) {
            // RFC 1122 3.2.2: no errors about errors.
            return None;
        }
        let mut out = Vec::new();
        match (router, self.source()) {
            (IpAddr::V4(router), IpAddr::V4(to)) => {
                use icmpv4::{DestUnreachableHeader as D, TimeExceededCode as T};
                let kind = match reason {
                    IcmpReason::Expired => Icmpv4Type::TimeExceeded(T::TtlExceededInTransit),
                    IcmpReason::NoRoute => Icmpv4Type::DestinationUnreachable(D::Network),
                    IcmpReason::PortUnreachable => Icmpv4Type::DestinationUnreachable(D::Port),
                };
                let quote = &self.bytes[..self.bytes.len().min(128)];
                PacketBuilder::ipv4(router.octets(), to.octets(), TTL)
                    .icmpv4(kind)
                    .write(&mut out, quote)
                    .ok()?;
            }
            (IpAddr::V6(router), IpAddr::V6(to)) => {
                use icmpv6::{DestUnreachableCode as D, TimeExceededCode as T};
                let kind = match reason {
                    IcmpReason::Expired => Icmpv6Type::TimeExceeded(T::HopLimitExceeded),
                    IcmpReason::NoRoute => Icmpv6Type::DestinationUnreachable(D::NoRoute),
                    IcmpReason::PortUnreachable => Icmpv6Type::DestinationUnreachable(D::Port),
                };
                let quote = &self.bytes[..self.bytes.len().min(1232)];
                PacketBuilder::ipv6(router.octets(), to.octets(), TTL)
                    .icmpv6(kind)
                    .write(&mut out, quote)
                    .ok()?;
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        }
        Some(out)
    }

    /// The reset that refuses a TCP SYN.
    pub(crate) fn reset(&self) -> Option<Vec<u8>> {
        let (from, to) = self.ports()?;
        let at = self.transport;
        let number = u32::from_be_bytes(self.bytes.get(at + 4..at + 8)?.try_into().ok()?);
        let mut out = Vec::new();
        let ip = match (self.destination(), self.source()) {
            (IpAddr::V4(source), IpAddr::V4(to)) => PacketBuilder::ipv4(source.octets(), to.octets(), TTL),
            (IpAddr::V6(source), IpAddr::V6(to)) => PacketBuilder::ipv6(source.octets(), to.octets(), TTL),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
        };
        ip.tcp(to, from, 0, 0).rst().ack(number.wrapping_add(1)).write(&mut out, &[]).ok()?;
        Some(out)
    }

    fn payload(&self) -> usize {
        self.transport
            + match self.protocol {
                _ if self.ports().is_none() => 0,
                UDP => 8,
                _ => (usize::from(self.bytes[self.transport + 12] >> 4) * 4)
                    .clamp(20, self.bytes.len() - self.transport),
            }
    }

    fn ttl_at(&self) -> usize {
        if self.is_v6() { 7 } else { 8 }
    }

    fn ip_at(&self, at: usize) -> IpAddr {
        let mut octets = [0; 16];
        let length = if self.is_v6() { 16 } else { 4 };
        octets[..length].copy_from_slice(&self.bytes[at..at + length]);
        if self.is_v6() { octets.into() } else { [octets[0], octets[1], octets[2], octets[3]].into() }
    }

    /// Writes an address; returns the change of a checksum over it.
    fn put_ip(&mut self, source: bool, ip: IpAddr) -> u64 {
        let change = match (self.is_v6(), ip) {
            (true, IpAddr::V6(ip)) => self.put(if source { 8 } else { 24 }, &ip.octets()),
            (false, IpAddr::V4(ip)) => self.put(if source { 12 } else { 16 }, &ip.octets()),
            (true, IpAddr::V4(_)) | (false, IpAddr::V6(_)) => 0,
        };
        self.sum_header();
        change
    }

    /// Writes bytes at an even distance from the header's start; returns the change of a ones' complement sum.
    fn put(&mut self, at: usize, new: &[u8]) -> u64 {
        let slot = &mut self.bytes[at..at + new.len()];
        let change = words(new) + u64::from(fold(words(slot)));
        slot.copy_from_slice(new);
        change
    }

    fn sum_header(&mut self) {
        if !self.is_v6() {
            let end = usize::from(self.bytes[0] & 0x0f) * 4;
            self.bytes[10..12].fill(0);
            let sum = fold(words(&self.bytes[..end]));
            self.bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        }
    }

    fn sum_icmp(&mut self) {
        let at = self.transport;
        self.bytes[at + 2..at + 4].fill(0);
        let mut sum = words(&self.bytes[at..]);
        if self.is_v6() {
            sum += words(&self.bytes[8..40]) + (self.bytes.len() - at) as u64 + u64::from(ICMP6);
        }
        let sum = fold(sum);
        self.bytes[at + 2..at + 4].copy_from_slice(&sum.to_be_bytes());
    }
}

/// The sum of 16-bit words, an odd last byte padded with zero.
fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u64::from)).sum()
}

/// The checksum: carries added, then inverted.
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

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
            (Protocol::Udp, "192.168.77.2:40000".parse().unwrap(), "198.51.100.10:3478".parse().unwrap())
        );
        assert_eq!(
            icmp.icmp([203, 0, 113, 254].into(), IcmpReason::NoRoute),
            None,
            "no error about an error"
        );
    }

    #[test]
    fn an_error_finds_the_way_inside() {
        let about = udp4(b"x");
        let mut icmp =
            Datagram::parse(about.icmp([198, 51, 100, 10].into(), IcmpReason::PortUnreachable).unwrap())
                .unwrap();
        icmp.redirect_error("10.0.0.7:5000".parse().unwrap());
        assert_eq!(icmp.destination(), IpAddr::from([10, 0, 0, 7]));
        assert_eq!(icmp.quoted().unwrap().1, "10.0.0.7:5000".parse().unwrap());
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
}
