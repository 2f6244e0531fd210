//! Many sockets on one side, many guesses on the other: among so many, two meet (the birthday paradox).

use std::{net::SocketAddr, time::Duration};

use shared::{nat::PortAllocation, rendezvous::peer::RoundCandidates};

use super::Method;
use crate::{
    contactable::LOWEST_PORT,
    punch::{
        attempt::{Attempt, Ended, at_step},
        burst::{Burst, SEND_INTERVAL, SHORT_WINDOW, pairs},
        forecast::Pair,
        introducer::IntroError,
    },
    technique::Technique,
    verdict::predict::{Budget, Strategy, Tries, Who, ports_to_try},
};

pub(super) const METHOD: Method = Method {
    technique: Technique::Birthday,
    about: "many sockets on one side, many guesses on the other",
    rounds: |pair| u32::from(Effort::of(pair).is_some()),
    cost: |pair| Some(Effort::of(pair)?.told(pair)),
    run: |attempt| Box::pin(run(attempt)),
};

/// Further guesses where the chance is meant to be high: some packets get lost.
const RESERVE: f64 = 1.7;

/// Which side opens sockets for guesses that a single one of the other side makes, and how many.
pub(in crate::punch) fn opens(pair: &Pair) -> Option<(Who, usize)> {
    let Effort { opener, opens, .. } = Effort::of(pair)?;
    let is_one_sided = matches!(pair.udp?.strategy, Strategy::Birthday { .. });
    is_one_sided.then_some((opener, opens.sockets as usize))
}

/// Who does how much.
#[derive(Clone, Copy)]
struct Effort {
    /// Who opens ports, and how many.
    opener: Who,
    opens: Tries,
    /// How many the other one guesses then.
    guesses: Tries,
    /// How often each of the two sends all that.
    times: (u32, u32),
}

impl Effort {
    fn of(pair: &Pair) -> Option<Self> {
        let udp = pair.udp.as_ref()?;
        let budget = Budget::DEFAULT;
        let (opener, opens, guesses, is_crossed) = match udp.strategy {
            Strategy::Birthday { hard, sockets, guesses } => {
                let ports = if udp.probability >= Some(budget.aim) {
                    // Fewer than a few thousand: no precision is lost.
                    ((f64::from(guesses) * RESERVE) as u32).min(budget.packets)
                } else {
                    guesses
                };
                (hard, Tries { sockets, ports: 1 }, Tries { sockets: 1, ports }, false)
            }
            Strategy::GuessBoth { a, b } if a.sockets >= b.sockets => (Who::A, a, b, true),
            Strategy::GuessBoth { a, b } => (Who::B, b, a, true),
            Strategy::OneSends(_)
            | Strategy::BothSend
            | Strategy::PredictOne { .. }
            | Strategy::PredictBoth(_)
            | Strategy::Tcp(_)
            | Strategy::Relay(_) => return None,
        };
        // Where the guesser's filter is the stricter one, its guesses are what opens it, and what the opener sends after
        // them gets through. Where both guess, one of the guesses has to.
        let openings = if is_crossed { 1 } else { 2 };
        // What got lost is guessed again, as far as the budget goes.
        let passes = if all(guesses) * 2 <= budget.packets { 2 } else { 1 };
        Some(Self { opener, opens, guesses, times: (openings, passes) })
    }

    fn told(self, pair: &Pair) -> String {
        let side = |tries: Tries, times: u32, is_opener: bool| {
            let name = if (pair.who() == self.opener) == is_opener { "this side" } else { "the peer" };
            let sockets = if tries.sockets == 1 { "socket" } else { "sockets" };
            format!("{name} sends up to {} packets from {} {sockets}", all(tries) * times, tries.sockets)
        };
        let opener = side(self.opens, self.times.0, true);
        let guesser = side(self.guesses, self.times.1, false);
        let seconds = (SEND_INTERVAL * all(self.opens) + self.window()).as_secs();
        format!("{opener}, {guesser}, within {seconds} s: each may take a mapping of a NAT that others share")
    }

    /// How long the guessing lasts, from its first packet.
    fn window(self) -> Duration {
        let (opening, guessing) = (SEND_INTERVAL * all(self.opens), SEND_INTERVAL * all(self.guesses));
        (guessing * self.times.1).max(guessing + opening * (self.times.0 - 1)) + SHORT_WINDOW
    }
}

fn all(tries: Tries) -> u32 {
    tries.sockets * tries.ports
}

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    // The plan has this round for pairs with a strategy only.
    let Some(effort) = Effort::of(&attempt.pair) else { return Err(IntroError::Broken) };
    let Effort { opener, opens, guesses, times } = effort;
    let crossed = matches!(attempt.pair.udp.map(|p| p.strategy), Some(Strategy::GuessBoth { .. }));
    let is_opener = attempt.pair.who() == opener;
    let mine = if is_opener { opens } else { guesses };
    if crossed {
        attempt.meet(RoundCandidates::default()).await?;
    }
    let mut candidates = RoundCandidates::default();
    let mut sockets = Vec::new();
    if crossed && mine.sockets == 1 && is_predictable(attempt.pair.mine.behaviour.ports.as_ref()) {
        if let Some((socket, predicted)) = attempt.predictable().await {
            (sockets, candidates) = (vec![socket], predicted);
        }
    } else if let Some((socket, at)) = first_socket(attempt).await {
        candidates.at.push(at);
        sockets.push(socket);
    }
    // Those that have a mapping towards the peer already come first.
    let opened = attempt.opened.iter().copied().filter(|opened| !sockets.contains(opened));
    sockets.extend(opened.take((mine.sockets as usize).saturating_sub(sockets.len())).collect::<Vec<_>>());
    if let Some((_, ip)) = attempt.servers.v4 {
        while sockets.len() < mine.sockets as usize {
            let Ok(socket) = attempt.sockets.open(ip).await else { break };
            sockets.push(socket);
        }
    }
    let peer = attempt.meet(candidates).await?;
    let theirs = attempt.pair.peers.behaviour.ports.clone();
    // Guesses go to where the server has seen the peer, whatever address its sample was at.
    let at = if crossed || !is_opener {
        attempt.vouched_at(peer.at.first().map_or(LOWEST_PORT, SocketAddr::port))
    } else {
        attempt.vouched(&peer.at)
    };
    let remotes = match at {
        Some(at) => remotes(attempt.sockets.choices(), at, &peer, theirs.as_ref(), mine.ports),
        None => Vec::new(),
    };
    let targets = pairs(&sockets, &remotes);
    let mut burst = Burst { window: effort.window(), ..Burst::default() };
    let opened = if is_opener { targets.len() } else { 0 };
    if crossed && !is_opener {
        // Its one mapping is made now, while the port that was predicted for it is the next one.
        attempt.send_all(&targets[..targets.len().min(1)], attempt.opener_ttl(), SEND_INTERVAL).await;
    }
    if is_opener {
        attempt.send_all(&targets, attempt.opener_ttl(), SEND_INTERVAL).await;
        (burst.targets, burst.after) = (targets.repeat(times.0 as usize - 1), SEND_INTERVAL * all(guesses));
    } else {
        burst.targets = targets.repeat(times.1 as usize);
    }
    // Ports have to be open before anybody guesses at them.
    attempt.meet(RoundCandidates::default()).await?;
    let mut outcome = attempt.burst(&burst).await;
    if is_opener {
        outcome.sent += u32::try_from(opened).unwrap_or(u32::MAX);
        outcome.report.sent = outcome.sent;
        outcome.report.to = remotes.into_iter().take(1).collect();
    }
    Ok(outcome.into())
}

/// A socket and its external endpoint: the one that was opened before the prediction, if any was.
async fn first_socket(attempt: &mut Attempt) -> Option<(usize, SocketAddr)> {
    if let (Some(socket), Some((server, _))) = (attempt.opened.first().copied(), attempt.servers.v4)
        && let Some(at) = attempt.sockets.external(socket, server).await
    {
        return Some((socket, at));
    }
    attempt.fresh().await
}

fn is_predictable(ports: Option<&PortAllocation>) -> bool {
    use shared::nat::PortPolicy;
    ports.is_some_and(|p| matches!(p.policy, PortPolicy::Preserving | PortPolicy::Sequential))
}

/// The ports to try: the one that is known, those that follow a known one, or any at random, each once.
fn remotes(
    rng: &mut fastrand::Rng,
    at: SocketAddr,
    peer: &RoundCandidates,
    theirs: Option<&PortAllocation>,
    count: u32,
) -> Vec<SocketAddr> {
    if let Some(next) = peer.next {
        return (0..count).map(|n| SocketAddr::new(at.ip(), at_step(next.port, next.step, n))).collect();
    }
    if count <= 1 {
        return vec![at];
    }
    let (low, high) = theirs.map_or((LOWEST_PORT, u16::MAX), ports_to_try);
    let mut ports: Vec<u16> = (low..=high).collect();
    rng.shuffle(&mut ports);
    ports.into_iter().take(count as usize).map(|port| SocketAddr::new(at.ip(), port)).collect()
}
