//! Which sockets are opened when: those of both timers, and those that show what refreshes a mapping. Pure.

use std::time::Duration;

use super::{
    CheckMethod,
    constants::{
        ELSEWHERE_OPENED, FIRST_NEW_STREAM, NEW_STREAMS_APART, OUTBOUND_OPENED, RESERVE_CHECKPOINT,
        RESERVE_FINE_PROBE, RESERVE_FROM, RESERVE_RATE, UNREPLIED_AFTER_STREAMS,
    },
    observe::Role,
    schedule::Schedule,
};

/// A socket to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Opening {
    /// When, after the start.
    pub(super) at: Duration,
    /// What its mapping is for.
    pub(super) role: Role,
    /// How long it can wait.
    pub(super) kind: OpeningKind,
}

/// How long the opening of a socket can wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum OpeningKind {
    /// Not at all: the first checkpoints, and mappings that are kept in use.
    Immediate,
    /// A little: a fine probe that is late has another idle time.
    FineProbe,
    /// Well: a checkpoint that is not due for some time.
    Checkpoint,
}

impl OpeningKind {
    /// Packets to keep for checks when such a socket is opened so long after the start: soon the first mappings may
    /// expire, and then checks must not have to wait.
    pub(super) fn reserve(self, since: Duration) -> usize {
        let grown = (since.as_secs_f64() - RESERVE_FROM) * RESERVE_RATE;
        match self {
            Self::Immediate => 0,
            Self::FineProbe => grown.clamp(0.0, RESERVE_FINE_PROBE) as usize,
            Self::Checkpoint => grown.clamp(0.0, RESERVE_CHECKPOINT) as usize,
        }
    }
}

/// All openings, in the order of time. So many sockets of earlier measurements are reused for streams.
pub(super) fn openings(
    method: CheckMethod,
    unreplied: &Schedule,
    stream: &Schedule,
    reused: usize,
) -> Vec<Opening> {
    let immediate = |at, role| Opening { at, role, kind: OpeningKind::Immediate };
    let mut openings = Vec::new();
    let timers: &[(Role, &Schedule, Duration)] = match method {
        CheckMethod::ResponsePort { .. } => {
            openings.push(immediate(Duration::ZERO, Role::Inbound));
            &[(Role::Stream, stream, Duration::ZERO), (Role::Unreplied, unreplied, UNREPLIED_AFTER_STREAMS)]
        }
        CheckMethod::SendAgain => &[(Role::Stream, stream, Duration::ZERO)],
    };
    for &(role, schedule, after) in timers {
        openings.extend(schedule.checkpoint_openings().map(|at| {
            if at.is_zero() {
                immediate(at, role)
            } else {
                Opening { at: at + after, role, kind: OpeningKind::Checkpoint }
            }
        }));
        let fine = schedule.fine_probes.iter();
        openings.extend(fine.map(|&at| Opening { at, role, kind: OpeningKind::FineProbe }));
    }
    if let CheckMethod::ResponsePort { .. } = method {
        openings.push(immediate(ELSEWHERE_OPENED, Role::Elsewhere));
        openings.push(immediate(OUTBOUND_OPENED, Role::Outbound));
    }
    openings.sort_by_key(|opening| opening.at);
    if reused > 0 {
        reuse(&mut openings, reused);
    }
    openings
}

/// Leaves out streams that reused sockets serve. Those are streams earlier than new ones, so the first new ones are opened
/// earlier, too, to close the gap.
fn reuse(openings: &mut Vec<Opening>, mut reused: usize) {
    openings.retain(|opening| {
        let served = reused > 0 && opening.role == Role::Stream && opening.kind != OpeningKind::FineProbe;
        reused -= usize::from(served);
        !served
    });
    let new = openings.iter_mut().filter(|o| o.role == Role::Stream && o.kind == OpeningKind::Checkpoint);
    for (opening, n) in new.zip(0..) {
        opening.at = opening.at.min(FIRST_NEW_STREAM + NEW_STREAMS_APART * n);
    }
    openings.sort_by_key(|opening| opening.at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::lifetime::constants::{STREAM_SETUP, UNREPLIED_SETUP};

    fn schedules(longest: u64) -> (Schedule, Schedule) {
        let schedule = |setup| Schedule::new(Duration::from_secs(longest), setup);
        (schedule(UNREPLIED_SETUP), schedule(STREAM_SETUP))
    }

    #[test]
    fn the_first_seconds_are_for_what_cannot_wait() {
        let (unreplied, stream) = schedules(180);
        let openings = openings(CheckMethod::ResponsePort { long: false }, &unreplied, &stream, 0);
        assert!(openings.is_sorted_by_key(|opening| opening.at));
        assert_eq!(openings.len(), unreplied.sockets() + stream.sockets() + 3);
        let immediate = || openings.iter().filter(|o| o.kind == OpeningKind::Immediate);
        assert!(immediate().count() <= 10);
        assert!(immediate().all(|o| o.at <= Duration::from_secs(3)));
    }

    #[test]
    fn reused_sockets_save_opening_others() {
        let (unreplied, stream) = schedules(60);
        let count =
            |reused| openings(CheckMethod::ResponsePort { long: false }, &unreplied, &stream, reused).len();
        assert_eq!(count(5), count(0) - 5);
        assert!(count(1000) >= unreplied.sockets() + stream.fine_probes.len());
    }

    #[test]
    fn what_can_wait_leaves_packets_for_checks() {
        let late = Duration::from_secs(6);
        let reserve = OpeningKind::reserve;
        assert!(reserve(OpeningKind::Immediate, late) < reserve(OpeningKind::FineProbe, late));
        assert!(reserve(OpeningKind::FineProbe, late) < reserve(OpeningKind::Checkpoint, late));
        assert_eq!(reserve(OpeningKind::Checkpoint, Duration::ZERO), 0);
    }
}
