//! The report of an attempt, from what was measured, predicted and tried. Pure.

use std::{net::SocketAddr, time::Duration};

use shared::{
    nat::NatType,
    rendezvous::{Role, peer::Offer},
};
use tokio::time::Instant;

use super::{
    attempt::Attempt,
    behaviour, failure,
    forecast::Forecast,
    measure::Known,
    report::{Predicted, PunchOutcome, PunchReport, SideReport},
    rounds::{Found, Tried},
};

/// What is expected, for the report.
pub(super) fn predicted(forecast: &Forecast) -> Predicted {
    Predicted {
        outcome: match forecast.direct {
            Some(true) => PunchOutcome::Direct,
            Some(false) => PunchOutcome::Failed,
            None => PunchOutcome::Unknown,
        },
        probability: forecast.probability,
        // Nothing is any more.
        assumed: false,
        technique: forecast.technique,
        why: forecast.why.clone(),
    }
}

/// The whole report. `nat_type` is that of this side, as the check named it; `introduced` is when the offers were exchanged.
pub(super) fn report(
    attempt: &Attempt,
    tried: Tried,
    forecast: &Forecast,
    predicted: Predicted,
    nat_type: Option<NatType>,
    introduced: Instant,
) -> PunchReport {
    let why = why(&tried, forecast);
    let found = tried.found.as_ref();
    let path = found.and_then(|found| found.path);
    let held = &tried.held.held;
    let first_packet = tried.first_heard.filter(|_| found.is_some());
    PunchReport {
        outcome: match (found, tried.is_interrupted) {
            (Some(_), _) => PunchOutcome::Direct,
            (None, true) => PunchOutcome::Unknown,
            (None, false) => PunchOutcome::Failed,
        },
        technique: found.map(|found| found.technique),
        local: found.and_then(|found| local(attempt, found)),
        remote: path.map(|path| path.remote),
        rtt_s: held.rtt().or(found.and_then(|found| found.rtt)).map(seconds),
        rtt_via_server_s: tried.held.rtt_via_server.map(seconds),
        first_packet_s: first_packet.map(|at| seconds(at.saturating_duration_since(introduced))),
        rounds: u32::try_from(tried.rounds.len()).unwrap_or(u32::MAX),
        held_s: found.map(|_| seconds(held.held)),
        loss: held.loss(),
        jitter_s: held.jitter().map(seconds),
        packets: attempt.sockets.sent(),
        predicted,
        this: side(&attempt.pair.mine, nat_type),
        peer: side(&attempt.pair.peers, None),
        role: attempt.pair.role,
        attempts: tried.rounds,
        why,
        warnings: tried.warnings,
    }
}

/// The report of an attempt that was interrupted before the two knew of each other, with what was measured by then.
pub(super) fn interrupted(role: Role, known: Option<&Known>) -> PunchReport {
    PunchReport {
        outcome: PunchOutcome::Unknown,
        technique: None,
        local: None,
        remote: None,
        rtt_s: None,
        rtt_via_server_s: None,
        first_packet_s: None,
        rounds: 0,
        held_s: None,
        loss: None,
        jitter_s: None,
        packets: 0,
        predicted: predicted(&Forecast::unknown()),
        this: known.map_or_else(SideReport::default, measured),
        peer: SideReport::default(),
        role,
        attempts: Vec::new(),
        why: "Interrupted before the peer was heard of.".into(),
        warnings: Vec::new(),
    }
}

/// This side before it has told anybody what it measured. What was not measured is not blocked.
fn measured(known: &Known) -> SideReport {
    let told = known.ipv6.as_ref().filter(|_| known.servers.v4.is_none()).unwrap_or(&known.behaviour);
    SideReport {
        nat_type: known.nat_type,
        mapping: told.mapping,
        filtering: told.filtering,
        ports: told.ports.as_ref().map(|ports| ports.policy),
        external: Vec::new(),
    }
}

fn local(attempt: &Attempt, found: &Found) -> Option<SocketAddr> {
    match &found.stream {
        Some(stream) => found.path.and(stream.local_addr().ok()),
        None => attempt.sockets.local(found.path?.socket),
    }
}

/// Whoever has no IPv4 address is described by its IPv6.
fn side(offer: &Offer, measured: Option<NatType>) -> SideReport {
    let told = offer.ipv6.as_ref().filter(|_| !offer.has_ipv4()).unwrap_or(&offer.behaviour);
    SideReport {
        nat_type: measured.or(behaviour::nat_type(told)),
        mapping: told.mapping,
        filtering: told.filtering,
        ports: told.ports.as_ref().map(|ports| ports.policy),
        external: offer.external.clone(),
    }
}

fn why(tried: &Tried, forecast: &Forecast) -> String {
    match (&tried.found, &tried.broken) {
        (Some(found), _) if forecast.technique == Some(found.technique) => sentence(&forecast.why),
        (Some(found), _) => {
            format!("Found by {}, though something else was expected: {}.", found.technique, forecast.why)
        }
        (None, _) if tried.is_interrupted => match tried.rounds.len() {
            0 => "Interrupted in the first round.".into(),
            1 => "Interrupted after one round without a path.".into(),
            rounds => format!("Interrupted after {rounds} rounds without a path."),
        },
        (None, Some(error)) => failure::why_failed(&tried.rounds, &error.to_string()),
        (None, None) => failure::why_failed(&tried.rounds, &forecast.why),
    }
}

fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().collect::<String>()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

fn seconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e6
}
