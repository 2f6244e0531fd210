//! How fast packets may leave: one token bucket for everything that the measurement sends. Pure.
//!
//! What counts is every request of the run from the first of this measurement on: what makes mappings, what keeps them,
//! looks, and controls, of all timers together. Their average is to be ten a second at most. As many mappings have to be
//! made at the start, a burst of 75 is allowed, and little more in the first ten seconds; later 9.9 a second may leave, and
//! what is saved in a quiet time is good for another burst of as many. A run that would end with a higher average ends a
//! little later.

use std::time::Duration;

/// Packets that may leave at the very start.
const START: f64 = 75.0;
/// Packets a second for the first seconds, and later.
const RATES: (f64, f64) = (2.9, 9.9);
const FIRST: Duration = Duration::from_secs(10);
/// Packets that may leave at once after a quiet time.
const DEPTH: f64 = 75.0;
/// A run is to have no more packets a second on average.
const AVERAGE: f64 = 10.0;

/// The bucket.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    begun: Duration,
    tokens: f64,
    spent: usize,
    at: Duration,
}

impl Pace {
    /// A bucket for a measurement that begins now.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self { begun: now, tokens: START, spent: 0, at: now }
    }

    /// How many packets may leave now.
    #[must_use]
    pub fn ready(&mut self, now: Duration) -> usize {
        let saved = self.earned(now) - self.earned(self.at);
        self.tokens = (self.tokens + saved).min(DEPTH);
        self.at = self.at.max(now);
        self.tokens.max(0.0) as usize
    }

    /// Counts packets that leave.
    pub fn spend(&mut self, packets: usize) {
        self.tokens -= packets as f64;
        self.spent += packets;
    }

    /// When so many packets may leave.
    #[must_use]
    pub fn when(&self, packets: usize) -> Duration {
        let goal = self.earned(self.at) + (packets as f64 - self.tokens).max(0.0);
        let in_first = RATES.0 * FIRST.as_secs_f64();
        let after = match goal <= in_first {
            true => goal / RATES.0,
            false => FIRST.as_secs_f64() + (goal - in_first) / RATES.1,
        };
        // A hair later, so that rounding does not leave it just short.
        self.begun + Duration::from_secs_f64(after) + Duration::from_micros(10)
    }

    /// The earliest end at which the average is kept: only a run of few seconds may have to wait for it.
    #[must_use]
    pub fn earliest_end(&self) -> Duration {
        self.begun + Duration::from_secs_f64(self.spent as f64 / AVERAGE)
    }

    /// Packets that were earned by then, besides those of the start.
    fn earned(&self, now: Duration) -> f64 {
        let since = now.saturating_sub(self.begun);
        RATES.0 * since.min(FIRST).as_secs_f64() + RATES.1 * since.saturating_sub(FIRST).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_takes_all_there_is_stays_below_ten_a_second() {
        let mut pace = Pace::new(Duration::ZERO);
        let mut sent = 0;
        for tick in 0..12_000 {
            let now = Duration::from_millis(tick * 10);
            let ready = pace.ready(now);
            pace.spend(ready);
            sent += ready;
            let limit = 10.0 * now.max(pace.earliest_end()).as_secs_f64();
            assert!(sent as f64 <= limit + 1e-6, "{sent} by {now:?}");
            assert!(
                now < Duration::from_secs(50) || sent as f64 <= 10.0 * now.as_secs_f64(),
                "{sent} by {now:?}"
            );
        }
        assert!(sent > 1180, "{sent}");
    }

    #[test]
    fn a_quiet_time_saves_for_a_burst_but_not_for_ever() {
        let mut pace = Pace::new(Duration::ZERO);
        pace.spend(60);
        assert_eq!(pace.ready(Duration::from_secs(5)), 29);
        assert_eq!(pace.ready(Duration::from_secs(300)), 75);
    }

    #[test]
    fn it_tells_when_there_will_be_enough() {
        let mut pace = Pace::new(Duration::from_secs(7));
        pace.spend(75);
        for packets in [3, 50, 40, 75, 12] {
            let when = pace.when(packets);
            assert_eq!(pace.ready(when), packets);
            pace.spend(packets);
        }
    }
}
