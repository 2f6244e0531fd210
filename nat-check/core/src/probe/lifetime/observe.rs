//! From the log to what is known of each mapping: since when it was idle, and whether it was still there. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    loss_test::LossCounts,
    observation::{ObservationLog, Purpose, RequestKind, SocketId, Transaction},
};

/// What a mapping is kept for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// It never sees an answer: the first packet has it sent to another socket.
    Unreplied,
    /// It sees traffic in both directions for longer than two seconds.
    Stream,
    /// Packets leave through it, none comes in.
    Outbound,
    /// Packets come in through it, none leaves.
    Inbound,
    /// Its socket keeps talking to another endpoint of the server.
    Elsewhere,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Unreplied, Self::Stream, Self::Outbound, Self::Inbound, Self::Elsewhere];

    /// What the requests that make a mapping of this role are sent for, in the log.
    #[must_use]
    pub fn purpose(self) -> Purpose {
        super::PURPOSE.role(match self {
            Self::Unreplied => "unreplied",
            Self::Stream => "stream",
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Elsewhere => "elsewhere",
        })
    }

    /// Whether its mapping must have been used for longer than two seconds.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::Inbound)
    }
}

/// The purpose of requests with which a socket looks at its own mapping, where the server cannot reach it unasked.
pub const AGAIN: Purpose = super::PURPOSE.role("again");

/// The purpose of requests that keep a socket talking to another endpoint.
pub const ROUND_INTERVAL: Purpose = super::PURPOSE.role("beat");

/// Linux promotes a flow to a stream by a packet that passes two seconds after its first one, and others follow it.
pub const STREAM_AFTER: Duration = Duration::from_millis(2050);

/// A time that is known up to the way between here and the NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Not earlier than this.
    pub from: Duration,
    /// Not later than this.
    pub to: Duration,
}

/// Whether a mapping was still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Nobody has looked.
    Untouched,
    /// Nothing came yet, and so far that proves nothing.
    Silent,
    /// It was there after it had been idle for at least this long.
    Alive(Duration),
    /// It was no longer there after it had been idle for at most this long.
    Gone(Duration),
}

/// What is known of one socket's mapping.
#[derive(Clone, Debug)]
pub struct Flow {
    /// What it is kept for.
    pub role: Role,
    /// The socket.
    pub socket: SocketId,
    /// Requests that made it or kept it, and how many of them were answered.
    pub made: (usize, usize),
    /// When the first one left.
    pub opened: Duration,
    /// When the last one left.
    pub pushed: Duration,
    /// When the first answer came.
    pub answered: Option<Duration>,
    /// The external endpoint; none while there is no answer.
    pub outside: Option<SocketAddr>,
    /// When it was made.
    pub made_at: Span,
    /// When the last of its own packets that were answered passed.
    pub kept: Option<Span>,
    /// When its own last packet passed; none while it is not yet what it is to be.
    pub last: Option<Span>,
    /// What looking showed.
    pub state: State,
    /// The moment at which that was seen.
    pub seen: Span,
    /// Times looked.
    pub looks: usize,
    /// When the last look left.
    pub looked: Option<Duration>,
    /// Looks that may still be answered.
    pub pending: usize,
    /// Looks that were not answered though what travelled with them was; since the last one that was, where one
    /// mapping is looked at all the time.
    pub quiet: usize,
    /// The last look that found it.
    pub found: Option<Duration>,
}

impl Flow {
    /// How long it has been idle at least, at a time.
    #[must_use]
    pub fn idle(&self, now: Duration) -> Option<Duration> {
        Some(now.saturating_sub(self.last?.to))
    }
}

/// What the log says of all mappings.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The mappings, in the order of opening.
    pub flows: Vec<Flow>,
    /// External endpoints of the socket that asks, in the order in which they were seen.
    pub asker: Vec<SocketAddr>,
    /// Silent looks that it takes to call a mapping gone; none if no number would do.
    pub enough: Option<u32>,
    /// Controls sent and answered.
    pub controls: (u32, u32),
}

/// The requests of one socket, with the role that its mapping is made for.
type Made<'a> = BTreeMap<SocketId, (Role, Vec<&'a Transaction>)>;

/// Until when requests have had their time to be answered, and how long that is.
#[derive(Clone, Copy, Debug)]
pub struct Ripe {
    /// What was sent until then has been answered, or never will be.
    pub until: Duration,
    /// The time that takes.
    pub response_timeout: Duration,
}

/// Looks at a mapping; beyond this, more of them prove nothing either.
pub const MOST_LOOKS: u32 = 14;

impl Seen {
    /// Reads the log.
    #[must_use]
    pub fn of(log: &ObservationLog, timed_out_before: Ripe) -> Self {
        Self::read(log, timed_out_before, 0)
    }

    /// Reads the log while more is to come: silence takes one look more than in the end, where packets get lost.
    #[must_use]
    pub fn with_margin(log: &ObservationLog, timed_out_before: Ripe) -> Self {
        Self::read(log, timed_out_before, 1)
    }

    fn read(log: &ObservationLog, timed_out_before: Ripe, margin: u32) -> Self {
        let mut asker: Vec<SocketAddr> = Vec::new();
        let mut looks: BTreeMap<SocketId, Vec<&Transaction>> = BTreeMap::new();
        let mut made = Made::new();
        let mut earlier: BTreeMap<SocketId, Vec<&Transaction>> = BTreeMap::new();
        for transaction in log.transactions.iter().filter(|t| !t.unsent) {
            if transaction.purpose.measurement != super::PROBE.name {
                earlier.entry(transaction.socket).or_default().push(transaction);
                continue;
            }
            if let Some(role) = Role::ALL.into_iter().find(|r| r.purpose() == transaction.purpose) {
                made.entry(transaction.socket).or_insert((role, Vec::new())).1.push(transaction);
            } else if transaction.purpose == AGAIN {
                looks.entry(transaction.socket).or_default().push(transaction);
            } else if let RequestKind::ResponsePortOf { socket, .. } = transaction.kind {
                looks.entry(socket).or_default().push(transaction);
            } else if transaction.kind == RequestKind::Binding
                && transaction.purpose == super::PURPOSE
                && let Some(outside) = transaction.direct().and_then(|a| a.mapped())
                && !asker.contains(&outside)
            {
                asker.push(outside);
            }
        }
        let controls = controls(log, &made, timed_out_before);
        let enough = enough(controls, margin);
        let returned = vouched_for(log);
        let mut flows = Vec::new();
        for (socket, (role, made)) in made {
            let looks = looks.remove(&socket).unwrap_or_default();
            // What earlier measurements sent from it made its mapping.
            let made: Vec<_> = earlier.remove(&socket).unwrap_or_default().into_iter().chain(made).collect();
            let mut flow = born(role, socket, &made, timed_out_before);
            look(&mut flow, &looks, &returned, enough, timed_out_before);
            flows.push(flow);
        }
        Self { flows, asker, enough, controls }
    }

    /// The share of packets that get lost, there or back, as far as is known: never quite none.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let (sent, answered) = self.controls;
        (f64::from(sent - answered) + 0.5) / (f64::from(sent) + 1.0)
    }

    /// Whether nothing at all got lost so far.
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.controls.0 == self.controls.1
    }

    /// The mappings of one role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(move |flow| flow.role == role)
    }
}

/// Controls sent and answered: Binding requests, and those whose answer another socket is to get. Sockets that never had
/// an answer do not count: what is in their way is not loss.
fn controls(log: &ObservationLog, made: &Made<'_>, timed_out_before: Ripe) -> (u32, u32) {
    let mapped = log.controls(timed_out_before.until).map(Transaction::returned);
    let answered = |transactions: &&Vec<&Transaction>| transactions.iter().any(|t| !t.answers.is_empty());
    let diverted = made.values().map(|(_, transactions)| transactions).filter(answered).flatten();
    let diverted = diverted.filter(|t| t.kind != RequestKind::Binding && t.sent <= timed_out_before.until);
    mapped
        .chain(diverted.map(|t| !t.answers.is_empty()))
        .fold((0, 0), |(sent, back), returned| (sent + 1, back + u32::from(returned)))
}

/// Silent looks that it takes to call a mapping gone.
fn enough((sent, answered): (u32, u32), margin: u32) -> Option<u32> {
    let gone = |silent: u32| LossCounts {
        sent: silent,
        answered: 0,
        silent,
        controls_sent: sent,
        controls_answered: answered,
    };
    let enough = (1..=MOST_LOOKS).find(|&silent| gone(silent).is_filtered());
    enough.map(|looks| if answered < sent { looks + margin } else { looks })
}

/// The rounds in which something came back.
fn vouched_for(log: &ObservationLog) -> BTreeSet<u32> {
    let back = |t: &&Transaction| match t.kind {
        RequestKind::Binding => t.returned(),
        RequestKind::ResponsePortOf { socket, .. } => t.successes().any(|a| a.on == socket),
        RequestKind::ChangeRequest(_)
        | RequestKind::ResponsePort { .. }
        | RequestKind::LimitedTtl { .. }
        | RequestKind::Hairpin => false,
    };
    log.of(super::PURPOSE).filter(back).map(|t| t.round).collect()
}

/// What its own requests say of a mapping.
fn born(role: Role, socket: SocketId, made: &[&Transaction], timed_out_before: Ripe) -> Flow {
    let answers = || made.iter().filter_map(|t| Some((*t, t.successes().find(|a| a.from == t.to)?)));
    let opened = made.iter().map(|t| t.sent).min().unwrap_or_default();
    let pushed = made.iter().map(|t| t.sent).max().unwrap_or_default();
    let first = answers().map(|(_, a)| a.at).min();
    let mut outside: Vec<SocketAddr> = answers().filter_map(|(_, a)| a.mapped()).collect();
    outside.dedup();
    // What left last and was not answered may have passed the NAT all the same.
    let lost = made
        .iter()
        .filter(|t| t.answers.is_empty())
        .map(|t| t.sent + timed_out_before.response_timeout)
        .max();
    let from = match role.is_stream() {
        true => {
            let promoted = |t: &Transaction| first.is_some_and(|first| t.sent >= first + STREAM_AFTER);
            answers().filter(|(t, _)| promoted(t)).map(|(t, _)| t.sent).max()
        }
        // Where packets from inside do not restart the timer, it runs since the first.
        false => first.map(|_| opened),
    };
    let to = answers().map(|(_, a)| a.at).max().max(lost);
    let made_at = Span { from: opened, to: first.unwrap_or(opened) };
    Flow {
        role,
        socket,
        made: (made.len(), answers().count()),
        opened,
        pushed,
        answered: first,
        outside: outside.first().copied().filter(|_| outside.len() == 1),
        made_at,
        kept: answers().max_by_key(|(t, _)| t.sent).map(|(t, a)| Span { from: t.sent, to: a.at }),
        last: from.zip(to).map(|(from, to)| Span { from, to }),
        state: State::Untouched,
        seen: Span { from: Duration::ZERO, to: Duration::ZERO },
        looks: 0,
        looked: None,
        pending: 0,
        quiet: 0,
        found: None,
    }
}

/// What looking says of it.
fn look(
    flow: &mut Flow,
    looks: &[&Transaction],
    returned: &BTreeSet<u32>,
    enough: Option<u32>,
    timed_out_before: Ripe,
) {
    flow.looks = looks.len();
    flow.looked = looks.last().map(|t| t.sent);
    let (Some(first), Some(last)) = (looks.first(), flow.last) else { return };
    flow.state = State::Silent;
    flow.seen = Span { from: first.sent, to: first.sent };
    // One socket is looked at all the time: there every look that found it counts, and those since then.
    let since = match flow.role {
        Role::Inbound => looks.iter().rposition(|t| found(flow, t).is_some()).map_or(0, |at| at + 1),
        _ => 0,
    };
    flow.found = looks.iter().filter_map(|t| found(flow, t)).max();
    let any = looks.iter().rev().find(|t| found(flow, t).is_some());
    if let Some(transaction) = any {
        let from = match flow.role {
            Role::Inbound => transaction.sent,
            // Whatever the first look refreshed, the mapping was there when it came.
            _ => first.sent,
        };
        flow.state = State::Alive(from.saturating_sub(last.to));
        flow.seen = Span { from, to: found(flow, transaction).unwrap_or(from) };
        if flow.role != Role::Inbound {
            return;
        }
    }
    let recent = &looks[since..];
    flow.looks = recent.len();
    flow.pending = recent.iter().filter(|t| t.answers.is_empty() && t.sent > timed_out_before.until).count();
    let silent = |t: &&&Transaction| {
        t.answers.is_empty() && t.sent <= timed_out_before.until && returned.contains(&t.round)
    };
    let moved = looks.iter().find_map(|t| gone_elsewhere(flow, t));
    flow.quiet = recent.iter().filter(silent).count();
    let decisive = enough.and_then(|enough| recent.iter().filter(silent).nth(enough as usize - 1));
    let end = decisive.map(|t| t.sent + timed_out_before.response_timeout).into_iter().chain(moved).min();
    if let Some(end) = end {
        flow.state = State::Gone(end.saturating_sub(last.from));
        let begin = recent.first().map_or(end, |t| t.sent);
        flow.seen = Span { from: begin.min(end), to: end };
    }
}

/// When a look came back through the mapping.
fn found(flow: &Flow, transaction: &Transaction) -> Option<Duration> {
    let through = |a: &&crate::observation::Answer| match transaction.kind {
        RequestKind::Binding => a.mapped().is_some() && a.mapped() == flow.outside,
        RequestKind::ResponsePortOf { .. } => a.on == flow.socket,
        RequestKind::ChangeRequest(_)
        | RequestKind::ResponsePort { .. }
        | RequestKind::Hairpin
        | RequestKind::LimitedTtl { .. } => false,
    };
    transaction.successes().filter(through).map(|a| a.at).min()
}

/// When a look showed that the mapping is another's now.
fn gone_elsewhere(flow: &Flow, transaction: &Transaction) -> Option<Duration> {
    let another = |a: &&crate::observation::Answer| match transaction.kind {
        RequestKind::Binding => a.mapped().is_some() && a.mapped() != flow.outside,
        // On the socket that asked, it means that the server did not obey.
        RequestKind::ResponsePortOf { .. } => a.on != flow.socket && a.on != transaction.socket,
        RequestKind::ChangeRequest(_)
        | RequestKind::ResponsePort { .. }
        | RequestKind::Hairpin
        | RequestKind::LimitedTtl { .. } => false,
    };
    transaction.successes().filter(another).map(|a| a.at).min()
}
