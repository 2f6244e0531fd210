//! The state of a modelled NAT: bindings, found from either side, and filter entries. Expired state is removed when it is
//! found, so no timer runs.

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
    /// Distinguishes it from earlier ones with the same endpoints; assigned by [`Table::insert`].
    pub(super) serial: u64,
    pub(super) protocol: Protocol,
    pub(super) inside: SocketAddr,
    /// The part of the destination on which the mapping depends.
    pub(super) key: SocketAddr,
    pub(super) outside: SocketAddr,
    /// The remote endpoint where several bindings may share the external one, otherwise [`any_endpoint`].
    pub(super) remote: SocketAddr,
    pub(super) clock: Clock,
    /// Created by an unsolicited packet from outside.
    pub(super) from_outside: bool,
}

/// What a filter entry belongs to.
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
    /// Slots by internal endpoint, in the order of age; serials show whether they still hold the same binding.
    sources: Map<(Protocol, SocketAddr), Vec<(usize, u64)>>,
    /// By internal and remote endpoint: the binding that the last packet of that remote endpoint came in through.
    sessions: Map<Key, (usize, u64)>,
    held: Map<IpAddr, u32>,
    resting: Map<(Protocol, SocketAddr), Duration>,
    pub(super) permits: Map<(Owner, SocketAddr), Clock>,
    next_serial: u64,
    /// Serial at which all expired state is removed, so that memory stays proportional to the state in use.
    next_cleanup: u64,
}

const CLEANUP_AT_LEAST: u64 = 1024;

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
            sessions: Map::default(),
            held: Map::default(),
            resting: Map::default(),
            permits: Map::default(),
            next_serial: 1,
            next_cleanup: CLEANUP_AT_LEAST,
        }
    }

    /// Number of bindings made so far.
    pub(super) fn made(&self) -> u64 {
        self.next_serial - 1
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

    /// Notes that a packet from a remote endpoint came in through this binding: packets sent back to it belong to the same
    /// session, whatever the mapping of a first packet would be.
    pub(super) fn note_inbound(&mut self, slot: usize, remote: SocketAddr) {
        let Binding { serial, protocol, inside, .. } = self[slot];
        self.sessions.insert((protocol, inside, remote), (slot, serial));
    }

    pub(super) fn session_of(
        &mut self,
        protocol: Protocol,
        inside: SocketAddr,
        remote: SocketAddr,
        now: Duration,
    ) -> Option<usize> {
        let (slot, serial) = *self.sessions.get(&(protocol, inside, remote))?;
        let same = self.slots[slot].is_some_and(|binding| binding.serial == serial);
        if same { self.still_alive(slot, now) } else { None }
    }

    /// External endpoints of the bindings of an internal endpoint, the newest first.
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

    /// Whether no other internal endpoint than this one has a binding with this external one.
    pub(super) fn is_free_for(
        &self,
        protocol: Protocol,
        outside: SocketAddr,
        inside: SocketAddr,
        now: Duration,
    ) -> bool {
        let mut bindings = self.slots.iter().flatten().filter(|b| b.clock.alive(now, &self.timers));
        !bindings
            .any(|b| (b.protocol, b.outside) == (protocol, outside) && b.inside != inside && !b.from_outside)
    }

    /// Number of bindings of an internal host.
    pub(super) fn mappings_of(&mut self, host: IpAddr, now: Duration) -> u32 {
        if self.held.contains_key(&host) {
            self.clear_expired(now);
        }
        self.held.get(&host).copied().unwrap_or(0)
    }

    /// Ends the binding of an internal host that would expire first.
    pub(super) fn end_oldest(&mut self, host: IpAddr) {
        let of_host = |b: &Binding| b.inside.ip() == host && !b.from_outside;
        let bindings = self.slots.iter().enumerate().filter_map(|(slot, b)| Some((slot, b.as_ref()?)));
        let oldest = bindings.filter(|(_, b)| of_host(b)).min_by_key(|(_, b)| b.clock.ends(&self.timers));
        match oldest.map(|(slot, _)| slot) {
            Some(slot) => self.remove(slot),
            // What is counted and not there would be waited for in vain.
            None => _ = self.held.remove(&host),
        }
    }

    pub(super) fn live(&self, now: Duration) -> usize {
        self.slots.iter().flatten().filter(|b| !b.from_outside && b.clock.alive(now, &self.timers)).count()
    }

    pub(super) fn insert(&mut self, mut binding: Binding) -> usize {
        binding.serial = self.next_serial;
        self.next_serial += 1;
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let Binding { serial, protocol, inside, key, outside, remote, from_outside, .. } = binding;
        self.outside.insert((protocol, outside, remote), slot);
        if !from_outside {
            self.inside.insert((protocol, inside, key), slot);
            self.sources.entry((protocol, inside)).or_default().push((slot, serial));
            *self.held.entry(inside.ip()).or_default() += 1;
        }
        self.slots[slot] = Some(binding);
        slot
    }

    /// Removes all expired state, once in a while.
    pub(super) fn clean_up(&mut self, now: Duration) {
        if self.next_serial < self.next_cleanup {
            return;
        }
        self.clear_expired(now);
        let (slots, timers) = (&self.slots, &self.timers);
        self.sources.retain(|_, list| {
            list.retain(|(slot, serial)| slots[*slot].is_some_and(|b| b.serial == *serial));
            !list.is_empty()
        });
        self.sessions.retain(|_, (slot, serial)| slots[*slot].is_some_and(|b| b.serial == *serial));
        self.resting.retain(|_, until| now < *until);
        let alive: std::collections::HashSet<u64, BuildHasherDefault<DefaultHasher>> =
            slots.iter().flatten().map(|b| b.serial).collect();
        self.permits.retain(|(owner, _), clock| {
            if owner.serial == 0 { clock.alive(now, timers) } else { alive.contains(&owner.serial) }
        });
        self.next_cleanup = self.next_serial + (alive.len() as u64).max(CLEANUP_AT_LEAST);
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
        let Binding { protocol, inside, key, outside, remote, from_outside, clock, .. } = binding;
        self.vacant.push(slot);
        self.outside.remove(&(protocol, outside, remote));
        if from_outside {
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

/// Stands for any endpoint, where the endpoint does not matter.
pub(super) const fn any_endpoint() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)
}

/// The part of a destination on which a mapping depends. Mappings over different Internet connections are different
/// ones: the number of the connection takes the place of what does not matter.
pub(super) fn by_mapping(mapping: Mapping, remote: SocketAddr, connection: u8) -> SocketAddr {
    let any_address = IpAddr::V4(Ipv4Addr::new(0, 0, 0, connection));
    match mapping {
        Mapping::Direct | Mapping::EndpointIndependent => SocketAddr::new(any_address, 0),
        Mapping::AddressDependent => SocketAddr::new(remote.ip(), connection.into()),
        Mapping::AddressAndPortDependent => remote,
        Mapping::PortDependent => SocketAddr::new(any_address, remote.port()),
    }
}

/// The part of a remote endpoint that a filter compares.
pub(super) fn by_filter(filtering: Filtering, remote: SocketAddr) -> SocketAddr {
    match filtering {
        Filtering::EndpointIndependent => any_endpoint(),
        Filtering::AddressDependent => SocketAddr::new(remote.ip(), 0),
        Filtering::AddressAndPortDependent => remote,
        Filtering::PortDependent => SocketAddr::new(any_endpoint().ip(), remote.port()),
    }
}
