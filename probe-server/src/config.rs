//! What a server is asked to be: [`Settings`], as flags and as a TOML file, merged and checked into a [`Config`].

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    time::Duration,
};

use crate::{http::HttpOptions, limits::Limits, source_filter::is_bogon, test_session::TestLimits};

#[cfg(feature = "cli")]
mod checks;
#[cfg(feature = "cli")]
mod settings;
#[cfg(all(test, feature = "cli"))]
mod tests;

#[cfg(feature = "cli")]
pub use settings::{ConfigError, LogFormat, LogLevel, Settings};

/// A checked configuration: everything in it can be tried, and only the operating system may still object.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The address families served, each with one or two addresses.
    pub families: Vec<Family>,
    /// Primary and alternate port; 0 picks a free one.
    pub ports: (u16, u16),
    /// What clients are told in the place of local addresses.
    pub advertise: Vec<Advertise>,
    /// UDP workers a family.
    pub workers: usize,
    /// Datagrams that one system call may receive or send; 1 does without batches.
    pub batch: usize,
    /// STUN over TCP on the same ports.
    pub tcp: bool,
    /// STUN over TLS on ports of its own.
    pub tls: Option<Tls>,
    /// Whether sources that the public Internet cannot carry are answered.
    pub bogon_sources: BogonSources,
    /// Whether nobody has sent to the addresses in the last 10 minutes before the start: the operator's word.
    pub unused_before: bool,
    /// How much is answered, to whom.
    pub limits: Limits,
    /// Bounds on connections.
    pub streams: Streams,
    /// What is allowed over HTTP.
    pub http: HttpOptions,
    /// Bounds on introductions; none = nobody is introduced.
    pub rendezvous: Option<crate::rendezvous::SessionLimits>,
    /// Bounds on test sessions; none = the server connects to nobody.
    pub test_sessions: Option<TestLimits>,
    /// The page for browsers; none = there is none.
    pub page: Option<PageSettings>,
    /// Where metrics and health are served.
    pub admin: Option<SocketAddr>,
    /// Ask every endpoint everything before reporting readiness.
    pub check: bool,
    /// How long connections may take to end when the server is asked to stop.
    pub drain: Duration,
}

/// What is done with sources that the public Internet cannot carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum BogonSources {
    /// Dropped where all addresses of the family are public.
    #[default]
    Auto,
    /// Answered.
    Answer,
    /// Dropped.
    Drop,
}

/// The addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Family {
    /// The address that clients are told to ask.
    pub primary: IpAddr,
    /// The second address; without it the server is an honest single-address one.
    pub alternate: Option<IpAddr>,
}

/// A local address and the public one that a 1:1 NAT puts in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// The address that the server is bound to.
    pub local: IpAddr,
    /// The address that clients use.
    pub public: IpAddr,
}

/// The page that measures the NAT in front of a browser.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSettings {
    /// Its two UDP ports on both addresses; 0 picks a free one.
    pub ports: (u16, u16),
    /// Names of this server under which it is served, besides its addresses and those of the certificate.
    pub names: Vec<String>,
}

/// Certificate, key and ports of STUN over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the certificate chain.
    pub certificate: PathBuf,
    /// PEM file with the private key.
    pub key: PathBuf,
    /// Primary and alternate port; 0 picks a free one.
    pub ports: (u16, u16),
}

/// Bounds on connections over TCP and TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    /// Connections in all.
    pub most: usize,
    /// Connections from one host: one IPv4 address, or one IPv6 /56.
    pub most_per_host: usize,
    /// Connections from one network (IPv4 /24, IPv6 /48); beyond that, it makes room within itself.
    pub most_per_net: usize,
    /// How long a connection may rest between messages.
    pub idle: Duration,
    /// TLS handshakes a second, over all networks; 0 sets no limit.
    pub handshake_rate: u32,
    /// How long one message may take to arrive, and one answer to be taken.
    pub slow: Duration,
    /// How long a connection may last, whatever it does.
    pub longest: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self {
            most: 1000,
            most_per_host: 20,
            most_per_net: 100,
            handshake_rate: 500,
            idle: Duration::from_secs(30),
            slow: Duration::from_secs(5),
            longest: Duration::from_secs(120),
        }
    }
}

impl Config {
    /// A server for these addresses, everything else as it is by default.
    #[must_use]
    pub fn new(families: Vec<Family>, ports: (u16, u16)) -> Self {
        Self {
            families,
            ports,
            advertise: Vec::new(),
            workers: 1,
            batch: 32,
            tcp: true,
            tls: None,
            bogon_sources: BogonSources::default(),
            unused_before: false,
            limits: Limits::default(),
            streams: Streams::default(),
            http: HttpOptions::default(),
            rendezvous: Some(crate::rendezvous::SessionLimits::default()),
            test_sessions: Some(TestLimits::default()),
            page: None,
            admin: None,
            check: false,
            drain: Duration::from_secs(5),
        }
    }

    /// Whether this family is there for the public Internet alone: told so, or all that clients see of it is public.
    #[must_use]
    pub fn drops_bogons(&self, family: &Family) -> bool {
        let told =
            |ip: IpAddr| self.advertise.iter().find(|one| one.local == ip).map_or(ip, |one| one.public);
        match self.bogon_sources {
            BogonSources::Answer => false,
            BogonSources::Drop => true,
            BogonSources::Auto => {
                let mut addresses = std::iter::once(family.primary).chain(family.alternate);
                addresses.all(|ip| !is_bogon(told(ip)))
            }
        }
    }

    /// Files that it has open at the most: sockets, connections with and without a session, and a few more.
    #[must_use]
    pub fn most_files(&self) -> usize {
        let sockets = self.families.len() * 4 * (self.workers + 2 + usize::from(self.page.is_some()));
        let introduced = self.rendezvous.map_or(0, |limits| limits.clients + limits.rooms.members);
        let tested =
            self.test_sessions.map_or(0, |limits| 2 * limits.sessions + 2 * limits.connects + limits.held);
        sockets + self.streams.most + introduced + tested + 64
    }

    /// A server on 127.0.0.1 and 127.0.0.2, with ports that are free.
    #[must_use]
    pub fn local() -> Self {
        Self { unused_before: true, ..Self::new(vec![LOCAL], (0, 0)) }
    }
}

const LOCAL: Family = Family {
    primary: IpAddr::V4(Ipv4Addr::LOCALHOST),
    alternate: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))),
};

impl FromStr for Advertise {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (local, public) = text.split_once('=').ok_or_else(|| format!("'{text}' is not LOCAL=PUBLIC"))?;
        let ip = |t: &str| t.trim().parse::<IpAddr>().map_err(|_| format!("'{t}' is not an IP address"));
        Ok(Self { local: ip(local)?, public: ip(public)? })
    }
}

impl TryFrom<String> for Advertise {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}
