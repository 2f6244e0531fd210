//! Members by region, provider, network and host, each level sorted by its prefix.

use std::{cmp::Reverse, net::IpAddr};

use super::Id;
use crate::prefix::Prefix;

/// From the coarsest to the finest.
const TIERS: usize = 4;
pub(super) type Path = [Prefix; TIERS];
/// The provider's place in it.
pub(super) const PROVIDER: usize = 1;
/// The network's.
pub(super) const NETWORK: usize = 2;

pub(super) fn path(ip: IpAddr) -> Path {
    [Prefix::region(ip), Prefix::provider(ip), Prefix::network(ip), Prefix::host(ip)]
}

/// When a member was last active, and which one it is.
pub(super) type Member = (u64, Id);

/// The members that have a prefix in common. Its parts are sorted by their prefix and small, since most have one part.
#[derive(Debug)]
pub(super) struct Group {
    prefix: Prefix,
    pub(super) count: usize,
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
    pub(super) fn insert(&mut self, path: &[Prefix], member: Member) {
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

    pub(super) fn remove(&mut self, path: &[Prefix], id: Id) -> Option<u64> {
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

    pub(super) fn find(&self, path: &[Prefix]) -> Option<&Self> {
        let [prefix, rest @ ..] = path else { return Some(self) };
        let Parts::Groups(groups) = &self.parts else { return None };
        let at = groups.binary_search_by_key(prefix, |group| group.prefix).ok()?;
        groups[at].find(rest)
    }

    /// Who has to go for a newcomer at this path, and its provider.
    pub(super) fn victim(&self, newcomer: &Path) -> Option<(Id, Prefix)> {
        let Parts::Groups(regions) = &self.parts else { return None };
        let (region, is_mine) = largest(regions, Some(newcomer[0]))?;
        let Parts::Groups(providers) = &region.parts else { return None };
        let (provider, is_mine) = largest(providers, is_mine.then_some(newcomer[PROVIDER]))?;
        let rest = if is_mine { &newcomer[PROVIDER + 1..] } else { &[] };
        provider.victim_within(rest).map(|id| (id, provider.prefix))
    }

    /// The longest idle member of the largest part of the largest part, where a newcomer at this path, if it is in here,
    /// counts as if it was there.
    pub(super) fn victim_within(&self, newcomer: &[Prefix]) -> Option<Id> {
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
