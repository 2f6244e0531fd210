//! Addresses that are sent to on the server's word alone: its alternate one, and this host's external one. Until somebody
//! there answers they may be anybody's, so they get a few packets in all.

use std::{collections::HashMap, net::IpAddr};

/// Packets of a session to addresses from which nothing has come: as many as a check sends in the first round trip.
pub(super) const MOST: u32 = 32;

/// Those of them that only the mapping test may use.
const KEPT: u32 = 5;

/// Who has been sent to, and whether anything came from there.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    answered: HashMap<IpAddr, bool>,
    sent: u32,
}

impl Strangers {
    /// Whether one more packet may go there, which is then counted. Some are kept for what is urgent.
    pub(super) fn admit(&mut self, to: IpAddr, is_urgent: bool) -> bool {
        if *self.answered.entry(to).or_default() {
            return true;
        }
        let is_left = self.sent < if is_urgent { MOST } else { MOST - KEPT };
        self.sent += u32::from(is_left);
        is_left
    }

    /// Notes that the user named this address.
    pub(super) fn named_by_user(&mut self, ip: IpAddr) {
        self.answered.insert(ip, true);
    }

    /// Notes that a request was answered from there.
    pub(super) fn answered(&mut self, from: IpAddr) {
        if let Some(answered) = self.answered.get_mut(&from) {
            *answered = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_holds_over_all_addresses_that_have_not_answered() {
        let [a, b, c]: [IpAddr; 3] = [[203, 0, 113, 1], [203, 0, 113, 2], [203, 0, 113, 3]].map(IpAddr::from);
        let mut strangers = Strangers::default();
        assert!(strangers.admit(a, false));
        strangers.answered(a);
        strangers.answered(c);
        assert_eq!((0..1000).filter(|_| strangers.admit(a, false)).count(), 1000, "it has answered");
        let sum =
            [b, c].map(|to| (0..1000).filter(|_| strangers.admit(to, true)).count()).iter().sum::<usize>();
        assert_eq!(sum, MOST as usize - 1, "an answer from where nothing was sent to counts for nothing");
    }

    #[test]
    fn what_can_wait_leaves_some_to_what_is_urgent() {
        let mut strangers = Strangers::default();
        let to = IpAddr::from([203, 0, 113, 1]);
        let mut admitted = |is_urgent| (0..1000).filter(|_| strangers.admit(to, is_urgent)).count();
        assert_eq!([admitted(false), admitted(true)], [MOST - KEPT, KEPT].map(|n| n as usize));
    }
}
