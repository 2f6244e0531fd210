//! Who may come in where room is limited, and who has to go for it: one rule for connections and for sessions.
//!
//! Members are counted by host, network, provider and region. A host may have so many; a network that is at its limit
//! makes room within itself; and when everything is full, the longest idle member of the largest host of the largest
//! network of the largest provider of the largest region goes. So however many addresses somebody has, only what is as
//! large as theirs loses to them: one IPv6 /16 full of hosts takes nothing from a client outside of it, and inside of it
//! nothing from another /32. And while everything is full, a provider can push out others only so often.

mod groups;

use std::{collections::HashMap, net::IpAddr, time::Duration};

use shared::rendezvous::Refusal;

use crate::prefix::Prefix;
use groups::{Group, NETWORK, PROVIDER, Path, path};

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

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::HostFull => Self::HostFull,
            Refused::TooFast => Self::TooFast,
            Refused::NoRoom => Self::Full,
        }
    }
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

/// The time as this table counts it.
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
