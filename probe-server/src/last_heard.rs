//! When a source was last heard at each of the server's two addresses, in fixed memory: what ALTERNATE-UNHEARD says
//! (see shared/STUN-EXTENSIONS.md).
//!
//! A source is an IPv4 address or an IPv6 /64: what a NAT shows, or one link behind a firewall. It has a cell in either
//! of two rows, found by a seeded hash, and was heard no later than the older of its cells says. So sources that share
//! cells can only make each other seem heard later than they were, never earlier, and there is nothing to fill or to
//! wipe. Both addresses share a cell: one line of memory a row serves the note and the question.

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{limits::mix, prefix::Prefix, topology::Endpoint};

/// For at least so many seconds no datagram from a source has come to the other IP address of a family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unheard(pub u32);

/// How long before the start nobody has sent to the addresses, where the operator says so (`unused-before`).
pub const UNUSED_BEFORE: u32 = 600;

/// Cells in a row: a power of two. Two rows take 4 MiB a family.
const CELLS: usize = 1 << 18;
/// The second of the start on the clock of the cells. None of them is ever 0, so that all their memory is there from
/// the beginning.
const START: u32 = UNUSED_BEFORE + 2;

/// The table of one family, shared by its workers. Relaxed loads and stores suffice: what a lost update can cost is less
/// than the second by which every answer is rounded.
#[derive(Debug)]
pub struct LastHeard {
    seed: u64,
    rows: [Box<[Cell]>; 2],
}

/// The second in which each address last heard a source of this cell, or may have.
type Cell = [AtomicU32; 2];

impl LastHeard {
    /// Nothing is known of the time before the start, save that nobody sent if the addresses were `unused`. The seed
    /// keeps strangers from finding sources that share a cell.
    #[must_use]
    pub fn new(seed: u64, unused: bool) -> Self {
        // The last second before, since the start itself is not rounded.
        let since = START - 1 - if unused { UNUSED_BEFORE } else { 0 };
        let row = || (0..CELLS).map(|_| [AtomicU32::new(since), AtomicU32::new(since)]).collect();
        Self { seed, rows: [row(), row()] }
    }

    /// Notes that a datagram from this source has come to this endpoint, `now` in nanoseconds since the start; for how
    /// long none has come to the other address.
    #[inline]
    pub fn note(&self, from: IpAddr, at: Endpoint, now: u64) -> Unheard {
        let second = second(now);
        let hash = mix(source(from) ^ self.seed);
        let (here, there) = (at.address(), at.other().address());
        let mut heard = u32::MAX;
        for (row, index) in self.rows.iter().zip([hash as usize, (hash >> 32) as usize]) {
            let cell = &row[index & (CELLS - 1)];
            heard = heard.min(cell[there].load(Relaxed));
            // Memory that is not written stays in the caches of all workers.
            if cell[here].load(Relaxed) < second {
                cell[here].store(second, Relaxed);
            }
        }
        // The cell says only in which second it was.
        Unheard(second.saturating_sub(heard).saturating_sub(1))
    }

    /// For how long no datagram from this source has come to the address of this endpoint.
    #[must_use]
    pub fn unheard(&self, from: IpAddr, at: Endpoint, now: u64) -> Unheard {
        let hash = mix(source(from) ^ self.seed);
        let cells = self.rows.iter().zip([hash as usize, (hash >> 32) as usize]);
        let heard = cells.map(|(row, index)| row[index & (CELLS - 1)][at.address()].load(Relaxed)).min();
        Unheard(second(now).saturating_sub(heard.unwrap_or(u32::MAX)).saturating_sub(1))
    }

    /// Forgets what is known of the address of this endpoint, which this host has just got: what was sent to it before
    /// did not come here.
    pub fn forget(&self, at: Endpoint, now: u64) {
        for cell in self.rows.iter().flatten() {
            cell[at.address()].store(second(now), Relaxed);
        }
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64.
#[inline]
#[must_use]
pub fn source(ip: IpAddr) -> u64 {
    Prefix::of(ip, 32, 64).bits()
}

/// The second on the clock of the cells.
#[inline]
const fn second(now: u64) -> u32 {
    START.saturating_add((now / 1_000_000_000) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn asking_when_a_source_was_heard_changes_nothing() {
        let table = LastHeard::new(1, true);
        table.note(ip("192.0.2.1"), Endpoint::Primary, 10 * SECOND);
        for _ in 0..2 {
            let unheard = |at| table.unheard(ip("192.0.2.1"), at, 15 * SECOND);
            assert_eq!(
                (unheard(Endpoint::Primary), unheard(Endpoint::Alternate)),
                (Unheard(4), Unheard(615))
            );
        }
    }

    #[test]
    fn at_most_the_uptime_unless_the_operator_knows_more() {
        for (unused, expected) in [(false, 0), (true, UNUSED_BEFORE)] {
            let table = LastHeard::new(1, unused);
            let unheard = table.note(ip("192.0.2.1"), Endpoint::Primary, 31 * SECOND);
            assert_eq!(unheard, Unheard(expected + 31));
        }
    }

    #[test]
    fn either_port_of_the_other_address_counts_and_nothing_else() {
        let table = LastHeard::new(1, true);
        let note = |from, at, seconds| table.note(ip(from), at, seconds * SECOND).0;
        note("192.0.2.1", Endpoint::AlternatePrimaryPort, 100);
        assert_eq!(note("192.0.2.1", Endpoint::Primary, 120), 19);
        assert_eq!(note("192.0.2.1", Endpoint::PrimaryAlternatePort, 121), 20);
        assert_eq!(
            note("192.0.2.1", Endpoint::AlternatePrimaryPort, 125),
            3,
            "the primary address was asked at 121"
        );
        note("192.0.2.1", Endpoint::Alternate, 130);
        assert_eq!(note("192.0.2.1", Endpoint::Primary, 131), 0);
        assert_eq!(
            note("192.0.2.2", Endpoint::Primary, 131),
            UNUSED_BEFORE + 131,
            "the neighbour is another source"
        );
    }

    #[test]
    fn a_source_is_a_64_in_ipv6() {
        let table = LastHeard::new(1, true);
        let note = |from, at, seconds| table.note(ip(from), at, seconds * SECOND).0;
        note("2001:db8:0:1::1", Endpoint::Alternate, 100);
        assert_eq!(note("2001:db8:0:1::2", Endpoint::Primary, 110), 9);
        assert_eq!(note("2001:db8:0:2::1", Endpoint::Primary, 110), UNUSED_BEFORE + 110);
    }

    #[test]
    fn nothing_is_known_of_an_address_that_came_later() {
        let table = LastHeard::new(1, true);
        table.forget(Endpoint::Alternate, 50 * SECOND);
        let from = ip("192.0.2.1");
        assert_eq!(table.note(from, Endpoint::Primary, 61 * SECOND), Unheard(10));
        assert_eq!(table.note(from, Endpoint::Alternate, 61 * SECOND), Unheard(0), "asked in this second");
        assert_eq!(
            table.note(ip("192.0.2.2"), Endpoint::Alternate, 61 * SECOND),
            Unheard(UNUSED_BEFORE + 61)
        );
    }

    /// Whatever else is sent, nobody seems unheard who was heard; and 10,000 sources hide hardly anybody.
    #[test]
    fn others_only_shorten_it() {
        let table = LastHeard::new(7, true);
        let mut rng = fastrand::Rng::with_seed(1);
        let address = |n: u32| IpAddr::V4(n.to_be_bytes().into());
        let known: Vec<_> = (0..10_000_u32).map(|n| (address(n), u64::from(rng.u32(0..500)))).collect();
        for (from, at) in &known {
            table.note(*from, Endpoint::Alternate, at * SECOND);
        }
        for (from, at) in &known {
            assert!(u64::from(table.note(*from, Endpoint::Primary, 500 * SECOND).0) <= 500 - at);
        }
        let strangers = (0..10_000_u32).map(|n| address(0x5000_0000 + n));
        let hidden = strangers
            .filter(|from| table.note(*from, Endpoint::Primary, 500 * SECOND).0 < UNUSED_BEFORE)
            .count();
        println!("{hidden} of 10000 strangers share both cells with one of 10000 others");
        assert!(hidden <= 50, "{hidden}");
    }
}
