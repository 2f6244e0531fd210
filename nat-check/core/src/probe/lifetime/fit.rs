//! The change point: between which idle times mappings end. Pure.
//!
//! Every mapping that was looked at says "after x idle it was there" or "it was gone". If one timer explains all of
//! them, its value lies between the longest life seen and the shortest death. If none does, lives differ; how is
//! [`manner`](super::manner)'s question.

use std::time::Duration;

use shared::nat::Bracket;

use super::observe::{Flow, Span, State};

/// One mapping that was looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// When it was used last.
    pub used: Span,
    /// When it was looked at.
    pub seen: Span,
    /// The idle time: at least this if it was there, at most this if it was gone.
    pub idle: Duration,
    /// Whether it was there.
    pub alive: bool,
    /// Looks that were silent, if it was not.
    pub quiet: usize,
}

impl Sample {
    /// What a mapping says beyond doubt, if it was looked at and that said something.
    #[must_use]
    pub fn of(flow: &Flow) -> Option<Self> {
        let (idle, alive) = match flow.state {
            State::Alive(idle) => (idle, true),
            State::Gone(idle) => (idle, false),
            State::Untouched | State::Silent => return None,
        };
        Some(Self { used: flow.last?, seen: flow.seen, idle, alive, quiet: flow.quiet.max(1) })
    }

    /// What a mapping says, though it may be that the looks at it were lost.
    #[must_use]
    pub fn maybe(flow: &Flow) -> Option<Self> {
        let silent = flow.state == State::Silent && flow.quiet > 0;
        let of_silence = || {
            let used = flow.last?;
            let idle = flow.seen.to.saturating_sub(used.from);
            Some(Self { used, seen: flow.seen, idle, alive: false, quiet: flow.quiet })
        };
        if silent { of_silence() } else { Self::of(flow) }
    }
}

/// Between which idle times mappings end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The longest idle time, below every death, after which a mapping was alive.
    pub alive: Option<Duration>,
    /// The shortest idle time, above every life, after which one was gone.
    pub gone: Option<Duration>,
    /// By how much the longest life exceeds the shortest death.
    pub overlap: Duration,
}

impl Change {
    /// Finds it.
    #[must_use]
    pub fn of(samples: &[Sample]) -> Self {
        let idles = |alive: bool| samples.iter().filter(move |s| s.alive == alive).map(|s| s.idle);
        let (longest, shortest) = (idles(true).max(), idles(false).min());
        let overlap = match (longest, shortest) {
            (Some(life), Some(death)) => life.saturating_sub(death),
            (None, _) | (_, None) => Duration::ZERO,
        };
        Self {
            alive: idles(true).filter(|&life| shortest.is_none_or(|death| life < death)).max(),
            gone: idles(false).filter(|&death| longest.is_none_or(|life| death > life)).min(),
            overlap,
        }
    }

    /// In the words of the report, rounded away from the timer; none without a single life.
    #[must_use]
    pub fn bracket(&self) -> Option<Bracket> {
        let down = |d: Duration| (d.as_secs_f64() * 100.0).floor() / 100.0;
        let up = |d: Duration| (d.as_secs_f64() * 100.0).ceil() / 100.0;
        match (self.alive, self.gone) {
            (None, None) => None,
            (alive, gone) => Some(Bracket { alive_s: alive.map_or(0.0, down), expired_s: gone.map(up) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn sample(idle: f64, alive: bool) -> Sample {
        let moment = |t| Span { from: at(t), to: at(t) };
        Sample { used: moment(1.0), seen: moment(1.0 + idle), idle: at(idle), alive, quiet: 3 }
    }

    #[test]
    fn a_timer_lies_between_the_longest_life_and_the_shortest_death() {
        let samples = [(4.0, true), (19.5, true), (20.2, false), (20.9, false)].map(|(i, a)| sample(i, a));
        let change = Change::of(&samples);
        assert_eq!(change.bracket(), Some(Bracket { alive_s: 19.5, expired_s: Some(20.2) }));
        assert_eq!(change.overlap, Duration::ZERO);
    }

    #[test]
    fn lives_beyond_a_death_bound_nothing() {
        let samples = [(18.0, true), (20.2, false), (22.0, true), (25.0, false)].map(|(i, a)| sample(i, a));
        let change = Change::of(&samples);
        assert_eq!(change.bracket(), Some(Bracket { alive_s: 18.0, expired_s: Some(25.0) }));
        assert_eq!(change.overlap, at(1.8));
    }

    #[test]
    fn without_a_death_nothing_is_bounded_above() {
        let bracket = Change::of(&[sample(4.0, true), sample(30.0, true)]).bracket();
        assert_eq!(bracket, Some(Bracket { alive_s: 30.0, expired_s: None }));
        assert_eq!(Change::of(&[]).bracket(), None);
    }
}
