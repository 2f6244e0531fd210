//! How mappings expire: each by one exact timer, all that are due together at intervals (swept), or each after a further
//! random time (jittered). Pure.
//!
//! Every mapping that was checked says "used then, checked then, it was alive" or "so many checks were unanswered". The
//! three models are weighed by how probable they make all of it, each averaged over its parameters, so that a model that
//! could fit anything gains little by fitting:
//!
//! * exact: expired at w if used last before w - L;
//! * swept: expired at w if used last before z - L, where z is the last multiple of the interval before w, counted from
//!   an unknown phase;
//! * jittered: each mapping lives for L and up to J longer, all values in between being equally likely.
//!
//! A model that is so many times as probable as the others together is reported as likely, or as sure; else it stays open.

use shared::nat::{ExpiryStyle, Granularity};

use super::{
    bracket::Sample,
    constants::{
        FINEST, FINEST_SHARE, JITTERED_LIFETIMES_APART, JITTERED_LIFETIMES_BEYOND, JITTERED_LIFETIMES_RANGES,
        JITTERS, LIKELY, LONGEST_LIFETIME, PRECISE, PRECISE_SHARE, PRECISE_WEIGHT, SURE, SWEEP_PHASES_APART,
        SWEEPS,
    },
};

/// How mappings expire, from the samples of each timer; `None` when that is not clear. `loss` is the share of checks that
/// get lost.
pub(super) fn granularity(timers: &[&[Sample]], loss: f64) -> Option<Granularity> {
    weighed(timers, loss).map(|(granularity, _)| granularity)
}

/// Whether it is certain how mappings expire, and the interval or range known to about a tenth.
pub(super) fn is_settled(timers: &[&[Sample]], loss: f64) -> bool {
    weighed(timers, loss).is_some_and(|(granularity, precise)| granularity.sure && precise)
}

fn weighed(timers: &[&[Sample]], loss: f64) -> Option<(Granularity, bool)> {
    let timers: Vec<Vec<Check>> = timers
        .iter()
        .filter(|samples| samples.iter().any(|s| !s.alive))
        .map(|samples| samples.iter().map(|s| Check::of(s, loss)).collect())
        .collect();
    let survived = timers.iter().filter_map(|checks| longest_survived(checks)).reduce(f64::min)?;
    let finest = (FINEST_SHARE * survived).max(FINEST);
    let exact: f64 = timers.iter().map(|checks| timer_evidence(checks, |at| at, 0.0)).product();
    let swept = swept(&timers);
    let jittered = jittered(&timers);
    let average = |list: &[(f64, f64)], from: f64| {
        let evidence = list.iter().filter(|(size, _)| *size >= from).map(|(_, evidence)| evidence);
        evidence.sum::<f64>() / list.len().max(1) as f64
    };
    let (any_sweep, any_jitter) = (average(&swept, 0.0), average(&jittered, 0.0));
    let report = |style, seconds, others: f64, own: f64| {
        (own > others * LIKELY).then_some(Granularity { style, seconds, sure: own > others * SURE })
    };
    let (interval, precise) = mean(&swept);
    let (range, _) = mean(&jittered);
    // Sweeps and jitter too short to matter do not count against an exact timer.
    let others = average(&swept, finest) + average(&jittered, finest);
    let of_exact = report(ExpiryStyle::Exact, 0.0, others, exact);
    let of_sweeps =
        || report(ExpiryStyle::Swept, interval, exact + any_jitter, any_sweep).map(|g| (g, precise));
    let of_jitter = || report(ExpiryStyle::Jittered, range, exact + any_sweep, any_jitter).map(|g| (g, true));
    of_exact.map(|g| (g, true)).or_else(of_sweeps).or_else(of_jitter)
}

/// One checked mapping; times in seconds.
#[derive(Clone, Copy, Debug)]
struct Check {
    /// When the mapping was used last, at the latest if it was alive, at the earliest if not.
    used: f64,
    /// When it was checked, at the earliest if it was alive, at the latest if not.
    checked: f64,
    /// The chance that it stayed silent though it was alive; none if it answered.
    missed: Option<f64>,
}

impl Check {
    fn of(sample: &Sample, loss: f64) -> Self {
        let (used, checked) = (sample.used, sample.checked);
        if sample.alive {
            let (used, checked) = (used.latest.as_secs_f64(), checked.earliest.as_secs_f64());
            Self { used, checked, missed: None }
        } else {
            let (used, checked) = (used.earliest.as_secs_f64(), checked.latest.as_secs_f64());
            let missed = Some(loss.powi(i32::try_from(sample.unanswered).unwrap_or(i32::MAX)));
            Self { used, checked, missed }
        }
    }
}

fn longest_survived(checks: &[Check]) -> Option<f64> {
    checks.iter().filter(|c| c.missed.is_none()).map(|c| c.checked - c.used).reduce(f64::max)
}

/// The probability of all checks, summed over all values of one timer, if at time w everything has been removed that was
/// due at `removed(w)`; those times are known up to `slack`.
fn timer_evidence(checks: &[Check], removed: impl Fn(f64) -> f64, slack: f64) -> f64 {
    let mut least: f64 = 0.0;
    let mut silent: Vec<(f64, f64)> = Vec::new();
    for check in checks {
        let age = removed(check.checked) - check.used;
        match check.missed {
            None => least = least.max(age - slack),
            Some(missed) => silent.push((age + slack, missed)),
        }
    }
    // A timer above an age at which a mapping was silent means that the checks of it were lost.
    silent.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut at, mut chance, mut sum) = (least, 1.0, 0.0);
    for (age, missed) in silent {
        if age > at {
            sum += (age - at) * chance;
            at = age;
        }
        chance *= missed;
    }
    sum + (LONGEST_LIFETIME - at).max(0.0) * chance
}

/// For each interval of sweeps, how probable the checks are.
fn swept(timers: &[Vec<Check>]) -> Vec<(f64, f64)> {
    SWEEPS
        .into_iter()
        .flat_map(steps)
        .map(|interval| {
            let phases = (interval / SWEEP_PHASES_APART).ceil() as usize;
            let of_phase = |n: usize| {
                let phase = n as f64 * SWEEP_PHASES_APART;
                let removed = |at: f64| ((at - phase) / interval).floor() * interval + phase;
                let evidence =
                    timers.iter().map(|checks| timer_evidence(checks, removed, SWEEP_PHASES_APART / 2.0));
                evidence.product::<f64>()
            };
            (interval, (0..phases).map(of_phase).sum::<f64>() / phases as f64)
        })
        .collect()
}

/// For each range of jitter, how probable the checks are.
fn jittered(timers: &[Vec<Check>]) -> Vec<(f64, f64)> {
    steps(JITTERS)
        .map(|range| (range, timers.iter().map(|checks| of_range(checks, range)).product()))
        .collect()
}

fn of_range(checks: &[Check], range: f64) -> f64 {
    let longest = longest_survived(checks).unwrap_or_default();
    let (from, to) =
        ((longest - range).max(0.0), longest + JITTERED_LIFETIMES_RANGES * range + JITTERED_LIFETIMES_BEYOND);
    let steps = ((to - from) / JITTERED_LIFETIMES_APART) as usize;
    let chance = |lifetime: f64| -> f64 {
        let each = checks.iter().map(|check| {
            let alive = ((lifetime + range - (check.checked - check.used)) / range).clamp(0.0, 1.0);
            check.missed.map_or(alive, |missed| 1.0 - alive + alive * missed)
        });
        each.product()
    };
    let lifetimes = (0..=steps).map(|n| from + n as f64 * JITTERED_LIFETIMES_APART);
    lifetimes.map(|lifetime| chance(lifetime) * JITTERED_LIFETIMES_APART).sum()
}

fn steps((from, to, apart): (f64, f64, f64)) -> impl Iterator<Item = f64> {
    (0..=((to - from) / apart) as usize).map(move |n| from + n as f64 * apart)
}

/// The weighted mean of intervals or ranges, in tenths of seconds; and whether nearly all of the weight is near it.
fn mean(list: &[(f64, f64)]) -> (f64, bool) {
    // Of sizes that fit equally well, the smaller is the likelier.
    let list: Vec<_> = list.iter().map(|&(size, weight)| (size, weight / size)).collect();
    let all: f64 = list.iter().map(|(_, weight)| weight).sum();
    let mean = list.iter().map(|(size, weight)| size * weight).sum::<f64>() / all;
    let near = list.iter().filter(|&(size, _)| (size - mean).abs() <= (PRECISE_SHARE * mean).max(PRECISE));
    ((mean * 10.0).round() / 10.0, near.map(|(_, weight)| weight).sum::<f64>() > PRECISE_WEIGHT * all)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::probe::lifetime::observe::TimeRange;

    const LOSS: f64 = 0.01;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn sample(used: f64, checked: f64, alive: bool) -> Sample {
        let exactly = |t| TimeRange { earliest: at(t), latest: at(t) };
        let idle = at(checked - used);
        Sample { used: exactly(used), checked: exactly(checked), idle, alive, unanswered: 2 }
    }

    /// Mappings used and checked at these times, with a NAT that removes them when `expires` says.
    fn run(checks: &[(f64, f64)], expires: impl Fn(f64) -> f64) -> Vec<Sample> {
        checks.iter().map(|&(used, checked)| sample(used, checked, checked < expires(used))).collect()
    }

    /// Checkpoints until one is silent, fine probes in that instant, and more of them one after another later.
    fn checks(silent_at: f64) -> Vec<(f64, f64)> {
        let checkpoints =
            (2..10).map(|n| (0.1 * f64::from(n), 3.0 * f64::from(n))).filter(|c| c.1 < silent_at);
        let fine = (0..8).map(|n| (0.3 + 0.7 * f64::from(n), silent_at));
        let later = (8..20).map(|n| (0.3 + 0.7 * f64::from(n), silent_at + 1.1 * f64::from(n - 6)));
        checkpoints.chain(fine).chain(later).collect()
    }

    fn style(samples: &[Sample]) -> Option<ExpiryStyle> {
        granularity(&[samples], LOSS).map(|g| g.style)
    }

    #[test]
    fn an_exact_timer_is_recognised() {
        assert_eq!(style(&run(&checks(21.5), |used| used + 20.0)), Some(ExpiryStyle::Exact));
    }

    #[test]
    fn checks_in_a_single_instant_do_not_distinguish_exact_from_swept() {
        let fine: Vec<_> = (0..8).map(|n| (0.3 + 0.7 * f64::from(n), 21.5)).collect();
        assert_eq!(style(&run(&fine, |used| used + 20.0)), None);
    }

    #[test]
    fn sweeps_show_by_removing_together_what_was_opened_apart() {
        for interval in [5.0, 8.0, 10.0] {
            let expires = |used: f64| ((used + 20.0) / interval).ceil() * interval;
            let unreplied = checks(expires(0.3) + 1.0);
            let stream: Vec<_> =
                unreplied.iter().map(|(used, checked)| (used + 0.4, checked + 2.2)).collect();
            let timers = [run(&unreplied, expires), run(&stream, expires)];
            let found = granularity(&[&timers[0], &timers[1]], LOSS).unwrap();
            assert_eq!(found.style, ExpiryStyle::Swept, "{interval}");
            assert!((found.seconds - interval).abs() <= 1.5, "{interval}: {found:?}");
        }
    }

    #[test]
    fn jitter_shows_by_removing_the_younger_before_the_older() {
        let expires = |used: f64| used + 20.0 + (used * 7919.0).sin().abs() * 6.0;
        assert_eq!(style(&run(&checks(23.0), expires)), Some(ExpiryStyle::Jittered));
    }

    #[test]
    fn without_an_expired_mapping_nothing_is_reported() {
        assert_eq!(style(&run(&checks(21.5), |_| 1e6)), None);
    }
}
