//! Which packets refresh a mapping (RFC 4787 REQ-6): what is known, and when more can be. Pure.

use std::time::Duration;

use shared::nat::Refresh;

use super::bounds;
use crate::{
    observation::ObservationLog,
    probe::lifetime::{
        constants::REFRESH_MARGIN,
        observe::{KEEPALIVE, MappingHistory, MappingState, Observations, Role},
    },
};

/// What is known of refreshing, and from when on more can be.
#[derive(Clone, Copy, Debug)]
pub(in crate::probe::lifetime) struct Refreshing {
    pub(super) refresh: Refresh,
    /// The idle times after which mappings of each timer have surely expired.
    unreplied_expired: Option<Duration>,
    stream_expired: Option<Duration>,
}

impl Refreshing {
    /// From when on a mapping can show what it has left to show, if anything.
    pub(in crate::probe::lifetime) fn shows_from(&self, mapping: &MappingHistory) -> Option<Duration> {
        let (expired, known) = match mapping.role {
            Role::Unreplied | Role::Stream => return None,
            Role::Outbound => (self.unreplied_expired, self.refresh.outbound),
            Role::Inbound => (self.stream_expired, self.refresh.inbound),
            Role::Elsewhere => (self.unreplied_expired, self.refresh.elsewhere),
        };
        let idle_since = match mapping.role {
            // One through which nothing was sent since it was created shows nothing.
            Role::Outbound if mapping.answered < 2 => return None,
            Role::Outbound => mapping.created.latest,
            Role::Unreplied | Role::Stream | Role::Inbound | Role::Elsewhere => mapping.last_used?.latest,
        };
        expired.filter(|_| known.is_none()).map(|expired| idle_since + expired + REFRESH_MARGIN)
    }
}

/// What the mappings that were kept in use show.
pub(in crate::probe::lifetime) fn refreshing(
    log: &ObservationLog,
    observations: &Observations,
) -> Refreshing {
    let [unreplied, stream] = [Role::Unreplied, Role::Stream].map(|role| bounds(observations, role));
    Refreshing {
        refresh: Refresh {
            outbound: unreplied.and_then(|bounds| outbound(observations, bounds)),
            inbound: stream.and_then(|bounds| inbound(observations, bounds)),
            elsewhere: unreplied.and_then(|bounds| elsewhere(log, observations, bounds)),
        },
        unreplied_expired: unreplied.map(|(_, expired)| expired),
        stream_expired: stream.map(|(_, expired)| expired),
    }
}

/// Whether outbound packets alone refresh a mapping: all of them were sent while it surely existed, and it is checked when
/// without them it surely would have expired, and with them surely not.
fn outbound(observations: &Observations, (alive, expired): (Duration, Duration)) -> Option<bool> {
    let shows = |m: &MappingHistory| {
        let last = m.last_answered?;
        let in_time = last.latest.max(m.last_sent).saturating_sub(m.created.earliest) < alive;
        let is_late = m.checked_at.earliest.saturating_sub(m.created.latest) > expired;
        let is_soon = m.checked_at.latest.saturating_sub(last.earliest) < alive;
        match m.state {
            MappingState::Alive(_) if in_time && is_late => Some(true),
            MappingState::Expired(_) if in_time && is_soon => Some(false),
            MappingState::Alive(_)
            | MappingState::Expired(_)
            | MappingState::Unchecked
            | MappingState::Silent => None,
        }
    };
    observations.usable(Role::Outbound).filter_map(shows).max()
}

/// Whether inbound packets alone refresh a mapping.
fn inbound(observations: &Observations, (alive, expired): (Duration, Duration)) -> Option<bool> {
    let shows = |m: &MappingHistory| {
        let checked_until = m.checked_at.latest;
        // Each gap between packets was far shorter than the timer.
        let is_soon = m.last_alive.is_some_and(|at| checked_until.saturating_sub(at) < alive);
        match m.state {
            MappingState::Alive(idle) if idle > expired => Some(true),
            MappingState::Expired(_) if is_soon => Some(false),
            MappingState::Alive(_)
            | MappingState::Expired(_)
            | MappingState::Unchecked
            | MappingState::Silent => None,
        }
    };
    observations.usable(Role::Inbound).find_map(shows)
}

/// Whether traffic with another destination refreshes a mapping.
fn elsewhere(
    log: &ObservationLog,
    observations: &Observations,
    (alive, expired): (Duration, Duration),
) -> Option<bool> {
    let shows = |m: &MappingHistory| match m.state {
        MappingState::Alive(idle) if idle > expired => Some(true),
        MappingState::Expired(_) if is_kept_in_use(log, m, alive) => Some(false),
        MappingState::Alive(_)
        | MappingState::Expired(_)
        | MappingState::Unchecked
        | MappingState::Silent => None,
    };
    observations.usable(Role::Elsewhere).find_map(shows)
}

/// Whether the mapping's socket talked to the other destination so often that no gap was long enough to expire.
fn is_kept_in_use(log: &ObservationLog, mapping: &MappingHistory, alive: Duration) -> bool {
    let created = mapping.created.earliest;
    let keepalives = log.of(KEEPALIVE).filter(|t| t.socket == mapping.socket && t.direct().is_some());
    let mut times = vec![created];
    times.extend(keepalives.map(|t| t.sent).filter(|&at| at > created));
    times.push(mapping.checked_at.latest);
    times.len() > 2 && times.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) < alive)
}
