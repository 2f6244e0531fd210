//! What the page and the server say to each other over the WebSocket: JSON, one message each.

use serde::{Deserialize, Serialize};
use shared::rendezvous::Refusal;

/// Connections (RTCPeerConnection) of one measurement.
pub(crate) const CONNECTIONS: usize = 10;
/// Candidates of one connection that are taken note of.
pub(crate) const MAX_BASES: usize = 16;

/// Of the page.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum FromPage {
    /// The reader of the page would rather have the report in Chinese.
    Chinese,
    /// A connection has been made: its ICE credentials.
    Offer { connection: usize, ufrag: String, password: String },
    /// It has gathered: its host candidates over UDP.
    Gathered { connection: usize, bases: Vec<Base> },
    /// The browser knows the server's side of the first connection, and checks it from now on.
    Ready,
    /// Pairs of the answered connection that work, as the browser's statistics have them.
    Pairs { pairs: Vec<Pair> },
    /// How far two connections are that know each other's external addresses only.
    Hairpin { state: HairpinState },
}

/// How far the connections between external addresses are. It is the server that counts the time: a browser may hold up the
/// timers of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HairpinState {
    /// The STUN server was not reached, or shows no other address than the browser's own.
    NoAddress,
    /// They check each other.
    Trying,
    Connected,
}

/// A host candidate: browsers hide its address, but not its port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Base {
    /// Its priority; the low 24 bits are those of PRIORITY in its checks.
    pub priority: u32,
    pub port: u16,
}

/// A pair of candidates over which the browser got an answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Pair {
    /// The server's address.
    pub remote: std::net::IpAddr,
    /// `host`, or `prflx` where the server saw another address than the browser's own.
    pub local: LocalType,
}

/// The type of a local candidate (RFC 8445 section 5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LocalType {
    Host,
    Srflx,
    Prflx,
    Relay,
}

/// Of the server.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum ToPage {
    /// Make so many connections, the first one first; ask this STUN server for external addresses.
    Begin { connections: usize, stun: Vec<String> },
    /// The server's side of a connection, with the candidates to check.
    Answer {
        connection: usize,
        ufrag: String,
        password: String,
        fingerprint: String,
        candidates: Vec<String>,
    },
    /// Further candidates of a connection.
    Candidates { connection: usize, candidates: Vec<String> },
    /// What is being measured now.
    Step { step: Step },
    /// It is done. Everything is closed now.
    Report { report: Box<serde_json::Value>, html: String },
    /// There will be no report.
    Refused { reason: Refusal },
}

/// Parts of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Step {
    Contact,
    Filtering,
    Mapping,
}
