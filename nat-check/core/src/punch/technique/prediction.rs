//! The next port of a gateway is predicted from its last one, or from the local port that it preserves.

use std::net::SocketAddr;

use shared::rendezvous::peer::{Offer, RoundCandidates};

use super::Method;
use crate::{
    punch::{
        attempt::{Attempt, Ended, at_step},
        burst::{Burst, pairs},
        forecast::Pair,
        introducer::IntroError,
    },
    technique::Technique,
    verdict::predict::{Budget, Strategy, Who},
};

pub(super) const METHOD: Method = Method {
    technique: Technique::Prediction,
    about: "the next port of a gateway is predicted from its last one",
    rounds: |pair| if part(pair).is_some() { Budget::DEFAULT.rounds } else { 0 },
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
    let (a, b) = match pair.udp.as_ref()?.strategy {
        Strategy::PredictOne { hard: Who::A, ports } => (0, ports),
        Strategy::PredictOne { hard: Who::B, ports } => (ports, 0),
        Strategy::PredictBoth(plan) => (plan.a, plan.b),
        Strategy::OneSends(_)
        | Strategy::BothSend
        | Strategy::Birthday { .. }
        | Strategy::GuessBoth { .. }
        | Strategy::Tcp(_)
        | Strategy::Relay(_) => return None,
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

fn part(pair: &Pair) -> Option<Part> {
    let me = pair.who();
    match pair.udp.as_ref()?.strategy {
        Strategy::PredictOne { hard, .. } if hard == me => Some(Part { sampled: true, tries: 0, stride: 0 }),
        Strategy::PredictOne { ports, .. } => {
            use shared::nat::Mapping;
            let free = matches!(
                pair.mine.behaviour.mapping,
                Some(Mapping::Direct | Mapping::EndpointIndependent | Mapping::AddressDependent)
            );
            let tries = if free { ports.max(AT_LEAST) } else { ports };
            Some(Part { sampled: false, tries, stride: 1 })
        }
        Strategy::PredictBoth(plan) => Some(match me {
            Who::A => Part { sampled: true, tries: plan.a, stride: plan.stride },
            Who::B => Part { sampled: true, tries: plan.b, stride: 1 },
        }),
        Strategy::OneSends(_)
        | Strategy::BothSend
        | Strategy::Birthday { .. }
        | Strategy::GuessBoth { .. }
        | Strategy::Tcp(_)
        | Strategy::Relay(_) => None,
    }
}

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let part = part(&attempt.pair).unwrap_or(Part { sampled: false, tries: 0, stride: 0 });
    attempt.meet(RoundCandidates::default()).await?;
    let prepared = if part.sampled {
        attempt.predictable().await
    } else {
        attempt.fresh().await.map(|(socket, at)| (socket, RoundCandidates { at: vec![at], next: None }))
    };
    let (sockets, mut candidates): (Vec<_>, Vec<_>) = prepared.into_iter().unzip();
    let peer = attempt.meet(candidates.pop().unwrap_or_default()).await?;
    let remotes = attempt.vouched(&peer.at).map(|at| remotes(part, at, &peer)).unwrap_or_default();
    let targets = pairs(&sockets, &remotes);
    if !attempt.pair.is_harmless() {
        attempt.open_gateway(&targets).await?;
    }
    Ok(attempt.burst(&Burst::short(targets)).await.into())
}

fn remotes(part: Part, at: SocketAddr, peer: &RoundCandidates) -> Vec<SocketAddr> {
    match peer.next {
        Some(next) if part.tries > 0 => (0..part.tries)
            .map(|n| SocketAddr::new(at.ip(), at_step(next.port, next.step, n * part.stride)))
            .collect(),
        Some(_) | None => vec![at],
    }
}
