//! Opening a port at a gateway by datagrams: PCP (RFC 6887) and NAT-PMP (RFC 6886), both directions, so that a client and a
//! modelled NAT speak through the same code.

pub mod epoch;
pub mod nat_pmp;
pub mod pcp;
#[cfg(test)]
mod tests;

/// The port at which gateways are asked, for both protocols (RFC 6887 section 19.1).
pub const PORT: u16 = 5351;

/// Where a carrier's PCP server answers, whoever it is (RFC 7723).
pub const PCP_ANYCAST: std::net::Ipv4Addr = std::net::Ipv4Addr::new(192, 0, 0, 9);

/// A protocol that opens ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// Port Control Protocol, RFC 6887.
    Pcp,
    /// NAT Port Mapping Protocol, RFC 6886.
    NatPmp,
    /// UPnP Internet Gateway Device, which is spoken over HTTP.
    Upnp,
}

impl Protocol {
    /// All of them, in the order in which they are told.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// Its name for a person.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        }
    }

    /// Its name for scripts.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

/// The transport of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
}

impl Transport {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Udp, Self::Tcp];

    /// Its number among the protocols over IP.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Udp => 17,
            Self::Tcp => 6,
        }
    }

    /// Its name in capitals, as UPnP wants it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }

    /// The transport of this number.
    #[must_use]
    pub const fn of_number(number: u8) -> Option<Self> {
        match number {
            17 => Some(Self::Udp),
            6 => Some(Self::Tcp),
            _ => None,
        }
    }
}

/// So many bytes at this place.
fn bytes<const N: usize>(message: &[u8], at: usize) -> Option<[u8; N]> {
    message.get(at..at + N)?.try_into().ok()
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    bytes(message, at).map(u16::from_be_bytes)
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    bytes(message, at).map(u32::from_be_bytes)
}
