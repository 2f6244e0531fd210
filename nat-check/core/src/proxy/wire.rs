//! What the proxy protocols have in common as bytes: a destination, and messages that are read as far as they go.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Where a proxy is to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// An address.
    Address(SocketAddr),
    /// A name that the proxy looks up, of 1 to 255 bytes, and a port.
    Name(HostName, u16),
}

impl Destination {
    /// A name that the proxy looks up; none where it is empty or longer than a proxy can be told.
    #[must_use]
    pub fn name(name: &str, port: u16) -> Option<Self> {
        HostName::new(name).map(|name| Self::Name(name, port))
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{}:{port}", name.0),
        }
    }
}

/// A host name of 1 to 255 visible ASCII characters, as every protocol here can carry it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    fn new(name: &str) -> Option<Self> {
        let fits = (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic());
        fits.then(|| Self(name.to_owned()))
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// How far a message could be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Read<T> {
    /// It has at least so many bytes, more than there are.
    Needs(usize),
    /// It is whole.
    Whole(T),
}

/// What stands against what a proxy was asked for, as far as the code of its answer tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blames {
    /// The proxy does not want to, or cannot.
    Itself,
    /// It has tried, and the destination stands against it.
    Destination,
    /// Either.
    Nobody,
}

/// What came is not the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The endpoint that a proxy names as its own, as far as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bound {
    /// None where it gives a name, or nothing.
    pub(super) ip: Option<IpAddr>,
    pub(super) port: u16,
}

impl Bound {
    /// The endpoint, where it is an address.
    pub(super) fn address(self) -> Option<SocketAddr> {
        self.ip.map(|ip| SocketAddr::new(ip, self.port))
    }
}

impl From<SocketAddr> for Bound {
    fn from(at: SocketAddr) -> Self {
        Self { ip: Some(at.ip()), port: at.port() }
    }
}

/// Kinds of address in SOCKS5 (RFC 1928 section 5).
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Writes kind, address and port as SOCKS5 has them.
pub(super) fn put_destination(to: &Destination, out: &mut Vec<u8>) {
    let port = match to {
        Destination::Address(address) => {
            match address.ip() {
                IpAddr::V4(ip) => {
                    out.push(IPV4);
                    out.extend(ip.octets());
                }
                IpAddr::V6(ip) => {
                    out.push(IPV6);
                    out.extend(ip.octets());
                }
            }
            address.port()
        }
        Destination::Name(name, port) => {
            out.extend([NAME, name.as_bytes().len() as u8]);
            out.extend(name.as_bytes());
            *port
        }
    };
    out.extend(port.to_be_bytes());
}

/// Kind, address and port of SOCKS5 at this place of a message, and where they end.
pub(super) fn destination_at(message: &[u8], at: usize) -> Result<Read<(Bound, usize)>, Malformed> {
    // The byte after the kind is there in each of them.
    let Some(&[kind, first]) = message.get(at..at + 2) else { return Ok(Read::Needs(at + 2)) };
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => 1 + usize::from(first),
        _ => return Err(Malformed),
    };
    let end = at + 1 + length + 2;
    let Some(address) = message.get(at + 1..end) else { return Ok(Read::Needs(end)) };
    let (address, port) = address.split_at(length);
    let port = u16::from_be_bytes([port[0], port[1]]);
    let ip = match kind {
        IPV4 => <[u8; 4]>::try_from(address).ok().map(|octets| Ipv4Addr::from(octets).into()),
        IPV6 => <[u8; 16]>::try_from(address).ok().map(|octets| Ipv6Addr::from(octets).to_canonical()),
        _ => None,
    };
    Ok(Read::Whole((Bound { ip, port }, end)))
}
