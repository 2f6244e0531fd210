//! Carries out the measurement: opens sockets, keeps the mappings that are to be kept, looks when it is time, and tells
//! how far it has come. What to look at is [`climb`](super::climb)'s choice.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use super::{
    PROBE, STREAM_HEAD, UNREPLIED_HEAD, Way,
    climb::Climb,
    conclude,
    ladder::Ladder,
    observe::{AGAIN, Flow, Ripe, Role, STREAM_AFTER, Seen, State},
};
use crate::{
    ledger::{Ask, Ledger, Place, SocketId},
    session::{Request, Session, Socket},
};

/// The name in the ledger of requests that keep a socket talking to another endpoint.
pub(super) const BEAT: &str = "lifetime-beat";

/// Sockets are opened this far apart.
const OPENING: Duration = Duration::from_millis(12);
/// Tries to make one mapping.
const TRIES: usize = 4;
/// The time from one look at a silent mapping to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(60);
/// Looks at one silent mapping before giving up.
const LOOKS: u32 = super::observe::MOST_LOOKS + 6;
/// Shortest and longest time between packets that keep a mapping busy.
const BEATS: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// With nothing else to do, something is looked at this often all the same.
const IDLE: Duration = Duration::from_secs(5);

/// Measures with this way of looking; ends by itself a little after the longest idle time.
pub(super) async fn measure(session: Arc<Session>, way: Way, longest: Duration) {
    let Ok(asker) = session.open().await else { return };
    let mut conductor = Conductor::new(session, way, asker, longest);
    if conductor.know_asker().await {
        conductor.run().await;
    }
}

/// Looks at one mapping until it is decided.
#[derive(Clone, Copy, Debug)]
struct Flight {
    began: Duration,
    next: Duration,
    sent: u32,
}

struct Conductor {
    session: Arc<Session>,
    way: Way,
    /// Asks the server to answer to the others.
    asker: Socket,
    asker_port: u16,
    elsewhere: Option<SocketAddr>,
    begun: Duration,
    longest: Duration,
    /// What is still to be opened, and when.
    plan: Vec<(Duration, Role)>,
    sockets: BTreeMap<SocketId, Socket>,
    unreplied: Climb,
    stream: Climb,
    flights: BTreeMap<SocketId, Flight>,
    beaten: Duration,
    /// Rungs at which an outbound heartbeat was due.
    pushed: usize,
    judged: BTreeSet<SocketId>,
    asleep: Option<Duration>,
    told: String,
}

impl Conductor {
    fn new(session: Arc<Session>, way: Way, asker: Socket, longest: Duration) -> Self {
        let unreplied = Ladder::new(longest, UNREPLIED_HEAD);
        let stream = Ladder::new(longest, STREAM_HEAD);
        let places = session.places();
        let elsewhere = [Place::BOTH, Place::IP, Place::PORT].into_iter().find_map(|p| places.get(p));
        Self {
            plan: plan(way, &unreplied, &stream),
            unreplied: Climb::new(if way == Way::Again { Vec::new() } else { unreplied.rungs }),
            stream: Climb::new(stream.rungs),
            begun: session.now(),
            asleep: session.net().suspended(),
            session,
            way,
            asker,
            asker_port: 0,
            elsewhere,
            longest,
            sockets: BTreeMap::new(),
            flights: BTreeMap::new(),
            beaten: Duration::ZERO,
            pushed: 0,
            judged: BTreeSet::new(),
            told: String::new(),
        }
    }

    /// Learns the external endpoint of the socket that asks.
    async fn know_asker(&mut self) -> bool {
        let server = self.session.server();
        for _ in 0..8 {
            let round = self.session.round();
            self.control(round).await;
            let socket = self.asker.id;
            let known = |ledger: &Ledger| ledger.mapped(socket, server).is_some();
            if self.session.until(self.session.now() + self.session.patience(), known).await {
                break;
            }
        }
        let outside = self.session.read(|ledger| ledger.mapped(self.asker.id, server));
        self.asker_port = outside.map_or(0, |outside| outside.port());
        self.begun = self.session.now();
        outside.is_some()
    }

    async fn run(&mut self) {
        // What the head of the ladder takes, and two decisions.
        let end = self.begun + self.longest + super::TAIL;
        loop {
            let now = self.session.now();
            self.notice_sleep();
            let mut again = now + IDLE;
            let mut at = |when: Option<Duration>| again = again.min(when.unwrap_or(again));
            at(self.open_due(now).await);
            let ripe = Ripe {
                until: now.saturating_sub(self.session.patience()),
                patience: self.session.patience(),
            };
            // One look more than the conclusion asks for, where packets get lost: later losses must not undo it.
            let seen = self.session.read(|ledger| Seen::with_margin(ledger, ripe));
            at(self.make(&seen, now).await);
            self.land(&seen, now);
            at(self.climb(&seen, now));
            at(self.keep(&seen, now).await);
            self.judge(&seen, now);
            at(self.fly(now).await);
            self.tell(&seen, now);
            let done = self.unreplied.is_done() && self.stream.is_done() && self.flights.is_empty();
            if now >= end || done {
                return;
            }
            tokio::time::sleep_until(self.session.instant(again.max(now + Duration::from_millis(1)))).await;
        }
    }

    /// Opens what is due. Gives the time of the next.
    async fn open_due(&mut self, now: Duration) -> Option<Duration> {
        while let Some(&(offset, role)) = self.plan.first() {
            let wanted = match role {
                Role::Unreplied => self.unreplied.wants_more(),
                Role::Stream => self.stream.wants_more(),
                Role::Outbound | Role::Inbound | Role::Elsewhere => true,
            };
            if wanted && self.begun + offset > now {
                return Some(self.begun + offset);
            }
            self.plan.remove(0);
            if wanted && let Ok(socket) = self.session.open().await {
                self.push(&socket, role).await;
                self.sockets.insert(socket.id, socket);
            }
        }
        None
    }

    /// Sends a packet that makes or keeps a mapping of this role.
    async fn push(&self, socket: &Socket, role: Role) {
        let ask = match (role.is_stream(), self.way) {
            (false, Way::Reach { long }) => Ask::Reach { socket: self.asker.id, port: self.asker_port, long },
            (true, _) | (false, Way::Again) => Ask::Plain,
        };
        let request =
            Request { purpose: role.purpose(), to: self.session.server(), ask, round: self.session.round() };
        self.session.send(socket, request).await;
    }

    /// Brings new mappings into the state in which they are to be. Gives the time at which there is more to do.
    async fn make(&mut self, seen: &Seen, now: Duration) -> Option<Duration> {
        let patience = self.session.patience().max(LOOK_AGAIN);
        let mut again: Option<Duration> = None;
        for flow in seen.flows.iter().filter(|f| f.state == State::Untouched && f.last.is_none()) {
            let tries = if flow.role.is_stream() { TRIES * 2 } else { TRIES };
            if flow.made.0 >= tries {
                continue;
            }
            let retry = flow.pushed + patience;
            let due = match flow.answered {
                // What was sent before that does not make a stream.
                Some(first) if flow.pushed < first + STREAM_AFTER => first + STREAM_AFTER,
                Some(_) | None => retry,
            };
            if due > now {
                again = Some(again.map_or(due, |a| a.min(due)));
            } else if let Some(socket) = self.sockets.get(&flow.socket) {
                self.push(socket, flow.role).await;
                again = Some(again.map_or(now + patience, |a| a.min(now + patience)));
            }
        }
        again
    }

    /// Ends looks that are decided.
    fn land(&mut self, seen: &Seen, now: Duration) {
        for flow in &seen.flows {
            let Some(flight) = self.flights.get(&flow.socket) else { continue };
            let decided = match flow.state {
                State::Gone(_) => true,
                // That one was looked at all the time.
                State::Alive(_) => flow.found.is_some_and(|at| at >= flight.began),
                State::Untouched | State::Silent => flight.sent >= LOOKS && now >= flight.next,
            };
            if decided {
                self.flights.remove(&flow.socket);
            }
        }
    }

    fn climb(&mut self, seen: &Seen, now: Duration) -> Option<Duration> {
        // More loss than was known makes some silence undecided again.
        let undecided = |f: &&Flow| f.state == State::Silent && f.role != Role::Inbound;
        for flow in seen.flows.iter().filter(undecided).filter(|f| f.looks < LOOKS as usize) {
            let sent = flow.looks as u32;
            self.flights.entry(flow.socket).or_insert(Flight { began: now, next: now, sent });
        }
        let flying: BTreeSet<SocketId> = self.flights.keys().copied().collect();
        let mut again: Option<Duration> = None;
        for (role, climb) in [(Role::Unreplied, &mut self.unreplied), (Role::Stream, &mut self.stream)] {
            let usable = conclude::usable(seen);
            let flows: Vec<&Flow> = seen.of_role(role).filter(|f| usable(f)).collect();
            let step = climb.step(&flows, &flying, now);
            for socket in step.look {
                self.flights.insert(socket, Flight { began: now, next: now, sent: 0 });
            }
            again = match (again, step.again) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        again
    }

    /// Keeps busy what is to be kept busy. Gives the time of the next packet.
    async fn keep(&mut self, seen: &Seen, now: Duration) -> Option<Duration> {
        let Way::Reach { .. } = self.way else { return None };
        // One packet after each rung that was climbed: then the mapping was surely still there.
        if self.unreplied.climbed() > self.pushed && !self.unreplied.is_bracketed() {
            self.pushed = self.unreplied.climbed();
            let kept: Vec<SocketId> = seen.of_role(Role::Outbound).map(|f| f.socket).collect();
            if !kept.is_empty()
                && let Some(socket) = self.sockets.get(&kept[self.pushed % kept.len()])
            {
                self.push(socket, Role::Outbound).await;
            }
        }
        let busy = !(self.unreplied.is_bracketed() && self.stream.is_bracketed());
        let every = (now.saturating_sub(self.begun) / 8).clamp(BEATS.0, BEATS.1);
        if !busy {
            return None;
        }
        if now < self.beaten + every {
            return Some(self.beaten + every);
        }
        self.beaten = now;
        let round = self.session.round();
        for flow in &seen.flows {
            match flow.role {
                Role::Inbound if flow.last.is_some() && !self.stream.is_bracketed() => {
                    self.look(flow.socket, round).await;
                }
                Role::Elsewhere if flow.last.is_some() && !self.unreplied.is_bracketed() => {
                    if let (Some(socket), Some(to)) = (self.sockets.get(&flow.socket), self.elsewhere) {
                        let request = Request { purpose: BEAT, to, ask: Ask::Plain, round };
                        self.session.send(socket, request).await;
                    }
                }
                Role::Unreplied | Role::Stream | Role::Outbound | Role::Inbound | Role::Elsewhere => {}
            }
        }
        Some(now + every)
    }

    /// Once a timer is bracketed, looks at the mappings that tell what refreshes it.
    fn judge(&mut self, seen: &Seen, now: Duration) {
        for flow in seen.flows.iter().filter(|f| f.last.is_some()) {
            let bracketed = match flow.role {
                Role::Unreplied | Role::Stream => false,
                Role::Inbound => self.stream.is_bracketed(),
                Role::Outbound | Role::Elsewhere => self.unreplied.is_bracketed(),
            };
            if bracketed && self.judged.insert(flow.socket) {
                self.flights.insert(flow.socket, Flight { began: now, next: now, sent: 0 });
            }
        }
    }

    /// Looks at everything that is due, with one control beside. Gives the time of the next looks.
    async fn fly(&mut self, now: Duration) -> Option<Duration> {
        let patience = self.session.patience().max(LOOK_AGAIN);
        let due: Vec<SocketId> =
            self.flights.iter().filter(|(_, f)| f.next <= now).map(|(s, _)| *s).collect();
        if !due.is_empty() {
            let round = self.session.round();
            // One look at one mapping is most often answered, and then needs nothing to vouch for it.
            let climbing = self.unreplied.wants_more() && self.stream.wants_more();
            let mut vouch = due.len() > 1 || !climbing;
            for socket in due {
                let Some(flight) = self.flights.get_mut(&socket) else { continue };
                // The first answer saves further looks; after that, haste keeps the bracket narrow.
                flight.next = now + if flight.sent == 0 { patience } else { LOOK_AGAIN };
                flight.sent += 1;
                vouch |= flight.sent > 1;
                if flight.sent > LOOKS {
                    flight.next = now + patience;
                    continue;
                }
                self.look(socket, round).await;
            }
            if vouch {
                self.control(round).await;
            }
        }
        self.flights.values().map(|f| f.next).min()
    }

    /// One look at a mapping.
    async fn look(&self, socket: SocketId, round: u32) {
        let to = self.session.server();
        match self.way {
            Way::Reach { long } => {
                let outside = self.session.read(|ledger| outside(ledger, socket));
                let Some(outside) = outside else { return };
                let ask = Ask::Reach { socket, port: outside.port(), long };
                self.session.send(&self.asker, Request { purpose: PROBE.name, to, ask, round }).await;
            }
            Way::Again => {
                let Some(own) = self.sockets.get(&socket) else { return };
                self.session.send(own, Request { purpose: AGAIN, to, ask: Ask::Plain, round }).await;
            }
        }
    }

    /// A request whose answer shows that the way to the server and back is open just now.
    async fn control(&self, round: u32) {
        let request = Request { purpose: PROBE.name, to: self.session.server(), ask: Ask::Plain, round };
        self.session.send(&self.asker, request).await;
    }

    fn notice_sleep(&mut self) {
        let asleep = self.session.net().suspended();
        if let (Some(before), Some(after)) = (self.asleep, asleep)
            && after > before
        {
            self.session.slept(after - before);
        }
        self.asleep = asleep;
    }

    fn tell(&mut self, seen: &Seen, now: Duration) {
        let text = conclude::so_far(seen, now);
        if text != self.told {
            self.told.clone_from(&text);
            self.session.say(PROBE.name, text);
        }
    }
}

/// The external endpoint of a socket, as the first answer to it shows.
fn outside(ledger: &Ledger, socket: SocketId) -> Option<SocketAddr> {
    let own = ledger.trials.iter().filter(|t| t.socket == socket);
    own.filter_map(|t| t.successes().find(|a| a.from == ledger.server)?.mapped()).next()
}

/// What is opened when: those that tell of refreshing first, then the rungs of both timers by turns, then the teeth.
fn plan(way: Way, unreplied: &Ladder, stream: &Ladder) -> Vec<(Duration, Role)> {
    let mut roles = Vec::new();
    let ladders: &[(Role, &Ladder)] = match way {
        Way::Reach { .. } => {
            roles.extend(
                [Role::Inbound, Role::Outbound, Role::Outbound, Role::Elsewhere].map(|r| (Duration::ZERO, r)),
            );
            &[(Role::Stream, stream), (Role::Unreplied, unreplied)]
        }
        Way::Again => &[(Role::Stream, stream)],
    };
    for rung in 0..unreplied.rungs.len().max(stream.rungs.len()) {
        roles.extend(ladders.iter().filter_map(|(role, l)| Some((Ladder::due(*l.rungs.get(rung)?), *role))));
    }
    let mut plan: Vec<(Duration, Role)> =
        roles.into_iter().enumerate().map(|(n, (due, role))| (due + OPENING * n as u32, role)).collect();
    for (role, ladder) in ladders {
        plan.extend(ladder.teeth.iter().map(|&at| (at, *role)));
    }
    plan.sort_by_key(|(at, _)| *at);
    plan
}
