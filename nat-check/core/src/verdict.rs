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

/// The hole-punching verdict of a run: by the family with the better prospects, IPv4 where they are the same.
#[must_use]
pub fn conclude(ipv4: &FamilyReport, ipv6: &FamilyReport) -> HolePunching {
    let tested = |family: &'static str, report: &FamilyReport| {
        report.udp.as_ref().map(|udp| Side { family, level: level(udp), verdict: over(udp) })
    };
    let sides = [tested("IPv4", ipv4), tested("IPv6", ipv6)];
    match sides {
        [Some(four), Some(six)] if four.level == six.level => four.verdict,
        [Some(four), Some(six)] if rank(six.level) > rank(four.level) => six.beside(&four),
        [Some(four), Some(six)] => four.beside(&six),
        [Some(only), None] | [None, Some(only)] => only.verdict,
        [None, None] => {
            // What was not asked for explains nothing.
            let asked = [ipv4, ipv6].into_iter().filter(|family| family.status != FamilyStatus::Skipped);
            let why = asked.filter_map(|family| family.reason.as_ref()).next();
            let (level, summary) = (Level::Unknown, not_known(why));
            HolePunching { level, summary, keepalive_s: None, peers: Vec::new() }
        }
    }
}

/// The prospects over one family.
struct Side {
    family: &'static str,
    level: Level,
    verdict: HolePunching,
}

impl Side {
    /// The verdict of this family, which is the better one, with a word on the other.
    fn beside(self, worse: &Self) -> HolePunching {
        let mut summary = self.verdict.summary;
        if let Some(first) = summary.get_mut(..1) {
            first.make_ascii_lowercase();
        }
        let rest = match worse.level {
            Level::AnyPeer => "it works with any peer",
            Level::MostPeers => "it works with most peers",
            Level::SomePeers => "it works with some peers",
            Level::None => "UDP is blocked",
            Level::Unknown => "that is not known",
        };
        let summary = format!("Over {}, {summary} Over {}, {rest}.", self.family, worse.family);
        HolePunching { summary, ..self.verdict }
    }
}

/// The order of levels by what to hope for: where nothing is known, more than where UDP is blocked.
fn rank(level: Level) -> (bool, Level) {
    (level != Level::None, level)
}

fn over(udp: &UdpReport) -> HolePunching {
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
        Level::AnyPeer => {
            let hard =
                [PeerKind::PortRestrictedCone, PeerKind::SymmetricSequential, PeerKind::SymmetricRandom];
            let at_once =
                |&kind: &PeerKind| matches!(direct(kind), Some(Technique::Direct | Technique::Simultaneous));
            if hard.iter().all(at_once) {
                "Hole punching works with any peer whose UDP is not blocked.".into()
            } else if hard.iter().all(|&kind| direct(kind).is_some()) {
                let who = if at_once(&PeerKind::PortRestrictedCone) {
                    "symmetric"
                } else {
                    "port-restricted cone or a symmetric"
                };
                format!(
                    "Hole punching works with any peer whose UDP is not blocked: immediately with peers \
                     that do not filter by port, by guessing ports with those behind a {who} NAT."
                )
            } else {
                "Hole punching works immediately with peers that do not filter by port; whether it does with those behind \
                 other NATs is not certain."
                    .into()
            }
        }
        Level::MostPeers => match direct(PeerKind::SymmetricRandom) {
            Some(_) => {
                "Hole punching works with most peers: immediately with all but those behind a symmetric \
                        NAT, and with most of these by guessing ports."
                    .into()
            }
            None => "Hole punching works with most peers: with all but those behind a symmetric NAT.".into(),
        },
        Level::SomePeers => {
            let home = match direct(PeerKind::PortRestrictedCone) {
                Some(Technique::Prediction | Technique::Birthday) => {
                    "with a port-restricted cone NAT (typical home router) by guessing ports"
                }
                Some(_) => "with a port-restricted cone NAT (typical home router), too",
                None => "with a port-restricted cone NAT (typical home router) only through a relay",
            };
            let strict = match (direct(PeerKind::SymmetricSequential), direct(PeerKind::SymmetricRandom)) {
                (Some(_), Some(_)) => "with a symmetric NAT by guessing ports",
                (Some(_), None) => "with a symmetric NAT only if its ports can be predicted",
                (None, _) => "with a symmetric NAT only through a relay",
            };
            format!(
                "Hole punching works with some peers: immediately with those that do not filter by port, {home}, {strict}."
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
