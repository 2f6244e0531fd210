//! How many connections there are, in all, from one host and from one network, and what became of them.
//!
//! When there are as many as there may be, one of whoever has most makes room for the next, as [`crate::admission`] has
//! it. TLS handshakes have bounds of their own: they are what costs the server most.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::task::AbortHandle;

use super::Transport;
use crate::{
    admission::{AdmissionTable, Refused, Shares},
    config::Streams,
};

macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident $field:ident $name:literal;)*) => {
        /// What can happen to a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Event {
            $($variant,)*
        }

        /// What has happened over TCP and TLS so far.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct StreamCounts {
            $($(#[$doc])* pub $field: u64,)*
            /// Connections that are open now, those of introductions included.
            pub open: u64,
        }

        impl StreamCounts {
            /// Names and numbers of all events.
            #[must_use]
            pub fn events(&self) -> Vec<(&'static str, u64)> {
                vec![$(($name, self.$field),)*]
            }
        }

        const EVENTS: usize = [$($name),*].len();

        impl ConnectionLimiter {
            pub(crate) fn counts(&self) -> StreamCounts {
                StreamCounts {
                    $($field: self.events[Event::$variant as usize].load(Relaxed),)*
                    open: self.lock().open(),
                }
            }
        }
    };
}

events! {
    /// Connections that were taken.
    Accepted accepted "accepted";
    /// Connections closed at once, because there may be none.
    Full full "refused-full";
    /// Connections closed at once, because there were too many from one host.
    HostFull host_full "refused-host-full";
    /// Connections closed at once, because too many came from one host or network lately.
    TooFast too_fast "refused-too-fast";
    /// Connections over TLS closed at once, because there were too many handshakes in a second.
    HandshakesTooFast handshakes_too_fast "refused-handshakes-too-fast";
    /// Connections closed to make room for others.
    Evicted evicted "evicted";
    /// Connections that could not be taken from the operating system.
    AcceptFailed accept_failed "accept-failed";
    /// TLS handshakes that failed.
    TlsFailed tls_failed "tls-failed";
    /// Requests answered with success.
    Success success "success";
    /// Requests answered with an error.
    Error error "error";
    /// Indications and the like: read and not answered.
    Ignored ignored "ignored";
    /// Connections closed for bytes that are no STUN.
    Broken broken "broken";
    /// Connections closed for asking too much.
    Limited limited "rate-limited";
    /// Connections closed for resting too long.
    Idle idle "idle";
    /// Connections closed because they had lasted long enough.
    Old old "old";
    /// Connections closed because a message came, or an answer was taken, too slowly.
    Slow slow "slow";
}

/// TLS handshakes at a time: honest ones are over after two round trips.
const MAX_HANDSHAKES: usize = 256;

/// The open connections, and the counters.
#[derive(Debug)]
pub(crate) struct ConnectionLimiter {
    table: Mutex<Table>,
    events: [AtomicU64; EVENTS],
}

#[derive(Debug, Default)]
struct Table {
    numbered: u64,
    connections: HashMap<u64, Connection>,
    admission: AdmissionTable,
    /// Those of them whose TLS handshake is not over.
    handshakes: AdmissionTable,
    /// When the handshakes so far have been had at their rate, in nanoseconds (GCRA).
    handshakes_had: u64,
    /// Connections whose number is bounded elsewhere.
    handed_over: usize,
}

#[derive(Debug)]
struct Connection {
    from: IpAddr,
    /// Ends it.
    task: Option<AbortHandle>,
}

impl Default for ConnectionLimiter {
    fn default() -> Self {
        Self { table: Mutex::default(), events: [const { AtomicU64::new(0) }; EVENTS] }
    }
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
    is_handed_over: bool,
}

/// Whose slot it is.
#[derive(Debug)]
pub(crate) struct SlotHandle {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
}

impl ConnectionLimiter {
    /// A slot for a connection, or none if there are too many.
    pub(super) fn enter(
        limiter: &Arc<Self>,
        limits: &Streams,
        transport: Transport,
        from: SocketAddr,
        now: u64,
    ) -> Option<ConnectionSlot> {
        let mut table = limiter.lock();
        let from = from.ip();
        let is_tls = transport == Transport::Tls;
        if let Err(event) = table.admit(limiter, limits, is_tls, from, now) {
            limiter.count(event);
            return None;
        }
        limiter.count(Event::Accepted);
        let number = table.insert(from, is_tls, now);
        drop(table);
        Some(ConnectionSlot { limiter: Arc::clone(limiter), number, is_handed_over: false })
    }

    pub(crate) fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotHandle {
    /// This task serves the connection from now on, and is to end when another connection needs the slot.
    pub(crate) fn set_task(&self, task: AbortHandle) {
        if let Some(connection) = self.limiter.lock().connections.get_mut(&self.number) {
            connection.task = Some(task);
        }
    }
}

impl ConnectionSlot {
    /// To tell who serves the connection after the slot has been handed over.
    pub(crate) fn handle(&self) -> SlotHandle {
        SlotHandle { limiter: Arc::clone(&self.limiter), number: self.number }
    }

    /// The TLS handshake is over.
    pub(crate) fn handshake_done(&self) {
        let mut table = self.limiter.lock();
        if let Some(from) = table.connections.get(&self.number).map(|connection| connection.from) {
            table.handshakes.remove(self.number, from);
        }
    }

    /// The connection has said something.
    pub(crate) fn touch(&self, now: u64) {
        let mut table = self.limiter.lock();
        if let Some(from) = table.connections.get(&self.number).map(|connection| connection.from) {
            table.admission.touch(self.number, from, now);
        }
    }

    /// From now on the number of such connections is bounded elsewhere.
    pub(crate) fn hand_over(&mut self) {
        let mut table = self.limiter.lock();
        table.remove(self.number);
        table.handed_over += 1;
        self.is_handed_over = true;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut table = self.limiter.lock();
        if self.is_handed_over {
            table.handed_over -= 1;
        } else {
            table.remove(self.number);
        }
    }
}

impl Table {
    /// Whether one more may come; those that have to go for it are ended.
    fn admit(
        &mut self,
        limiter: &ConnectionLimiter,
        limits: &Streams,
        is_tls: bool,
        from: IpAddr,
        now: u64,
    ) -> Result<(), Event> {
        let shares = Shares { per_host: limits.most_per_host, per_network: limits.most_per_net };
        if is_tls {
            self.take_handshake(limits.handshake_rate, now)?;
            let is_full = self.handshakes.len() >= MAX_HANDSHAKES;
            let victim = self.handshakes.admit(from, shares, is_full, now).map_err(event)?;
            self.evict(limiter, victim);
        }
        let is_full = self.connections.len() >= limits.most;
        let victim = self.admission.admit(from, shares, is_full, now).map_err(event)?;
        self.evict(limiter, victim);
        Ok(())
    }

    /// One TLS handshake of those that there may be in a second, or in a burst as large.
    fn take_handshake(&mut self, rate: u32, now: u64) -> Result<(), Event> {
        const SECOND: u64 = 1_000_000_000;
        let Some(interval) = SECOND.checked_div(rate.into()) else { return Ok(()) };
        let had = self.handshakes_had.max(now) + interval;
        if had > now + SECOND {
            return Err(Event::HandshakesTooFast);
        }
        self.handshakes_had = had;
        Ok(())
    }

    fn evict(&mut self, limiter: &ConnectionLimiter, number: Option<u64>) {
        let Some(connection) = number.and_then(|number| self.remove(number)) else { return };
        limiter.count(Event::Evicted);
        connection.task.iter().for_each(AbortHandle::abort);
    }

    fn insert(&mut self, from: IpAddr, is_tls: bool, now: u64) -> u64 {
        self.numbered += 1;
        self.connections.insert(self.numbered, Connection { from, task: None });
        self.admission.insert(self.numbered, from, now);
        if is_tls {
            self.handshakes.insert(self.numbered, from, now);
        }
        self.numbered
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        self.admission.remove(number, connection.from);
        self.handshakes.remove(number, connection.from);
        Some(connection)
    }

    fn open(&self) -> u64 {
        (self.connections.len() + self.handed_over) as u64
    }
}

fn event(refused: Refused) -> Event {
    match refused {
        Refused::HostFull => Event::HostFull,
        Refused::TooFast => Event::TooFast,
        Refused::NoRoom => Event::Full,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter_over(
        transport: Transport,
        limiter: &Arc<ConnectionLimiter>,
        limits: &Streams,
        ip: &str,
        now: u64,
    ) -> Option<ConnectionSlot> {
        ConnectionLimiter::enter(limiter, limits, transport, SocketAddr::new(ip.parse().unwrap(), 1), now)
    }

    fn enter(
        limiter: &Arc<ConnectionLimiter>,
        limits: &Streams,
        ip: &str,
        now: u64,
    ) -> Option<ConnectionSlot> {
        enter_over(Transport::Tcp, limiter, limits, ip, now)
    }

    #[test]
    fn slots_for_each_host_and_each_network() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let limits = Streams { most_per_host: 2, most_per_net: 3, ..Streams::default() };
        for (ips, other) in [
            (["192.0.2.1", "192.0.2.2", "192.0.2.3"], "192.0.3.1"),
            (["2001:db8::1", "2001:db8:0:100::1", "2001:db8:0:200::1"], "2001:db8:1::1"),
        ] {
            let first = enter(&limiter, &limits, ips[0], 0).unwrap();
            let second = enter(&limiter, &limits, ips[0], 0).unwrap();
            assert!(enter(&limiter, &limits, ips[0], 0).is_none(), "a third from the same host");
            let _third = enter(&limiter, &limits, ips[1], 0).unwrap();
            let before = limiter.counts();
            let _fourth = enter(&limiter, &limits, ips[2], 0).expect("the network makes room within itself");
            assert_eq!(limiter.counts().evicted, before.evicted + 1);
            let _fifth = enter(&limiter, &limits, other, 0).unwrap();
            assert_eq!(limiter.counts().open, 4, "the others stay");
            drop((first, second));
        }
        let counts = limiter.counts();
        assert_eq!((counts.accepted, counts.host_full, counts.evicted), (10, 2, 2));
        assert_eq!(counts.open, 0);
        let table = limiter.lock();
        assert_eq!((table.admission.len(), table.handshakes.len()), (0, 0));
    }

    #[tokio::test]
    async fn whoever_takes_all_places_loses_one_to_each_stranger() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let limits = Streams { most: 40, most_per_net: 40, ..Streams::default() };
        let hold = |ip: &str, now| {
            let slot = enter(&limiter, &limits, ip, now).unwrap();
            let task = tokio::spawn(std::future::pending::<()>());
            slot.handle().set_task(task.abort_handle());
            (slot, task)
        };
        let mut hoarded: Vec<_> = (0..40).map(|i| hold(&format!("192.0.2.{}", i / 4), i)).collect();
        hoarded[0].0.touch(50);
        let strangers: Vec<_> = (0..20).map(|i| hold(&format!("198.51.{i}.1"), 60 + i)).collect();
        for (i, (_, task)) in hoarded.iter_mut().enumerate() {
            // The two that were idle longest of each of the ten hosts, which have as many each.
            if matches!(i, 1..=2) || i >= 4 && i % 4 < 2 {
                assert!(task.await.unwrap_err().is_cancelled(), "{i}");
            } else {
                assert!(!task.is_finished(), "{i}");
            }
        }
        assert!(strangers.iter().all(|(_, task)| !task.is_finished()));
        assert_eq!((limiter.counts().evicted, limiter.counts().open), (20, 40));
        drop(hoarded);
        assert_eq!(limiter.counts().open, 20, "those that had to go are not counted twice");
        // Where all have as many, it is the longest idle one.
        let _more: Vec<_> = (20..41).map(|i| hold(&format!("198.51.{i}.1"), 100 + i)).collect();
        tokio::task::yield_now().await;
        let gone: Vec<_> = (0..20).filter(|i| strangers[*i].1.is_finished()).collect();
        assert_eq!(gone, [0]);
    }

    #[test]
    fn handshakes_are_few_at_a_time() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let limits =
            Streams { most_per_host: 1000, most_per_net: 1000, handshake_rate: 0, ..Streams::default() };
        let tls = |ip| enter_over(Transport::Tls, &limiter, &limits, ip, 0);
        let handshakes = || limiter.lock().handshakes.len();
        let begun: Vec<_> = (0..MAX_HANDSHAKES).map(|_| tls("192.0.2.1").unwrap()).collect();
        let stranger = tls("198.51.100.1").unwrap();
        assert_eq!((handshakes(), limiter.counts().evicted), (MAX_HANDSHAKES, 1));
        stranger.handshake_done();
        stranger.handshake_done();
        let _next = tls("198.51.100.2").unwrap();
        assert_eq!((handshakes(), limiter.counts().evicted), (MAX_HANDSHAKES, 1));
        enter(&limiter, &limits, "198.51.100.3", 0).unwrap();
        assert_eq!(limiter.counts().evicted, 1, "TCP needs none");
        drop((begun, stranger));
        assert_eq!(handshakes(), 1);
    }

    #[test]
    fn who_was_handed_over_is_open_and_takes_no_slot() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let limits = Streams { most_per_host: 1, ..Streams::default() };
        let mut first = enter(&limiter, &limits, "192.0.2.1", 0).unwrap();
        first.hand_over();
        let _second = enter(&limiter, &limits, "192.0.2.1", 0).unwrap();
        assert_eq!(limiter.counts().open, 2);
        drop(first);
        assert_eq!(limiter.counts().open, 1);
    }

    #[test]
    fn handshakes_are_few_a_second_over_all_networks() {
        let limiter = Arc::new(ConnectionLimiter::default());
        let limits = Streams { handshake_rate: 50, most: 10_000, ..Streams::default() };
        let mut slots = Vec::new();
        let mut handshakes = |now: u64, net: u32| {
            let from = |n: u32| std::net::Ipv4Addr::from_bits((net << 24) + (n << 8)).to_string();
            let enter = |n| enter_over(Transport::Tls, &limiter, &limits, &from(n), now);
            let taken: Vec<_> = (0..200).filter_map(enter).collect();
            let count = taken.len();
            slots.extend(taken);
            count
        };
        const SECOND: u64 = 1_000_000_000;
        assert_eq!(handshakes(SECOND, 20), 50);
        assert_eq!(handshakes(SECOND + SECOND / 2, 30), 25);
        assert_eq!(limiter.counts().handshakes_too_fast, 325);
        assert!(enter(&limiter, &limits, "192.0.2.1", SECOND).is_some(), "TCP needs none");
        let none = Streams { handshake_rate: 0, ..limits };
        assert!(enter_over(Transport::Tls, &limiter, &none, "192.0.2.1", SECOND).is_some(), "no limit");
    }
}
