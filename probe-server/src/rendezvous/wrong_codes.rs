//! What wrong codes cost: a host that guesses may go on guessing slowly, and nothing else that it or its neighbours do
//! suffers from that.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use crate::prefix::Prefix;

/// One wrong code is forgiven so often.
const INTERVAL: Duration = Duration::from_secs(6);
/// Wrong codes at once, before that holds.
const BURST: u32 = 10;
/// Hosts that are remembered. More guess at a time only to be forgotten, which 48 random bits bear.
const HOSTS: usize = 4096;

/// When each host that has guessed is forgiven all of it (GCRA).
#[derive(Debug, Default)]
pub(super) struct WrongCodes(HashMap<Prefix, Duration>);

impl WrongCodes {
    /// Whether this host may try another code.
    pub(super) fn may_try(&self, from: IpAddr, now: Duration) -> bool {
        self.0.get(&Prefix::host(from)).is_none_or(|forgiven| *forgiven <= now + INTERVAL * (BURST - 1))
    }

    /// It gave a wrong one.
    pub(super) fn charge(&mut self, from: IpAddr, now: Duration) {
        if self.0.len() >= HOSTS {
            self.0.retain(|_, forgiven| *forgiven > now);
        }
        if self.0.len() >= HOSTS
            && let Some(least) = self.0.iter().min_by_key(|(_, forgiven)| **forgiven).map(|(host, _)| *host)
        {
            self.0.remove(&least);
        }
        let forgiven = self.0.entry(Prefix::host(from)).or_default();
        *forgiven = (*forgiven).max(now) + INTERVAL;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Duration = Duration::from_secs(1000);

    fn ip(n: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(n).into()
    }

    #[test]
    fn ten_at_once_and_ten_a_minute() {
        let mut wrong = WrongCodes::default();
        let mut guess = |now| {
            let may = wrong.may_try(ip(1), now);
            if may {
                wrong.charge(ip(1), now);
            }
            may
        };
        assert_eq!((0..100).take_while(|_| guess(T0)).count(), 10);
        assert!(!guess(T0 + Duration::from_secs(5)));
        let minute = (0..600).filter(|tenth| guess(T0 + Duration::from_millis(5000 + 100 * tenth))).count();
        assert_eq!(minute, 10);
        assert!(wrong.may_try(ip(2), T0), "its neighbours have not guessed");
    }

    #[test]
    fn memory_is_bounded_and_the_worst_is_remembered() {
        let mut wrong = WrongCodes::default();
        (0..BURST).for_each(|_| wrong.charge(ip(1), T0));
        for n in 2..20_000 {
            wrong.charge(ip(n), T0);
        }
        assert_eq!(wrong.0.len(), HOSTS);
        assert!(!wrong.may_try(ip(1), T0));
    }
}
