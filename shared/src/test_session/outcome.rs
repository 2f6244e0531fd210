//! What came of a request, as the server saw it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// What came of a connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SynOutcome {
    /// The handshake was completed, and the nonce came back.
    Echoed,
    /// The handshake was completed, and the nonce did not come back: something else than the client may have answered.
    Connected,
    /// A RST came.
    Refused,
    /// An ICMP error came, see [`Icmp`].
    Unreachable,
    /// Nothing came.
    Timeout,
    /// The server could not send at all.
    Failed,
    /// A word that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What came of a held connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HoldOutcome {
    /// The server spoke first, and the nonce came back.
    Echoed,
    /// The server spoke first, and the nonce did not come back.
    Silent,
    /// The connection ended after the server had spoken: a RST, an end of the stream, or the system gave it up.
    Closed,
    /// The connection ended before the time had come.
    ClosedBefore,
    /// A word that this version does not know.
    #[serde(other)]
    Unknown,
}

/// An ICMP error about a packet of the server (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Icmp {
    /// Its type: 3 is "destination unreachable" over IPv4, 1 over IPv6.
    #[serde(rename = "type")]
    pub kind: u8,
    /// Its code: 3 of type 3 is "port unreachable".
    pub code: u8,
    /// Who sent it.
    pub from: IpAddr,
}

/// What came of one packet of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hop {
    /// The TTL that it was sent with.
    pub ttl: u8,
    /// What came back.
    pub icmp: Icmp,
    /// How long after the packet was sent, in microseconds.
    pub after_us: u32,
}
