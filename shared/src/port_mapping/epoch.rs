//! The epoch that a gateway tells: seconds since it lost its mappings. Two answers show whether it lost them in between
//! (RFC 6887 section 8.5, RFC 6886 section 3.6). Pure.

use std::time::Duration;

use super::Protocol;

/// An epoch as it was told, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// When the answer came, on any clock of this host.
    pub heard: Duration,
    /// What it said.
    pub told: u32,
}

impl Epoch {
    /// Whether the gateway lost its mappings between this answer and a later one. Its clock may run a little slower than this
    /// host's; for PCP also a little faster.
    #[must_use]
    pub fn is_lost_by(self, later: Self, protocol: Protocol) -> bool {
        let passed = later.heard.saturating_sub(self.heard).as_secs();
        let counted = u64::from(later.told.saturating_sub(self.told));
        let is_back = later.told.saturating_add(1) < self.told;
        match protocol {
            Protocol::NatPmp => is_back || counted + 2 < passed - passed / 8,
            Protocol::Pcp => {
                is_back || counted + 2 < passed - passed / 16 || passed + 2 < counted - counted / 16
            }
            // It tells none.
            Protocol::Upnp => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(protocol: Protocol, (heard, told): (u64, u32), (later, then): (u64, u32)) -> bool {
        let epoch = |heard, told| Epoch { heard: Duration::from_secs(heard), told };
        epoch(heard, told).is_lost_by(epoch(later, then), protocol)
    }

    #[test]
    fn a_clock_that_goes_on_has_lost_nothing() {
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            assert!(!lost(protocol, (0, 500), (0, 500)));
            assert!(!lost(protocol, (0, 500), (300, 800)));
            assert!(!lost(protocol, (0, 500), (0, 499)), "rounded");
            assert!(!lost(protocol, (0, 0), (300, 282)), "a slow clock");
            assert!(!lost(protocol, (0, u32::MAX), (0, u32::MAX)), "at its end");
        }
    }

    #[test]
    fn one_that_began_again_has() {
        for protocol in [Protocol::Pcp, Protocol::NatPmp] {
            assert!(lost(protocol, (0, 500), (0, 498)));
            assert!(lost(protocol, (0, 86_400), (3, 1)));
            assert!(lost(protocol, (0, 10), (300, 250)), "it is younger than the time that passed");
        }
    }

    #[test]
    fn only_pcp_takes_a_jump_forward_for_a_loss() {
        assert!(lost(Protocol::Pcp, (0, 10), (10, 900)));
        assert!(!lost(Protocol::NatPmp, (0, 10), (10, 900)));
        assert!(!lost(Protocol::Upnp, (0, 500), (0, 0)));
    }
}
