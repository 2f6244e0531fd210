//! How fast a session sends. Paced by what comes back, as delay-based congestion control is (TCP Vegas, RFC 6817): where
//! answers come one after another, each some time after the one before, something on the way serves one request at a time,
//! and no more is kept waiting there than keeps it busy. A request that waits in such a queue is late, not lost.

use std::time::Duration;

use crate::observation::{ObservationLog, RequestKind, Transaction};

/// The queue that a session keeps at a bottleneck, in time.
const QUEUE: Duration = Duration::from_millis(300);
/// Requests that are always allowed to be under way: they keep a bottleneck busy.
const FEWEST: usize = 3;
/// Requests that may be under way while one answer only has come, and nothing is known of a bottleneck.
const UNKNOWN: usize = 8;
/// A bottleneck that takes so long for each request is slow.
const SLOW: Duration = Duration::from_millis(50);
/// Intervals below this are as good as none: jitter makes such.
const NOTICEABLE: Duration = Duration::from_millis(25);
/// So many of the latest intervals between answers tell how long one takes.
const LATEST: usize = 8;

/// What the answers so far tell of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Shortest round-trip time.
    base: Duration,
    /// How long the bottleneck takes for one request; none while too few answers have come.
    service: Option<Duration>,
    /// Requests that are under way, for all that is known.
    under_way: usize,
    /// When the last answer came.
    last_answer: Duration,
    /// When the last request left.
    last_sent: Duration,
}

impl Pace {
    /// Reads it off the log; none before the first answer.
    pub(super) fn of(log: &ObservationLog) -> Option<Self> {
        let mut times = Times::default();
        let base = log.quickest()?;
        let mut pace = Self {
            base,
            service: None,
            under_way: 0,
            last_answer: Duration::ZERO,
            last_sent: Duration::ZERO,
        };
        for transaction in log.transactions.iter().filter(|t| expects_answer(t)) {
            pace.last_sent = transaction.sent;
            match transaction.first_reaction() {
                Some(at) => {
                    times.answered(transaction.sent, at, base);
                    pace.last_answer = pace.last_answer.max(at);
                    // A queue keeps the order: what was sent before and is still not answered is lost.
                    pace.under_way = 0;
                }
                None => pace.under_way += 1,
            }
        }
        Some(Self { service: times.service(), ..pace })
    }

    /// When the last request left.
    pub(super) fn last_sent(&self) -> Duration {
        self.last_sent
    }

    /// When the next request may leave, at the earliest.
    pub(super) fn next(&self, now: Duration) -> Duration {
        if self.under_way < self.window() {
            return now;
        }
        // All of them may be lost: then one more shows it, by being answered.
        let patience = self.base / 2 + self.service.unwrap_or_default() * 2 + Duration::from_millis(50);
        self.last_sent.max(self.last_answer) + patience
    }

    /// How long after sending an answer would have been here, if `usual` is what the round-trip times tell: longer, by
    /// what is queued before it. Where that counts for more than the way, the queue alone tells.
    pub(super) fn response_timeout(&self, usual: Duration) -> Duration {
        let service = self.service.unwrap_or_default();
        let queued = service * u32::try_from(self.under_way).unwrap_or(u32::MAX);
        if self.is_slow() {
            self.base + queued + service * 2
        } else if self.has_queue() {
            usual + queued
        } else {
            usual
        }
    }

    /// Whether requests wait for one another.
    pub(super) fn has_queue(&self) -> bool {
        self.service.is_some_and(|service| service >= NOTICEABLE)
    }

    /// Whether each request takes so long that only what the verdict rests on should be asked.
    pub(super) fn is_slow(&self) -> bool {
        self.service.is_some_and(|service| service >= SLOW)
    }

    /// Requests that may be under way at the same time.
    fn window(&self) -> usize {
        match self.service {
            None => UNKNOWN,
            Some(service) if service < Duration::from_millis(1) => usize::MAX,
            Some(service) => {
                let drained = (self.base + QUEUE).as_secs_f64() / service.as_secs_f64();
                FEWEST.max(drained as usize)
            }
        }
    }
}

/// What never is answered by the server is no part of this.
fn expects_answer(transaction: &Transaction) -> bool {
    !transaction.unsent && !matches!(transaction.kind, RequestKind::Hairpin | RequestKind::LimitedTtl { .. })
}

/// Intervals between answers, in the order in which the requests were sent.
#[derive(Debug, Default)]
struct Times {
    last_answer: Option<Duration>,
    intervals: Vec<Duration>,
}

impl Times {
    fn answered(&mut self, sent: Duration, at: Duration, base: Duration) {
        if let Some(last) = self.last_answer
            && sent < last
        {
            let interval = at.saturating_sub(last);
            // It would have been answered before, had it not waited for the other one: then this is what one takes.
            // Otherwise it is only known to take no longer.
            let waited = sent + base <= last + Duration::from_millis(1);
            if waited || self.service().is_some_and(|service| interval < service) {
                self.intervals.push(interval);
            }
        }
        self.last_answer = self.last_answer.max(Some(at));
    }

    /// The median of the latest intervals: loss and overtaking falsify single ones.
    fn service(&self) -> Option<Duration> {
        let latest = self.intervals.len().saturating_sub(LATEST);
        let mut latest = self.intervals[latest..].to_vec();
        latest.sort_unstable();
        latest.get(latest.len() / 2).copied().filter(|_| latest.len() >= 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Purpose, SocketId, made};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Requests by when they were sent and answered, in milliseconds; 0 = not answered.
    fn pace(requests: &[(u64, u64)]) -> Pace {
        let mut log = made::log();
        for &(sent, answered) in requests {
            let server = log.server;
            let mut transaction =
                made::transaction(Purpose::main("any"), SocketId(0), server, RequestKind::Binding);
            transaction.sent = ms(sent);
            if answered > 0 {
                let mut answer = made::answer(SocketId(0), server, "203.0.113.1:5");
                answer.at = ms(answered);
                transaction.responses.push(answer);
            }
            log.transactions.push(transaction);
        }
        Pace::of(&log).unwrap()
    }

    #[test]
    fn a_server_of_one_thread_is_kept_busy_and_no_more() {
        let slow = pace(&[(0, 170), (0, 320), (0, 470), (0, 0), (0, 0), (0, 0)]);
        assert_eq!((slow.service, slow.under_way, slow.window()), (Some(ms(150)), 3, 3));
        assert!(slow.next(ms(470)) > ms(600), "the next answer is awaited");
        assert_eq!(slow.response_timeout(ms(0)), ms(170 + 5 * 150), "what is queued is late, not lost");
    }

    #[test]
    fn one_answer_to_a_burst_holds_the_next_one_back() {
        let first = pace(&[(0, 170), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)]);
        assert!(first.next(ms(170)) > ms(170));
    }

    #[test]
    fn a_long_way_without_a_queue_is_no_bottleneck() {
        let requests: Vec<_> = (0..60).map(|n| (n / 3 * 60, 700 + n / 3 * 60)).collect();
        let far = pace(&requests);
        assert_eq!((far.window(), far.response_timeout(ms(750))), (usize::MAX, ms(750)));
        // Single requests that follow one another are answered as they were sent.
        assert_eq!(pace(&[(0, 700), (100, 800), (200, 900), (300, 1000)]).service, None);
    }

    #[test]
    fn answers_that_overtake_one_another_are_no_queue() {
        let mixed = pace(&[
            (0, 130),
            (0, 70),
            (0, 90),
            (0, 125),
            (0, 60),
            (0, 80),
            (0, 110),
            (0, 64),
            (0, 100),
            (0, 66),
        ]);
        assert!(mixed.window() > 20, "{mixed:?}");
    }

    #[test]
    fn what_was_sent_before_an_answered_request_is_lost() {
        let lossy =
            pace(&[(0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0), (100, 120)]);
        assert_eq!((lossy.under_way, lossy.next(ms(120))), (0, ms(120)));
    }

    #[test]
    fn a_queue_that_is_gone_is_forgotten() {
        let mut requests: Vec<_> = (0..10).map(|n| (n, 170 + 150 * n)).collect();
        requests.extend((0..12).map(|n| (2000 + n / 3 * 50, 2020 + n / 3 * 50)));
        assert_eq!(pace(&requests).window(), usize::MAX);
    }
}
