//! What a timer's measurement has to go by at a moment, and what it then asks for. Pure.

use std::time::Duration;

use super::{
    fit::{Change, Sample},
    observe::{Flow, Seen, State},
};
use crate::observation::SocketId;

/// What is known at a moment.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The mappings of this timer.
    pub flows: &'a [&'a Flow],
    /// All that was seen.
    pub seen: &'a Seen,
    /// The time.
    pub now: Duration,
    /// How long an answer takes at the most.
    pub response_timeout: Duration,
    /// Whether there are packets left for what is good to know but not necessary.
    pub spare: bool,
    /// Whether there are so many that haste may cost some.
    pub plenty: bool,
    /// Whether it is known beyond doubt how mappings end.
    pub told: bool,
    /// Between which idle times mappings of another timer end.
    pub hint: Option<(Duration, Duration)>,
}

impl View<'_> {
    /// Between which idle times mappings end, as far as that is beyond doubt.
    pub(super) fn change(&self) -> Change {
        let samples: Vec<Sample> = self.flows.iter().filter_map(|f| Sample::of(f)).collect();
        Change::of(&samples)
    }

    /// Mappings that nobody has looked at, and how long they have been idle.
    pub(super) fn untouched(&self) -> impl Iterator<Item = (Duration, SocketId)> {
        let ready = self.flows.iter().filter(|f| f.state == State::Untouched && f.outside.is_some());
        ready.filter_map(|f| Some((f.idle(self.now)?, f.socket)))
    }
}

/// What to do now, and when to ask again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Move {
    /// Mappings to look at now, as many times as they are named.
    pub look: Vec<SocketId>,
    /// When there will be more to do.
    pub again: Option<Duration>,
    /// Whether an answer is expected, so that nothing has to vouch for silence yet.
    pub hopeful: bool,
}

impl Move {
    /// Looks at these.
    pub(super) fn look(look: Vec<SocketId>) -> Self {
        Self { look, ..Self::default() }
    }

    /// Nothing before then.
    pub(super) fn wait(until: Duration) -> Self {
        Self { again: Some(until), ..Self::default() }
    }

    /// Whether there is nothing to do or to wait for.
    pub(super) fn is_nothing(&self) -> bool {
        self.look.is_empty() && self.again.is_none()
    }
}

/// Of mappings that are idle for almost the same time, one.
pub(super) fn spread(mut list: Vec<(Duration, SocketId)>) -> Vec<(Duration, SocketId)> {
    list.sort();
    let mut kept: Vec<(Duration, SocketId)> = Vec::new();
    for (idle, socket) in list {
        if kept.last().is_none_or(|(last, _)| idle >= *last + CLOSEST) {
            kept.push((idle, socket));
        }
    }
    kept
}

/// Mappings closer than this to one another tell nothing more.
const CLOSEST: Duration = Duration::from_millis(300);
