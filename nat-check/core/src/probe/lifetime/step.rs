//! What the search for one timer goes by at a moment, and what it asks for then. Pure.

use std::time::Duration;

use super::{
    bracket::{ChangePoint, Sample},
    constants::{AMPLE, CHECKED_APART, SPARE},
    observe::{MappingHistory, MappingState, Observations},
};
use crate::observation::SocketId;

/// What is known at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct SearchInput<'a> {
    /// The mappings of this timer.
    pub(super) mappings: &'a [&'a MappingHistory],
    /// Everything that was observed.
    pub(super) observations: &'a Observations,
    /// The time.
    pub(super) now: Duration,
    /// How long an answer takes at the most.
    pub(super) response_timeout: Duration,
    /// How many packets there are to spend.
    pub(super) budget: BudgetLevel,
    /// Whether it is known for sure how mappings expire.
    pub(super) style_is_known: bool,
    /// Between which idle times mappings of the other timer expire.
    pub(super) other_timer: Option<(Duration, Duration)>,
}

impl SearchInput<'_> {
    /// Between which idle times mappings expire, as far as that is certain.
    pub(super) fn change_point(&self) -> ChangePoint {
        let samples: Vec<Sample> = self.mappings.iter().filter_map(|m| Sample::of(m)).collect();
        ChangePoint::of(&samples)
    }

    /// Mappings that were not checked yet, and how long they have been idle.
    pub(super) fn unchecked(&self) -> impl Iterator<Item = (Duration, SocketId)> {
        let unchecked = |m: &&&MappingHistory| m.state == MappingState::Unchecked && m.external.is_some();
        let ready = self.mappings.iter().filter(unchecked);
        ready.filter_map(|m| Some((m.idle(self.now)?, m.socket)))
    }
}

/// How many packets there are to spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum BudgetLevel {
    /// Enough for what is necessary.
    Low,
    /// Enough for what is useful as well.
    Normal,
    /// Enough to repeat checks before the first can be answered.
    Ample,
}

impl BudgetLevel {
    /// The level at which so many packets may leave now.
    pub(super) fn of(packets: usize) -> Self {
        match packets {
            AMPLE.. => Self::Ample,
            SPARE.. => Self::Normal,
            _ => Self::Low,
        }
    }
}

/// What to do now, and when to ask again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    /// Mappings to check now, as many times as they are named.
    pub(super) check: Vec<SocketId>,
    /// When there will be more to do.
    pub(super) again_at: Option<Duration>,
    /// Whether answers are expected, so that no control request is needed to interpret silence yet.
    pub(super) expects_answer: bool,
}

impl Step {
    /// Checks these.
    pub(super) fn check(check: Vec<SocketId>) -> Self {
        Self { check, ..Self::default() }
    }

    /// Nothing before then.
    pub(super) fn wait(until: Duration) -> Self {
        Self { again_at: Some(until), ..Self::default() }
    }

    /// Whether there is nothing to do or to wait for.
    pub(super) fn is_nothing(&self) -> bool {
        self.check.is_empty() && self.again_at.is_none()
    }
}

/// Of mappings that are idle for almost the same time, one.
pub(super) fn distinct(mut list: Vec<(Duration, SocketId)>) -> Vec<(Duration, SocketId)> {
    list.sort();
    let mut kept: Vec<(Duration, SocketId)> = Vec::new();
    for (idle, socket) in list {
        if kept.last().is_none_or(|(last, _)| idle >= *last + CHECKED_APART) {
            kept.push((idle, socket));
        }
    }
    kept
}
