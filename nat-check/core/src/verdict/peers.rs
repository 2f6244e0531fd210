//! The table by kind of peer: what is known of this side against each of them. What is not known is tried in every way
//! it can be: where the outcome is the same, the least chance is told, else the outcome is unknown. A reason is given
//! only where it holds whatever the unknown part turns out to be.

mod over_tcp;

use shared::nat::{Filtering, Keying, Mapping, NatType, PortAllocation};

use super::predict::{Behaviour, Budget, CROSS_TRAFFIC, Next, Ports, Prediction, Side, Strategy, predict};
use crate::{
    report::{Confidence, Finding, PeerKind, PeerOutcome, PeerVerdict, TcpReport, UdpReport},
    technique::Technique,
};

pub(super) fn table(udp: &UdpReport, tcp: Option<&TcpReport>) -> Vec<PeerVerdict> {
    let (selves, if_unlikely) = (candidates(udp), candidates(&without_weak(udp)));
    let row = |kind: &PeerKind| {
        let over_udp = against(*kind, &selves, &if_unlikely, udp);
        // Of TCP nothing follows from UDP; a peer with neither NAT nor filter can be connected to.
        let is_up_to_tcp = *kind == PeerKind::UdpBlocked
            || selves == [Side::UdpBlocked] && over_udp.outcome == PeerOutcome::Relay;
        if is_up_to_tcp { over_tcp::row(over_udp, tcp) } else { over_udp }
    };
    KINDS.iter().map(row).collect()
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

const HERE: &str = "this side";
const THERE: &str = "the peer";

/// One row. `if_unlikely` is what this side may be if its weak findings are wrong.
fn against(peer: PeerKind, selves: &[Side], if_unlikely: &[Side], udp: &UdpReport) -> PeerVerdict {
    let others = [side(peer)];
    let Some(found) = between(selves, &others, &Budget::DEFAULT) else {
        return PeerVerdict {
            peer,
            outcome: PeerOutcome::Unknown,
            technique: None,
            probability: None,
            at_least: false,
            packets: None,
            seconds: None,
            why: format!("not enough is known of this side: {}", unknown(udp)),
        };
    };
    let Outlook { worst, at_least, .. } = found;
    let mut why = match found.has_one_reason {
        true => worst.why(HERE, THERE),
        false => format!(
            "not everything is known of this side ({}), but whatever that is, there is a way",
            unknown(udp)
        ),
    };
    if found.has_one_reason && worst.strategy == Strategy::BothSend {
        why += hazard(udp);
    }
    if between(if_unlikely, &others, &Budget::DEFAULT) != Some(found) {
        why += &doubt(udp);
    }
    PeerVerdict {
        peer,
        outcome: worst.outcome,
        technique: Some(worst.technique),
        probability: worst.probability.map(|p| (p * 10_000.0).floor() / 10_000.0),
        at_least,
        packets: worst.packets,
        seconds: worst.seconds,
        why,
    }
}

/// What is to be expected of two sides of which not everything is known.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outlook {
    /// The least good of what is possible.
    pub worst: Prediction,
    /// Whether something better is possible, too.
    pub at_least: bool,
    /// Whether the reason is the same in every case.
    pub has_one_reason: bool,
}

/// Predicts for two sides of which not everything is known: each is one of several. None where the outcome depends on
/// what is not known.
#[must_use]
pub fn between(a: &[Side], b: &[Side], budget: &Budget) -> Option<Outlook> {
    let all: Vec<Prediction> = a.iter().flat_map(|a| b.iter().map(move |b| predict(a, b, budget))).collect();
    let worst = *all.iter().reduce(|worst, next| if is_worse(next, worst) { next } else { worst })?;
    let reason = worst.why(HERE, THERE);
    all.iter().all(|p| p.outcome == worst.outcome).then(|| Outlook {
        worst,
        at_least: all.iter().any(|p| p.probability > worst.probability),
        has_one_reason: all.iter().all(|p| p.why(HERE, THERE) == reason),
    })
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

/// Less likely; with the same chance dearer; at the same cost the one that does not count on being let in by anybody.
fn is_worse(a: &Prediction, b: &Prediction) -> bool {
    let chance = |p: &Prediction| p.probability.unwrap_or(0.0);
    let asks_for = |p: &Prediction| (p.packets, p.technique != Technique::Direct);
    chance(a) < chance(b) || chance(a) <= chance(b) && asks_for(a) > asks_for(b)
}

/// What is left of a report if nothing counts that is only likely.
fn without_weak(udp: &UdpReport) -> UdpReport {
    fn sure<T: Clone>(finding: &Finding<T>) -> Finding<T> {
        Finding { value: finding.sure().cloned(), ..finding.clone() }
    }
    UdpReport {
        mapping: sure(&udp.mapping),
        filtering: sure(&udp.filtering),
        port_allocation: sure(&udp.port_allocation),
        ..udp.clone()
    }
}

/// Which of the findings that a prediction rests on are only likely.
fn doubt(udp: &UdpReport) -> String {
    let weak = [
        (udp.mapping.confidence, "mapping"),
        (udp.filtering.confidence, "filtering"),
        (udp.port_allocation.confidence, "port allocation"),
    ];
    let names: Vec<&str> =
        weak.into_iter().filter(|(sure, _)| *sure == Confidence::Weak).map(|(_, name)| name).collect();
    format!("; only likely here: {}", names.join(", "))
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
