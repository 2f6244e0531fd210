//! Port allocation: preserving, sequential, random, by block (RFC 4787 section 4.2, RFC 6888).

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use super::{
    spec::{Fallback, Ports},
    table::Map,
};
use crate::nat::PortPolicy;

#[derive(Debug)]
pub(super) struct Allocator {
    rules: Ports,
    /// The next port of a sequential NAT.
    next: u16,
    last_pick: Duration,
    /// First ports of each internal host's blocks, and all blocks in use.
    blocks: Map<(IpAddr, IpAddr), Vec<u16>>,
    owned: Map<(IpAddr, u16), ()>,
}

/// Random attempts before a search in order.
const ATTEMPTS: u32 = 32;

impl Allocator {
    pub(super) fn new(rules: Ports, rng: &mut fastrand::Rng) -> Self {
        let next = rng.u16(rules.range.0..=rules.range.1);
        Self { rules, next, last_pick: Duration::ZERO, blocks: Map::default(), owned: Map::default() }
    }

    /// A port of `ip` for an internal endpoint, or none when all are in use.
    pub(super) fn pick(
        &mut self,
        inside: SocketAddr,
        ip: IpAddr,
        now: Duration,
        rng: &mut fastrand::Rng,
        mut free: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        let parity = self.rules.parity.then_some(inside.port() % 2);
        let (low, high) = self.rules.range;
        let mut fits = |port: u16| parity.is_none_or(|p| port % 2 == p) && free(port);
        match self.rules.policy {
            PortPolicy::Preserving => {
                let wanted = inside.port();
                if (low..=high).contains(&wanted) && fits(wanted) {
                    return Some(wanted);
                }
                match self.rules.fallback {
                    Fallback::Next => in_order(low, high, wanted, 1, fits),
                    Fallback::Random => at_random(low, high, rng, fits),
                    Fallback::Refuse => None,
                }
            }
            PortPolicy::Random => at_random(low, high, rng, fits),
            PortPolicy::Sequential => {
                let skipped = arrivals(self.rules.cross_traffic * (now - self.last_pick).as_secs_f64(), rng);
                self.last_pick = now;
                let start = stepped(low, high, self.next, i64::from(self.rules.step) * skipped);
                let port = in_order(low, high, start, self.rules.step, fits)?;
                self.next = stepped(low, high, port, i64::from(self.rules.step));
                Some(port)
            }
            PortPolicy::Block => {
                let size = self.rules.block;
                let mine = self.blocks.entry((inside.ip(), ip)).or_default();
                // The newest first: another one is assigned only when all are full, and they mostly stay full.
                if let Some(port) =
                    mine.iter().rev().find_map(|&first| at_random(first, first + (size - 1), rng, &mut fits))
                {
                    return Some(port);
                }
                // Blocks are aligned, so that an operator's log needs one line for each.
                let count = (u32::from(high - low) + 1) / u32::from(size);
                let nth = |n: u16| low + n * size;
                let last = u16::try_from(count.saturating_sub(1)).unwrap_or(u16::MAX);
                let owned = &self.owned;
                let block = at_random(0, last, rng, |n| !owned.contains_key(&(ip, nth(n))))?;
                self.owned.insert((ip, nth(block)), ());
                mine.push(nth(block));
                at_random(nth(block), nth(block) + (size - 1), rng, fits)
            }
        }
    }
}

/// A random port that fits, found by a search in order after too many random attempts.
fn at_random(low: u16, high: u16, rng: &mut fastrand::Rng, mut fits: impl FnMut(u16) -> bool) -> Option<u16> {
    for _ in 0..ATTEMPTS {
        let port = rng.u16(low..=high);
        if fits(port) {
            return Some(port);
        }
    }
    in_order(low, high, rng.u16(low..=high), 1, fits)
}

/// The first port that fits, from `start` on in this step, then in steps of one.
fn in_order(low: u16, high: u16, start: u16, step: i32, mut fits: impl FnMut(u16) -> bool) -> Option<u16> {
    let count = i64::from(high - low) + 1;
    let each = |step: i64| (0..count).map(move |n| stepped(low, high, start, step * n));
    each(i64::from(step)).chain(each(1).filter(|_| step.abs() != 1)).find(|port| fits(*port))
}

/// `from` plus so many ports, wrapping around within the range.
fn stepped(low: u16, high: u16, from: u16, by: i64) -> u16 {
    let count = i64::from(high - low) + 1;
    let offset = (i64::from(from) - i64::from(low) + by).rem_euclid(count);
    low + u16::try_from(offset).unwrap_or(0)
}

/// How many events happen when this many are expected (Poisson, by multiplication; by its mean when large).
fn arrivals(expected: f64, rng: &mut fastrand::Rng) -> i64 {
    if expected > 500.0 {
        return expected as i64;
    }
    let limit = (-expected).exp();
    let (mut product, mut count) = (rng.f64(), 0);
    while product > limit {
        product *= rng.f64();
        count += 1;
    }
    count
}
