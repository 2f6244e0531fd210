//! The next port of a gateway is told from its last one, or from the local port that it preserves.

use std::net::SocketAddr;

use shared::rendezvous::{
    Technique,
    peer::{Offer, RoundCandidates},
};

use super::Means;
use crate::{
    punch::{
        attempt::{Attempt, Ended, at_step},
        forecast::Pair,
        introducer::IntroError,
        volley::Volley,
    },
    verdict::predict::{Budget, Recipe, Who},
};

pub(super) const MEANS: Means = Means {
    technique: Technique::Prediction,
    about: "the next port of a gateway is told from its last one",
    rounds: |pair| if recipe(pair).is_some() { Budget::DEFAULT.rounds } else { 0 },
    cost,
    run: |attempt| Box::pin(run(attempt)),
};

/// Ports that a side tries at least, if that opens no further mapping: others may use the same gateway meanwhile.
const AT_LEAST: u32 = 8;

/// Mappings that each round may cost without a word.
const FREE: u32 = 16;

fn cost(pair: &Pair) -> Option<String> {
    use shared::nat::Mapping;
    let spends = |offer: &Offer| {
        matches!(offer.behaviour.mapping, Some(Mapping::AddressAndPortDependent | Mapping::PortDependent))
    };
    let (a, b) = match pair.udp.as_ref()?.recipe {
        Recipe::Window { hard: Who::A, ports } => (0, ports),
        Recipe::Window { hard: Who::B, ports } => (ports, 0),
        Recipe::Mutual(plan) => (plan.a, plan.b),
        Recipe::Dial(_)
        | Recipe::Both
        | Recipe::Birthday { .. }
        | Recipe::Crossed { .. }
        | Recipe::Tcp(_)
        | Recipe::Relay(_) => return None,
    };
    let (mine, peers) = if pair.who() == Who::A { (a, b) } else { (b, a) };
    let told: Vec<String> = [(mine, &pair.mine, "this side"), (peers, &pair.peers, "the peer")]
        .into_iter()
        .filter(|(ports, offer, _)| *ports > FREE && spends(offer))
        .map(|(ports, _, name)| format!("{name} tries {ports} ports in each round"))
        .collect();
    let last = ", each of which takes a mapping of a NAT that others share";
    (!told.is_empty()).then(|| told.join(" and ") + last)
}

/// What this side does: whether its own next port is to be known, how many ports of the peer it tries, which ones.
#[derive(Clone, Copy)]
struct Part {
    sampled: bool,
    tries: u32,
    stride: u32,
}

fn recipe(pair: &Pair) -> Option<Part> {
    let me = pair.who();
    match pair.udp.as_ref()?.recipe {
        Recipe::Window { hard, .. } if hard == me => Some(Part { sampled: true, tries: 0, stride: 0 }),
        Recipe::Window { ports, .. } => {
            use shared::nat::Mapping;
            let free = matches!(
                pair.mine.behaviour.mapping,
                Some(Mapping::Direct | Mapping::EndpointIndependent | Mapping::AddressDependent)
            );
            let tries = if free { ports.max(AT_LEAST) } else { ports };
            Some(Part { sampled: false, tries, stride: 1 })
        }
        Recipe::Mutual(plan) => Some(match me {
            Who::A => Part { sampled: true, tries: plan.a, stride: plan.stride },
            Who::B => Part { sampled: true, tries: plan.b, stride: 1 },
        }),
        Recipe::Dial(_)
        | Recipe::Both
        | Recipe::Birthday { .. }
        | Recipe::Crossed { .. }
        | Recipe::Tcp(_)
        | Recipe::Relay(_) => None,
    }
}

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let part = recipe(&attempt.pair).unwrap_or(Part { sampled: false, tries: 0, stride: 0 });
    attempt.meet(RoundCandidates::default()).await?;
    let prepared = if part.sampled {
        attempt.predictable().await
    } else {
        attempt.fresh().await.map(|(socket, at)| (socket, RoundCandidates { at: vec![at], next: None }))
    };
    let (socket, candidates) = prepared
        .map_or((None, RoundCandidates::default()), |(socket, candidates)| (Some(socket), candidates));
    let peer = attempt.meet(candidates).await?;
    let shots: Vec<_> = match (socket, attempt.corroborated(&peer.at)) {
        (Some(socket), Some(at)) => targets(part, at, &peer).into_iter().map(|to| (socket, to)).collect(),
        (None, _) | (_, None) => Vec::new(),
    };
    if !attempt.pair.is_harmless() {
        attempt.open_gateway(&shots).await?;
    }
    Ok(attempt.volley(&Volley::short(shots)).await.into())
}
fn targets(part: Part, at: SocketAddr, peer: &RoundCandidates) -> Vec<SocketAddr> {
    match peer.next {
        Some(next) if part.tries > 0 => (0..part.tries)
            .map(|n| SocketAddr::new(at.ip(), at_step(next.port, next.step, n * part.stride)))
            .collect(),
        Some(_) | None => vec![at],
    }
}
