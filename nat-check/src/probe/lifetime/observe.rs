//! From the ledger to what is known of each mapping: since when it was idle, and whether it was still there. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use crate::{
    ledger::{Ask, Ledger, SocketId, Trial},
    silence::Tally,
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

    /// The name of the requests that make a mapping of this role, in the ledger.
    #[must_use]
    pub fn purpose(self) -> &'static str {
        match self {
            Self::Unreplied => "lifetime-unreplied",
            Self::Stream => "lifetime-stream",
            Self::Outbound => "lifetime-outbound",
            Self::Inbound => "lifetime-inbound",
            Self::Elsewhere => "lifetime-elsewhere",
        }
    }

    /// Whether its mapping must have been used for longer than two seconds.
    #[must_use]
    pub fn is_stream(self) -> bool {
        matches!(self, Self::Stream | Self::Inbound)
    }
}

/// The name in the ledger of requests with which a socket looks at its own mapping, where the server cannot reach it
/// unasked.
pub const AGAIN: &str = "lifetime-again";

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

/// What the ledger says of all mappings.
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

/// Until when requests have had their time to be answered, and how long that is.
#[derive(Clone, Copy, Debug)]
pub struct Ripe {
    /// What was sent until then has been answered, or never will be.
    pub until: Duration,
    /// The time that takes.
    pub patience: Duration,
}

/// Looks at a mapping; beyond this, more of them prove nothing either.
pub const MOST_LOOKS: u32 = 14;

impl Seen {
    /// Reads the ledger.
    #[must_use]
    pub fn of(ledger: &Ledger, ripe: Ripe) -> Self {
        Self::read(ledger, ripe, 0)
    }

    /// Reads the ledger while more is to come: silence takes one look more than in the end, where packets get lost.
    #[must_use]
    pub fn with_margin(ledger: &Ledger, ripe: Ripe) -> Self {
        Self::read(ledger, ripe, 1)
    }

    fn read(ledger: &Ledger, ripe: Ripe, margin: u32) -> Self {
        let mut answered = 0;
        let mut sent = 0;
        for control in ledger.controls(ripe.until) {
            sent += 1;
            answered += u32::from(control.returned());
        }
        let gone = |silent: u32| Tally {
            sent: silent,
            answered: 0,
            silent,
            controls_sent: sent,
            controls_answered: answered,
        };
        let enough = (1..=MOST_LOOKS).find(|&silent| gone(silent).is_filtered());
        let enough = enough.map(|looks| if answered < sent { looks + margin } else { looks });
        let mut seen = Self { flows: Vec::new(), asker: Vec::new(), enough, controls: (sent, answered) };
        let returned: BTreeSet<u32> = ledger
            .of(super::PROBE.name)
            .filter(|t| t.ask == Ask::Plain && t.returned())
            .map(|t| t.round)
            .collect();
        let mut looks: BTreeMap<SocketId, Vec<&Trial>> = BTreeMap::new();
        let mut made: BTreeMap<SocketId, (Role, Vec<&Trial>)> = BTreeMap::new();
        for trial in ledger.trials.iter().filter(|t| t.purpose.starts_with(super::PROBE.name) && !t.unsent) {
            if let Some(role) = Role::ALL.into_iter().find(|r| r.purpose() == trial.purpose) {
                made.entry(trial.socket).or_insert((role, Vec::new())).1.push(trial);
            } else if trial.purpose == AGAIN {
                looks.entry(trial.socket).or_default().push(trial);
            } else if let Ask::Reach { socket, .. } = trial.ask {
                looks.entry(socket).or_default().push(trial);
            } else if trial.ask == Ask::Plain
                && let Some(outside) = trial.direct().and_then(|a| a.mapped())
                && !seen.asker.contains(&outside)
            {
                seen.asker.push(outside);
            }
        }
        for (socket, (role, made)) in made {
            let looks = looks.remove(&socket).unwrap_or_default();
            let mut flow = born(role, socket, &made, ripe);
            look(&mut flow, &looks, &returned, enough, ripe);
            seen.flows.push(flow);
        }
        seen
    }

    /// The mappings of one role.
    pub fn of_role(&self, role: Role) -> impl Iterator<Item = &Flow> {
        self.flows.iter().filter(move |flow| flow.role == role)
    }
}

/// What its own requests say of a mapping.
fn born(role: Role, socket: SocketId, made: &[&Trial], ripe: Ripe) -> Flow {
    let answers = || made.iter().filter_map(|t| Some((*t, t.successes().find(|a| a.from == t.to)?)));
    let opened = made.iter().map(|t| t.sent).min().unwrap_or_default();
    let pushed = made.iter().map(|t| t.sent).max().unwrap_or_default();
    let first = answers().map(|(_, a)| a.at).min();
    let mut outside: Vec<SocketAddr> = answers().filter_map(|(_, a)| a.mapped()).collect();
    outside.dedup();
    // What left last and was not answered may have passed the NAT all the same.
    let lost = made.iter().filter(|t| t.answers.is_empty()).map(|t| t.sent + ripe.patience).max();
    let from = match role.is_stream() {
        true => {
            let promoted = |t: &Trial| first.is_some_and(|first| t.sent >= first + STREAM_AFTER);
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
        found: None,
    }
}

/// What looking says of it.
fn look(flow: &mut Flow, looks: &[&Trial], returned: &BTreeSet<u32>, enough: Option<u32>, ripe: Ripe) {
    flow.looks = looks.len();
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
    if let Some(trial) = any {
        let from = match flow.role {
            Role::Inbound => trial.sent,
            // Whatever the first look refreshed, the mapping was there when it came.
            _ => first.sent,
        };
        flow.state = State::Alive(from.saturating_sub(last.to));
        flow.seen = Span { from, to: found(flow, trial).unwrap_or(from) };
        if flow.role != Role::Inbound {
            return;
        }
    }
    let silent = |t: &&&Trial| t.answers.is_empty() && t.sent <= ripe.until && returned.contains(&t.round);
    let moved = looks.iter().find_map(|t| gone_elsewhere(flow, t));
    let decisive = enough.and_then(|enough| looks[since..].iter().filter(silent).nth(enough as usize - 1));
    let end = decisive.map(|t| t.sent + ripe.patience).into_iter().chain(moved).min();
    if let Some(end) = end {
        flow.state = State::Gone(end.saturating_sub(last.from));
        let begin = looks[since..].first().map_or(end, |t| t.sent);
        flow.seen = Span { from: begin.min(end), to: end };
    }
}

/// When a look came back through the mapping.
fn found(flow: &Flow, trial: &Trial) -> Option<Duration> {
    let through = |a: &&crate::ledger::Answer| match trial.ask {
        Ask::Plain => a.mapped().is_some() && a.mapped() == flow.outside,
        Ask::Reach { .. } => a.on == flow.socket,
        Ask::From(_) | Ask::ToPort { .. } | Ask::Loop | Ask::Open { .. } => false,
    };
    trial.successes().filter(through).map(|a| a.at).min()
}

/// When a look showed that the mapping is another's now.
fn gone_elsewhere(flow: &Flow, trial: &Trial) -> Option<Duration> {
    let another = |a: &&crate::ledger::Answer| match trial.ask {
        Ask::Plain => a.mapped().is_some() && a.mapped() != flow.outside,
        // On the socket that asked, it means that the server did not obey.
        Ask::Reach { .. } => a.on != flow.socket && a.on != trial.socket,
        Ask::From(_) | Ask::ToPort { .. } | Ask::Loop | Ask::Open { .. } => false,
    };
    trial.successes().filter(another).map(|a| a.at).min()
}
