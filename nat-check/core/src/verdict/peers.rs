//! The table by kind of peer: what is known of this side against each of them. What is not known is tried both ways:
//! where the outcome is the same, the worse chance is told, else the outcome is unknown.

use shared::nat::{Filtering, Keying, Mapping, NatType, PortAllocation};

use super::predict::{Behaviour, Budget, CROSS_TRAFFIC, Next, Ports, Prediction, Side, Strategy, predict};
use crate::report::{Finding, PeerKind, PeerOutcome, PeerVerdict, UdpReport};

pub(super) fn table(udp: &UdpReport) -> Vec<PeerVerdict> {
    let selves = candidates(udp);
    KINDS.iter().map(|kind| against(*kind, &selves, udp)).collect()
}

const KINDS: [PeerKind; 7] = [
    PeerKind::OpenInternet,
    PeerKind::FullCone,
    PeerKind::RestrictedCone,
    PeerKind::PortRestrictedCone,
    PeerKind::SymmetricSequential,
    PeerKind::SymmetricRandom,
    PeerKind::UdpBlocked,
];

fn against(peer: PeerKind, selves: &[Side], udp: &UdpReport) -> PeerVerdict {
    let others = [side(peer)];
    if let Some(found) = between(selves, &others, &Budget::DEFAULT) {
        let why = found.why("this side", "the peer");
        return PeerVerdict {
            peer,
            outcome: found.outcome,
            technique: Some(found.technique),
            probability: found.probability.map(|p| (p * 10_000.0).floor() / 10_000.0),
            packets: found.packets,
            seconds: found.seconds,
            why: if found.strategy == Strategy::BothSend { why + hazard(udp) } else { why },
        };
    }
    PeerVerdict {
        peer,
        outcome: PeerOutcome::Unknown,
        technique: None,
        probability: None,
        packets: None,
        seconds: None,
        why: format!("not enough is known of this side: {}", unknown(udp)),
    }
}

/// Predicts for two sides of which not everything is known: each is one of several. The worst chance where the
/// outcome is the same for all of them, else nothing.
#[must_use]
pub fn between(a: &[Side], b: &[Side], budget: &Budget) -> Option<Prediction> {
    let all: Vec<Prediction> = a.iter().flat_map(|a| b.iter().map(move |b| predict(a, b, budget))).collect();
    let worst = *all.iter().reduce(|worst, next| if is_worse(next, worst) { next } else { worst })?;
    all.iter().all(|p| p.outcome == worst.outcome).then_some(worst)
}

/// A peer of each kind. Filters of strict NATs belong to the mapping.
fn side(kind: PeerKind) -> Side {
    use Filtering as F;
    use Mapping as M;
    let udp = |mapping, filtering, next| {
        let ports = Ports { next, ..Ports::ANYWHERE };
        Side::Udp(Behaviour { mapping, filtering, keying: Keying::Mapping, ports })
    };
    match kind {
        PeerKind::OpenInternet => udp(M::Direct, F::EndpointIndependent, Next::Local),
        PeerKind::FullCone => udp(M::EndpointIndependent, F::EndpointIndependent, Next::Local),
        PeerKind::RestrictedCone => udp(M::EndpointIndependent, F::AddressDependent, Next::Local),
        PeerKind::PortRestrictedCone => udp(M::EndpointIndependent, F::AddressAndPortDependent, Next::Local),
        PeerKind::SymmetricSequential => {
            let next = Next::Step { cross_traffic: CROSS_TRAFFIC };
            udp(M::AddressAndPortDependent, F::AddressAndPortDependent, next)
        }
        PeerKind::SymmetricRandom => {
            udp(M::AddressAndPortDependent, F::AddressAndPortDependent, Next::Anywhere)
        }
        PeerKind::UdpBlocked => Side::UdpBlocked,
    }
}

/// Everything that a side may be, of which this was measured.
#[must_use]
pub fn candidates(udp: &UdpReport) -> Vec<Side> {
    if udp.nat_type.value == Some(NatType::UdpBlocked) {
        return vec![Side::UdpBlocked];
    }
    let mut sides = Vec::new();
    for &mapping in udp.mapping.value.as_ref().map_or(MAPPINGS, std::slice::from_ref) {
        for &filtering in udp.filtering.value.as_ref().map_or(FILTERINGS, std::slice::from_ref) {
            for &keying in keyings(mapping, filtering) {
                for ports in ports(&udp.port_allocation) {
                    sides.push(Side::Udp(Behaviour { mapping, filtering, keying, ports }));
                }
            }
        }
    }
    sides
}

const MAPPINGS: &[Mapping] = &[
    Mapping::Direct,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
    Mapping::PortDependent,
];

const FILTERINGS: &[Filtering] = &[
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
    Filtering::PortDependent,
];

/// What a filter entry belongs to matters only where the mapping moves. Filters that look at ports are then
/// connection tracking, which knows mappings; those that look at addresses come in both kinds.
fn keyings(mapping: Mapping, filtering: Filtering) -> &'static [Keying] {
    let moves = !matches!(mapping, Mapping::Direct | Mapping::EndpointIndependent);
    match filtering {
        Filtering::AddressDependent if moves => &[Keying::Endpoint, Keying::Mapping],
        Filtering::EndpointIndependent
        | Filtering::AddressDependent
        | Filtering::AddressAndPortDependent
        | Filtering::PortDependent => &[Keying::Mapping],
    }
}

fn ports(finding: &Finding<PortAllocation>) -> Vec<Ports> {
    let Some(allocation) = &finding.value else {
        return vec![Ports { next: Next::Local, ..Ports::ANYWHERE }, Ports::ANYWHERE];
    };
    vec![Ports::of(allocation, allocation.cross_traffic_per_s.map(f64::from))]
}

fn is_worse(a: &Prediction, b: &Prediction) -> bool {
    let chance = |p: &Prediction| p.probability.unwrap_or(0.0);
    chance(a) < chance(b) || chance(a) <= chance(b) && a.packets > b.packets
}

fn unknown(udp: &UdpReport) -> &'static str {
    match (udp.filtering.value, udp.mapping.value) {
        (None, _) => "its filtering",
        (Some(_), None) => "its mapping",
        (Some(Filtering::AddressDependent), Some(_)) => {
            "whether its filter goes by what the host has sent to, or by what each mapping has"
        }
        (Some(_), Some(_)) => "how its ports are chosen",
    }
}

fn hazard(udp: &UdpReport) -> &'static str {
    if udp.inbound_first_remap.value == Some(true) {
        "; a packet of the peer that comes before this side's own first one spoils it, so start at the same moment"
    } else {
        ""
    }
}
