//! The plan of sockets: at which idle times mappings are looked at, and when those in reserve are made. Pure.
//!
//! *Rungs* are the idle times at which one mapping each is looked at, all made at the start; the first that is found
//! gone says that the timer lies between it and the rung before. The *teeth* of the comb, made later and later after
//! the start, then have just the idle times in between, all in the same instant, so that no second wait is needed.

use std::time::Duration;

/// The sockets of one timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// Idle times at which one mapping each is looked at.
    pub rungs: Vec<Duration>,
    /// When the reserve is made, after the start.
    pub teeth: Vec<Duration>,
}

/// Sockets besides: the one that asks, and those that tell what refreshes a mapping.
pub const BESIDES: usize = 5;

impl Ladder {
    /// For a timer whose mappings exist `head` seconds after their sockets are opened, up to an idle time of
    /// `longest`. The longer the head, the closer the rungs: a timer of L seconds is to be known after 1.15 L + 5.
    #[must_use]
    pub fn new(longest: Duration, head: f64) -> Self {
        let longest = longest.as_secs_f64();
        let mut rungs: Vec<f64> = Vec::new();
        let mut at = FIRST;
        while at < longest * 0.97 {
            rungs.push(at);
            let step = match at < HIGH * 0.95 {
                true => (0.15 * at + HASTE - head).max(SHORTEST_STEP),
                false => HIGH_STEP.0 * at + HIGH_STEP.1,
            };
            at += step.min(longest - at);
        }
        rungs.push(longest);
        let widest = rungs.windows(2).map(|w| w[1] - w[0]).fold(0.0, f64::max);
        let mut teeth = Vec::new();
        let mut at = FIRST_TOOTH;
        while at < widest + BEYOND {
            teeth.push(at);
            at += spacing(at);
        }
        Self { rungs: seconds(rungs), teeth: seconds(teeth) }
    }

    /// When the mapping of a rung is made, after the start: those of high rungs have time, and where a timer turns out
    /// to be short, they are not made at all.
    #[must_use]
    pub fn due(rung: Duration) -> Duration {
        let late = match rung.as_secs_f64() {
            low if low <= HIGH => 0.0,
            high if high <= VERY_HIGH => 1.0 + 0.035 * (high - HIGH),
            _ => 25.0,
        };
        Duration::from_secs_f64(late)
    }

    /// How many sockets that takes.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.rungs.len() + self.teeth.len()
    }
}

/// Rungs above this may be made a little late, those above that later.
const HIGH: f64 = 60.0;
const VERY_HIGH: f64 = 200.0;
/// High rungs are this far apart: a share of the idle time, and seconds.
const HIGH_STEP: (f64, f64) = (0.085, 1.0);
/// The first rung.
const FIRST: f64 = 3.9;
/// Rungs are no closer than this.
const SHORTEST_STEP: f64 = 2.2;
/// What is left of the five seconds for the time between two rungs, when deciding and looking twice have had theirs.
const HASTE: f64 = 1.8;
/// The rungs' own mappings fill the time before.
const FIRST_TOOTH: f64 = 0.8;
/// How far the comb reaches beyond the widest gap between rungs: the time that two decisions take.
const BEYOND: f64 = 2.0;

/// From one tooth to the next: what gives a resolution of 1 s for timers up to a minute, where the rungs are close, and
/// of 5 % or 5 s beyond.
fn spacing(offset: f64) -> f64 {
    match offset {
        o if o < 10.5 => 0.7,
        o if o < 20.0 => 1.8,
        _ => 2.5,
    }
}

fn seconds(list: Vec<f64>) -> Vec<Duration> {
    list.into_iter().map(Duration::from_secs_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::lifetime::{STREAM_HEAD, UNREPLIED_HEAD};

    fn sockets(longest: u64) -> usize {
        let longest = Duration::from_secs(longest);
        Ladder::new(longest, UNREPLIED_HEAD).sockets() + Ladder::new(longest, STREAM_HEAD).sockets() + BESIDES
    }

    #[test]
    fn a_minute_takes_60_sockets_and_ten_take_300() {
        assert!(sockets(60) <= 60, "{}", sockets(60));
        assert!(sockets(180) <= 120, "{}", sockets(180));
        assert!(sockets(600) <= 300, "{}", sockets(600));
    }

    #[test]
    fn rungs_rise_to_the_longest_idle_time() {
        for longest in [5, 6, 30, 60, 180, 600, 3600] {
            let longest = Duration::from_secs(longest);
            let ladder = Ladder::new(longest, STREAM_HEAD);
            assert!(ladder.rungs.is_sorted_by(|a, b| a < b), "{longest:?}: {ladder:?}");
            assert_eq!(ladder.rungs.last(), Some(&longest));
            assert!(ladder.teeth.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn the_comb_spans_the_widest_gap() {
        let ladder = Ladder::new(Duration::from_secs(600), UNREPLIED_HEAD);
        let widest = ladder.rungs.windows(2).map(|w| w[1] - w[0]).max().unwrap();
        assert!(*ladder.teeth.last().unwrap() + Duration::from_secs(1) >= widest);
    }
}
