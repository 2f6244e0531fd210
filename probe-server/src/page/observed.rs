//! What a session has seen of a browser, and what follows from it: mapping, port allocation, the effect of packets that
//! come in first (RFC 4787 sections 4.1, 4.2). Nothing here is sure of what it has not seen.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::{
    nat::{Mapping, PortAllocation, PortPolicy},
    stun::ice::Credentials,
};

use super::{
    filter_test::{Filter, FilterTest},
    message::{Base, CONNECTIONS, HairpinState},
    session::ROLES,
};
use crate::last_heard::Unheard;

/// All of a session.
#[derive(Debug)]
pub(crate) struct Observed {
    pub connections: Vec<Connection>,
    /// By family, in the order of the server's.
    pub paths: Vec<Path>,
    /// How far the connections between external addresses are, and since when.
    pub hairpin: Option<(HairpinState, Duration)>,
    pub started: Duration,
    /// When the browser began to check the first connection.
    pub ready: Option<Duration>,
    pub mapping_since: Option<Duration>,
    pub ended: Duration,
}

/// One connection of the page: one socket a family and interface.
#[derive(Debug, Default)]
pub(crate) struct Connection {
    pub browser: Option<Credentials>,
    pub gathered: bool,
    pub bases: Vec<Base>,
    /// The first check at each endpoint, by family.
    pub seen: [[Option<Seen>; 4]; 2],
}

/// A check that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub from: SocketAddr,
    /// The low 24 bits of PRIORITY, which tell the socket.
    pub tag: u32,
    pub at: Duration,
}

/// What is known over one family.
#[derive(Debug)]
pub(crate) struct Path {
    pub endpoints: [Option<SocketAddr>; 4],
    /// The first check of the connection whose filter is tested, and for how long nothing from that host had come to the
    /// server's other address.
    pub client: Option<(Seen, Unheard)>,
    pub filter: FilterTest,
    pub found: Option<Filter>,
    /// Whether the server sees another address than the browser's own.
    pub translated: Option<bool>,
    /// Whether the page knows that it is being tested.
    pub told: bool,
}

/// Why something is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    NoAlternate,
    /// Not every endpoint was reached.
    Loss,
    /// Whether there is a NAT at all is not known.
    Translation,
    /// RFC 4787 has no class for it.
    NoClass,
    /// There is no NAT.
    NoTranslation,
    /// The mapping depends on the destination, so the question does not arise.
    MovingMapping,
    TooFew,
    /// Some ports were kept and others were not.
    PartlyKept,
}

impl Observed {
    pub(crate) fn new(paths: Vec<Path>, now: Duration) -> Self {
        Self {
            connections: std::iter::repeat_with(Connection::default).take(CONNECTIONS).collect(),
            paths,
            hairpin: None,
            started: now,
            ready: None,
            mapping_since: None,
            ended: now,
        }
    }

    /// Whether waiting would add nothing.
    pub(crate) fn is_complete(&self, now: Duration) -> bool {
        let (filtering, mapping, answered) = ROLES;
        let is_complete = |(family, path): (usize, &Path)| {
            if !path.filter.is_proven() {
                return true;
            }
            let everywhere = |number: usize| {
                let seen = &self.connections[number].seen[family];
                path.endpoints.iter().zip(seen).all(|(end, seen)| end.is_none() || seen.is_some())
            };
            // Of the connections that are answered, each is of one family.
            let is_of_other =
                |number: usize| number - answered < self.paths.len() && number - answered != family;
            let at_primary = |number: usize| self.connections[number].seen[family][0].is_some();
            everywhere(filtering)
                && everywhere(mapping)
                && path.translated.is_some()
                && (answered..CONNECTIONS).filter(|number| !is_of_other(*number)).all(at_primary)
        };
        self.hairpin_deadline().is_some_and(|deadline| now >= deadline)
            && self.paths.iter().enumerate().all(is_complete)
    }

    /// When it is clear whether external addresses reach each other; none as long as nothing has been tried.
    pub(crate) fn hairpin_deadline(&self) -> Option<Duration> {
        let (state, since) = self.hairpin?;
        Some(if state == HairpinState::Trying { since + HAIRPIN_TIMEOUT } else { since })
    }

    /// Whether any check has come over any family.
    pub(crate) fn any_contact(&self) -> bool {
        self.paths.iter().any(|path| path.client.is_some())
    }

    /// Mapping behaviour (RFC 4787 section 4.1).
    pub(crate) fn mapping(&self, family: usize) -> Result<Mapping, Missing> {
        let path = &self.paths[family];
        if path.endpoints.iter().any(Option::is_none) {
            return Err(Missing::NoAlternate);
        }
        let seen = self.connections[ROLES.1].seen[family].map(|seen| seen.map(|seen| seen.from));
        let [Some(a1p1), Some(a1p2), Some(a2p1), Some(a2p2)] = seen else { return Err(Missing::Loss) };
        let by_address = a1p1 == a1p2 && a2p1 == a2p2;
        let by_port = a1p1 == a2p1 && a1p2 == a2p2;
        let moved = BTreeSet::from([a1p1, a1p2, a2p1, a2p2]).len();
        match (by_address, by_port, moved) {
            (true, true, _) => match self.is_translated(family) {
                Some(true) => Ok(Mapping::EndpointIndependent),
                Some(false) => Ok(Mapping::Direct),
                None => Err(Missing::Translation),
            },
            (true, false, _) => Ok(Mapping::AddressDependent),
            (false, true, _) => Ok(Mapping::PortDependent),
            (false, false, 4) => Ok(Mapping::AddressAndPortDependent),
            (false, false, _) => Err(Missing::NoClass),
        }
    }

    /// Whether a NAT stands in between: by the browser's statistics, or because a port was changed.
    pub(crate) fn is_translated(&self, family: usize) -> Option<bool> {
        let samples = self.samples(family);
        let is_changed = samples.iter().any(|(local, external)| *local != external.port());
        let seen = self.paths[family].client?.0.from.ip();
        match self.paths[family].translated {
            // No NAT is in the way to this very machine, though browsers have no candidate there.
            _ if seen.is_loopback() => Some(false),
            // On a private network it may be another address of a host that has several.
            Some(true) if is_private(seen) && !is_changed => None,
            Some(is_translated) => Some(is_translated),
            None => is_changed.then_some(true),
        }
    }

    /// Every address under which the mapping connection was seen, without repeats.
    pub(crate) fn external(&self, family: usize) -> Vec<SocketAddr> {
        let connection = &self.connections[ROLES.1].seen[family];
        let mut external: Vec<SocketAddr> = Vec::new();
        for from in connection.iter().flatten().map(|seen| seen.from) {
            if !external.contains(&from) {
                external.push(from);
            }
        }
        if external.is_empty() {
            external.extend(self.paths[family].client.map(|(seen, _)| seen.from));
        }
        external
    }

    /// Whether packets that came in first changed the mapping towards their sender: the connection that got checks from
    /// everywhere before it sent there is seen under other addresses, though the mapping depends on no destination.
    pub(crate) fn inbound_first_remap(&self, family: usize) -> Result<bool, Missing> {
        match self.mapping(family) {
            Ok(Mapping::EndpointIndependent) => {}
            Ok(Mapping::Direct) => return Err(Missing::NoTranslation),
            Ok(_) => return Err(Missing::MovingMapping),
            Err(missing) => return Err(missing),
        }
        let seen = self.connections[ROLES.0].seen[family].map(|seen| seen.map(|seen| seen.from));
        let Some(first) = seen[0] else { return Err(Missing::Loss) };
        if seen.iter().flatten().any(|from| *from != first) {
            return Ok(true);
        }
        if seen.iter().any(Option::is_none) { Err(Missing::Loss) } else { Ok(false) }
    }

    /// How external ports are chosen (RFC 4787 section 4.2): local and external port of one connection after the other.
    pub(crate) fn ports(&self, family: usize) -> Result<PortAllocation, Missing> {
        match self.is_translated(family) {
            Some(false) => return Err(Missing::NoTranslation),
            None => return Err(Missing::Translation),
            Some(true) => {}
        }
        let samples = self.samples(family);
        if samples.len() < FEWEST_SAMPLES {
            return Err(Missing::TooFew);
        }
        let external: Vec<u16> = samples.iter().map(|(_, external)| external.port()).collect();
        let kept = samples.iter().filter(|(local, external)| *local == external.port()).count();
        let (low, high) =
            (external.iter().min().copied().unwrap_or(0), external.iter().max().copied().unwrap_or(0));
        let (policy, delta, range) = match kept {
            n if n == samples.len() => (PortPolicy::Preserving, None, (1024, 65535)),
            0 => {
                let (policy, delta) = policy(&external)?;
                (policy, delta, if policy == PortPolicy::Random { (1024, 65535) } else { (low, high) })
            }
            // With a port in every sixty thousand one may be kept by chance.
            1 if policy(&external)?.0 == PortPolicy::Random => (PortPolicy::Random, None, (1024, 65535)),
            _ => return Err(Missing::PartlyKept),
        };
        let ips: BTreeSet<_> = samples.iter().map(|(_, external)| external.ip()).collect();
        Ok(PortAllocation {
            policy,
            delta,
            range,
            external_ips: ips.len() as u32,
            external_ip_by_destination: None,
            parity: None,
            cross_traffic_per_s: None,
        })
    }

    /// Local port and external address of each connection at the endpoint that all of them contact first, in the order in
    /// which they were seen there.
    pub(crate) fn samples(&self, family: usize) -> Vec<(u16, SocketAddr)> {
        let mut samples: Vec<(Duration, u16, SocketAddr)> = self
            .connections
            .iter()
            .filter_map(|connection| {
                let seen = connection.seen[family][0]?;
                let base = connection.bases.iter().find(|base| base.priority & 0x00ff_ffff == seen.tag)?;
                Some((seen.at, base.port, seen.from))
            })
            .collect();
        samples.sort_by_key(|(at, ..)| *at);
        samples.into_iter().map(|(_, local, external)| (local, external)).collect()
    }
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

impl Path {
    pub(crate) const fn new(endpoints: [Option<SocketAddr>; 4], filter: FilterTest) -> Self {
        Self { endpoints, client: None, filter, found: None, translated: None, told: false }
    }
}

/// Two connections that can reach each other do so after one round trip; in this time each sends a dozen checks.
const HAIRPIN_TIMEOUT: Duration = Duration::from_millis(1300);
/// Fewer mappings tell nothing of how ports are chosen.
const FEWEST_SAMPLES: usize = 6;
/// A step to the next port of a sequential NAT, other hosts' mappings in between included.
const LARGEST_STEP: u16 = 8;
/// Random ports of the whole range spread wider than this: eight of them do not with chance 10^-6.
const WIDE: u16 = 8192;
/// Ports of one block are closer than this.
const BLOCK: u16 = 2048;

/// The policy behind ports of which none was kept, in the order of the mappings.
fn policy(external: &[u16]) -> Result<(PortPolicy, Option<i32>), Missing> {
    let mut sorted = external.to_vec();
    sorted.sort_unstable();
    let steps: Vec<u16> = sorted.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let spread = steps.iter().map(|step| u32::from(*step)).sum::<u32>();
    let least = steps.iter().min().copied().unwrap_or(0);
    let in_order = |by: fn(&[u16]) -> bool| external.windows(2).all(by);
    let rises = in_order(|pair| pair[0] < pair[1]);
    let falls = in_order(|pair| pair[0] > pair[1]);
    if least > 0 && steps.iter().all(|step| *step <= LARGEST_STEP && step % least == 0) {
        let delta = i32::from(least);
        return Ok((PortPolicy::Sequential, Some(if falls { -delta } else { delta })));
    }
    if spread > u32::from(WIDE) && !rises && !falls {
        return Ok((PortPolicy::Random, None));
    }
    // Ports that follow each other with much in between are no block.
    if spread < u32::from(BLOCK) && !rises && !falls {
        return Ok((PortPolicy::Block, None));
    }
    Err(Missing::TooFew)
}
