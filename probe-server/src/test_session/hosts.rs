//! What each host (IPv4 address, IPv6 /56) has had lately: connects, named ports, and what is under way. Sessions come and go;
//! this is what they share.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use shared::test_session::{
    CONNECTS_AT_ONCE, CONNECTS_IN_FLIGHT, Decline, HELD_CONNECTIONS, NAMED_PORTS_PER_HOUR,
};

use crate::prefix::Prefix;

/// The hosts that anything is known of.
#[derive(Debug, Default)]
pub(super) struct Hosts(HashMap<Prefix, Host>);

/// One of them.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// When its connects so far have been had at their rate (GCRA).
    had: Duration,
    /// Ports that it named, and when last.
    named: Vec<(u16, Duration)>,
    connects: usize,
    held: usize,
}

/// One connect in so much time.
const CONNECT_INTERVAL: Duration = Duration::from_secs(1);
/// For how long a named port counts.
const PORT_MEMORY: Duration = Duration::from_secs(3600);
/// Hosts that are looked through for those that nothing is known of any more when there are more.
const MANY_HOSTS: usize = 4096;
/// Hosts in all; a further one has to wait.
const MAX_HOSTS: usize = 100_000;

impl Hosts {
    /// This host, if there is room to know of it.
    pub(super) fn get(&mut self, ip: IpAddr, now: Duration) -> Result<&mut Host, Decline> {
        let prefix = Prefix::host(ip);
        if self.0.len() >= MANY_HOSTS && !self.0.contains_key(&prefix) {
            self.0.retain(|_, host| host.is_known(now));
            if self.0.len() >= MAX_HOSTS {
                return Err(Decline::Busy);
            }
        }
        Ok(self.0.entry(prefix).or_default())
    }

    /// A connect of this host is over.
    pub(super) fn end_connect(&mut self, ip: IpAddr) {
        if let Some(host) = self.0.get_mut(&Prefix::host(ip)) {
            host.connects = host.connects.saturating_sub(1);
        }
    }

    /// A held connection of this host is over.
    pub(super) fn end_hold(&mut self, ip: IpAddr) {
        if let Some(host) = self.0.get_mut(&Prefix::host(ip)) {
            host.held = host.held.saturating_sub(1);
        }
    }
}

impl Host {
    /// Whether it may have `cost` connects now.
    pub(super) fn check_connects(&self, cost: u32, now: Duration) -> Result<(), Decline> {
        if self.connects >= CONNECTS_IN_FLIGHT {
            return Err(Decline::Busy);
        }
        let had = self.had.max(now) + CONNECT_INTERVAL * cost;
        if had > now + CONNECT_INTERVAL * CONNECTS_AT_ONCE { Err(Decline::TooFast) } else { Ok(()) }
    }

    /// Whether it may name this port.
    pub(super) fn check_port(&mut self, port: u16, now: Duration) -> Result<(), Decline> {
        self.named.retain(|(_, last)| now < *last + PORT_MEMORY);
        let is_known = self.named.iter().any(|(named, _)| *named == port);
        if is_known || self.named.len() < NAMED_PORTS_PER_HOUR { Ok(()) } else { Err(Decline::PortsTooFast) }
    }

    /// It has had a connect that costs so much, and that begins now.
    pub(super) fn begin_connect(&mut self, cost: u32, now: Duration) {
        self.had = self.had.max(now) + CONNECT_INTERVAL * cost;
        self.connects += 1;
    }

    /// It has named this port.
    pub(super) fn name_port(&mut self, port: u16, now: Duration) {
        match self.named.iter_mut().find(|(named, _)| *named == port) {
            Some((_, last)) => *last = now,
            None => self.named.push((port, now)),
        }
    }

    /// It has one more connection held, if it may.
    pub(super) fn begin_hold(&mut self) -> Result<(), Decline> {
        if self.held >= HELD_CONNECTIONS {
            return Err(Decline::Busy);
        }
        self.held += 1;
        Ok(())
    }

    fn is_known(&self, now: Duration) -> bool {
        self.connects > 0
            || self.held > 0
            || self.had > now
            || self.named.iter().any(|(_, last)| now < *last + PORT_MEMORY)
    }
}
