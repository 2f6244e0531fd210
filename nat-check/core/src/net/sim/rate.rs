//! What lets only so much through in a second: a narrow uplink, which makes packets wait, and a policer, which drops them.

use std::time::Duration;

/// Bytes that wait for a narrow uplink; more are dropped. At 64 kbit/s they take four seconds.
pub const UPLINK_QUEUE: usize = 32_768;

/// A narrow uplink with its queue.
#[derive(Debug)]
pub(super) struct Uplink {
    bytes_per_s: f64,
    /// When all that waits has left.
    free_at: Duration,
}

impl Uplink {
    pub(super) fn new(bits_per_s: u32) -> Self {
        Self { bytes_per_s: f64::from(bits_per_s.max(8)) / 8.0, free_at: Duration::ZERO }
    }

    /// Queues a packet and tells after how long it has left; none when the queue is full.
    pub(super) fn queue(&mut self, bytes: usize, now: Duration) -> Option<Duration> {
        let begins = self.free_at.max(now);
        if (begins - now).as_secs_f64() * self.bytes_per_s > UPLINK_QUEUE as f64 {
            return None;
        }
        self.free_at = begins + Duration::from_secs_f64(bytes as f64 / self.bytes_per_s);
        Some(self.free_at - now)
    }
}

/// A token bucket that drops what exceeds its rate.
#[derive(Debug)]
pub(super) struct Policer {
    per_s: f64,
    burst: f64,
    tokens: f64,
    last: Duration,
}

impl Policer {
    pub(super) fn new(per_s: f64, burst: f64) -> Self {
        Self { per_s, burst, tokens: burst, last: Duration::ZERO }
    }

    pub(super) fn passes(&mut self, now: Duration) -> bool {
        self.tokens = (self.tokens + self.per_s * (now - self.last).as_secs_f64()).min(self.burst);
        self.last = now;
        let passes = self.tokens >= 1.0;
        self.tokens -= if passes { 1.0 } else { 0.0 };
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_uplink_makes_packets_wait_for_one_another_and_drops_what_does_not_fit() {
        let mut uplink = Uplink::new(64_000);
        let waits: Vec<_> = (0..3).map(|_| uplink.queue(80, Duration::ZERO)).collect();
        assert_eq!(waits, [10, 20, 30].map(|ms| Some(Duration::from_millis(ms))));
        assert_eq!(uplink.queue(80, Duration::from_secs(1)), Some(Duration::from_millis(10)));
        assert!((0..1000).any(|_| uplink.queue(80, Duration::from_secs(1)).is_none()));
    }

    #[test]
    fn a_policer_passes_a_burst_and_then_its_rate() {
        let mut policer = Policer::new(20.0, 5.0);
        let passed = (0..1000).filter(|ms| policer.passes(Duration::from_millis(*ms))).count();
        assert!((24..=25).contains(&passed), "{passed}");
    }
}
