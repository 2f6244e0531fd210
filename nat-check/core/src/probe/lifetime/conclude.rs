//! What the looks amount to: brackets, what refreshes, how exactly mappings end, and why a thing is not known. Pure.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use shared::nat::{Filtering, Granularity, Lifetime, Mapping, PortPolicy, Refresh};

use super::{
    PROBE, PURPOSE, Way,
    fit::{Change, Sample},
    manner::{granularity, is_settled},
    observe::{Flow, ROUND_INTERVAL, Ripe, Role, Seen, State},
    upset::{reassigned, upset},
};
use crate::{
    observation::ObservationLog,
    probe::{filtering, mapping, port_allocation, response_port},
    report::{Confidence, Finding},
};

const METHOD: &str =
    "one pass: mappings side by side, each looked at once at an idle time of its own (RFC 5780 4.6)";
const METHOD_AGAIN: &str = "one pass: mappings side by side, each sends again after an idle time of its own";

/// Draws the conclusion.
#[must_use]
pub fn conclude(log: &ObservationLog) -> Finding<Lifetime> {
    let Some(longest) = log.lifetime else {
        return Finding::unknown("not asked for (--lifetime)", METHOD);
    };
    let way = match way(log) {
        Ok(way) => way,
        Err(why) => return Finding::unknown(why, METHOD),
    };
    let method = if way == Way::Again { METHOD_AGAIN } else { METHOD };
    let timed_out_before = Ripe {
        until: log.timed_out_before,
        response_timeout: log.ended.saturating_sub(log.timed_out_before),
    };
    let seen = Seen::of(log, timed_out_before);
    let finding = match void(log, &seen) {
        Some(why) => Finding::unknown(why, method),
        None => judge(log, &seen, longest, method),
    };
    let count = |what: fn(&Flow) -> bool| seen.flows.iter().filter(|f| what(f)).count();
    let packets = log.of_measurement(PROBE.name).count();
    let begun = log.of(PURPOSE).next().map_or(log.ended, |t| t.sent);
    finding
        .with("sockets", seen.flows.len() + 1)
        .with("mapped", count(|f| f.outside.is_some()))
        .with("looked_at", count(|f| f.looks > 0 && matches!(f.role, Role::Unreplied | Role::Stream)))
        .with("reassigned", reassigned(log))
        .with("packets", packets)
        .with("controls", seen.controls.0)
        .with("controls_answered", seen.controls.1)
        .with("longest_s", longest.as_secs_f64())
        .with("took_s", round(log.ended.saturating_sub(begun)))
}

/// How mappings can be looked at here, or why they cannot.
pub(super) fn way(log: &ObservationLog) -> Result<Way, String> {
    let mapping = mapping::conclude(log).value;
    let filtering = filtering::conclude(log).value;
    if mapping == Some(Mapping::Direct) && filtering == Some(Filtering::EndpointIndependent) {
        return Err("there is neither NAT nor filter here, so nothing expires".into());
    }
    let why = match response_port::reaction(log) {
        Some(response_port::Reaction::Honours { short, .. }) => return Ok(Way::Reach { long: !short }),
        Some(response_port::Reaction::Refuses(code)) => {
            format!("the server refuses to answer to another port (error {code})")
        }
        Some(response_port::Reaction::Ignores) => "the server cannot answer to another port".into(),
        None if response_port::scattered(log) => {
            "the NAT gives this host's sockets different external addresses, so one cannot have the server answer \
             to another"
                .into()
        }
        None => "it is not clear whether the server can answer to another port".to_owned(),
    };
    if mapping == Some(Mapping::Direct) {
        return Err(format!("{why}, and without translation nothing else shows that a filter has forgotten"));
    }
    match port_allocation::conclude(log).value.map(|ports| ports.policy) {
        Some(PortPolicy::Preserving) => Err(format!(
            "{why}, and this NAT keeps port numbers, so that a new mapping looks like the old one"
        )),
        Some(PortPolicy::Sequential | PortPolicy::Random | PortPolicy::Block) => Ok(Way::Again),
        None => Err(format!("{why}, and it is not known how this NAT chooses ports")),
    }
}

/// Which mappings may be used: those that are seen where the asking socket is seen.
pub(super) fn usable(seen: &Seen) -> impl Fn(&Flow) -> bool + use<> {
    let ips: BTreeSet<_> = seen.asker.iter().map(SocketAddr::ip).collect();
    move |flow| flow.outside.is_some_and(|outside| ips.contains(&outside.ip()))
}

/// What makes everything that was seen worthless.
fn void(log: &ObservationLog, seen: &Seen) -> Option<String> {
    let [unreplied, stream] = [Role::Unreplied, Role::Stream].map(|role| samples(seen, role));
    upset(log, seen, [&unreplied, &stream], refreshing(log, seen).refresh)
}

fn samples(seen: &Seen, role: Role) -> Vec<Sample> {
    let usable = usable(seen);
    seen.of_role(role).filter(|f| usable(f)).filter_map(Sample::of).collect()
}

/// How exactly mappings end.
pub(super) fn manner(seen: &Seen) -> Option<Granularity> {
    granularity(&[&maybe(seen, Role::Unreplied), &maybe(seen, Role::Stream)], seen.loss())
}

/// Whether nothing is left to ask about that.
pub(super) fn manner_is_settled(seen: &Seen) -> bool {
    is_settled(&[&maybe(seen, Role::Unreplied), &maybe(seen, Role::Stream)], seen.loss())
}

/// Samples, with what was silent though not beyond doubt.
fn maybe(seen: &Seen, role: Role) -> Vec<Sample> {
    let usable = usable(seen);
    seen.of_role(role).filter(|f| usable(f)).filter_map(Sample::maybe).collect()
}

fn judge(log: &ObservationLog, seen: &Seen, longest: Duration, method: &str) -> Finding<Lifetime> {
    let [unreplied, stream] = [Role::Unreplied, Role::Stream].map(|role| samples(seen, role));
    let [first, second] = [&unreplied, &stream].map(|samples| Change::of(samples).bracket());
    if first.is_none() && second.is_none() {
        return Finding::unknown(nothing(log, seen), method);
    }
    let value = Lifetime {
        unreplied: first,
        stream: second,
        refresh: refreshing(log, seen).refresh,
        granularity: manner(seen),
    };
    let open = |samples: &[Sample]| {
        let change = Change::of(samples);
        change.gone.is_none() && change.alive.is_none_or(|alive| alive + SHORT < longest)
    };
    let unfinished: Vec<&str> = [("unreplied", open(&unreplied)), ("stream", open(&stream))]
        .into_iter()
        .filter_map(|(name, open)| open.then_some(name))
        .collect();
    let mut finding = Finding::known(value, Confidence::Strong, method);
    if !unfinished.is_empty() {
        finding.confidence = Confidence::Weak;
        finding.reason = Some(shortfall(seen, &unfinished));
    } else {
        finding.reason = crowded(seen);
    }
    finding.with("unreplied_looks", looks(&unreplied)).with("stream_looks", looks(&stream))
}

/// A last rung this much below the longest idle time will do.
const SHORT: Duration = Duration::from_secs(1);

/// Idle times and what was seen, in order.
fn looks(samples: &[Sample]) -> Vec<(f64, &'static str)> {
    let mut list: Vec<_> =
        samples.iter().map(|s| (round(s.idle), if s.alive { "alive" } else { "gone" })).collect();
    list.sort_by(|a, b| a.0.total_cmp(&b.0));
    list
}

fn shortfall(seen: &Seen, unfinished: &[&str]) -> String {
    let which = unfinished.join(" and ");
    if let Some(crowded) = crowded(seen) {
        return format!("{which}: {crowded}");
    }
    if seen.enough.is_none() {
        return format!("{which}: too much loss to tell what is gone from what is lost");
    }
    format!("{which}: the measurement did not come to its end")
}

/// What is said of a NAT that gives a host only so many mappings.
fn crowded(seen: &Seen) -> Option<String> {
    let made = seen.flows.iter().filter(|f| f.outside.is_some()).count();
    (made + 4 < seen.flows.len()).then(|| {
        format!(
            "of {} sockets only {made} got through, so the NAT seems to hold no more mappings for one host",
            seen.flows.len()
        )
    })
}

fn nothing(log: &ObservationLog, seen: &Seen) -> String {
    let usable = usable(seen);
    let strangers = seen.flows.iter().filter(|f| f.outside.is_some() && !usable(f)).count();
    if log.of(PURPOSE).next().is_none() {
        return "the measurement did not begin".into();
    }
    if seen.asker.is_empty() {
        return "no further socket got through, so the NAT seems to hold no more mappings for one host"
            .into();
    }
    if strangers > 4 {
        return "the NAT gives this host's sockets different external addresses, so that they cannot be reached from \
                one another's answers"
            .into();
    }
    "no mapping was looked at before the run ended".into()
}

/// What is known of refreshing, and what could be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refreshing {
    refresh: Refresh,
    /// The idle time after which a mapping of each timer is surely gone.
    unreplied: Option<Duration>,
    stream: Option<Duration>,
}

impl Refreshing {
    /// From when on a mapping can tell what it has left to tell, if anything.
    pub(super) fn tells_from(&self, flow: &Flow) -> Option<Duration> {
        let (gone, known) = match flow.role {
            Role::Unreplied | Role::Stream => return None,
            Role::Outbound => (self.unreplied, self.refresh.outbound),
            Role::Inbound => (self.stream, self.refresh.inbound),
            Role::Elsewhere => (self.unreplied, self.refresh.elsewhere),
        };
        let idle_since = match flow.role {
            // One that nothing was sent through since it was made tells nothing.
            Role::Outbound if flow.made.1 < 2 => return None,
            Role::Outbound => flow.made_at.to,
            Role::Unreplied | Role::Stream | Role::Inbound | Role::Elsewhere => flow.last?.to,
        };
        gone.filter(|_| known.is_none()).map(|gone| idle_since + gone + Duration::from_millis(50))
    }
}

/// What refreshes a mapping.
pub(super) fn refreshing(log: &ObservationLog, seen: &Seen) -> Refreshing {
    let [unreplied, stream] = [Role::Unreplied, Role::Stream].map(|role| samples(seen, role));
    Refreshing {
        refresh: Refresh {
            outbound: outbound(seen, &unreplied),
            inbound: inbound(seen, &stream),
            elsewhere: elsewhere(log, seen, &unreplied),
        },
        unreplied: horizon(&unreplied).map(|(_, gone)| gone),
        stream: horizon(&stream).map(|(_, gone)| gone),
    }
}

/// Beyond what idle time a mapping of this timer is surely gone.
fn horizon(samples: &[Sample]) -> Option<(Duration, Duration)> {
    let change = Change::of(samples);
    Some((change.alive?, change.gone?))
}

/// Between which idle times mappings of this role end, if both are known.
pub(super) fn horizon_of(seen: &Seen, role: Role) -> Option<(Duration, Duration)> {
    horizon(&samples(seen, role))
}

/// Whether packets from inside alone keep a mapping: all of them were sent while it was surely alive, and it is looked at
/// when without them it would surely be gone, and with them surely not.
fn outbound(seen: &Seen, samples: &[Sample]) -> Option<bool> {
    let (alive, gone) = horizon(samples)?;
    let usable = usable(seen);
    let says = |flow: &Flow| {
        let kept = flow.kept?;
        let in_time = kept.to.max(flow.pushed).saturating_sub(flow.made_at.from) < alive;
        let late = flow.seen.from.saturating_sub(flow.made_at.to) > gone;
        let soon = flow.seen.to.saturating_sub(kept.from) < alive;
        match flow.state {
            State::Alive(_) if in_time && late => Some(true),
            State::Gone(_) if in_time && soon => Some(false),
            State::Alive(_) | State::Gone(_) | State::Untouched | State::Silent => None,
        }
    };
    let said: Vec<bool> = seen.of_role(Role::Outbound).filter(|f| usable(f)).filter_map(says).collect();
    said.iter().copied().max()
}

/// Whether packets from outside alone keep a mapping.
fn inbound(seen: &Seen, samples: &[Sample]) -> Option<bool> {
    let (alive, gone) = horizon(samples)?;
    let usable = usable(seen);
    let says = |flow: &Flow| match flow.state {
        State::Alive(idle) if idle > gone => Some(true),
        // Each gap between packets was far shorter than the timer.
        State::Gone(_) if flow.found.is_some_and(|at| flow.seen.to.saturating_sub(at) < alive) => Some(false),
        State::Alive(_) | State::Gone(_) | State::Untouched | State::Silent => None,
    };
    seen.of_role(Role::Inbound).filter(|f| usable(f)).find_map(says)
}

/// Whether traffic with another destination keeps a mapping.
fn elsewhere(log: &ObservationLog, seen: &Seen, samples: &[Sample]) -> Option<bool> {
    let (alive, gone) = horizon(samples)?;
    let usable = usable(seen);
    // Where that keeps it, no time without it was long enough to end it.
    let kept = |flow: &Flow| {
        let beats = log.of(ROUND_INTERVAL).filter(|t| t.socket == flow.socket && t.direct().is_some());
        let mut times: Vec<_> = beats.map(|t| t.sent).filter(|&at| at > flow.made_at.from).collect();
        times.insert(0, flow.made_at.from);
        times.push(flow.seen.to);
        times.len() > 2 && times.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) < alive)
    };
    let says = |flow: &Flow| match flow.state {
        State::Alive(idle) if idle > gone => Some(true),
        State::Gone(_) if kept(flow) => Some(false),
        State::Alive(_) | State::Gone(_) | State::Untouched | State::Silent => None,
    };
    seen.of_role(Role::Elsewhere).filter(|f| usable(f)).find_map(says)
}

/// What is known so far, for whoever watches.
pub(super) fn so_far(seen: &Seen, now: Duration) -> String {
    let say = |role: Role, name: &str| {
        let samples = samples(seen, role);
        let change = Change::of(&samples);
        let number = |d: Duration| format!("{:.1}", d.as_secs_f64());
        match (change.alive, change.gone) {
            (_, Some(gone)) => {
                format!(
                    "{name}: gone after {} to {} s",
                    number(change.alive.unwrap_or_default()),
                    number(gone)
                )
            }
            (Some(alive), None) => format!("{name}: still open after {:.0} s", alive.as_secs_f64().floor()),
            (None, None) => {
                let waits = seen.of_role(role).filter_map(|f| f.idle(now)).max();
                waits.map_or(String::new(), |_| format!("{name}: waiting"))
            }
        }
    };
    let parts = [say(Role::Unreplied, "without an answer"), say(Role::Stream, "with traffic both ways")];
    parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
}

fn round(time: Duration) -> f64 {
    (time.as_secs_f64() * 100.0).round() / 100.0
}
