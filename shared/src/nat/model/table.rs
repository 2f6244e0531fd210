//! The state of a modelled NAT: bindings, found from either side, and filter entries. What has expired is cleared away
//! when it is met, so no timer runs.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, DefaultHasher},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::{Index, IndexMut},
    time::Duration,
};

use super::{packet::Protocol, spec::Timers, timers::Clock};
use crate::nat::{Filtering, Mapping};

/// A map that hashes the same way in every run.
pub(super) type Map<K, V> = HashMap<K, V, BuildHasherDefault<DefaultHasher>>;

/// An internal endpoint tied to an external one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Binding {
    /// Tells it from earlier ones with the same endpoints; given by [`Table::insert`].
    pub(super) serial: u64,
    pub(super) protocol: Protocol,
    pub(super) inside: SocketAddr,
    /// The part of the destination on which the mapping depends.
    pub(super) key: SocketAddr,
    pub(super) outside: SocketAddr,
    /// The remote endpoint where several bindings may share the external one, else nobody.
    pub(super) remote: SocketAddr,
    pub(super) clock: Clock,
    /// Holds a tuple that an unsolicited packet took.
    pub(super) foreign: bool,
}

/// To whom a filter entry belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Owner {
    pub(super) protocol: Protocol,
    pub(super) endpoint: SocketAddr,
    pub(super) serial: u64,
}

type Key = (Protocol, SocketAddr, SocketAddr);

#[derive(Debug)]
pub(super) struct Table {
    timers: Timers,
    hold: Duration,
    slots: Vec<Option<Binding>>,
    vacant: Vec<usize>,
    inside: Map<Key, usize>,
    outside: Map<Key, usize>,
    /// Slots by inside endpoint, in order of age; serials tell whether they still hold the same binding.
    sources: Map<(Protocol, SocketAddr), Vec<(usize, u64)>>,
    /// By inside and remote endpoint: the binding that the last packet of that remote came in through.
    ways_back: Map<Key, (usize, u64)>,
    held: Map<IpAddr, u32>,
    resting: Map<(Protocol, SocketAddr), Duration>,
    pub(super) permits: Map<(Owner, SocketAddr), Clock>,
    next_serial: u64,
    /// Serial at which everything is looked through, so that memory stays in proportion to what is alive.
    next_sweep: u64,
}

const SWEEP_AT_LEAST: u64 = 1024;

impl Table {
    pub(super) fn new(timers: Timers, hold: Duration) -> Self {
        Self {
            timers,
            hold,
            slots: Vec::new(),
            vacant: Vec::new(),
            inside: Map::default(),
            outside: Map::default(),
            sources: Map::default(),
            ways_back: Map::default(),
            held: Map::default(),
            resting: Map::default(),
            permits: Map::default(),
            next_serial: 1,
            next_sweep: SWEEP_AT_LEAST,
        }
    }

    pub(super) fn find_inside(
        &mut self,
        protocol: Protocol,
        inside: SocketAddr,
        key: SocketAddr,
        now: Duration,
    ) -> Option<usize> {
        let slot = *self.inside.get(&(protocol, inside, key))?;
        self.still_alive(slot, now)
    }

    pub(super) fn find_outside(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> Option<usize> {
        let slot = *self.outside.get(&(protocol, outside, remote))?;
        self.still_alive(slot, now)
    }

    /// Notes that a packet from a remote endpoint came in through this binding: what is sent back to it belongs to
    /// the same session, whatever the mapping would be for a first packet.
    pub(super) fn came_in(&mut self, slot: usize, remote: SocketAddr) {
        let Binding { serial, protocol, inside, .. } = self[slot];
        self.ways_back.insert((protocol, inside, remote), (slot, serial));
    }

    pub(super) fn way_back(
        &mut self,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> Option<usize> {
        let (slot, serial) = *self.ways_back.get(&(protocol, inside, remote))?;
        let same = self.slots[slot].is_some_and(|binding| binding.serial == serial);
        if same { self.still_alive(slot, now) } else { None }
    }

    /// External endpoints of the bindings of an inside endpoint, the youngest first.
    pub(super) fn outsides_of(
        &mut self,
        protocol: Protocol,
        inside: SocketAddr,
        now: Duration,
    ) -> Vec<SocketAddr> {
        let (slots, timers) = (&self.slots, &self.timers);
        let Some(list) = self.sources.get_mut(&(protocol, inside)) else { return Vec::new() };
        let binding = |&(slot, serial): &(usize, u64)| {
            slots[slot].filter(|b| b.serial == serial && b.clock.alive(now, timers))
        };
        list.retain(|entry| binding(entry).is_some());
        let mut found: Vec<SocketAddr> = Vec::new();
        for outside in list.iter().rev().filter_map(binding).map(|b| b.outside) {
            if !found.contains(&outside) {
                found.push(outside);
            }
        }
        found
    }

    pub(super) fn is_free(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> bool {
        self.find_outside(protocol, outside, remote, now).is_none()
    }

    pub(super) fn is_free_and_rested(
        &mut self,
        protocol: Protocol,
        outside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> bool {
        self.is_free(protocol, outside, remote, now)
            && self.resting.get(&(protocol, outside)).is_none_or(|until| now >= *until)
    }

    /// Bindings of an inside host.
    pub(super) fn held_by(&mut self, host: IpAddr, now: Duration) -> u32 {
        if self.held.contains_key(&host) {
            self.clear_expired(now);
        }
        self.held.get(&host).copied().unwrap_or(0)
    }

    pub(super) fn live(&self, now: Duration) -> usize {
        self.slots.iter().flatten().filter(|b| !b.foreign && b.clock.alive(now, &self.timers)).count()
    }

    pub(super) fn insert(&mut self, mut binding: Binding) -> usize {
        binding.serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let Binding { serial, protocol, inside, key, outside, remote, foreign, .. } = binding;
        self.outside.insert((protocol, outside, remote), slot);
        if !foreign {
            self.inside.insert((protocol, inside, key), slot);
            self.sources.entry((protocol, inside)).or_default().push((slot, serial));
            *self.held.entry(inside.ip()).or_default() += 1;
        }
        self.slots[slot] = Some(binding);
        slot
    }

    /// Clears away everything that has expired, once in a while.
    pub(super) fn tidy(&mut self, now: Duration) {
        if self.next_serial < self.next_sweep {
            return;
        }
        self.clear_expired(now);
        let (slots, timers) = (&self.slots, &self.timers);
        self.sources.retain(|_, list| {
            list.retain(|(slot, serial)| slots[*slot].is_some_and(|b| b.serial == *serial));
            !list.is_empty()
        });
        self.ways_back.retain(|_, (slot, serial)| slots[*slot].is_some_and(|b| b.serial == *serial));
        self.resting.retain(|_, until| now < *until);
        let alive: std::collections::HashSet<u64, BuildHasherDefault<DefaultHasher>> =
            slots.iter().flatten().map(|b| b.serial).collect();
        self.permits.retain(|(owner, _), clock| {
            if owner.serial == 0 { clock.alive(now, timers) } else { alive.contains(&owner.serial) }
        });
        self.next_sweep = self.next_serial + (alive.len() as u64).max(SWEEP_AT_LEAST);
    }

    fn still_alive(&mut self, slot: usize, now: Duration) -> Option<usize> {
        if self[slot].clock.alive(now, &self.timers) {
            return Some(slot);
        }
        self.remove(slot);
        None
    }

    fn clear_expired(&mut self, now: Duration) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].is_some_and(|b| !b.clock.alive(now, &self.timers)) {
                self.remove(slot);
            }
        }
    }

    fn remove(&mut self, slot: usize) {
        let Some(binding) = self.slots[slot].take() else { return };
        let Binding { protocol, inside, key, outside, remote, foreign, clock, .. } = binding;
        self.vacant.push(slot);
        self.outside.remove(&(protocol, outside, remote));
        if foreign {
            return;
        }
        self.inside.remove(&(protocol, inside, key));
        if let Some(held) = self.held.get_mut(&inside.ip()) {
            *held = held.saturating_sub(1);
        }
        if !self.hold.is_zero() {
            self.resting.insert((protocol, outside), clock.ends(&self.timers) + self.hold);
        }
    }
}

impl Index<usize> for Table {
    type Output = Binding;

    fn index(&self, slot: usize) -> &Binding {
        self.slots[slot].as_ref().expect("a slot that was found holds a binding")
    }
}

impl IndexMut<usize> for Table {
    fn index_mut(&mut self, slot: usize) -> &mut Binding {
        self.slots[slot].as_mut().expect("a slot that was found holds a binding")
    }
}

/// Stands for any endpoint where the endpoint does not matter.
pub(super) const fn nobody() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

/// The part of a destination on which a mapping depends.
pub(super) fn by_mapping(mapping: Mapping, remote: SocketAddr) -> SocketAddr {
    match mapping {
        Mapping::Direct | Mapping::EndpointIndependent => nobody(),
        Mapping::AddressDependent => SocketAddr::new(remote.ip(), 0),
        Mapping::AddressAndPortDependent => remote,
        Mapping::PortDependent => SocketAddr::new(nobody().ip(), remote.port()),
    }
}

/// The part of a remote endpoint that a filter looks at.
pub(super) fn by_filter(filtering: Filtering, remote: SocketAddr) -> SocketAddr {
    match filtering {
        Filtering::EndpointIndependent => nobody(),
        Filtering::AddressDependent => SocketAddr::new(remote.ip(), 0),
        Filtering::AddressAndPortDependent => remote,
        Filtering::PortDependent => SocketAddr::new(nobody().ip(), remote.port()),
    }
}
