//! The ways in which a host on the local network can be spoken to. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

/// A way in which beacons are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// To a group of the local scope, 239.255.77.78 (RFC 2365), TTL 1: switches with snooping forward it to members only.
    Multicast,
    /// The same with TTL 4, as some devices drop what has TTL 1.
    #[serde(rename = "multicast-ttl-4")]
    MulticastTtl4,
    /// To the group of mDNS, 224.0.0.251, which snooping leaves alone (RFC 4541 section 2.1.2).
    MdnsGroup,
    /// To a group of the link over IPv6, ff12::4e41:5443 (RFC 4291 section 2.7).
    #[serde(rename = "ipv6-multicast")]
    MulticastIpv6,
    /// To the broadcast address of the network.
    SubnetBroadcast,
    /// To 255.255.255.255.
    LimitedBroadcast,
    /// To the host's own address.
    Unicast,
    /// To the host's own link-local address over IPv6.
    #[serde(rename = "ipv6-unicast")]
    UnicastIpv6,
}

/// The group of the local scope.
pub(crate) const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 78);
/// The group of mDNS (RFC 6762 section 3).
pub(crate) const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
/// A group of the link that nobody has been assigned: transient, link-local scope.
pub(crate) const GROUP6: Ipv6Addr = Ipv6Addr::new(0xff12, 0, 0, 0, 0, 0, 0x4e41, 0x5443);

impl Way {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Multicast,
        Self::MulticastTtl4,
        Self::MdnsGroup,
        Self::MulticastIpv6,
        Self::SubnetBroadcast,
        Self::LimitedBroadcast,
        Self::Unicast,
        Self::UnicastIpv6,
    ];

    /// Its number in beacons.
    #[must_use]
    pub fn number(self) -> usize {
        self as usize
    }

    /// As one bit of a set.
    pub(crate) fn bit(self) -> u8 {
        1 << self.number()
    }

    /// Whether one packet is for all hosts, or for all members.
    #[must_use]
    pub fn is_group(self) -> bool {
        !matches!(self, Self::Unicast | Self::UnicastIpv6)
    }

    /// Whether it goes over IPv6.
    #[must_use]
    pub fn is_ipv6(self) -> bool {
        matches!(self, Self::MulticastIpv6 | Self::UnicastIpv6)
    }

    /// Whether the sender itself hears it, if it is a member of the group.
    pub(crate) fn is_looped(self) -> bool {
        matches!(self, Self::Multicast | Self::MulticastTtl4 | Self::MdnsGroup | Self::MulticastIpv6)
    }
}
