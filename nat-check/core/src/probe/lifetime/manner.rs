//! How exactly mappings end: each by one timer, together at intervals (a sweep), or each by a timer of its own (jitter).
//! Pure.
//!
//! Every mapping that was looked at says "made then, looked at then, it was there" or "silent so many times". The three
//! explanations are weighed by how probable they make all of it, each averaged over its parameters, so that an
//! explanation that could fit anything gains little by fitting:
//!
//! * exact: gone at w if used last before w - L;
//! * swept: gone at w if used last before z - L, where z is the last multiple of the interval, from an unknown phase on,
//!   before w;
//! * jittered: each mapping lives for L and up to J longer, all values in between being equally likely.
//!
//! One that is so many times as probable as the others together is told as likely, or as sure; else it stays open.

use shared::nat::{ExpiryStyle, Granularity};

use super::fit::Sample;

/// How many times as probable as the others an explanation is to be.
const LIKELY: f64 = 30.0;
const SURE: f64 = 10_000.0;
/// Sweeps and jitter shorter than this many seconds, or this share of the timer, are not told from none.
const FINEST: (f64, f64) = (3.0, 0.12);
/// Intervals of sweeps that are tried: from, to, and so many seconds apart; short ones and long ones.
const SWEEPS: [(f64, f64, f64); 2] = [(1.0, 19.5, 0.5), (20.0, 60.0, 2.0)];
/// Phases that are tried are so many seconds apart.
const PHASE: f64 = 0.2;
/// Spreads of jitter that are tried, and values of its timer, so many seconds apart.
const JITTERS: (f64, f64, f64) = (0.5, 40.0, 0.5);
const TIMER_STEP: f64 = 0.25;
/// No timer is longer than this.
const LONGEST: f64 = 4000.0;

/// How exactly mappings end, from the samples of each timer; `None` when they do not tell. `loss` is the share of looks
/// that get lost.
#[must_use]
pub fn granularity(timers: &[&[Sample]], loss: f64) -> Option<Granularity> {
    weighed(timers, loss).map(|(told, _)| told)
}

/// Whether it is beyond doubt how mappings end, and known to a tenth or so how coarsely.
#[must_use]
pub fn is_settled(timers: &[&[Sample]], loss: f64) -> bool {
    weighed(timers, loss).is_some_and(|(told, precise)| told.sure && precise)
}

fn weighed(timers: &[&[Sample]], loss: f64) -> Option<(Granularity, bool)> {
    let ended: Vec<Vec<Look>> = timers
        .iter()
        .filter(|samples| samples.iter().any(|s| !s.alive))
        .map(|samples| samples.iter().map(|s| Look::of(s, loss)).collect())
        .collect();
    let life = ended.iter().filter_map(|looks| longest_life(looks)).reduce(f64::min)?;
    let finest = (FINEST.1 * life).max(FINEST.0);
    let exact: f64 = ended.iter().map(|looks| timer_evidence(looks, |at| at, 0.0)).product();
    let swept = swept(&ended);
    let jittered = jittered(&ended);
    let weigh = |list: &[(f64, f64)], from: f64| {
        list.iter().filter(|(size, _)| *size >= from).map(|(_, e)| e).sum::<f64>() / list.len().max(1) as f64
    };
    let (any_sweep, any_jitter) = (weigh(&swept, 0.0), weigh(&jittered, 0.0));
    let told = |style, seconds, others: f64, own: f64| {
        (own > others * LIKELY).then_some(Granularity { style, seconds, sure: own > others * SURE })
    };
    let (interval, precise) = mean(&swept);
    let (spread, _) = mean(&jittered);
    let of_none = told(ExpiryStyle::Exact, 0.0, weigh(&swept, finest) + weigh(&jittered, finest), exact);
    let of_sweeps =
        || told(ExpiryStyle::Swept, interval, exact + any_jitter, any_sweep).map(|g| (g, precise));
    let of_jitter = || told(ExpiryStyle::Jittered, spread, exact + any_sweep, any_jitter);
    of_none.map(|g| (g, true)).or_else(of_sweeps).or_else(|| of_jitter().map(|g| (g, true)))
}

/// One look, in seconds.
#[derive(Clone, Copy, Debug)]
struct Look {
    /// When the mapping was used last, at the latest if it was alive, at the earliest if not.
    used: f64,
    /// When it was looked at, at the earliest if it was alive, at the latest if not.
    seen: f64,
    /// The chance of this if it was there; none if it was seen to be.
    missed: Option<f64>,
}

impl Look {
    fn of(sample: &Sample, loss: f64) -> Self {
        let (used, seen) = (sample.used, sample.seen);
        if sample.alive {
            Self { used: used.to.as_secs_f64(), seen: seen.from.as_secs_f64(), missed: None }
        } else {
            let missed = Some(loss.powi(i32::try_from(sample.quiet).unwrap_or(i32::MAX)));
            Self { used: used.from.as_secs_f64(), seen: seen.to.as_secs_f64(), missed }
        }
    }
}

fn longest_life(looks: &[Look]) -> Option<f64> {
    looks.iter().filter(|l| l.missed.is_none()).map(|l| l.seen - l.used).reduce(f64::max)
}

/// The probability of all looks, summed over all values of one timer, if at time w everything is gone that was due at
/// `cleared(w)`; those times are known up to `slack`.
fn timer_evidence(looks: &[Look], cleared: impl Fn(f64) -> f64, slack: f64) -> f64 {
    let mut least: f64 = 0.0;
    let mut silent: Vec<(f64, f64)> = Vec::new();
    for look in looks {
        let age = cleared(look.seen) - look.used;
        match look.missed {
            None => least = least.max(age - slack),
            Some(missed) => silent.push((age + slack, missed)),
        }
    }
    // A timer above an age at which a mapping was silent means that the looks at it were lost.
    silent.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut at, mut chance, mut sum) = (least, 1.0, 0.0);
    for (age, missed) in silent {
        if age > at {
            sum += (age - at) * chance;
            at = age;
        }
        chance *= missed;
    }
    sum + (LONGEST - at).max(0.0) * chance
}

/// For each interval of sweeps, how probable the looks are.
fn swept(timers: &[Vec<Look>]) -> Vec<(f64, f64)> {
    SWEEPS
        .into_iter()
        .flat_map(steps)
        .map(|interval| {
            let phases = (interval / PHASE).ceil() as usize;
            let of_phase = |n: usize| {
                let phase = n as f64 * PHASE;
                let cleared = |at: f64| ((at - phase) / interval).floor() * interval + phase;
                timers.iter().map(|looks| timer_evidence(looks, cleared, PHASE / 2.0)).product::<f64>()
            };
            (interval, (0..phases).map(of_phase).sum::<f64>() / phases as f64)
        })
        .collect()
}

/// For each spread of jitter, how probable the looks are.
fn jittered(timers: &[Vec<Look>]) -> Vec<(f64, f64)> {
    steps(JITTERS)
        .map(|spread| (spread, timers.iter().map(|looks| of_spread(looks, spread)).product()))
        .collect()
}

fn of_spread(looks: &[Look], spread: f64) -> f64 {
    let longest = longest_life(looks).unwrap_or_default();
    let (from, to) = ((longest - spread).max(0.0), longest + 3.0 * spread + 20.0);
    let steps = ((to - from) / TIMER_STEP) as usize;
    let chance = |timer: f64| -> f64 {
        let each = looks.iter().map(|look| {
            let alive = ((timer + spread - (look.seen - look.used)) / spread).clamp(0.0, 1.0);
            look.missed.map_or(alive, |missed| 1.0 - alive + alive * missed)
        });
        each.product()
    };
    (0..=steps).map(|n| chance(from + n as f64 * TIMER_STEP) * TIMER_STEP).sum()
}

fn steps((from, to, step): (f64, f64, f64)) -> impl Iterator<Item = f64> {
    (0..=((to - from) / step) as usize).map(move |n| from + n as f64 * step)
}

/// The mean of sizes, weighed, in tenths; and whether nearly all of the weight is near it.
fn mean(list: &[(f64, f64)]) -> (f64, bool) {
    // Of sizes that fit equally well, the smaller is the likelier.
    let list: Vec<_> = list.iter().map(|&(size, weight)| (size, weight / size)).collect();
    let all: f64 = list.iter().map(|(_, weight)| weight).sum();
    let mean = list.iter().map(|(size, weight)| size * weight).sum::<f64>() / all;
    let near = list.iter().filter(|&(size, _)| (size - mean).abs() <= (0.1 * mean).max(1.0));
    ((mean * 10.0).round() / 10.0, near.map(|(_, weight)| weight).sum::<f64>() > 0.9 * all)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::lifetime::observe::Span;

    const LOSS: f64 = 0.01;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn sample(used: f64, seen: f64, alive: bool) -> Sample {
        let moment = |t| Span { from: at(t), to: at(t) };
        Sample { used: moment(used), seen: moment(seen), idle: at(seen - used), alive, quiet: 2 }
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

    fn clearing(samples: &[Sample]) -> Option<ExpiryStyle> {
        granularity(&[samples], LOSS).map(|g| g.style)
    }

    #[test]
    fn an_exact_timer_is_told() {
        assert_eq!(clearing(&run(&looks(21.5), |used| used + 20.0)), Some(ExpiryStyle::Exact));
    }

    #[test]
    fn a_single_instant_does_not_tell_exact_from_swept() {
        let comb: Vec<_> = (0..8).map(|n| (0.3 + 0.7 * f64::from(n), 21.5)).collect();
        assert_eq!(clearing(&run(&comb, |used| used + 20.0)), None);
    }

    #[test]
    fn a_sweep_shows_by_ending_together_what_was_made_apart() {
        for interval in [5.0, 8.0, 10.0] {
            let ends = |used: f64| ((used + 20.0) / interval).ceil() * interval;
            let stream: Vec<_> =
                looks(ends(0.3) + 1.0).iter().map(|(used, seen)| (used + 0.4, seen + 2.2)).collect();
            let timers = [run(&looks(ends(0.3) + 1.0), ends), run(&stream, ends)];
            let found = granularity(&[&timers[0], &timers[1]], LOSS).unwrap();
            assert_eq!(found.style, ExpiryStyle::Swept, "{interval}");
            assert!((found.seconds - interval).abs() <= 1.5, "{interval}: {found:?}");
        }
    }

    #[test]
    fn jitter_shows_by_ending_the_younger_before_the_older() {
        let ends = |used: f64| used + 20.0 + (used * 7919.0).sin().abs() * 6.0;
        assert_eq!(clearing(&run(&looks(23.0), ends)), Some(ExpiryStyle::Jittered));
    }

    #[test]
    fn without_a_death_nothing_is_told() {
        assert_eq!(clearing(&run(&looks(21.5), |_| 1e6)), None);
    }
}
