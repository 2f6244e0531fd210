//! At which idle times mappings are looked at, and when they are made. Pure.
//!
//! *Rungs* are the idle times at which one mapping each is looked at; the first that is found gone says that the timer
//! lies between it and the rung before. For low rungs mappings are made near the start. The *teeth* of the comb, made
//! later and later after it, then have just the idle times in between, all in the same instant, so that no second wait
//! is needed. The oldest teeth serve as high rungs: a timer of a minute or more allows for their being some seconds late.

use std::time::Duration;

/// The sockets of one timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder {
    /// Idle times at which one mapping each is looked at.
    pub rungs: Vec<Duration>,
    /// When the reserve is made, after the start.
    pub teeth: Vec<Duration>,
    /// How many rungs have mappings of their own.
    own: usize,
}

/// Sockets besides: the one that asks, and those that tell what refreshes a mapping.
pub const BESIDES: usize = 4;

impl Ladder {
    /// For a timer whose mappings exist `head` seconds after their sockets are opened, up to an idle time of
    /// `longest`. The longer the head, the closer the rungs: a timer of L seconds is to be known after 1.15 L + 5.
    #[must_use]
    pub fn new(longest: Duration, head: f64) -> Self {
        let rungs = rungs(longest.as_secs_f64(), head);
        let own = rungs.iter().filter(|&&rung| rung <= HIGH).count();
        let teeth = teeth(&rungs, own);
        Self { rungs: seconds(rungs), teeth: seconds(teeth), own }
    }

    /// When mappings for low rungs are made, after the start: the higher the rung, the more time there is.
    pub fn due(&self) -> impl Iterator<Item = Duration> {
        let low = self.rungs.iter().take(self.own).map(Duration::as_secs_f64);
        low.map(|rung| Duration::from_secs_f64(LATER * (rung - LOW).max(0.0)))
    }

    /// How many sockets that takes.
    #[must_use]
    pub fn sockets(&self) -> usize {
        self.due().count() + self.teeth.len()
    }
}

/// Up to here mappings for rungs are made at once.
const LOW: f64 = 9.0;
/// Above this, teeth serve as rungs.
const HIGH: f64 = 38.0;
/// From here on brackets may be wider, and rungs are farther apart.
const LONG: f64 = 60.0;
/// Seconds that a rung may be made later for each second that it is higher.
const LATER: f64 = 0.04;
/// Rungs are this far apart: a share of the idle time, and seconds, less a share of the head.
const LOW_STEP: (f64, f64, f64) = (0.1, 2.4, 0.9);
const HIGH_STEP: (f64, f64) = (0.085, 1.0);
/// The first rung.
const FIRST: f64 = 3.9;
/// Rungs are no closer than this.
const SHORTEST_STEP: f64 = 2.2;
/// The rungs' own mappings fill the time before.
const FIRST_TOOTH: f64 = 0.8;
/// How far the comb reaches beyond the gap between rungs: the time that deciding and looking again take.
const BEYOND: f64 = 1.8;

fn rungs(longest: f64, head: f64) -> Vec<f64> {
    let mut rungs = Vec::new();
    let mut at = FIRST;
    while at < longest * 0.97 {
        rungs.push(at);
        let step = match at < LONG * 0.95 {
            true => (LOW_STEP.0 * at + LOW_STEP.1 - LOW_STEP.2 * head).max(SHORTEST_STEP),
            false => HIGH_STEP.0 * at + HIGH_STEP.1,
        };
        at += step.min(longest - at);
    }
    rungs.push(longest);
    rungs
}

/// For each rung, those between it and the one before are needed, counted from the mapping that serves as the rung.
fn teeth(rungs: &[f64], own: usize) -> Vec<f64> {
    let mut teeth: Vec<f64> = Vec::new();
    let mut at = FIRST_TOOTH;
    loop {
        let reach = |(n, pair): (usize, &[f64])| {
            let serves = (n + 1).checked_sub(own);
            serves.map_or(0.0, |n| teeth.get(n).copied().unwrap_or(at)) + pair[1] - pair[0]
        };
        let reach = rungs.windows(2).enumerate().map(reach).fold(0.0, f64::max) + BEYOND;
        if at >= reach {
            return teeth;
        }
        teeth.push(at);
        at += spacing(at);
    }
}

/// From one tooth to the next: what gives a resolution of 1 s for timers up to a minute, where the rungs are close, and
/// of 5 % or 5 s beyond.
fn spacing(offset: f64) -> f64 {
    match offset {
        o if o < 2.5 => 0.7,
        o if o < 11.5 => 0.66,
        o if o < 25.0 => 1.6,
        _ => 3.0,
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
    fn the_comb_spans_the_gap_below_the_last_rung() {
        let ladder = Ladder::new(Duration::from_secs(600), UNREPLIED_HEAD);
        let [.., below, last] = ladder.rungs[..] else { panic!("{ladder:?}") };
        let high = ladder.rungs.len() - ladder.due().count();
        let serves = ladder.teeth[high - 1];
        assert!(*ladder.teeth.last().unwrap() >= serves + (last - below));
    }

    #[test]
    fn mappings_for_rungs_are_made_near_the_start() {
        for longest in [5, 60, 600] {
            let ladder = Ladder::new(Duration::from_secs(longest), STREAM_HEAD);
            assert!(ladder.due().is_sorted() && ladder.due().all(|at| at < Duration::from_millis(2500)));
        }
    }
}
