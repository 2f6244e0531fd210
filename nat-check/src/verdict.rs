//! From the behaviour of one side, or of two, to the prospects of hole punching. Pure.

pub mod odds;
mod peers;
pub mod predict;
#[cfg(test)]
mod tests;

pub use peers::{between, candidates};
use shared::nat::{Filtering, Lifetime, Mapping, NatType};

use crate::report::{
    FamilyReport, FamilyStatus, HolePunching, Level, PeerKind, PeerOutcome, PeerVerdict, Technique, UdpReport,
};

/// The hole-punching verdict of a run: by IPv4 where it was tested, else by IPv6.
#[must_use]
pub fn conclude(ipv4: &FamilyReport, ipv6: &FamilyReport) -> HolePunching {
    let Some(udp) = ipv4.udp.as_ref().or(ipv6.udp.as_ref()) else {
        // What was not asked for explains nothing.
        let mut families = [ipv4, ipv6].into_iter().filter(|family| family.status != FamilyStatus::Skipped);
        let why = families.find_map(|family| family.reason.as_ref());
        return HolePunching {
            level: Level::Unknown,
            summary: not_known(why),
            keepalive_s: None,
            peers: Vec::new(),
        };
    };
    let level = level(udp);
    let peers = peers::table(udp);
    HolePunching {
        level,
        summary: summary(level, udp, &peers),
        keepalive_s: udp.lifetime.value.as_ref().and_then(keepalive),
        peers,
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

fn summary(level: Level, udp: &UdpReport, peers: &[PeerVerdict]) -> String {
    let with = |kind| peers.iter().find(|peer| peer.peer == kind);
    let direct =
        |kind| with(kind).filter(|peer| peer.outcome == PeerOutcome::Direct).and_then(|peer| peer.technique);
    match level {
        Level::AnyPeer => "Hole punching works with any peer whose UDP is not blocked.".into(),
        Level::MostPeers => match direct(PeerKind::SymmetricRandom) {
            Some(_) => {
                "Hole punching works with most peers: at once with all but those behind a strict (symmetric) \
                        NAT, and with most of these by guessing ports."
                    .into()
            }
            None => {
                "Hole punching works with most peers: with all but those behind a strict (symmetric) NAT."
                    .into()
            }
        },
        Level::SomePeers => {
            let home = match direct(PeerKind::PortRestrictedCone) {
                Some(Technique::Prediction | Technique::Birthday) => {
                    "with a usual home NAT by guessing ports"
                }
                Some(_) => "with a usual home NAT too",
                None => "with a usual home NAT only through a relay",
            };
            let strict = match (direct(PeerKind::SymmetricSequential), direct(PeerKind::SymmetricRandom)) {
                (Some(_), Some(_)) => "with a strict (symmetric) one by guessing ports",
                (Some(_), None) => "with a strict (symmetric) one only if its ports can be predicted",
                (None, _) => "with a strict (symmetric) one only through a relay",
            };
            format!(
                "Hole punching works with some peers: at once with those that let strangers in, {home}, {strict}."
            )
        }
        Level::None => {
            "Hole punching does not work: UDP is blocked here, so only TCP or a relay is left.".into()
        }
        Level::Unknown => not_known(udp.filtering.reason.as_ref().or(udp.mapping.reason.as_ref())),
    }
}

fn not_known(why: Option<&String>) -> String {
    let because = why.map_or(String::new(), |why| format!(": {why}"));
    format!("Whether hole punching works is not known{because}.")
}

/// The interval that keeps a mapping alive: a fifth below the shortest idle time that was seen to be survived.
fn keepalive(lifetime: &Lifetime) -> Option<f64> {
    let survived = [lifetime.unreplied, lifetime.stream].into_iter().flatten().map(|bracket| bracket.alive_s);
    survived.reduce(f64::min).map(|shortest| (shortest * 0.8).floor()).filter(|interval| *interval >= 1.0)
}
