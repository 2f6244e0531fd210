//! What a server is asked to be: settings as flags and as a TOML file, merged and checked into a [`Config`].

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use serde::Deserialize;

use crate::limits::Limits;

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
    /// How much is answered, to whom.
    pub limits: Limits,
    /// Bounds on connections.
    pub streams: Streams,
    /// Bounds on introductions; none = nobody is introduced.
    pub rendezvous: Option<shared::rendezvous::Limits>,
    /// Where metrics and health are served.
    pub admin: Option<SocketAddr>,
    /// Ask every endpoint everything before reporting readiness.
    pub check: bool,
    /// How long connections may take to end when the server is asked to stop.
    pub drain: Duration,
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
    /// How long a connection may rest between messages.
    pub idle: Duration,
    /// How long one message may take to arrive, and one answer to be taken.
    pub slow: Duration,
}

impl Default for Streams {
    fn default() -> Self {
        Self { most: 1000, most_per_host: 20, idle: Duration::from_secs(30), slow: Duration::from_secs(5) }
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
            batch: 64,
            tcp: true,
            tls: None,
            limits: Limits::default(),
            streams: Streams::default(),
            rendezvous: Some(shared::rendezvous::Limits::default()),
            admin: None,
            check: false,
            drain: Duration::from_secs(5),
        }
    }

    /// A server on 127.0.0.1 and 127.0.0.2, with ports that are free.
    #[must_use]
    pub fn local() -> Self {
        Self::new(vec![LOCAL], (0, 0))
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

/// Everything that can be set, by flag or in the file, under the same names. What is absent has its default.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct Settings {
    /// Primary address; may be given once for IPv4 and once for IPv6
    #[arg(long, value_name = "IP", help_heading = "Addresses")]
    #[serde(deserialize_with = "one_or_many")]
    pub primary: Vec<IpAddr>,
    /// Alternate address of the same family; without it the server cannot test filtering, and says so
    #[arg(long, value_name = "IP", help_heading = "Addresses")]
    #[serde(deserialize_with = "one_or_many")]
    pub alternate: Vec<IpAddr>,
    /// Port on both addresses; 0 picks a free one [default: 3478]
    #[arg(long, value_name = "PORT", help_heading = "Addresses")]
    pub port: Option<u16>,
    /// Second port on both addresses; 0 picks a free one [default: 3479]
    #[arg(long, value_name = "PORT", help_heading = "Addresses")]
    pub alternate_port: Option<u16>,
    /// Tell clients PUBLIC where the server is bound to LOCAL: for hosts behind a 1:1 NAT
    #[arg(long, value_name = "LOCAL=PUBLIC", help_heading = "Addresses")]
    #[serde(deserialize_with = "one_or_many")]
    pub advertise: Vec<Advertise>,

    /// Do not serve STUN over TCP
    #[arg(long, help_heading = "Streams")]
    pub no_tcp: bool,
    /// Serve STUN over TLS with this certificate chain (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Streams")]
    pub tls_certificate: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Streams")]
    pub tls_key: Option<PathBuf>,
    /// Port for TLS on both addresses [default: 5349]
    #[arg(long, value_name = "PORT", help_heading = "Streams")]
    pub tls_port: Option<u16>,
    /// Second port for TLS on both addresses [default: 5350]
    #[arg(long, value_name = "PORT", help_heading = "Streams")]
    pub tls_alternate_port: Option<u16>,
    /// Connections over TCP and TLS in all [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Streams")]
    pub max_connections: Option<usize>,
    /// Connections from one IPv4 address or IPv6 /56 [default: 20]
    #[arg(long, value_name = "N", help_heading = "Streams")]
    pub max_connections_per_host: Option<usize>,
    /// Seconds that a connection may rest between messages [default: 30]
    #[arg(long, value_name = "SECONDS", help_heading = "Streams")]
    pub idle_timeout: Option<u64>,

    /// Do not introduce clients that want to punch to each other
    #[arg(long, help_heading = "Rendezvous")]
    pub no_rendezvous: bool,
    /// Sessions of two clients at a time [default: 10000]
    #[arg(long, value_name = "N", help_heading = "Rendezvous")]
    pub max_sessions: Option<usize>,
    /// Sessions that one IPv4 address or IPv6 /56 takes part in [default: 20]
    #[arg(long, value_name = "N", help_heading = "Rendezvous")]
    pub max_sessions_per_host: Option<usize>,

    /// Answers a second to one IPv4 address or IPv6 /56; 0 sets no limit [default: 100]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub host_rate: Option<u32>,
    /// Answers to such a host at once, before its rate holds [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub host_burst: Option<u32>,
    /// Answers a second to one IPv4 /24 or IPv6 /48; 0 sets no limit [default: 400]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub net_rate: Option<u32>,
    /// Answers to such a network at once, before its rate holds [default: 4000]
    #[arg(long, value_name = "N", help_heading = "Limits")]
    pub net_burst: Option<u32>,
    /// Megabits a second that the whole server sends at most over UDP, IP headers included; 0 sets no limit
    /// [default: 100]
    #[arg(long, value_name = "MBIT", help_heading = "Limits")]
    pub egress_mbit: Option<u32>,

    /// UDP workers a family [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Operation")]
    pub workers: Option<usize>,
    /// Datagrams a system call, 1 to 256 [default: 64]
    #[arg(long, value_name = "N", help_heading = "Operation")]
    pub batch: Option<usize>,
    /// Before readiness, ask every endpoint every CHANGE-REQUEST over real sockets; fail if an answer is wrong
    #[arg(long, help_heading = "Operation")]
    pub check: bool,
    /// Serve /metrics and /healthz over HTTP here; a bare port means 127.0.0.1
    #[arg(long, value_name = "[IP:]PORT", value_parser = admin_address, help_heading = "Operation")]
    #[serde(deserialize_with = "admin_from_file")]
    pub admin: Option<SocketAddr>,
    /// Seconds that open connections get when the server is asked to stop [default: 5]
    #[arg(long, value_name = "SECONDS", help_heading = "Operation")]
    pub drain: Option<u64>,
    /// Log level: error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Operation")]
    pub log: Option<LogLevel>,
    /// Log format: text or json [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = "Operation")]
    pub log_format: Option<LogFormat>,
}

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names say it")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// In which form is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// A configuration that makes no sense; the message names the key, which is also the flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("config {path}: {what}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, with line and key.
        what: String,
    },
    /// A value is missing or impossible.
    #[error("{key}: {what}")]
    Value {
        /// The key.
        key: &'static str,
        /// What is wrong with its value.
        what: String,
    },
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// When it cannot be read, or a key or value in it is not known.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let fail = |what: String| ConfigError::File { path: path.into(), what };
        let text = std::fs::read_to_string(path).map_err(|error| fail(error.to_string()))?;
        Self::read_text(&text).map_err(fail)
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// In one line, when a key or value is not known.
    pub fn read_text(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error| one_line(text, &error))
    }

    /// These settings, and where they are silent, those of `base`. A list replaces the other list.
    #[must_use]
    pub fn or(self, base: Self) -> Self {
        let list = |mine: Vec<IpAddr>, base: Vec<IpAddr>| if mine.is_empty() { base } else { mine };
        Self {
            primary: list(self.primary, base.primary),
            alternate: list(self.alternate, base.alternate),
            port: self.port.or(base.port),
            alternate_port: self.alternate_port.or(base.alternate_port),
            advertise: if self.advertise.is_empty() { base.advertise } else { self.advertise },
            no_tcp: self.no_tcp || base.no_tcp,
            tls_certificate: self.tls_certificate.or(base.tls_certificate),
            tls_key: self.tls_key.or(base.tls_key),
            tls_port: self.tls_port.or(base.tls_port),
            tls_alternate_port: self.tls_alternate_port.or(base.tls_alternate_port),
            max_connections: self.max_connections.or(base.max_connections),
            max_connections_per_host: self.max_connections_per_host.or(base.max_connections_per_host),
            idle_timeout: self.idle_timeout.or(base.idle_timeout),
            no_rendezvous: self.no_rendezvous || base.no_rendezvous,
            max_sessions: self.max_sessions.or(base.max_sessions),
            max_sessions_per_host: self.max_sessions_per_host.or(base.max_sessions_per_host),
            host_rate: self.host_rate.or(base.host_rate),
            host_burst: self.host_burst.or(base.host_burst),
            net_rate: self.net_rate.or(base.net_rate),
            net_burst: self.net_burst.or(base.net_burst),
            egress_mbit: self.egress_mbit.or(base.egress_mbit),
            workers: self.workers.or(base.workers),
            batch: self.batch.or(base.batch),
            check: self.check || base.check,
            admin: self.admin.or(base.admin),
            drain: self.drain.or(base.drain),
            log: self.log.or(base.log),
            log_format: self.log_format.or(base.log_format),
        }
    }

    /// Checks everything that can be checked without a socket. `local` stands for the loopback addresses.
    ///
    /// # Errors
    /// With the first key whose value is missing or impossible.
    pub fn check(&self, local: bool) -> Result<Config, ConfigError> {
        let families = self.families(local)?;
        let ports =
            (self.port.unwrap_or(shared::stun::PORT), self.alternate_port.unwrap_or(shared::stun::PORT + 1));
        distinct_ports("alternate-port", ports)?;
        let tls = self.tls()?;
        if let Some(tls) = &tls {
            let taken = |p: u16| p != 0 && !self.no_tcp && (p == ports.0 || p == ports.1);
            if taken(tls.ports.0) || taken(tls.ports.1) {
                return Err(value("tls-port", "TLS needs ports of its own".into()));
            }
        }
        let defaults = Config::new(families, ports);
        let seconds = |given: Option<u64>, default| given.map_or(default, Duration::from_secs);
        let limits = Limits {
            host_rate: self.host_rate.unwrap_or(defaults.limits.host_rate),
            host_burst: self.host_burst.unwrap_or(defaults.limits.host_burst),
            net_rate: self.net_rate.unwrap_or(defaults.limits.net_rate),
            net_burst: self.net_burst.unwrap_or(defaults.limits.net_burst),
            egress_mbit: self.egress_mbit.unwrap_or(defaults.limits.egress_mbit),
        };
        let streams = Streams {
            most: self.max_connections.unwrap_or(defaults.streams.most),
            most_per_host: self.max_connections_per_host.unwrap_or(defaults.streams.most_per_host),
            idle: seconds(self.idle_timeout, defaults.streams.idle),
            slow: defaults.streams.slow,
        };
        let sessions = shared::rendezvous::Limits::default();
        let rendezvous = shared::rendezvous::Limits {
            sessions: self.max_sessions.unwrap_or(sessions.sessions),
            per_host: self.max_sessions_per_host.unwrap_or(sessions.per_host),
            ..sessions
        };
        self.check_advertise(&defaults.families)?;
        Ok(Config {
            advertise: self.advertise.clone(),
            workers: in_range("workers", self.workers.unwrap_or_else(cores), 1..=256)?,
            batch: in_range("batch", self.batch.unwrap_or(defaults.batch), 1..=256)?,
            tcp: !self.no_tcp,
            tls,
            limits,
            streams,
            rendezvous: (!self.no_rendezvous).then_some(rendezvous),
            admin: self.admin,
            check: self.check,
            drain: seconds(self.drain, defaults.drain),
            ..defaults
        })
    }

    fn families(&self, local: bool) -> Result<Vec<Family>, ConfigError> {
        if local {
            return match self.primary.first().or(self.alternate.first()) {
                Some(ip) => Err(value(
                    "local",
                    format!("{ip} cannot be given as well, --local has its own addresses"),
                )),
                None => Ok(vec![LOCAL]),
            };
        }
        let mut families: Vec<Family> = Vec::new();
        for &ip in &self.primary {
            usable("primary", ip)?;
            if let Some(twice) = families.iter().find(|f| f.primary.is_ipv4() == ip.is_ipv4()) {
                return Err(value("primary", format!("{} and {ip} are of the same family", twice.primary)));
            }
            families.push(Family { primary: ip, alternate: None });
        }
        for &ip in &self.alternate {
            usable("alternate", ip)?;
            let Some(family) = families.iter_mut().find(|f| f.primary.is_ipv4() == ip.is_ipv4()) else {
                return Err(value(
                    "alternate",
                    format!("{ip} has no primary address of its family beside it"),
                ));
            };
            if let Some(twice) = family.alternate {
                return Err(value("alternate", format!("{twice} and {ip} are of the same family")));
            }
            if family.primary == ip {
                return Err(value("alternate", format!("{ip} is the primary address, too")));
            }
            family.alternate = Some(ip);
        }
        families.sort_by_key(|f| f.primary.is_ipv6());
        match families.is_empty() {
            true => {
                Err(value("primary", "no address to listen on (for a try on this machine: --local)".into()))
            }
            false => Ok(families),
        }
    }

    fn tls(&self) -> Result<Option<Tls>, ConfigError> {
        match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                let ports = (self.tls_port.unwrap_or(5349), self.tls_alternate_port.unwrap_or(5350));
                distinct_ports("tls-alternate-port", ports)?;
                Ok(Some(Tls { certificate: certificate.clone(), key: key.clone(), ports }))
            }
            (Some(_), None) => Err(value("tls-key", "missing, tls-certificate is given".into())),
            (None, Some(_)) => Err(value("tls-certificate", "missing, tls-key is given".into())),
            (None, None) => match self.tls_port.or(self.tls_alternate_port) {
                Some(_) => Err(value("tls-certificate", "missing, a port for TLS is given".into())),
                None => Ok(None),
            },
        }
    }

    fn check_advertise(&self, families: &[Family]) -> Result<(), ConfigError> {
        for (i, one) in self.advertise.iter().enumerate() {
            let bound = families.iter().any(|f| f.primary == one.local || f.alternate == Some(one.local));
            let twice = self.advertise[..i].iter().any(|o| o.local == one.local || o.public == one.public);
            let what = if !bound {
                format!("{} is neither a primary nor an alternate address", one.local)
            } else if one.local.is_ipv4() != one.public.is_ipv4() {
                format!("{} and {} are of different families", one.local, one.public)
            } else if twice {
                format!("{}={} repeats an address", one.local, one.public)
            } else {
                usable("advertise", one.public)?;
                continue;
            };
            return Err(value("advertise", what));
        }
        Ok(())
    }
}

fn value(key: &'static str, what: String) -> ConfigError {
    ConfigError::Value { key, what }
}

/// An endpoint is one concrete address: from a wildcard, answers would leave from the wrong one.
fn usable(key: &'static str, ip: IpAddr) -> Result<(), ConfigError> {
    let v4_mapped = matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    match ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) || v4_mapped {
        true => Err(value(key, format!("{ip} is not the address of one host"))),
        false => Ok(()),
    }
}

fn distinct_ports(key: &'static str, (first, second): (u16, u16)) -> Result<(), ConfigError> {
    match first == second && first != 0 {
        true => Err(value(key, format!("{second} is the first port, too"))),
        false => Ok(()),
    }
}

fn in_range(
    key: &'static str,
    n: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<usize, ConfigError> {
    match range.contains(&n) {
        true => Ok(n),
        false => Err(value(key, format!("{n} is not between {} and {}", range.start(), range.end()))),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn admin_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.parse::<u16>() {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| format!("'{text}' is neither a port nor IP:PORT"))
}

fn admin_from_file<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "admin is a port or \"IP:PORT\"")]
    enum Form {
        Port(u16),
        Text(String),
    }
    let text = match Form::deserialize(from)? {
        Form::Port(port) => port.to_string(),
        Form::Text(text) => text,
    };
    admin_address(&text).map(Some).map_err(serde::de::Error::custom)
}

/// A list, or one element alone.
fn one_or_many<'de, D, T>(from: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: FromStr,
    T::Err: fmt::Display,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or a list of strings")]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    let texts = match Form::deserialize(from)? {
        Form::One(text) => vec![text],
        Form::Many(texts) => texts,
    };
    let parse = |t: String| t.parse::<T>().map_err(|e| serde::de::Error::custom(format!("'{t}': {e}")));
    texts.into_iter().map(parse).collect()
}

/// What toml says, without its drawing, but with the line.
fn one_line(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
    let Some(span) = error.span() else { return message };
    let start = span.start.min(text.len());
    let line = text[..start].matches('\n').count() + 1;
    // The span of a wrong value is the value alone; its key stands before it on the line.
    let whole = text.lines().nth(line - 1).unwrap_or_default();
    match whole.split_once('=') {
        Some((key, _)) if !message.contains(key.trim()) => format!("line {line}: {}: {message}", key.trim()),
        Some(_) | None => format!("line {line}: {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> Result<Config, String> {
        Settings::read_text(text)?.check(false).map_err(|e| e.to_string())
    }

    #[test]
    fn a_whole_file() {
        let config = config(
            r#"
            primary = ["10.0.0.4", "2001:db8::4"]
            alternate = ["2001:db8::5", "10.0.0.5"]
            advertise = "10.0.0.4=203.0.113.4"
            port = 3478
            alternate-port = 3480
            workers = 2
            admin = 9478
            tls-certificate = "cert.pem"
            tls-key = "key.pem"
            host-rate = 0
            log = "debug"
            log-format = "json"
            "#,
        )
        .unwrap();
        assert_eq!(config.families[0].alternate, Some("10.0.0.5".parse().unwrap()));
        assert_eq!(config.families[1].primary, "2001:db8::4".parse::<IpAddr>().unwrap());
        assert_eq!(config.ports, (3478, 3480));
        assert_eq!(config.admin, Some("127.0.0.1:9478".parse().unwrap()));
        assert_eq!(config.tls.unwrap().ports, (5349, 5350));
        assert_eq!(config.limits.host_rate, 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            ("", "primary: no address"),
            ("primary = \"10.0.0.4\"\nprimery = 1", "line 2: unknown field `primery`"),
            ("primary = \"10.0.0\"", "line 1: primary: '10.0.0'"),
            ("port = 70000", "line 1: port: "),
            ("primary = \"10.0.0.4\"\nport = \"x\"", "line 2: port: "),
            ("primary = \"0.0.0.0\"", "primary: 0.0.0.0 is not the address of one host"),
            ("primary = \"::ffff:10.0.0.4\"", "primary: ::ffff:10.0.0.4 is not the address of one host"),
            (
                "primary = [\"10.0.0.4\", \"10.0.0.5\"]",
                "primary: 10.0.0.4 and 10.0.0.5 are of the same family",
            ),
            (
                "primary = \"10.0.0.4\"\nalternate = \"10.0.0.4\"",
                "alternate: 10.0.0.4 is the primary address, too",
            ),
            ("primary = \"10.0.0.4\"\nalternate = \"::1\"", "alternate: ::1 has no primary address"),
            ("primary = \"10.0.0.4\"\nport = 5\nalternate-port = 5", "alternate-port: 5 is the first port"),
            ("primary = \"10.0.0.4\"\nadvertise = \"10.0.0.5=1.1.1.1\"", "advertise: 10.0.0.5 is neither"),
            ("primary = \"10.0.0.4\"\nadvertise = \"10.0.0.4\"", "line 2: advertise: '10.0.0.4'"),
            (
                "primary = \"10.0.0.4\"\nadvertise = \"10.0.0.4=::1\"",
                "advertise: 10.0.0.4 and ::1 are of different",
            ),
            ("primary = \"10.0.0.4\"\ntls-key = \"k\"", "tls-certificate: missing"),
            ("primary = \"10.0.0.4\"\ntls-port = 1", "tls-certificate: missing"),
            ("primary = \"10.0.0.4\"\nworkers = 0", "workers: 0 is not between 1 and 256"),
            ("primary = \"10.0.0.4\"\nadmin = \"here\"", "line 2: admin: 'here' is neither a port"),
            ("primary = \"10.0.0.4\"\nlog = \"loud\"", "line 2: log: unknown variant `loud`"),
        ];
        for (text, expected) in rows {
            let error = config(text).unwrap_err();
            assert!(error.starts_with(expected), "{text:?}: {error}");
            assert!(!error.contains('\n'));
        }
    }

    #[test]
    fn flags_go_before_the_file() {
        let file = Settings::read_text("primary = \"10.0.0.4\"\nport = 1000\nworkers = 3").unwrap();
        let flags = Settings { port: Some(2000), ..Settings::default() };
        let both = flags.or(file).check(false).unwrap();
        assert_eq!((both.ports.0, both.workers), (2000, 3));
    }

    #[test]
    fn local_has_addresses_of_its_own() {
        assert_eq!(Settings::default().check(true).unwrap().families, [LOCAL]);
        let both = Settings { primary: vec![LOCAL.primary], ..Settings::default() };
        assert!(both.check(true).unwrap_err().to_string().starts_with("local: "));
    }
}
