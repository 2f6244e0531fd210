//! What invalidates a whole run: the machine was suspended, the external address changed, the NAT lost its state. Pure.

use std::{collections::BTreeSet, time::Duration};

use shared::nat::Refresh;

use super::{
    PURPOSE,
    bracket::{ChangePoint, Sample},
    constants::{SHORTEST_LIFETIME, STATE_LOST_MAPPINGS, STATE_LOST_TENTHS, SUSPEND_IGNORED},
    observe::{MappingState, Observations, Role},
};
use crate::{
    observation::{ObservationLog, RequestKind, SocketId, Transaction},
    report::{Reason, ReasonCode},
};

/// Why a run is to end at once: no further check can save it.
pub(super) fn ends_run(log: &ObservationLog, observations: &Observations) -> Option<Reason> {
    if log.slept > SUSPEND_IGNORED {
        let slept = log.slept.as_secs_f64().ceil();
        let text = format!("the machine slept for {slept} s during the measurement");
        return Some((ReasonCode::Suspended, text).into());
    }
    let (first, later) = observations.requester.split_first()?;
    if let Some(last) = later.iter().rev().find(|last| last.ip() != first.ip()) {
        let (first, last) = (first.ip(), last.ip());
        let text = format!("the external address changed from {first} to {last} during the measurement");
        return Some((ReasonCode::ExternalAddressChanged, text).into());
    }
    let last = later.last()?;
    was_in_use(log, observations).then(|| {
        let text = format!(
            "the NAT lost its state during the measurement: a socket in constant use was seen at port {} first and \
             at port {} later",
            first.port(),
            last.port()
        );
        (ReasonCode::NatStateLost, text).into()
    })
}

/// Why the observations of a finished run show no lifetime, if they do not.
pub(super) fn invalidates(
    log: &ObservationLog,
    observations: &Observations,
    timers: [&[Sample]; 2],
    refresh: Refresh,
) -> Option<Reason> {
    if let Some(reason) = ends_run(log, observations) {
        return Some(reason);
    }
    if timers.iter().any(|samples| lost_state(samples) || expired_too_soon(samples)) {
        let text = "all mappings were gone at once, old ones and new ones: the NAT lost its state during the measurement";
        return Some((ReasonCode::NatStateLost, text).into());
    }
    let Refresh { outbound, inbound, elsewhere } = refresh;
    let refreshes = outbound == Some(true) || inbound == Some(true);
    let does_not = [outbound, inbound, elsewhere].iter().filter(|known| **known == Some(false)).count();
    let differ = || timers.iter().any(|samples| ChangePoint::of(samples).overlap > Duration::ZERO);
    (!refreshes && (does_not > 1 || does_not == 1 && differ())).then(|| {
        let text = "mappings were gone though packets had passed a moment before, in one direction and in the other: \
                    the NAT lost its state during the measurement, or nothing at all keeps a mapping here";
        (ReasonCode::NatStateLost, text).into()
    })
}

/// How many mappings' external ports were another socket's by the time they were checked.
pub(super) fn reassigned(log: &ObservationLog) -> usize {
    let checks = log.of(PURPOSE).filter_map(|t| match t.kind {
        RequestKind::ResponsePortOf { socket, .. } => Some((t, socket)),
        RequestKind::Binding
        | RequestKind::ChangeRequest(_)
        | RequestKind::ResponsePort { .. }
        | RequestKind::ToMappedPort { .. }
        | RequestKind::LimitedTtl { .. }
        | RequestKind::Hairpin => None,
    });
    let another =
        |(t, socket): &(&Transaction, SocketId)| t.successes().any(|a| a.on != *socket && a.on != t.socket);
    checks.filter(another).map(|(_, socket)| socket).collect::<BTreeSet<_>>().len()
}

/// Whether the requester was never idle for as long as a mapping was seen to live.
fn was_in_use(log: &ObservationLog, observations: &Observations) -> bool {
    let survived = observations.mappings.iter().filter_map(|m| match m.state {
        MappingState::Alive(idle) if m.role != Role::Inbound => Some(idle),
        MappingState::Alive(_)
        | MappingState::Expired(_)
        | MappingState::Silent
        | MappingState::Unchecked => None,
    });
    let Some(survived) = survived.max() else { return false };
    let Some(requester) = log.of(PURPOSE).next().map(|t| t.socket) else { return false };
    let sent: Vec<_> = log.transactions.iter().filter(|t| t.socket == requester).map(|t| t.sent).collect();
    sent.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) < survived)
}

/// Whether a mapping was gone so soon that no timer can have ended it.
fn expired_too_soon(samples: &[Sample]) -> bool {
    samples.iter().any(|s| !s.alive && s.idle < SHORTEST_LIFETIME)
}

/// Whether there was a moment that no mapping outlived, though longer idle times had been survived before: a sweep leaves
/// the younger ones.
fn lost_state(samples: &[Sample]) -> bool {
    samples.iter().map(|s| s.checked.earliest).any(|moment| {
        let before = samples.iter().filter(|s| s.alive && s.checked.earliest < moment);
        let longest = before.map(|s| s.idle).max();
        let over = || samples.iter().filter(move |s| s.used.latest < moment && s.checked.earliest >= moment);
        let least = over().map(|s| s.idle).min();
        let young =
            least.zip(longest).is_some_and(|(least, survived)| least < survived * STATE_LOST_TENTHS / 10);
        young && over().count() > STATE_LOST_MAPPINGS && over().all(|s| !s.alive)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{observation::made, probe::lifetime::observe::Timeouts};

    #[test]
    fn a_port_that_another_socket_got_means_expired_and_is_counted() {
        let mut log = made::log();
        let [requester, first, second] =
            ["10.0.0.2:40000", "10.0.0.2:40001", "10.0.0.2:40002"].map(|local| made::socket(&mut log, local));
        let server = made::at(made::SERVER);
        let respond_to = |socket, port| RequestKind::ResponsePortOf { socket, port, long: false };
        let purpose = Role::Unreplied.purpose();
        let mut set_up = made::transaction(purpose, first, server, respond_to(requester, 50000));
        set_up.responses.push(made::answer(requester, server, "203.0.113.1:50001"));
        let mut check = made::transaction(PURPOSE, requester, server, respond_to(first, 50001));
        check.sent = Duration::from_secs(20);
        let mut answer = made::answer(second, server, "203.0.113.1:50000");
        answer.at = Duration::from_millis(20_010);
        check.responses.push(answer);
        log.transactions.extend([set_up, check]);
        let timeouts =
            Timeouts { sent_until: Duration::from_secs(30), response_timeout: Duration::from_millis(50) };
        let observations = Observations::of(&log, timeouts);
        let mapping = &observations.mappings[0];
        assert!(matches!(mapping.state, MappingState::Expired(_)), "{mapping:?}");
        assert_eq!(reassigned(&log), 1);
    }
}
