//! From the behaviour of one side, or of two, to the prospects of hole punching. Pure.

pub mod advice;
pub mod checklist;
pub mod consoles;
pub mod odds;
mod peers;
pub mod predict;
mod summary;
#[cfg(test)]
mod tests;

pub use peers::{Outlook, between, candidates};
use shared::nat::{Filtering, Lifetime, Mapping, NatType};

use crate::report::{FamilyReport, FamilyStatus, HolePunching, Level, UdpReport};

/// The hole-punching verdict of a run: that of IPv4, which every peer has, with what IPv6 adds for peers that have it, too.
/// Only where nothing is known of IPv4 it is that of IPv6.
#[must_use]
pub fn conclude(ipv4: &FamilyReport, ipv6: &FamilyReport) -> HolePunching {
    match (over(ipv4), over(ipv6)) {
        (Some(four), Some(six)) => joint(four, &six),
        (Some(four), None) => four,
        (None, Some(six)) => HolePunching { summary: summary::with_ipv6(&six.summary), ..six },
        (None, None) => {
            // What was not asked for explains nothing.
            let asked = [ipv4, ipv6].into_iter().filter(|family| family.status != FamilyStatus::Skipped);
            let why = asked.filter_map(|family| family.reason.as_ref()).next();
            let (level, summary) = (Level::Unknown, summary::not_known(why));
            HolePunching { level, summary, keepalive_s: None, peers: Vec::new() }
        }
    }
}

/// The prospects over one family; none where UDP over it was not tested.
#[must_use]
pub fn over(family: &FamilyReport) -> Option<HolePunching> {
    let udp = family.udp.as_ref()?;
    let (level, peers) = (level(udp), peers::table(udp, family.tcp.as_ref()));
    Some(HolePunching {
        level,
        summary: summary::of(level, udp, &peers),
        keepalive_s: udp.lifetime.value.as_ref().and_then(keepalive),
        peers,
    })
}

/// Where UDP over IPv4 is blocked, peers that have IPv6 are left: some, however good that is.
fn joint(four: HolePunching, six: &HolePunching) -> HolePunching {
    let level = match four.level {
        Level::None => six.level.min(Level::SomePeers).max(Level::None),
        level => level,
    };
    let keepalives = [four.keepalive_s, six.keepalive_s];
    HolePunching {
        level,
        summary: summary::of_both(&four, six),
        keepalive_s: keepalives.into_iter().flatten().reduce(f64::min),
        peers: four.peers,
    }
}

/// How good the prospects are, by this side's own class alone.
fn level(udp: &UdpReport) -> Level {
    if udp.nat_type.value == Some(NatType::UdpBlocked) {
        return Level::None;
    }
    match (udp.mapping.value, udp.filtering.value) {
        (_, Some(Filtering::EndpointIndependent | Filtering::AddressDependent)) => Level::AnyPeer,
        (Some(Mapping::Direct | Mapping::EndpointIndependent), Some(Filtering::AddressAndPortDependent)) => {
            Level::MostPeers
        }
        (Some(_), Some(Filtering::AddressAndPortDependent)) | (_, Some(Filtering::PortDependent)) => {
            Level::SomePeers
        }
        (None, Some(Filtering::AddressAndPortDependent)) | (_, None) => Level::Unknown,
    }
}

/// The interval that keeps a mapping alive: a fifth below the idle time that is always survived.
fn keepalive(lifetime: &Lifetime) -> Option<f64> {
    lifetime.survived_s().map(|survived| (survived * 0.8).floor()).filter(|interval| *interval >= 1.0)
}
