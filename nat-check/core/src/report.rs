//! The report: what scripts rely on (JSON, version 1). Every conclusion is a [`Finding`] that carries its evidence.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shared::nat::{Filtering, Lifetime, Mapping, NatType, PortAllocation};

mod advice;
pub mod checklist;
mod consoles;
mod finding;
mod ipv6;
mod layers;
mod own_address;
mod port_mapping;
mod proxy;
mod reason;
mod rows;
mod tcp;

pub use advice::{Advice, AdviceCode};
pub use checklist::{Requirement, RequirementLevel, RequirementVerdict};
pub use consoles::{Consoles, MicrosoftNat, SonyNat, rows as console_rows};
pub use finding::{Confidence, Evidence, Finding};
pub use ipv6::{Ipv6Findings, Ipv6Inbound, Ipv6Translation, rows as ipv6_rows};
pub use layers::{HopKind, Layers, LayersHop, LayersKind, rows as layers_rows};
pub use own_address::{AddressKind, OwnAddress};
pub use port_mapping::{
    Chain, ChainLink, GrantedMapping, MappedTransport, MappingProtocol, Pinholes, PortMapping,
    rows as port_mapping_rows,
};
pub use proxy::{
    Application, ApplicationOutcome, ProxyApplication, ProxyBind, ProxyConnect, ProxyFoundBy, ProxyKind,
    ProxyPort, ProxyReport, ProxyUdp, rows as proxy_rows,
};
pub use reason::{Reason, ReasonCode};
pub use rows::{Basis, Row, json_word, number, percent, udp as udp_rows};
pub use tcp::{SynAnswer, TcpIdle, TcpReport, UnsolicitedSyn, rows as tcp_rows};

pub use crate::technique::Technique;

/// The whole report.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Report {
    /// Version of this format: 1.
    pub version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// When the run began, RFC 3339 in UTC.
    pub started_at: String,
    /// How long it took, in seconds.
    pub duration_s: f64,
    /// Whether the network was a simulated one (`--simulate`).
    pub simulated: bool,
    /// Whether the run was ended early, so that what is unknown may only be unfinished.
    pub partial: bool,
    /// The probe server that was asked; the first one where there are several.
    pub server: ServerReport,
    /// Further probe servers, and where they disagree with the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub more_servers: Vec<ServerReport>,
    /// What was found over IPv4.
    pub ipv4: FamilyReport,
    /// What was found over IPv6.
    pub ipv6: FamilyReport,
    /// What stands between this host and the Internet; null where that was not asked for and nothing was seen of it.
    #[serde(default)]
    pub layers: Option<Layers>,
    /// Ports opened at the gateway and tested from outside; null where that was not asked for (`--port-mapping`).
    #[serde(default)]
    pub port_mapping: Option<PortMapping>,
    /// This network in the words of game consoles; null where nothing is known that they rest on.
    #[serde(default)]
    pub consoles: Option<Consoles>,
    /// Proxies that were given (`--proxy`) or that the environment names, and what they let through; null where there are none.
    #[serde(default)]
    pub proxy: Option<Vec<ProxyReport>>,
    /// Whether, with whom and how hole punching will work: over IPv4, and what IPv6 adds for peers that have it, too; over
    /// IPv6 where nothing is known of IPv4.
    pub hole_punching: HolePunching,
    /// What a person can do about it: at most five, the most useful first.
    #[serde(default)]
    pub advice: Vec<Advice>,
    /// Whether this host tracks connections, as a stateful firewall of its own has to; null where the system does not tell.
    #[serde(default)]
    pub host_tracks_connections: Option<bool>,
    /// What the findings say of the requirements of RFC 4787 and others; null where that was not asked for (`--checklist`).
    #[serde(default)]
    pub checklist: Option<Vec<Requirement>>,
    /// What a person should know besides.
    pub warnings: Vec<String>,
}

/// A probe server: where it was found and what it can do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ServerReport {
    /// What the user gave.
    pub query: String,
    /// How its address was found: `literal`, `srv`, `address`, `local`, `simulated`; null when it was not.
    pub found_by: Option<String>,
    /// The name that it gives itself (SOFTWARE), if any.
    pub software: Option<String>,
    /// Its IPv4 addresses.
    pub ipv4: Option<ServerAddresses>,
    /// Its IPv6 addresses.
    pub ipv6: Option<ServerAddresses>,
    /// What it can do.
    pub features: ServerFeatures,
    /// What is wrong with it: each a sentence.
    pub faults: Vec<String>,
}

/// The two addresses of a probe server in one family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ServerAddresses {
    /// The one that was asked.
    pub primary: SocketAddr,
    /// The one that it named as its other (OTHER-ADDRESS), if any.
    pub alternate: Option<SocketAddr>,
}

impl ServerAddresses {
    /// The address that was asked, and the one that it named, if any.
    #[must_use]
    pub fn new(primary: SocketAddr, alternate: Option<SocketAddr>) -> Self {
        Self { primary, alternate }
    }
}

/// What a probe server can do, as observed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ServerFeatures {
    /// Answers from another address or port on request (RFC 5780 section 7.2).
    pub change_request: Finding<bool>,
    /// Answers to another port on request (RFC 5780 section 7.5).
    pub response_port: Finding<bool>,
    /// Answers classic clients (RFC 3489).
    pub classic: Finding<bool>,
}

/// Whether a family was tested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FamilyStatus {
    /// It was, with results in `udp` or `tcp`.
    Tested,
    /// The server has an address in this family but did not answer over any transport.
    Unreachable,
    /// This host or the server has no usable address in this family.
    Unavailable,
    /// The user did not want it.
    #[default]
    Skipped,
}

/// What was found over one IP family.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct FamilyReport {
    /// Whether it was tested.
    pub status: FamilyStatus,
    /// Why, when it was not: a sentence, which may change.
    pub reason: Option<String>,
    /// The reason as a word that does not change; null exactly when there is no reason.
    pub reason_code: Option<ReasonCode>,
    /// UDP behaviour.
    pub udp: Option<UdpReport>,
    /// TCP behaviour.
    pub tcp: Option<TcpReport>,
    /// Whether, with whom and how hole punching will work over this family alone, with peers that have it, too; null where
    /// UDP over it was not tested.
    #[serde(default)]
    pub hole_punching: Option<HolePunching>,
    /// This host's own addresses in this family; IPv6 only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<OwnAddress>,
    /// How addresses are translated on the way; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub translation: Option<Finding<Ipv6Translation>>,
    /// Whether what strangers send reaches ports of this host that have sent nothing; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inbound: Option<Ipv6Inbound>,
}

/// UDP behaviour, finding by finding.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UdpReport {
    /// The local endpoint of the mapping test.
    pub local: Option<SocketAddr>,
    /// Every external endpoint that a server endpoint saw for that socket, without repeats.
    pub external: Vec<SocketAddr>,
    /// Round-trip time to the server, smoothed over all answers as TCP does (RFC 6298), in seconds.
    pub rtt_s: Option<f64>,
    /// Share of control requests that went unanswered, 0 to 1.
    pub loss: Option<f64>,
    /// The classic name, derived from the two axes.
    pub nat_type: Finding<NatType>,
    /// RFC 4787 section 4.1.
    pub mapping: Finding<Mapping>,
    /// RFC 4787 section 5.
    pub filtering: Finding<Filtering>,
    /// How external ports are chosen.
    pub port_allocation: Finding<PortAllocation>,
    /// Whether a packet to one's own external endpoint comes back in (RFC 4787 section 6).
    pub hairpinning: Finding<bool>,
    /// Whether something rewrites addresses inside payloads (RFC 4787 section 7).
    pub alg: Finding<bool>,
    /// Whether a packet from outside that arrives first changes the mapping towards its sender: true on Linux
    /// routers that accept input on their WAN side.
    pub inbound_first_remap: Finding<bool>,
    /// Routers up to the outermost one that filters; 0 = this host itself does, or a device that does not count hops; 2 or
    /// more = another gateway stands behind
    /// the first.
    pub distance: Finding<u8>,
    /// How long mappings live.
    pub lifetime: Finding<Lifetime>,
}

/// With whom hole punching works, by this side's own class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Not enough is known.
    #[default]
    Unknown,
    /// UDP does not work at all.
    None,
    /// Every other class over which UDP works.
    SomePeers,
    /// Address-and-port-dependent filtering with a direct or endpoint-independent mapping.
    MostPeers,
    /// The filter lets strangers of a contacted address in.
    AnyPeer,
}

/// The hole-punching verdict.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct HolePunching {
    /// How good the prospects are.
    pub level: Level,
    /// One sentence for a person.
    pub summary: String,
    /// Advised keep-alive interval in seconds, once the lifetime is known.
    pub keepalive_s: Option<f64>,
    /// What to expect of each kind of peer.
    pub peers: Vec<PeerVerdict>,
}

/// The kinds of peer that the verdict lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PeerKind {
    /// No NAT, no filter.
    OpenInternet,
    /// One mapping, open to all.
    FullCone,
    /// One mapping, open to contacted addresses.
    RestrictedCone,
    /// One mapping, open to contacted endpoints.
    PortRestrictedCone,
    /// A new mapping for each destination, with ports that follow each other.
    SymmetricSequential,
    /// A new mapping for each destination, with random ports.
    SymmetricRandom,
    /// No UDP at all.
    UdpBlocked,
}

/// How a connection with a peer will come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PeerOutcome {
    /// Straight.
    Direct,
    /// Through a relay.
    Relay,
    /// Not known.
    Unknown,
}

/// What to expect of one kind of peer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PeerVerdict {
    /// Its kind.
    pub peer: PeerKind,
    /// What comes of it.
    pub outcome: PeerOutcome,
    /// By which technique.
    pub technique: Option<Technique>,
    /// Chance of success, 0 to 1.
    pub probability: Option<f64>,
    /// Whether the chance is the least that is possible, since not everything is known of this side.
    #[serde(default)]
    pub at_least: bool,
    /// Packets that it takes.
    pub packets: Option<u32>,
    /// Seconds that it takes at a polite rate.
    pub seconds: Option<f64>,
    /// Why, in a sentence.
    pub why: String,
}
