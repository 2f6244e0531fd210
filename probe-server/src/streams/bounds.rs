//! How many connections there are, in all and from one host, and what became of them.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

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
            /// Connections that are open now.
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
                    open: self.lock().values().map(|n| *n as u64).sum(),
                }
            }
        }
    };
}

events! {
    /// Connections that were taken.
    Accepted accepted "accepted";
    /// Connections closed at once, because there were too many in all.
    Full full "refused-full";
    /// Connections closed at once, because there were too many from one host.
    HostFull host_full "refused-host-full";
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
    /// Connections closed because a message came, or an answer was taken, too slowly.
    Slow slow "slow";
}

/// The open connections by host, and the counters.
#[derive(Debug)]
pub(crate) struct Bounds {
    hosts: Mutex<HashMap<u64, usize>>,
    events: [AtomicU64; EVENTS],
}

impl Default for Bounds {
    fn default() -> Self {
        Self { hosts: Mutex::default(), events: [const { AtomicU64::new(0) }; EVENTS] }
    }
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    bounds: Arc<Bounds>,
    host: u64,
}

impl Bounds {
    /// A seat for a connection, or none if there are too many.
    pub(crate) fn enter(bounds: &Arc<Self>, limits: &Streams, from: SocketAddr) -> Option<Seat> {
        let host = host(from.ip());
        let mut hosts = bounds.lock();
        let refused = if hosts.values().sum::<usize>() >= limits.most {
            Some(Event::Full)
        } else if hosts.get(&host).is_some_and(|n| *n >= limits.most_per_host) {
            Some(Event::HostFull)
        } else {
            None
        };
        bounds.count(refused.unwrap_or(Event::Accepted));
        if refused.is_some() {
            return None;
        }
        *hosts.entry(host).or_default() += 1;
        drop(hosts);
        Some(Seat { bounds: Arc::clone(bounds), host })
    }

    pub(crate) fn count(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Relaxed);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, usize>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut hosts = self.bounds.lock();
        if let Some(n) = hosts.get_mut(&self.host) {
            *n -= 1;
            if *n == 0 {
                hosts.remove(&self.host);
            }
        }
    }
}

/// One number for one host: an IPv4 address or an IPv6 /56, which is never below 2^32 for a global address.
fn host(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (1 << 63) | (ip.to_bits() >> 72) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_in_all_and_for_each_host() {
        let bounds = Arc::new(Bounds::default());
        let limits = Streams { most: 3, most_per_host: 2, ..Streams::default() };
        let enter = |ip: &str| Bounds::enter(&bounds, &limits, SocketAddr::new(ip.parse().unwrap(), 1));
        let first = enter("192.0.2.1").unwrap();
        let _second = enter("192.0.2.1").unwrap();
        assert!(enter("192.0.2.1").is_none(), "a third from the same host");
        let _third = enter("192.0.2.2").unwrap();
        assert!(enter("192.0.2.3").is_none(), "a fourth in all");
        drop(first);
        assert!(enter("192.0.2.3").is_some());
        let counts = bounds.counts();
        assert_eq!((counts.accepted, counts.full, counts.host_full, counts.open), (4, 1, 1, 2));
    }

    #[test]
    fn a_host_is_a_56_in_ipv6() {
        let ip = |text: &str| host(text.parse().unwrap());
        assert_eq!(ip("2001:db8:0:1::1"), ip("2001:db8:0:2::2"));
        assert_ne!(ip("2001:db8:0:100::1"), ip("2001:db8:0:200::1"));
        assert_ne!(ip("::"), ip("0.0.0.0"));
    }
}
