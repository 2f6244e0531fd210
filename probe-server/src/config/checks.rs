//! Checks settings, without a socket: whatever is missing or impossible is named with its key.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use super::{Config, ConfigError, Family, LOCAL, PageSettings, Settings, Streams, Tls};
use crate::{http::HttpOptions, limits::Limits};

impl Settings {
    /// Checks everything that can be checked without a socket. `local` stands for the loopback addresses.
    ///
    /// # Errors
    /// With the first key whose value is missing or impossible.
    pub fn check(&self, local: bool) -> Result<Config, ConfigError> {
        let families = self.families(local)?;
        let ports =
            (self.port.unwrap_or(shared::stun::PORT), self.alternate_port.unwrap_or(shared::stun::PORT + 1));
        // With one address there is one port, too.
        if families.iter().any(|family| family.alternate.is_some()) {
            distinct_ports("alternate-port", ports)?;
        }
        let tls = self.tls()?;
        if let Some(tls) = &tls {
            let taken = |p: u16| p != 0 && !self.no_tcp && (p == ports.0 || p == ports.1);
            if taken(tls.ports.0) || taken(tls.ports.1) {
                return Err(value("tls-port", "TLS needs ports of its own".into()));
            }
        }
        let defaults = Config::new(families, ports);
        let seconds = |key, given: Option<u64>, default, range| match given {
            Some(seconds) => in_range(key, seconds, range).map(Duration::from_secs),
            None => Ok(default),
        };
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
            most_per_net: self.max_connections_per_net.unwrap_or(defaults.streams.most_per_net),
            handshake_rate: self.tls_handshake_rate.unwrap_or(defaults.streams.handshake_rate),
            idle: seconds("idle-timeout", self.idle_timeout, defaults.streams.idle, 1..=HOUR)?,
            ..defaults.streams
        };
        let sessions = crate::rendezvous::SessionLimits::default();
        let rendezvous = crate::rendezvous::SessionLimits {
            sessions: self.max_sessions.unwrap_or(sessions.sessions),
            per_host: self.max_sessions_per_host.unwrap_or(sessions.per_host),
            per_net: self.max_sessions_per_net.unwrap_or(sessions.per_net),
            rooms: crate::rendezvous::RoomLimits {
                rooms: self.max_rooms.unwrap_or(sessions.rooms.rooms),
                ..sessions.rooms
            },
            ..sessions
        }
        .with_clients();
        let tests = crate::test_session::TestLimits::default();
        let test_sessions = crate::test_session::TestLimits {
            sessions: self.max_test_sessions.unwrap_or(tests.sessions),
            hold: seconds("test-hold", self.test_hold, tests.hold, 0..=DAY)?,
            ..tests
        };
        self.check_advertise(&defaults.families)?;
        self.check_advertised_pairs(&defaults.families)?;
        if self.check
            && let Some(single) = defaults.families.iter().find(|f| f.alternate.is_none())
        {
            let what =
                format!("{} has no alternate address, so there is nothing to change to", single.primary);
            return Err(value("check", what));
        }
        Ok(Config {
            advertise: self.advertise.clone(),
            workers: in_range("workers", self.workers.unwrap_or_else(cores), 1..=MOST_WORKERS)?,
            batch: in_range("batch", self.batch.unwrap_or(defaults.batch), 1..=256)?,
            tcp: !self.no_tcp,
            tls,
            bogon_sources: self.bogon_sources.unwrap_or_default(),
            unused_before: self.unused_before,
            limits,
            streams,
            http: self.http()?,
            page: self.page(ports)?,
            rendezvous: (!self.no_rendezvous).then_some(rendezvous),
            test_sessions: (!self.no_test_sessions).then_some(test_sessions),
            admin: self.admin,
            check: self.check,
            drain: seconds("drain", self.drain, defaults.drain, 0..=HOUR)?,
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
        if families.is_empty() {
            let what = "no address to listen on (for a try on this machine: --local)";
            return Err(value("primary", what.into()));
        }
        Ok(families)
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

    /// The ports above those of STUN, unless others are given.
    fn page(&self, stun: (u16, u16)) -> Result<Option<PageSettings>, ConfigError> {
        // Without a listener for streams nobody can load it.
        if self.no_page || self.no_tcp && self.tls_certificate.is_none() {
            return Ok(None);
        }
        let above = |steps: u16| match stun.0.max(stun.1) {
            0 => Ok(0),
            highest => highest
                .checked_add(steps)
                .ok_or_else(|| value("page-port", "missing, there is no port above those of STUN".into())),
        };
        let or = |given: Option<u16>, steps| given.map_or_else(|| above(steps), Ok);
        let ports = (or(self.page_port, 1)?, or(self.page_alternate_port, 2)?);
        distinct_ports("page-alternate-port", ports)?;
        if let Some(taken) = [ports.0, ports.1].into_iter().find(|p| *p != 0 && [stun.0, stun.1].contains(p))
        {
            return Err(value("page-port", format!("{taken} is a port of STUN")));
        }
        Ok(Some(PageSettings { ports, names: self.page_names.clone() }))
    }

    fn http(&self) -> Result<HttpOptions, ConfigError> {
        // Browsers send an origin without a path (RFC 6454 section 6.2): with one, it would never match.
        let is_origin = |origin: &str| {
            origin.split_once("://").is_some_and(|(scheme, rest)| {
                !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', ' ', '?', '#'])
            })
        };
        match self.allowed_origins.iter().find(|origin| !is_origin(origin)) {
            Some(wrong) => {
                Err(value("allowed-origin", format!("'{wrong}' is no origin such as https://example.org")))
            }
            None => Ok(HttpOptions {
                trusted_proxies: self.trusted_proxies.clone(),
                allowed_origins: self.allowed_origins.clone(),
            }),
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

    /// Two addresses of which only one is translated would send clients to an address that they cannot reach.
    fn check_advertised_pairs(&self, families: &[Family]) -> Result<(), ConfigError> {
        let is_given = |ip| self.advertise.iter().any(|one| one.local == ip);
        for family in families {
            let Some(alternate) = family.alternate else { continue };
            if is_given(family.primary) != is_given(alternate) {
                let given = if is_given(family.primary) { family.primary } else { alternate };
                let what = format!("only {given} is given: behind a 1:1 NAT both addresses have to be");
                return Err(value("advertise", what));
            }
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
    if matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        return Err(value(key, format!("{ip} is valid on one link only")));
    }
    if ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) || v4_mapped {
        return Err(value(key, format!("{ip} is not the address of one host")));
    }
    Ok(())
}

fn distinct_ports(key: &'static str, (first, second): (u16, u16)) -> Result<(), ConfigError> {
    if first == second && first != 0 {
        return Err(value(key, format!("{second} is the first port, too")));
    }
    Ok(())
}

fn in_range<N: PartialOrd + std::fmt::Display>(
    key: &'static str,
    n: N,
    range: std::ops::RangeInclusive<N>,
) -> Result<N, ConfigError> {
    if !range.contains(&n) {
        return Err(value(key, format!("{n} is not between {} and {}", range.start(), range.end())));
    }
    Ok(n)
}

/// The longest that anything waits for, in seconds.
const HOUR: u64 = 3600;
/// The longest that a connection may be held, in seconds.
const DAY: u64 = 24 * HOUR;
/// More threads than this serve nobody.
const MOST_WORKERS: usize = 256;

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS)
}
