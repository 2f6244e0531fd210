//! How much of one kind is under way: for all clients, and for those of one network and one provider, so that nobody with many
//! addresses takes all of it.

use std::{collections::HashMap, net::IpAddr};

use shared::test_session::Decline;

use crate::prefix::Prefix;

/// Connects, or held connections.
#[derive(Debug)]
pub(super) struct UnderWay {
    most: usize,
    all: usize,
    /// Those of each part of the Internet that has any, by what kind of part it is.
    parts: HashMap<(usize, Prefix), usize>,
}

/// A kind of part of the Internet, and what part of everything one of them may have.
type Share = (fn(IpAddr) -> Prefix, usize);
const SHARES: [Share; 2] = [(Prefix::network, 20), (Prefix::provider, 10)];

impl UnderWay {
    /// Nothing yet, and so much at the most.
    pub(super) fn new(most: usize) -> Self {
        Self { most, all: 0, parts: HashMap::new() }
    }

    /// Whether a client at this address may have one more.
    pub(super) fn check(&self, ip: IpAddr) -> Result<(), Decline> {
        let is_full = |(part, share)| self.parts.get(&part).is_some_and(|count| *count >= share);
        let is_busy = self.all >= self.most || self.parts_of(ip).into_iter().any(is_full);
        if is_busy { Err(Decline::Busy) } else { Ok(()) }
    }

    /// A client at this address has one more.
    pub(super) fn begin(&mut self, ip: IpAddr) {
        self.all += 1;
        for (part, _) in self.parts_of(ip) {
            *self.parts.entry(part).or_default() += 1;
        }
    }

    /// One of a client at this address has ended.
    pub(super) fn end(&mut self, ip: IpAddr) {
        self.all = self.all.saturating_sub(1);
        for (part, _) in self.parts_of(ip) {
            if let Some(count) = self.parts.get_mut(&part) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.parts.remove(&part);
                }
            }
        }
    }

    /// The parts that an address belongs to, and how much each may have: one at least, where there is any.
    fn parts_of(&self, ip: IpAddr) -> [((usize, Prefix), usize); SHARES.len()] {
        std::array::from_fn(|kind| {
            let (prefix, share) = SHARES[kind];
            ((kind, prefix(ip)), self.most.div_ceil(share))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// How many more a client at each of these addresses gets.
    fn taken(under_way: &mut UnderWay, addresses: &[&str]) -> Vec<usize> {
        let mut take = |address: &&str| {
            let more = || under_way.check(ip(address)).map(|()| under_way.begin(ip(address))).is_ok();
            std::iter::repeat_with(more).take_while(|is_taken| *is_taken).count()
        };
        addresses.iter().map(&mut take).collect()
    }

    #[test]
    fn one_network_gets_a_twentieth_and_one_provider_a_tenth() {
        let mut all = UnderWay::new(1000);
        let of_one_48 = ["2001:db8:1::1", "2001:db8:1:100::1", "2001:db8:1:ff00::1"];
        assert_eq!(taken(&mut all, &of_one_48), [50, 0, 0]);
        assert_eq!(taken(&mut all, &["2001:db8:2::1", "2001:db8:3::1"]), [50, 0], "one /32");
        assert_eq!(taken(&mut all, &["192.0.2.1", "192.0.2.2", "192.0.3.1", "192.0.4.1"]), [50, 0, 50, 0]);
        assert_eq!(taken(&mut all, &["2001:db9::1", "192.1.2.1"]), [50, 50], "others have theirs");
        all.end(ip("2001:db8:1:100::2"));
        assert_eq!(taken(&mut all, &of_one_48), [1, 0, 0], "what has ended makes room");
    }

    #[test]
    fn there_is_an_end_and_nothing_is_kept() {
        let mut few = UnderWay::new(2);
        assert_eq!(taken(&mut few, &["192.0.2.1", "198.51.100.1", "203.0.113.1"]), [1, 1, 0]);
        few.end(ip("192.0.2.1"));
        few.end(ip("198.51.100.1"));
        assert!(few.all == 0 && few.parts.is_empty());
        assert_eq!(taken(&mut UnderWay::new(0), &["192.0.2.1"]), [0]);
    }
}
