//! What all threads of a server share: the settings that a reload may replace, the buckets, the clock, the signal
//! to stop.

#[cfg(target_os = "linux")]
use std::io::{PipeReader, PipeWriter};
use std::{
    io,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::{
    config::Streams,
    counters::{Counters, Snapshot},
    http::{HttpOptions, Page},
    last_heard::LastHeard,
    limits::{Buckets, Egress, Limits},
    self_check::SelfCheck,
    topology::Topology,
};

/// The settings that hold now; a reload puts another one in its place.
#[derive(Clone, Debug)]
pub(crate) struct Current {
    /// Over UDP and TCP, one a family.
    pub topologies: Vec<Topology>,
    /// Over TLS, one a family; empty if TLS is off.
    pub tls: Vec<Topology>,
    pub limits: Limits,
    pub streams: Streams,
    pub http: Arc<HttpOptions>,
    /// Of the page for browsers, one a family; empty without it.
    pub page_topologies: Vec<Topology>,
    pub page: Option<Arc<Page>>,
}

/// One for each server.
pub(crate) struct Shared {
    current: Mutex<Arc<Current>>,
    generation: AtomicU64,
    stopping: AtomicBool,
    #[cfg(target_os = "linux")]
    wake: PipeReader,
    #[cfg(target_os = "linux")]
    sleep: Mutex<Option<PipeWriter>>,
    /// With the position of the family in the settings.
    counters: Mutex<Vec<(usize, Arc<Counters>)>>,
    lost_log_lines: OnceLock<Arc<AtomicU64>>,
    pub clock: Clock,
    pub self_check: SelfCheck,
    /// When the first certificate of the chain ends, in seconds since 1970; 0 without TLS.
    certificate_ends: AtomicU64,
    serves_tcp: AtomicBool,
    /// Configured addresses that this host does not have now.
    missing: Mutex<Vec<IpAddr>>,
    pub egress: Egress,
    /// One a family.
    pub last_heard: Vec<LastHeard>,
    /// One a family.
    pub buckets: Vec<Buckets>,
    /// One a family, for what comes over connections: their sources are proven, and whoever forges those of datagrams
    /// must not use up the share of anybody's connections.
    pub stream_buckets: Vec<Buckets>,
}

impl Shared {
    /// The seed is unknown to strangers; `unused` is the operator's word on the time before the start.
    pub(crate) fn new(current: Current, seed: u64, unused: bool) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        let (wake, sleep) = io::pipe()?;
        let families = current.topologies.len() as u64;
        let mut buckets: Vec<_> = (0..2 * families).map(|i| Buckets::new(seed.wrapping_add(i))).collect();
        let stream_buckets = buckets.split_off(current.topologies.len());
        Ok(Self {
            current: Mutex::new(Arc::new(current)),
            generation: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
            #[cfg(target_os = "linux")]
            wake,
            #[cfg(target_os = "linux")]
            sleep: Mutex::new(Some(sleep)),
            counters: Mutex::default(),
            lost_log_lines: OnceLock::new(),
            clock: Clock::new(),
            self_check: SelfCheck::default(),
            certificate_ends: AtomicU64::new(0),
            serves_tcp: AtomicBool::new(false),
            missing: Mutex::default(),
            egress: Egress::default(),
            last_heard: (0..families).map(|i| LastHeard::new(seed.rotate_left(17) ^ i, unused)).collect(),
            buckets,
            stream_buckets,
        })
    }

    pub(crate) fn current(&self) -> Arc<Current> {
        Arc::clone(&lock(&self.current))
    }

    pub(crate) fn replace(&self, current: Current) {
        *lock(&self.current) = Arc::new(current);
        self.generation.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        // Closing one end wakes all who wait for the other; workers without batches look by themselves.
        #[cfg(target_os = "linux")]
        lock(&self.sleep).take();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Becomes readable when the server is to stop.
    #[cfg(target_os = "linux")]
    pub(crate) const fn wake(&self) -> &PipeReader {
        &self.wake
    }

    /// A new set of counters, for one writer that serves this family.
    pub(crate) fn new_counters(&self, family: usize) -> Arc<Counters> {
        let counters = Arc::default();
        lock(&self.counters).push((family, Arc::clone(&counters)));
        counters
    }

    /// The sum over all workers.
    pub(crate) fn count(&self) -> Snapshot {
        Counters::sum(lock(&self.counters).iter().map(|(_, counters)| counters.as_ref()))
    }

    /// The sum over the workers of each family, in the order of the settings.
    pub(crate) fn count_families(&self) -> Vec<Snapshot> {
        let all = lock(&self.counters);
        let of = |family| all.iter().filter(move |(its, _)| *its == family).map(|(_, set)| set.as_ref());
        (0..self.buckets.len()).map(|family| Counters::sum(of(family))).collect()
    }

    /// From now on the lines that a log loses are known.
    pub(crate) fn observe_log(&self, lost: Arc<AtomicU64>) {
        // A server has one log; a second one is nobody's.
        _ = self.lost_log_lines.set(lost);
    }

    /// Log lines that could not be written.
    pub(crate) fn lost_log_lines(&self) -> u64 {
        self.lost_log_lines.get().map_or(0, |lost| lost.load(Ordering::Relaxed))
    }

    pub(crate) fn set_serves_tcp(&self, serves: bool) {
        self.serves_tcp.store(serves, Ordering::Relaxed);
    }

    pub(crate) fn serves_tcp(&self) -> bool {
        self.serves_tcp.load(Ordering::Relaxed)
    }

    pub(crate) fn set_missing(&self, missing: Vec<IpAddr>) {
        *lock(&self.missing) = missing;
    }

    pub(crate) fn missing(&self) -> Vec<IpAddr> {
        lock(&self.missing).clone()
    }

    pub(crate) fn set_certificate_end(&self, seconds: u64) {
        self.certificate_ends.store(seconds, Ordering::Relaxed);
    }

    /// Seconds until the certificate ends, none or negative when it has; `None` without TLS.
    pub(crate) fn certificate_seconds(&self) -> Option<i64> {
        match self.certificate_ends.load(Ordering::Relaxed) {
            0 => None,
            end => Some((end as i64).saturating_sub(Clock::unix() as i64)),
        }
    }

    /// Signs of life so far, of each thread.
    pub(crate) fn beats(&self) -> Vec<u64> {
        lock(&self.counters).iter().map(|(_, counters)| counters.beats()).collect()
    }
}

/// Nothing panics while one of these locks is held, and what it guards is whole in any case.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker's own hold on the settings: looks at one counter a batch and takes the lock only after a reload.
pub(crate) struct Held {
    generation: u64,
    current: Arc<Current>,
}

impl Held {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { generation: shared.generation.load(Ordering::Acquire), current: shared.current() }
    }

    pub(crate) fn get(&mut self, shared: &Shared) -> &Current {
        let generation = shared.generation.load(Ordering::Acquire);
        if generation != self.generation {
            *self = Self { generation, current: shared.current() };
        }
        &self.current
    }
}

/// Nanoseconds since the server began.
pub(crate) struct Clock(Instant);

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "the server's one reading of the clock")]
    pub(crate) fn new() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }

    /// Seconds since 1970, by the system's idea of the date.
    #[expect(clippy::disallowed_methods, reason = "certificates end on a date")]
    pub(crate) fn unix() -> u64 {
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }
}
