//! Checks that show how mappings expire: by one exact timer, which is verified, or otherwise, which is sampled. Pure.

use std::time::Duration;

use super::{
    Phase, Search,
    confirm::{self, boundary},
};
use crate::{
    observation::SocketId,
    probe::lifetime::{
        constants::{
            INDISTINCT, LATEST_LIFETIMES, LATEST_MORE, OLD_MAPPINGS, SAMPLING_BASE, SAMPLING_DIVISOR,
            SAMPLING_MOST, SAMPLING_MOST_DIVISOR, VERIFIED,
        },
        observe::MappingState,
        step::{BudgetLevel, SearchInput, Step, distinct},
    },
};

/// How far verifying has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verification {
    /// When it or its last checks began.
    since: Duration,
    /// The mapping to be checked next.
    chosen: Option<SocketId>,
    /// Times left.
    left: u32,
    /// Whether checks have left since.
    checked: bool,
}

impl Verification {
    pub(super) fn begin(now: Duration) -> Self {
        Self { since: now, chosen: None, left: VERIFIED, checked: false }
    }
}

/// How far sampling has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sampling {
    begun: Duration,
    /// When the last check left.
    since: Duration,
    /// Whether all mappings that were left have been checked together.
    all_checked: bool,
}

impl Sampling {
    pub(super) fn begin(now: Duration) -> Self {
        Self { begun: now, since: now, all_checked: false }
    }
}

impl Search {
    /// Checks a little later a mapping that should just have expired, and one that should not: so it is, unless mappings
    /// expire at intervals. And some that should have expired long ago: so they have, unless lifetimes differ.
    pub(super) fn verify(&mut self, input: SearchInput<'_>, verification: Verification) -> Step {
        let step = confirm::confirm_boundary(&boundary(input.mappings), input);
        if !step.is_nothing() {
            return step;
        }
        let Verification { since, chosen, left, checked } = verification;
        let change = input.change_point();
        if change.overlap > Duration::ZERO {
            self.phase = Phase::Sampling(Sampling::begin(input.now));
            return Step::default();
        }
        let (Some(alive), Some(expired)) = (change.alive, change.expired) else {
            self.phase = Phase::Done;
            return Step::default();
        };
        if checked {
            let step = confirm::confirm_recent(input, since);
            if step.is_nothing() {
                let next = Verification { since: input.now, chosen: None, left, checked: false };
                self.phase = if left == 0 { Phase::Done } else { Phase::Verifying(next) };
            }
            return step;
        }
        if input.budget < BudgetLevel::Normal {
            self.phase = Phase::Done;
            return Step::default();
        }
        let chosen_before = chosen.and_then(|socket| input.unchecked().find(|(_, s)| *s == socket));
        let next_to_expire = || input.unchecked().filter(|(idle, _)| *idle < expired + INDISTINCT).max();
        match chosen_before.or_else(next_to_expire) {
            Some((idle, socket)) if idle < expired + INDISTINCT => {
                let due = input.now + (expired + INDISTINCT - idle);
                // Without one that is due soon enough it stays open how mappings expire.
                self.phase = if due <= latest(alive) {
                    Phase::Verifying(Verification { chosen: Some(socket), ..verification })
                } else {
                    Phase::Done
                };
                Step::wait(due)
            }
            Some((_, socket)) => {
                let younger = input.unchecked().filter(|(idle, _)| *idle + INDISTINCT < alive).max();
                let mut check = vec![socket];
                check.extend(younger.map(|(_, socket)| socket));
                check.extend(old_mappings(input, expired).filter(|s| *s != socket));
                self.phase = Phase::Verifying(Verification {
                    since: input.now,
                    chosen,
                    left: left - 1,
                    checked: true,
                });
                Step::check(check)
            }
            None => {
                self.phase = Phase::Done;
                Step::default()
            }
        }
    }

    /// Checks one mapping after another, and once some have expired, all that are left together, until it is known how
    /// mappings expire.
    pub(super) fn sample(&mut self, input: SearchInput<'_>, sampling: Sampling) -> Step {
        let step = confirm::confirm_boundary(&boundary(input.mappings), input);
        if !step.is_nothing() {
            return step;
        }
        let Sampling { begun, since, all_checked } = sampling;
        let step = confirm::confirm_recent(input, begun);
        if !step.is_nothing() {
            return step;
        }
        let change = input.change_point();
        let survived = change.alive.unwrap_or_default();
        let is_late = input.now > begun + survived / SAMPLING_MOST_DIVISOR + SAMPLING_MOST;
        if input.style_is_known && change.expired.is_some() || is_late && all_checked {
            self.phase = Phase::Done;
            return Step::default();
        }
        let mappings = input.mappings.iter();
        let expired =
            || mappings.clone().filter(|m| matches!(m.state, MappingState::Expired(_)) || m.unanswered > 1);
        // Two have expired since: the rest show whether together.
        let some_expired = expired().filter(|m| m.checked_at.earliest >= begun).count() > 1;
        if is_late || some_expired && !all_checked {
            self.phase = Phase::Sampling(Sampling { begun, since: input.now, all_checked: true });
            let all = distinct(input.unchecked().collect());
            return Step::check(all.into_iter().map(|(_, socket)| socket).collect());
        }
        let due = since + survived / SAMPLING_DIVISOR + SAMPLING_BASE;
        if input.now < due {
            return Step::wait(due);
        }
        // The oldest that is younger than all that have expired: it expires next.
        let last_used = expired().filter_map(|m| m.last_used).map(|used| used.earliest).max();
        let idle_most = last_used.map_or(Duration::MAX, |used| input.now.saturating_sub(used));
        let next = input.unchecked().filter(|(idle, _)| *idle < idle_most).max();
        self.phase = Phase::Sampling(Sampling { begun, since: input.now, all_checked });
        match next {
            Some((_, socket)) => Step::check(vec![socket]),
            None => Step::wait(input.now + SAMPLING_BASE),
        }
    }
}

/// The latest time for checks that are not necessary.
pub(super) fn latest(alive: Duration) -> Duration {
    alive.mul_f64(LATEST_LIFETIMES) + LATEST_MORE
}

/// Mappings that should have expired long ago, and that were not checked yet.
fn old_mappings(input: SearchInput<'_>, expired: Duration) -> impl Iterator<Item = SocketId> {
    let mut old: Vec<_> = input.unchecked().filter(|(idle, _)| *idle > expired + INDISTINCT).collect();
    old.sort();
    old.into_iter().rev().take(OLD_MAPPINGS).map(|(_, socket)| socket)
}
