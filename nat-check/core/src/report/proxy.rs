//! Proxies and what they let through: part of the report.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::{Finding, HolePunching, UdpReport};

mod rows;

pub use rows::rows;

/// The protocol of a proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProxyKind {
    /// SOCKS5, RFC 1928: connections, and datagrams where it relays them.
    #[default]
    Socks5,
    /// SOCKS4: connections to IPv4 addresses.
    Socks4,
    /// SOCKS4a: the same, to names as well.
    Socks4a,
    /// CONNECT of HTTP, RFC 9110 section 9.3.6.
    HttpConnect,
}

/// How a proxy was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ProxyFoundBy {
    /// It was given (`--proxy`).
    #[default]
    Flag,
    /// A variable of the environment names it.
    Env,
}

/// What came of having a proxy connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProxyConnect {
    /// The server answers through it.
    Works,
    /// The proxy does not want to.
    Refused,
    /// The proxy is not reached, or does not reach the server.
    Unreachable,
}

/// What came of having a proxy relay datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProxyUdp {
    /// Datagrams come back.
    Works,
    /// The proxy does not want to, or cannot.
    Refused,
    /// The proxy says that it does, and nothing comes back.
    GrantedButDead,
}

/// What came of having a proxy listen for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ProxyBind {
    /// It says that it listens; nobody has connected from outside.
    Granted,
    /// The proxy does not want to, or cannot.
    Refused,
}

/// One proxy, and what it lets through.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProxyReport {
    /// Where it is, without user name and password.
    pub url: String,
    /// How it was found.
    pub found_by: ProxyFoundBy,
    /// The variable of the environment that names it; null where it was given.
    pub variable: Option<String>,
    /// Its protocol; null where what was found names no proxy that can be asked.
    pub kind: Option<ProxyKind>,
    /// Whether it was asked. What is only found in the environment is not, unless that was asked for.
    pub tested: bool,
    /// What is wrong with it: a sentence, null where nothing is.
    pub error: Option<String>,
    /// Its address.
    pub address: Option<SocketAddr>,
    /// What it says that it is.
    pub software: Option<String>,
    /// Whether the server is reached through it over TCP.
    pub connect: Finding<ProxyConnect>,
    /// Whether it looks names up itself.
    pub remote_dns: Finding<bool>,
    /// Whether it connects to IPv6 addresses.
    pub ipv6: Finding<bool>,
    /// Whether it listens for a connection (BIND).
    pub bind: Finding<ProxyBind>,
    /// Ports of the server that it was asked for.
    pub connect_ports: Vec<ProxyPort>,
    /// Whether it relays datagrams (UDP ASSOCIATE).
    pub udp_associate: Finding<ProxyUdp>,
    /// Whether it offers to relay datagrams over HTTP (RFC 9298).
    pub connect_udp: Finding<bool>,
    /// The address that the server sees over TCP.
    pub exit_address: Option<IpAddr>,
    /// How UDP behaves through its relay, as if that were a NAT; null where it relays none.
    pub udp: Option<UdpReport>,
    /// What that means for hole punching through it.
    pub hole_punching: Option<HolePunching>,
    /// Which applications get through here, and how.
    pub applications: Vec<ProxyApplication>,
}

/// What a proxy answers when it is asked to connect to this port of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProxyPort {
    /// The port.
    pub port: u16,
    /// Whether it is allowed; null where the answer does not tell.
    pub allowed: Option<bool>,
    /// The code of the answer in the protocol of the proxy; null where there is none.
    pub code: Option<u16>,
}

impl ProxyPort {
    /// A port and what came of asking for it.
    #[must_use]
    pub fn new(port: u16, allowed: Option<bool>, code: Option<u16>) -> Self {
        Self { port, allowed, code }
    }
}

/// A kind of application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Application {
    /// Web pages and what uses their port, such as WebSockets.
    Web,
    /// Other connections over TCP, such as remote shells.
    OtherTcp,
    /// Calls in browsers (WebRTC), which send no datagrams through proxies.
    BrowserCalls,
    /// Programs that reach peers over UDP and speak SOCKS5, such as BitTorrent clients.
    PeerToPeer,
    /// Programs that send datagrams and know no proxies: games, most VPNs.
    OtherUdp,
}

/// How an application gets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ApplicationOutcome {
    /// Through the proxy.
    ThroughProxy,
    /// Past the proxy.
    Direct,
    /// Only over a relay of its own, which it reaches over TCP through the proxy.
    RelayOnly,
    /// Not at all.
    Blocked,
    /// Not known.
    Unknown,
}

/// An application, and how it gets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ProxyApplication {
    /// The kind of application.
    pub application: Application,
    /// How it gets through.
    pub outcome: ApplicationOutcome,
    /// How, in a sentence.
    pub how: String,
}

impl ProxyApplication {
    /// An application, and how it gets through.
    #[must_use]
    pub fn new(application: Application, outcome: ApplicationOutcome, how: &str) -> Self {
        Self { application, outcome, how: how.into() }
    }
}
