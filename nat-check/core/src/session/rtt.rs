//! The round-trip time of a run, and how long to wait for an answer.

use std::time::Duration;

/// Round-trip time and its variation, smoothed as TCP does (RFC 6298).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rtt {
    /// Smoothed round-trip time.
    pub smoothed: Duration,
    /// Smoothed deviation.
    pub deviation: Duration,
    /// Longest so far.
    pub longest: Duration,
}

impl Rtt {
    pub(super) fn first(sample: Duration) -> Self {
        // One sample says nothing of the deviation; a tenth and a few milliseconds are a beginning.
        Self { smoothed: sample, deviation: sample / 10 + Duration::from_millis(2), longest: sample }
    }

    pub(super) fn next(self, sample: Duration) -> Self {
        let off = self.smoothed.abs_diff(sample);
        Self {
            smoothed: (self.smoothed * 7 + sample) / 8,
            deviation: (self.deviation * 3 + off) / 4,
            longest: self.longest.max(sample),
        }
    }

    /// How long to wait for an answer before calling it missing.
    #[must_use]
    pub fn response_timeout(&self) -> Duration {
        let usual = self.smoothed + self.deviation * 4;
        let seen = self.longest + self.longest / 8;
        usual.max(seen.min(self.smoothed * 3)) + Duration::from_millis(15)
    }
}
