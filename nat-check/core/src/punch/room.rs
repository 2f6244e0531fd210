//! A room: everybody in it is introduced to everybody, every two predict and punch, and all see who reaches whom.
//!
//! A member measures its own network once. The server pairs it with one other member at a time; the two meet in a session of
//! their own, as any two do that punch, and each tells the room what came of it.

mod board;
mod pairing;
pub mod report;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use shared::rendezvous::{
    Payload, Role, ToClient, ToServer,
    room::{MAX_MEMBERS, Readiness, RoomName},
};
use tokio::{sync::watch, time::Instant};

use super::{
    IntroError, PunchSetup, TOOL,
    contacts::Budget,
    introducer::Introducer,
    measure::{self, Known},
    unless_stopped,
};
use crate::{net::Net, progress::Progress, target::Target};
use board::Board;
use pairing::{Common, Running, Step};
use report::{RoomDocument, RoomReport};

/// How a room is entered, and when it is left.
#[derive(Clone, Debug)]
pub struct RoomSetup {
    /// Its name; none = make one that nobody guesses.
    pub room: Option<RoomName>,
    /// What this side wants to be called.
    pub name: Option<String>,
    /// When this side leaves.
    pub until: Until,
    /// How long others are waited for.
    pub wait: Duration,
    /// How each pair is tried. Its code, wait and hold are not used.
    pub punch: PunchSetup,
}

/// When a member leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When all pairs are settled, and nothing has happened for a while.
    Settled,
    /// When so many are there, and all pairs are settled.
    Members(usize),
    /// After this time.
    After(Duration),
}

/// What a person is told meanwhile.
#[derive(Clone, Debug)]
pub enum RoomNote<'a> {
    /// This side is in: others need the name.
    Entered {
        /// Its name.
        room: &'a RoomName,
        /// This side's number.
        you: u32,
    },
    /// Something to know before it happens.
    Warning(&'a str),
    /// Something has changed.
    Progress {
        /// Members that are ready, those who left included.
        members: usize,
        /// Pairs of which both have said what came of it.
        settled: usize,
        /// All pairs.
        pairs: usize,
    },
}

/// Listens to a room.
pub trait RoomAudience: Send + Sync {
    /// Takes note. Must not block.
    fn note(&self, note: RoomNote<'_>);
}

/// Nothing has happened for so long: then nobody else comes.
const QUIET: Duration = Duration::from_secs(10);
/// Nothing has happened for so long: then nothing more comes of pairs that are not settled either. The server gives each step
/// less time.
const STUCK: Duration = Duration::from_secs(180);
/// A member says something so often: the server sends away who is silent for three times as long.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Attempts whose packets to addresses that nobody vouches for are enough for a whole stay.
#[expect(clippy::cast_possible_truncation, reason = "few")]
const MOST_PEERS: u32 = MAX_MEMBERS as u32;
/// How long a path is held.
const HOLD: Duration = Duration::from_millis(500);

/// A server that answers nothing for so long is gone, as is the way to it.
const SILENCE: Duration = Duration::from_secs(60);
/// No server lets a member stay longer.
const LONGEST: Duration = Duration::from_secs(3660);

/// Enters a room, takes part, and tells what is known when it is left. Ends early when `stop` becomes true.
///
/// # Errors
/// When the rendezvous cannot be reached or refuses, or when nobody else comes.
pub async fn room(
    setup: &RoomSetup,
    net: Arc<dyn Net>,
    target: &Target,
    progress: &dyn Progress,
    audience: &dyn RoomAudience,
    stop: watch::Receiver<bool>,
) -> Result<RoomDocument, IntroError> {
    let entering = async {
        let mut link = Introducer::connect(&*net, target, &setup.punch.tls).await?;
        let (room, you) = link.enter(setup.room.clone()).await?;
        Ok::<_, IntroError>((link, room, you))
    };
    let Some(entered) = unless_stopped(&stop, entering).await else { return Ok(interrupted()) };
    let (link, name, you) = entered?;
    let warnings: Vec<String> = link.unencrypted().cloned().into_iter().collect();
    warnings.iter().for_each(|warning| audience.note(RoomNote::Warning(warning)));
    audience.note(RoomNote::Entered { room: &name, you });
    let now = Instant::now();
    let mut stay = Stay { setup, link, board: Board::new(you), entered: now, news: now, heard: now };
    let ended = stay.take_part((net, target, progress, audience), &stop).await;
    if stay.board.members().len() < 2
        && let Some(error) = stay.alone(&ended)
    {
        return Err(error);
    }
    let board = stay.board;
    let report = RoomReport {
        name: Some(name.to_string()),
        you: Some(you),
        members: board.members(),
        pairs: board.pair_reports(),
        ended: ended.told(setup, board.seen()),
        warnings,
    };
    let partial = !matches!(ended, Ended::Done | Ended::Over);
    Ok(RoomDocument { version: 1, tool: TOOL.into(), partial, room: report })
}

/// The document of a room that was not entered before the user had enough.
#[must_use]
pub fn interrupted() -> RoomDocument {
    let ended = "Interrupted before the room was entered.".into();
    RoomDocument {
        version: 1,
        tool: TOOL.into(),
        partial: true,
        room: RoomReport { ended, ..RoomReport::default() },
    }
}

/// Why a member has left.
enum Ended {
    /// All that was wanted is known.
    Done,
    /// The time that the user gave is over.
    Over,
    /// Too few came.
    TooFew,
    /// Nothing more comes of some pairs.
    Stuck,
    Interrupted,
    Broken(IntroError),
}

impl Ended {
    fn told(&self, setup: &RoomSetup, seen: usize) -> String {
        match (self, setup.until) {
            (Self::Done, _) => "All pairs are settled.".into(),
            (Self::Over, _) => "The time for it is over.".into(),
            (Self::TooFew, Until::Members(wanted)) => format!("Of {wanted} members only {seen} came."),
            (Self::TooFew, _) => "Nobody else came.".into(),
            (Self::Stuck, _) => "Nothing more came of some pairs.".into(),
            (Self::Interrupted, _) => "Interrupted.".into(),
            (Self::Broken(error), _) => format!("Ended early: {error}."),
        }
    }
}

/// A stay in a room.
struct Stay<'a> {
    setup: &'a RoomSetup,
    link: Introducer,
    board: Board,
    entered: Instant,
    /// When there was news last.
    news: Instant,
    /// When the server was heard last.
    heard: Instant,
}

/// What a member waits for.
enum Event {
    Stopped,
    Measured(Box<Known>),
    Step(Step),
    Heard(Option<ToClient>),
}

type Around<'a> = (Arc<dyn Net>, &'a Target, &'a dyn Progress, &'a dyn RoomAudience);

impl Stay<'_> {
    async fn take_part(
        &mut self,
        (net, target, progress, audience): Around<'_>,
        stop: &watch::Receiver<bool>,
    ) -> Ended {
        let setup = self.setup;
        let named = measure::Named { server: self.link.server(), endpoints: self.link.stun().to_vec() };
        let measuring = measure::measure(&setup.punch, &net, target, named, progress, stop.clone());
        tokio::pin!(measuring);
        let mut common: Option<Common> = None;
        let mut pair: Option<(u32, Running)> = None;
        let mut said = Instant::now();
        let mut stopped = stop.clone();
        loop {
            let (ended, next) = self.outlook(said);
            if let Some(ended) = ended {
                return ended;
            }
            let event = tokio::select! {
                biased;
                Ok(_) = stopped.wait_for(|stopped| *stopped) => Event::Stopped,
                known = &mut measuring, if common.is_none() => Event::Measured(Box::new(known)),
                step = running(&mut pair), if pair.is_some() => Event::Step(step),
                heard = self.link.hear_until(next) => match heard {
                    Ok(heard) => Event::Heard(heard),
                    Err(error) => return Ended::Broken(error),
                },
            };
            if let Event::Heard(Some(_)) = event {
                self.heard = Instant::now();
            }
            let answer = match event {
                Event::Stopped => return Ended::Interrupted,
                Event::Measured(known) => {
                    let ready = Readiness { name: setup.name.clone(), nat_type: known.nat_type };
                    common = Some(self.common(Arc::clone(&net), target, *known, stop.clone()));
                    Payload::write(&ready).ok().map(|payload| ToServer::Available { payload })
                }
                Event::Step(Step::Opened(introducer, code)) => {
                    pair.take().zip(common.clone()).map(|((peer, _), common)| {
                        pair = Some((peer, Box::pin(pairing::meet(common, *introducer))));
                        ToServer::Invite { peer, code }
                    })
                }
                Event::Step(Step::Ended(result)) => {
                    let payload = Payload::write(&result).ok();
                    pair.take().zip(payload).map(|((peer, _), payload)| {
                        self.board.found(peer, result);
                        ToServer::Result { peer, payload }
                    })
                }
                Event::Heard(Some(ToClient::Room { members, results })) => {
                    self.board.learn(members, results);
                    self.news = Instant::now();
                    let (settled, pairs) = self.board.progress();
                    audience.note(RoomNote::Progress { members: self.board.seen(), settled, pairs });
                    None
                }
                // The server names one pair at a time, and nobody before this side is ready.
                Event::Heard(Some(ToClient::Pair { peer, role, code })) if pair.is_none() => {
                    let begun: Option<Running> = match (common.clone(), role, code) {
                        (Some(common), Role::First, _) => Some(Box::pin(pairing::open(common))),
                        (Some(common), Role::Second, Some(code)) => {
                            Some(Box::pin(pairing::join(common, code)))
                        }
                        _ => None,
                    };
                    pair = begun.map(|begun| (peer, begun));
                    None
                }
                Event::Heard(_) => None,
            };
            let ping = (said.elapsed() >= KEEPALIVE).then_some(ToServer::Ping { id: 0 });
            let answer = answer.or(ping);
            if let Some(answer) = answer {
                said = Instant::now();
                if let Err(error) = self.link.say(answer).await {
                    return Ended::Broken(error);
                }
            }
        }
    }

    fn common(
        &self,
        net: Arc<dyn Net>,
        target: &Target,
        known: Known,
        stop: watch::Receiver<bool>,
    ) -> Common {
        let server = self.link.server();
        let tls = self.setup.punch.tls.of_family_of(server);
        // A path is held for as long as it takes to measure its round trip: there are others to be found.
        let setup = PunchSetup { code: None, hold: HOLD, tls, ..self.setup.punch.clone() };
        // A full room takes nothing from anybody; a crowd that comes and goes gets no more than that.
        let unvouched = Budget::of_attempts(MOST_PEERS);
        Common { setup, net, target: target.of_family_of(server), known, unvouched, stop }
    }

    /// Whether this side leaves now, and until when nothing has to be done otherwise.
    fn outlook(&self, said: Instant) -> (Option<Ended>, Instant) {
        let now = Instant::now();
        let seen = self.board.seen();
        let is_settled = seen > 1 && self.board.is_settled();
        let (waited, quiet, stuck) = (self.entered + self.setup.wait, self.news + QUIET, self.news + STUCK);
        let ended = match self.setup.until {
            _ if now >= self.heard + SILENCE => Some(Ended::Broken(IntroError::Stalled(SILENCE.as_secs()))),
            _ if now >= self.entered + LONGEST => Some(Ended::Broken(IntroError::TooLong(LONGEST.as_secs()))),
            Until::After(stay) if now >= self.entered + stay => Some(Ended::Over),
            Until::Members(wanted) if is_settled && self.board.present() >= wanted => Some(Ended::Done),
            Until::Settled if is_settled && now >= quiet => Some(Ended::Done),
            Until::Members(_) if (is_settled || seen < 2) && now >= waited => Some(Ended::TooFew),
            Until::Settled if seen < 2 && now >= waited => Some(Ended::TooFew),
            Until::Members(_) | Until::Settled if now >= stuck.max(waited) => Some(Ended::Stuck),
            Until::After(_) | Until::Members(_) | Until::Settled => None,
        };
        let leaves = match self.setup.until {
            Until::After(stay) => self.entered + stay,
            Until::Members(_) | Until::Settled => waited,
        };
        let times = [leaves, quiet, stuck, said + KEEPALIVE];
        let next = times.into_iter().filter(|time| *time > now).min().unwrap_or(now + KEEPALIVE);
        (ended, next)
    }

    /// Nobody to tell of.
    fn alone(&self, ended: &Ended) -> Option<IntroError> {
        match ended {
            Ended::Done | Ended::Interrupted => None,
            Ended::Over | Ended::TooFew | Ended::Stuck => {
                Some(IntroError::NoPeer(self.entered.elapsed().as_secs()))
            }
            Ended::Broken(error) => Some(error.clone()),
        }
    }
}

/// What comes next of this pair.
async fn running(pair: &mut Option<(u32, Running)>) -> Step {
    match pair {
        Some((_, running)) => running.await,
        None => std::future::pending().await,
    }
}
