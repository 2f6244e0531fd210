//! Repeating unanswered checks until silence is certain to mean an expired mapping (RFC 5780 section 4.6 asks for that, and
//! not how). Pure.

use std::{iter, time::Duration};

use crate::{
    observation::SocketId,
    probe::lifetime::{
        constants::{CHECKED_AT_ONCE, CHECKED_TWICE, CHECKS_GIVE_UP, STYLE_CHECKS},
        observe::{MappingHistory, MappingState},
        step::{BudgetLevel, SearchInput, Step},
    },
};

/// What a mapping needs until its silence is settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirmation {
    /// So many more checks, now.
    Check(usize),
    /// Time for answers to come.
    Wait(Duration),
    /// Nothing: it has answered, or been silent often enough, or never will be certain.
    Settled,
}

/// What a mapping needs until it answers, or `goal` checks were unanswered; none = no number would do.
pub(super) fn confirm(mapping: &MappingHistory, goal: Option<u32>, input: SearchInput<'_>) -> Confirmation {
    let goal = goal.map_or(CHECKS_GIVE_UP, |goal| goal as usize);
    let decided = matches!(mapping.state, MappingState::Alive(_) | MappingState::Expired(_));
    if decided || mapping.unanswered >= goal {
        return Confirmation::Settled;
    }
    let Some(last_check) = mapping.last_check else {
        let ample = input.budget >= BudgetLevel::Ample;
        return Confirmation::Check(if ample { goal.min(CHECKED_TWICE as usize) } else { 1 });
    };
    let missing = goal.saturating_sub(mapping.unanswered + mapping.pending);
    match (missing.min(CHECKS_GIVE_UP.saturating_sub(mapping.checks)), mapping.pending) {
        (0, 0) => Confirmation::Settled,
        // An answer saves further checks.
        (_, 1..) => Confirmation::Wait(last_check + input.response_timeout),
        (missing, 0) => Confirmation::Check(missing),
    }
}

/// Between the longest idle time survived and the shortest that expired.
#[derive(Clone, Debug, Default)]
pub(super) struct Boundary {
    /// The longest idle time after which a mapping was alive.
    pub(super) alive: Duration,
    /// The shortest above it after which one was silent; none if there is none.
    pub(super) silent: Option<Duration>,
    /// The mapping that was silent then, and those that were silent earlier though older ones were alive.
    uncertain: Vec<SocketId>,
}

impl Boundary {
    /// Whether all of these are certain to have expired.
    pub(super) fn is_confirmed(&self, mappings: &[&MappingHistory]) -> bool {
        let certain = |m: &&&MappingHistory| {
            matches!(m.state, MappingState::Expired(_)) && self.uncertain.contains(&m.socket)
        };
        mappings.iter().filter(certain).count() == self.uncertain.len()
    }
}

/// Finds the boundary.
pub(super) fn boundary(mappings: &[&MappingHistory]) -> Boundary {
    let alive = mappings.iter().filter_map(|m| match m.state {
        MappingState::Alive(idle) => Some(idle),
        MappingState::Expired(_) | MappingState::Silent | MappingState::Unchecked => None,
    });
    let alive = alive.max().unwrap_or_default();
    // What counts of a silent one is how long it had been idle when it was checked last.
    let silent = || {
        mappings.iter().filter_map(|m| match m.state {
            MappingState::Expired(idle) => Some((idle, m.socket)),
            MappingState::Silent if m.unanswered > 0 && !is_given_up(m) => {
                Some((m.last_check?.saturating_sub(m.last_used?.earliest), m.socket))
            }
            MappingState::Silent | MappingState::Alive(_) | MappingState::Unchecked => None,
        })
    };
    let first = silent().filter(|(idle, _)| *idle > alive).min();
    let mut uncertain: Vec<_> =
        silent().filter(|(idle, _)| *idle <= alive).map(|(_, socket)| socket).collect();
    uncertain.extend(first.map(|(_, socket)| socket));
    Boundary { alive, silent: first.map(|(idle, _)| idle), uncertain }
}

fn is_given_up(mapping: &MappingHistory) -> bool {
    mapping.checks >= CHECKS_GIVE_UP && mapping.pending == 0
}

/// Checks again all that were checked in vain, until they were silent so often.
pub(super) fn repeat_unanswered(input: SearchInput<'_>, times: u32) -> Step {
    all(input.mappings.iter().filter(|m| m.checks > 0).map(|m| (*m, Some(times))), input)
}

/// Checks again all that were checked in vain, and then what is uncertain, until it is not.
pub(super) fn confirm_boundary(boundary: &Boundary, input: SearchInput<'_>) -> Step {
    let first = repeat_unanswered(input, 1);
    if !first.is_nothing() {
        return first;
    }
    let uncertain = input.mappings.iter().filter(|m| boundary.uncertain.contains(&m.socket));
    all(uncertain.map(|m| (*m, input.observations.checks_needed)), input)
}

/// Checks twice what was first checked since then: for what is only to show how mappings expire.
pub(super) fn confirm_recent(input: SearchInput<'_>, since: Duration) -> Step {
    let recent = input.mappings.iter().filter(|m| m.checks > 0 && m.checked_at.earliest >= since);
    all(recent.map(|m| (*m, Some(STYLE_CHECKS))), input)
}

fn all<'a>(
    mappings: impl Iterator<Item = (&'a MappingHistory, Option<u32>)>,
    input: SearchInput<'_>,
) -> Step {
    let mut step = Step::default();
    for (mapping, goal) in mappings {
        match confirm(mapping, goal, input) {
            Confirmation::Check(times) => step.check.extend(iter::repeat_n(mapping.socket, times)),
            Confirmation::Wait(until) => {
                step.again_at = Some(step.again_at.map_or(until, |again| again.min(until)));
            }
            Confirmation::Settled => {}
        }
    }
    step
}

/// Of mappings in the order of age, few enough for one instant, evenly spread.
pub(super) fn evenly_spread(list: Vec<(Duration, SocketId)>) -> Vec<SocketId> {
    let stride = list.len().div_ceil(CHECKED_AT_ONCE).max(1);
    list.into_iter().skip(stride - 1).step_by(stride).map(|(_, socket)| socket).collect()
}

/// Of mappings in the order of age, the two that show whether their timer lies in this bracket as well.
pub(super) fn around((alive, expired): (Duration, Duration), list: &[(Duration, SocketId)]) -> Vec<SocketId> {
    let below = list.iter().rev().find(|(idle, _)| *idle <= alive);
    let above = list.iter().find(|(idle, _)| *idle >= expired);
    below.into_iter().chain(above).map(|(_, socket)| *socket).collect()
}
