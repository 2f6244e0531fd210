//! From the log of requests to the history of each mapping: since when it was idle, and whether it still existed. Pure.

mod history;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{
    PROBE, PURPOSE,
    constants::{CHECKS_MARGIN, CHECKS_MOST},
};
use crate::{
    loss_test::LossCounts,
    observation::{ObservationLog, Purpose, RequestKind, SocketId, Transaction},
};

/// What a mapping is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// To expire without a response through it: the responses to its requests go to another socket.
    Unreplied,
    /// To expire after traffic in both directions for longer than two seconds.
    Stream,
    /// To be refreshed by outbound packets alone.
    Outbound,
    /// To be refreshed by inbound packets alone.
    Inbound,
    /// To be refreshed by traffic with another endpoint of the server alone.
    Elsewhere,
}

impl Role {
    const ALL: [Self; 5] = [Self::Unreplied, Self::Stream, Self::Outbound, Self::Inbound, Self::Elsewhere];

    /// The purpose of the requests that set up a mapping of this role.
    pub(super) fn purpose(self) -> Purpose {
        PURPOSE.role(match self {
            Self::Unreplied => "unreplied",
            Self::Stream => "stream",
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Elsewhere => "elsewhere",
        })
    }

    /// Whether its mapping must have been used for longer than two seconds.
    pub(super) fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::Inbound)
    }
}

/// The purpose of requests with which a socket checks its own mapping, where the server cannot respond to another port.
pub(super) const SEND_AGAIN: Purpose = PURPOSE.role("send-again");

/// The purpose of requests that keep a socket talking to another endpoint.
pub(super) const KEEPALIVE: Purpose = PURPOSE.role("keepalive");

/// A time that is known up to the one-way delay to the NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TimeRange {
    /// Not earlier than this.
    pub(super) earliest: Duration,
    /// Not later than this.
    pub(super) latest: Duration,
}

/// Whether a mapping still existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MappingState {
    /// It was not checked yet.
    Unchecked,
    /// It was checked, and so far no response came, which may be loss.
    Silent,
    /// It still existed after it had been idle for at least this long.
    Alive(Duration),
    /// It no longer existed after it had been idle for at most this long.
    Expired(Duration),
}

/// What is known of one socket's mapping.
#[derive(Clone, Debug)]
pub(super) struct MappingHistory {
    /// What it was opened for.
    pub(super) role: Role,
    /// The socket.
    pub(super) socket: SocketId,
    /// Requests that set it up or refreshed it.
    pub(super) requests: usize,
    /// How many of them were answered.
    pub(super) answered: usize,
    /// When the first of them was sent.
    pub(super) first_sent: Duration,
    /// When the last one was sent.
    pub(super) last_sent: Duration,
    /// When the first answer came.
    pub(super) first_answer: Option<Duration>,
    /// The external endpoint; none while there is no answer, or where it changed.
    pub(super) external: Option<SocketAddr>,
    /// When it was created.
    pub(super) created: TimeRange,
    /// When the last request that was answered passed the NAT.
    pub(super) last_answered: Option<TimeRange>,
    /// When its last packet passed the NAT; none while it is not ready.
    pub(super) last_used: Option<TimeRange>,
    /// What checks showed.
    pub(super) state: MappingState,
    /// When they showed that.
    pub(super) checked_at: TimeRange,
    /// Number of checks.
    pub(super) checks: usize,
    /// When the last check was sent.
    pub(super) last_check: Option<Duration>,
    /// Checks that may still be answered.
    pub(super) pending: usize,
    /// Checks that were not answered though what was sent beside them was; where one mapping is checked all the time,
    /// since the last one that was answered.
    pub(super) unanswered: usize,
    /// The last time that a check found it alive.
    pub(super) last_alive: Option<Duration>,
}

impl MappingHistory {
    /// How long it has been idle at least, at a time.
    pub(super) fn idle(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.last_used?.latest))
    }
}

/// What the log says of all mappings.
#[derive(Clone, Debug)]
pub(super) struct Observations {
    /// The mappings, in the order of their sockets.
    pub(super) mappings: Vec<MappingHistory>,
    /// External endpoints of the requester, in the order in which they were seen.
    pub(super) requester: Vec<SocketAddr>,
    /// Unanswered checks after which a mapping has certainly expired; none if no number would do.
    pub(super) checks_needed: Option<u32>,
    /// Control requests sent.
    pub(super) controls: u32,
    /// Control requests answered.
    pub(super) controls_answered: u32,
}

/// Which requests have had their time to be answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// What was sent until then was answered, or never will be.
    pub(super) sent_until: Duration,
    /// How long an answer takes at the most.
    pub(super) response_timeout: Duration,
}

/// The requests of one socket, and the role that they set up its mapping for.
type SetUp<'a> = BTreeMap<SocketId, (Role, Vec<&'a Transaction>)>;

impl Observations {
    /// Reads the log.
    pub(super) fn of(log: &ObservationLog, timeouts: Timeouts) -> Self {
        Self::read(log, timeouts, 0)
    }

    /// Reads the log during the run: where packets get lost, one unanswered check more is needed than in the end, so that
    /// later losses do not undo what was certain.
    pub(super) fn with_margin(log: &ObservationLog, timeouts: Timeouts) -> Self {
        Self::read(log, timeouts, CHECKS_MARGIN)
    }

    fn read(log: &ObservationLog, timeouts: Timeouts, margin: u32) -> Self {
        let mut requester: Vec<SocketAddr> = Vec::new();
        let mut checks: BTreeMap<SocketId, Vec<&Transaction>> = BTreeMap::new();
        let mut set_up = SetUp::new();
        let mut earlier: BTreeMap<SocketId, Vec<&Transaction>> = BTreeMap::new();
        for transaction in log.transactions.iter().filter(|t| !t.unsent) {
            if transaction.purpose.measurement != PROBE.name {
                earlier.entry(transaction.socket).or_default().push(transaction);
            } else if let Some(role) = Role::ALL.into_iter().find(|r| r.purpose() == transaction.purpose) {
                set_up.entry(transaction.socket).or_insert((role, Vec::new())).1.push(transaction);
            } else if transaction.purpose == SEND_AGAIN {
                checks.entry(transaction.socket).or_default().push(transaction);
            } else if let RequestKind::ResponsePortOf { socket, .. } = transaction.kind {
                checks.entry(socket).or_default().push(transaction);
            } else if transaction.kind == RequestKind::Binding
                && transaction.purpose == PURPOSE
                && let Some(external) = transaction.direct().and_then(|a| a.mapped())
                && !requester.contains(&external)
            {
                requester.push(external);
            }
        }
        let (controls, controls_answered) = controls(log, &set_up, timeouts.sent_until);
        let checks_needed = checks_needed(controls, controls_answered, margin);
        let rounds = answered_rounds(log);
        let mut mappings = Vec::new();
        for (socket, (role, requests)) in set_up {
            let checks = checks.remove(&socket).unwrap_or_default();
            // What earlier measurements sent from it created its mapping.
            let earlier = earlier.remove(&socket).unwrap_or_default();
            let requests: Vec<_> = earlier.into_iter().chain(requests).collect();
            let mut mapping = MappingHistory::set_up(role, socket, &requests, timeouts);
            mapping.read_checks(&checks, &rounds, checks_needed, timeouts);
            mappings.push(mapping);
        }
        Self { mappings, requester, checks_needed, controls, controls_answered }
    }

    /// The share of packets that get lost, there or back, as far as is known: never quite none.
    pub(super) fn loss(&self) -> f64 {
        (f64::from(self.controls - self.controls_answered) + 0.5) / (f64::from(self.controls) + 1.0)
    }

    /// Whether nothing at all got lost so far.
    pub(super) fn is_lossless(&self) -> bool {
        self.controls == self.controls_answered
    }

    /// The mappings of one role.
    pub(super) fn of_role(&self, role: Role) -> impl Iterator<Item = &MappingHistory> {
        self.mappings.iter().filter(move |m| m.role == role)
    }

    /// The mappings of one role that count: those that the requester can have the server respond to.
    pub(super) fn usable(&self, role: Role) -> impl Iterator<Item = &MappingHistory> {
        self.of_role(role).filter(|m| self.is_usable(m))
    }

    /// Whether the mapping is on an external address of the requester.
    pub(super) fn is_usable(&self, mapping: &MappingHistory) -> bool {
        let ip = mapping.external.map(|external| external.ip());
        ip.is_some_and(|ip| self.requester.iter().any(|requester| requester.ip() == ip))
    }
}

/// Control requests sent and answered: Binding requests, and those whose response another socket is to get. Sockets that
/// never had an answer do not count: what is in their way is not loss.
fn controls(log: &ObservationLog, set_up: &SetUp<'_>, sent_until: Duration) -> (u32, u32) {
    let direct = log.controls(sent_until).map(Transaction::returned);
    let answered = |requests: &&Vec<&Transaction>| requests.iter().any(|t| !t.responses.is_empty());
    let diverted = set_up.values().map(|(_, requests)| requests).filter(answered).flatten();
    let diverted = diverted.filter(|t| t.kind != RequestKind::Binding && t.sent <= sent_until);
    direct
        .chain(diverted.map(|t| !t.responses.is_empty()))
        .fold((0, 0), |(sent, back), returned| (sent + 1, back + u32::from(returned)))
}

/// Unanswered checks after which a mapping has certainly expired.
fn checks_needed(controls: u32, controls_answered: u32, margin: u32) -> Option<u32> {
    let counts = |silent: u32| LossCounts {
        sent: silent,
        answered: 0,
        silent,
        controls_sent: controls,
        controls_answered,
    };
    let needed = (1..=CHECKS_MOST).find(|&silent| counts(silent).is_filtered());
    needed.map(|checks| if controls_answered < controls { checks + margin } else { checks })
}

/// The rounds in which a response came back, so that silence beside it counts, each with the time of the last one.
fn answered_rounds(log: &ObservationLog) -> BTreeMap<u32, Duration> {
    let answered = |t: &Transaction| match t.kind {
        RequestKind::Binding => t.responses.iter().filter(|a| a.from == t.to).map(|a| a.at).min(),
        RequestKind::ResponsePortOf { socket, .. } => {
            t.successes().filter(|a| a.on == socket).map(|a| a.at).min()
        }
        RequestKind::ChangeRequest(_)
        | RequestKind::ResponsePort { .. }
        | RequestKind::ToMappedPort { .. }
        | RequestKind::LimitedTtl { .. }
        | RequestKind::Hairpin => None,
    };
    let mut rounds = BTreeMap::new();
    for (round, at) in log.of(PURPOSE).filter_map(|t| Some((t.round, answered(t)?))) {
        let last = rounds.entry(round).or_insert(at);
        *last = at.max(*last);
    }
    rounds
}
