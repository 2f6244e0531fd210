//! The change point: between which idle times mappings end, and how exactly. Pure.
//!
//! Every mapping that was looked at says "after x idle it was there" or "it was gone". If one timer explains all of
//! them, its value lies between the longest life seen and the shortest death. If none does, lives differ: because all
//! that is due ends together at intervals (a sweep), or each by itself (jitter). A sweep is told by trying: with
//! sweeps at `phase + n * interval` a mapping last used at `b` is gone at `w` exactly if the last sweep before `w`
//! came at least one timer after `b`.

use std::time::Duration;

use shared::nat::{Bracket, Clearing, Granularity};

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
}

impl Sample {
    /// What a mapping says, if it was looked at and that said something.
    #[must_use]
    pub fn of(flow: &Flow) -> Option<Self> {
        let (idle, alive) = match flow.state {
            State::Alive(idle) => (idle, true),
            State::Gone(idle) => (idle, false),
            State::Untouched | State::Silent => return None,
        };
        Some(Self { used: flow.last?, seen: flow.seen, idle, alive })
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

/// How exactly mappings end, from the samples of each timer; `None` when they do not tell.
#[must_use]
pub fn granularity(timers: &[&[Sample]]) -> Option<Granularity> {
    let ended: Vec<&[Sample]> =
        timers.iter().copied().filter(|samples| samples.iter().any(|s| !s.alive)).collect();
    let spread = ended.iter().map(|samples| Change::of(samples).overlap).max()?;
    let possible = sweeps(&ended);
    let (Some(&low), Some(&high)) = (possible.first(), possible.last()) else {
        return Some(Granularity { clearing: Clearing::Jittered, seconds: round(spread.as_secs_f64()) });
    };
    if spread > Duration::ZERO {
        return Some(Granularity { clearing: Clearing::Swept, seconds: round((low + high) / 2.0) });
    }
    // Short intervals cannot be told from none, and need not be.
    let reach = (0..).map(|n| f64::from(n) * STEP).zip(&possible).take_while(|(a, b)| a == *b).count();
    let life = ended.iter().filter_map(|samples| Change::of(samples).alive).min().unwrap_or_default();
    let told =
        reach as f64 * STEP <= (0.15 * life.as_secs_f64()).max(6.0) && possible.len() <= reach + CHANCE;
    told.then_some(Granularity { clearing: Clearing::Exact, seconds: 0.0 })
}

/// Intervals that are tried, in seconds; longer ones are not told from longer ones still.
const LONGEST_SWEEP: f64 = 60.0;
const STEP: f64 = 0.5;
/// Intervals that happen to explain the samples of an exact timer, as multiples of the times between looks.
const CHANCE: usize = 4;
/// Phases that are tried, and how far they may be off.
const PHASE: f64 = 0.1;
const SLACK: f64 = PHASE;

/// The sweep intervals that explain all samples, those of each timer by one value of it.
fn sweeps(timers: &[&[Sample]]) -> Vec<f64> {
    let steps = (LONGEST_SWEEP / STEP) as usize;
    let interval = |n: usize| n as f64 * STEP;
    (0..=steps)
        .map(interval)
        .filter(|&interval| match interval > 0.0 {
            true => (0..(interval / PHASE) as usize).any(|phase| {
                let cleared = |at| last_sweep(at, interval, phase as f64 * PHASE);
                timers.iter().all(|samples| explains(samples, cleared, SLACK))
            }),
            false => timers.iter().all(|samples| explains(samples, |at| at, 0.0)),
        })
        .collect()
}

fn last_sweep(at: f64, interval: f64, phase: f64) -> f64 {
    ((at - phase) / interval).floor() * interval + phase
}

/// Whether some timer explains all samples, if at time w everything is gone that was due at `cleared(w)`.
fn explains(samples: &[Sample], cleared: impl Fn(f64) -> f64, slack: f64) -> bool {
    let (mut above, mut below) = (0.1_f64, f64::INFINITY);
    for sample in samples {
        let (used, seen) = (sample.used, sample.seen);
        if sample.alive {
            above = above.max(cleared(seen.from.as_secs_f64()) - used.to.as_secs_f64() - slack);
        } else {
            // The first look was silent already.
            below = below.min(cleared(seen.from.as_secs_f64()) - used.from.as_secs_f64() + slack);
        }
        if above >= below {
            return false;
        }
    }
    true
}

fn round(seconds: f64) -> f64 {
    (seconds * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn sample(used: f64, seen: f64, alive: bool) -> Sample {
        let moment = |t| Span { from: at(t), to: at(t) };
        Sample { used: moment(used), seen: moment(seen), idle: at(seen - used), alive }
    }

    /// Mappings made at these times and looked at at those, with a NAT that ends them so.
    fn run(looks: &[(f64, f64)], ends: impl Fn(f64) -> f64) -> Vec<Sample> {
        looks.iter().map(|&(used, seen)| sample(used, seen, seen < ends(used))).collect()
    }

    /// A ladder, a comb when it breaks, another look two seconds later, and the rest after that.
    fn looks(break_at: f64) -> Vec<(f64, f64)> {
        let rungs = (2..10).map(|n| (0.1 * f64::from(n), 3.0 * f64::from(n))).filter(|l| l.1 < break_at);
        let comb = (0..8).map(|n| (0.3 + 0.7 * f64::from(n), break_at));
        let later = (8..20).map(|n| (0.3 + 0.7 * f64::from(n), break_at + 1.1 * f64::from(n - 6)));
        rungs.chain(comb).chain(later).collect()
    }

    #[test]
    fn an_exact_timer_lies_between_the_longest_life_and_the_shortest_death() {
        let samples = run(&looks(21.5), |used| used + 20.0);
        let bracket = Change::of(&samples).bracket().unwrap();
        assert!(bracket.alive_s < 20.0 && bracket.expired_s.unwrap() >= 20.0, "{bracket:?}");
        assert!(bracket.expired_s.unwrap() - bracket.alive_s <= 1.0);
        assert_eq!(granularity(&[&samples]).map(|g| g.clearing), Some(Clearing::Exact));
    }

    #[test]
    fn a_single_instant_does_not_tell_exact_from_swept() {
        let comb: Vec<_> = (0..8).map(|n| (0.3 + 0.7 * f64::from(n), 21.5)).collect();
        assert_eq!(granularity(&[&run(&comb, |used| used + 20.0)]), None);
    }

    #[test]
    fn a_sweep_shows_by_ending_together_what_was_made_apart() {
        for interval in [5.0, 8.0, 10.0] {
            let ends = |used: f64| ((used + 20.0) / interval).ceil() * interval;
            let samples = run(&looks(ends(0.3) + 1.0), ends);
            let found = granularity(&[&samples]).unwrap();
            assert_eq!(found.clearing, Clearing::Swept, "{interval}");
            assert!((found.seconds - interval).abs() <= 1.5, "{interval}: {found:?}");
        }
    }

    #[test]
    fn jitter_shows_by_ending_the_younger_before_the_older() {
        let ends = |used: f64| used + 20.0 + (used * 7919.0).sin().abs() * 6.0;
        let samples = run(&looks(23.0), ends);
        assert_eq!(granularity(&[&samples]).map(|g| g.clearing), Some(Clearing::Jittered));
    }

    #[test]
    fn without_a_death_nothing_is_bounded_above() {
        let samples = run(&looks(21.5), |_| 1e6);
        let bracket = Change::of(&samples).bracket().unwrap();
        assert_eq!(bracket.expired_s, None);
        assert_eq!(granularity(&[&samples]), None);
        assert_eq!(Change::of(&[]).bracket(), None);
    }
}
