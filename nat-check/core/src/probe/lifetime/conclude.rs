//! What the observations amount to: brackets, what refreshes, how mappings expire, and why a thing is not known. Pure.

mod method;
mod reasons;
pub(super) mod refresh;

use std::time::Duration;

pub(super) use method::method;
pub(super) use reasons::progress;
use shared::nat::{Granularity, Lifetime, Refresh};

use super::{
    CheckMethod, PROBE, PURPOSE,
    bracket::{ChangePoint, Sample},
    constants::LONGEST_WITHIN,
    expiry_model,
    invalidation::{invalidates, reassigned},
    observe::{MappingHistory, Observations, Role, Timeouts},
};
use crate::{
    observation::ObservationLog,
    probe::Found,
    report::{Confidence, Finding, ReasonCode},
};

const METHOD: &str =
    "one pass: mappings side by side, each looked at once at an idle time of its own (RFC 5780 4.6)";
const METHOD_SEND_AGAIN: &str =
    "one pass: mappings side by side, each sends again after an idle time of its own";

/// Draws the conclusion.
pub(super) fn conclude(log: &ObservationLog, found: &Found) -> Finding<Lifetime> {
    let Some(longest) = log.lifetime else {
        return Finding::unknown((ReasonCode::NotAskedFor, "not asked for (--lifetime)"), METHOD);
    };
    let method = match method(log, found) {
        Ok(CheckMethod::ResponsePort { .. }) => METHOD,
        Ok(CheckMethod::SendAgain) => METHOD_SEND_AGAIN,
        Err(why) => return Finding::unknown(why, METHOD),
    };
    let response_timeout = log.ended.saturating_sub(log.timed_out_before);
    let observations = Observations::of(log, Timeouts { sent_until: log.timed_out_before, response_timeout });
    let timers = [Role::Unreplied, Role::Stream].map(|role| samples(&observations, role));
    let refresh = refresh::refreshing(log, &observations).refresh;
    let finding = match invalidates(log, &observations, timers.each_ref().map(Vec::as_slice), refresh) {
        Some(why) => Finding::unknown(why, method),
        None => judge(log, &observations, &timers, refresh, longest, method),
    };
    let count = |what: fn(&MappingHistory) -> bool| observations.mappings.iter().filter(|m| what(m)).count();
    let begun = log.of(PURPOSE).next().map_or(log.ended, |t| t.sent);
    finding
        .with("sockets", observations.mappings.len() + 1)
        .with("mapped", count(|m| m.external.is_some()))
        .with("looked_at", count(|m| m.checks > 0 && matches!(m.role, Role::Unreplied | Role::Stream)))
        .with("reassigned", reassigned(log))
        .with("packets", log.of_measurement(PROBE.name).count())
        .with("controls", observations.controls)
        .with("controls_answered", observations.controls_answered)
        .with("longest_s", longest.as_secs_f64())
        .with("took_s", rounded(log.ended.saturating_sub(begun)))
}

/// How mappings expire.
fn granularity(observations: &Observations) -> Option<Granularity> {
    let timers = [Role::Unreplied, Role::Stream].map(|role| tentative_samples(observations, role));
    expiry_model::granularity(&timers.each_ref().map(Vec::as_slice), observations.loss())
}

/// By how much lifetimes differ, as far as is known.
pub(super) fn slack(observations: &Observations) -> Duration {
    granularity(observations).map_or(Duration::ZERO, |found| Duration::from_secs_f64(found.seconds))
}

/// Whether nothing is left to find out about that.
pub(super) fn granularity_is_settled(observations: &Observations) -> bool {
    let timers = [Role::Unreplied, Role::Stream].map(|role| tentative_samples(observations, role));
    expiry_model::is_settled(&timers.each_ref().map(Vec::as_slice), observations.loss())
}

/// Between which idle times mappings of this role expire, if both are known.
pub(super) fn bounds(observations: &Observations, role: Role) -> Option<(Duration, Duration)> {
    bounds_of(&samples(observations, role))
}

fn bounds_of(samples: &[Sample]) -> Option<(Duration, Duration)> {
    let change = ChangePoint::of(samples);
    Some((change.alive?, change.expired?))
}

fn samples(observations: &Observations, role: Role) -> Vec<Sample> {
    observations.usable(role).filter_map(Sample::of).collect()
}

/// The same, with what was silent but is not certain.
fn tentative_samples(observations: &Observations, role: Role) -> Vec<Sample> {
    observations.usable(role).filter_map(Sample::tentative).collect()
}

fn judge(
    log: &ObservationLog,
    observations: &Observations,
    timers: &[Vec<Sample>; 2],
    refresh: Refresh,
    longest: Duration,
    method: &str,
) -> Finding<Lifetime> {
    if let Some(reason) = reasons::no_timer(observations, timers) {
        return Finding::unknown(reason, method);
    }
    let [unreplied, stream] = timers.each_ref().map(|samples| ChangePoint::of(samples));
    let (unreplied_bracket, stream_bracket) = (unreplied.bracket(), stream.bracket());
    if unreplied_bracket.is_none() && stream_bracket.is_none() {
        return Finding::unknown(reasons::nothing_known(log, observations), method);
    }
    let value = Lifetime {
        unreplied: unreplied_bracket,
        stream: stream_bracket,
        refresh,
        granularity: granularity(observations),
    };
    let is_unfinished = |change: &ChangePoint| {
        change.expired.is_none() && change.alive.is_none_or(|alive| alive + LONGEST_WITHIN < longest)
    };
    let unfinished: Vec<&str> = [("unreplied", unreplied), ("stream", stream)]
        .into_iter()
        .filter_map(|(name, change)| is_unfinished(&change).then_some(name))
        .collect();
    let finding = Finding::known(value, Confidence::Strong, method);
    let finding = if !unfinished.is_empty() {
        finding.at_most(Confidence::Weak).because(reasons::unfinished(observations, &unfinished))
    } else {
        match reasons::mapping_limit(observations) {
            Some(reason) => finding.because(reason),
            None => finding,
        }
    };
    let [unreplied, stream] = timers.each_ref().map(|samples| evidence(samples));
    finding.with("unreplied_looks", unreplied).with("stream_looks", stream)
}

/// Idle times and what was seen, in order.
fn evidence(samples: &[Sample]) -> Vec<(f64, &'static str)> {
    let mut list: Vec<_> =
        samples.iter().map(|s| (rounded(s.idle), if s.alive { "alive" } else { "gone" })).collect();
    list.sort_by(|a, b| a.0.total_cmp(&b.0));
    list
}

fn rounded(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}
