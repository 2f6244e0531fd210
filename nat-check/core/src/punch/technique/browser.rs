//! One round with a browser: connectivity checks of ICE over all that both have. The browser checks every candidate that it
//! is told, guesses of ports among them.

use std::time::Duration;

use shared::rendezvous::peer::RoundCandidates;
use tokio::time::sleep;

use super::{Method, cheap, prediction};
use crate::{
    punch::{
        attempt::{Attempt, Ended, USUAL_TTL, opener_ttls},
        burst::{Burst, Path, pairs},
        forecast::Pair,
        ice,
        introducer::IntroError,
    },
    technique::Technique,
    verdict::predict::Strategy,
};

/// By what is expected to find the path; what is done is the same.
const METHODS: [Method; 5] = [
    method(Technique::Simultaneous, "checks of a browser and of this side at the same moment"),
    method(Technique::Lan, "checks of a browser on the local network, too"),
    method(Technique::LowTtl, "this side opens its gateway, then the browser checks, then this side"),
    method(Technique::Ipv6, "checks of a browser over IPv6, too"),
    method(Technique::Prediction, "checks of a browser at or from the next port of a gateway"),
];

const fn method(technique: Technique, about: &'static str) -> Method {
    Method { technique, about, rounds: |_| 1, cost: cheap, run: |attempt| Box::pin(run(attempt)) }
}

/// Ports that a browser is given to guess, at most: it checks some twenty candidates a second.
const MOST_PORTS: u32 = 16;
/// A browser may be slow to begin, and checks again and again.
const WINDOW: Duration = Duration::from_secs(7);
/// From the start until a browser that waits half a second has sent its first checks.
const BROWSER_FIRST: Duration = Duration::from_millis(1500);

/// One round, if there is a technique to agree on.
pub(in crate::punch) fn plan(pair: &Pair) -> Vec<&'static Method> {
    let expected = pair.forecast().technique;
    let agreed = METHODS.iter().filter(|method| pair.agrees_on(method.technique));
    agreed.max_by_key(|method| Some(method.technique) == expected).into_iter().collect()
}

/// What keeps a browser from what the prediction would need, if anything does.
pub(in crate::punch) fn obstacle(pair: &Pair, strategy: Strategy) -> Option<&'static str> {
    let browser = if pair.peers.is_browser() { pair.who().other() } else { pair.who() };
    match strategy {
        Strategy::Birthday { .. } | Strategy::GuessBoth { .. } => {
            Some("ports would have to be guessed by the hundred, which a browser cannot")
        }
        Strategy::PredictBoth(_) => Some(
            "both ports change with the destination, and a browser cannot guess one while its own is guessed",
        ),
        Strategy::PredictOne { hard, ports } if hard != browser && ports > MOST_PORTS => {
            Some("more ports would have to be guessed than a browser can check in time")
        }
        Strategy::Tcp(_) => Some("UDP is blocked on one side, and a browser cannot connect over TCP"),
        Strategy::PredictOne { .. } | Strategy::OneSends(_) | Strategy::BothSend | Strategy::Relay(_) => None,
    }
}

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let Some(ice) = attempt.ice.clone() else { return Err(IntroError::BadPeerMessage) };
    let part = prediction::part(&attempt.pair).unwrap_or_default();
    let (mut sockets, mut candidates) = (Vec::new(), RoundCandidates::default());
    if part.sampled {
        let (socket, at) = attempt.predictable().await.unzip();
        sockets.extend(socket);
        candidates = at.unwrap_or_default();
    } else {
        sockets.extend(attempt.first);
        candidates.at.clone_from(&attempt.pair.mine.external);
    }
    if let Some((server, ip)) = attempt.servers.v6.filter(|_| attempt.pair.udp6.is_some())
        && let Some((socket, at)) = attempt.sockets.open_seen(ip, server).await
    {
        sockets.push(socket);
        candidates.at.push(at);
    }
    let peer = attempt.meet(candidates).await?;
    let (here, elsewhere) = prediction::remotes(attempt, part, &peer);
    let others = attempt.reachable(&peer.at);
    let remotes: Vec<_> = if part.tries > 0 { here } else { [here, others].concat() };
    let targets = same_family(attempt, pairs(&sockets, &remotes));
    if !attempt.pair.is_harmless() {
        // The browser begins half a second late, so that this gateway is open; and this side sends further only when that
        // of the browser is.
        for ttl in opener_ttls(attempt.pair.mine.opener_ttl) {
            ice::open(&mut attempt.context(), &ice, &targets, ttl.into(), USUAL_TTL).await;
        }
        sleep(BROWSER_FIRST).await;
    }
    let burst = Burst { window: WINDOW, ..Burst::short(targets).and_briefly(pairs(&sockets, &elsewhere)) };
    Ok(ice::run(&mut attempt.context(), &ice, &burst).await.into())
}

/// Those whose two ends are of one family, each once.
fn same_family(attempt: &Attempt, all: Vec<Path>) -> Vec<Path> {
    let mut targets: Vec<Path> = Vec::new();
    for path in all {
        let local = attempt.sockets.local(path.socket);
        if local.is_some_and(|local| local.is_ipv4() == path.remote.is_ipv4()) && !targets.contains(&path) {
            targets.push(path);
        }
    }
    targets
}
