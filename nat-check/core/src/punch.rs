//! Really punch: two clients, introduced by a probe server, try to reach each other directly, and the outcome stands
//! beside the prediction.
//!
//! The way of an attempt: each side measures its network (`gather`) while it waits at the `introducer`; the offers
//! are exchanged, the prediction is made (`forecast`), and from what both know both derive the same list of rounds
//! (`technique`). A round is a `volley` from the sockets of the `post`; after each, both tell what they saw. A
//! path that is found is held (`hold`), and the `report` is written.

mod attempt;
mod failure;
mod forecast;
mod gather;
mod hold;
mod introducer;
mod look;
mod post;
pub mod report;
pub mod secure;
mod technique;
#[cfg(test)]
mod tests;
mod volley;
mod wire;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    nat::NatType,
    rendezvous::{
        Code, Technique,
        peer::{self, Behaviour, Offer, PeerMessage},
    },
};
use tokio::time::{Instant, sleep_until};

pub use introducer::IntroError;

use crate::{
    net::{Net, Stream},
    progress::{Event, Progress},
    target::Target,
};
use attempt::{Attempt, Seen, is_decent};
use forecast::{Forecast, Pair};
use gather::Known;
use hold::Held;
use introducer::{Introducer, Paired};
use post::Post;
use report::{Predicted, PunchDocument, PunchOutcome, PunchReport, RoundReport, SideReport};
use secure::Secure;
use volley::Way;
use wire::Nonces;

/// What is to be tried.
#[derive(Clone, Debug)]
pub struct PunchSetup {
    /// The code that the peer was given; none = give one to the peer.
    pub code: Option<Code>,
    /// How long the peer is waited for.
    pub wait: Duration,
    /// How long a path is held.
    pub hold: Duration,
    /// What may be tried.
    pub techniques: Vec<Technique>,
    /// How long the measurement of the own network may take.
    pub measuring: Duration,
    /// What every random choice follows from.
    pub seed: u64,
    /// The secret that the peer's packets have to show: from a source that nobody can predict.
    pub nonce: [u8; 16],
    /// How the rendezvous is reached over TLS; none = without.
    pub tls: Option<Secure>,
    /// Waits so long before each round: to try how much two clocks may differ.
    pub lag: Duration,
}

impl Default for PunchSetup {
    /// Everything, for a minute's wait and five seconds' hold.
    fn default() -> Self {
        Self {
            code: None,
            wait: Duration::from_secs(60),
            hold: Duration::from_secs(5),
            techniques: Technique::ALL.to_vec(),
            measuring: Duration::from_secs(15),
            seed: 0,
            nonce: [0; 16],
            tls: None,
            lag: Duration::ZERO,
        }
    }
}

/// What a person is told on the way.
#[derive(Clone, Debug)]
pub enum Note<'a> {
    /// The session is open: the peer needs this.
    Code(Code),
    /// Nobody has come yet; told every second.
    Waiting {
        /// How much longer the peer is waited for.
        left: Duration,
    },
    /// Both are here.
    Met,
    /// The prediction, before the first round.
    Predicted(&'a Predicted),
    /// A round begins.
    Round {
        /// Counts from 1.
        number: u32,
        /// How many there may be.
        of: u32,
        /// What is tried.
        technique: Technique,
        /// What that is.
        about: &'a str,
    },
    /// Something to know before it happens.
    Warning(&'a str),
    /// A path was found and is being held.
    Through(Technique),
}

/// Listens to an attempt.
pub trait Audience: Send + Sync {
    /// Takes note. Must not block.
    fn note(&self, note: Note<'_>);
}

/// Opens a session or joins one, and punches.
///
/// # Errors
/// When the rendezvous cannot be reached or refuses, or when nobody comes. An attempt that fails is no error but a
/// report.
pub async fn punch(
    setup: &PunchSetup,
    net: Arc<dyn Net>,
    target: &Target,
    progress: &dyn Progress,
    audience: &dyn Audience,
) -> Result<PunchDocument, IntroError> {
    let mut introducer = Introducer::connect(&*net, target, setup.tls.as_ref()).await?;
    match setup.code {
        Some(code) => introducer.join(code).await?,
        None => audience.note(Note::Code(introducer.open().await?)),
    }
    let target = completed(target, introducer.stun());
    // Measured while the peer is waited for; but without a peer there is no need for the rest of it.
    let measuring = gather::measure(setup, &net, &target, progress);
    let waiting = async {
        let paired = introducer.paired(setup.wait);
        let tell = |waited: Duration| {
            let left = setup.wait.saturating_sub(waited);
            audience.note(Note::Waiting { left });
            format!("{} s left", left.as_secs_f64().round())
        };
        let name = ("waiting for the peer", "until somebody joins with the code");
        let paired = accompanied(paired, progress, name, tell).await;
        if paired.is_ok() {
            audience.note(Note::Met);
        }
        paired
    };
    let (paired, known) = tokio::join!(waiting, measuring);
    let listeners = Listeners { audience, progress };
    let punch = attempt(setup, net, introducer, paired?, known, listeners).await?;
    Ok(PunchDocument { version: 1, tool: concat!("nat-check ", env!("CARGO_PKG_VERSION")).into(), punch })
}

/// The same server with the family that the name did not have, if the server says that it has it.
fn completed(target: &Target, stun: &[SocketAddr]) -> Target {
    let of = |v4: bool| stun.iter().copied().find(|at| at.is_ipv4() == v4 && is_decent(*at));
    Target { v4: target.v4.or(of(true)), v6: target.v6.or(of(false)), ..target.clone() }
}

/// Who is told on the way.
#[derive(Clone, Copy)]
struct Listeners<'a> {
    audience: &'a dyn Audience,
    progress: &'a dyn Progress,
}

/// Waits for something that takes long, and shows once a second how far it is.
async fn accompanied<T>(
    work: impl Future<Output = T>,
    progress: &dyn Progress,
    (test, about): (&str, &str),
    tell: impl Fn(Duration) -> String,
) -> T {
    const TICK: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    progress.event(Event::Started { test, about });
    tokio::pin!(work);
    let mut next = begun + TICK;
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            () = sleep_until(next) => {
                next += TICK;
                progress.event(Event::Advanced { test, so_far: &tell(begun.elapsed()) });
            }
        }
    };
    progress.event(Event::Finished { test, took: begun.elapsed() });
    done
}

/// What the rounds came to.
#[derive(Default)]
struct Tried {
    rounds: Vec<RoundReport>,
    found: Option<Found>,
    first_heard: Option<Instant>,
    warnings: Vec<String>,
    /// Why the attempt ended before all rounds were tried.
    broken: Option<IntroError>,
}

struct Found {
    technique: Technique,
    way: Option<Way>,
    stream: Option<Box<dyn Stream>>,
    rtt: Option<Duration>,
}

async fn attempt(
    setup: &PunchSetup,
    net: Arc<dyn Net>,
    mut introducer: Introducer,
    paired: Paired,
    known: Known,
    listeners: Listeners<'_>,
) -> Result<PunchReport, IntroError> {
    let audience = listeners.audience;
    let mut post = Post::new(Arc::clone(&net), setup.seed);
    let (mine, first) = gather::offer(setup, &known, introducer.rtt(), &mut post).await;
    let peers = match introducer.exchange(PeerMessage::Offer(Box::new(mine.clone()))).await? {
        PeerMessage::Offer(peers) => *peers,
        _ => return Err(IntroError::BadPeerMessage),
    };
    let introduced = Instant::now();
    let nonces = Nonces { mine: mine.nonce, peer: peers.nonce };
    let hold = setup.hold.min(Duration::from_millis(peers.hold_ms.into()));
    let pair = Pair::new(paired.role, mine, peers, paired.you, paired.peer);
    let forecast = pair.forecast();
    let predicted = predicted(&forecast);
    audience.note(Note::Predicted(&predicted));
    let mut attempt = Attempt {
        net,
        post,
        introducer,
        pair,
        nonces,
        servers: known.servers,
        first,
        round: 0,
        epoch: introduced,
        seen: Seen::default(),
    };
    let mut tried = rounds(&mut attempt, setup.lag, listeners).await;
    let (held, via_server) = match &mut tried.found {
        Some(found) => {
            audience.note(Note::Through(found.technique));
            keep(&mut attempt, found, hold).await
        }
        None => (Held::default(), None),
    };
    let seconds = |d: Duration| (d.as_secs_f64() * 1e6).round() / 1e6;
    let way = tried.found.as_ref().and_then(|found| found.way);
    let rtt = held.rtt().or(tried.found.as_ref().and_then(|found| found.rtt));
    let first_packet = tried.first_heard.filter(|_| tried.found.is_some());
    let why = why(&tried, &forecast);
    let side = |offer: &Offer, nat_type| {
        // Whoever has no IPv4 address is described by its IPv6.
        let behaviour = offer.ipv6.as_ref().filter(|_| offer.lan.is_empty()).unwrap_or(&offer.behaviour);
        side_report(behaviour, offer, nat_type)
    };
    Ok(PunchReport {
        outcome: if tried.found.is_some() { PunchOutcome::Direct } else { PunchOutcome::Failed },
        technique: tried.found.as_ref().map(|found| found.technique),
        local: way.and_then(|way| local(&attempt, way, tried.found.as_ref())),
        remote: way.map(|way| way.remote),
        rtt_s: rtt.map(seconds),
        rtt_via_server_s: via_server.map(seconds),
        first_packet_s: first_packet.map(|at| seconds(at.saturating_duration_since(introduced))),
        rounds: u32::try_from(tried.rounds.len()).unwrap_or(u32::MAX),
        held_s: tried.found.is_some().then(|| seconds(held.held)),
        loss: held.loss(),
        jitter_s: held.jitter().map(seconds),
        packets: attempt.post.sent(),
        predicted,
        this: side(&attempt.pair.mine, known.nat_type),
        peer: side(&attempt.pair.peers, None),
        role: attempt.pair.role,
        attempts: tried.rounds,
        why,
        warnings: tried.warnings,
    })
}

/// Round after round, until one finds a path or all were tried.
async fn rounds(attempt: &mut Attempt, lag: Duration, listeners: Listeners<'_>) -> Tried {
    let Listeners { audience, progress } = listeners;
    let plan = technique::plan(&attempt.pair);
    let mut tried = Tried::default();
    let of = u32::try_from(plan.len()).unwrap_or(u32::MAX);
    for (number, means) in (1..).zip(plan) {
        attempt.round = u8::try_from(number).unwrap_or(u8::MAX);
        if let Some(cost) = (means.cost)(&attempt.pair) {
            let warning = format!("{}: {cost}", means.technique);
            audience.note(Note::Warning(&warning));
            tried.warnings.push(warning);
        }
        audience.note(Note::Round { number, of, technique: means.technique, about: means.about });
        tokio::time::sleep(lag).await;
        attempt.seen =
            Seen { mine: attempt.pair.mine.external.clone(), peers: attempt.pair.peers.external.clone() };
        let name = means.technique.to_string();
        let tell = |since: Duration| format!("{} s", since.as_secs());
        let round = accompanied((means.run)(attempt), progress, (&name, means.about), tell).await;
        let ended = match round {
            Ok(ended) => ended,
            Err(error) => {
                tried.broken = Some(error);
                return tried;
            }
        };
        let mut round = report_of(means.technique, &ended.outcome.report, attempt.seen.clone());
        let told = attempt.introducer.exchange(PeerMessage::RoundReport(ended.outcome.report.clone())).await;
        if let Ok(PeerMessage::RoundReport(theirs)) = &told {
            round.peer_to.clone_from(&theirs.to);
            round.peer_sent = Some(theirs.sent);
            round.peer_heard = Some(theirs.heard);
            round.through |= theirs.through;
        }
        let through = round.through;
        tried.rounds.push(round);
        tried.first_heard = tried.first_heard.or(ended.outcome.first_heard);
        if through {
            let (way, rtt) = (ended.outcome.way, ended.outcome.rtt);
            tried.found = Some(Found { technique: means.technique, way, stream: ended.stream, rtt });
            return tried;
        }
        if let Err(error) = told {
            tried.broken = Some(error);
            return tried;
        }
    }
    tried
}

/// Measures the way around, then holds the path.
async fn keep(attempt: &mut Attempt, found: &mut Found, hold: Duration) -> (Held, Option<Duration>) {
    // The peer may be gone as soon as it has what it wants: then there is no figure.
    let via_server = attempt.introducer.rtt_through_server().await.ok().flatten();
    let together = attempt.introducer.exchange(PeerMessage::RoundReport(peer::RoundReport::default())).await;
    if together.is_err() || hold.is_zero() {
        return (Held::default(), via_server);
    }
    let held = match (&mut found.stream, &mut found.way) {
        (Some(stream), _) => hold::over_tcp(&mut **stream, &attempt.nonces, hold).await,
        (None, Some(way)) => {
            let rtt = found.rtt.unwrap_or(attempt.introducer.rtt());
            hold::over_udp(&mut attempt.post, &attempt.nonces, way, hold, rtt).await
        }
        (None, None) => Held::default(),
    };
    (held, via_server)
}

fn report_of(technique: Technique, report: &peer::RoundReport, seen: Seen) -> RoundReport {
    RoundReport {
        technique,
        through: report.through,
        seen_as: seen.mine,
        peer_seen_as: seen.peers,
        to: report.to.clone(),
        peer_to: Vec::new(),
        sent: report.sent,
        heard: report.heard,
        refused: report.refused,
        peer_sent: None,
        peer_heard: None,
    }
}

fn why(tried: &Tried, forecast: &Forecast) -> String {
    match (&tried.found, &tried.broken) {
        (Some(found), _) if forecast.technique == Some(found.technique) => sentence(&forecast.why),
        (Some(found), _) => {
            format!("Found by {}, though something else was expected: {}.", found.technique, forecast.why)
        }
        (None, Some(error)) => failure::why_failed(&tried.rounds, &error.to_string()),
        (None, None) => failure::why_failed(&tried.rounds, &forecast.why),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn predicted(forecast: &Forecast) -> Predicted {
    Predicted {
        outcome: match forecast.direct {
            Some(true) => PunchOutcome::Direct,
            Some(false) => PunchOutcome::Failed,
            None => PunchOutcome::Unknown,
        },
        probability: forecast.probability,
        assumed: forecast.assumed,
        technique: forecast.technique,
        why: forecast.why.clone(),
    }
}

fn side_report(behaviour: &Behaviour, offer: &Offer, measured: Option<NatType>) -> SideReport {
    let derived = match (behaviour.udp, behaviour.mapping, behaviour.filtering) {
        (true, Some(mapping), Some(filtering)) => Some(NatType::derive(mapping, filtering)),
        (true, ..) => None,
        (false, ..) => Some(NatType::UdpBlocked),
    };
    SideReport {
        nat_type: measured.or(derived),
        mapping: behaviour.mapping,
        filtering: behaviour.filtering,
        ports: behaviour.ports.as_ref().map(|ports| ports.policy),
        external: offer.external.clone(),
    }
}

fn local(attempt: &Attempt, way: Way, found: Option<&Found>) -> Option<SocketAddr> {
    match found.and_then(|found| found.stream.as_ref()) {
        Some(stream) => stream.local_addr().ok(),
        None => attempt.post.local(way.socket),
    }
}
