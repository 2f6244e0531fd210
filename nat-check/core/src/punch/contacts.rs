//! Whom an attempt may send to, and how much: [`is_contactable`] for each endpoint that the server or the peer names, and
//! one total over the whole attempt for addresses that nobody vouches for. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::contactable::{Scope, is_contactable};

/// Packets of a whole attempt to addresses that nobody vouches for: enough for two rounds over IPv6 with a peer that the
/// server has met over IPv4, and for the local network.
pub(super) const UNVOUCHED_PACKETS: u32 = 64;
/// Addresses of the peer that are remembered to have answered.
const MOST_ANSWERED: usize = 8;

/// Who may be sent to.
#[derive(Clone, Debug)]
pub(super) struct Contacts {
    /// The server that introduced the two.
    server: SocketAddr,
    /// Its endpoints that are asked for one's own external ones.
    stun: Vec<SocketAddr>,
    /// Where the server has seen the peer.
    peer: IpAddr,
    /// This host's address on its local network, with the length of that network's prefix.
    local: Option<(IpAddr, u8)>,
    /// Addresses that have answered what was sent to them.
    answered: Vec<IpAddr>,
    unvouched_left: u32,
    budget: Budget,
}

/// Packets to addresses that nobody vouches for, for several attempts together: whoever makes one peer after the other name the
/// same stranger gets no more than that out of it.
#[derive(Clone, Debug)]
pub(super) struct Budget(Arc<AtomicU32>);

impl Budget {
    /// As many as so many attempts may send.
    pub(super) fn of_attempts(attempts: u32) -> Self {
        Self(Arc::new(AtomicU32::new(attempts.saturating_mul(UNVOUCHED_PACKETS))))
    }

    /// Takes one, if one is left.
    fn take(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }
}

impl Contacts {
    pub(super) fn new(
        server: SocketAddr,
        stun: Vec<SocketAddr>,
        peer: IpAddr,
        local: Option<(IpAddr, u8)>,
    ) -> Self {
        let budget = Budget::of_attempts(1);
        Self { server, stun, peer, local, answered: Vec::new(), unvouched_left: UNVOUCHED_PACKETS, budget }
    }

    /// The same within what is left for several attempts.
    pub(super) fn within(self, budget: Budget) -> Self {
        Self { budget, ..self }
    }

    /// Where the server has seen the peer.
    pub(super) fn peer(&self) -> IpAddr {
        self.peer
    }

    /// Whether any number of packets, and connections, may go there: the server has seen the peer at this address.
    pub(super) fn is_vouched(&self, to: SocketAddr) -> bool {
        let scope = Scope::VouchedPeer { server: self.server, address: self.peer };
        is_contactable(to.ip(), to.port(), scope)
    }

    /// Whether at least a few packets may go there, on the peer's word.
    pub(super) fn is_contactable(&self, to: SocketAddr) -> bool {
        self.is_vouched(to)
            || is_contactable(to.ip(), to.port(), Scope::Peer { server: self.server })
            || self.is_local(to)
    }

    /// Whether it is on the local network.
    pub(super) fn is_local(&self, to: SocketAddr) -> bool {
        self.local.is_some_and(|(own, prefix)| {
            is_contactable(to.ip(), to.port(), Scope::LocalNetwork { server: self.server, own, prefix })
        })
    }

    /// Whether one more packet may go there, which is then counted.
    pub(super) fn admit(&mut self, to: SocketAddr) -> bool {
        if self.stun.contains(&to) || self.is_vouched(to) {
            return true;
        }
        if !self.is_contactable(to) {
            return false;
        }
        if self.answered.contains(&to.ip()) {
            return true;
        }
        let is_left = self.unvouched_left > 0 && self.budget.take();
        self.unvouched_left = self.unvouched_left.saturating_sub(1);
        is_left
    }

    /// Notes that this address has answered, with what only a packet to it can have shown.
    pub(super) fn answered(&mut self, from: IpAddr) {
        if self.answered.len() < MOST_ANSWERED && !self.answered.contains(&from) {
            self.answered.push(from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn contacts() -> Contacts {
        let local = Some((at("192.168.1.2:0").ip(), 24));
        Contacts::new(
            at("198.51.100.10:3478"),
            vec![at("198.51.100.10:3478")],
            at("203.0.113.9:0").ip(),
            local,
        )
    }

    fn admitted(contacts: &mut Contacts, to: &str) -> usize {
        (0..1000).filter(|_| contacts.admit(at(to))).count()
    }

    #[test]
    fn the_total_holds_over_all_addresses_that_nobody_vouches_for() {
        let mut contacts = contacts();
        assert_eq!(admitted(&mut contacts, "198.51.100.10:3478"), 1000, "the server");
        assert_eq!(admitted(&mut contacts, "203.0.113.9:5000"), 1000, "where the server has seen the peer");
        let others = ["203.0.113.10:5000", "192.168.1.3:5000", "[2001:db8::1]:5000", "203.0.113.11:5000"];
        let sum: usize = others.iter().map(|to| admitted(&mut contacts, to)).sum();
        assert_eq!(sum, UNVOUCHED_PACKETS as usize);
    }

    #[test]
    fn attempts_that_share_a_budget_send_no_more_together() {
        let budget = Budget::of_attempts(2);
        let sent = |to| admitted(&mut contacts().within(budget.clone()), to);
        let all = [(); 5].map(|()| sent("203.0.113.10:5000"));
        assert_eq!(all, [64, 64, 0, 0, 0]);
        assert_eq!(sent("203.0.113.9:5000"), 1000, "where the server has seen the peer");
    }

    #[test]
    fn what_no_peer_may_name_gets_nothing() {
        let mut contacts = contacts();
        for to in [
            "127.0.0.1:5000",
            "192.168.2.3:5000",
            "10.0.0.1:5000",
            "192.168.1.3:80",
            "203.0.113.9:53",
            "203.0.113.9:5353",
            "239.255.255.250:1900",
            "[::1]:5000",
            "[fe80::1]:5000",
            "[::ffff:127.0.0.1]:5000",
        ] {
            assert_eq!(admitted(&mut contacts, to), 0, "{to}");
        }
    }

    #[test]
    fn who_has_answered_is_no_stranger() {
        let mut contacts = contacts();
        contacts.answered(at("203.0.113.10:0").ip());
        contacts.answered(at("127.0.0.1:0").ip());
        assert_eq!(admitted(&mut contacts, "203.0.113.10:5000"), 1000);
        assert_eq!(admitted(&mut contacts, "127.0.0.1:5000"), 0, "and still nothing goes where nothing may");
    }
}
