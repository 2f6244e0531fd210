//! Runs the rounds of an attempt one after another, and holds the path that one of them has found.

use std::time::Duration;

use shared::rendezvous::peer::{self, PeerMessage};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    Listeners, Note, accompanied,
    attempt::{Attempt, Seen},
    burst::Path,
    checks::Outcome,
    hold::{self, Held, Terms},
    ice,
    introducer::IntroError,
    report::RoundReport,
    technique,
};
use crate::{net::Stream, technique::Technique};

/// What the rounds came to.
#[derive(Default)]
pub(super) struct Tried {
    pub(super) rounds: Vec<RoundReport>,
    pub(super) found: Option<Found>,
    pub(super) held: HeldPath,
    pub(super) first_heard: Option<Instant>,
    pub(super) warnings: Vec<String>,
    /// Why the attempt ended before all rounds were tried.
    pub(super) broken: Option<IntroError>,
    /// Whether somebody ended it early.
    pub(super) is_interrupted: bool,
}

/// A path, over UDP or as a TCP connection.
pub(super) struct Found {
    pub(super) technique: Technique,
    pub(super) path: Option<Path>,
    pub(super) stream: Option<Box<dyn Stream>>,
    pub(super) rtt: Option<Duration>,
}

/// What holding it told.
#[derive(Default)]
pub(super) struct HeldPath {
    pub(super) held: Held,
    /// The round-trip time through the server, for comparison.
    pub(super) rtt_via_server: Option<Duration>,
}

/// All rounds together take no longer than this, several times what they need: a peer may be slow, but not without end.
const LONGEST: Duration = Duration::from_secs(300);

/// Round after round, until one finds a path or all were tried.
pub(super) async fn run(
    attempt: &mut Attempt,
    start_delay: Duration,
    listeners: Listeners<'_>,
    tried: &mut Tried,
) {
    let all = run_all(attempt, start_delay, listeners, tried);
    let ended = timeout_at(Instant::now() + LONGEST, all).await;
    tried.broken = ended.unwrap_or(Err(IntroError::TooLong(LONGEST.as_secs()))).err();
}

async fn run_all(
    attempt: &mut Attempt,
    start_delay: Duration,
    listeners: Listeners<'_>,
    tried: &mut Tried,
) -> Result<(), IntroError> {
    let Listeners { audience, progress } = listeners;
    let plan = technique::plan(&attempt.pair);
    let of = u32::try_from(plan.len()).unwrap_or(u32::MAX);
    for (number, method) in (1..).zip(plan) {
        attempt.round = u8::try_from(number).unwrap_or(u8::MAX);
        if let Some(cost) = (method.cost)(&attempt.pair) {
            let warning = format!("{}: {cost}", method.technique);
            audience.note(Note::Warning(&warning));
            tried.warnings.push(warning);
        }
        audience.note(Note::Round { number, of, technique: method.technique, about: method.about });
        sleep(start_delay).await;
        attempt.seen =
            Seen { mine: attempt.pair.mine.external.clone(), peers: attempt.pair.peers.external.clone() };
        let name = method.technique.to_string();
        let tell = |since: Duration| format!("{} s", since.as_secs());
        let ended = accompanied((method.run)(attempt), progress, (&name, method.about), tell).await?;
        let mut round = report_of(method.technique, &ended.outcome, attempt.seen.clone());
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
            let Outcome { path, rtt, .. } = ended.outcome;
            tried.found = Some(Found { technique: method.technique, path, stream: ended.stream, rtt });
            return Ok(());
        }
        told?;
    }
    Ok(())
}

/// Measures the round trip through the server, then holds the path.
pub(super) async fn hold(attempt: &mut Attempt, found: &mut Found, hold: Duration, told: &mut HeldPath) {
    // The peer may be gone as soon as it has what it wants: then there is no figure.
    told.rtt_via_server = attempt.introducer.rtt_through_server().await.ok().flatten();
    let together = attempt.introducer.exchange(PeerMessage::RoundReport(peer::RoundReport::default())).await;
    if together.is_err() || hold.is_zero() {
        return;
    }
    match (&mut found.stream, &mut found.path) {
        (Some(stream), _) => hold::over_tcp(&mut **stream, &attempt.keys, hold, &mut told.held).await,
        (None, Some(path)) => {
            let rtt = found.rtt.unwrap_or(attempt.introducer.rtt());
            let Attempt { sockets, keys, stamps, ice, .. } = attempt;
            let (terms, held) = (Terms { hold, rtt }, &mut told.held);
            match ice {
                Some(ice) => ice::hold(sockets, ice, stamps, path, terms, held).await,
                None => hold::over_udp(sockets, keys, stamps, path, terms, held).await,
            }
        }
        (None, None) => {}
    }
}

fn report_of(technique: Technique, outcome: &Outcome, seen: Seen) -> RoundReport {
    RoundReport {
        technique,
        through: outcome.report.through,
        seen_as: seen.mine,
        peer_seen_as: seen.peers,
        to: outcome.report.to.clone(),
        peer_to: Vec::new(),
        sent: outcome.sent,
        heard: outcome.report.heard,
        refused: outcome.refused,
        peer_sent: None,
        peer_heard: None,
    }
}
