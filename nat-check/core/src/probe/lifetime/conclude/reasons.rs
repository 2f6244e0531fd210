//! The sentences about what is not known yet, or never will be. Pure.

use std::time::Duration;

use super::samples;
use crate::{
    observation::ObservationLog,
    probe::lifetime::{
        PURPOSE,
        alternatives::{Alternative, alternative},
        bracket::{ChangePoint, Sample},
        constants::{ELSEWHERE_MAPPED, UNMAPPED},
        observe::{Observations, Role},
    },
    report::{Reason, ReasonCode},
};

/// Why a timer has no upper bound, and no long enough lower one.
pub(super) fn unfinished(observations: &Observations, timers: &[&str]) -> Reason {
    let which = timers.join(" and ");
    if let Some(limit) = mapping_limit(observations) {
        return limit.map(|text| format!("{which}: {text}"));
    }
    if observations.checks_needed.is_none() {
        let text = format!("{which}: too much loss to tell what is gone from what is lost");
        return (ReasonCode::TooMuchLoss, text).into();
    }
    (ReasonCode::Unfinished, format!("{which}: the measurement did not come to its end")).into()
}

/// That the NAT gives a host only so many mappings, where it does.
pub(super) fn mapping_limit(observations: &Observations) -> Option<Reason> {
    let sockets = observations.mappings.len();
    let mapped = observations.mappings.iter().filter(|m| m.external.is_some()).count();
    (mapped + UNMAPPED < sockets).then(|| {
        let text =
            format!("of {sockets} sockets only {mapped} got through, so the NAT seems to hold no more mappings for one host");
        (ReasonCode::MappingLimit, text).into()
    })
}

/// What ended mappings instead of a timer, or may have, where nothing shows that it was one.
pub(super) fn no_timer(observations: &Observations, timers: &[Vec<Sample>; 2]) -> Option<Reason> {
    let roles = [Role::Unreplied, Role::Stream];
    let other = roles.into_iter().find_map(|role| alternative(observations, role))?;
    let survived = timers.iter().flatten().filter(|s| s.alive).map(|s| s.idle).max().unwrap_or_default();
    let survived = survived.as_secs_f64();
    Some(match other {
        Alternative::Evicted => {
            let text = format!(
                "mappings were gone as soon as so many others had been opened, and not after a time: the NAT seems to keep \
                 no more for one host and to end the oldest; one that was left alone survived {survived:.1} s"
            );
            (ReasonCode::MappingLimit, text).into()
        }
        Alternative::StateLost => {
            let text = "one moment explains all mappings that were gone, and a timer does not: the NAT seems to have lost \
                        its state during the measurement";
            (ReasonCode::NatStateLost, text).into()
        }
    })
}

/// Why neither timer has a bound.
pub(super) fn nothing_known(log: &ObservationLog, observations: &Observations) -> Reason {
    let on_another_address =
        observations.mappings.iter().filter(|m| m.external.is_some() && !observations.is_usable(m)).count();
    if log.of(PURPOSE).next().is_none() {
        return (ReasonCode::Unfinished, "the measurement did not begin").into();
    }
    if observations.requester.is_empty() {
        let text = "no further socket got through, so the NAT seems to hold no more mappings for one host";
        return (ReasonCode::MappingLimit, text).into();
    }
    if on_another_address > ELSEWHERE_MAPPED {
        let text = "the NAT gives this host's sockets different external addresses, so that they cannot be reached \
                    from one another's answers";
        return (ReasonCode::SeveralExternalAddresses, text).into();
    }
    (ReasonCode::Unfinished, "no mapping was looked at before the run ended").into()
}

/// What is known so far, for a progress line.
pub(in crate::probe::lifetime) fn progress(observations: &Observations, now: Duration) -> String {
    let timers = [(Role::Unreplied, "without an answer"), (Role::Stream, "with traffic both ways")];
    let parts = timers.into_iter().filter_map(|(role, name)| {
        let state = progress_of(observations, role, now)?;
        Some(format!("{name}: {state}"))
    });
    parts.collect::<Vec<_>>().join("; ")
}

fn progress_of(observations: &Observations, role: Role, now: Duration) -> Option<String> {
    let change = ChangePoint::of(&samples(observations, role));
    match (change.alive, change.expired) {
        (alive, Some(expired)) => {
            let alive = alive.unwrap_or_default().as_secs_f64();
            Some(format!("gone after {alive:.1} to {:.1} s", expired.as_secs_f64()))
        }
        (Some(alive), None) => Some(format!("still open after {:.0} s", alive.as_secs_f64().floor())),
        (None, None) => {
            let is_waiting = observations.of_role(role).any(|m| m.idle(now).is_some());
            is_waiting.then(|| "waiting".into())
        }
    }
}
