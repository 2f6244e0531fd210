//! Messages between client and server. Unknown fields are ignored, so that fields can be added without a new version.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{HoldOutcome, Hop, Icmp, Malformed, Nonce, Refusal, SynOutcome, Token, VERSION};

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToServer {
    /// Comes first: open a session.
    Open {
        /// [`VERSION`].
        version: u32,
    },
    /// Answer with a pong: to measure the round trip, and to keep the connection of the session alive.
    Ping {
        /// Comes back.
        id: u32,
    },
    /// Connect to my address, and write the [`nonce`](Welcome::nonce) of this number on the connection.
    Syn {
        /// Comes back with the result; at most [`MAX_CONNECT_ID`](super::MAX_CONNECT_ID).
        id: u32,
        /// The port: a proven one, or one of 1024 and above.
        port: u16,
        /// Which address of the server connects.
        from: SourceAddress,
        /// Which port of the server connects.
        source: Source,
        /// Connect so many milliseconds after reading this.
        #[serde(default)]
        after_ms: u32,
        /// How long to wait for an answer, in milliseconds.
        #[serde(default = "default_wait_ms")]
        wait_ms: u32,
    },
    /// Keep a connection that proved a port, and be the first to say something on it. It speaks no STUN from now on.
    Hold {
        /// Comes back with the result.
        id: u32,
        /// The number that the connection got in [`ToClient::Proven`].
        connection: u32,
        /// What the server writes, and expects back.
        nonce: Nonce,
        /// Write so many milliseconds after reading this.
        after_ms: u32,
    },
    /// Open a UDP port for traces, one for the session.
    TracePort {
        /// Comes back with the port.
        id: u32,
    },
    /// Send packets with a limited TTL to the source of the flow that the session has opened to its trace port.
    Trace {
        /// Comes back with the result.
        id: u32,
        /// The first TTL.
        ttl_from: u8,
        /// The last TTL.
        ttl_to: u8,
        /// How long to wait for what comes back after the last packet, in milliseconds.
        #[serde(default = "default_wait_ms")]
        wait_ms: u32,
    },
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToClient {
    /// The session is open.
    Welcome(Box<Welcome>),
    /// A request with the session's token has come: the client has this external port.
    Proven {
        /// The number of the connection that it came over, for [`ToServer::Hold`].
        connection: u32,
        /// Where it came from. Of another address than the session's: the server does not connect to it.
        at: SocketAddr,
        /// The endpoint of the server that it came to.
        to: SocketAddr,
    },
    /// The port for traces is open: a request with the token is to be sent there.
    TracePort {
        /// From the request.
        id: u32,
        /// Where.
        at: SocketAddr,
    },
    /// A datagram with the session's token has come to the trace port.
    Flow {
        /// Where it came from.
        at: SocketAddr,
    },
    /// The answer to a ping.
    Pong {
        /// From the ping.
        id: u32,
    },
    /// The first SYN of a connect leaves now.
    SynSent {
        /// From the request.
        id: u32,
    },
    /// What came of a connect.
    SynResult {
        /// From the request.
        id: u32,
        /// What came.
        outcome: SynOutcome,
        /// How long after the first SYN, in microseconds: the handshake, the RST, the ICMP error, or the end of waiting.
        after_us: u32,
        /// The endpoint of the server that connected, as the client sees it.
        #[serde(default)]
        from: Option<SocketAddr>,
        /// The ICMP error.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        icmp: Option<Icmp>,
    },
    /// What came of a held connection.
    HoldResult {
        /// From the request.
        id: u32,
        /// What came.
        outcome: HoldOutcome,
        /// How long after the server spoke, in microseconds; 0 where it did not.
        after_us: u32,
    },
    /// What came of a trace.
    TraceResult {
        /// From the request.
        id: u32,
        /// What came, in the order of the TTL; a TTL without an answer is not there.
        hops: Vec<Hop>,
    },
    /// The server does not do what this request asks for; the session goes on.
    Declined {
        /// From the request.
        id: u32,
        /// Why.
        reason: Decline,
    },
    /// No, and the connection ends.
    Refused {
        /// Why.
        reason: Refusal,
    },
    /// A message that this version does not know: to be skipped.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What a client is told when its session is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// To be sent in TOKEN, from the ports under test.
    pub token: Token,
    /// What the nonces of connects begin with, see [`nonce`](Self::nonce).
    pub nonces: Nonce,
    /// Where the session's connection comes from: the only address that the server connects to.
    pub you: SocketAddr,
    /// The address that the session's connection came to.
    pub primary: ServerAddress,
    /// The server's other address of this family.
    #[serde(default)]
    pub alternate: Option<ServerAddress>,
    /// For how long at most the server holds a connection, in milliseconds; 0 = not at all.
    #[serde(default)]
    pub hold_ms: u32,
    /// For how long at most the server waits for what comes of a trace, in milliseconds, while everything else in the session
    /// goes on; 0 = there are no traces, or everything else waits for them.
    #[serde(default)]
    pub trace_ms: u32,
}

impl Welcome {
    /// What the server writes on the connection that was asked for under this number, and expects back.
    #[must_use]
    pub fn nonce(&self, id: u32) -> Nonce {
        self.nonces.of_connect(id)
    }
}

/// One address of the server and what is to be found at it; a port that it does not have is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerAddress {
    /// Where it speaks STUN over TCP: the primary port first.
    pub stun: Vec<SocketAddr>,
    /// A listener whose backlog is full: what connects to it waits, and the server can connect from it meanwhile.
    #[serde(default)]
    pub pending: Option<SocketAddr>,
    /// A port that nothing listens at: whoever completes a handshake with it does not speak with the server.
    #[serde(default)]
    pub closed: Option<SocketAddr>,
}

/// Which address of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceAddress {
    /// The one that the session's connection came to.
    Primary,
    /// The other one.
    Alternate,
}

/// Which port of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// One that nothing was sent to: the system picks it.
    Ephemeral,
    /// That of the listener whose backlog is full.
    Pending,
}

/// Why the server does not do what a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Decline {
    /// A port below 1024 that was not proven.
    #[error("a port below 1024 has to be proven")]
    LowPort,
    /// A number above [`MAX_CONNECT_ID`](super::MAX_CONNECT_ID).
    #[error("the number of a connect is too high")]
    HighId,
    /// A port that the server speaks STUN at.
    #[error("the port is one of the server's own")]
    OwnPort,
    /// More named ports than a session may have.
    #[error("too many ports in one session")]
    TooManyPorts,
    /// More named ports than a host may have in an hour.
    #[error("too many ports of this host in an hour")]
    PortsTooFast,
    /// More connects than one a second.
    #[error("too many connects in a short time")]
    TooFast,
    /// Too much of this client, or of all clients, is under way.
    #[error("too much is under way")]
    Busy,
    /// The time asked for is longer than the server allows.
    #[error("a time longer than the server allows")]
    TooLong,
    /// The server has no such address or port, or does not offer this.
    #[error("the server does not offer this")]
    NotOffered,
    /// No connection of the session has this number, it has ended, or it is held already.
    #[error("no such connection")]
    NoConnection,
    /// No datagram with the token has come to the trace port.
    #[error("no flow to the trace port")]
    NoFlow,
    /// A code that this version does not know.
    #[error("for a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}

/// Long enough for an answer to each of two SYNs, over most paths.
fn default_wait_ms() -> u32 {
    1500
}

impl ToServer {
    /// Reads the first message of a client, which has to be [`Open`](Self::Open). Its version is looked at before everything
    /// else.
    ///
    /// # Errors
    /// When it speaks another version, or is nothing of the kind.
    pub fn first(text: &str) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        struct Versioned {
            version: serde_json::Value,
        }
        let versioned: Versioned = serde_json::from_str(text).map_err(|_| Refusal::BadMessage)?;
        if versioned.version != VERSION {
            return Err(Refusal::Version);
        }
        match Self::parse(text) {
            Ok(Self::Open { .. }) => Ok(()),
            Ok(_) | Err(Malformed) => Err(Refusal::BadMessage),
        }
    }

    /// Reads any message of a client.
    ///
    /// # Errors
    /// When it is none that this version knows.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|_| Malformed)
    }
}

impl ToClient {
    /// Reads a message of the server.
    ///
    /// # Errors
    /// When it is of a known type but not of its form, or no message at all.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|_| Malformed)
    }
}
