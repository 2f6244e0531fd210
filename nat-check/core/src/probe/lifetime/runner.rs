//! Runs the measurement: opens sockets, sends what is due, and waits. What to check next is for [`search`](super::search)
//! to say, how much may be sent for [`packet_budget`](super::packet_budget).

mod lone;
mod refresh;
mod send;
mod set_up;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use lone::Lone;

use super::{
    CheckMethod, PROBE,
    conclude::{self, bounds, progress},
    constants::{
        ENDS_AFTER, ENDS_AFTER_DIVISOR, REQUESTER_TRIES, REQUESTERS, STREAM_SETUP, UNREPLIED_SETUP,
        WAKES_AFTER, WAKES_NO_SOONER,
    },
    invalidation::ends_run,
    observe::{MappingHistory, MappingState, Observations, Role, Timeouts},
    openings::{Opening, openings},
    packet_budget::PacketBudget,
    schedule::Schedule,
    search::Search,
    step::{BudgetLevel, SearchInput},
};
use crate::{
    observation::{ObservationLog, SocketId},
    server_endpoints::ServerEndpoint,
    session::{Session, Socket},
};

/// When a run ends at the latest, after its start.
pub(super) fn ends_after(longest: Duration) -> Duration {
    longest + ENDS_AFTER + longest / ENDS_AFTER_DIVISOR
}

/// Measures with this method; ends by itself a little after the longest idle time.
pub(super) async fn measure(session: Arc<Session>, method: CheckMethod, longest: Duration) {
    for _ in 0..REQUESTERS {
        let Ok(requester) = session.open().await else { return };
        let mut runner = Runner::new(Arc::clone(&session), method, requester, longest);
        if runner.find_requester_port().await {
            return runner.run().await;
        }
        runner.wait_for_average().await;
    }
}

struct Runner {
    session: Arc<Session>,
    method: CheckMethod,
    /// Requests the checks: has the server respond to the other sockets' external ports.
    requester: Socket,
    requester_port: u16,
    /// The other destination of keepalives.
    elsewhere: Option<SocketAddr>,
    begun: Duration,
    longest: Duration,
    budget: PacketBudget,
    /// What is still to be opened.
    openings: Vec<Opening>,
    /// Sockets of earlier measurements, and when their mappings can be made streams.
    reusable: Vec<(SocketId, Duration)>,
    sockets: BTreeMap<SocketId, Socket>,
    unreplied: Search,
    stream: Search,
    last_keepalive: Duration,
    /// Checkpoints after which the outbound mapping was refreshed.
    refreshed: usize,
    /// How often each mapping was checked.
    checks: BTreeMap<SocketId, usize>,
    suspended: Option<Duration>,
    /// Whether it is certain how mappings expire, and after how many checks that was computed.
    style_is_known: (usize, bool),
    progress: String,
    lone: Lone,
}

/// What is known in one pass of the loop.
#[derive(Clone, Copy, Debug)]
struct Snapshot<'a> {
    observations: &'a Observations,
    now: Duration,
    response_timeout: Duration,
}

/// Mappings to check now.
#[derive(Debug, Default)]
struct Checks {
    of: Vec<SocketId>,
    /// Whether silence is to count, so that a control request has to go beside.
    need_control: bool,
}

/// The next time at which there is something to do: the earliest of all that are added.
#[derive(Debug)]
struct WakeUp(Duration);

impl WakeUp {
    fn add(&mut self, at: impl Into<Option<Duration>>) {
        self.0 = self.0.min(at.into().unwrap_or(self.0));
    }
}

impl Runner {
    fn new(session: Arc<Session>, method: CheckMethod, requester: Socket, longest: Duration) -> Self {
        let unreplied = Schedule::new(longest, UNREPLIED_SETUP);
        let stream = Schedule::new(longest, STREAM_SETUP);
        let endpoints = session.endpoints();
        let elsewhere = [ServerEndpoint::BOTH, ServerEndpoint::IP, ServerEndpoint::PORT]
            .into_iter()
            .find_map(|endpoint| endpoints.get(endpoint));
        let mut reusable = session.read(|log| set_up::reusable(log, session.now()));
        reusable.truncate(stream.checkpoint_openings().count());
        let unreplied_checkpoints = match method {
            CheckMethod::ResponsePort { .. } => unreplied.checkpoints.clone(),
            CheckMethod::SendAgain => Vec::new(),
        };
        Self {
            openings: openings(method, &unreplied, &stream, reusable.len()),
            reusable,
            unreplied: Search::new(unreplied_checkpoints),
            stream: Search::new(stream.checkpoints),
            begun: session.now(),
            last_keepalive: session.now(),
            budget: PacketBudget::new(session.now()),
            suspended: session.net().suspended(),
            session,
            method,
            requester,
            requester_port: 0,
            elsewhere,
            longest,
            sockets: BTreeMap::new(),
            refreshed: 0,
            checks: BTreeMap::new(),
            style_is_known: (0, false),
            progress: String::new(),
            lone: Lone::default(),
        }
    }

    /// Finds the external port of the requester.
    async fn find_requester_port(&mut self) -> bool {
        let server = self.session.server();
        for _ in 0..REQUESTER_TRIES {
            let round = self.session.round();
            self.control(round).await;
            let socket = self.requester.id;
            let known = |log: &ObservationLog| log.mapped(socket, server).is_some();
            let answered_by = self.session.now() + self.session.response_timeout();
            if self.session.until(self.budget.available_at(1).max(answered_by), known).await {
                break;
            }
        }
        let external = self.session.read(|log| log.mapped(self.requester.id, server));
        self.requester_port = external.map_or(0, |external| external.port());
        self.begun = self.session.now();
        external.is_some()
    }

    async fn wait_for_average(&self) {
        tokio::time::sleep_until(self.session.instant(self.budget.earliest_end())).await;
    }

    async fn run(&mut self) {
        let end = self.begun + ends_after(self.longest);
        loop {
            self.note_suspend();
            let (now, response_timeout) = (self.session.now(), self.session.response_timeout());
            let timeouts = Timeouts { sent_until: now.saturating_sub(response_timeout), response_timeout };
            let observations = self.session.read(|log| Observations::with_margin(log, timeouts));
            if self.session.read(|log| ends_run(log, &observations)).is_some() {
                return;
            }
            let snapshot = Snapshot { observations: &observations, now, response_timeout };
            let mut wake_up = WakeUp(now + WAKES_AFTER);
            let checks = self.due_checks(snapshot, &mut wake_up);
            // What has to wait for packets is not to be overtaken.
            if self.send_checks(&checks, now, &mut wake_up).await {
                self.reuse(now, &mut wake_up).await;
                self.set_up(snapshot, &mut wake_up).await;
                self.refresh(snapshot, &mut wake_up).await;
                self.open_due(now, &mut wake_up).await;
            }
            self.report_progress(snapshot);
            let is_done = self.unreplied.is_done() && self.stream.is_done() && checks.of.is_empty();
            let is_done = is_done && self.refresh_is_known(snapshot);
            if now >= end || is_done && self.confirm_alone(snapshot).await {
                return self.wait_for_average().await;
            }
            let until = wake_up.0.max(now + WAKES_NO_SOONER);
            tokio::time::sleep_until(self.session.instant(until)).await;
        }
    }

    fn due_checks(&mut self, snapshot: Snapshot<'_>, wake_up: &mut WakeUp) -> Checks {
        let mut checks = self.search(snapshot, wake_up);
        let alone = self.lone_checks(snapshot, wake_up);
        checks.need_control |= !alone.is_empty();
        checks.of.extend(alone);
        // What refreshes mappings can wait for the timers, where packets are few.
        let level = BudgetLevel::of(self.budget.available(snapshot.now));
        if self.is_bracketed() || level >= BudgetLevel::Normal {
            let of_refresh = self.refresh_checks(snapshot, wake_up);
            checks.need_control |= !of_refresh.is_empty();
            checks.of.extend(of_refresh);
        }
        checks
    }

    /// What the searches for both timers ask for.
    fn search(&mut self, snapshot: Snapshot<'_>, wake_up: &mut WakeUp) -> Checks {
        let Snapshot { observations, now, response_timeout } = snapshot;
        let mut checks = Checks::default();
        let budget = BudgetLevel::of(self.budget.available(now));
        let style_is_known = self.style_is_known(observations);
        // The unreplied timer is known first, and most NATs have one timer for all.
        let mut other_timer = None;
        for (role, search) in [(Role::Unreplied, &mut self.unreplied), (Role::Stream, &mut self.stream)] {
            let mappings: Vec<&MappingHistory> = observations.usable(role).collect();
            let step = search.step(SearchInput {
                mappings: &mappings,
                observations,
                now,
                response_timeout,
                budget,
                style_is_known,
                other_timer,
            });
            other_timer = bounds(observations, role).filter(|_| search.is_bracketed());
            checks.need_control |= !step.check.is_empty() && !step.expects_answer;
            checks.of.extend(step.check);
            wake_up.add(step.again_at);
        }
        checks
    }

    /// Whether it is certain how mappings expire, where that is not by one exact timer.
    fn style_is_known(&mut self, observations: &Observations) -> bool {
        if !self.unreplied.is_sampling() && !self.stream.is_sampling() {
            return false;
        }
        let checks =
            |m: &MappingHistory| m.unanswered + usize::from(matches!(m.state, MappingState::Alive(_)));
        let checks = observations.mappings.iter().map(checks).sum();
        // Computing it takes time, so only when there is more to go by.
        if self.style_is_known.0 != checks {
            self.style_is_known = (checks, conclude::granularity_is_settled(observations));
        }
        self.style_is_known.1
    }

    fn is_bracketed(&self) -> bool {
        self.unreplied.is_bracketed() && self.stream.is_bracketed()
    }

    fn note_suspend(&mut self) {
        let suspended = self.session.net().suspended();
        if let (Some(before), Some(after)) = (self.suspended, suspended)
            && after > before
        {
            self.session.slept(after - before);
        }
        self.suspended = suspended;
    }

    fn report_progress(&mut self, snapshot: Snapshot<'_>) {
        let text = progress(snapshot.observations, snapshot.now);
        if text != self.progress {
            self.progress.clone_from(&text);
            self.session.report_status(PROBE.name, text);
        }
    }
}
