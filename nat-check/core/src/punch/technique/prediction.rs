//! The next port of a gateway is predicted from its last one, or from the local port that it preserves.

use std::net::SocketAddr;

use shared::rendezvous::peer::{Offer, RoundCandidates};

use super::Method;
use crate::{
    punch::{
        attempt::{Attempt, Ended, at_step},
        behaviour,
        burst::{Burst, pairs},
        forecast::Pair,
        introducer::IntroError,
    },
    technique::Technique,
    verdict::predict::{Budget, Side, Strategy, Who},
};

pub(super) const METHOD: Method = Method {
    technique: Technique::Prediction,
    about: "the next port of a gateway is predicted from its last one",
    rounds: |pair| if part(pair).is_some() { Budget::DEFAULT.rounds } else { 0 },
    cost,
    run: |attempt| Box::pin(run(attempt)),
};

/// Ports that a side tries at least, if that opens no further mapping: others may use the same gateway meanwhile.
pub(super) const AT_LEAST: u32 = 8;

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
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    pub(super) sampled: bool,
    pub(super) tries: u32,
    /// How many at each of the external addresses that nobody vouches for.
    elsewhere: u32,
    stride: u32,
}

pub(super) fn part(pair: &Pair) -> Option<Part> {
    let me = pair.who();
    match pair.udp.as_ref()?.strategy {
        Strategy::PredictOne { hard, .. } if hard == me => Some(Part { sampled: true, ..Part::default() }),
        Strategy::PredictOne { ports, .. } => {
            use shared::nat::Mapping;
            let free = matches!(
                pair.mine.behaviour.mapping,
                Some(Mapping::Direct | Mapping::EndpointIndependent | Mapping::AddressDependent)
            );
            let tries = if free { ports.max(AT_LEAST) } else { ports };
            let addresses = behaviour::side(&pair.peers.behaviour, pair.peer).and_then(Side::addresses);
            let elsewhere = addresses.map_or(0, |addresses| addresses.guessed_elsewhere(ports));
            Some(Part { sampled: false, tries, elsewhere, stride: 1 })
        }
        Strategy::PredictBoth(plan) => Some(match me {
            Who::A => Part { sampled: true, tries: plan.a, elsewhere: 0, stride: plan.stride },
            Who::B => Part { sampled: true, tries: plan.b, elsewhere: 0, stride: 1 },
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
    let part = part(&attempt.pair).unwrap_or_default();
    attempt.meet(RoundCandidates::default()).await?;
    let prepared = if part.sampled {
        attempt.predictable().await
    } else {
        attempt.fresh().await.map(|(socket, at)| (socket, RoundCandidates { at: vec![at], next: None }))
    };
    let (sockets, mut candidates): (Vec<_>, Vec<_>) = prepared.into_iter().unzip();
    let peer = attempt.meet(candidates.pop().unwrap_or_default()).await?;
    let (here, elsewhere) = remotes(attempt, part, &peer);
    let targets = pairs(&sockets, &here);
    if !attempt.pair.is_harmless() {
        attempt.open_gateway(&targets).await?;
    }
    let burst = Burst::short(targets).and_briefly(pairs(&sockets, &elsewhere));
    Ok(attempt.burst(&burst).await.into())
}

/// Where this side sends to: the peer's known endpoint, or the ports that its next mapping may get, at the address where
/// the server has seen it and, a few of them, at its other external addresses.
pub(super) fn remotes(
    attempt: &Attempt,
    part: Part,
    peer: &RoundCandidates,
) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
    let Some(next) = peer.next.filter(|_| part.tries > 0) else {
        return (attempt.contactable(&peer.at).into_iter().take(1).collect(), Vec::new());
    };
    let port = |n: u32| at_step(next.port, next.step, n * part.stride);
    let here = (0..part.tries).filter_map(|n| attempt.vouched_at(port(n))).collect();
    let few = (0..part.elsewhere).flat_map(|n| {
        let at = SocketAddr::new(attempt.sockets.contacts().peer(), port(n));
        attempt.elsewhere(at)
    });
    (here, few.collect())
}
