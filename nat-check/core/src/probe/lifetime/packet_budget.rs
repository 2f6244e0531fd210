//! How many packets may leave when: one token bucket for everything that the measurement sends. Pure.
//!
//! Every request of this measurement counts: those that set up mappings, refresh them or check them, and controls, of
//! both timers together. As many mappings are set up at the start, a burst is allowed, and little more in the first
//! seconds; what is saved in a quiet time is good for another burst as large. A run whose average would be too high at its
//! end ends a little later.

use std::time::Duration;

use super::constants::{AVERAGE, DEPTH, FIRST_RATE, FIRST_SECONDS, LATER_RATE, ROUNDING, START};

/// The bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct PacketBudget {
    begun: Duration,
    tokens: f64,
    spent: usize,
    at: Duration,
}

impl PacketBudget {
    /// A budget for a measurement that begins now.
    pub(super) fn new(now: Duration) -> Self {
        Self { begun: now, tokens: START, spent: 0, at: now }
    }

    /// How many packets may leave now.
    pub(super) fn available(&mut self, now: Duration) -> usize {
        let saved = self.earned(now) - self.earned(self.at);
        self.tokens = (self.tokens + saved).min(DEPTH);
        self.at = self.at.max(now);
        self.tokens.max(0.0) as usize
    }

    /// Counts packets that leave.
    pub(super) fn spend(&mut self, packets: usize) {
        self.tokens -= packets as f64;
        self.spent += packets;
    }

    /// When so many packets may leave.
    pub(super) fn available_at(&self, packets: usize) -> Duration {
        let goal = self.earned(self.at) + (packets as f64 - self.tokens).max(0.0);
        let first = FIRST_RATE * FIRST_SECONDS.as_secs_f64();
        let after = if goal <= first {
            goal / FIRST_RATE
        } else {
            FIRST_SECONDS.as_secs_f64() + (goal - first) / LATER_RATE
        };
        self.begun + Duration::from_secs_f64(after) + ROUNDING
    }

    /// The earliest end at which the average is kept: only a run of few seconds may have to wait for it.
    pub(super) fn earliest_end(&self) -> Duration {
        self.begun + Duration::from_secs_f64(self.spent as f64 / AVERAGE)
    }

    /// Packets that were earned by then, besides those of the start.
    fn earned(&self, now: Duration) -> f64 {
        let since = now.saturating_sub(self.begun);
        FIRST_RATE * since.min(FIRST_SECONDS).as_secs_f64()
            + LATER_RATE * since.saturating_sub(FIRST_SECONDS).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_that_spends_everything_stays_below_ten_packets_a_second() {
        let mut budget = PacketBudget::new(Duration::ZERO);
        let mut sent = 0;
        for tick in 0..12_000 {
            let now = Duration::from_millis(tick * 10);
            let available = budget.available(now);
            budget.spend(available);
            sent += available;
            let limit = 10.0 * now.max(budget.earliest_end()).as_secs_f64();
            assert!(sent as f64 <= limit + 1e-6, "{sent} by {now:?}");
            assert!(
                now < Duration::from_secs(50) || sent as f64 <= 10.0 * now.as_secs_f64(),
                "{sent} by {now:?}"
            );
        }
        assert!(sent > 1180, "{sent}");
    }

    #[test]
    fn a_quiet_time_saves_for_one_burst_and_no_more() {
        let mut budget = PacketBudget::new(Duration::ZERO);
        budget.spend(60);
        assert_eq!(budget.available(Duration::from_secs(5)), 29);
        assert_eq!(budget.available(Duration::from_secs(300)), 75);
    }

    #[test]
    fn it_says_when_there_will_be_enough() {
        let mut budget = PacketBudget::new(Duration::from_secs(7));
        budget.spend(75);
        for packets in [3, 50, 40, 75, 12] {
            let at = budget.available_at(packets);
            assert_eq!(budget.available(at), packets);
            budget.spend(packets);
        }
    }
}
