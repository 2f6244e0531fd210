//! What two clients tell each other in the payloads of the rendezvous.
//!
//! These are wire types: their names are written down here, and do not follow from the types of the report. They are
//! tolerant, because the two may be of different ages: unknown fields are ignored, a name or technique that is not known
//! counts as not said, and what may be missing is missing without harm. Lists have limits.

mod ice;
mod technique;
mod wire_names;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde::{Deserialize, Deserializer, Serialize};

pub use ice::IceSide;
pub use technique::WireTechnique;

use super::{Payload, PayloadError};
use crate::nat::{Filtering, Mapping, PortAllocation};

/// Most addresses in any list.
pub const MAX_ADDRESSES: usize = 8;
/// Most techniques in a list, those that this version does not know included.
pub const MAX_TECHNIQUES: usize = 32;

/// What one client tells the other in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PeerMessage {
    /// Who I am and where I may be found: step 0.
    Offer(Box<Offer>),
    /// What came of what was tried before the prediction.
    Prepared(Prepared),
    /// Where I will be in the coming round.
    RoundCandidates(RoundCandidates),
    /// What came of the last round.
    RoundReport(RoundReport),
}

impl PeerMessage {
    /// Reads what the peer has sent.
    ///
    /// # Errors
    /// When it is nothing that this version understands, or a list in it is too long.
    pub fn read(payload: &Payload) -> Result<Self, PayloadError> {
        payload.read()
    }

    /// Writes it for the peer.
    ///
    /// # Errors
    /// When it is too long.
    pub fn write(&self) -> Result<Payload, PayloadError> {
        Payload::write(self)
    }
}

/// Where a client may be found and how its network behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Offer {
    /// What the packets of the peer have to carry.
    pub nonce: Nonce,
    /// How its network behaves.
    pub behaviour: Behaviour,
    /// What it is willing to try.
    #[serde(deserialize_with = "techniques")]
    pub techniques: Vec<WireTechnique>,
    /// Its own addresses on the local network, with the port of the socket that listens there.
    #[serde(default, deserialize_with = "addresses")]
    pub lan: Vec<SocketAddr>,
    /// The endpoints of that socket as several server endpoints saw it.
    #[serde(default, deserialize_with = "addresses")]
    pub external: Vec<SocketAddr>,
    /// How its network behaves over IPv6; `None` = it has none.
    #[serde(default)]
    pub ipv6: Option<Behaviour>,
    /// Where it can be met over TCP, if it can.
    #[serde(default)]
    pub tcp: Option<TcpSide>,
    /// Whether its router gives whoever sends first the port that its own packets would leave from: then the peer's
    /// packets have to be kept away until its own have left.
    #[serde(default)]
    pub remaps: Option<bool>,
    /// The lowest time to live with which its packets pass all of its own gateways; `None` = not known.
    #[serde(default)]
    pub opener_ttl: Option<u8>,
    /// Round-trip time to the server, in milliseconds: how old its news are when they arrive.
    #[serde(default)]
    pub rtt_ms: u32,
    /// How long it would hold the path, in milliseconds.
    #[serde(default)]
    pub hold_ms: u32,
    /// Whether it takes the steps before the first round in which the two try what their prediction depends on.
    #[serde(default)]
    pub prepares: bool,
    /// How it is met by connectivity checks of ICE, which is all that a browser speaks.
    #[serde(default)]
    pub ice: Option<IceSide>,
}

impl Offer {
    /// Whether it may be found over IPv4, on the Internet or on its local network.
    #[must_use]
    pub fn has_ipv4(&self) -> bool {
        !self.lan.is_empty() || self.behaviour.udp || self.external.iter().any(SocketAddr::is_ipv4)
    }

    /// Whether a browser has made it.
    #[must_use]
    pub fn is_browser(&self) -> bool {
        self.ice.as_ref().is_some_and(|ice| ice.fingerprint.is_some())
    }
}

/// UDP behaviour as measured; `None` = not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Whether UDP passes at all.
    pub udp: bool,
    /// RFC 4787 section 4.1.
    #[serde(default, with = "wire_names")]
    pub mapping: Option<Mapping>,
    /// RFC 4787 section 5.
    #[serde(default, with = "wire_names")]
    pub filtering: Option<Filtering>,
    /// Whether whom one mapping of a socket has sent to may answer to all of them: whether a filter entry belongs to
    /// the socket or the host, not to the mapping.
    #[serde(default)]
    pub shared_filter: Option<bool>,
    /// How ports are chosen.
    #[serde(default, with = "wire_names::ports")]
    pub ports: Option<PortAllocation>,
    /// Mappings a second that others open behind a NAT that counts its ports up, as many as there may well be.
    #[serde(default)]
    pub cross_traffic: Option<f64>,
    /// RFC 4787 section 6.
    #[serde(default)]
    pub hairpinning: Option<bool>,
    /// Its external addresses, as many as were seen.
    #[serde(default, deserialize_with = "ips")]
    pub addresses: Vec<IpAddr>,
}

/// TCP behaviour as measured; `None` = not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TcpSide {
    /// Whether two destinations saw the same external endpoint.
    pub fixed: bool,
    /// Whether it listens beside connecting, and agrees by nomination (RFC 8445 section 2.3) on which of several connections
    /// is used. Older clients do neither, and tell nothing of what follows.
    #[serde(default)]
    pub nominates: bool,
    /// RFC 5382 REQ-1.
    #[serde(default, with = "wire_names")]
    pub mapping: Option<Mapping>,
    /// RFC 5382 REQ-3.
    #[serde(default, with = "wire_names")]
    pub filtering: Option<Filtering>,
    /// How ports are chosen, where the mapping depends on the destination.
    #[serde(default, with = "wire_names::ports")]
    pub ports: Option<PortAllocation>,
    /// Mappings a second that others open behind a NAT that counts its ports up, as many as there may well be.
    #[serde(default)]
    pub cross_traffic: Option<f64>,
    /// Whether two SYNs that cross make a connection (RFC 5382 REQ-2).
    #[serde(default)]
    pub simultaneous_open: Option<bool>,
    /// Whether a SYN that nothing asked for is answered at once, by a reset or ICMP (RFC 5382 REQ-4).
    #[serde(default)]
    pub refuses: Option<bool>,
}

/// What came of what was tried before the prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepared {
    /// Whether it has a path to the peer on the local network.
    #[serde(default)]
    pub lan: bool,
    /// How many sockets it has opened towards the peer that got a mapping; `None` = it had to open none.
    #[serde(default)]
    pub mappings: Option<u32>,
}

/// Where a client will be in a round: its candidates (RFC 8445 section 5.1), as far as they are news.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundCandidates {
    /// The endpoints of the round's socket as several server endpoints saw it, or as it is on the local network.
    #[serde(default, deserialize_with = "addresses")]
    pub at: Vec<SocketAddr>,
    /// The port of its next mapping, where that can be told.
    #[serde(default)]
    pub next: Option<NextPort>,
}

/// The port of the next mappings of a NAT: `port`, `port + step` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextPort {
    /// Of the next mapping.
    pub port: u16,
    /// To the one after it.
    pub step: i32,
}

/// What one side saw of a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Whether it has a path to the peer.
    pub through: bool,
    /// Packets that it sent.
    #[serde(default)]
    pub sent: u32,
    /// Packets of the peer that it received.
    #[serde(default)]
    pub heard: u32,
    /// Where it sent to, the first few.
    #[serde(default, deserialize_with = "addresses")]
    pub to: Vec<SocketAddr>,
}

/// A secret of one client that the other one's packets show.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Nonce(pub [u8; 16]);

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A secret does not belong into logs.
        f.write_str("Nonce(..)")
    }
}

impl From<Nonce> for String {
    fn from(nonce: Nonce) -> Self {
        nonce.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl TryFrom<String> for Nonce {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let valid = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let number = valid.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        number.map(|n| Self(n.to_be_bytes())).ok_or("a nonce is 32 hexadecimal digits")
    }
}

fn addresses<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    bounded(Vec::deserialize(from)?, MAX_ADDRESSES)
}

fn ips<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    bounded(Vec::deserialize(from)?, MAX_ADDRESSES)
}

/// Those that this version knows.
fn techniques<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<WireTechnique>, D::Error> {
    let named: Vec<serde_json::Value> = bounded(Vec::deserialize(from)?, MAX_TECHNIQUES)?;
    Ok(named.iter().filter_map(|name| name.as_str()?.parse().ok()).collect())
}

fn bounded<T, E: serde::de::Error>(list: Vec<T>, most: usize) -> Result<Vec<T>, E> {
    if list.len() <= most { Ok(list) } else { Err(E::custom(format_args!("a list of more than {most}"))) }
}
