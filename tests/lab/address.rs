//! The address plan of all laboratories. Public addresses are from the documentation ranges of RFC 5737 and RFC 3849, so
//! none of them is a real host's.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

/// The server's two IPv4 addresses.
pub const SERVER4: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 10), Ipv4Addr::new(198, 51, 100, 11)];
/// The server's two IPv6 addresses.
pub const SERVER6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10),
    Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x11),
];
/// The ports of a probe server in the laboratory: the standard one, and the next.
pub const PORTS: [u16; 2] = [3478, 3479];
/// The router hop's address towards the sites.
pub const CORE4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
/// The router hop over IPv6.
pub const CORE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0xfe);

/// The probe server's endpoint: address 0 or 1, port 0 or 1.
#[must_use]
pub fn server_endpoint(v6: bool, address: usize, port: usize) -> SocketAddr {
    let ip = if v6 { IpAddr::V6(SERVER6[address]) } else { IpAddr::V4(SERVER4[address]) };
    SocketAddr::new(ip, PORTS[port])
}

/// One customer of the simulated Internet: a LAN behind a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Which one, from 0.
    pub number: u8,
    /// Whether its LAN has private addresses.
    pub translated: bool,
}

/// A network and its prefix length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet(pub IpAddr, pub u8);

impl Subnet {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => u128::from(ip.to_bits()) << 96,
            IpAddr::V6(ip) => ip.to_bits(),
        };
        self.0.is_ipv4() == ip.is_ipv4() && (bits(self.0) ^ bits(ip)).leading_zeros() >= u32::from(self.1)
    }
}

impl FromStr for Subnet {
    type Err = String;

    /// `198.51.100.0/24`, or an address alone.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no network: write 198.51.100.0/24");
        let (ip, length) = text.split_once('/').unwrap_or((text, ""));
        let ip: IpAddr = ip.parse().map_err(|_| wrong())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let length = if length.is_empty() { most } else { length.parse().map_err(|_| wrong())? };
        if length <= most { Ok(Self(ip, length)) } else { Err(wrong()) }
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, self.1)
    }
}

impl Site {
    /// The router's public address.
    #[must_use]
    pub fn wan4(&self) -> Ipv4Addr {
        Ipv4Addr::new(203, 0, 113, 1 + self.number)
    }

    /// The `n`th external address of the NAT on this level (0 is the innermost), public or in the carrier's realm.
    #[must_use]
    pub fn external4(&self, public: bool, level: usize, n: u8) -> Ipv4Addr {
        match (public, n) {
            (true, 0) => self.wan4(),
            (true, n) => Ipv4Addr::new(203, 0, 113, 16 * (1 + self.number) + n),
            // There are only few levels.
            (false, n) => Ipv4Addr::new(100, 64 + level as u8, self.number, 2 + n),
        }
    }

    /// Whether an address is in the realm between a customer's NAT and the carrier's (RFC 6598).
    #[must_use]
    pub fn is_carrier_realm(ip: Ipv4Addr) -> bool {
        ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64
    }

    /// The router's outer IPv6 address.
    #[must_use]
    pub fn wan6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 1 + u16::from(self.number))
    }

    /// The LAN.
    #[must_use]
    pub fn lan4(&self) -> Subnet {
        Subnet(self.in_lan4(0).into(), self.prefix4())
    }

    /// The LAN over IPv6.
    #[must_use]
    pub fn lan6(&self) -> Subnet {
        Subnet(self.in_lan6(0).into(), 64)
    }

    /// Prefix length of the LAN.
    #[must_use]
    pub fn prefix4(&self) -> u8 {
        if self.translated { 24 } else { 28 }
    }

    /// The router's inner address.
    #[must_use]
    pub fn router4(&self) -> Ipv4Addr {
        self.in_lan4(1)
    }

    /// The router's inner IPv6 address.
    #[must_use]
    pub fn router6(&self) -> Ipv6Addr {
        self.in_lan6(1)
    }

    /// A host's address.
    #[must_use]
    pub fn host4(&self, index: u8) -> Ipv4Addr {
        self.in_lan4(2 + index)
    }

    /// A host's IPv6 address.
    #[must_use]
    pub fn host6(&self, index: u8) -> Ipv6Addr {
        self.in_lan6(2 + index)
    }

    fn in_lan4(&self, host: u8) -> Ipv4Addr {
        if self.translated {
            Ipv4Addr::new(192, 168, 77 + self.number, host)
        } else {
            Ipv4Addr::new(192, 0, 2, 16 * self.number + host)
        }
    }

    fn in_lan6(&self, host: u8) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0x77 + u16::from(self.number), 0, 0, 0, 0, host.into())
    }
}
