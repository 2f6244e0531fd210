//! A round over UDP: shots fired at a pace, everything heard answered, until both sides know a way.
//!
//! Whoever hears a knock replies to where it really came from. Whoever hears a reply knows that both directions work
//! and says so three times, since one packet may get lost and the other side would stop too soon. Whoever heard a knock
//! and no reply knocks back there: its own reply may have got lost, and where ports are guessed no second knock will find
//! the way. Then the first side chooses, so that both hold the same way.

use std::{net::SocketAddr, time::Duration};

use shared::rendezvous::{
    Role,
    peer::{self, MAX_ADDRESSES},
};
use tokio::time::{Instant, sleep_until};

use super::{
    post::{Arrival, Post},
    wire::{Kind, Nonces, Packet},
};

/// What one side sends in a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Volley {
    /// From which socket to where, in order.
    pub(super) shots: Vec<(usize, SocketAddr)>,
    /// Whether all of it is sent again and again, or goes through once at the pace of [`PACE`].
    pub(super) again: bool,
    /// When the first one leaves.
    pub(super) after: Duration,
    /// How long the round lasts.
    pub(super) window: Duration,
}

/// A way to the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) socket: usize,
    pub(super) remote: SocketAddr,
}

/// What came of a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    pub(super) way: Option<Way>,
    pub(super) report: peer::RoundReport,
    /// When the first packet of the peer came.
    pub(super) first_heard: Option<Instant>,
    pub(super) rtt: Option<Duration>,
}

/// Between two packets of a long volley: 100 a second.
pub(super) const PACE: Duration = Duration::from_millis(10);
/// Shots of which all may leave in nearly the same moment, again and again.
const FEW: usize = 8;
/// Between two packets of a first pass, which has at most 128.
pub(super) const BURST: Duration = Duration::from_millis(2);
/// For answers to the last packet of a long volley.
const LAST: Duration = Duration::from_millis(500);
/// When a short volley is sent again, in milliseconds from its beginning.
const AGAIN_MS: [u64; 12] = [0, 60, 140, 250, 400, 600, 850, 1150, 1500, 1900, 2350, 2700];
/// Longest that a short volley takes.
pub(super) const SHORT: Duration = Duration::from_secs(3);
/// Acknowledgements of a first hit.
const ACKS: usize = 3;
/// Answers that one round may cost: a peer that floods gets no flood back.
const MAX_ANSWERS: u32 = 300;

/// Everything that a round needs beside its volley.
pub(super) struct Field<'a> {
    pub(super) post: &'a mut Post,
    pub(super) nonces: &'a Nonces,
    pub(super) role: Role,
    pub(super) round: u8,
    /// What stamps count from.
    pub(super) epoch: Instant,
    /// How long answers to the last packets may take.
    pub(super) grace: Duration,
}

/// Sends every shot once, so far apart, and listens to nothing.
pub(super) async fn fire(field: &mut Field<'_>, shots: &[(usize, SocketAddr)], apart: Duration) {
    for (number, (socket, to)) in shots.iter().enumerate() {
        if number > 0 {
            tokio::time::sleep(apart).await;
        }
        field.send(Kind::Ping, *socket, *to).await;
    }
}

/// Runs a round.
pub(super) async fn run(field: &mut Field<'_>, volley: &Volley) -> Outcome {
    let begun = Instant::now();
    let (sent_before, refused_before) = (field.post.sent(), field.post.refused());
    let end = begun + volley.window + field.grace;
    let mut talk = Talk::default();
    let mut next = 0;
    while talk.done.is_none_or(|done| Instant::now() < done) && Instant::now() < end {
        talk.insist(field).await;
        talk.knock_back(field).await;
        let shot_at = if talk.proven.is_some() { None } else { volley.at(next).map(|after| begun + after) };
        // What is due goes first: a flood of arrivals must not silence this side.
        if shot_at.is_some_and(|at| at <= Instant::now())
            && let Some((socket, to)) = volley.shot(next)
        {
            next += 1;
            field.send(Kind::Ping, socket, to).await;
            continue;
        }
        let until =
            [Some(end), talk.done, talk.choose_at, talk.back_at(), shot_at].into_iter().flatten().min();
        let until = until.unwrap_or(end);
        tokio::select! {
            biased;
            arrival = field.post.receive() => talk.hear(field, arrival).await,
            () = sleep_until(until) => {}
        }
    }
    let mut to: Vec<SocketAddr> = Vec::new();
    for (_, target) in &volley.shots {
        if to.len() < MAX_ADDRESSES && !to.contains(target) {
            to.push(*target);
        }
    }
    let way = talk.chosen.or(talk.proven);
    Outcome {
        report: peer::RoundReport {
            through: way.is_some(),
            sent: field.post.sent() - sent_before,
            heard: talk.heard,
            refused: field.post.refused() - refused_before,
            to,
        },
        // Heard is better than nothing, should the other side know that both directions work.
        way: way.or(talk.heard_from),
        first_heard: talk.first_heard,
        rtt: talk.rtt,
    }
}

impl Volley {
    /// Shots that are fired again and again: a few for some seconds, many three times.
    pub(super) fn short(shots: Vec<(usize, SocketAddr)>) -> Self {
        let count = u32::try_from(shots.len()).unwrap_or(u32::MAX);
        let window = if shots.len() > FEW { SHORT.max((BURST + PACE * 2) * count + LAST) } else { SHORT };
        Self { shots, again: true, after: Duration::ZERO, window }
    }

    /// When shot `number` leaves.
    fn at(&self, number: usize) -> Option<Duration> {
        if self.shots.is_empty() {
            return None;
        }
        if !self.again {
            let count = u32::try_from(number).unwrap_or(u32::MAX);
            return (number < self.shots.len()).then(|| self.after + PACE * count);
        }
        let (pass, place) = (number / self.shots.len(), number % self.shots.len());
        // Several targets: not all in one moment. Where ports are predicted, others must not take them in between, so the
        // first pass is quick; many shots keep to the pace from then on.
        let (apart, earliest) = match u32::try_from(pass).unwrap_or(u32::MAX) {
            again @ 1.. if self.shots.len() > FEW => (PACE, (BURST + PACE * (again - 1)) * self.count()),
            _ => (BURST, Duration::ZERO),
        };
        let begin = Duration::from_millis(*AGAIN_MS.get(pass)?).max(earliest);
        Some(self.after + begin + apart * u32::try_from(place).unwrap_or(u32::MAX))
    }

    fn count(&self) -> u32 {
        u32::try_from(self.shots.len()).unwrap_or(u32::MAX)
    }

    fn shot(&self, number: usize) -> Option<(usize, SocketAddr)> {
        self.shots.get(number % self.shots.len().max(1)).copied()
    }
}

impl Field<'_> {
    fn stamp(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    async fn send(&mut self, kind: Kind, socket: usize, to: SocketAddr) {
        let stamp = self.stamp();
        self.send_stamped(kind, stamp, socket, to).await;
    }

    async fn send_stamped(&mut self, kind: Kind, stamp: u64, socket: usize, to: SocketAddr) {
        let packet = Packet { kind, round: self.round, stamp }.write(self.nonces);
        self.post.send(socket, &packet, to).await;
    }
}

/// What is known in the course of a round.
#[derive(Default)]
struct Talk {
    heard: u32,
    answers: u32,
    first_heard: Option<Instant>,
    heard_from: Option<Way>,
    /// Knocks that were sent back there.
    knocked_back: usize,
    back_since: Option<Instant>,
    /// Both directions work.
    proven: Option<Way>,
    chosen: Option<Way>,
    choices: u32,
    choose_at: Option<Instant>,
    rtt: Option<Duration>,
    /// When the round may end, because everything is known.
    done: Option<Instant>,
}

/// Times that the first side says which way it chose.
const CHOICES: u32 = 6;

impl Talk {
    async fn hear(&mut self, field: &mut Field<'_>, arrival: Arrival) {
        let Some(packet) = Packet::read(&arrival.bytes, field.nonces) else { return };
        let way = Way { socket: arrival.socket, remote: arrival.from };
        self.heard += 1;
        self.first_heard.get_or_insert(arrival.at);
        self.heard_from.get_or_insert(way);
        self.back_since.get_or_insert(arrival.at);
        if self.answers >= MAX_ANSWERS {
            return;
        }
        match packet.kind {
            Kind::Ping => {
                self.answers += 1;
                field.send_stamped(Kind::Pong, packet.stamp, way.socket, way.remote).await;
            }
            Kind::Pong => {
                let took = Duration::from_micros(field.stamp().saturating_sub(packet.stamp));
                self.rtt = Some(self.rtt.map_or(took, |rtt| rtt.min(took)));
                if self.proven.is_none() {
                    for _ in 0..ACKS {
                        field.send_stamped(Kind::Ack, packet.stamp, way.socket, way.remote).await;
                    }
                    self.answers += ACKS as u32;
                }
                self.prove(field, way).await;
            }
            Kind::Ack => self.prove(field, way).await,
            Kind::Nominate => {
                self.answers += 1;
                field.send_stamped(Kind::Nominated, packet.stamp, way.socket, way.remote).await;
                if field.role == Role::Second {
                    self.chosen = Some(way);
                    self.done = Some(Instant::now());
                }
            }
            Kind::Nominated => {
                if field.role == Role::First && self.chosen == Some(way) {
                    self.done = Some(Instant::now());
                }
            }
            // Those of an earlier way.
            Kind::Heartbeat | Kind::HeartbeatReply => {}
        }
    }

    /// When the next knock goes back to where one was heard from.
    fn back_at(&self) -> Option<Instant> {
        let since = self.back_since.filter(|_| self.proven.is_none())?;
        AGAIN_MS.get(1 + self.knocked_back).map(|after| since + Duration::from_millis(*after))
    }

    async fn knock_back(&mut self, field: &mut Field<'_>) {
        let (Some(way), Some(at)) = (self.heard_from, self.back_at()) else { return };
        if at <= Instant::now() {
            self.knocked_back += 1;
            field.send(Kind::Ping, way.socket, way.remote).await;
        }
    }

    async fn prove(&mut self, field: &mut Field<'_>, way: Way) {
        if self.proven.is_some() {
            return;
        }
        self.proven = Some(way);
        match field.role {
            Role::First => {
                self.chosen = Some(way);
                self.choose_at = Some(Instant::now());
                self.insist(field).await;
            }
            // The first side's choice is waited for, but not for ever: it may have been lost.
            Role::Second => self.done = Some(Instant::now() + Duration::from_secs(1)),
        }
    }

    /// Says once more which way was chosen, when it is time.
    async fn insist(&mut self, field: &mut Field<'_>) {
        let (Some(way), Some(at)) = (self.chosen, self.choose_at) else { return };
        if field.role != Role::First || at > Instant::now() {
            return;
        }
        if self.choices == CHOICES {
            self.choose_at = None;
            self.done = Some(Instant::now());
            return;
        }
        self.choices += 1;
        field.send(Kind::Nominate, way.socket, way.remote).await;
        self.choose_at =
            Some(Instant::now() + self.rtt.unwrap_or_default().max(Duration::from_millis(30)) * 3 / 2);
    }
}
