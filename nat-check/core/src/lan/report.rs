//! What there is to be said of local networks: the JSON of `nat-check lan`. Pure.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::way::Way;
use crate::report::Finding;

/// The whole document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LanDocument {
    /// Version of this format: 1.
    pub version: u32,
    /// Name and version of the program.
    pub tool: String,
    /// Whether it ended early, so that what is missing may only be unfinished.
    pub partial: bool,
    /// What was found.
    pub lan: LanReport,
}

/// The networks of this host with private addresses, each by itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LanReport {
    /// The one with the most neighbours; of several that of the default route.
    #[serde(flatten)]
    pub network: NetworkReport,
    /// The others.
    pub more_networks: Vec<NetworkReport>,
}

/// One network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NetworkReport {
    /// Name of the interface.
    pub interface: String,
    /// This host's address there, and the length of the network's prefix.
    pub address: Ipv4Addr,
    /// See `address`.
    pub prefix_len: u8,
    /// This host's link-local address.
    pub ipv6_address: Option<Ipv6Addr>,
    /// The default gateway; null where there is none, or the system does not say.
    pub gateway: Option<GatewayReport>,
    /// For how long it was listened.
    pub listened_s: f64,
    /// Whether packets to a group of the local scope reach its members.
    pub multicast: Finding<Reach>,
    /// The same of a group over IPv6.
    pub ipv6_multicast: Finding<Reach>,
    /// The same of broadcasts.
    pub broadcast: Finding<Reach>,
    /// Whether the network keeps its clients from each other: unicast does not pass between two of them.
    pub isolation: Finding<bool>,
    /// Whether there are two hosts of which only one hears the other.
    pub one_way: Finding<bool>,
    /// Whether a group is still heard after the time for which switches remember its members.
    pub lasts: Finding<bool>,
    /// Ways by which this host hears what it sends itself: its own part works, nothing more.
    pub hears_itself: Vec<Way>,
    /// Ways by which the system does not send.
    pub refused: Vec<Way>,
    /// Other devices that answer.
    pub devices: Vec<DeviceReport>,
    /// Other hosts that run `nat-check lan`.
    pub neighbours: Vec<NeighbourReport>,
    /// From each host to each other one, by each way.
    pub matrix: Vec<PairReport>,
    /// Packets that were not believed.
    pub ignored: u64,
}

/// The gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GatewayReport {
    /// Its address.
    pub address: Ipv4Addr,
    /// Whether it answered anything; null = it may keep silent to everybody.
    pub answers: Option<bool>,
}

/// How far packets to a group get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// At least half of them arrive, in both directions.
    Works,
    /// Groups of the link (224.0.0.0/24) arrive, others do not: a switch with IGMP snooping does not know the members.
    LinkLocalOnly,
    /// They arrive in one direction.
    OneWay,
    /// They arrive between some hosts, or by some ways.
    Partly,
    /// They do not arrive, though packets to a single host do.
    Filtered,
}

/// A device that answers searches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceReport {
    /// Its address.
    pub address: Ipv4Addr,
    /// What it answers.
    pub protocol: DeviceProtocol,
    /// How it answers.
    pub answers: AnswerKind,
    /// What it says that it runs.
    pub software: Option<String>,
}

/// What is asked of everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum DeviceProtocol {
    /// The search of UPnP (UPnP Device Architecture 2.0 section 1.3).
    Ssdp,
    /// The list of services (RFC 6763 section 9) by mDNS.
    Mdns,
}

/// How an answer comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AnswerKind {
    /// To this host alone: what was sent to the group has arrived there.
    Unicast,
    /// To the group: that arrives here, too.
    Multicast,
    /// Both.
    Both,
}

/// Another host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NeighbourReport {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its link-local address.
    pub ipv6_address: Option<Ipv6Addr>,
    /// How it is known.
    pub known: Known,
    /// Whether the gateway answers it, as it says itself.
    pub reaches_gateway: bool,
    /// Rounds in which something of it could have been heard, one a second.
    pub rounds: usize,
}

/// How a neighbour is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// The two hear each other: it repeats a number that only who hears this host can know.
    Proven,
    /// It is heard, and does not hear this host.
    Heard,
    /// Only others hear it.
    Told,
}

/// What has arrived from one host at another.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PairReport {
    /// Who sent.
    pub from: Ipv4Addr,
    /// Who listened.
    pub to: Ipv4Addr,
    /// Whether it is the word of another host; otherwise this one listened.
    pub told: bool,
    /// Way by way; those that were not tried are left out.
    pub ways: Vec<WayReport>,
}

/// One way of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WayReport {
    /// The way.
    pub way: Way,
    /// Rounds in which it was sent so, of those in which anything arrived; the latest 200.
    pub sent: u8,
    /// In how many of these it arrived.
    pub heard: u8,
    /// What that says.
    pub verdict: Verdict,
}

/// What is known of a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// At least half of it arrives.
    Passes,
    /// Some of it arrives, less than half.
    Lossy,
    /// None of it arrives, and that is not loss.
    Silent,
    /// None of it has arrived, and that may be loss.
    Open,
}
