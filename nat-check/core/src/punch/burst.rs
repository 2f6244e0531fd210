//! What one side sends in a round over UDP, and when. Pure.

use std::{net::SocketAddr, time::Duration};

/// From a local socket to a remote endpoint: a candidate pair (RFC 8445 section 5.7), or the path that it turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) socket: usize,
    pub(super) remote: SocketAddr,
}

/// The packets of a round.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Burst {
    /// From which socket to where, in order.
    pub(super) targets: Vec<Path>,
    /// How many at the end of them get only the first [`BRIEF`] packets of a repeated burst.
    pub(super) brief: usize,
    /// Whether all of it is sent again and again, or goes through once, [`SEND_INTERVAL`] apart.
    pub(super) is_repeated: bool,
    /// When the first one leaves.
    pub(super) after: Duration,
    /// How long the round lasts.
    pub(super) window: Duration,
}

/// Between two packets of a long burst: 100 a second.
pub(super) const SEND_INTERVAL: Duration = Duration::from_millis(10);
/// Between two packets of a first pass, which has at most 128.
pub(super) const FIRST_PASS_INTERVAL: Duration = Duration::from_millis(2);
/// Longest that a burst to a few targets takes.
pub(super) const SHORT_WINDOW: Duration = Duration::from_secs(3);
/// When a short burst is sent again, in milliseconds from its beginning.
pub(super) const RESEND_AT_MS: [u64; 12] = [0, 60, 140, 250, 400, 600, 850, 1150, 1500, 1900, 2350, 2700];
/// Packets for each target that nobody vouches for: one may get lost.
const BRIEF: usize = 2;
/// Targets to which all packets may leave in nearly the same moment, again and again.
const FEW: usize = 8;
/// For responses to the last packet of a long burst.
const LAST_RESPONSE: Duration = Duration::from_millis(500);

/// Every socket to every remote endpoint.
pub(super) fn pairs(sockets: &[usize], remotes: &[SocketAddr]) -> Vec<Path> {
    let from = |socket: usize| remotes.iter().map(move |remote| Path { socket, remote: *remote });
    sockets.iter().copied().flat_map(from).collect()
}

impl Burst {
    /// To targets that are tried again and again: a few for some seconds, many three times.
    pub(super) fn short(targets: Vec<Path>) -> Self {
        let count = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        let long = (FIRST_PASS_INTERVAL + SEND_INTERVAL * 2) * count + LAST_RESPONSE;
        let window = if targets.len() > FEW { SHORT_WINDOW.max(long) } else { SHORT_WINDOW };
        Self { targets, brief: 0, is_repeated: true, after: Duration::ZERO, window }
    }

    /// And to these, but twice only.
    pub(super) fn and_briefly(mut self, targets: Vec<Path>) -> Self {
        self.brief = targets.len();
        self.targets.extend(targets);
        self
    }

    /// When packet `number` leaves; none where there is no such packet.
    pub(super) fn at(&self, number: usize) -> Option<Duration> {
        if self.targets.is_empty() {
            return None;
        }
        if !self.is_repeated {
            let count = u32::try_from(number).unwrap_or(u32::MAX);
            return (number < self.targets.len()).then(|| self.after + SEND_INTERVAL * count);
        }
        let (pass, place) = self.place(number)?;
        // Several targets: not all in one moment. Where ports are predicted, others must not take them in between, so the
        // first pass is quick; many packets keep to the usual interval from then on.
        let (apart, earliest) = match u32::try_from(pass).unwrap_or(u32::MAX) {
            again @ 1.. if self.targets.len() > FEW => {
                (SEND_INTERVAL, (FIRST_PASS_INTERVAL + SEND_INTERVAL * (again - 1)) * self.count())
            }
            _ => (FIRST_PASS_INTERVAL, Duration::ZERO),
        };
        let begin = Duration::from_millis(*RESEND_AT_MS.get(pass)?).max(earliest);
        Some(self.after + begin + apart * u32::try_from(place).unwrap_or(u32::MAX))
    }

    /// Where packet `number` goes.
    pub(super) fn target(&self, number: usize) -> Option<Path> {
        self.targets.get(self.place(number)?.1).copied()
    }

    /// In which pass packet `number` is, and at which place in it.
    fn place(&self, number: usize) -> Option<(usize, usize)> {
        let all = self.targets.len();
        match number.checked_sub(BRIEF * all) {
            None => Some((number / all, number % all)),
            Some(later) => {
                let kept = all - self.brief;
                Some((BRIEF + later.checked_div(kept)?, later % kept))
            }
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.targets.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(count: u16) -> Vec<Path> {
        let remotes: Vec<_> = (0..count).map(|n| SocketAddr::from(([203, 0, 113, 9], 5000 + n))).collect();
        pairs(&[0], &remotes)
    }

    #[test]
    fn a_few_targets_are_tried_again_and_again_and_then_no_more() {
        let burst = Burst::short(targets(2));
        let times: Vec<_> = (0..).map_while(|number| burst.at(number)).collect();
        assert_eq!(times.len(), 2 * RESEND_AT_MS.len());
        assert_eq!(times[..4], [0, 2, 60, 62].map(Duration::from_millis));
        assert!(times.iter().all(|at| *at < burst.window));
        assert_eq!(burst.target(3), burst.target(1));
        assert_eq!(Burst::short(Vec::new()).at(0), None);
    }

    #[test]
    fn targets_that_nobody_vouches_for_get_two_packets() {
        let burst = Burst::short(targets(2)).and_briefly(targets(5)[2..].to_vec());
        let sent: Vec<_> =
            (0..).take_while(|n| burst.at(*n).is_some()).filter_map(|n| burst.target(n)).collect();
        let times = |n: usize| sent.iter().filter(|path| **path == targets(5)[n]).count();
        assert_eq!([0, 1, 2, 3, 4].map(times), [12, 12, 2, 2, 2]);
        let nothing_else = Burst::short(Vec::new()).and_briefly(targets(3));
        assert_eq!((0..).map_while(|n| nothing_else.at(n)).count(), 6);
    }

    #[test]
    fn many_targets_get_a_quick_first_pass_and_a_hundred_packets_a_second_after_it() {
        let burst = Burst::short(targets(64));
        assert_eq!(burst.at(63), Some(Duration::from_millis(126)));
        assert_eq!(burst.at(64), Some(Duration::from_millis(128)));
        assert_eq!(burst.at(65), Some(Duration::from_millis(138)));
        let once = Burst { is_repeated: false, ..burst };
        assert_eq!((once.at(63), once.at(64)), (Some(Duration::from_millis(630)), None));
    }
}
