//! How many connections there are, in all, from one host and from one network, and what became of them.
//!
//! When there are as many as there may be, the longest idle one of the largest network makes room for the next: whoever
//! takes all places loses one of them to each stranger.

use std::{
    cmp::Reverse,
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use tokio::task::AbortHandle;

use super::Transport;
use crate::config::Streams;

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

        impl Bounds {
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
    /// Connections closed at once, because there were too many from one network.
    NetFull net_full "refused-net-full";
    /// Connections closed at once, because too many came from one host or network lately.
    TooFast too_fast "refused-too-fast";
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
const GREETINGS: usize = 256;

/// The open connections, and the counters.
#[derive(Debug)]
pub(crate) struct Bounds {
    table: Mutex<Table>,
    events: [AtomicU64; EVENTS],
}

#[derive(Debug, Default)]
struct Table {
    numbered: u64,
    connections: HashMap<u64, Connection>,
    hosts: HashMap<u64, usize>,
    nets: HashMap<u64, usize>,
    greetings: usize,
    /// Those whose number is bounded elsewhere.
    settled: usize,
}

#[derive(Debug)]
struct Connection {
    host: u64,
    net: u64,
    /// When it last did something, in nanoseconds.
    active: u64,
    /// Whether its TLS handshake is not over.
    is_greeting: bool,
    /// Ends it.
    task: Option<AbortHandle>,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { table: Mutex::default(), events: [const { AtomicU64::new(0) }; EVENTS] }
    }
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    bounds: Arc<Bounds>,
    number: u64,
    is_settled: bool,
}

/// Whose seat it is.
#[derive(Debug)]
pub(crate) struct Holder {
    bounds: Arc<Bounds>,
    number: u64,
}

impl Bounds {
    /// A seat for a connection, or none if there are too many.
    pub(super) fn enter(
        bounds: &Arc<Self>,
        limits: &Streams,
        transport: Transport,
        from: SocketAddr,
        now: u64,
    ) -> Option<Seat> {
        let mut table = bounds.lock();
        let mut connection = Connection::new(from.ip(), now);
        connection.is_greeting = transport == Transport::Tls;
        let admitted = table.admit(limits, &connection);
        bounds.count(*admitted.as_ref().err().unwrap_or(&Event::Accepted));
        for task in admitted.ok()?.into_iter() {
            bounds.count(Event::Evicted);
            task.iter().for_each(AbortHandle::abort);
        }
        let number = table.insert(connection);
        drop(table);
        Some(Seat { bounds: Arc::clone(bounds), number, is_settled: false })
    }

    pub(crate) fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder {
    /// This task serves the connection from now on, and is to end when another connection needs the place.
    pub(crate) fn held_by(&self, task: AbortHandle) {
        if let Some(connection) = self.bounds.lock().connections.get_mut(&self.number) {
            connection.task = Some(task);
        }
    }
}

impl Seat {
    /// To tell who holds it after it has been handed over.
    pub(crate) fn holder(&self) -> Holder {
        Holder { bounds: Arc::clone(&self.bounds), number: self.number }
    }

    /// The TLS handshake is over.
    pub(crate) fn greeted(&self) {
        let mut table = self.bounds.lock();
        let was = table.connections.get_mut(&self.number).map(|c| std::mem::take(&mut c.is_greeting));
        table.greetings -= usize::from(was == Some(true));
    }

    /// The connection has said something.
    pub(crate) fn touch(&self, now: u64) {
        if let Some(connection) = self.bounds.lock().connections.get_mut(&self.number) {
            connection.active = now;
        }
    }

    /// From now on the number of such connections is bounded elsewhere.
    pub(crate) fn settle(&mut self) {
        let mut table = self.bounds.lock();
        table.remove(self.number);
        table.settled += 1;
        self.is_settled = true;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.bounds.lock();
        if self.is_settled {
            table.settled -= 1;
        } else {
            table.remove(self.number);
        }
    }
}

impl Connection {
    fn new(ip: IpAddr, active: u64) -> Self {
        Self { host: host(ip), net: net(ip), active, is_greeting: false, task: None }
    }
}

impl Table {
    /// Whether one more may come; the tasks of those that had to go for it.
    fn admit(&mut self, limits: &Streams, new: &Connection) -> Result<Vec<Option<AbortHandle>>, Event> {
        let of = |counts: &HashMap<u64, usize>, prefix| counts.get(&prefix).copied().unwrap_or_default();
        if of(&self.hosts, new.host) >= limits.most_per_host {
            return Err(Event::HostFull);
        }
        if of(&self.nets, new.net) >= limits.most_per_net {
            return Err(Event::NetFull);
        }
        let mut gone = Vec::new();
        if new.is_greeting && self.greetings >= GREETINGS {
            gone.extend(self.make_room(new.net, |c| c.is_greeting));
        }
        if self.connections.len() >= limits.most {
            gone.push(self.make_room(new.net, |_| true).ok_or(Event::Full)?);
        }
        Ok(gone)
    }

    /// Removes the longest idle connection of the network that would have most of these with a new one from `mine`.
    fn make_room(&mut self, mine: u64, of: impl Fn(&Connection) -> bool) -> Option<Option<AbortHandle>> {
        let mut nets: HashMap<u64, (usize, Reverse<u64>, u64)> = HashMap::new();
        for (number, connection) in self.connections.iter().filter(|(_, c)| of(c)) {
            let own = usize::from(connection.net == mine);
            let entry = nets.entry(connection.net).or_insert((own, Reverse(u64::MAX), 0));
            entry.0 += 1;
            if connection.active < entry.1.0 {
                (entry.1, entry.2) = (Reverse(connection.active), *number);
            }
        }
        let (_, _, number) = nets.into_values().max()?;
        self.remove(number).map(|connection| connection.task)
    }

    fn insert(&mut self, connection: Connection) -> u64 {
        *self.hosts.entry(connection.host).or_default() += 1;
        *self.nets.entry(connection.net).or_default() += 1;
        self.greetings += usize::from(connection.is_greeting);
        self.numbered += 1;
        self.connections.insert(self.numbered, connection);
        self.numbered
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        self.greetings -= usize::from(connection.is_greeting);
        for (counts, prefix) in [(&mut self.hosts, connection.host), (&mut self.nets, connection.net)] {
            if let Some(n) = counts.get_mut(&prefix) {
                *n -= 1;
                if *n == 0 {
                    counts.remove(&prefix);
                }
            }
        }
        Some(connection)
    }

    fn open(&self) -> u64 {
        (self.connections.len() + self.settled) as u64
    }
}

/// One number for one host: an IPv4 address or an IPv6 /56, which is never below 2^32 for a global address.
fn host(ip: IpAddr) -> u64 {
    prefix(ip, 32, 56)
}

/// One number for one network: an IPv4 /24 or an IPv6 /48.
fn net(ip: IpAddr) -> u64 {
    prefix(ip, 24, 48)
}

fn prefix(ip: IpAddr, v4: u32, v6: u32) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits() >> (32 - v4)),
        IpAddr::V6(ip) => (1 << 63) | (ip.to_bits() >> (128 - v6)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter_over(
        transport: Transport,
        bounds: &Arc<Bounds>,
        limits: &Streams,
        ip: &str,
        now: u64,
    ) -> Option<Seat> {
        Bounds::enter(bounds, limits, transport, SocketAddr::new(ip.parse().unwrap(), 1), now)
    }

    fn enter(bounds: &Arc<Bounds>, limits: &Streams, ip: &str, now: u64) -> Option<Seat> {
        enter_over(Transport::Tcp, bounds, limits, ip, now)
    }

    #[test]
    fn seats_for_each_host_and_each_network() {
        let bounds = Arc::new(Bounds::default());
        let limits = Streams { most_per_host: 2, most_per_net: 3, ..Streams::default() };
        for (ips, other) in [
            (["192.0.2.1", "192.0.2.2", "192.0.2.3"], "192.0.3.1"),
            (["2001:db8::1", "2001:db8:0:100::1", "2001:db8:0:200::1"], "2001:db8:1::1"),
        ] {
            let first = enter(&bounds, &limits, ips[0], 0).unwrap();
            let second = enter(&bounds, &limits, ips[0], 0).unwrap();
            assert!(enter(&bounds, &limits, ips[0], 0).is_none(), "a third from the same host");
            let _third = enter(&bounds, &limits, ips[1], 0).unwrap();
            assert!(enter(&bounds, &limits, ips[2], 0).is_none(), "a fourth from the same network");
            let _fourth = enter(&bounds, &limits, other, 0).unwrap();
            drop((first, second));
            assert!(enter(&bounds, &limits, ips[2], 0).is_some());
        }
        let counts = bounds.counts();
        assert_eq!((counts.accepted, counts.host_full, counts.net_full, counts.evicted), (10, 2, 2, 0));
        assert_eq!(counts.open, 0);
        let table = bounds.lock();
        assert!(table.hosts.is_empty() && table.nets.is_empty());
    }

    #[tokio::test]
    async fn whoever_takes_all_places_loses_one_to_each_stranger() {
        let bounds = Arc::new(Bounds::default());
        let limits = Streams { most: 40, most_per_net: 40, ..Streams::default() };
        let hold = |ip: &str, now| {
            let seat = enter(&bounds, &limits, ip, now).unwrap();
            let task = tokio::spawn(std::future::pending::<()>());
            seat.holder().held_by(task.abort_handle());
            (seat, task)
        };
        let mut hoarded: Vec<_> = (0..40).map(|i| hold(&format!("192.0.2.{}", i / 4), i)).collect();
        hoarded[0].0.touch(50);
        let strangers: Vec<_> = (0..20).map(|i| hold(&format!("198.51.{i}.1"), 60 + i)).collect();
        for (i, (_, task)) in hoarded.iter_mut().enumerate() {
            // The twenty that were idle longest: all up to the twenty-first, but not the first.
            if (1..=20).contains(&i) {
                assert!(task.await.unwrap_err().is_cancelled(), "{i}");
            } else {
                assert!(!task.is_finished(), "{i}");
            }
        }
        assert!(strangers.iter().all(|(_, task)| !task.is_finished()));
        assert_eq!((bounds.counts().evicted, bounds.counts().open), (20, 40));
        drop(hoarded);
        assert_eq!(bounds.counts().open, 20, "those that had to go are not counted twice");
        // Where all have as many, it is the longest idle one.
        let _more: Vec<_> = (20..41).map(|i| hold(&format!("198.51.{i}.1"), 100 + i)).collect();
        tokio::task::yield_now().await;
        let gone: Vec<_> = (0..20).filter(|i| strangers[*i].1.is_finished()).collect();
        assert_eq!(gone, [0]);
    }

    #[test]
    fn handshakes_are_few_at_a_time() {
        let bounds = Arc::new(Bounds::default());
        let limits = Streams { most_per_host: 1000, most_per_net: 1000, ..Streams::default() };
        let tls = |ip| enter_over(Transport::Tls, &bounds, &limits, ip, 0);
        let greetings = || bounds.lock().greetings;
        let begun: Vec<_> = (0..GREETINGS).map(|_| tls("192.0.2.1").unwrap()).collect();
        let stranger = tls("198.51.100.1").unwrap();
        assert_eq!((greetings(), bounds.counts().evicted), (GREETINGS, 1));
        stranger.greeted();
        stranger.greeted();
        let _next = tls("198.51.100.2").unwrap();
        assert_eq!((greetings(), bounds.counts().evicted), (GREETINGS, 1));
        enter(&bounds, &limits, "198.51.100.3", 0).unwrap();
        assert_eq!(bounds.counts().evicted, 1, "TCP needs none");
        drop((begun, stranger));
        assert_eq!(greetings(), 1);
    }

    #[test]
    fn who_has_settled_is_open_and_takes_no_place() {
        let bounds = Arc::new(Bounds::default());
        let limits = Streams { most_per_host: 1, ..Streams::default() };
        let mut first = enter(&bounds, &limits, "192.0.2.1", 0).unwrap();
        first.settle();
        let _second = enter(&bounds, &limits, "192.0.2.1", 0).unwrap();
        assert_eq!(bounds.counts().open, 2);
        drop(first);
        assert_eq!(bounds.counts().open, 1);
    }

    #[test]
    fn a_host_is_a_56_in_ipv6() {
        let ip = |text: &str| host(text.parse().unwrap());
        assert_eq!(ip("2001:db8:0:1::1"), ip("2001:db8:0:2::2"));
        assert_ne!(ip("2001:db8:0:100::1"), ip("2001:db8:0:200::1"));
        assert_ne!(ip("::"), ip("0.0.0.0"));
    }
}
