//! Raw IP packets for the user-space NAT: parsed into the model's terms, rewritten in place with updated checksums,
//! answered with ICMP errors or TCP resets (RFC 791, RFC 8200, RFC 1624).

mod answers;
mod icmp;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

pub(crate) use icmp::Quoted;
use shared::nat::model::{Fragment, Packet, Protocol, TcpFlags, spec::Hops};

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP6: u8 = 58;
const FRAGMENT6: u8 = 44;

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

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
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
