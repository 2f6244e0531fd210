//! The two address families, and which local address each is tested from.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{net::Net, selection::Families, target::Target};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    pub(super) fn wanted(self, families: Families) -> bool {
        match self {
            Self::V4 => families.v4,
            Self::V6 => families.v6,
        }
    }

    pub(super) fn address(self, target: &Target) -> Option<SocketAddr> {
        match self {
            Self::V4 => target.v4,
            Self::V6 => target.v6,
        }
    }

    /// The local address of this family: the wanted one, if it is of it. `[::]` with a port means that port in both.
    pub(super) fn bind(self, wanted: Option<SocketAddr>) -> SocketAddr {
        match wanted {
            Some(wanted) if wanted.is_ipv4() == (self == Self::V4) => wanted,
            Some(SocketAddr::V6(wanted)) if wanted.ip().is_unspecified() => {
                SocketAddr::new(self.unspecified().ip(), wanted.port())
            }
            Some(_) | None => self.unspecified(),
        }
    }

    /// The address that this host sends from to the Internet, where it does not choose; none where it has none that leads
    /// there. Nothing is sent.
    pub(super) fn source(self, net: &dyn Net) -> Option<IpAddr> {
        let anybody: IpAddr = match self {
            Self::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        };
        let source = net.source_for(SocketAddr::new(anybody, 3478)).ok()?;
        let leads_out = match source {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
        };
        leads_out.then_some(source)
    }

    fn unspecified(self) -> SocketAddr {
        let ip = match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(ip, 0)
    }
}

/// Whether an address leads to the Internet only where something translates it (RFC 1918, RFC 4193).
pub(super) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_address_is_used_in_its_own_family() {
        let at = |address: &str| address.parse().unwrap();
        let (v4, v6, both) = (at("192.0.2.1:4433"), at("[2001:db8::1]:4433"), at("[::]:4433"));
        for (wanted, as_v4, as_v6) in [
            (None, at("0.0.0.0:0"), at("[::]:0")),
            (Some(v4), v4, at("[::]:0")),
            (Some(v6), at("0.0.0.0:0"), v6),
            (Some(both), at("0.0.0.0:4433"), both),
        ] {
            assert_eq!((Family::V4.bind(wanted), Family::V6.bind(wanted)), (as_v4, as_v6), "{wanted:?}");
        }
    }
}
