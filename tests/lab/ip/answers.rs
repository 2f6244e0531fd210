//! What routers and closed ports answer: ICMP errors (RFC 792, RFC 4443), echo replies, TCP resets.

use std::net::IpAddr;

use etherparse::{Icmpv4Type, Icmpv6Type, IpHeaders, PacketBuilder, PacketBuilderStep, icmpv4, icmpv6};

use super::{Carries, Datagram, IcmpReason};

/// TTL of packets that are made here.
const TTL: u8 = 64;

impl Datagram {
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
        self.back()?.tcp(to, from, 0, 0).rst().ack(number.wrapping_add(1)).write(&mut out, &[]).ok()?;
        Some(out)
    }

    /// A UDP datagram back to the sender of this one.
    pub(crate) fn reply(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let (from, to) = self.ports()?;
        let mut out = Vec::new();
        self.back()?.udp(to, from).write(&mut out, payload).ok()?;
        Some(out)
    }

    /// The beginning of a packet back to the sender of this one.
    fn back(&self) -> Option<PacketBuilderStep<IpHeaders>> {
        match (self.destination(), self.source()) {
            (IpAddr::V4(source), IpAddr::V4(to)) => {
                Some(PacketBuilder::ipv4(source.octets(), to.octets(), TTL))
            }
            (IpAddr::V6(source), IpAddr::V6(to)) => {
                Some(PacketBuilder::ipv6(source.octets(), to.octets(), TTL))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    /// Turns an echo request into its reply.
    pub(crate) fn into_echo_reply(mut self) -> Self {
        let (from, to) = (self.source(), self.destination());
        self.put_ip(true, to);
        self.put_ip(false, from);
        let reply = if self.is_v6() { 129 } else { 0 };
        let (at, ttl) = (self.transport, self.ttl_at());
        self.bytes[at] = reply;
        self.bytes[ttl] = TTL;
        self.sum_header();
        self.sum_icmp();
        self
    }
}
