//! The schedule of one timer: at which idle times its mappings are checked, and when they are opened. Pure.
//!
//! A *checkpoint* is an idle time at which one mapping is checked; when the first is found expired, the lifetime lies
//! between that checkpoint and the one before. Mappings for early checkpoints are opened near the start. The *fine probes*
//! are opened one after another later, so that in that instant they have just the idle times in between, and no second
//! wait is needed. The oldest fine probes serve late checkpoints: there, some seconds matter less.

use std::time::Duration;

use super::constants::{
    FINE_PROBES_APART, FINE_PROBES_APART_BEYOND, FIRST_CHECKPOINT, FIRST_FINE_PROBE, LAST_BEFORE_LONGEST,
    LONG_LIFETIME, LONG_STEP_BASE, LONG_STEP_SHARE, LONG_STEPS_FROM, OPENED_AT_ONCE, OPENED_LATER,
    OWN_MAPPING_UP_TO, REACH_BEYOND_GAP, STEP_BASE, STEP_LEAST, STEP_LESS_SETUP, STEP_SHARE,
};

/// The mappings of one timer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Schedule {
    /// Idle times at which one mapping each is checked.
    pub(super) checkpoints: Vec<Duration>,
    /// When fine probes are opened, after the start.
    pub(super) fine_probes: Vec<Duration>,
    /// How many checkpoints have mappings of their own.
    own: usize,
}

impl Schedule {
    /// For mappings that are ready `setup` seconds after their sockets are opened, up to an idle time of `longest`. The
    /// longer the setup, the closer the checkpoints: a lifetime of L is to be known after 1.15 L + 5 s.
    pub(super) fn new(longest: Duration, setup: f64) -> Self {
        let checkpoints = checkpoints(longest.as_secs_f64(), setup);
        let own = checkpoints.iter().filter(|&&at| at <= OWN_MAPPING_UP_TO).count();
        let fine_probes = fine_probes(&checkpoints, own);
        Self { checkpoints: durations(checkpoints), fine_probes: durations(fine_probes), own }
    }

    /// When mappings for early checkpoints are opened, after the start: the later the checkpoint, the more time there is.
    pub(super) fn checkpoint_openings(&self) -> impl Iterator<Item = Duration> {
        let own = self.checkpoints.iter().take(self.own).map(Duration::as_secs_f64);
        own.map(|at| Duration::from_secs_f64(OPENED_LATER * (at - OPENED_AT_ONCE).max(0.0)))
    }

    /// How many sockets that takes.
    #[cfg(test)]
    pub(super) fn sockets(&self) -> usize {
        self.checkpoint_openings().count() + self.fine_probes.len()
    }
}

fn checkpoints(longest: f64, setup: f64) -> Vec<f64> {
    let mut checkpoints = Vec::new();
    let mut at = FIRST_CHECKPOINT;
    while at < longest * LAST_BEFORE_LONGEST {
        checkpoints.push(at);
        let step = if at < LONG_LIFETIME * LONG_STEPS_FROM {
            (STEP_SHARE * at + STEP_BASE - STEP_LESS_SETUP * setup).max(STEP_LEAST)
        } else {
            LONG_STEP_SHARE * at + LONG_STEP_BASE
        };
        at += step.min(longest - at);
    }
    checkpoints.push(longest);
    checkpoints
}

/// For each checkpoint, fine probes have to fill the gap to the one before, counted from the mapping that serves it.
fn fine_probes(checkpoints: &[f64], own: usize) -> Vec<f64> {
    let mut probes: Vec<f64> = Vec::new();
    let mut at = FIRST_FINE_PROBE;
    loop {
        let reach = |(n, pair): (usize, &[f64])| {
            let serves = (n + 1).checked_sub(own);
            serves.map_or(0.0, |n| probes.get(n).copied().unwrap_or(at)) + pair[1] - pair[0]
        };
        let reach = checkpoints.windows(2).enumerate().map(reach).fold(0.0, f64::max) + REACH_BEYOND_GAP;
        if at >= reach {
            return probes;
        }
        probes.push(at);
        at += apart(at);
    }
}

/// From the fine probe at this offset to the next.
fn apart(offset: f64) -> f64 {
    let range = FINE_PROBES_APART.iter().find(|(up_to, _)| offset < *up_to);
    range.map_or(FINE_PROBES_APART_BEYOND, |(_, apart)| *apart)
}

fn durations(seconds: Vec<f64>) -> Vec<Duration> {
    seconds.into_iter().map(Duration::from_secs_f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::lifetime::constants::{STREAM_SETUP, UNREPLIED_SETUP};

    /// The requester, and three that show what refreshes a mapping.
    const OTHER_SOCKETS: usize = 4;

    fn sockets(longest: u64) -> usize {
        let sockets = |setup| Schedule::new(Duration::from_secs(longest), setup).sockets();
        sockets(UNREPLIED_SETUP) + sockets(STREAM_SETUP) + OTHER_SOCKETS
    }

    #[test]
    fn a_run_of_60_s_takes_60_sockets_and_one_of_600_s_takes_300() {
        assert!(sockets(60) <= 60, "{}", sockets(60));
        assert!(sockets(180) <= 120, "{}", sockets(180));
        assert!(sockets(600) <= 300, "{}", sockets(600));
    }

    #[test]
    fn checkpoints_rise_to_the_longest_idle_time() {
        for longest in [5, 6, 30, 60, 180, 600, 3600] {
            let longest = Duration::from_secs(longest);
            let schedule = Schedule::new(longest, STREAM_SETUP);
            assert!(schedule.checkpoints.is_sorted_by(|a, b| a < b), "{longest:?}: {schedule:?}");
            assert_eq!(schedule.checkpoints.last(), Some(&longest));
            assert!(schedule.fine_probes.is_sorted_by(|a, b| a < b));
        }
    }

    #[test]
    fn fine_probes_fill_the_gap_below_the_last_checkpoint() {
        let schedule = Schedule::new(Duration::from_secs(600), UNREPLIED_SETUP);
        let [.., before, last] = schedule.checkpoints[..] else { panic!("{schedule:?}") };
        let late = schedule.checkpoints.len() - schedule.checkpoint_openings().count();
        let serves = schedule.fine_probes[late - 1];
        assert!(*schedule.fine_probes.last().unwrap() >= serves + (last - before));
    }

    #[test]
    fn mappings_for_checkpoints_are_opened_near_the_start() {
        for longest in [5, 60, 600] {
            let schedule = Schedule::new(Duration::from_secs(longest), STREAM_SETUP);
            let openings = || schedule.checkpoint_openings();
            assert!(openings().is_sorted() && openings().all(|at| at < Duration::from_millis(2500)));
        }
    }
}
