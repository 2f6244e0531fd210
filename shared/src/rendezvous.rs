//! How two clients are introduced to each other: what they and the probe server say, as JSON over a WebSocket.
//!
//! One client opens a session and gets a [`Code`]; the other joins with it. From then on both walk through the same
//! numbered steps: each says that it is [ready](ToServer::Ready) and with what [`Word`], and when both are, the server
//! hands each the other's word and tells when to [go](ToClient::Go), so that both go at the same moment. Nothing that
//! a client says makes the server send a packet to anybody but the two clients, over the connections that they opened.

mod code;
mod store;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use code::{BadCode, Code};
pub use store::{Delivery, Limits, Memory, Opened, Seat, Sessions};

use crate::nat::{Filtering, Mapping, PortAllocation};

/// Version of this protocol.
pub const VERSION: u32 = 1;
/// The path that the WebSocket is opened at.
pub const PATH: &str = "/punch";
/// Longest message, in bytes: with all that frames it, a record of TLS stays below 4 KiB.
pub const MAX_MESSAGE: usize = 4000;
/// Most addresses in any list.
pub const MAX_ADDRESSES: usize = 8;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToServer {
    /// Begin a session and give me its code.
    Open {
        /// [`VERSION`].
        version: u32,
    },
    /// Let me into the session with this code.
    Join {
        /// [`VERSION`].
        version: u32,
        /// What the other client was given.
        code: Code,
    },
    /// Answer at once: to measure the round trip.
    Ping {
        /// Comes back.
        id: u32,
    },
    /// Ready for a step.
    Ready {
        /// Counts from 0.
        step: u32,
        /// Round-trip time to the server, in milliseconds.
        rtt_ms: u32,
        /// What the peer has to know for this step.
        word: Word,
    },
    /// For the peer, who answers at once: to measure the round trip through the server.
    Probe {
        /// Comes back.
        id: u32,
    },
    /// The answer to the peer's probe.
    Answer {
        /// From the probe.
        id: u32,
    },
}

impl ToServer {
    /// Reads the first message of a client, which has to be [`Open`](Self::Open) or [`Join`](Self::Join). Its version is
    /// looked at before everything else, so that clients of any later version are told that this is what is wrong,
    /// whatever else they say.
    ///
    /// # Errors
    /// When it speaks another version, or is nothing of the kind.
    pub fn first(text: &str) -> Result<Self, Refusal> {
        #[derive(Deserialize)]
        struct Spoken {
            version: Option<serde_json::Value>,
        }
        let spoken: Spoken = serde_json::from_str(text).map_err(|_| Refusal::Misplaced)?;
        match spoken.version {
            None => Err(Refusal::Misplaced),
            Some(version) if version != VERSION => Err(Refusal::Version),
            Some(_) => serde_json::from_str(text).map_err(|_| Refusal::Misplaced),
        }
    }
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ToClient {
    /// The session is open and waits for the other client.
    Waiting {
        /// To be told to the other side.
        code: Code,
        /// How long the server keeps the session.
        seconds: u32,
    },
    /// Welcome: where this server answers STUN over UDP, one endpoint a family. Comes first.
    Here {
        /// None of a family that the server does not have.
        stun: Vec<SocketAddr>,
    },
    /// Both are here.
    Paired {
        /// Which of the two you are.
        role: Role,
        /// The address that your connection comes from.
        you: IpAddr,
        /// The address that the peer's connection comes from: the server has seen it answer there.
        peer: IpAddr,
    },
    /// The answer to a ping.
    Pong {
        /// From the ping.
        id: u32,
    },
    /// Both are ready for this step.
    Go {
        /// Which one.
        step: u32,
        /// Begin so many milliseconds after you read this.
        after_ms: u32,
        /// The peer's word.
        word: Word,
    },
    /// The peer's probe.
    Probe {
        /// To be sent back.
        id: u32,
    },
    /// The peer's answer.
    Answer {
        /// From the probe.
        id: u32,
    },
    /// The peer has left.
    Gone,
    /// No, and the connection ends.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The one that opened the session; it decides where both could.
    First,
    /// The one that joined.
    Second,
}

impl Role {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// Why the server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Another protocol version.
    #[error("the server speaks another version of the protocol")]
    Version,
    /// No more room.
    #[error("the server has no room for another session")]
    Full,
    /// Too many from one host, or from its network.
    #[error("the server has too many sessions of this host or its network")]
    HostFull,
    /// No session has this code.
    #[error("no session waits under this code: is it mistyped, used already, or too old?")]
    UnknownCode,
    /// A message that does not belong here.
    #[error("the server did not understand a message")]
    Misplaced,
    /// More than a session may say.
    #[error("too many messages for one session")]
    TooMuch,
    /// The session's time is over.
    #[error("the time of the session is over")]
    Expired,
    /// The server is about to end.
    #[error("the server is about to restart: try again in a minute")]
    Stopping,
}

/// What one client tells the other in a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Word {
    /// Who I am and where I may be found: step 0.
    Offer(Box<Offer>),
    /// Where I will be in the coming round.
    Hint(Hint),
    /// What came of the last round.
    Account(Account),
}

/// Where a client may be found and how its network behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// What the packets of the peer have to carry.
    pub nonce: Nonce,
    /// How its network behaves.
    pub behaviour: Behaviour,
    /// What it is willing to try.
    pub techniques: Vec<Technique>,
    /// Its own addresses on the local network, with the port of the socket that listens there.
    pub lan: Vec<SocketAddr>,
    /// The endpoints of that socket as several server endpoints saw it.
    pub external: Vec<SocketAddr>,
    /// How its network behaves over IPv6; `None` = it has none.
    pub ipv6: Option<Behaviour>,
    /// Where it can be met over TCP, if it can.
    pub tcp: Option<TcpSide>,
    /// Whether its router gives whoever knocks first the port that its own packets would leave from: then the peer's
    /// packets have to be kept away until its own have left.
    pub remaps: Option<bool>,
    /// The lowest time to live with which its packets pass all of its own gateways; `None` = not known.
    pub opener_ttl: Option<u8>,
    /// Round-trip time to the server, in milliseconds: how old its news are when they arrive.
    pub rtt_ms: u32,
    /// How long it would hold the path, in milliseconds.
    pub hold_ms: u32,
}

/// UDP behaviour as measured; `None` = not known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Behaviour {
    /// Whether UDP passes at all.
    pub udp: bool,
    /// RFC 4787 section 4.1.
    pub mapping: Option<Mapping>,
    /// RFC 4787 section 5.
    pub filtering: Option<Filtering>,
    /// Whether whom one mapping of a socket has sent to may answer to all of them: whether a filter entry belongs to
    /// the socket or the host, not to the mapping.
    pub shared_filter: Option<bool>,
    /// How ports are chosen.
    pub ports: Option<PortAllocation>,
    /// Mappings a second that others open behind a NAT that counts its ports up, as many as there may well be.
    pub cross_traffic: Option<f64>,
    /// RFC 4787 section 6.
    pub hairpinning: Option<bool>,
}

/// How TCP of a client looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpSide {
    /// Whether two destinations saw the same external endpoint.
    pub fixed: bool,
}

/// Where a client will be in a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hint {
    /// The endpoints of the round's socket as several server endpoints saw it, or as it is on the local network.
    pub at: Vec<SocketAddr>,
    /// The port of its next mapping, where that can be told.
    pub next: Option<NextPort>,
}

/// The port of the next mappings of a NAT: `port`, `port + step` and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NextPort {
    /// Of the next mapping.
    pub port: u16,
    /// To the one after it.
    pub step: i32,
}

/// What one side saw of a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Whether it has a way to the peer.
    pub through: bool,
    /// Packets that it sent.
    pub sent: u32,
    /// Packets of the peer that it received.
    pub heard: u32,
    /// Errors that came back for what it sent.
    pub refused: u32,
    /// Where it sent to, the first few.
    pub to: Vec<SocketAddr>,
}

/// The means that are tried, each a round of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// Straight to each other's address on the same local network.
    Lan,
    /// Both send to each other's external endpoint at the same moment.
    Simultaneous,
    /// The same after both have opened their own gateway with packets that die before they reach the other one.
    LowTtl,
    /// Both send to each other's IPv6 address at the same moment.
    Ipv6,
    /// The next port of a gateway is told from its last one.
    Prediction,
    /// Both connect over TCP at the same moment.
    Tcp,
    /// Many sockets on one side, many guesses on the other.
    Birthday,
}

impl Technique {
    /// All of them; what costs little comes first.
    pub const ALL: [Self; 7] = [
        Self::Lan,
        Self::Simultaneous,
        Self::LowTtl,
        Self::Ipv6,
        Self::Prediction,
        Self::Tcp,
        Self::Birthday,
    ];
}

impl fmt::Display for Technique {
    /// The word that the JSON report uses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for Technique {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|t| t.to_string() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(Self::to_string).collect();
            format!("no technique `{text}`; there are {}", known.join(", "))
        })
    }
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

impl Word {
    /// Whether no list in it is longer than any honest client's.
    #[must_use]
    pub fn is_modest(&self) -> bool {
        match self {
            Self::Offer(offer) => {
                offer.lan.len() <= MAX_ADDRESSES
                    && offer.external.len() <= MAX_ADDRESSES
                    && offer.techniques.len() <= Technique::ALL.len()
            }
            Self::Hint(hint) => hint.at.len() <= MAX_ADDRESSES,
            Self::Account(account) => account.to.len() <= MAX_ADDRESSES,
        }
    }
}
