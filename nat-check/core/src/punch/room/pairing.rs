//! One pair of a room: a session of its own, an attempt as between any two.

use std::{pin::Pin, sync::Arc, time::Duration};

use shared::rendezvous::{Code, Refusal, room::PairResult};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::super::{
    Attempted, Audience, IntroError, Listeners, Note, PunchSetup, attempt,
    contacts::Budget,
    introducer::Introducer,
    measure::Known,
    report::{PunchOutcome, PunchReport},
};
use crate::{net::Net, progress::Silent, target::Target};

/// What every pair is made with.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) setup: PunchSetup,
    pub(super) net: Arc<dyn Net>,
    /// The server at the address family by which it is reached in the room: it takes only sessions that come from the same
    /// address as the member.
    pub(super) target: Target,
    pub(super) known: Known,
    /// Packets of the whole stay to addresses that nobody vouches for.
    pub(super) unvouched: Budget,
    pub(super) stop: watch::Receiver<bool>,
}

/// How far a pair has come.
pub(super) enum Step {
    /// This side has opened a session: the other one needs its code.
    Opened(Box<Introducer>, Code),
    /// It is over.
    Ended(PairResult),
}

/// A step under way.
pub(super) type Running = Pin<Box<dyn Future<Output = Step> + Send>>;

/// How long the other one may take to come to the session: it was told at once.
const COMING: Duration = Duration::from_secs(20);
/// How long it may take to open one.
const OPENING: Duration = Duration::from_secs(25);
/// How long a pair may take: less than the server waits for what came of it.
const LONGEST: Duration = Duration::from_secs(90);
/// How often a session that the server has no place for is asked for again, and how long after.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_secs(3);

/// The first one's beginning.
pub(super) async fn open(common: Common) -> Step {
    match timeout(OPENING, session(&common, None)).await {
        Ok(Ok((introducer, code))) => Step::Opened(Box::new(introducer), code),
        Ok(Err(_)) | Err(_) => Step::Ended(PairResult::default()),
    }
}

/// The second one's beginning.
pub(super) async fn join(common: Common, code: Code) -> Step {
    match timeout(COMING, session(&common, Some(code))).await {
        Ok(Ok((introducer, _))) => meet(common, introducer).await,
        Ok(Err(_)) | Err(_) => Step::Ended(PairResult::default()),
    }
}

/// Both go on like this.
pub(super) async fn meet(common: Common, mut introducer: Introducer) -> Step {
    let Common { setup, net, known, unvouched, stop, .. } = common;
    let listeners = Listeners { audience: &Nobody, progress: &Silent };
    let work = async {
        let paired = introducer.paired(COMING).await?;
        attempt(&setup, net, (introducer, paired), known, listeners, unvouched, &stop).await
    };
    Step::Ended(match timeout(LONGEST, work).await {
        Ok(Ok(attempted)) => result(&attempted),
        Ok(Err(_)) | Err(_) => PairResult::default(),
    })
}

/// What is said to the room of it; nothing of an attempt that has not come to its end.
fn result(attempted: &Attempted) -> PairResult {
    let PunchReport { outcome, technique, remote, rtt_s, predicted, .. } = &attempted.document.punch;
    let through = match outcome {
        PunchOutcome::Direct => Some(true),
        // What was not tried to the end has not failed.
        PunchOutcome::Failed if attempted.broken.is_none() && !attempted.document.partial => Some(false),
        PunchOutcome::Failed | PunchOutcome::Unknown => None,
    };
    PairResult {
        through,
        technique: technique.and_then(|technique| technique.on_wire()),
        ipv6: remote.is_some_and(|remote| remote.is_ipv6()),
        rtt_us: rtt_s.map(millionths),
        predicted: predicted.probability.map(millionths),
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bounded just before")]
fn millionths(value: f64) -> u32 {
    (value * 1e6).round().clamp(0.0, f64::from(u32::MAX)) as u32
}

/// A session, opened or joined. While the server has no place for it, that is tried again: many pairs of one network may be
/// under way.
async fn session(common: &Common, code: Option<Code>) -> Result<(Introducer, Code), IntroError> {
    for _ in 1..TRIES {
        match session_once(common, code).await {
            Err(IntroError::Refused(Refusal::HostFull | Refusal::TooFast | Refusal::Full)) => {
                sleep(PAUSE).await
            }
            other => return other,
        }
    }
    session_once(common, code).await
}

async fn session_once(common: &Common, code: Option<Code>) -> Result<(Introducer, Code), IntroError> {
    let mut introducer = Introducer::connect(&*common.net, &common.target, &common.setup.tls).await?;
    let code = match code {
        Some(code) => introducer.join(code).await.map(|()| code)?,
        None => introducer.open().await?,
    };
    Ok((introducer, code))
}

struct Nobody;

impl Audience for Nobody {
    fn note(&self, _: Note<'_>) {}
}
