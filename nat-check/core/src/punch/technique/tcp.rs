//! Both connect to each other over TCP at the same moment, and listen at the ports that they connect from: two SYNs cross
//! (RFC 9293 section 3.5), each gateway takes the other's for an answer (RFC 5382 REQ-2); or one of them is accepted.

mod connect;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::{
    nat::Mapping,
    rendezvous::{
        Role,
        peer::{NextPort, RoundCandidates, TcpSide},
    },
    stun::TransactionId,
};
use tokio::time::{Instant, sleep, timeout};

use super::{Method, cheap, prediction::AT_LEAST};
use crate::{
    net::{Net, Stream, TcpPort},
    punch::{
        attempt::{Attempt, Ended, at_step},
        burst::Path,
        checks::Outcome,
        forecast::Pair,
        introducer::IntroError,
    },
    stun_over_tcp,
    technique::Technique,
    verdict::predict::{
        Prediction, Strategy, Who,
        tcp::{CONNECTIONS, Doubt, OverTcp, ROUNDS},
    },
};
use connect::{Meeting, Nomination};

pub(super) const METHOD: Method = Method {
    technique: Technique::Tcp,
    about: "both connect over TCP at the same moment",
    rounds: |pair| match pair.tcp {
        Some(OverTcp::Way(_)) => ROUNDS,
        Some(OverTcp::Unknown(Doubt::EarlySyn, _)) => ROUNDS,
        Some(OverTcp::Unknown(..)) => 1,
        Some(OverTcp::NoWay(_)) | None => 0,
    },
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

/// How long the server may take: a SYN that gets lost is sent again after a second, and after three.
const ANSWER: Duration = Duration::from_secs(5);
/// Where others take the ports in between, a sample that has waited for a SYN to be sent again is of no use.
const LATE: Duration = Duration::from_millis(700);
/// Samples that are tried.
const SAMPLES: u32 = 3;

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let part = part(&attempt.pair);
    if predicted(&attempt.pair).is_some() {
        // The two have to begin with it at the same moment: others take ports while one waits for the other.
        attempt.meet(RoundCandidates::default()).await?;
    }
    let prepared = prepare(attempt, part).await;
    let candidates = prepared.as_ref().map(|here| here.candidates.clone()).unwrap_or_default();
    let peer = attempt.meet(candidates).await?;
    let targets = targets(attempt, part, &peer);
    let mut outcome = Outcome::default();
    let mut stream = None;
    // The connection to the server stays open: with it the mapping.
    if let Some(here) = prepared {
        outcome.report.to.extend(targets.first());
        let meeting = Meeting {
            port: here.port,
            keys: attempt.keys.clone(),
            peer: attempt.sockets.contacts().peer(),
            nomination: nomination(&attempt.pair),
        };
        // A gateway that would refuse what comes too early, and remember it, is opened from inside first.
        sleep(attempt.pair.waits_over_tcp()).await;
        let connected = meeting.hold(targets).await;
        (outcome.sent, outcome.refused) = (connected.tries, connected.refused);
        // How many connections it took shows whether they were refused, which is not the peer's to know.
        outcome.report.sent = 1;
        if let Some(found) = connected.found {
            outcome.report.through = true;
            outcome.report.heard = 1;
            outcome.first_heard = Some(Instant::now());
            outcome.rtt = Some(found.rtt);
            outcome.path = Some(Path { socket: 0, remote: found.remote });
            stream = Some(found.stream);
        }
    }
    Ok(Ended { outcome, stream })
}

/// How the two come to use the same one of several connections.
fn nomination(pair: &Pair) -> Nomination {
    let nominates = |tcp: &Option<TcpSide>| tcp.as_ref().is_some_and(|tcp| tcp.nominates);
    match pair.role {
        _ if !(nominates(&pair.mine.tcp) && nominates(&pair.peers.tcp)) => Nomination::OnlyOne,
        Role::First => Nomination::Controlling,
        Role::Second => Nomination::Controlled,
    }
}

/// How a port is predicted, where one has to be.
fn predicted(pair: &Pair) -> Option<Strategy> {
    match pair.tcp.as_ref()? {
        OverTcp::Way(Prediction { strategy, .. }) | OverTcp::Unknown(_, strategy) => {
            matches!(strategy, Strategy::PredictOne { .. } | Strategy::PredictBoth(_)).then_some(*strategy)
        }
        OverTcp::NoWay(_) => None,
    }
}

/// What this side does: whether its own next port is to be known, how many ports of the peer it tries, which ones.
#[derive(Clone, Copy, Default)]
struct Part {
    sampled: bool,
    tries: u32,
    stride: u32,
}

/// Where nothing has to be predicted, it connects to where the peer says that it is.
fn part(pair: &Pair) -> Part {
    let me = pair.who();
    match predicted(pair) {
        Some(Strategy::PredictOne { hard, .. }) if hard == me => Part { sampled: true, ..Part::default() },
        Some(Strategy::PredictOne { ports, .. }) => {
            let mapping = pair.mine.tcp.as_ref().and_then(|tcp| tcp.mapping);
            let is_free =
                !matches!(mapping, None | Some(Mapping::AddressAndPortDependent | Mapping::PortDependent));
            Part { tries: if is_free { ports.max(AT_LEAST) } else { ports }, stride: 1, sampled: false }
        }
        Some(Strategy::PredictBoth(plan)) => {
            let (tries, stride) = if me == Who::A { (plan.a, plan.stride) } else { (plan.b, 1) };
            Part { sampled: true, tries, stride }
        }
        _ => Part::default(),
    }
}

/// The local port of a round.
struct Here {
    port: Arc<dyn TcpPort>,
    candidates: RoundCandidates,
    _kept: Box<dyn Stream>,
}

/// Takes a port and learns where the server sees it; where the next port is to be known, that, too.
async fn prepare(attempt: &mut Attempt, part: Part) -> Option<Here> {
    let (server, ip) = attempt.servers.v4?;
    let ports = attempt.pair.mine.tcp.as_ref().and_then(|tcp| tcp.ports.clone()).filter(|_| part.sampled);
    let soon = attempt.introducer.rtt() * 3 + LATE;
    for sample in 1..=SAMPLES {
        let port = take(&*attempt.net, ip).await?;
        let id = attempt.sockets.transaction_id()?;
        let begun = Instant::now();
        let learned = timeout(ANSWER, external(&*port, server, id)).await;
        let is_late = part.sampled && begun.elapsed() > soon && sample < SAMPLES;
        let Ok(Ok((kept, at))) = learned else { continue };
        if is_late {
            continue;
        }
        let here = |port, next| {
            let candidates = RoundCandidates { at: vec![at], next };
            Some(Here { port, candidates, _kept: kept })
        };
        return match ports.map(|ports| ports.delta) {
            None => here(port, None),
            // The sample is the last thing that happens before both go.
            Some(Some(step)) => here(port, Some(NextPort { port: at_step(at.port(), step, 1), step })),
            // A local port is kept for its first mapping alone.
            Some(None) => {
                let spare = take(&*attempt.net, ip).await?;
                let next = NextPort { port: spare.local_addr().ok()?.port(), step: 1 };
                here(spare, Some(next))
            }
        };
    }
    None
}

async fn take(net: &dyn Net, ip: IpAddr) -> Option<Arc<dyn TcpPort>> {
    net.tcp_port(SocketAddr::new(ip, 0)).await.ok().map(Arc::from)
}

/// A connection to the server, and where that sees it come from.
pub(in crate::punch) async fn external(
    port: &dyn TcpPort,
    server: SocketAddr,
    id: TransactionId,
) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
    let mut stream = port.connect(server).await?;
    let at = stun_over_tcp::binding(&mut *stream, id).await?;
    Ok((stream, at))
}

/// Where this side connects to, all at the address where the server has seen the peer.
fn targets(attempt: &Attempt, part: Part, peer: &RoundCandidates) -> Vec<SocketAddr> {
    match peer.next.filter(|_| part.tries > 0) {
        Some(next) => {
            let port = |n: u32| at_step(next.port, next.step, n * part.stride);
            (0..part.tries.min(CONNECTIONS)).filter_map(|n| attempt.vouched_at(port(n))).collect()
        }
        None => attempt.vouched(&peer.at).into_iter().collect(),
    }
}
