//! A NAT as a pure state machine: packets and `now` go in, verdicts come out (RFC 4787, RFC 5382).
//!
//! [`NatSpec`] is the configuration, [`Nat`] the state. Three drivers of the laboratory use this one model: the simulated
//! network in virtual time, the user-space NAT between network namespaces, and the kernel's NAT, which is configured from the
//! same spec and compared with [`NatSpec::behaviour`]. The same spec, seed and packets give the same verdicts.

mod expect;
mod opened;
mod packet;
mod port_mapping;
mod ports;
pub mod spec;
mod stack;
mod syntax;
mod table;
#[cfg(test)]
mod tests;
mod timers;

use std::{
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use expect::{Behaviour, TcpBehaviour, UdpBehaviour};
pub use packet::{Answer, DropReason, Fragment, Packet, Protocol, Refused, TcpFlags, Verdict};
pub use spec::NatSpec;
pub use stack::Stack;
pub use syntax::{KEYS, Key, PRESETS, Preset, SpecError};

use crate::nat::{Filtering, Mapping};
use opened::Opened;
use packet::{rewrite_address, rewrite_mapped};
use ports::Allocator;
use spec::{Alg, Fragments, Hairpin, Keying, Pooling, Refusal, Rules, Scope, Tracking};
use table::{Binding, Map, Owner, Table, any_endpoint, by_filter, by_mapping};
use timers::{Clock, Direction};

/// A NAT with its state.
#[derive(Debug)]
pub struct Nat {
    spec: NatSpec,
    external: Vec<IpAddr>,
    table: Table,
    /// Ports of UDP and of TCP are chosen apart.
    ports: [Allocator; 2],
    /// The external address that each internal host was paired with.
    paired: Map<IpAddr, usize>,
    /// Ports that hosts had opened by PCP or NAT-PMP.
    opened: Opened,
    /// First fragments seen: the fragments that follow them may pass.
    fragments: Map<(IpAddr, IpAddr, u32), ()>,
    rng: fastrand::Rng,
    /// Spreads flows over several Internet connections.
    flow_hash: BuildHasherDefault<DefaultHasher>,
}

impl Nat {
    /// A NAT with these external addresses. A family without one is not translated, only filtered, so that one spec
    /// describes a router's NAT for IPv4 and its firewall for IPv6. Only the first [`spec::Pool::ips`] of a family are used.
    #[must_use]
    pub fn new(spec: NatSpec, external: &[IpAddr], seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limit = usize::from(spec.pool.ips);
        let family = |v4: bool| external.iter().copied().filter(move |ip| ip.is_ipv4() == v4).take(limit);
        let external = family(true).chain(family(false)).collect();
        // Both begin where a NAT without TCP would.
        let tcp = Allocator::new(spec.ports.clone(), &mut rng.clone());
        let ports = [Allocator::new(spec.ports.clone(), &mut rng), tcp];
        Self {
            table: Table::new(spec.timers, spec.ports.hold),
            spec,
            external,
            ports,
            paired: Map::default(),
            opened: Opened::default(),
            fragments: Map::default(),
            rng,
            flow_hash: BuildHasherDefault::default(),
        }
    }

    /// The same NAT, switched on just now: it has lost its state, and may have become another one.
    #[must_use]
    pub fn restarted(spec: NatSpec, external: &[IpAddr], seed: u64, now: Duration) -> Self {
        Self { opened: Opened::since(now), ..Self::new(spec, external, seed) }
    }

    /// Its configuration.
    #[must_use]
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// The external addresses that it uses.
    #[must_use]
    pub fn external(&self) -> &[IpAddr] {
        &self.external
    }

    /// Number of mappings that have not expired; of flows with [`Tracking::Flow`].
    #[must_use]
    pub fn mappings(&self, now: Duration) -> usize {
        self.table.live(now)
    }

    /// Number of mappings made since the start; of flows with [`Tracking::Flow`].
    #[must_use]
    pub fn made(&self) -> u64 {
        self.table.made()
    }

    /// A packet from inside. `now` is the time since the start and never goes back.
    pub fn outbound(&mut self, mut packet: Packet, now: Duration) -> Verdict {
        let rules = self.spec.rules(packet.protocol);
        if let Some(reason) = self.rejects(rules, &packet) {
            return Verdict::Drop(reason);
        }
        let hairpin = self.external.contains(&packet.destination.ip());
        if hairpin && self.spec.hairpin == Hairpin::Off {
            return Verdict::Drop(DropReason::NoHairpin);
        }
        if hairpin && self.spec.hairpin == Hairpin::InternalSource {
            return self.accept_inbound(packet, now, false).hairpinned();
        }
        if self.is_open(rules, packet.source.ip()) {
            return Verdict::Forward(packet);
        }
        let inside = packet.source;
        let flow = (packet.protocol, inside, packet.destination);
        packet.source = match self.opened.outward(flow, self.opens_both_directions(rules.mapping), now) {
            Some(outside) => outside,
            None => match self.binding_for(rules, &packet, now) {
                Ok(slot) => {
                    self.permit(rules, slot, &packet, now);
                    self.table[slot].outside
                }
                Err(reason) => return Verdict::Drop(reason),
            },
        };
        if self.spec.alg == Alg::Addresses && inside.ip() != packet.source.ip() {
            rewrite_address(&mut packet.payload, inside.ip(), packet.source.ip());
        }
        if hairpin { self.accept_inbound(packet, now, true).hairpinned() } else { Verdict::Forward(packet) }
    }

    /// A packet from outside.
    pub fn inbound(&mut self, packet: Packet, now: Duration) -> Verdict {
        if let Some(reason) = self.rejects(self.spec.rules(packet.protocol), &packet) {
            return Verdict::Drop(reason);
        }
        self.accept_inbound(packet, now, true)
    }

    /// The internal endpoint that packets from `remote` to the external endpoint `outside` are for, as a driver needs it to
    /// deliver ICMP errors. No timer restarts.
    pub fn inside_of(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> Option<SocketAddr> {
        match self.table.find_outside(protocol, outside, self.shared(remote), now) {
            Some(slot) => (!self.table[slot].from_outside).then_some(self.table[slot].inside),
            None => {
                let is_open = self.is_open(self.spec.rules(protocol), outside.ip());
                self.opened.at(protocol, outside).or(is_open.then_some(outside))
            }
        }
    }

    /// The external endpoint that packets of the internal endpoint `inside` come from, as a driver needs it to send ICMP errors
    /// about packets that came in. No timer restarts.
    pub fn outside_of(
        &mut self,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> Option<SocketAddr> {
        if let Some(outside) = self.opened.outward((protocol, inside, remote), false, now) {
            return Some(outside);
        }
        let outsides = self.table.outsides_of(protocol, inside, now);
        let shared = self.shared(remote);
        let table = &mut self.table;
        let serves = |outside: &&SocketAddr| table.find_outside(protocol, **outside, shared, now).is_some();
        match outsides.iter().find(serves) {
            Some(outside) => Some(*outside),
            None => self.is_open(self.spec.rules(protocol), inside.ip()).then_some(inside),
        }
    }

    fn rejects(&mut self, rules: Rules, packet: &Packet) -> Option<DropReason> {
        if rules.blocked {
            return Some(DropReason::Blocked);
        }
        let fragment = packet.fragment?;
        let key = (packet.source.ip(), packet.destination.ip(), fragment.id);
        match self.spec.fragments {
            Fragments::Pass => None,
            Fragments::Drop => Some(DropReason::Fragment),
            Fragments::InOrder if fragment.first => {
                self.fragments.insert(key, ());
                None
            }
            Fragments::InOrder => (!self.fragments.contains_key(&key)).then_some(DropReason::Fragment),
        }
    }

    fn accept_inbound(&mut self, mut packet: Packet, now: Duration, filtered: bool) -> Verdict {
        let rules = self.spec.rules(packet.protocol);
        let slot =
            self.table.find_outside(packet.protocol, packet.destination, self.shared(packet.source), now);
        // Also where a port is opened afterwards, as with Linux: who knocked before it stays outside.
        if let Some(slot) = slot.filter(|slot| self.table[*slot].from_outside) {
            self.touch(slot, &packet, Direction::Outbound, now);
            return self.reject(packet, DropReason::NoMapping);
        }
        let outside = packet.destination;
        match slot.filter(|slot| !filtered || self.admits(rules, *slot, &packet, now)) {
            Some(slot) => {
                self.touch(slot, &packet, Direction::Inbound, now);
                if self.spec.tracking == Tracking::Mapping && rules.mapping != Mapping::EndpointIndependent {
                    self.table.note_inbound(slot, packet.source);
                }
                packet.destination = self.table[slot].inside;
            }
            None => match self.through_opened(&packet, now) {
                Some(inside) => packet.destination = inside,
                None if slot.is_some() => return self.reject(packet, DropReason::Filtered),
                None => return self.unsolicited(rules, packet, now),
            },
        }
        match self.spec.alg {
            Alg::Addresses if outside.ip() != packet.destination.ip() => {
                rewrite_address(&mut packet.payload, outside.ip(), packet.destination.ip());
            }
            Alg::Stun => rewrite_mapped(&mut packet.payload, outside, packet.destination),
            Alg::Off | Alg::Addresses => {}
        }
        Verdict::Forward(packet)
    }

    /// Who a packet from outside is for because of a port that was opened at request.
    fn through_opened(&mut self, packet: &Packet, now: Duration) -> Option<SocketAddr> {
        self.opened.advance(self.spec.port_mapping.restarts, now);
        let flow = (packet.protocol, packet.destination, packet.source);
        self.opened.inward(flow, &self.spec.timers, now)
    }

    /// An inbound packet that belongs to no mapping.
    fn unsolicited(&mut self, rules: Rules, packet: Packet, now: Duration) -> Verdict {
        let ours = self.external.contains(&packet.destination.ip());
        if !ours && self.is_open(rules, packet.destination.ip()) {
            return Verdict::Forward(packet);
        }
        if ours && self.spec.inbound_first {
            let mut clock = Clock::new(now, self.extra());
            clock.touch(Direction::Outbound, &packet, &self.spec, now);
            self.table.insert(Binding {
                serial: 0,
                protocol: packet.protocol,
                inside: packet.source,
                key: packet.destination,
                outside: packet.destination,
                remote: packet.source,
                clock,
                from_outside: true,
            });
        }
        self.reject(packet, DropReason::NoMapping)
    }

    fn reject(&self, packet: Packet, reason: DropReason) -> Verdict {
        let refused = match self.spec.unsolicited_syn {
            Refusal::Reset => Refused::Reset,
            Refusal::Unreachable => Refused::Unreachable,
            Refusal::Drop => return Verdict::Drop(reason),
        };
        if packet.protocol == Protocol::Tcp && packet.tcp.syn && !packet.tcp.ack {
            return Verdict::Answer {
                answer: Answer { refused, about: packet },
                after: self.spec.refuse_after,
            };
        }
        Verdict::Drop(reason)
    }

    /// Whether packets of this internal address pass unchanged in both directions.
    fn is_open(&self, rules: Rules, inside: IpAddr) -> bool {
        rules.filtering == Filtering::EndpointIndependent && !self.translates(rules, inside)
    }

    fn translates(&self, rules: Rules, inside: IpAddr) -> bool {
        rules.mapping != Mapping::Direct && self.external.iter().any(|ip| ip.is_ipv4() == inside.is_ipv4())
    }

    /// The part of the remote endpoint that distinguishes bindings with the same external port.
    fn shared(&self, remote: SocketAddr) -> SocketAddr {
        if self.spec.tracking == Tracking::Flow || self.spec.ports.overload { remote } else { any_endpoint() }
    }

    /// The binding for a packet from inside: the existing one, or a new one.
    fn binding_for(&mut self, rules: Rules, packet: &Packet, now: Duration) -> Result<usize, DropReason> {
        let Packet { protocol, source, destination, .. } = *packet;
        let translates = self.translates(rules, source.ip());
        let connection = self.connection(source, destination);
        let keyed_by = |mapping| match self.spec.tracking {
            Tracking::Flow => destination,
            Tracking::Mapping if !translates => any_endpoint(),
            Tracking::Mapping => by_mapping(mapping, destination, connection),
        };
        if let Some(slot) = self.table.session_of(protocol, source, destination, now) {
            self.touch(slot, packet, Direction::Outbound, now);
            return Ok(slot);
        }
        let mut key = keyed_by(rules.mapping);
        if let Some(slot) = self.table.find_inside(protocol, source, key, now) {
            self.touch(slot, packet, Direction::Outbound, now);
            return Ok(slot);
        }
        if let Some(change) = self.spec.change
            && self.table.mappings_of(source.ip(), now) >= change.after
        {
            key = keyed_by(change.mapping);
            if let Some(slot) = self.table.find_inside(protocol, source, key, now) {
                self.touch(slot, packet, Direction::Outbound, now);
                return Ok(slot);
            }
        }
        if protocol == Protocol::Tcp && !packet.tcp.syn {
            return Err(DropReason::NoMapping);
        }
        if self.spec.quota.is_some_and(|quota| self.table.mappings_of(source.ip(), now) >= quota) {
            return Err(DropReason::Quota);
        }
        if let Some(keeps) = self.spec.keeps {
            while self.table.mappings_of(source.ip(), now) >= keeps.max(1) {
                self.table.end_oldest(source.ip());
            }
        }
        let outside =
            if translates { self.allocate(rules, packet, now).ok_or(DropReason::Exhausted)? } else { source };
        let mut clock = Clock::new(now, self.extra());
        clock.touch(Direction::Outbound, packet, &self.spec, now);
        self.table.clean_up(now);
        Ok(self.table.insert(Binding {
            serial: 0,
            protocol,
            inside: source,
            key,
            outside,
            remote: self.shared(destination),
            clock,
            from_outside: false,
        }))
    }

    fn allocate(&mut self, rules: Rules, packet: &Packet, now: Duration) -> Option<SocketAddr> {
        let Packet { protocol, source, destination, .. } = *packet;
        let shared = self.shared(destination);
        let fixed = (self.spec.pool.pooling == Pooling::Flow).then(|| self.pool_address(source, destination));
        if self.spec.tracking == Tracking::Flow && rules.mapping == Mapping::EndpointIndependent {
            // An internal endpoint keeps one external endpoint as long as no other flow conflicts.
            for outside in self.table.outsides_of(protocol, source, now) {
                let fits = fixed.is_none_or(|ip| ip == Some(outside.ip()));
                if fits && self.table.is_free(protocol, outside, shared, now) {
                    return Some(outside);
                }
            }
        }
        let ip = fixed.unwrap_or_else(|| self.pool_address(source, destination))?;
        let (table, opened) = (&mut self.table, &self.opened);
        let port = self.ports[usize::from(protocol == Protocol::Tcp)].pick(
            source,
            ip,
            now,
            &mut self.rng,
            |port| {
                let outside = SocketAddr::new(ip, port);
                let is_others = opened.at(protocol, outside).is_some_and(|inside| inside != source);
                !is_others && table.is_free_and_rested(protocol, outside, shared, now)
            },
        )?;
        Some(SocketAddr::new(ip, port))
    }

    fn pool_address(&mut self, inside: SocketAddr, remote: SocketAddr) -> Option<IpAddr> {
        let pool: Vec<IpAddr> =
            self.external.iter().copied().filter(|ip| ip.is_ipv4() == inside.is_ipv4()).collect();
        let at = match self.spec.pool.pooling {
            _ if pool.len() < 2 => 0,
            Pooling::Paired => {
                *self.paired.entry(inside.ip()).or_insert_with(|| self.rng.usize(..pool.len()))
            }
            Pooling::Arbitrary => self.rng.usize(..pool.len()),
            Pooling::Destination => match remote.ip() {
                IpAddr::V4(ip) => ip.to_bits() as usize % pool.len(),
                IpAddr::V6(ip) => ip.to_bits() as usize % pool.len(),
            },
            Pooling::Flow => usize::from(self.connection(inside, remote)),
        };
        pool.get(at).copied()
    }

    /// Which of several Internet connections a flow leaves over.
    fn connection(&self, inside: SocketAddr, remote: SocketAddr) -> u8 {
        let count = self.external.iter().filter(|ip| ip.is_ipv4() == inside.is_ipv4()).count() as u64;
        if self.spec.pool.pooling != Pooling::Flow || count < 2 {
            return 0;
        }
        (self.flow_hash.hash_one((inside, remote)) % count) as u8
    }

    /// Restarts the timer of a binding where the refresh rule allows this packet to.
    fn touch(&mut self, slot: usize, packet: &Packet, direction: Direction, now: Duration) {
        self.table[slot].clock.touch(direction, packet, &self.spec, now);
    }

    /// Creates or refreshes the filter entry for the destination of a packet from inside.
    fn permit(&mut self, rules: Rules, slot: usize, packet: &Packet, now: Duration) {
        if rules.filtering == Filtering::EndpointIndependent || self.spec.tracking == Tracking::Flow {
            return;
        }
        let key = (self.owner(slot), by_filter(rules.filtering, packet.destination));
        let extra = self.extra();
        let clock = self.table.permits.entry(key).or_insert_with(|| Clock::new(now, extra));
        if !clock.alive(now, &self.spec.timers) {
            *clock = Clock::new(now, extra);
        }
        clock.touch(Direction::Outbound, packet, &self.spec, now);
    }

    /// Whether the filter accepts a packet from outside; with per-flow timers that refreshes the flow.
    fn admits(&mut self, rules: Rules, slot: usize, packet: &Packet, now: Duration) -> bool {
        if rules.filtering == Filtering::EndpointIndependent || self.spec.tracking == Tracking::Flow {
            return true;
        }
        let key = (self.owner(slot), by_filter(rules.filtering, packet.source));
        let expires_with_mapping =
            self.spec.keyed == Keying::Mapping && self.spec.timers.scope == Scope::Mapping;
        match self.table.permits.get_mut(&key) {
            Some(clock) if expires_with_mapping || clock.alive(now, &self.spec.timers) => {
                clock.touch(Direction::Inbound, packet, &self.spec, now);
                true
            }
            _ => false,
        }
    }

    fn owner(&self, slot: usize) -> Owner {
        let Binding { serial, protocol, inside, outside, .. } = self.table[slot];
        match self.spec.keyed {
            Keying::Mapping => Owner { protocol, endpoint: outside, serial },
            Keying::Endpoint => Owner { protocol, endpoint: inside, serial: 0 },
            Keying::Host => Owner { protocol, endpoint: SocketAddr::new(inside.ip(), 0), serial: 0 },
        }
    }

    fn extra(&mut self) -> Duration {
        let jitter = self.spec.timers.jitter;
        if jitter.is_zero() { jitter } else { jitter.mul_f64(self.rng.f64()) }
    }
}
