//! Many mappings looked at in the same instant: which of them are beyond doubt, and which need another look. Pure.

use std::time::Duration;

use super::{
    observe::{Flow, State},
    view::{Move, View},
};
use crate::observation::SocketId;

/// What a mapping needs until its silence is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Insisting {
    /// So many more looks, now.
    Look(usize),
    /// Patience.
    Wait(Duration),
    /// Nothing: it has answered, or been silent for long enough, or never will be clear.
    Settled,
}

/// Looks at one silent mapping before giving up.
const LOOKS: usize = super::observe::MOST_LOOKS as usize + 6;
/// Mappings that are looked at in one instant.
const AT_ONCE: usize = 4;

/// Looks at a mapping until it answers, or `goal` looks were silent; none = no number would do.
pub(super) fn insist(flow: &Flow, goal: Option<u32>, view: View<'_>) -> Insisting {
    let goal = goal.map_or(LOOKS, |goal| goal as usize);
    let decided = matches!(flow.state, State::Alive(_) | State::Gone(_));
    if decided || flow.quiet >= goal {
        return Insisting::Settled;
    }
    let Some(looked) = flow.looked else { return Insisting::Look(if view.plenty { goal.min(2) } else { 1 }) };
    let missing = goal.saturating_sub(flow.quiet + flow.pending).min(LOOKS.saturating_sub(flow.looks));
    match (missing, flow.pending) {
        (0, 0) => Insisting::Settled,
        // An answer saves further looks.
        (_, 1..) => Insisting::Wait(looked + view.response_timeout),
        (missing, 0) => Insisting::Look(missing),
    }
}

/// Where life and death meet.
#[derive(Clone, Debug, Default)]
pub(super) struct Border {
    /// The longest idle time after which a mapping was alive.
    pub(super) alive: Duration,
    /// The shortest above it after which one was silent; none if there is none.
    pub(super) gone: Option<Duration>,
    /// The mapping that was silent then, and those that were silent earlier though older ones were alive.
    doubtful: Vec<SocketId>,
}

impl Border {
    /// Whether it is beyond doubt.
    pub(super) fn is_confirmed(&self, view: View<'_>) -> bool {
        let sure = |f: &&&Flow| matches!(f.state, State::Gone(_)) && self.doubtful.contains(&f.socket);
        view.flows.iter().filter(sure).count() == self.doubtful.len()
    }
}

/// Finds it.
pub(super) fn border(flows: &[&Flow]) -> Border {
    let alive = flows.iter().filter_map(|f| match f.state {
        State::Alive(idle) => Some(idle),
        State::Gone(_) | State::Silent | State::Untouched => None,
    });
    let alive = alive.max().unwrap_or_default();
    // What counts of a silent one is how long it had been idle at the end of the looks at it.
    let silent = || {
        flows.iter().filter_map(|f| match f.state {
            State::Gone(idle) => Some((idle, f.socket)),
            State::Silent if f.quiet > 0 && !is_hopeless(f) => {
                Some((f.looked?.saturating_sub(f.last?.from), f.socket))
            }
            State::Silent | State::Alive(_) | State::Untouched => None,
        })
    };
    let first = silent().filter(|(idle, _)| *idle > alive).min();
    let mut doubtful: Vec<_> = silent().filter(|(idle, _)| *idle <= alive).map(|(_, s)| s).collect();
    doubtful.extend(first.map(|(_, socket)| socket));
    Border { alive, gone: first.map(|(idle, _)| idle), doubtful }
}

fn is_hopeless(flow: &Flow) -> bool {
    flow.looks >= LOOKS && flow.pending == 0
}

/// Asks everything again that was asked in vain, until it was silent so often.
pub(super) fn settle_once(view: View<'_>, goal: u32) -> Move {
    gather(view.flows.iter().filter(|f| f.looks > 0).map(|f| (*f, Some(goal))), view)
}

/// Asks everything again that was asked in vain, and then what is doubtful, until it is not.
pub(super) fn settle(border: &Border, view: View<'_>) -> Move {
    let first = settle_once(view, 1);
    if !first.is_nothing() {
        return first;
    }
    let doubtful = view.flows.iter().filter(|f| border.doubtful.contains(&f.socket));
    gather(doubtful.map(|f| (*f, view.seen.enough)), view)
}

/// Asks twice what was first looked at since then: for what is only to show how exactly mappings end. Tells whether
/// that is done.
pub(super) fn settle_late(view: View<'_>, since: Duration) -> (Move, bool) {
    let late = view.flows.iter().filter(|f| f.looks > 0 && f.seen.from >= since);
    let step = gather(late.map(|f| (*f, Some(2))), view);
    let done = step.is_nothing();
    (step, done)
}

fn gather<'a>(flows: impl Iterator<Item = (&'a Flow, Option<u32>)>, view: View<'_>) -> Move {
    let mut step = Move::default();
    for (flow, goal) in flows {
        match insist(flow, goal, view) {
            Insisting::Look(times) => step.look.extend(std::iter::repeat_n(flow.socket, times)),
            Insisting::Wait(until) => step.again = Some(step.again.map_or(until, |again| again.min(until))),
            Insisting::Settled => {}
        }
    }
    step
}

/// Of mappings in order of age, few enough for one instant, evenly spread.
pub(super) fn some_of(list: Vec<(Duration, SocketId)>) -> Vec<SocketId> {
    let stride = list.len().div_ceil(AT_ONCE).max(1);
    list.into_iter().skip(stride - 1).step_by(stride).map(|(_, socket)| socket).collect()
}

/// Of mappings in order of age, the two that tell whether their timer ends in this span as well.
pub(super) fn around((alive, gone): (Duration, Duration), list: &[(Duration, SocketId)]) -> Vec<SocketId> {
    let below = list.iter().rev().find(|(idle, _)| *idle <= alive);
    let above = list.iter().find(|(idle, _)| *idle >= gone);
    below.into_iter().chain(above).map(|(_, socket)| *socket).collect()
}
