//! The fine search between two checkpoints, and narrowing the bracket that it leaves. Pure.

use std::time::Duration;

use super::{
    Phase, Search,
    confirm::{self, boundary},
    expiry_style::{Sampling, Verification, latest},
};
use crate::{
    observation::SocketId,
    probe::lifetime::{
        constants::{
            CHECKED_TWICE, FINE_BRACKET, INDISTINCT, LONG_BRACKET_DIVISOR, LONG_BRACKET_MOST, LONG_LIFETIME,
            NARROWED, NARROWED_WITHIN,
        },
        step::{BudgetLevel, SearchInput, Step, distinct},
    },
};

impl Search {
    pub(super) fn fine(&mut self, input: SearchInput<'_>) -> Step {
        let times = if input.budget >= BudgetLevel::Ample { CHECKED_TWICE } else { 1 };
        let step = confirm::repeat_unanswered(input, times);
        if !step.is_nothing() {
            return step;
        }
        let boundary = boundary(input.mappings);
        // Where packets are few, one boundary that is certain is better than many that are not.
        let narrow = is_narrow(boundary.alive, boundary.silent);
        let affordable =
            input.budget >= BudgetLevel::Normal || boundary.is_confirmed(input.mappings) && !narrow;
        if let Some(silent) = boundary.silent
            && affordable
        {
            let check = between(input, boundary.alive, silent);
            if !check.is_empty() {
                return Step::check(check);
            }
        }
        let step = confirm::confirm_boundary(&boundary, input);
        if step.is_nothing() {
            self.phase = match boundary.silent {
                // What was silent has answered after all.
                None => Phase::Coarse { checking: None },
                Some(_) if input.change_point().overlap > Duration::ZERO => {
                    Phase::Sampling(Sampling::begin(input.now))
                }
                Some(_) => Phase::Narrowing { chosen: None, left: NARROWED },
            };
        }
        step
    }

    pub(super) fn narrow(&mut self, input: SearchInput<'_>, chosen: Option<SocketId>, left: u32) -> Step {
        let boundary = boundary(input.mappings);
        let step = confirm::confirm_boundary(&boundary, input);
        if !step.is_nothing() {
            return step;
        }
        let change = input.change_point();
        let overlaps = change.overlap > Duration::ZERO;
        let (Some(alive), Some(expired)) = (change.alive, change.expired) else {
            self.phase = match boundary.silent {
                _ if overlaps => Phase::Sampling(Sampling::begin(input.now)),
                Some(_) => Phase::Done,
                None => Phase::Coarse { checking: None },
            };
            return Step::default();
        };
        if is_narrow(alive, Some(expired)) || left == 0 || overlaps {
            self.phase = Phase::Verifying(Verification::begin(input.now));
            return Step::default();
        }
        let middle = alive + (expired - alive) / 2;
        let chosen = chosen.filter(|s| input.unchecked().any(|(_, socket)| socket == *s));
        let next = input.unchecked().filter(|(_, s)| chosen.is_none_or(|c| c == *s));
        match next.filter(|(idle, _)| *idle + INDISTINCT < expired).max() {
            Some((idle, socket)) if idle >= middle => {
                self.phase = Phase::Narrowing { chosen: None, left: left - 1 };
                Step::check(vec![socket])
            }
            Some((idle, socket))
                if input.now + (middle - idle) <= latest(alive).min(input.now + NARROWED_WITHIN) =>
            {
                self.phase = Phase::Narrowing { chosen: Some(socket), left };
                Step::wait(input.now + (middle - idle))
            }
            Some(_) | None => {
                self.phase = Phase::Verifying(Verification::begin(input.now));
                Step::default()
            }
        }
    }
}

/// Unchecked mappings between the longest idle time survived and the shortest silent one, few enough for one instant:
/// two at the other timer's bracket, if that lies between, as most NATs have one timer for all; else evenly spread.
fn between(input: SearchInput<'_>, alive: Duration, silent: Duration) -> Vec<SocketId> {
    let (low, high) = (alive + INDISTINCT, silent.saturating_sub(INDISTINCT));
    let inside = distinct(input.unchecked().filter(|(idle, _)| *idle > low && *idle < high).collect());
    let other_timer = input.other_timer.filter(|other| other.0 > low && other.1 < high);
    let at_other = other_timer.map_or(Vec::new(), |other| confirm::around(other, &inside));
    if at_other.is_empty() { confirm::evenly_spread(inside) } else { at_other }
}

/// Whether a bracket is narrow enough.
fn is_narrow(alive: Duration, expired: Option<Duration>) -> bool {
    let width = if alive < Duration::from_secs_f64(LONG_LIFETIME) {
        FINE_BRACKET
    } else {
        (alive / LONG_BRACKET_DIVISOR).clamp(FINE_BRACKET, LONG_BRACKET_MOST)
    };
    expired.is_some_and(|expired| expired <= alive + width)
}
