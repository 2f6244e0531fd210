//! What a session notes of IPv6.

use super::Session;
use crate::observation::ipv6::Ipv6Log;

impl Session {
    /// Enters what was observed, and wakes whoever waits.
    pub(crate) fn note_ipv6(&self, change: impl FnOnce(&mut Ipv6Log)) {
        change(&mut self.lock().log.ipv6);
        self.changed.notify_waiters();
    }

    /// Whether the system chooses the local address.
    pub(crate) fn is_address_free(&self) -> bool {
        self.bind.ip().is_unspecified()
    }
}
