//! Who may come in where room is limited, and who has to go for it: one rule for connections and for sessions.
//!
//! Members are counted by host, network, provider and region. A host may have so many; a network that is at its limit
//! makes room within itself; and when everything is full, the longest idle member of the largest host of the largest
//! network of the largest provider of the largest region goes. So however many addresses somebody has, only what is as
//! large as theirs loses to them: one IPv6 /16 full of hosts takes nothing from a client outside of it, and inside of it
//! nothing from another /32. And while everything is full, a provider can push out others only so often.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr};

use crate::prefix::Prefix;

/// Names a member. A member may be there more than once, from several addresses.
pub(crate) type Id = u64;

/// How many may come from one host and from one network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    pub per_host: usize,
    pub per_network: usize,
}

/// Why one more may not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Its host has its share.
    HostFull,
    /// Its provider has pushed out others too often.
    TooFast,
    /// There is no room at all.
    NoRoom,
}

/// The members.
#[derive(Debug, Default)]
pub(crate) struct AdmissionTable {
    all: Group,
    /// When each provider may push out others at its full burst again, in nanoseconds.
    debts: HashMap<Prefix, u64>,
}

/// How often a provider may push out others while everything is full: 10 a second.
const PUSH_INTERVAL: u64 = 100_000_000;
/// How often at once.
const PUSH_BURST: u64 = 200;
/// Debts that are looked through for old ones when there are more.
const MANY_DEBTS: usize = 1024;

/// From the coarsest to the finest.
const TIERS: usize = 4;
type Path = [Prefix; TIERS];
/// The provider's place in it.
const PROVIDER: usize = 1;
/// The network's.
const NETWORK: usize = 2;

impl AdmissionTable {
    /// Whether one more may come from here, and which member has to go first. `is_full`: there is no room for more members
    /// than there are.
    ///
    /// # Errors
    /// When it may not come.
    pub(crate) fn admit(
        &mut self,
        from: IpAddr,
        shares: Shares,
        is_full: bool,
        now: u64,
    ) -> Result<Option<Id>, Refused> {
        let path = path(from);
        self.check_host(&path, shares)?;
        if let Some(network) = self.full_network(&path, shares) {
            return Ok(Some(network.victim_within(&path[NETWORK + 1..]).ok_or(Refused::NoRoom)?));
        }
        if !is_full {
            return Ok(None);
        }
        let (id, provider) = self.all.victim(&path).ok_or(Refused::NoRoom)?;
        if provider != path[PROVIDER] {
            self.push_out(path[PROVIDER], now)?;
        }
        Ok(Some(id))
    }

    /// The same for a client that a member invited, which is not to go for it: nobody is too fast then.
    ///
    /// # Errors
    /// When it may not come.
    pub(crate) fn admit_invited(
        &mut self,
        from: IpAddr,
        shares: Shares,
        is_full: bool,
        (inviting, at): (Id, IpAddr),
    ) -> Result<Option<Id>, Refused> {
        let path = path(from);
        self.check_host(&path, shares)?;
        let network_is_full = self.full_network(&path, shares).is_some();
        if !is_full && !network_is_full {
            return Ok(None);
        }
        let kept = self.remove(inviting, at);
        let victim = if network_is_full {
            self.all.find(&path[..=NETWORK]).and_then(|network| network.victim_within(&path[NETWORK + 1..]))
        } else {
            self.all.victim(&path).map(|(id, _)| id)
        };
        if let Some(active) = kept {
            self.insert(inviting, at, active);
        }
        victim.map(Some).ok_or(Refused::NoRoom)
    }

    /// Adds a member that was active at this time.
    pub(crate) fn insert(&mut self, id: Id, from: IpAddr, active: u64) {
        self.all.insert(&path(from), (active, id));
    }

    /// Takes a member away, once; when it was last active.
    pub(crate) fn remove(&mut self, id: Id, from: IpAddr) -> Option<u64> {
        self.all.remove(&path(from), id)
    }

    /// A member is active.
    pub(crate) fn touch(&mut self, id: Id, from: IpAddr, now: u64) {
        if self.remove(id, from).is_some() {
            self.insert(id, from, now);
        }
    }

    /// Number of members.
    pub(crate) fn len(&self) -> usize {
        self.all.count
    }

    fn check_host(&self, path: &Path, shares: Shares) -> Result<(), Refused> {
        let of_host = self.all.find(path).map_or(0, |host| host.count);
        let is_full = of_host >= shares.per_host || shares.per_network == 0;
        if is_full { Err(Refused::HostFull) } else { Ok(()) }
    }

    /// The network of this path, if it has its share.
    fn full_network(&self, path: &Path, shares: Shares) -> Option<&Group> {
        self.all.find(&path[..=NETWORK]).filter(|network| network.count >= shares.per_network)
    }

    /// Takes one push out of the provider's bucket (GCRA).
    fn push_out(&mut self, provider: Prefix, now: u64) -> Result<(), Refused> {
        if self.debts.len() > MANY_DEBTS {
            self.debts.retain(|_, paid| *paid > now);
        }
        let paid = self.debts.get(&provider).copied().unwrap_or(0).max(now);
        if paid > now + (PUSH_BURST - 1) * PUSH_INTERVAL {
            return Err(Refused::TooFast);
        }
        self.debts.insert(provider, paid + PUSH_INTERVAL);
        Ok(())
    }
}

fn path(ip: IpAddr) -> Path {
    [Prefix::region(ip), Prefix::provider(ip), Prefix::network(ip), Prefix::host(ip)]
}

/// When a member was last active, and which one it is.
type Member = (u64, Id);

/// The members that have a prefix in common. Its parts are sorted by their prefix and small, since most have one part.
#[derive(Debug)]
struct Group {
    prefix: Prefix,
    count: usize,
    /// The longest idle member.
    oldest: Member,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Groups(Vec<Group>),
    Members(Vec<Member>),
}

impl Default for Group {
    /// Everybody.
    fn default() -> Self {
        let prefix = Prefix::of(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0, 0);
        Self { prefix, count: 0, oldest: NOBODY, parts: Parts::Groups(Vec::new()) }
    }
}

const NOBODY: Member = (u64::MAX, Id::MAX);

impl Group {
    fn insert(&mut self, path: &[Prefix], member: Member) {
        self.count += 1;
        self.oldest = self.oldest.min(member);
        match (&mut self.parts, path) {
            (Parts::Groups(groups), [prefix, rest @ ..]) => {
                let at = groups.binary_search_by_key(prefix, |group| group.prefix).unwrap_or_else(|at| {
                    let parts =
                        if rest.is_empty() { Parts::Members(Vec::new()) } else { Parts::Groups(Vec::new()) };
                    if groups.is_empty() {
                        groups.reserve_exact(1);
                    }
                    groups.insert(at, Self { prefix: *prefix, count: 0, oldest: NOBODY, parts });
                    at
                });
                groups[at].insert(rest, member);
            }
            (Parts::Members(members), _) => {
                if members.is_empty() {
                    members.reserve_exact(1);
                }
                members.push(member);
            }
            // A path is as long as there are tiers.
            (Parts::Groups(_), []) => {}
        }
    }

    fn remove(&mut self, path: &[Prefix], id: Id) -> Option<u64> {
        let active = match (&mut self.parts, path) {
            (Parts::Groups(groups), [prefix, rest @ ..]) => {
                let at = groups.binary_search_by_key(prefix, |group| group.prefix).ok()?;
                let active = groups[at].remove(rest, id)?;
                if groups[at].count == 0 {
                    groups.remove(at);
                }
                active
            }
            (Parts::Members(members), _) => {
                let at = members.iter().position(|(_, member)| *member == id)?;
                members.swap_remove(at).0
            }
            (Parts::Groups(_), []) => return None,
        };
        self.count -= 1;
        if self.oldest == (active, id) {
            self.oldest = match &self.parts {
                Parts::Groups(groups) => groups.iter().map(|group| group.oldest).min(),
                Parts::Members(members) => members.iter().copied().min(),
            }
            .unwrap_or(NOBODY);
        }
        Some(active)
    }

    fn find(&self, path: &[Prefix]) -> Option<&Self> {
        let [prefix, rest @ ..] = path else { return Some(self) };
        let Parts::Groups(groups) = &self.parts else { return None };
        let at = groups.binary_search_by_key(prefix, |group| group.prefix).ok()?;
        groups[at].find(rest)
    }

    /// Who has to go for a newcomer at this path, and its provider.
    fn victim(&self, newcomer: &Path) -> Option<(Id, Prefix)> {
        let Parts::Groups(regions) = &self.parts else { return None };
        let (region, is_mine) = largest(regions, Some(newcomer[0]))?;
        let Parts::Groups(providers) = &region.parts else { return None };
        let (provider, is_mine) = largest(providers, is_mine.then_some(newcomer[PROVIDER]))?;
        let rest = if is_mine { &newcomer[PROVIDER + 1..] } else { &[] };
        provider.victim_within(rest).map(|id| (id, provider.prefix))
    }

    /// The longest idle member of the largest part of the largest part, where a newcomer at this path, if it is in here,
    /// counts as if it was there.
    fn victim_within(&self, newcomer: &[Prefix]) -> Option<Id> {
        match &self.parts {
            Parts::Groups(groups) => {
                let (group, is_mine) = largest(groups, newcomer.first().copied())?;
                group.victim_within(if is_mine { &newcomer[1..] } else { &[] })
            }
            Parts::Members(_) => (self.count > 0).then_some(self.oldest.1),
        }
    }
}

/// The group with most members, one more counted for `mine`, and whether it is that one; of equals, the one with the
/// longest idle member.
fn largest(groups: &[Group], mine: Option<Prefix>) -> Option<(&Group, bool)> {
    let is_mine = |group: &Group| mine == Some(group.prefix);
    let key = |group: &&Group| (group.count + usize::from(is_mine(group)), Reverse(group.oldest));
    groups.iter().max_by_key(key).map(|group| (group, is_mine(group)))
}

#[cfg(test)]
mod tests;
