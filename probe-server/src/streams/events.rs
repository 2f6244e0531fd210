//! What can happen to a connection, and how often it has: one list for counters, report and metrics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A counter for each event.
#[derive(Debug)]
pub(super) struct EventCounters([AtomicU64; EVENTS]);

impl EventCounters {
    pub(super) fn count(&self, event: Event) {
        self.0[event as usize].fetch_add(1, Relaxed);
    }
}

impl Default for EventCounters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; EVENTS])
    }
}

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

        impl EventCounters {
            /// What has happened, with so many open connections.
            pub(super) fn counts(&self, open: u64) -> StreamCounts {
                StreamCounts {
                    $($field: self.0[Event::$variant as usize].load(Relaxed),)*
                    open,
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
