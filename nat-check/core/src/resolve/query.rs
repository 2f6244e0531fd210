//! A probe server as the user gave it: a host name or an address, with or without a port.

use std::net::IpAddr;

/// A server as the user gave it, read but not looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub(super) given: String,
    pub(super) host: Host,
    pub(super) port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Host {
    Address(IpAddr),
    Name(String),
}

/// A server that is neither a name nor an address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MalformedQuery {
    /// Nothing there.
    #[error("no host")]
    NoHost,
    /// A port that is none.
    #[error("`{0}` is not a port (1 to 65535)")]
    Port(String),
    /// A host that is none.
    #[error("`{0}` is neither a host name nor an IP address")]
    Host(String),
    /// A URL or the like.
    #[error("give HOST or HOST:PORT, without `{0}`")]
    Decoration(String),
}

impl Query {
    /// Reads a host or an IP address, with or without a port; an IPv6 address with a port is in brackets.
    ///
    /// # Errors
    /// Where it is none of these.
    pub fn parse(given: &str) -> Result<Self, MalformedQuery> {
        for scheme in ["stun://", "stun:", "stuns:", "udp://", "https://", "http://"] {
            if given.starts_with(scheme) {
                return Err(MalformedQuery::Decoration(scheme.into()));
            }
        }
        let (host, port) = split(given)?;
        let host = if let Ok(ip) = host.parse::<IpAddr>() {
            Host::Address(ip)
        } else if is_name(host) {
            Host::Name(host.trim_end_matches('.').to_ascii_lowercase())
        } else if host.is_empty() {
            return Err(MalformedQuery::NoHost);
        } else {
            return Err(MalformedQuery::Host(host.into()));
        };
        Ok(Self { given: given.to_owned(), host, port: port.map(parse_port).transpose()? })
    }

    /// What the user gave.
    #[must_use]
    pub fn given(&self) -> &str {
        &self.given
    }

    /// The same host with another port, or with none.
    #[must_use]
    pub fn at_port(&self, port: Option<u16>) -> Self {
        Self { port, ..self.clone() }
    }

    /// The port, where one was given.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The name or address alone: whose certificate a server has to show.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Address(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// The address, where it is one.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        match self.host {
            Host::Address(ip) => Some(ip),
            Host::Name(_) => None,
        }
    }
}

/// Host and port; an IPv6 address has a port only behind brackets.
fn split(given: &str) -> Result<(&str, Option<&str>), MalformedQuery> {
    if let Some(rest) = given.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or_else(|| MalformedQuery::Host(given.into()))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(MalformedQuery::Host(given.into())),
        };
    }
    match given.split_once(':') {
        Some((host, port)) if !port.contains(':') => Ok((host, Some(port))),
        Some(_) | None => Ok((given, None)),
    }
}

fn parse_port(text: &str) -> Result<u16, MalformedQuery> {
    text.parse().ok().filter(|port| *port != 0).ok_or_else(|| MalformedQuery::Port(text.into()))
}

/// Whether this can be a name in the DNS (RFC 1123 section 2.1; underscores are common enough). What looks like an
/// IPv4 address and is none would otherwise be looked up as a name.
fn is_name(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let numeric = host.rsplit('.').next().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(label) && !numeric
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        let read = |s: &str| Query::parse(s).map(|q| (q.literal().map(|ip| ip.to_string()), q.port));
        assert_eq!(read("192.0.2.1"), Ok((Some("192.0.2.1".into()), None)));
        assert_eq!(read("192.0.2.1:5"), Ok((Some("192.0.2.1".into()), Some(5))));
        assert_eq!(read("2001:db8::1"), Ok((Some("2001:db8::1".into()), None)));
        assert_eq!(read("[2001:db8::1]"), Ok((Some("2001:db8::1".into()), None)));
        assert_eq!(read("[2001:db8::1]:5"), Ok((Some("2001:db8::1".into()), Some(5))));
        assert_eq!(read("stun.example.org"), Ok((None, None)));
        assert_eq!(read("stun.example.org.:5"), Ok((None, Some(5))));
    }

    #[test]
    fn what_is_neither_is_refused_by_name() {
        for (given, wanted) in [
            ("", "no host"),
            (":3478", "no host"),
            ("example.org:", "`` is not a port"),
            ("example.org:0", "`0` is not a port"),
            ("example.org:65536", "65536"),
            ("192.0.2.300", "192.0.2.300"),
            ("two words", "two words"),
            ("-x.example", "-x.example"),
            ("[::1", "[::1"),
            ("[::1]5", "[::1]5"),
            ("stun:example.org", "without `stun:`"),
        ] {
            let message = Query::parse(given).unwrap_err().to_string();
            assert!(message.contains(wanted), "{given:?} gives {message:?}");
        }
    }
}
