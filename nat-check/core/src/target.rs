//! A probe server that can be asked: its addresses, and how they were found.

use std::{fmt, net::SocketAddr};

/// A server that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// What the user gave.
    pub query: String,
    /// How the addresses were found.
    pub found_by: FoundBy,
    /// Its IPv4 endpoint.
    pub v4: Option<SocketAddr>,
    /// Its IPv6 endpoint.
    pub v6: Option<SocketAddr>,
}

/// How the address of a server was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FoundBy {
    /// It was given.
    Literal,
    /// By an SRV record.
    Srv,
    /// By an A or AAAA record, or the hosts file.
    Address,
    /// It is the embedded server.
    Local,
    /// It is part of a simulated network.
    Simulated,
}

impl fmt::Display for FoundBy {
    /// The word that the JSON report uses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Literal => "literal",
            Self::Srv => "srv",
            Self::Address => "address",
            Self::Local => "local",
            Self::Simulated => "simulated",
        })
    }
}

impl Target {
    /// A server whose address is known.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        let (v4, v6) = if address.is_ipv4() { (Some(address), None) } else { (None, Some(address)) };
        Self { query: address.to_string(), found_by: FoundBy::Literal, v4, v6 }
    }

    /// Its endpoint of the address family of this one alone.
    #[must_use]
    #[cfg(feature = "punch")]
    pub(crate) fn of_family_of(&self, one: SocketAddr) -> Self {
        let (v4, v6) = (self.v4.filter(|_| one.is_ipv4()), self.v6.filter(|_| one.is_ipv6()));
        Self { v4, v6, ..self.clone() }
    }
}
