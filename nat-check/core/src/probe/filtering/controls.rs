//! The controls that silence is held against: how much gets lost on the way to the server and back, from each of its
//! addresses.

use std::time::Duration;

use super::PURPOSE;
use crate::{
    loss_test::LossCounts,
    mapping_limit::MappingLimit,
    observation::{ObservationLog, RequestKind, Transaction},
    server_endpoints::ServerEndpoint,
};

/// The controls that corroborated silence is held against: those that were sent next after one that came back; where the
/// way from the alternate address loses more, its own.
pub(crate) fn neighbour_tally(
    log: &ObservationLog,
    until: [Duration; 2],
    kind: ServerEndpoint,
) -> LossCounts {
    let [timed_out_before, near_until] = until;
    let near = LossCounts::after_returned(near_controls(log, near_until).map(Transaction::returned));
    if !kind.other_ip {
        return near;
    }
    // The other way is known from later measurements only. A single burst there is none of its ways; loss as such is.
    let all = control_tally(log, timed_out_before, kind);
    let far = LossCounts::after_returned(far_controls(log, timed_out_before).map(Transaction::returned));
    let is_worse = all != near_tally(log, timed_out_before);
    match () {
        () if is_worse && (far.controls_sent < 4 || far.loss() * 2.0 >= all.loss()) => all,
        () if is_clearly_worse(far, near) => far,
        () => near,
    }
}

/// The controls for an answer from this endpoint. The way from the alternate address may lose more than the one from
/// the primary: where it clearly does, its own controls count.
pub(crate) fn control_tally(
    log: &ObservationLog,
    timed_out_before: Duration,
    kind: ServerEndpoint,
) -> LossCounts {
    let near = near_tally(log, timed_out_before);
    if !kind.other_ip {
        return near;
    }
    let far = far_controls(log, timed_out_before).fold(LossCounts::default(), counted);
    if is_clearly_worse(far, near) { far } else { near }
}

pub(super) fn near_tally(log: &ObservationLog, timed_out_before: Duration) -> LossCounts {
    near_controls(log, timed_out_before).fold(LossCounts::default(), counted)
}

/// The controls on the way to the primary address.
fn near_controls(log: &ObservationLog, timed_out_before: Duration) -> impl Iterator<Item = &Transaction> {
    log.controls(timed_out_before).filter(|t| !is_superseded(log, t))
}

/// Those on the way to the alternate one.
fn far_controls(log: &ObservationLog, timed_out_before: Duration) -> impl Iterator<Item = &Transaction> {
    let limit = MappingLimit::seen(log, timed_out_before);
    log.transactions.iter().filter(move |t| {
        let far = t.kind == RequestKind::Binding && t.to.ip() != log.server.ip();
        let mapped = limit.as_ref().is_none_or(|limit| !limit.concerns(t.socket));
        far && mapped && !t.unsent && t.sent <= timed_out_before
    })
}

fn counted(tally: LossCounts, control: &Transaction) -> LossCounts {
    LossCounts {
        controls_sent: tally.controls_sent + 1,
        controls_answered: tally.controls_answered + u32::from(control.returned()),
        ..tally
    }
}

/// Whether one way loses more than another by more than chance has it (two proportions, four standard deviations); a wrong filter takes two silent kinds anyway.
fn is_clearly_worse(far: LossCounts, near: LossCounts) -> bool {
    let (n, m) = (f64::from(far.controls_sent), f64::from(near.controls_sent));
    let lost = |t: LossCounts| f64::from(t.controls_sent - t.controls_answered);
    let pooled = (lost(far) + lost(near)) / (n + m);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    n >= 4.0 && m > 0.0 && deviation > 0.0 && far.loss() - near.loss() > 4.0 * deviation
}

/// Whether a transaction belongs to a filtering socket that was given up as deaf: it tells nothing of the loss.
fn is_superseded(log: &ObservationLog, transaction: &Transaction) -> bool {
    let last = log.of(PURPOSE).last().map(|t| t.socket);
    transaction.purpose == PURPOSE && Some(transaction.socket) != last
}
