//! Carries out the measurement: opens sockets, keeps the mappings that are to be kept, looks when it is time, and tells
//! how far it has come. What to look at is [`climb`](super::climb)'s choice, how fast [`pace`](super::pace)'s.

mod packets;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use packets::adoptable;

use super::{
    PROBE, STREAM_HEAD, UNREPLIED_HEAD, Way,
    climb::Climb,
    conclude,
    ladder::Ladder,
    observe::{Flow, ROUND_INTERVAL, Ripe, Role, Seen, State},
    pace::Pace,
    plan::{Opening, plan},
    upset::spoilt,
    view::View,
};
use crate::{
    observation::{ObservationLog, RequestKind, SocketId},
    server_endpoints::ServerEndpoint,
    session::{Request, Session, Socket},
};

/// Sockets that are tried as the one that asks.
const ASKERS: usize = 2;
/// Looks at one of the mappings that tell what refreshes them, at the end.
const LOOKS: usize = super::observe::MOST_LOOKS as usize + 6;
/// With fewer packets left, only what is necessary is looked at.
const SPARE: usize = 20;
/// With more, looks need not wait for one another's answers.
const PLENTY: usize = 32;
/// Shortest and longest time between packets that keep a mapping busy.
const BEATS: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(5));
/// With nothing else to do, something is looked at this often all the same.
const IDLE: Duration = Duration::from_secs(5);

/// Measures with this way of looking; ends by itself a little after the longest idle time.
pub(super) async fn measure(session: Arc<Session>, way: Way, longest: Duration) {
    // A socket that gets no answer may have an external port that the server does not talk to: another one will do.
    for _ in 0..ASKERS {
        let Ok(asker) = session.open().await else { return };
        let mut conductor = Conductor::new(Arc::clone(&session), way, asker, longest);
        if conductor.know_asker().await {
            return conductor.run().await;
        }
        conductor.rest().await;
    }
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
    pace: Pace,
    /// What is still to be opened.
    plan: Vec<Opening>,
    /// Sockets of earlier measurements, and when their mappings can be made streams.
    adopted: Vec<(SocketId, Duration)>,
    sockets: BTreeMap<SocketId, Socket>,
    unreplied: Climb,
    stream: Climb,
    beaten: Duration,
    /// Rungs at which an outbound heartbeat was due.
    pushed: usize,
    /// How often each mapping was looked at.
    judged: BTreeMap<SocketId, usize>,
    asleep: Option<Duration>,
    /// How many looks have told something, and whether that tells how mappings end.
    told_by: (usize, bool),
    told: String,
}

/// Mappings to look at now.
#[derive(Debug, Default)]
struct Looks {
    at: Vec<SocketId>,
    /// Whether silence is to count, so that a control has to go beside.
    vouch: bool,
}

/// Gathers the times at which there is something to do, down to the first.
#[derive(Debug)]
struct Agenda(Duration);

impl Agenda {
    fn add(&mut self, at: impl Into<Option<Duration>>) {
        self.0 = self.0.min(at.into().unwrap_or(self.0));
    }
}

impl Conductor {
    fn new(session: Arc<Session>, way: Way, asker: Socket, longest: Duration) -> Self {
        let unreplied = Ladder::new(longest, UNREPLIED_HEAD);
        let stream = Ladder::new(longest, STREAM_HEAD);
        let endpoints = session.endpoints();
        let elsewhere = [ServerEndpoint::BOTH, ServerEndpoint::IP, ServerEndpoint::PORT]
            .into_iter()
            .find_map(|p| endpoints.get(p));
        let adopted = session.read(|log| adoptable(log, session.now()));
        let adopted: Vec<_> = adopted.into_iter().take(stream.due().count()).collect();
        Self {
            plan: plan(way, &unreplied, &stream, adopted.len()),
            adopted,
            unreplied: Climb::new(if way == Way::Again { Vec::new() } else { unreplied.rungs }),
            stream: Climb::new(stream.rungs),
            begun: session.now(),
            beaten: session.now(),
            pace: Pace::new(session.now()),
            asleep: session.net().suspended(),
            session,
            way,
            asker,
            asker_port: 0,
            elsewhere,
            longest,
            sockets: BTreeMap::new(),
            pushed: 0,
            judged: BTreeMap::new(),
            told_by: (0, false),
            told: String::new(),
        }
    }

    /// Learns the external endpoint of the socket that asks.
    async fn know_asker(&mut self) -> bool {
        let server = self.session.server();
        for _ in 0..6 {
            let round = self.session.round();
            self.control(round).await;
            let socket = self.asker.id;
            let known = |log: &ObservationLog| log.mapped(socket, server).is_some();
            let until = self.pace.when(1).max(self.session.now() + self.session.response_timeout());
            if self.session.until(until, known).await {
                break;
            }
        }
        let outside = self.session.read(|log| log.mapped(self.asker.id, server));
        self.asker_port = outside.map_or(0, |outside| outside.port());
        self.begun = self.session.now();
        outside.is_some()
    }

    /// Waits until the average is kept.
    async fn rest(&self) {
        tokio::time::sleep_until(self.session.instant(self.pace.earliest_end())).await;
    }

    async fn run(&mut self) {
        // What the head of the ladder takes, and two decisions.
        let end = self.begun + super::ends_after(self.longest);
        loop {
            let now = self.session.now();
            self.notice_sleep();
            let response_timeout = self.session.response_timeout();
            let timed_out_before = Ripe { until: now.saturating_sub(response_timeout), response_timeout };
            // One look more than the conclusion asks for, where packets get lost: later losses must not undo it.
            let seen = self.session.read(|log| Seen::with_margin(log, timed_out_before));
            if self.session.read(|log| spoilt(log, &seen)).is_some() {
                return;
            }
            let mut agenda = Agenda(now + IDLE);
            let mut looks = self.climb(&seen, now, response_timeout, &mut agenda);
            // What refreshes mappings can wait for the timers, where packets are few.
            let bracketed = self.unreplied.is_bracketed() && self.stream.is_bracketed();
            if bracketed || self.pace.ready(now) >= SPARE {
                let judged = self.judge(&seen, now, response_timeout, &mut agenda);
                looks.vouch |= !judged.is_empty();
                looks.at.extend(judged);
            }
            let busy = !looks.at.is_empty();
            // What has to wait for packets is not to be overtaken.
            if self.look_at(&looks, now, &mut agenda).await {
                self.adopt(now, &mut agenda).await;
                self.make(&seen, now, response_timeout, &mut agenda).await;
                self.keep(&seen, now, response_timeout, &mut agenda).await;
                self.open_due(now, &mut agenda).await;
            }
            self.tell(&seen, now);
            let done = self.unreplied.is_done() && self.stream.is_done() && !busy && self.is_judged(&seen);
            if now >= end || done {
                return self.rest().await;
            }
            let until = agenda.0.max(now + Duration::from_millis(1));
            tokio::time::sleep_until(self.session.instant(until)).await;
        }
    }

    /// What the two timers ask for.
    fn climb(
        &mut self,
        seen: &Seen,
        now: Duration,
        response_timeout: Duration,
        agenda: &mut Agenda,
    ) -> Looks {
        let usable = conclude::usable(seen);
        let mut looks = Looks::default();
        let ready = self.pace.ready(now);
        let (spare, plenty) = (ready >= SPARE, ready >= PLENTY);
        let told = self.is_told(seen);
        // Mappings without answers are known first, and most NATs have one timer for all.
        let mut hint = None;
        for (role, climb) in [(Role::Unreplied, &mut self.unreplied), (Role::Stream, &mut self.stream)] {
            let flows: Vec<&Flow> = seen.of_role(role).filter(|f| usable(f)).collect();
            let step =
                climb.step(View { flows: &flows, seen, now, response_timeout, spare, plenty, told, hint });
            hint = conclude::horizon_of(seen, role).filter(|_| climb.is_bracketed());
            looks.vouch |= !step.look.is_empty() && !step.hopeful;
            looks.at.extend(step.look);
            agenda.add(step.again);
        }
        looks
    }

    /// Whether it is known beyond doubt how mappings end, where that is not all by one timer.
    fn is_told(&mut self, seen: &Seen) -> bool {
        if !self.unreplied.is_watching() && !self.stream.is_watching() {
            return false;
        }
        let looks =
            seen.flows.iter().map(|f| f.quiet + usize::from(matches!(f.state, State::Alive(_)))).sum();
        if self.told_by.0 != looks {
            self.told_by = (looks, conclude::manner_is_settled(seen));
        }
        self.told_by.1
    }

    /// Once a timer is bracketed, asks for looks at the mappings that tell what refreshes it, until they have told.
    fn judge(
        &mut self,
        seen: &Seen,
        now: Duration,
        response_timeout: Duration,
        agenda: &mut Agenda,
    ) -> Vec<SocketId> {
        let mut looks = Vec::new();
        let goal = seen.enough.map_or(LOOKS, |enough| enough as usize);
        for (from, flow) in self.untold(seen) {
            let asked = self.judged.get(&flow.socket).copied().unwrap_or_default();
            let due = if asked == 0 { from } else { flow.looked.unwrap_or_default() + response_timeout };
            if due > now {
                agenda.add(due);
                continue;
            }
            // The first answer saves further looks.
            let times = if asked == 0 { 1 } else { goal.saturating_sub(flow.quiet).clamp(1, LOOKS) };
            looks.extend(std::iter::repeat_n(flow.socket, times));
        }
        looks
    }

    /// The mappings of which it is not yet known what refreshes them, though it could be, and from when on.
    fn untold<'a>(&self, seen: &'a Seen) -> Vec<(Duration, &'a Flow)> {
        let open = |flow: &&Flow| {
            let bracketed = match flow.role {
                Role::Unreplied | Role::Stream => false,
                Role::Inbound => self.stream.is_bracketed(),
                Role::Outbound | Role::Elsewhere => self.unreplied.is_bracketed(),
            };
            let asked = self.judged.get(&flow.socket).copied().unwrap_or_default();
            // One that was found is asked no more, but for the one that is looked at all the time.
            let decided = asked > 0 && matches!(flow.state, State::Alive(_) | State::Gone(_));
            let decided = decided && (flow.role != Role::Inbound || asked > 3);
            bracketed && flow.last.is_some() && !decided && (asked < LOOKS || flow.pending > 0)
        };
        let told = self.session.read(|log| conclude::refreshing(log, seen));
        let open = seen.flows.iter().filter(open);
        open.filter_map(|flow| Some((told.tells_from(flow)?, flow))).collect()
    }

    fn is_judged(&self, seen: &Seen) -> bool {
        self.untold(seen).is_empty()
    }

    /// Keeps busy what is to be kept busy.
    async fn keep(&mut self, seen: &Seen, now: Duration, response_timeout: Duration, agenda: &mut Agenda) {
        // One packet after each rung that was climbed and after the last, to a mapping younger than those found alive.
        let climbed = self.unreplied.climbed() + usize::from(self.unreplied.is_bracketed());
        if climbed > self.pushed && self.pace.ready(now) > 0 {
            self.pushed = climbed;
            let alive = seen.of_role(Role::Unreplied).filter_map(|f| match f.state {
                State::Alive(idle) => Some(idle),
                State::Gone(_) | State::Silent | State::Untouched => None,
            });
            let alive = alive.max().unwrap_or_default();
            if let Some(flow) = seen.of_role(Role::Outbound).next()
                && now + response_timeout < flow.opened + alive
                && let Some(socket) = self.sockets.get(&flow.socket).cloned()
            {
                self.push(&socket, Role::Outbound).await;
            }
        }
        if self.unreplied.is_bracketed() && self.stream.is_bracketed() {
            return;
        }
        let every = (now.saturating_sub(self.begun) / 8).clamp(BEATS.0, BEATS.1);
        if now < self.beaten + every {
            return agenda.add(self.beaten + every);
        }
        if self.pace.ready(now) < 2 {
            return agenda.add(self.pace.when(2));
        }
        self.beaten = now;
        agenda.add(now + every);
        let round = self.session.round();
        if self.way == Way::Again {
            // Its mapping is to stay, so that losing it shows that the NAT lost its state.
            return self.control(round).await;
        }
        for flow in seen.flows.iter().filter(|f| f.last.is_some()) {
            match flow.role {
                Role::Inbound if !self.stream.is_bracketed() => self.look(flow.socket, round).await,
                Role::Elsewhere if !self.unreplied.is_bracketed() => {
                    if let (Some(socket), Some(to)) =
                        (self.sockets.get(&flow.socket).cloned(), self.elsewhere)
                    {
                        self.send(
                            &socket,
                            Request { purpose: ROUND_INTERVAL, to, kind: RequestKind::Binding, round },
                        )
                        .await;
                    }
                }
                Role::Unreplied | Role::Stream | Role::Outbound | Role::Inbound | Role::Elsewhere => {}
            }
        }
    }

    /// Opens what is due.
    async fn open_due(&mut self, now: Duration, agenda: &mut Agenda) {
        let since = now.saturating_sub(self.begun);
        let mut at = 0;
        while let Some(&Opening { at: due, role, need }) = self.plan.get(at) {
            let rung = need != super::plan::Need::Soon;
            let wanted = match role {
                Role::Unreplied if rung => self.unreplied.wants_rungs(),
                Role::Unreplied => self.unreplied.wants_teeth(),
                Role::Stream if rung => self.stream.wants_rungs(),
                Role::Stream => self.stream.wants_teeth(),
                Role::Outbound | Role::Inbound | Role::Elsewhere => true,
            };
            if wanted && due > since {
                return agenda.add(self.begun + due);
            }
            if wanted && self.pace.ready(now) <= need.reserve(since) {
                agenda.add(self.pace.when(1 + need.reserve(since)));
                at += 1;
                continue;
            }
            self.plan.remove(at);
            if wanted && let Ok(socket) = self.session.open().await {
                self.push(&socket, role).await;
                self.sockets.insert(socket.id, socket);
                agenda.add(now + self.session.response_timeout());
            }
        }
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
