//! Hole punching: two clients, introduced by a probe server, try to reach each other directly, and the outcome stands
//! beside the prediction.
//!
//! How an attempt goes: each side measures its network (`measure`) while it waits at the `introducer`; the offers are
//! exchanged, the prediction is made (`forecast`), and from what both know both derive the same list of rounds
//! (`technique`). In a round over UDP both run `checks` by the schedule of a `burst`, over `sockets` that send only to
//! whom the `contacts` admit; after each round both tell what they saw. A path that is found is held (`hold`), and what
//! came of it all is concluded (`conclude`) into the `report`. In a [`room`] every two of many do that.

mod attempt;
mod behaviour;
mod burst;
mod checks;
mod conclude;
mod contacts;
mod extra_probes;
mod failure;
mod forecast;
#[cfg(feature = "sim")]
#[doc(hidden)]
pub mod fuzz;
mod hold;
mod ice;
mod introducer;
mod measure;
mod prepare;
pub mod report;
pub mod room;
mod rounds;
pub mod secure;
mod sockets;
mod tcp_ports;
mod technique;
#[cfg(test)]
mod tests;
mod wire;

use std::{sync::Arc, time::Duration};

use shared::rendezvous::{Code, Role, peer::PeerMessage};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};

pub use introducer::IntroError;

use crate::{
    net::Net,
    progress::{Event, Progress},
    randomness::Randomness,
    target::Target,
    technique::Technique,
};
use attempt::{Attempt, Seen};
use contacts::{Budget, Contacts};
use forecast::Pair;
use ice::Ice;
use introducer::{Introducer, PATIENCE, Paired};
use measure::Known;
use report::{Predicted, PunchDocument, PunchReport};
use rounds::Tried;
use secure::UseTls;
use sockets::Sockets;
use wire::{Keys, Stamps};

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
    /// Where transaction ids and keys come from: seeded only in a simulation that is to be repeated.
    pub randomness: Randomness,
    /// What choices that anybody may guess follow from, such as the order of ports; none = from `randomness`.
    pub seed: Option<u64>,
    /// Whether the rendezvous is reached over TLS.
    pub tls: UseTls,
    /// Waits so long before each round: to try how much two clocks may differ.
    pub start_delay: Duration,
}

impl Default for PunchSetup {
    /// Everything, for a minute's wait and five seconds' hold.
    fn default() -> Self {
        Self {
            code: None,
            wait: Duration::from_secs(60),
            hold: Duration::from_secs(5),
            techniques: Technique::ATTEMPTS.to_vec(),
            measuring: Duration::from_secs(15),
            randomness: Randomness::System,
            seed: None,
            tls: UseTls::Never,
            start_delay: Duration::ZERO,
        }
    }
}

/// What a person is told meanwhile.
#[derive(Clone, Debug)]
pub enum Note<'a> {
    /// The session is open: the peer needs this.
    Code(Code),
    /// A browser can be the peer: at this address of the server's page.
    Link(&'a str),
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

/// Opens a session or joins one, and punches. Ends early, with what is known by then, when `stop` becomes true.
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
    stop: watch::Receiver<bool>,
) -> Result<PunchDocument, IntroError> {
    let Some(connected) = unless_stopped(&stop, connect(setup, &*net, target, audience)).await else {
        return Ok(interrupted(setup));
    };
    let mut introducer = connected?;
    let named = measure::Named { server: introducer.server(), endpoints: introducer.stun().to_vec() };
    // Measured while the peer is waited for; but without a peer there is no need for the rest of it.
    let measuring = measure::measure(setup, &net, target, named, progress, stop.clone());
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
    let (paired, known) = tokio::join!(unless_stopped(&stop, waiting), measuring);
    let Some(paired) = paired else {
        return Ok(document(true, conclude::interrupted(role(setup), Some(&known))));
    };
    let listeners = Listeners { audience, progress };
    let met = (introducer, paired?);
    let attempted = attempt(setup, net, met, known, listeners, Budget::of_attempts(1), &stop).await;
    attempted.map(|attempted| attempted.document)
}

/// What came of an attempt.
struct Attempted {
    document: PunchDocument,
    /// Why it ended before all rounds were tried; what was not tried has not failed.
    broken: Option<IntroError>,
}

/// The report of an attempt that was interrupted before it had begun.
#[must_use]
pub fn interrupted(setup: &PunchSetup) -> PunchDocument {
    document(true, conclude::interrupted(role(setup), None))
}

async fn connect(
    setup: &PunchSetup,
    net: &dyn Net,
    target: &Target,
    audience: &dyn Audience,
) -> Result<Introducer, IntroError> {
    let mut introducer = Introducer::connect(net, target, &setup.tls).await?;
    introducer.unencrypted().inspect(|warning| audience.note(Note::Warning(warning)));
    match setup.code {
        Some(code) => introducer.join(code).await?,
        None => {
            let code = introducer.open().await?;
            audience.note(Note::Code(code));
            introducer.link(code).inspect(|link| audience.note(Note::Link(link)));
        }
    }
    Ok(introducer)
}

const TOOL: &str = concat!("nat-check ", env!("CARGO_PKG_VERSION"));

/// Whoever opens a session is the first one in it.
fn role(setup: &PunchSetup) -> Role {
    if setup.code.is_none() { Role::First } else { Role::Second }
}

fn document(partial: bool, punch: PunchReport) -> PunchDocument {
    PunchDocument { version: 1, tool: TOOL.into(), partial, punch }
}

/// What comes of this work; none if `stop` becomes true before it is done.
async fn unless_stopped<T>(stop: &watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    let mut stop = stop.clone();
    let stopped = async {
        if stop.wait_for(|stopped| *stopped).await.is_err() {
            // Nobody can stop it any more.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        () = stopped => None,
        done = work => Some(done),
    }
}

/// Who is told meanwhile.
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

async fn attempt(
    setup: &PunchSetup,
    net: Arc<dyn Net>,
    (mut introducer, paired): (Introducer, Paired),
    known: Known,
    listeners: Listeners<'_>,
    unvouched: Budget,
    stop: &watch::Receiver<bool>,
) -> Result<Attempted, IntroError> {
    // Behind different NATs there is no local network in common.
    let local = known.servers.v4.filter(|_| paired.you == paired.peer);
    let local = local.and_then(|(_, own)| Some((own, net.prefix_len(own)?)));
    let contacts = Contacts::new(introducer.server(), known.servers.endpoints(), paired.peer, local);
    let contacts = contacts.within(unvouched);
    let mut random = setup.randomness.split(3).source();
    let (nonce, tag) = (random.bytes()?, random.bytes()?);
    let choices = setup.seed.map_or_else(|| random.choices(), |seed| Ok(fastrand::Rng::with_seed(seed)))?;
    let mut sockets = Sockets::new(Arc::clone(&net), contacts, random, choices);
    let exchanging = async {
        let (mine, first) = measure::offer(setup, nonce, &known, introducer.rtt(), &mut sockets).await;
        match introducer.exchange(PeerMessage::Offer(Box::new(mine.clone()))).await? {
            PeerMessage::Offer(peers) => Ok((mine, *peers, first)),
            _ => Err(IntroError::BadPeerMessage),
        }
    };
    let Some(exchanged) = unless_stopped(stop, exchanging).await else {
        let document = document(true, conclude::interrupted(paired.role, Some(&known)));
        return Ok(Attempted { document, broken: None });
    };
    let (mine, peers, first) = exchanged?;
    let introduced = Instant::now();
    let keys = Keys::new(mine.nonce, peers.nonce);
    let ice = peers.ice.as_ref().filter(|_| peers.is_browser()).map(|peers| Ice::new(mine.nonce, peers));
    let hold = setup.hold.min(Duration::from_millis(peers.hold_ms.into()));
    let pair = Pair::new(paired.role, mine, peers, paired.you, paired.peer);
    let mut attempt = Attempt {
        net,
        sockets,
        introducer,
        pair,
        keys,
        ice,
        stamps: Stamps::new(introduced, tag),
        servers: known.servers,
        first,
        opened: Vec::new(),
        round: 0,
        seen: Seen::default(),
    };
    let preparing = timeout(PATIENCE, prepare::run(&mut attempt, listeners.audience));
    let prepared = unless_stopped(stop, preparing).await;
    let forecast = attempt.pair.forecast();
    let predicted = conclude::predicted(&forecast);
    if prepared.is_some() {
        listeners.audience.note(Note::Predicted(&predicted));
    }
    let warnings = attempt.introducer.unencrypted().cloned().into_iter().collect();
    let broken = prepared.and_then(|done| done.unwrap_or(Err(IntroError::Silent(PATIENCE.as_secs()))).err());
    let mut tried = Tried { warnings, broken, ..Tried::default() };
    let trying = async {
        if tried.broken.is_none() {
            rounds::run(&mut attempt, setup.start_delay, listeners, &mut tried).await;
        }
        if let Some(found) = &mut tried.found {
            listeners.audience.note(Note::Through(found.technique));
            rounds::hold(&mut attempt, found, hold, &mut tried.held).await;
        }
    };
    let partial = unless_stopped(stop, trying).await.is_none();
    tried.is_interrupted = partial;
    let broken = tried.broken.clone();
    let report = conclude::report(&attempt, tried, &forecast, predicted, known.nat_type, introduced);
    Ok(Attempted { document: document(partial, report), broken })
}
