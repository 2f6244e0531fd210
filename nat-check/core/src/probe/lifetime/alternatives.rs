//! What else than a timer may have ended mappings: the NAT keeps only so many and gave up the oldest for new ones, or it
//! lost its state once. Pure.
//!
//! Each is a hypothesis about all mappings, which one that was found alive in spite of it refutes. What the run itself
//! does not refute is put to the test by a *lone* mapping: one that is opened when all else is done, with nothing opened
//! after it. A timer ends it, too.

use std::time::Duration;

use super::{
    bracket::Sample,
    constants::{BOUNDARY_MARGIN, BOUNDARY_SHARE, CONFIRMED_BELOW},
    observe::{MappingHistory, Observations, Role},
};

/// What may have ended mappings instead of a timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alternative {
    /// New mappings, which took the place of the oldest ones.
    Evicted,
    /// One moment at which the NAT lost its state.
    StateLost,
}

/// What may have ended the mappings of this role just as well as the timer that they seem to show, if anything.
pub(super) fn alternative(observations: &Observations, role: Role) -> Option<Alternative> {
    let gone = first_gone(observations, role);
    // Later, hardly any mappings are opened any more, and many have survived.
    gone.iter().map(|(_, s)| s.idle).min().filter(|shortest| *shortest < CONFIRMED_BELOW)?;
    let alive: Vec<_> = observations.mappings.iter().filter_map(sampled).filter(|(_, s)| s.alive).collect();
    if one_moment_explains(&gone, &alive) {
        return Some(Alternative::StateLost);
    }
    let orders = [opened_at as fn(&MappingHistory) -> Duration, used_at];
    orders
        .into_iter()
        .any(|order| evictions_explain(observations, &gone, &alive, order))
        .then_some(Alternative::Evicted)
}

type Sampled<'a> = (&'a MappingHistory, Sample);

fn sampled(mapping: &MappingHistory) -> Option<Sampled<'_>> {
    Some((mapping, Sample::of(mapping)?))
}

/// What the upper bound of the lifetime stands on: those that were gone after the shortest idle times.
fn first_gone(observations: &Observations, role: Role) -> Vec<Sampled<'_>> {
    let gone = || observations.usable(role).filter_map(sampled).filter(|(_, s)| !s.alive);
    let Some(shortest) = gone().map(|(_, s)| s.idle).min() else { return Vec::new() };
    let most = shortest.mul_f64(1.0 + BOUNDARY_SHARE) + BOUNDARY_MARGIN;
    gone().filter(|(_, s)| s.idle <= most).collect()
}

/// Whether there is a moment between the use and the check of all that are gone, which none that is alive has survived.
fn one_moment_explains(gone: &[Sampled<'_>], alive: &[Sampled<'_>]) -> bool {
    let first = gone.iter().map(|(_, s)| s.used.earliest).max().unwrap_or_default();
    let last = gone.iter().map(|(_, s)| s.checked.earliest).min().unwrap_or_default();
    let mut survived: Vec<_> = alive.iter().map(|(_, s)| (s.used.latest, s.checked.earliest)).collect();
    survived.sort_unstable();
    // From one survivor to the next: what is left of the interval.
    let open =
        survived.into_iter().fold(first, |open, (from, to)| if from <= open { open.max(to) } else { open });
    // Those of one instant are checked one after another.
    open + INSTANT < last
}

/// Checks of one instant leave this close together.
const INSTANT: Duration = Duration::from_millis(50);

/// Whether all that are gone had more others come after them, in this order, than any that is alive.
fn evictions_explain(
    observations: &Observations,
    gone: &[Sampled<'_>],
    alive: &[Sampled<'_>],
    order: fn(&MappingHistory) -> Duration,
) -> bool {
    let later = |mapping: &MappingHistory, until: Duration| {
        let place = (order(mapping), mapping.socket);
        let comes_after = |m: &&MappingHistory| (order(m), m.socket) > place && order(m) < until;
        observations.mappings.iter().filter(comes_after).count()
    };
    let survived = alive.iter().map(|(m, s)| later(m, s.checked.earliest)).max().unwrap_or_default();
    let outlived = gone.iter().map(|(m, s)| later(m, s.checked.latest)).min().unwrap_or_default();
    outlived > survived
}

fn opened_at(mapping: &MappingHistory) -> Duration {
    mapping.first_sent
}

fn used_at(mapping: &MappingHistory) -> Duration {
    mapping.last_sent
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::SocketId,
        probe::lifetime::observe::{TimeRange, Timeouts},
    };

    fn sample(used: f64, checked: f64, alive: bool) -> Sample {
        let at = Duration::from_secs_f64;
        let exactly = |t| TimeRange { earliest: at(t), latest: at(t) };
        let idle = at(checked - used);
        Sample { used: exactly(used), checked: exactly(checked), idle, alive, unanswered: 3 }
    }

    fn one_moment(gone: &[(f64, f64)], alive: &[(f64, f64)]) -> bool {
        let timeouts = Timeouts { sent_until: Duration::ZERO, response_timeout: Duration::ZERO };
        let any = MappingHistory::set_up(Role::Unreplied, SocketId(0), &[], timeouts);
        let of = |list: &[(f64, f64)], alive| -> Vec<_> {
            list.iter().map(|s| (&any, sample(s.0, s.1, alive))).collect()
        };
        one_moment_explains(&of(gone, false), &of(alive, true))
    }

    #[test]
    fn a_moment_that_a_mapping_survived_did_not_end_the_others() {
        assert!(one_moment(&[(0.0, 3.9), (2.0, 3.9)], &[(3.1, 4.0)]), "nothing was alive from 2 to 3.1 s");
        assert!(!one_moment(&[(0.0, 20.9), (1.5, 21.0)], &[(0.9, 16.9), (2.2, 21.0)]));
        assert!(one_moment(&[(0.0, 20.9), (1.5, 21.0)], &[(0.9, 16.9), (17.5, 21.0)]));
        assert!(!one_moment(&[(0.0, 3.9), (5.0, 9.0)], &[]), "gone at two times, with no moment in common");
    }
}
