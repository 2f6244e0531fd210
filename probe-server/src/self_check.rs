//! Which socket the running self-check asks from: the one source that neither limits nor caps hold for, and that is
//! charged to nobody.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::topology::Topology;

/// Marks a port as registered, as port 0 may not be told from none.
const REGISTERED: u32 = 1 << 16;

/// One for each server; one check at a time.
#[derive(Debug, Default)]
pub(crate) struct SelfCheck {
    running: Mutex<()>,
    port: AtomicU32,
}

/// The right to register sockets; whoever else wants to check waits.
pub(crate) struct Turn<'a> {
    check: &'a SelfCheck,
    _running: MutexGuard<'a, ()>,
}

/// A registered socket, until it is dropped.
pub(crate) struct Registered<'a>(&'a SelfCheck);

impl SelfCheck {
    pub(crate) fn begin(&self) -> Turn<'_> {
        Turn { check: self, _running: self.running.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// Whether this source is the socket of the running check. An address of the server alone says nothing: packets
    /// from outside may claim to come from it, and only for IPv4 does the system drop them.
    #[inline]
    pub(crate) fn asks_from(&self, topology: &Topology, from: SocketAddr) -> bool {
        let port = self.port.load(Ordering::Acquire);
        port == REGISTERED | u32::from(from.port()) && topology.owns_ip(from.ip())
    }
}

impl Turn<'_> {
    /// From now on the server knows this socket, which is bound to one of its addresses.
    pub(crate) fn register(&self, local: SocketAddr) -> Registered<'_> {
        self.check.port.store(REGISTERED | u32::from(local.port()), Ordering::Release);
        Registered(self.check)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.port.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_registered_socket_and_only_while_it_is() {
        let topology = Topology::new("2001:db8::10".parse().unwrap(), None, (3478, 3479));
        let check = SelfCheck::default();
        let asks = |from: &str| check.asks_from(&topology, from.parse().unwrap());
        assert!(!asks("[2001:db8::10]:0") && !asks("[2001:db8::10]:40000"));
        {
            let turn = check.begin();
            let _registered = turn.register("[2001:db8::10]:40000".parse().unwrap());
            assert!(asks("[2001:db8::10]:40000"));
            assert!(!asks("[2001:db8::10]:40001") && !asks("[2001:db8::11]:40000"));
        }
        assert!(!asks("[2001:db8::10]:40000"));
    }
}
