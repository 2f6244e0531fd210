//! Which sockets are opened, and when: those that tell of refreshing, the rungs of both timers, the teeth. Pure.

use std::time::Duration;

use super::{Way, ladder::Ladder, observe::Role};

/// A socket to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// When, after the start.
    pub(super) at: Duration,
    /// What its mapping is for.
    pub(super) role: Role,
    /// What becomes of the plan without it.
    pub(super) need: Need,
}

/// How well a socket can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Need {
    /// Not at all: the first rungs, and what is kept busy.
    Now,
    /// A little: a tooth that is late is at another place of the comb.
    Soon,
    /// Well: a rung that will not be looked at for some time.
    Later,
}

impl Need {
    /// Packets that are left for looks, so long after the start, when one of these is opened: soon the first mappings
    /// may end, and then looks must not have to wait.
    pub(super) fn reserve(self, since: Duration) -> usize {
        let grown = (since.as_secs_f64() - 2.0) * 4.0;
        match self {
            Self::Now => 0,
            Self::Soon => grown.clamp(0.0, 8.0) as usize,
            Self::Later => grown.clamp(0.0, 20.0) as usize,
        }
    }
}

/// Mappings without answers are ready at once, streams only later: so they are begun in this order.
const UNREPLIED_LATER: Duration = Duration::from_millis(600);

/// Time between the first new streams, where others were adopted.
const BETWEEN: Duration = Duration::from_millis(350);

/// Everything, in the order of time. Some sockets that are open anyway serve for streams.
pub(super) fn plan(way: Way, unreplied: &Ladder, stream: &Ladder, adopted: usize) -> Vec<Opening> {
    let now = |role| Opening { at: Duration::ZERO, role, need: Need::Now };
    let mut plan = Vec::new();
    let ladders: &[(Role, &Ladder, Duration)] = match way {
        Way::Reach { .. } => {
            plan.push(now(Role::Inbound));
            &[(Role::Stream, stream, Duration::ZERO), (Role::Unreplied, unreplied, UNREPLIED_LATER)]
        }
        Way::Again => &[(Role::Stream, stream, Duration::ZERO)],
    };
    for (role, ladder, later) in ladders {
        plan.extend(ladder.due().map(|at| match at.is_zero() {
            true => now(*role),
            false => Opening { at: at + *later, role: *role, need: Need::Later },
        }));
        plan.extend(ladder.teeth.iter().map(|&at| Opening { at, role: *role, need: Need::Soon }));
    }
    if let Way::Reach { .. } = way {
        let kept = [(1500, Role::Elsewhere), (2600, Role::Outbound)];
        plan.extend(kept.map(|(at, role)| Opening { at: Duration::from_millis(at), ..now(role) }));
    }
    plan.sort_by_key(|opening| opening.at);
    let mut spared = adopted;
    plan.retain(|opening| {
        let spare = spared > 0 && opening.role == Role::Stream && opening.need != Need::Soon;
        spared -= usize::from(spare);
        !spare
    });
    if adopted > 0 {
        // Those are streams earlier than new ones: the first new ones close the gap between.
        let later = plan.iter_mut().filter(|o| o.role == Role::Stream && o.need == Need::Later);
        for (opening, n) in later.zip(0..) {
            opening.at = opening.at.min(BETWEEN / 4 + BETWEEN * n);
        }
        plan.sort_by_key(|opening| opening.at);
    }
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::lifetime::{STREAM_HEAD, UNREPLIED_HEAD};

    #[test]
    fn the_first_second_is_for_what_cannot_wait() {
        let longest = Duration::from_secs(180);
        let (unreplied, stream) = (Ladder::new(longest, UNREPLIED_HEAD), Ladder::new(longest, STREAM_HEAD));
        let plan = plan(Way::Reach { long: false }, &unreplied, &stream, 0);
        assert!(plan.is_sorted_by_key(|opening| opening.at));
        assert_eq!(plan.len(), unreplied.sockets() + stream.sockets() + 3);
        assert!(plan.iter().filter(|o| o.need == Need::Now).count() <= 10);
        assert!(plan.iter().filter(|o| o.need == Need::Now).all(|o| o.at <= Duration::from_secs(3)));
    }

    #[test]
    fn sockets_that_are_open_anyway_spare_others() {
        let longest = Duration::from_secs(60);
        let (unreplied, stream) = (Ladder::new(longest, UNREPLIED_HEAD), Ladder::new(longest, STREAM_HEAD));
        let count = |adopted| plan(Way::Reach { long: false }, &unreplied, &stream, adopted).len();
        assert_eq!(count(5), count(0) - 5);
        assert!(count(1000) >= unreplied.sockets() + stream.teeth.len());
    }

    #[test]
    fn what_can_wait_leaves_packets_for_looks() {
        let late = Duration::from_secs(6);
        assert!(Need::Now.reserve(late) < Need::Soon.reserve(late));
        assert!(Need::Soon.reserve(late) < Need::Later.reserve(late));
        assert_eq!(Need::Later.reserve(Duration::ZERO), 0);
    }
}
