//! What has happened, as numbers: one set a worker, written by it alone, added up when somebody asks.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{drop_reason::DropReason, respond::Outcome, topology::Endpoint};

/// The counters of one worker. Its cache lines are its own, so counting is as cheap as adding.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Counters {
    received: [AtomicU64; 4],
    outcomes: [AtomicU64; Outcome::ALL.len()],
    drops: [AtomicU64; DropReason::ALL.len()],
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    batches: AtomicU64,
    beats: AtomicU64,
}

/// The sum over all workers at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// Datagrams received, by the endpoint they came to; see [`Endpoint::index`].
    pub received: [u64; 4],
    /// Requests answered, by [`Outcome::index`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Datagrams dropped, by [`DropReason::index`].
    pub drops: [u64; DropReason::ALL.len()],
    /// UDP payload received.
    pub bytes_in: u64,
    /// UDP payload sent.
    pub bytes_out: u64,
    /// Receiving system calls that brought something.
    pub batches: u64,
}

impl Counters {
    pub(crate) fn received(&self, at: Endpoint, bytes: usize) {
        add(&self.received[at.index()], 1);
        add(&self.bytes_in, bytes as u64);
    }

    pub(crate) fn answered(&self, outcome: Outcome, bytes: usize) {
        add(&self.outcomes[outcome.index()], 1);
        add(&self.bytes_out, bytes as u64);
    }

    pub(crate) fn dropped(&self, reason: DropReason, times: u64) {
        add(&self.drops[reason.index()], times);
    }

    pub(crate) fn batch(&self) {
        add(&self.batches, 1);
    }

    /// A sign of life, wanted several times a second.
    pub(crate) fn beat(&self) {
        add(&self.beats, 1);
    }

    pub(crate) fn beats(&self) -> u64 {
        self.beats.load(Relaxed)
    }

    /// The sum of these sets.
    pub(crate) fn sum<'a>(sets: impl IntoIterator<Item = &'a Self>) -> Snapshot {
        let mut sum = Snapshot {
            received: [0; 4],
            outcomes: [0; Outcome::ALL.len()],
            drops: [0; DropReason::ALL.len()],
            bytes_in: 0,
            bytes_out: 0,
            batches: 0,
        };
        for set in sets {
            let lists = [
                (&mut sum.received[..], &set.received[..]),
                (&mut sum.outcomes[..], &set.outcomes[..]),
                (&mut sum.drops[..], &set.drops[..]),
            ];
            for (to, from) in lists {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += from.load(Relaxed));
            }
            sum.bytes_in += set.bytes_in.load(Relaxed);
            sum.bytes_out += set.bytes_out.load(Relaxed);
            sum.batches += set.batches.load(Relaxed);
        }
        sum
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            received: [const { AtomicU64::new(0) }; 4],
            outcomes: [const { AtomicU64::new(0) }; Outcome::ALL.len()],
            drops: [const { AtomicU64::new(0) }; DropReason::ALL.len()],
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            batches: AtomicU64::new(0),
            beats: AtomicU64::new(0),
        }
    }
}

impl Snapshot {
    /// Datagrams that were dropped for this reason.
    #[must_use]
    pub const fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }

    /// Requests that were answered like this.
    #[must_use]
    pub const fn answered(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome.index()]
    }
}

/// One writer only: no locked instruction is needed.
fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Relaxed) + n, Relaxed);
}
