//! A router's line to its provider: a token bucket and a queue for each direction (RFC 2697's terms), then loss and delay.

use std::{collections::VecDeque, time::Duration};

use nat_check_core::net::sim::{Arrivals, Line, PathSpec, Way};

/// A line, described.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LinkSpec {
    /// Delay, loss and the like.
    pub path: PathSpec,
    /// Rate of the way to the Internet; none = without limit.
    pub up: Option<Rate>,
    /// Rate of the way from it.
    pub down: Option<Rate>,
}

/// A rate and what waits for it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Bits a second.
    pub bits_per_s: u64,
    /// Bytes that may pass at once after a pause.
    pub burst: u32,
    /// What may wait; more is dropped.
    pub queue: Queue,
}

/// The size of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queue {
    /// In bytes.
    Bytes(u32),
    /// In packets.
    Packets(u32),
}

impl Rate {
    /// This rate with the bucket and queue of a usual access line: two large packets at once, 100 ms of waiting.
    #[must_use]
    pub fn new(bits_per_s: u64) -> Self {
        let tenth = u32::try_from(bits_per_s / 80).unwrap_or(u32::MAX).max(3000);
        Self { bits_per_s, burst: 3000, queue: Queue::Bytes(tenth) }
    }
}

impl LinkSpec {
    /// A line without delay, loss and limits.
    #[must_use]
    pub fn perfect() -> Self {
        PathSpec { delay: Duration::ZERO, ..PathSpec::default() }.into()
    }
}

impl From<PathSpec> for LinkSpec {
    fn from(path: PathSpec) -> Self {
        Self { path, up: None, down: None }
    }
}

/// What becomes of a packet on a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Arrives(Arrivals),
    Lost,
    QueueFull,
    LinkDown,
}

impl Fate {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Arrives(_) => "none",
            Self::Lost => "lost on the line",
            Self::QueueFull => "queue full",
            Self::LinkDown => "link down",
        }
    }
}

/// A line at work.
#[derive(Debug)]
pub(super) struct Link {
    spec: LinkSpec,
    line: Line,
    up: Option<Shaper>,
    down: Option<Shaper>,
}

impl Link {
    pub(super) fn new(spec: LinkSpec, seed: u64) -> Self {
        let shaper = |rate: Option<Rate>| rate.map(Shaper::new);
        Self { spec, line: Line::new(spec.path, seed), up: shaper(spec.up), down: shaper(spec.down) }
    }

    pub(super) fn spec(&self) -> LinkSpec {
        self.spec
    }

    pub(super) fn carry(&mut self, way: Way, bytes: usize, now: Duration) -> Fate {
        let shaper = match way {
            Way::Up => &mut self.up,
            Way::Down => &mut self.down,
        };
        let waits = match shaper {
            Some(shaper) => match shaper.queue(bytes, now) {
                Some(waits) => waits,
                None => return Fate::QueueFull,
            },
            None => Duration::ZERO,
        };
        match self.line.carry(way, bytes, now) {
            [None, None] => Fate::Lost,
            times => Fate::Arrives(times.map(|time| time.map(|time| time + waits))),
        }
    }
}

/// A token bucket with a queue before it.
#[derive(Debug)]
struct Shaper {
    rate: Rate,
    /// When the bucket will be full again, if nothing is sent.
    full_at: Duration,
    /// Packets that wait: when they leave, and their bytes.
    waiting: VecDeque<(Duration, usize)>,
    waiting_bytes: usize,
}

impl Shaper {
    fn new(rate: Rate) -> Self {
        Self { rate, full_at: Duration::ZERO, waiting: VecDeque::new(), waiting_bytes: 0 }
    }

    /// Queues a packet and tells after how long it leaves; none when the queue is full.
    fn queue(&mut self, bytes: usize, now: Duration) -> Option<Duration> {
        while let Some((leaves, bytes)) = self.waiting.front().copied().filter(|(leaves, _)| *leaves <= now) {
            debug_assert!(leaves <= now, "the front has left");
            self.waiting_bytes -= bytes;
            self.waiting.pop_front();
        }
        let full = match self.rate.queue {
            Queue::Bytes(limit) => self.waiting_bytes + bytes > limit as usize,
            Queue::Packets(limit) => self.waiting.len() >= limit as usize,
        };
        let filled = self.full_at.max(now) + self.time(bytes);
        let leaves = filled.saturating_sub(self.time(self.rate.burst as usize)).max(now);
        if full && leaves > now {
            return None;
        }
        self.full_at = filled;
        if leaves > now {
            self.waiting.push_back((leaves, bytes));
            self.waiting_bytes += bytes;
        }
        Some(leaves - now)
    }

    fn time(&self, bytes: usize) -> Duration {
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.rate.bits_per_s.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of so many packets of 1000 bytes, all sent at once, leave, and when the last one does.
    fn burst_of(packets: usize, rate: Rate) -> (usize, Duration) {
        let mut shaper = Shaper::new(rate);
        let leaves: Vec<_> = (0..packets).filter_map(|_| shaper.queue(1000, Duration::ZERO)).collect();
        (leaves.len(), leaves.last().copied().unwrap_or_default())
    }

    #[test]
    fn the_bucket_passes_its_burst_at_once_and_then_the_rate() {
        let rate = Rate { bits_per_s: 800_000, burst: 2000, queue: Queue::Packets(100) };
        assert_eq!(burst_of(2, rate), (2, Duration::ZERO));
        assert_eq!(burst_of(12, rate), (12, Duration::from_millis(100)));
    }

    #[test]
    fn queues_are_full_at_their_bytes_or_packets() {
        let rate = |queue| Rate { bits_per_s: 800_000, burst: 1000, queue };
        assert_eq!(burst_of(100, rate(Queue::Packets(10))).0, 11);
        assert_eq!(burst_of(100, rate(Queue::Bytes(5_500))).0, 6);
    }

    #[test]
    fn what_waited_makes_room_when_it_has_left() {
        let mut shaper = Shaper::new(Rate { bits_per_s: 800_000, burst: 1000, queue: Queue::Packets(1) });
        let sent = |shaper: &mut Shaper, ms| shaper.queue(1000, Duration::from_millis(ms));
        assert!(sent(&mut shaper, 0).is_some() && sent(&mut shaper, 0).is_some());
        assert_eq!(sent(&mut shaper, 0), None);
        assert!(sent(&mut shaper, 10).is_some());
    }
}
