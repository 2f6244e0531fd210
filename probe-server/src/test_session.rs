//! Connects back to clients that ask for it, so that they can measure what their NATs do with connections from outside
//! (RFC 5382): the messages of [`shared::test_session`] over a WebSocket, beside the rendezvous.
//!
//! What may be sent where is decided by [`SessionTable`], which is pure: only ever to the address that the session's own
//! connection came from. Everything else here carries out what it allows.

mod connect_back;
mod echo;
mod hold;
mod hosts;
mod rules;
mod server_side;
mod service;
#[cfg(all(feature = "net", target_os = "linux"))]
mod system;
#[cfg(test)]
mod tests;
mod under_way;

pub use connect_back::{Attempt, Attempted, ByteStream, ConnectBack, HelperPorts, NoConnection, TracePort};
pub use hold::{HoldOrder, run as hold};
pub use rules::{Connect, Hold, Offer, Order, SessionTable, TestLimits, Trace};
pub use server_side::ServerSide;
pub use service::{Proof, TestSessions};
#[cfg(all(feature = "net", target_os = "linux"))]
pub(crate) use system::SystemSockets;

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TestCounts {
    /// Sessions begun.
    pub opened: u64,
    /// Clients refused, for whatever reason.
    pub refused: u64,
    /// Ports proven.
    pub proven: u64,
    /// Connects begun.
    pub connects: u64,
    /// Connections held.
    pub holds: u64,
    /// Traces made.
    pub traces: u64,
    /// Requests that were declined.
    pub declined: u64,
    /// Sessions there are now.
    pub sessions: u64,
}

impl TestCounts {
    /// Names and numbers of all events.
    #[must_use]
    pub fn events(&self) -> [(&'static str, u64); 7] {
        [
            ("opened", self.opened),
            ("refused", self.refused),
            ("proven", self.proven),
            ("connects", self.connects),
            ("holds", self.holds),
            ("traces", self.traces),
            ("declined", self.declined),
        ]
    }
}
