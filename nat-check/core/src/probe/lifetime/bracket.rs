//! The bracket of a lifetime: between which idle times mappings expire. Pure.
//!
//! Every mapping that was checked says "after x idle it was alive" or "it had expired". If one timer explains all of
//! them, its value lies between the longest idle time survived and the shortest that expired. If none does, lifetimes
//! differ; how is [`expiry_model`](super::expiry_model)'s question.

use std::time::Duration;

use shared::nat::Bracket;

use super::observe::{MappingHistory, MappingState, TimeRange};

/// One mapping that was checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sample {
    /// When it was used last.
    pub(super) used: TimeRange,
    /// When it was checked.
    pub(super) checked: TimeRange,
    /// The idle time: at least this if it was alive, at most this if it had expired.
    pub(super) idle: Duration,
    /// Whether it was alive.
    pub(super) alive: bool,
    /// Unanswered checks, if it was not.
    pub(super) unanswered: usize,
}

impl Sample {
    /// What a mapping shows for certain, if it was checked and that showed something.
    pub(super) fn of(mapping: &MappingHistory) -> Option<Self> {
        let (idle, alive) = match mapping.state {
            MappingState::Alive(idle) => (idle, true),
            MappingState::Expired(idle) => (idle, false),
            MappingState::Unchecked | MappingState::Silent => return None,
        };
        Some(Self {
            used: mapping.last_used?,
            checked: mapping.checked_at,
            idle,
            alive,
            unanswered: mapping.unanswered.max(1),
        })
    }

    /// The same, and what unanswered checks suggest that may have been lost.
    pub(super) fn tentative(mapping: &MappingHistory) -> Option<Self> {
        let silent = mapping.state == MappingState::Silent && mapping.unanswered > 0;
        let of_silence = || {
            let used = mapping.last_used?;
            let idle = mapping.checked_at.latest.saturating_sub(used.earliest);
            let checked = mapping.checked_at;
            Some(Self { used, checked, idle, alive: false, unanswered: mapping.unanswered })
        };
        if silent { of_silence() } else { Self::of(mapping) }
    }
}

/// Between which idle times mappings expire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ChangePoint {
    /// The longest idle time survived that is below every one that expired.
    pub(super) alive: Option<Duration>,
    /// The shortest idle time that expired that is above every one survived.
    pub(super) expired: Option<Duration>,
    /// By how much the longest idle time survived exceeds the shortest that expired.
    pub(super) overlap: Duration,
}

impl ChangePoint {
    /// Finds it.
    pub(super) fn of(samples: &[Sample]) -> Self {
        let idles = |alive: bool| samples.iter().filter(move |s| s.alive == alive).map(|s| s.idle);
        let (longest, shortest) = (idles(true).max(), idles(false).min());
        let overlap = match (longest, shortest) {
            (Some(survived), Some(expired)) => survived.saturating_sub(expired),
            (None, _) | (_, None) => Duration::ZERO,
        };
        Self {
            alive: idles(true).filter(|&survived| shortest.is_none_or(|expired| survived < expired)).max(),
            expired: idles(false).filter(|&expired| longest.is_none_or(|survived| expired > survived)).min(),
            overlap,
        }
    }

    /// In the report's terms, rounded away from the timer; none without a single sample.
    pub(super) fn bracket(&self) -> Option<Bracket> {
        let down = |d: Duration| (d.as_secs_f64() * 100.0).floor() / 100.0;
        let up = |d: Duration| (d.as_secs_f64() * 100.0).ceil() / 100.0;
        match (self.alive, self.expired) {
            (None, None) => None,
            (alive, expired) => {
                Some(Bracket { alive_s: alive.map_or(0.0, down), expired_s: expired.map(up) })
            }
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
        let exactly = |t| TimeRange { earliest: at(t), latest: at(t) };
        Sample { used: exactly(1.0), checked: exactly(1.0 + idle), idle: at(idle), alive, unanswered: 3 }
    }

    #[test]
    fn the_lifetime_lies_between_the_longest_survived_and_the_shortest_expired() {
        let samples = [(4.0, true), (19.5, true), (20.2, false), (20.9, false)].map(|(i, a)| sample(i, a));
        let change = ChangePoint::of(&samples);
        assert_eq!(change.bracket(), Some(Bracket { alive_s: 19.5, expired_s: Some(20.2) }));
        assert_eq!(change.overlap, Duration::ZERO);
    }

    #[test]
    fn idle_times_survived_beyond_one_that_expired_bound_nothing() {
        let samples = [(18.0, true), (20.2, false), (22.0, true), (25.0, false)].map(|(i, a)| sample(i, a));
        let change = ChangePoint::of(&samples);
        assert_eq!(change.bracket(), Some(Bracket { alive_s: 18.0, expired_s: Some(25.0) }));
        assert_eq!(change.overlap, at(1.8));
    }

    #[test]
    fn without_an_expired_mapping_there_is_no_upper_bound() {
        let bracket = ChangePoint::of(&[sample(4.0, true), sample(30.0, true)]).bracket();
        assert_eq!(bracket, Some(Bracket { alive_s: 30.0, expired_s: None }));
        assert_eq!(ChangePoint::of(&[]).bracket(), None);
    }
}
