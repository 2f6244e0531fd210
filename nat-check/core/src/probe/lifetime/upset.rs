//! What makes everything that was seen worthless: the machine slept, the external address changed, the NAT lost its
//! state. Pure.

use std::{collections::BTreeSet, time::Duration};

use shared::nat::Refresh;

use super::{
    fit::{Change, Sample},
    observe::{Role, Seen, State},
};
use crate::observation::{ObservationLog, RequestKind, SocketId, Transaction};

/// Sleep up to this is not told from a clock that was read a little late.
const SLEPT: Duration = Duration::from_millis(500);

/// No NAT forgets a mapping so soon.
const YOUNG: Duration = Duration::from_secs(2);

/// What has happened that no further look can mend.
pub(super) fn spoilt(log: &ObservationLog, seen: &Seen) -> Option<String> {
    if log.slept > SLEPT {
        let slept = log.slept.as_secs_f64().ceil();
        return Some(format!("the machine slept for {slept} s during the measurement"));
    }
    let (first, moved) = seen.asker.split_first()?;
    if let Some(last) = moved.iter().rev().find(|last| last.ip() != first.ip()) {
        let (first, last) = (first.ip(), last.ip());
        return Some(format!("the external address changed from {first} to {last} during the measurement"));
    }
    let last = moved.last()?;
    was_in_use(log, seen).then(|| {
        format!(
            "the NAT lost its state during the measurement: a socket in constant use was seen at port {} first and \
             at port {} later",
            first.port(),
            last.port()
        )
    })
}

/// Why what was seen is worthless, if it is.
pub(super) fn upset(
    log: &ObservationLog,
    seen: &Seen,
    timers: [&[Sample]; 2],
    refresh: Refresh,
) -> Option<String> {
    spoilt(log, seen).or_else(|| {
        timers.into_iter().any(|samples| lost_state(samples) || died_young(samples)).then(|| {
            "all mappings were gone at once, old ones and new ones: the NAT lost its state during the measurement".into()
        })
    }).or_else(|| {
        let Refresh { outbound, inbound, elsewhere } = refresh;
        let differ = || timers.iter().any(|samples| Change::of(samples).overlap > Duration::ZERO);
        let keeps = outbound == Some(true) || inbound == Some(true);
        let unkept = [outbound, inbound, elsewhere].iter().filter(|said| **said == Some(false)).count();
        (!keeps && (unkept > 1 || unkept == 1 && differ())).then(|| {
            "mappings were gone though packets had passed a moment before, in one direction and in the other: the NAT \
             lost its state during the measurement, or nothing at all keeps a mapping here"
                .into()
        })
    })
}

/// How many mappings turned out to be another socket's by the time they were looked at.
pub(super) fn reassigned(log: &ObservationLog) -> usize {
    let looks = log.of(super::PURPOSE).filter_map(|t| match t.kind {
        RequestKind::ResponsePortOf { socket, .. } => Some((t, socket)),
        RequestKind::Binding
        | RequestKind::ChangeRequest(_)
        | RequestKind::ResponsePort { .. }
        | RequestKind::LimitedTtl { .. }
        | RequestKind::Hairpin => None,
    });
    let another =
        |(t, socket): &(&Transaction, SocketId)| t.successes().any(|a| a.on != *socket && a.on != t.socket);
    looks.filter(another).map(|(_, socket)| socket).collect::<BTreeSet<_>>().len()
}

/// Whether the socket that asks never was idle for as long as a mapping was seen to live.
fn was_in_use(log: &ObservationLog, seen: &Seen) -> bool {
    let life = seen.flows.iter().filter_map(|f| match f.state {
        State::Alive(idle) if f.role != Role::Inbound => Some(idle),
        State::Alive(_) | State::Gone(_) | State::Silent | State::Untouched => None,
    });
    let Some(life) = life.max() else { return false };
    let Some(asker) = log.of(super::PURPOSE).next().map(|t| t.socket) else { return false };
    let sent: Vec<_> = log.transactions.iter().filter(|t| t.socket == asker).map(|t| t.sent).collect();
    sent.windows(2).all(|pair| pair[1].saturating_sub(pair[0]) < life)
}

/// Whether a mapping was gone so soon that no timer can have ended it.
fn died_young(samples: &[Sample]) -> bool {
    samples.iter().any(|s| !s.alive && s.idle < YOUNG)
}

/// Whether there was a moment that no mapping outlived, though older ones had lived before: a sweep leaves the younger
/// ones.
fn lost_state(samples: &[Sample]) -> bool {
    samples.iter().map(|s| s.seen.from).any(|moment| {
        let longest = samples.iter().filter(|s| s.alive && s.seen.from < moment).map(|s| s.idle).max();
        let over = || samples.iter().filter(move |s| s.used.to < moment && s.seen.from >= moment);
        let young =
            over().map(|s| s.idle).min().zip(longest).is_some_and(|(least, life)| least < life * 9 / 10);
        young && over().count() > 2 && over().all(|s| !s.alive)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::made,
        probe::lifetime::{
            PURPOSE,
            observe::{Ripe, Role},
        },
    };

    #[test]
    fn a_port_that_another_socket_got_is_gone_and_counted() {
        let mut log = made::log();
        let [asker, first, second] =
            ["10.0.0.2:40000", "10.0.0.2:40001", "10.0.0.2:40002"].map(|local| made::socket(&mut log, local));
        let server = made::at(made::SERVER);
        let reach = |socket, port| RequestKind::ResponsePortOf { socket, port, long: false };
        let mut make = made::transaction(Role::Unreplied.purpose(), first, server, reach(asker, 50000));
        make.answers.push(made::answer(asker, server, "203.0.113.1:50001"));
        let mut look = made::transaction(PURPOSE, asker, server, reach(first, 50001));
        look.sent = Duration::from_secs(20);
        let mut answer = made::answer(second, server, "203.0.113.1:50000");
        answer.at = Duration::from_millis(20_010);
        look.answers.push(answer);
        log.transactions.extend([make, look]);
        let timed_out_before =
            Ripe { until: Duration::from_secs(30), response_timeout: Duration::from_millis(50) };
        let seen = Seen::of(&log, timed_out_before);
        assert!(matches!(seen.flows[0].state, State::Gone(_)), "{:?}", seen.flows[0]);
        assert_eq!(reassigned(&log), 1);
    }
}
