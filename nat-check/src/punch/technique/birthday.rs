//! Many sockets on one side, many guesses on the other: among so many, two meet (the birthday paradox).

use std::net::SocketAddr;

use shared::{
    nat::PortAllocation,
    rendezvous::{Hint, Technique},
};

use super::Means;
use crate::{
    punch::{
        attempt::{Attempt, Ended, at_step},
        forecast::Pair,
        introducer::IntroError,
        volley::{PACE, SHORT, Volley},
    },
    verdict::predict::{Budget, Recipe, Tries, Who, ports_to_try},
};

pub(super) const MEANS: Means = Means {
    technique: Technique::Birthday,
    about: "many sockets on one side, many guesses on the other",
    rounds: |pair| u32::from(recipe(pair).is_some()),
    cost: |pair| {
        let (opener, guesser) = recipe(pair)?;
        let opens = |tries: Tries, who: Who| {
            let side = if pair.who() == who { "this side" } else { "the peer" };
            format!("{side} sends {} packets from {} sockets", tries.sockets * tries.ports, tries.sockets)
        };
        Some(format!(
            "{}, {}, within {:.0} s: each may take a mapping of a NAT that others share",
            opens(opener.0, opener.1),
            opens(guesser.0, guesser.1),
            PACE.as_secs_f64()
                * f64::from(opener.0.sockets * opener.0.ports + guesser.0.sockets * guesser.0.ports),
        ))
    },
    run: |attempt| Box::pin(run(attempt)),
};

/// Further guesses where the chance is meant to be high: some packets get lost.
const RESERVE: f64 = 1.7;

/// Who opens ports and who guesses then, and with how much.
fn recipe(pair: &Pair) -> Option<((Tries, Who), (Tries, Who))> {
    let udp = pair.udp.as_ref()?;
    let budget = Budget::DEFAULT;
    match udp.recipe {
        Recipe::Birthday { hard, sockets, guesses } => {
            let ports = if udp.probability >= Some(budget.aim) {
                // Fewer than a few thousand: no precision is lost.
                ((f64::from(guesses) * RESERVE) as u32).min(budget.packets)
            } else {
                guesses
            };
            Some(((Tries { sockets, ports: 1 }, hard), (Tries { sockets: 1, ports }, hard.other())))
        }
        Recipe::Crossed { a, b } if a.sockets >= b.sockets => Some(((a, Who::A), (b, Who::B))),
        Recipe::Crossed { a, b } => Some(((b, Who::B), (a, Who::A))),
        Recipe::Dial(_)
        | Recipe::Both
        | Recipe::Window { .. }
        | Recipe::Mutual(_)
        | Recipe::Tcp(_)
        | Recipe::Relay(_) => None,
    }
}

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    // The plan has this round for pairs with a recipe only.
    let Some(((opens, opener), (guesses, _))) = recipe(&attempt.pair) else { return Err(IntroError::Broken) };
    let crossed = matches!(attempt.pair.udp.map(|p| p.recipe), Some(Recipe::Crossed { .. }));
    let mine = if attempt.pair.who() == opener { opens } else { guesses };
    let mut hint = Hint::default();
    let mut sockets = Vec::new();
    if crossed && mine.sockets == 1 && is_predictable(attempt.pair.mine.behaviour.ports.as_ref()) {
        if let Some((socket, predicted)) = attempt.predictable().await {
            (sockets, hint) = (vec![socket], predicted);
        }
    } else if let Some((socket, at)) = attempt.fresh().await {
        hint.at.push(at);
        sockets.push(socket);
    }
    if let Some((_, ip)) = attempt.servers.v4 {
        while sockets.len() < mine.sockets as usize {
            let Ok(socket) = attempt.post.open(ip).await else { break };
            sockets.push(socket);
        }
    }
    let peer = attempt.meet(hint).await?;
    let theirs = attempt.pair.peers.behaviour.ports.clone();
    let targets = match attempt.vouched(&peer.at) {
        Some(at) => targets(attempt.post.rng(), at, &peer, theirs.as_ref(), mine.ports),
        None => Vec::new(),
    };
    let shots: Vec<_> = sockets.iter().flat_map(|s| targets.iter().map(move |to| (*s, *to))).collect();
    // What got lost is guessed again, as far as the budget goes.
    let all = guesses.sockets * guesses.ports;
    let passes = if all * 2 <= Budget::DEFAULT.packets { 2 } else { 1 };
    let window = PACE * (all * passes) + SHORT;
    let mut volley = Volley { shots: Vec::new(), again: false, window };
    if attempt.pair.who() == opener {
        attempt.fire(&shots, attempt.opener_ttl()).await;
    } else {
        volley.shots = shots.repeat(passes as usize);
    }
    // Ports have to be open before anybody guesses at them.
    attempt.meet(Hint::default()).await?;
    let sent = attempt.post.sent();
    let mut outcome = crate::punch::volley::run(&mut attempt.field(), &volley).await;
    if attempt.pair.who() == opener {
        outcome.account.sent += sent.min(mine.sockets * mine.ports);
        outcome.account.to = targets.into_iter().take(1).collect();
    }
    Ok(outcome.into())
}

fn is_predictable(ports: Option<&PortAllocation>) -> bool {
    use shared::nat::PortPolicy;
    ports.is_some_and(|p| matches!(p.policy, PortPolicy::Preserving | PortPolicy::Sequential))
}

/// The ports to try: the one that is known, those that follow a known one, or any at random, each once.
fn targets(
    rng: &mut fastrand::Rng,
    at: SocketAddr,
    peer: &Hint,
    theirs: Option<&PortAllocation>,
    count: u32,
) -> Vec<SocketAddr> {
    if let Some(next) = peer.next {
        return (0..count).map(|n| SocketAddr::new(at.ip(), at_step(next.port, next.step, n))).collect();
    }
    if count <= 1 {
        return vec![at];
    }
    let (low, high) = theirs.map_or((1024, 65535), ports_to_try);
    let mut ports: Vec<u16> = (low..=high).collect();
    rng.shuffle(&mut ports);
    ports.into_iter().take(count as usize).map(|port| SocketAddr::new(at.ip(), port)).collect()
}
