//! A NAT as a pure struct: packets and `now` go in, verdicts come out (RFC 4787, RFC 5382).
//!
//! [`NatSpec`] says what it does, [`Nat`] does it. Three drivers of the laboratory run this one model: the simulated
//! network in virtual time, the user-space NAT between real namespaces, and (as the oracle, see
//! [`NatSpec::behaviour`]) the kernel's NAT. Same spec, same seed, same packets: same verdicts.

mod expect;
mod packet;
mod ports;
pub mod spec;
mod stack;
mod table;
#[cfg(test)]
mod tests;
mod timers;
pub mod words;

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

pub use expect::{Behaviour, UdpBehaviour};
pub use packet::{Answer, DropReason, Fragment, Packet, Protocol, Refused, TcpFlags, Verdict};
pub use spec::NatSpec;
pub use stack::Stack;
pub use words::SpecError;

use crate::nat::{Filtering, Mapping};
use packet::rewrite_address;
use ports::Allocator;
use spec::{Fragments, Hairpin, Keying, Pooling, Refusal, Rules, Scope, Tracking};
use table::{Binding, Map, Owner, Table, by_filter, by_mapping, nobody};
use timers::{Clock, Direction};

/// A NAT at work.
#[derive(Debug)]
pub struct Nat {
    spec: NatSpec,
    external: Vec<IpAddr>,
    table: Table,
    ports: Allocator,
    /// Which external address each inside host was paired with.
    paired: Map<IpAddr, usize>,
    /// First fragments seen: what follows them may pass.
    fragments: Map<(IpAddr, IpAddr, u32), ()>,
    rng: fastrand::Rng,
}

impl Nat {
    /// A NAT with these external addresses. A family without one is not translated, only filtered: so a spec serves
    /// as the IPv6 firewall of the same router. Only the first [`spec::Pool::ips`] of a family are used.
    #[must_use]
    pub fn new(spec: NatSpec, external: &[IpAddr], seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let limit = usize::from(spec.pool.ips);
        let family = |v4: bool| external.iter().copied().filter(move |ip| ip.is_ipv4() == v4).take(limit);
        let external = family(true).chain(family(false)).collect();
        let ports = Allocator::new(spec.ports.clone(), &mut rng);
        Self {
            table: Table::new(spec.timers, spec.ports.hold),
            spec,
            external,
            ports,
            paired: Map::default(),
            fragments: Map::default(),
            rng,
        }
    }

    /// What it does.
    #[must_use]
    pub fn spec(&self) -> &NatSpec {
        &self.spec
    }

    /// The external addresses that it uses.
    #[must_use]
    pub fn external(&self) -> &[IpAddr] {
        &self.external
    }

    /// Number of mappings that are alive; flows with [`Tracking::Flow`].
    #[must_use]
    pub fn mappings(&self, now: Duration) -> usize {
        self.table.live(now)
    }

    /// A packet from the inside. `now` is the time since the start and never goes back.
    pub fn outbound(&mut self, mut packet: Packet, now: Duration) -> Verdict {
        let rules = self.spec.rules(packet.protocol);
        if let Some(reason) = self.refuses(rules, &packet) {
            return Verdict::Drop(reason);
        }
        let hairpin = self.external.contains(&packet.destination.ip());
        if hairpin && self.spec.hairpin == Hairpin::Off {
            return Verdict::Drop(DropReason::NoHairpin);
        }
        if hairpin && self.spec.hairpin == Hairpin::InternalSource {
            return self.let_in(packet, now, false).turned_back();
        }
        if self.is_open(rules, packet.source.ip()) {
            return Verdict::Forward(packet);
        }
        let slot = match self.binding_for(rules, &packet, now) {
            Ok(slot) => slot,
            Err(reason) => return Verdict::Drop(reason),
        };
        self.permit(rules, slot, &packet, now);
        let inside = packet.source;
        packet.source = self.table[slot].outside;
        if self.spec.alg && inside.ip() != packet.source.ip() {
            rewrite_address(&mut packet.payload, inside.ip(), packet.source.ip());
        }
        if hairpin { self.let_in(packet, now, true).turned_back() } else { Verdict::Forward(packet) }
    }

    /// A packet from the outside.
    pub fn inbound(&mut self, packet: Packet, now: Duration) -> Verdict {
        if let Some(reason) = self.refuses(self.spec.rules(packet.protocol), &packet) {
            return Verdict::Drop(reason);
        }
        self.let_in(packet, now, true)
    }

    /// The inside endpoint for which packets from `remote` to the external endpoint `outside` are meant: whom an
    /// ICMP error is for. It looks without touching: no timer restarts.
    pub fn inside_of(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> Option<SocketAddr> {
        match self.table.find_outside(protocol, outside, self.shared(remote), now) {
            Some(slot) => (!self.table[slot].foreign).then_some(self.table[slot].inside),
            None => self.is_open(self.spec.rules(protocol), outside.ip()).then_some(outside),
        }
    }

    fn refuses(&mut self, rules: Rules, packet: &Packet) -> Option<DropReason> {
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

    fn let_in(&mut self, mut packet: Packet, now: Duration, filtered: bool) -> Verdict {
        let rules = self.spec.rules(packet.protocol);
        let Some(slot) =
            self.table.find_outside(packet.protocol, packet.destination, self.shared(packet.source), now)
        else {
            return self.unsolicited(rules, packet, now);
        };
        if self.table[slot].foreign {
            self.touch(slot, &packet, Direction::Outbound, now);
            return self.refuse(packet, DropReason::NoMapping);
        }
        if filtered && !self.admits(rules, slot, &packet, now) {
            return self.refuse(packet, DropReason::Filtered);
        }
        self.touch(slot, &packet, Direction::Inbound, now);
        if self.spec.tracking == Tracking::Mapping && rules.mapping != Mapping::EndpointIndependent {
            self.table.came_in(slot, packet.source);
        }
        let outside = packet.destination;
        packet.destination = self.table[slot].inside;
        if self.spec.alg && outside.ip() != packet.destination.ip() {
            rewrite_address(&mut packet.payload, outside.ip(), packet.destination.ip());
        }
        Verdict::Forward(packet)
    }

    /// No state at all belongs to the packet.
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
                foreign: true,
            });
        }
        self.refuse(packet, DropReason::NoMapping)
    }

    fn refuse(&self, packet: Packet, reason: DropReason) -> Verdict {
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

    /// Whether packets of this inside address pass untouched in both directions.
    fn is_open(&self, rules: Rules, inside: IpAddr) -> bool {
        rules.filtering == Filtering::EndpointIndependent && !self.translates(rules, inside)
    }

    fn translates(&self, rules: Rules, inside: IpAddr) -> bool {
        rules.mapping != Mapping::Direct && self.external.iter().any(|ip| ip.is_ipv4() == inside.is_ipv4())
    }

    /// The part of the remote endpoint by which bindings that share an external port are told apart.
    fn shared(&self, remote: SocketAddr) -> SocketAddr {
        if self.spec.tracking == Tracking::Flow || self.spec.ports.overload { remote } else { nobody() }
    }

    /// The binding for a packet from inside: the one there is, or a new one.
    fn binding_for(&mut self, rules: Rules, packet: &Packet, now: Duration) -> Result<usize, DropReason> {
        let Packet { protocol, source, destination, .. } = *packet;
        let translates = self.translates(rules, source.ip());
        let keyed_by = |mapping| match self.spec.tracking {
            Tracking::Flow => destination,
            Tracking::Mapping if !translates => nobody(),
            Tracking::Mapping => by_mapping(mapping, destination),
        };
        if let Some(slot) = self.table.way_back(protocol, source, destination, now) {
            self.touch(slot, packet, Direction::Outbound, now);
            return Ok(slot);
        }
        let mut key = keyed_by(rules.mapping);
        if let Some(slot) = self.table.find_inside(protocol, source, key, now) {
            self.touch(slot, packet, Direction::Outbound, now);
            return Ok(slot);
        }
        if let Some(change) = self.spec.change
            && self.table.held_by(source.ip(), now) >= change.after
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
        if self.spec.quota.is_some_and(|quota| self.table.held_by(source.ip(), now) >= quota) {
            return Err(DropReason::Quota);
        }
        let outside =
            if translates { self.allocate(rules, packet, now).ok_or(DropReason::Exhausted)? } else { source };
        let mut clock = Clock::new(now, self.extra());
        clock.touch(Direction::Outbound, packet, &self.spec, now);
        self.table.tidy(now);
        Ok(self.table.insert(Binding {
            serial: 0,
            protocol,
            inside: source,
            key,
            outside,
            remote: self.shared(destination),
            clock,
            foreign: false,
        }))
    }

    fn allocate(&mut self, rules: Rules, packet: &Packet, now: Duration) -> Option<SocketAddr> {
        let Packet { protocol, source, destination, .. } = *packet;
        let shared = self.shared(destination);
        if self.spec.tracking == Tracking::Flow && rules.mapping == Mapping::EndpointIndependent {
            // One inside endpoint keeps one external endpoint for as long as no flow of anybody clashes.
            for outside in self.table.outsides_of(protocol, source, now) {
                if self.table.is_free(protocol, outside, shared, now) {
                    return Some(outside);
                }
            }
        }
        let ip = self.pool_address(source.ip(), destination.ip())?;
        let table = &mut self.table;
        let port = self.ports.pick(source, ip, now, &mut self.rng, |port| {
            table.is_free_and_rested(protocol, SocketAddr::new(ip, port), shared, now)
        })?;
        Some(SocketAddr::new(ip, port))
    }

    fn pool_address(&mut self, inside: IpAddr, remote: IpAddr) -> Option<IpAddr> {
        let pool: Vec<IpAddr> =
            self.external.iter().copied().filter(|ip| ip.is_ipv4() == inside.is_ipv4()).collect();
        let at = match self.spec.pool.pooling {
            _ if pool.len() < 2 => 0,
            Pooling::Paired => *self.paired.entry(inside).or_insert_with(|| self.rng.usize(..pool.len())),
            Pooling::Arbitrary => self.rng.usize(..pool.len()),
            Pooling::Destination => match remote {
                IpAddr::V4(ip) => ip.to_bits() as usize % pool.len(),
                IpAddr::V6(ip) => ip.to_bits() as usize % pool.len(),
            },
        };
        pool.get(at).copied()
    }

    /// Restarts the timer of a binding as far as the refresh rule lets this packet do so.
    fn touch(&mut self, slot: usize, packet: &Packet, direction: Direction, now: Duration) {
        self.table[slot].clock.touch(direction, packet, &self.spec, now);
    }

    /// Makes or renews the filter entry for the destination of a packet from inside.
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

    /// Whether the filter lets a packet from outside in; with per-flow timers it restarts that flow's.
    fn admits(&mut self, rules: Rules, slot: usize, packet: &Packet, now: Duration) -> bool {
        if rules.filtering == Filtering::EndpointIndependent || self.spec.tracking == Tracking::Flow {
            return true;
        }
        let key = (self.owner(slot), by_filter(rules.filtering, packet.source));
        let lives_with_mapping =
            self.spec.keyed == Keying::Mapping && self.spec.timers.scope == Scope::Mapping;
        match self.table.permits.get_mut(&key) {
            Some(clock) if lives_with_mapping || clock.alive(now, &self.spec.timers) => {
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
