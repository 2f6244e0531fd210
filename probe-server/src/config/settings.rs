//! Everything that can be set, by flag or in the TOML file, under the same names.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::Deserialize;

use super::{Advertise, BogonSources};
use crate::http::TrustedProxy;

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
    /// Connections over TCP and TLS in all, without those in sessions [default: 1000]
    #[arg(long, value_name = "N", help_heading = "Streams")]
    pub max_connections: Option<usize>,
    /// Connections from one IPv4 address or IPv6 /56 [default: 20]
    #[arg(long, value_name = "N", help_heading = "Streams")]
    pub max_connections_per_host: Option<usize>,
    /// Connections from one IPv4 /24 or IPv6 /48 [default: 100]
    #[arg(long, value_name = "N", help_heading = "Streams")]
    pub max_connections_per_net: Option<usize>,
    /// Seconds that a connection may rest between messages, 1 to 3600; after two minutes it ends in any case
    /// [default: 30]
    #[arg(long, value_name = "SECONDS", help_heading = "Streams")]
    pub idle_timeout: Option<u64>,
    /// TLS handshakes a second, over all networks; 0 sets no limit [default: 500]
    #[arg(long, value_name = "N", help_heading = "TCP and TLS")]
    pub tls_handshake_rate: Option<u32>,
    /// Reverse proxy whose Forwarded and X-Forwarded-For are believed; an address or a network; may be repeated
    #[arg(long = "trusted-proxy", value_name = "IP[/LENGTH]", help_heading = "TCP and TLS")]
    #[serde(rename = "trusted-proxy", deserialize_with = "one_or_many")]
    pub trusted_proxies: Vec<TrustedProxy>,
    /// Origin whose web pages may use the rendezvous, such as `https://example.org`; may be repeated
    #[arg(long = "allowed-origin", value_name = "ORIGIN", help_heading = "Rendezvous")]
    #[serde(rename = "allowed-origin", deserialize_with = "one_or_many")]
    pub allowed_origins: Vec<String>,

    /// Do not introduce clients that want to punch to each other
    #[arg(long, help_heading = "Rendezvous")]
    pub no_rendezvous: bool,
    /// Sessions of two clients at a time; connections in them at most a fifth more [default: 10000]
    #[arg(long, value_name = "N", help_heading = "Rendezvous")]
    pub max_sessions: Option<usize>,
    /// Sessions that one IPv4 address or IPv6 /56 takes part in [default: 20]
    #[arg(long, value_name = "N", help_heading = "Rendezvous")]
    pub max_sessions_per_host: Option<usize>,
    /// Sessions that one IPv4 /24 or IPv6 /48 takes part in [default: 200]
    #[arg(long, value_name = "N", help_heading = "Rendezvous")]
    pub max_sessions_per_net: Option<usize>,
    /// Rooms at a time, in which up to 32 clients are introduced to each other; 0 = none [default: 256]
    #[arg(long, value_name = "N", help_heading = "Rendezvous")]
    pub max_rooms: Option<usize>,

    /// Do not connect back to clients that ask for it, to test what their NATs do with connections from outside
    #[arg(long, help_heading = "Test sessions")]
    pub no_test_sessions: bool,
    /// Test sessions at a time [default: 2000]
    #[arg(long, value_name = "N", help_heading = "Test sessions")]
    pub max_test_sessions: Option<usize>,
    /// Seconds for which a client may have a connection held before the server says something on it, up to 86400; 0 holds
    /// none [default: 900]
    #[arg(long, value_name = "SECONDS", help_heading = "Test sessions")]
    pub test_hold: Option<u64>,
    /// Do not serve the page that measures the NAT in front of a browser
    #[arg(long, help_heading = "Page for browsers")]
    pub no_page: bool,
    /// UDP port of the page on both addresses; 0 picks a free one [default: one above those of STUN, 3480]
    #[arg(long, value_name = "PORT", help_heading = "Page for browsers")]
    pub page_port: Option<u16>,
    /// Second UDP port of the page on both addresses [default: two above those of STUN, 3481]
    #[arg(long, value_name = "PORT", help_heading = "Page for browsers")]
    pub page_alternate_port: Option<u16>,
    /// Name of this server under which browsers may open the page, besides its addresses and the names in its
    /// certificate; may be repeated
    #[arg(long = "page-name", value_name = "NAME", help_heading = "Page for browsers")]
    #[serde(rename = "page-name", deserialize_with = "one_or_many")]
    pub page_names: Vec<String>,

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

    /// Sources that the public Internet cannot carry (10/8, fc00::/7 and the like): answer or drop them, or drop them
    /// where all addresses of the family are public [default: auto]
    #[arg(long, value_name = "WHAT", help_heading = "Limits")]
    pub bogon_sources: Option<BogonSources>,
    /// Nobody has sent to these addresses in the last 10 minutes before the start, as in a laboratory just made; clients
    /// that ask for receipts are told so
    #[arg(long, help_heading = "Operation")]
    pub unused_before: bool,

    /// UDP workers a family [default: one a core]
    #[arg(long, value_name = "N", help_heading = "Operation")]
    pub workers: Option<usize>,
    /// Datagrams a system call, 1 to 256 [default: 32]
    #[arg(long, value_name = "N", help_heading = "Operation")]
    pub batch: Option<usize>,
    /// Before readiness, ask every endpoint every CHANGE-REQUEST over real sockets; fail if an answer is wrong
    #[arg(long, help_heading = "Operation")]
    pub check: bool,
    /// Serve /metrics, /livez and /readyz over HTTP here; a bare port means 127.0.0.1
    #[arg(long, value_name = "[IP:]PORT", value_parser = admin_address, help_heading = "Operation")]
    #[serde(deserialize_with = "admin_from_file")]
    pub admin: Option<SocketAddr>,
    /// Seconds that open connections get when the server is asked to stop, up to 3600 [default: 5]
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
        fn list<T>(mine: Vec<T>, base: Vec<T>) -> Vec<T> {
            if mine.is_empty() { base } else { mine }
        }
        Self {
            primary: list(self.primary, base.primary),
            alternate: list(self.alternate, base.alternate),
            port: self.port.or(base.port),
            alternate_port: self.alternate_port.or(base.alternate_port),
            advertise: list(self.advertise, base.advertise),
            no_tcp: self.no_tcp || base.no_tcp,
            tls_certificate: self.tls_certificate.or(base.tls_certificate),
            tls_key: self.tls_key.or(base.tls_key),
            tls_port: self.tls_port.or(base.tls_port),
            tls_alternate_port: self.tls_alternate_port.or(base.tls_alternate_port),
            max_connections: self.max_connections.or(base.max_connections),
            max_connections_per_host: self.max_connections_per_host.or(base.max_connections_per_host),
            max_connections_per_net: self.max_connections_per_net.or(base.max_connections_per_net),
            idle_timeout: self.idle_timeout.or(base.idle_timeout),
            tls_handshake_rate: self.tls_handshake_rate.or(base.tls_handshake_rate),
            trusted_proxies: list(self.trusted_proxies, base.trusted_proxies),
            allowed_origins: list(self.allowed_origins, base.allowed_origins),
            no_rendezvous: self.no_rendezvous || base.no_rendezvous,
            max_sessions: self.max_sessions.or(base.max_sessions),
            max_sessions_per_host: self.max_sessions_per_host.or(base.max_sessions_per_host),
            max_sessions_per_net: self.max_sessions_per_net.or(base.max_sessions_per_net),
            max_rooms: self.max_rooms.or(base.max_rooms),
            no_test_sessions: self.no_test_sessions || base.no_test_sessions,
            max_test_sessions: self.max_test_sessions.or(base.max_test_sessions),
            test_hold: self.test_hold.or(base.test_hold),
            no_page: self.no_page || base.no_page,
            page_port: self.page_port.or(base.page_port),
            page_alternate_port: self.page_alternate_port.or(base.page_alternate_port),
            page_names: list(self.page_names, base.page_names),
            host_rate: self.host_rate.or(base.host_rate),
            host_burst: self.host_burst.or(base.host_burst),
            net_rate: self.net_rate.or(base.net_rate),
            net_burst: self.net_burst.or(base.net_burst),
            egress_mbit: self.egress_mbit.or(base.egress_mbit),
            bogon_sources: self.bogon_sources.or(base.bogon_sources),
            unused_before: self.unused_before || base.unused_before,
            workers: self.workers.or(base.workers),
            batch: self.batch.or(base.batch),
            check: self.check || base.check,
            admin: self.admin.or(base.admin),
            drain: self.drain.or(base.drain),
            log: self.log.or(base.log),
            log_format: self.log_format.or(base.log_format),
        }
    }
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
    // The span of a list begins where the list does; the wrong entry is quoted in the message.
    let entry = message.split('\'').nth(1).map(|entry| format!("\"{entry}\""));
    let inside = entry.and_then(|entry| text.get(span.clone())?.find(&entry)).unwrap_or(0);
    let start = (span.start + inside).min(text.len());
    let line = text[..start].matches('\n').count() + 1;
    // The span of a wrong value is the value alone; its key stands before it on the line.
    let whole = text.lines().nth(line - 1).unwrap_or_default();
    match whole.split_once('=') {
        Some((key, _)) if !message.contains(key.trim()) => format!("line {line}: {}: {message}", key.trim()),
        Some(_) | None => format!("line {line}: {message}"),
    }
}
