//! Which port and which external address the next mapping of a NAT gets: what a measured allocation tells of it.

use shared::nat::{PortAllocation, PortPolicy};

use crate::contactable::LOWEST_PORT;

/// Which port the next mapping gets, as far as one can know beforehand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ports {
    /// What is known of it.
    pub next: Next,
    /// How many there are to choose from: over all external addresses, unless the destination decides which of them.
    pub range: u32,
    /// At which external address it is.
    pub addresses: Addresses,
}

/// At which external address the next mapping is, as far as one can know beforehand (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// How many were seen.
    pub count: u32,
    /// Whether the destination decides: then nobody can know how many there are, nor which one the peer will see.
    pub by_destination: bool,
    /// Whether the server that introduces the two has seen this side at one of them. Only there many guesses may go.
    pub is_vouched: bool,
}

impl Addresses {
    /// A single one, which the server has seen.
    pub const ONE: Self = Self { count: 1, by_destination: false, is_vouched: true };

    /// Ports that are guessed at each address that nobody vouches for, where so many are guessed at the other one.
    #[must_use]
    pub fn guessed_elsewhere(self, window: u32) -> u32 {
        let others = self.count - u32::from(self.is_vouched);
        window.min(GUESSES_ELSEWHERE.checked_div(others).unwrap_or(0))
    }

    /// The chance of a round in which a window of ports is guessed at the address that the server has seen, and some
    /// ports at each of the others, given the chance of so many ports at the right address.
    pub(super) fn round(self, window: u32, right: impl Fn(u32) -> f64) -> f64 {
        let vouched = f64::from(u32::from(self.is_vouched));
        let elsewhere = f64::from(self.count) - vouched;
        (vouched * right(window) + elsewhere * right(self.guessed_elsewhere(window))) / f64::from(self.count)
    }

    /// The chance that one mapping is at the address that the server has seen.
    pub(super) fn vouched(self) -> f64 {
        if self.is_vouched { 1.0 / f64::from(self.count) } else { 0.0 }
    }
}

/// Ports that are guessed in a round at addresses that nobody vouches for, all together. Each gets two packets, so three
/// rounds stay within the total of an attempt for such addresses.
const GUESSES_ELSEWHERE: u32 = 10;

/// What is known of the next port.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Next {
    /// It is the local one, for the first mapping of a socket.
    Local,
    /// It is a step from the last one; others open this many mappings a second meanwhile.
    Step {
        /// Mappings a second.
        cross_traffic: f64,
    },
    /// Nothing.
    Anywhere,
}

impl Ports {
    /// All ports but the well-known ones, at random: the least that can be known.
    pub const ANYWHERE: Self = Self { next: Next::Anywhere, range: 64512, addresses: Addresses::ONE };

    /// What a measured allocation tells of the next port, with the mappings a second that others were seen to open. The
    /// one rule for it: the verdict and both sides of a punch have to come to the same numbers, whatever a peer says.
    #[must_use]
    pub fn of(measured: &PortAllocation, cross_traffic: Option<f64>) -> Self {
        let (low, high) = ports_to_try(measured);
        let addresses = Addresses {
            count: measured.external_ips.clamp(1, MOST_IPS),
            by_destination: measured.external_ip_by_destination == Some(true),
            is_vouched: true,
        };
        let of_one = u32::from(high - low) + 1;
        let range = if addresses.by_destination { of_one } else { of_one * addresses.count };
        let next = match measured.policy {
            PortPolicy::Preserving => Next::Local,
            PortPolicy::Sequential => {
                let seen = cross_traffic.filter(|rate| rate.is_finite()).unwrap_or(CROSS_TRAFFIC);
                Next::Step { cross_traffic: seen.clamp(CROSS_TRAFFIC, MOST_CROSS_TRAFFIC) }
            }
            PortPolicy::Random | PortPolicy::Block => Next::Anywhere,
        };
        Self { next, range, addresses }
    }

    /// Ports of one external address.
    pub(super) fn of_one_address(self) -> u32 {
        if self.addresses.by_destination { self.range } else { self.range / self.addresses.count }
    }

    /// New mappings of others that fall between a sample and its use.
    pub(super) fn passed_over(self, gap_s: f64) -> Option<f64> {
        match self.next {
            Next::Local => Some(0.0),
            Next::Step { cross_traffic } => Some(cross_traffic * gap_s),
            Next::Anywhere => None,
        }
    }
}

/// Lowest and highest port among which a port of this allocation is looked for. The ends of a block are estimated from
/// a sample, and may lie beyond its extremes: an eighth on either side is several times the mean gap between samples.
#[must_use]
pub fn ports_to_try(measured: &PortAllocation) -> (u16, u16) {
    // Whatever a peer says of its range: nobody guesses at the ports of well-known services.
    let floor = |port: u16| port.max(LOWEST_PORT);
    let low = floor(measured.range.0.min(measured.range.1));
    let high = floor(measured.range.0.max(measured.range.1));
    match measured.policy {
        PortPolicy::Block => {
            let margin = (high - low) / 8 + 1;
            (floor(low.saturating_sub(margin)), high.saturating_add(margin))
        }
        PortPolicy::Preserving | PortPolicy::Sequential | PortPolicy::Random => (low, high),
    }
}

/// What others behind a NAT that counts its ports up are believed to open meanwhile, in mappings a second, where that
/// was not measured. The fraction of a second that a run takes cannot show that it is less.
pub const CROSS_TRAFFIC: f64 = 10.0;
/// With more of it no window is wide enough.
pub(super) const MOST_CROSS_TRAFFIC: f64 = 1000.0;
/// Addresses that a NAT may have besides; more would make every number meaningless.
pub(super) const MOST_IPS: u32 = 64;
