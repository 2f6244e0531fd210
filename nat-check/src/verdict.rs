//! From the behaviour of one side, or of two, to the prospects of hole punching. Pure.

pub mod odds;
pub mod predict;

use shared::nat::{Filtering, Lifetime, Mapping, NatType};

use crate::report::{FamilyReport, FamilyStatus, HolePunching, Level, UdpReport};

/// The hole-punching verdict of a run: by IPv4 where it was tested, else by IPv6.
#[must_use]
pub fn conclude(ipv4: &FamilyReport, ipv6: &FamilyReport) -> HolePunching {
    let Some(udp) = ipv4.udp.as_ref().or(ipv6.udp.as_ref()) else {
        // What was not asked for explains nothing.
        let mut families = [ipv4, ipv6].into_iter().filter(|family| family.status != FamilyStatus::Skipped);
        let why = families.find_map(|family| family.reason.as_ref());
        let because = why.map_or(String::new(), |why| format!(": {why}"));
        let summary = format!("Whether hole punching works is not known{because}.");
        return HolePunching { level: Level::Unknown, summary, keepalive_s: None, peers: Vec::new() };
    };
    let level = level(udp);
    HolePunching {
        level,
        summary: summary(level, udp),
        keepalive_s: udp.lifetime.value.as_ref().and_then(keepalive),
        peers: Vec::new(),
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

fn summary(level: Level, udp: &UdpReport) -> String {
    match level {
        Level::AnyPeer => "Hole punching works with any peer whose UDP is not blocked.".into(),
        Level::MostPeers => {
            "Hole punching works with most peers: all but those whose port changes with every \
                             destination, and even of these the ones whose ports can be guessed."
                .into()
        }
        Level::SomePeers => {
            "Hole punching works with some peers: those that let strangers in, and those whose port \
                             stays the same where ours can be guessed."
                .into()
        }
        Level::None => {
            "Hole punching does not work: UDP is blocked here, so only TCP or a relay is left.".into()
        }
        Level::Unknown => {
            let reason = udp.filtering.reason.as_ref().or(udp.mapping.reason.as_ref());
            let because = reason.map_or(String::new(), |why| format!(": {why}"));
            format!("Whether hole punching works is not known{because}.")
        }
    }
}

/// The interval that keeps a mapping alive: a fifth below the shortest idle time that was seen to be survived.
fn keepalive(lifetime: &Lifetime) -> Option<f64> {
    let survived = [lifetime.unreplied, lifetime.stream].into_iter().flatten().map(|bracket| bracket.alive_s);
    survived.reduce(f64::min).map(|shortest| (shortest * 0.8).floor()).filter(|interval| *interval >= 1.0)
}
