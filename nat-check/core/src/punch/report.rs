//! What came of a punch: the JSON of the contract.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shared::{
    nat::{Filtering, Mapping, NatType, PortPolicy},
    rendezvous::Role,
};

use crate::technique::Technique;

/// The whole document.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PunchDocument {
    /// Version of this format: 1.
    pub version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// Whether the attempt was interrupted, so that what is missing may only be unfinished.
    #[serde(default)]
    pub partial: bool,
    /// What came of it.
    pub punch: PunchReport,
}

/// How a punch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PunchOutcome {
    /// There is a direct path.
    Direct,
    /// There is none.
    Failed,
    /// In a prediction: too little is known. In a report: the attempt was interrupted.
    Unknown,
}

/// What came of a punch, as this side saw it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PunchReport {
    /// Whether there is a direct path.
    pub outcome: PunchOutcome,
    /// What found it.
    pub technique: Option<Technique>,
    /// This side's end of the path.
    pub local: Option<SocketAddr>,
    /// The other end, as packets really come from it.
    pub remote: Option<SocketAddr>,
    /// Median round-trip time over the path, in seconds.
    pub rtt_s: Option<f64>,
    /// Round-trip time to the peer through the server, in seconds.
    pub rtt_via_server_s: Option<f64>,
    /// From the introduction to the first packet of the peer, in seconds.
    pub first_packet_s: Option<f64>,
    /// Rounds that were tried.
    pub rounds: u32,
    /// How long the path was seen alive, in seconds.
    pub held_s: Option<f64>,
    /// Share of heartbeats that got no reply.
    pub loss: Option<f64>,
    /// Mean difference between successive round-trip times, in seconds.
    pub jitter_s: Option<f64>,
    /// UDP packets that this side sent for it, questions to the server included.
    pub packets: u32,
    /// What was expected before the attempt.
    pub predicted: Predicted,
    /// This side.
    #[serde(rename = "self")]
    pub this: SideReport,
    /// The peer.
    pub peer: SideReport,
    /// Which of the two this side was.
    pub role: Role,
    /// Every round.
    pub attempts: Vec<RoundReport>,
    /// In a sentence.
    pub why: String,
    /// What a person should know besides.
    pub warnings: Vec<String>,
}

/// What was expected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Predicted {
    /// Direct, failed or unknown.
    pub outcome: PunchOutcome,
    /// The chance of a direct path, 0 to 1.
    pub probability: Option<f64>,
    /// Whether that chance is assumed, because nothing of these two could be measured beforehand.
    pub assumed: bool,
    /// By which technique.
    pub technique: Option<Technique>,
    /// Why.
    pub why: String,
}

/// One side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SideReport {
    /// The classic name of its NAT.
    pub nat_type: Option<NatType>,
    /// RFC 4787 section 4.1.
    pub mapping: Option<Mapping>,
    /// RFC 4787 section 5.
    pub filtering: Option<Filtering>,
    /// How its ports are chosen.
    pub ports: Option<PortPolicy>,
    /// Its external endpoints before the first round.
    pub external: Vec<SocketAddr>,
}

/// One round, as both sides saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RoundReport {
    /// What was tried.
    pub technique: Technique,
    /// Whether it found a path.
    pub through: bool,
    /// Where the server had seen this side's sockets just before.
    pub seen_as: Vec<SocketAddr>,
    /// Where the server had seen the peer's, as the peer passed it on.
    pub peer_seen_as: Vec<SocketAddr>,
    /// Where this side's packets went to, the first few.
    pub to: Vec<SocketAddr>,
    /// Where the peer says that its packets went to, the first few.
    pub peer_to: Vec<SocketAddr>,
    /// Packets that this side sent.
    pub sent: u32,
    /// Packets of the peer that this side received.
    pub heard: u32,
    /// Errors that came back.
    pub refused: u32,
    /// Packets that the peer says it sent; null if it said nothing.
    pub peer_sent: Option<u32>,
    /// Packets of this side that the peer says it received.
    pub peer_heard: Option<u32>,
}
