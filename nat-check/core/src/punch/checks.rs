//! A round over UDP: connectivity checks (RFC 8445 section 7) by the schedule of a [`Burst`], everything received answered,
//! until both sides know a path.
//!
//! Whoever receives a ping answers to where it really came from. Whoever receives a pong knows that both directions work
//! and says so three times, since one packet may get lost and the other side would stop too soon. Whoever received a ping
//! and no pong pings back there: its own pong may have got lost, and where ports are guessed no second ping will find the
//! path. Then the first side nominates, so that both hold the same path.

use std::{net::SocketAddr, time::Duration};

use shared::rendezvous::{
    Role,
    peer::{self, MAX_ADDRESSES},
};
use tokio::time::{Instant, sleep_until};

use super::{
    burst::{Burst, Path, RESEND_AT_MS},
    sockets::{Arrival, Sockets},
    wire::{Keys, Kind, Packet, Stamps},
};

/// What came of a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) path: Option<Path>,
    /// What the peer is told of it.
    pub(super) report: peer::RoundReport,
    pub(super) sent: u32,
    /// Errors that came back; the peer is not told, as they show which ports of others are closed.
    pub(super) refused: u32,
    /// When the first packet of the peer came.
    pub(super) first_heard: Option<Instant>,
    pub(super) rtt: Option<Duration>,
}

/// Acknowledgements of a first hit.
pub(super) const ACKS: usize = 3;
/// Answers that one round may cost: a peer that floods gets no flood back.
pub(super) const MAX_ANSWERS: u32 = 300;
/// Times that the first side says which path it nominates.
pub(super) const NOMINATIONS: u32 = 6;
/// How long the second side waits for the nomination, which may have been lost.
const NOMINATION: Duration = Duration::from_secs(1);
/// Shortest time between two nominations.
const SHORTEST_REPEAT: Duration = Duration::from_millis(30);

/// Everything that a round needs beside its burst.
pub(super) struct RoundContext<'a> {
    pub(super) sockets: &'a mut Sockets,
    pub(super) keys: &'a Keys,
    pub(super) stamps: &'a Stamps,
    pub(super) role: Role,
    pub(super) round: u8,
    /// How long answers to the last packets may take.
    pub(super) grace: Duration,
}

/// Sends one ping to every target, so far apart, and listens to nothing.
pub(super) async fn send_all(context: &mut RoundContext<'_>, targets: &[Path], apart: Duration) {
    for (number, target) in targets.iter().enumerate() {
        if number > 0 {
            tokio::time::sleep(apart).await;
        }
        context.ping(*target).await;
    }
}

/// Runs a round.
pub(super) async fn run(context: &mut RoundContext<'_>, burst: &Burst) -> Outcome {
    let begun = Instant::now();
    let (sent_before, errors_before) = (context.sockets.sent(), context.sockets.errors());
    let end = begun + burst.window + context.grace;
    let mut state = RoundState::default();
    let mut next = 0;
    while state.done.is_none_or(|done| Instant::now() < done) && Instant::now() < end {
        state.nominate_again(context).await;
        state.ping_back(context).await;
        let send_at = match state.confirmed {
            Some(_) => None,
            None => burst.at(next).map(|after| begun + after),
        };
        // What is due goes first: a flood of arrivals must not silence this side.
        if send_at.is_some_and(|at| at <= Instant::now())
            && let Some(target) = burst.target(next)
        {
            next += 1;
            context.ping(target).await;
            continue;
        }
        let due = [state.done, state.nominate_at, state.ping_back_at(), send_at];
        let until = due.into_iter().flatten().fold(end, Instant::min);
        tokio::select! {
            biased;
            arrival = context.sockets.receive() => state.receive(context, arrival).await,
            () = sleep_until(until) => {}
        }
    }
    let path = state.nominated.or(state.confirmed);
    let sent = context.sockets.sent() - sent_before;
    Outcome {
        report: peer::RoundReport {
            through: path.is_some(),
            sent,
            heard: state.heard,
            to: first_few(&burst.targets),
        },
        sent,
        refused: context.sockets.errors() - errors_before,
        // Heard is better than nothing, should the other side know that both directions work.
        path: path.or(state.heard_from),
        first_heard: state.first_heard,
        rtt: state.rtt,
    }
}

pub(super) fn first_few(targets: &[Path]) -> Vec<SocketAddr> {
    let mut few: Vec<SocketAddr> = Vec::new();
    for target in targets {
        if few.len() < MAX_ADDRESSES && !few.contains(&target.remote) {
            few.push(target.remote);
        }
    }
    few
}

impl RoundContext<'_> {
    async fn ping(&mut self, path: Path) {
        self.send(Kind::Ping, self.stamps.stamp(path.remote), path).await;
    }

    async fn send(&mut self, kind: Kind, stamp: u64, path: Path) {
        let packet = Packet { kind, round: self.round, stamp }.write(self.keys);
        self.sockets.send(path.socket, &packet, path.remote).await;
    }
}

/// What is known in the course of a round.
#[derive(Default)]
struct RoundState {
    heard: u32,
    answers: u32,
    first_heard: Option<Instant>,
    heard_from: Option<Path>,
    /// Pings that were sent back there.
    pinged_back: usize,
    ping_back_since: Option<Instant>,
    /// Both directions work.
    confirmed: Option<Path>,
    nominated: Option<Path>,
    nominations: u32,
    nominate_at: Option<Instant>,
    rtt: Option<Duration>,
    /// When the round may end, because everything is known.
    done: Option<Instant>,
}

impl RoundState {
    async fn receive(&mut self, context: &mut RoundContext<'_>, arrival: Arrival) {
        let Some(packet) = Packet::read(&arrival.bytes, context.keys) else { return };
        let path = Path { socket: arrival.socket, remote: arrival.from };
        self.heard += 1;
        self.first_heard.get_or_insert(arrival.at);
        self.heard_from.get_or_insert(path);
        self.ping_back_since.get_or_insert(arrival.at);
        if self.answers >= MAX_ANSWERS {
            return;
        }
        match packet.kind {
            Kind::Ping => {
                self.answers += 1;
                context.send(Kind::Pong, packet.stamp, path).await;
            }
            Kind::Pong => {
                let took = context.stamps.age(packet.stamp);
                self.rtt = Some(self.rtt.map_or(took, |rtt| rtt.min(took)));
                if context.stamps.is_from(packet.stamp, path.remote) {
                    context.sockets.answered(path.remote.ip());
                }
                if self.confirmed.is_none() {
                    for _ in 0..ACKS {
                        context.send(Kind::Ack, packet.stamp, path).await;
                    }
                    self.answers += ACKS as u32;
                }
                self.confirm(context, path).await;
            }
            Kind::Ack => self.confirm(context, path).await,
            Kind::Nominate => {
                self.answers += 1;
                context.send(Kind::Nominated, packet.stamp, path).await;
                if context.role == Role::Second {
                    self.nominated = Some(path);
                    self.done = Some(Instant::now());
                }
            }
            Kind::Nominated => {
                if context.role == Role::First && self.nominated == Some(path) {
                    self.done = Some(Instant::now());
                }
            }
            // Those of an earlier path.
            Kind::Heartbeat | Kind::HeartbeatReply => {}
        }
    }

    /// When the next ping goes back to where one came from.
    fn ping_back_at(&self) -> Option<Instant> {
        let since = self.ping_back_since.filter(|_| self.confirmed.is_none())?;
        RESEND_AT_MS.get(1 + self.pinged_back).map(|after| since + Duration::from_millis(*after))
    }

    async fn ping_back(&mut self, context: &mut RoundContext<'_>) {
        let (Some(path), Some(at)) = (self.heard_from, self.ping_back_at()) else { return };
        if at <= Instant::now() {
            self.pinged_back += 1;
            context.ping(path).await;
        }
    }

    async fn confirm(&mut self, context: &mut RoundContext<'_>, path: Path) {
        if self.confirmed.is_some() {
            return;
        }
        self.confirmed = Some(path);
        match context.role {
            Role::First => {
                self.nominated = Some(path);
                self.nominate_at = Some(Instant::now());
                self.nominate_again(context).await;
            }
            Role::Second => self.done = Some(Instant::now() + NOMINATION),
        }
    }

    /// Says once more which path is nominated, when it is time.
    async fn nominate_again(&mut self, context: &mut RoundContext<'_>) {
        let (Some(path), Some(at)) = (self.nominated, self.nominate_at) else { return };
        if context.role != Role::First || at > Instant::now() {
            return;
        }
        if self.nominations == NOMINATIONS {
            self.nominate_at = None;
            self.done = Some(Instant::now());
            return;
        }
        self.nominations += 1;
        context.send(Kind::Nominate, context.stamps.stamp(path.remote), path).await;
        let again = self.rtt.unwrap_or_default().max(SHORTEST_REPEAT) * 3 / 2;
        self.nominate_at = Some(Instant::now() + again);
    }
}
