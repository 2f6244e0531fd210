//! How much is answered, to whom: token buckets in fixed memory, and a cap on everything that is sent.
//!
//! A source counts towards two prefixes: its host (IPv4 /32, IPv6 /56) and its network (/24, /48). Each prefix has
//! a cell in either of two rows, found by a seeded hash, and is over its limit only if both its cells are. So two
//! prefixes disturb each other only if they meet in both rows, there is nothing to fill or to wipe, and a flood
//! costs whoever shares its cells seconds, not hours. A cell is the time at which its bucket is full again (GCRA).

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::{drop_reason::DropReason, prefix::Prefix};

/// The limits; a rate of 0 sets none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Answers a second to one host.
    pub host_rate: u32,
    /// Answers at once to one host.
    pub host_burst: u32,
    /// Answers a second to one network.
    pub net_rate: u32,
    /// Answers at once to one network.
    pub net_burst: u32,
    /// Megabits a second that all answers together may take, IP headers included.
    pub egress_mbit: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { host_rate: 100, host_burst: 1000, net_rate: 400, net_burst: 4000, egress_mbit: 100 }
    }
}

impl Limits {
    /// No limit at all.
    pub const NONE: Self = Self { host_rate: 0, host_burst: 0, net_rate: 0, net_burst: 0, egress_mbit: 0 };
}

/// Cells in a row: a power of two. Two rows of hosts and two of networks take 2 MiB a family.
const CELLS: usize = 1 << 16;

/// The buckets of one family, shared by its workers. Relaxed loads and stores suffice: a lost update is one answer
/// more.
#[derive(Debug)]
pub struct Buckets {
    seed: u64,
    hosts: Rows,
    nets: Rows,
}

impl Buckets {
    /// Empty buckets; the seed keeps strangers from finding sources that share a cell.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, hosts: Rows::new(), nets: Rows::new() }
    }

    /// Takes one answer for this source out of its buckets, at `now` in nanoseconds. Loopback is not limited: nobody
    /// can claim it from outside.
    ///
    /// # Errors
    /// When its host or its network has had its share.
    #[inline]
    pub fn admit(&self, limits: &Limits, from: SocketAddr, now: u64) -> Result<(), DropReason> {
        self.take(limits, from, 1, now)
    }

    /// The same for what costs as much as `cost` answers.
    ///
    /// # Errors
    /// When its host or its network has had its share.
    #[inline]
    pub fn take(&self, limits: &Limits, from: SocketAddr, cost: u32, now: u64) -> Result<(), DropReason> {
        let Some((host, net)) = self.cells(from.ip()) else { return Ok(()) };
        let host_ok = self.hosts.conforms(host, limits.host_rate, limits.host_burst, cost, now);
        let net_ok = self.nets.conforms(net, limits.net_rate, limits.net_burst, cost, now);
        if !(host_ok && net_ok) {
            return Err(DropReason::RateLimited);
        }
        self.hosts.charge(host, limits.host_rate, cost, now);
        self.nets.charge(net, limits.net_rate, cost, now);
        Ok(())
    }

    /// The cells of its host and of its network; none for loopback.
    #[inline]
    fn cells(&self, ip: IpAddr) -> Option<([usize; 2], [usize; 2])> {
        if ip.is_loopback() {
            return None;
        }
        let (host, net) = (Prefix::host(ip).bits(), Prefix::network(ip).bits());
        Some((self.hosts.find(self.seed, host), self.nets.find(self.seed.rotate_left(32), net)))
    }
}

/// Two rows of cells.
#[derive(Debug)]
struct Rows([Box<[AtomicU64]>; 2]);

impl Rows {
    fn new() -> Self {
        // Not zero, which the operating system would hand out only when a cell is first used: so all memory that
        // there will ever be is there from the beginning.
        let row = || (0..CELLS).map(|_| AtomicU64::new(1)).collect();
        Self([row(), row()])
    }

    /// The two cells of a prefix.
    #[inline]
    fn find(&self, seed: u64, prefix: u64) -> [usize; 2] {
        let hash = mix(prefix ^ seed);
        [(hash as usize) & (CELLS - 1), ((hash >> 32) as usize) & (CELLS - 1)]
    }

    #[inline]
    fn conforms(&self, at: [usize; 2], rate: u32, burst: u32, cost: u32, now: u64) -> bool {
        if rate == 0 {
            return true;
        }
        // What costs more than a whole burst is let through when the bucket is full.
        let latest = now + u64::from(burst.saturating_sub(cost)) * interval(rate);
        self.0.iter().zip(at).any(|(row, at)| row[at].load(Relaxed) <= latest)
    }

    #[inline]
    fn charge(&self, at: [usize; 2], rate: u32, cost: u32, now: u64) {
        if rate == 0 {
            return;
        }
        let time = u64::from(cost) * interval(rate);
        for (row, at) in self.0.iter().zip(at) {
            let cell = &row[at];
            cell.store(cell.load(Relaxed).max(now) + time, Relaxed);
        }
    }
}

/// Nanoseconds between answers.
const fn interval(rate: u32) -> u64 {
    1_000_000_000 / rate as u64
}

/// Spreads a number over all bits, in a way that cannot be followed without the seed that is mixed in before: two
/// folded multiplications.
#[inline]
pub(crate) fn mix(value: u64) -> u64 {
    let fold = |product: u128| (product as u64) ^ ((product >> 64) as u64);
    let once = fold(value as u128 * 0x9E37_79B9_7F4A_7C15);
    fold((once ^ 0xD1B5_4A32_D192_ED03) as u128 * 0xA076_1D64_78BD_642F)
}

/// The cap on what the whole server sends, charged once a batch.
#[derive(Debug, Default)]
pub struct Egress {
    free_at: AtomicU64,
}

/// How long the cap may be exceeded after a quiet time.
const EGRESS_BURST: u64 = 100_000_000;

impl Egress {
    /// Whether a batch may still be sent at `now` in nanoseconds.
    #[must_use]
    pub fn is_open(&self, limits: &Limits, now: u64) -> bool {
        limits.egress_mbit == 0 || self.free_at.load(Relaxed) <= now + EGRESS_BURST
    }

    /// Counts bytes that are sent.
    pub fn charge(&self, limits: &Limits, bytes: u64, now: u64) {
        if limits.egress_mbit == 0 || bytes == 0 {
            return;
        }
        let time = bytes * 8 * 1000 / u64::from(limits.egress_mbit);
        self.free_at.store(self.free_at.load(Relaxed).max(now) + time, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn source(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 40000)
    }

    fn admitted(buckets: &Buckets, limits: &Limits, from: &str, tries: u32, now: u64) -> u32 {
        (0..tries).map(|_| u32::from(buckets.admit(limits, source(from), now).is_ok())).sum()
    }

    #[test]
    fn a_burst_then_the_rate() {
        for from in ["192.0.2.1", "2001:db8::1"] {
            let (buckets, limits) = (Buckets::new(1), Limits::default());
            assert_eq!(admitted(&buckets, &limits, from, 5000, SECOND), limits.host_burst);
            assert_eq!(admitted(&buckets, &limits, from, 5000, 2 * SECOND), limits.host_rate);
            assert_eq!(
                admitted(&buckets, &limits, from, 5000, 12 * SECOND),
                limits.host_burst,
                "10 seconds heal"
            );
        }
    }

    #[test]
    fn a_network_has_a_share_for_all_its_hosts() {
        let (buckets, limits) = (Buckets::new(1), Limits::default());
        let of = |i: u32| format!("192.0.2.{}", i % 256);
        let sum: u32 = (0..20_000).map(|i| admitted(&buckets, &limits, &of(i), 1, SECOND)).sum();
        assert_eq!(sum, limits.net_burst);
        assert_eq!(admitted(&buckets, &limits, "192.0.3.1", 10, SECOND), 10, "the neighbour is untouched");
        let of = |i: u32| format!("2001:db8:0:{:x}::1", (i % 256) << 8);
        let sum: u32 = (0..20_000).map(|i| admitted(&buckets, &limits, &of(i), 1, SECOND)).sum();
        assert_eq!(sum, limits.net_burst);
    }

    #[test]
    fn a_host_is_a_56_in_ipv6() {
        let (buckets, limits) = (Buckets::new(1), Limits::default());
        assert_eq!(admitted(&buckets, &limits, "2001:db8:0:1::1", 5000, SECOND), limits.host_burst);
        assert_eq!(admitted(&buckets, &limits, "2001:db8:0:2::1", 10, SECOND), 0, "same /56");
        assert_eq!(admitted(&buckets, &limits, "2001:db8:0:100::1", 10, SECOND), 10, "another /56");
    }

    /// A flood from one /24, from every host in it, leaves at least 9,999 of 10,000 strangers untouched.
    #[test]
    fn a_flood_hits_hardly_anybody_else() {
        let limits = Limits::default();
        let mut hit = 0;
        for seed in 0..10 {
            let buckets = Buckets::new(seed);
            // The network's limit is lifted, so that each of its 256 hosts fills its own cells.
            let alone = Limits { net_rate: 0, ..limits };
            for i in 0..256 * 1000 {
                _ = buckets.admit(&alone, source(&format!("192.0.2.{}", i % 256)), SECOND);
            }
            for i in 0..10_000_u32 {
                let stranger = SocketAddr::from(((0x0b00_0000 + i * 7919).to_be_bytes(), 40000));
                hit += u32::from(buckets.admit(&limits, stranger, SECOND).is_err());
            }
        }
        println!("{hit} of 100000 strangers share both cells with a host of the flood");
        assert!(hit <= 10, "{hit} of 100000 strangers");
    }

    #[test]
    fn loopback_and_no_limit() {
        let (buckets, limits) =
            (Buckets::new(1), Limits { host_rate: 1, host_burst: 1, ..Limits::default() });
        assert_eq!(admitted(&buckets, &limits, "127.0.0.1", 100, SECOND), 100);
        assert_eq!(admitted(&buckets, &limits, "192.0.2.1", 100, SECOND), 1);
        assert_eq!(admitted(&buckets, &Limits::NONE, "192.0.2.1", 100, SECOND), 100);
    }

    #[test]
    fn the_cap_holds_over_a_second() {
        let (egress, limits) = (Egress::default(), Limits { egress_mbit: 8, ..Limits::default() });
        let mut sent = 0;
        for ms in 0..10_000 {
            let now = SECOND + ms * 1_000_000;
            for _ in 0..10 {
                if egress.is_open(&limits, now) {
                    egress.charge(&limits, 1000, now);
                    sent += 1000;
                }
            }
        }
        // 8 Mbit/s is a megabyte a second; 10 seconds and the burst of a tenth.
        assert!((10_000_000..=10_110_000).contains(&sent), "{sent}");
    }
}
