//! Messages between client and server. Unknown fields are ignored, so that fields can be added without a new version.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use super::{
    Code, Payload, VERSION,
    room::{MemberNews, ResultNews, RoomName},
};

/// What a client says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToServer {
    /// Open a session and give me its code.
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
    /// Let me into the room of this name.
    Enter {
        /// [`VERSION`].
        version: u32,
        /// None = make one, and a name that nobody guesses.
        room: Option<RoomName>,
    },
    /// In a room: pair me with the others.
    Available {
        /// For all members; the server does not read it.
        payload: Payload,
    },
    /// In a room: the code of the session that I have opened for a pair.
    Invite {
        /// The other one of the pair.
        peer: u32,
        /// To be handed to it.
        code: Code,
    },
    /// In a room: what came of a pair.
    Result {
        /// The other one of the pair.
        peer: u32,
        /// For all members; the server does not read it.
        payload: Payload,
    },
    /// Answer with a pong: to measure the round trip.
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
        /// For the peer; the server does not read it.
        payload: Payload,
    },
    /// For the peer, who answers at once: to measure the round trip through the server.
    PeerPing {
        /// Comes back.
        id: u32,
    },
    /// The answer to the peer's ping.
    PeerPong {
        /// From the ping.
        id: u32,
    },
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum ToClient {
    /// Comes first: where this server answers STUN over UDP, one endpoint a family.
    Welcome {
        /// None of a family that the server does not have.
        stun: Vec<SocketAddr>,
        /// Whether the server has a page, at `/p/CODE`, with which a browser can join.
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        page: bool,
    },
    /// The session is open and waits for the other client.
    Waiting {
        /// For the other client.
        code: Code,
        /// How long the server keeps the session.
        seconds: u32,
    },
    /// You are in a room.
    Entered {
        /// Its name, for others to enter.
        room: RoomName,
        /// Your number in it.
        you: u32,
        /// How long you may stay.
        seconds: u32,
    },
    /// What is new in the room; after entering, all that there is.
    Room {
        /// Members that have come, left, or become ready.
        members: Vec<MemberNews>,
        /// What members say came of pairs.
        results: Vec<ResultNews>,
    },
    /// You are the one of a pair now: the first opens a session and says its code, the second joins with it.
    Pair {
        /// The other one.
        peer: u32,
        /// Which of the two you are.
        role: Role,
        /// What the second one joins with.
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
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
    Start {
        /// Which one.
        step: u32,
        /// Start so many milliseconds after you read this.
        after_ms: u32,
        /// What the peer sent with it.
        payload: Payload,
    },
    /// The peer's ping, to be answered with a peer-pong.
    PeerPing {
        /// To be sent back.
        id: u32,
    },
    /// The peer's answer.
    PeerPong {
        /// From the ping.
        id: u32,
    },
    /// The peer has left.
    PeerLeft,
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
#[non_exhaustive]
pub enum Refusal {
    /// Another protocol version. This code and the field that carries it never change.
    #[error("the server speaks another version of the protocol")]
    Version,
    /// No more room.
    #[error("the server has no room for another session")]
    Full,
    /// Too many sessions of one host.
    #[error("the server has too many sessions of this host")]
    HostFull,
    /// Too many new sessions, or wrong codes, in a short time.
    #[error("too many attempts from this host or its network: try again in a minute")]
    TooFast,
    /// No session has this code.
    #[error("no session waits under this code: is it mistyped, used already, or too old?")]
    UnknownCode,
    /// A message that is not understood, or not expected now.
    #[error("the server did not understand a message")]
    BadMessage,
    /// More than a session may say.
    #[error("too many messages for one session")]
    TooMuch,
    /// The session's time is over.
    #[error("the time of the session is over")]
    Expired,
    /// The server is about to end.
    #[error("the server is about to restart: try again in a minute")]
    Stopping,
    /// A test session through a reverse proxy.
    #[error("the server does not see the address of this client itself")]
    Proxied,
    /// A room with as many members as it may have.
    #[error("the room has as many members as it may have")]
    RoomFull,
    /// Nobody is in the room of this code.
    #[error("there is no room of this name: is it mistyped, or have all left it?")]
    UnknownRoom,
    /// A code that this version does not know.
    #[error("for a reason that this version does not know")]
    #[serde(other)]
    Unknown,
}

/// A text that is no message of this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a message of the rendezvous protocol")]
pub struct Malformed;

impl ToServer {
    /// Reads the first message of a client, which has to be [`Open`](Self::Open), [`Join`](Self::Join) or
    /// [`Enter`](Self::Enter). Its version is looked at before everything else, so that clients of any other version are told that this is what is wrong,
    /// whatever else they say.
    ///
    /// # Errors
    /// When it speaks another version, or is nothing of the kind.
    pub fn first(text: &str) -> Result<Self, Refusal> {
        let fields = Fields::read(text).map_err(|_| Refusal::BadMessage)?;
        match fields.get::<serde_json::Value>("version") {
            Err(Malformed) => Err(Refusal::BadMessage),
            Ok(version) if version != VERSION => Err(Refusal::Version),
            Ok(_) => Self::parse(text).map_err(|_| Refusal::BadMessage),
        }
    }

    /// Reads any message of a client.
    ///
    /// # Errors
    /// When it is none that this version knows.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let fields = Fields::read(text)?;
        match fields.get::<String>("type")?.as_str() {
            "open" => Ok(Self::Open { version: fields.get("version")? }),
            "join" => Ok(Self::Join { version: fields.get("version")?, code: fields.get("code")? }),
            "enter" => {
                Ok(Self::Enter { version: fields.get("version")?, room: fields.get_or_default("room")? })
            }
            "available" => Ok(Self::Available { payload: fields.payload()? }),
            "invite" => Ok(Self::Invite { peer: fields.get("peer")?, code: fields.get("code")? }),
            "result" => Ok(Self::Result { peer: fields.get("peer")?, payload: fields.payload()? }),
            "ping" => Ok(Self::Ping { id: fields.get("id")? }),
            "ready" => Ok(Self::Ready {
                step: fields.get("step")?,
                rtt_ms: fields.get("rtt_ms")?,
                payload: fields.payload()?,
            }),
            "peer-ping" => Ok(Self::PeerPing { id: fields.get("id")? }),
            "peer-pong" => Ok(Self::PeerPong { id: fields.get("id")? }),
            _ => Err(Malformed),
        }
    }
}

impl ToClient {
    /// Reads a message of the server; none where it is of a type that this version does not know, which is to be skipped.
    ///
    /// # Errors
    /// When it is of a known type but not of its form, or no message at all.
    pub fn parse(text: &str) -> Result<Option<Self>, Malformed> {
        let fields = Fields::read(text)?;
        Ok(Some(match fields.get::<String>("type")?.as_str() {
            "welcome" => {
                let page = fields.get_or_default("page")?;
                Self::Welcome { stun: fields.get("stun")?, page }
            }
            "waiting" => Self::Waiting { code: fields.get("code")?, seconds: fields.get("seconds")? },
            "entered" => Self::Entered {
                room: fields.get("room")?,
                you: fields.get("you")?,
                seconds: fields.get("seconds")?,
            },
            "room" => Self::Room {
                members: fields.get_or_default("members")?,
                results: fields.get_or_default("results")?,
            },
            "pair" => {
                let code = fields.get_or_default("code")?;
                Self::Pair { peer: fields.get("peer")?, role: fields.get("role")?, code }
            }
            "paired" => {
                Self::Paired { role: fields.get("role")?, you: fields.get("you")?, peer: fields.get("peer")? }
            }
            "pong" => Self::Pong { id: fields.get("id")? },
            "start" => Self::Start {
                step: fields.get("step")?,
                after_ms: fields.get("after_ms")?,
                payload: fields.payload()?,
            },
            "peer-ping" => Self::PeerPing { id: fields.get("id")? },
            "peer-pong" => Self::PeerPong { id: fields.get("id")? },
            "peer-left" => Self::PeerLeft,
            "refused" => Self::Refused { reason: fields.get("reason")? },
            _ => return Ok(None),
        }))
    }
}

/// The fields of a message, each still as text: serde's tagged enums cannot hold a raw value.
#[derive(Deserialize)]
struct Fields<'a>(#[serde(borrow)] HashMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|_| Malformed)
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, Malformed> {
        let text = self.0.get(name).ok_or(Malformed)?.get();
        serde_json::from_str(text).map_err(|_| Malformed)
    }

    /// What may be missing.
    fn get_or_default<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, Malformed> {
        if self.0.contains_key(name) { self.get(name) } else { Ok(T::default()) }
    }

    fn payload(&self) -> Result<Payload, Malformed> {
        let raw: &RawValue = self.0.get("payload").ok_or(Malformed)?;
        Payload::try_from(raw.to_owned()).map_err(|_| Malformed)
    }
}
