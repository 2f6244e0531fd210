//! Packets that pass through a modelled NAT, and its verdicts on them.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use crate::stun::{View, Writer, attr};

/// The transport of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Datagrams.
    Udp,
    /// Streams; the model looks at flags only.
    Tcp,
}

/// One packet. TCP carries its flags, a fragment the addresses and ports of the whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Transport.
    pub protocol: Protocol,
    /// Where it comes from.
    pub source: SocketAddr,
    /// Where it goes.
    pub destination: SocketAddr,
    /// Time to live, in hops. The driver decrements it, not the model.
    pub ttl: u8,
    /// Flags; all false for UDP.
    pub tcp: TcpFlags,
    /// Set on fragments of a larger packet.
    pub fragment: Option<Fragment>,
    /// What is carried.
    pub payload: Vec<u8>,
}

/// The flags that a NAT looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags {
    /// Opens a connection.
    pub syn: bool,
    /// Acknowledges.
    pub ack: bool,
    /// Closes one direction.
    pub fin: bool,
    /// Resets the connection.
    pub rst: bool,
}

/// Which part of a larger packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification, equal for all parts.
    pub id: u32,
    /// Whether it is the first part, the one with the port numbers.
    pub first: bool,
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is forwarded, translated.
    Forward(Packet),
    /// It came from inside and is sent back there, translated (RFC 4787 section 6).
    Hairpin(Packet),
    /// It is dropped, and its sender is told.
    Answer {
        /// What the sender is told.
        answer: Answer,
        /// How much later.
        after: Duration,
    },
    /// It is dropped silently.
    Drop(DropReason),
}

/// What the NAT itself answers to the sender of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// In which form.
    pub refused: Refused,
    /// The packet that it is about, as it came.
    pub about: Packet,
}

/// Forms of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A TCP reset that seems to come from the destination.
    Reset,
    /// ICMP destination unreachable, port unreachable.
    Unreachable,
}

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DropReason {
    /// The protocol is blocked.
    Blocked,
    /// From outside, to no mapping; or TCP from inside without a SYN.
    NoMapping,
    /// From outside, to a mapping whose filter does not accept the sender.
    Filtered,
    /// To an external address of the NAT from its own inside.
    NoHairpin,
    /// The internal host has as many mappings as it may have.
    Quota,
    /// No port is left.
    Exhausted,
    /// A fragment.
    Fragment,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Blocked => "blocked",
            Self::NoMapping => "no mapping",
            Self::Filtered => "filtered",
            Self::NoHairpin => "no hairpinning",
            Self::Quota => "quota",
            Self::Exhausted => "no port left",
            Self::Fragment => "fragment",
        })
    }
}

impl Packet {
    /// A whole UDP datagram with the usual time to live.
    #[must_use]
    pub fn udp(source: SocketAddr, destination: SocketAddr, payload: Vec<u8>) -> Self {
        let tcp = TcpFlags::default();
        Self { protocol: Protocol::Udp, source, destination, ttl: 64, tcp, fragment: None, payload }
    }

    /// A TCP segment with the usual time to live.
    #[must_use]
    pub fn tcp(source: SocketAddr, destination: SocketAddr, tcp: TcpFlags, payload: Vec<u8>) -> Self {
        Self { protocol: Protocol::Tcp, source, destination, ttl: 64, tcp, fragment: None, payload }
    }
}

impl TcpFlags {
    /// The first segment of a connection.
    pub const SYN: Self = Self { syn: true, ack: false, fin: false, rst: false };
    /// The second one.
    pub const SYN_ACK: Self = Self { syn: true, ack: true, fin: false, rst: false };
    /// Any other one.
    pub const ACK: Self = Self { syn: false, ack: true, fin: false, rst: false };
    /// The refusal.
    pub const RST: Self = Self { syn: false, ack: false, fin: false, rst: true };
}

impl Verdict {
    /// The verdict for a packet that came from inside.
    pub(super) fn hairpinned(self) -> Self {
        match self {
            Self::Forward(packet) => Self::Hairpin(packet),
            other @ (Self::Hairpin(_) | Self::Answer { .. } | Self::Drop(_)) => other,
        }
    }
}

/// Replaces an address by another wherever its bytes occur in a payload, as simple ALGs do.
pub(super) fn rewrite_address(payload: &mut [u8], from: IpAddr, to: IpAddr) {
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => replace(payload, &from.octets(), &to.octets()),
        (IpAddr::V6(from), IpAddr::V6(to)) => replace(payload, &from.octets(), &to.octets()),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
    }
}

/// Replaces an endpoint by another in both forms of the mapped address of a STUN message, as gateways do that know STUN.
pub(super) fn rewrite_mapped(payload: &mut [u8], from: SocketAddr, to: SocketAddr) {
    let Ok(view) = View::parse(payload) else { return };
    let mut rewritten = vec![0; payload.len()];
    let mut writer = Writer::new(&mut rewritten, view.class(), &view.id());
    for attribute in view.attributes() {
        match attribute.number {
            attr::MAPPED_ADDRESS if view.address(attr::MAPPED_ADDRESS) == Some(from) => {
                writer.address(attribute.number, to)
            }
            attr::XOR_MAPPED_ADDRESS if view.xor_mapped() == Some(from) => {
                writer.xor_address(attribute.number, to)
            }
            attr::FINGERPRINT => writer.fingerprint(),
            number => writer.bytes(number, attribute.value),
        };
    }
    if writer.finish() == Ok(payload.len()) {
        payload.copy_from_slice(&rewritten);
    }
}

fn replace(payload: &mut [u8], from: &[u8], to: &[u8]) {
    let mut at = 0;
    while at + from.len() <= payload.len() {
        if payload[at..].starts_with(from) {
            payload[at..at + to.len()].copy_from_slice(to);
            at += to.len();
        } else {
            at += 1;
        }
    }
}
