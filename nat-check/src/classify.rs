//! From what was observed to what is reported: each measurement's own conclusion, and the classic name over them.

use shared::nat::{Filtering, Mapping, NatType};

use crate::{
    engine::Observed,
    ledger::{Ledger, Place},
    probe::{
        Probe, alg, dialect, distance, filtering, hairpinning, inbound_first, lifetime, mapping,
        port_allocation, response_port,
    },
    report::{Confidence, Finding, ServerAddresses, ServerFeatures, UdpReport},
    server::{self, Places},
};

/// What one server over one family tells of itself.
#[derive(Clone, Debug)]
pub struct ServerSide {
    /// Its addresses.
    pub addresses: ServerAddresses,
    /// What it can do.
    pub features: ServerFeatures,
    /// What is wrong with it.
    pub faults: Vec<String>,
    /// Its name for itself.
    pub software: Option<String>,
}

/// Why nothing is known of UDP where none passes.
const NO_UDP: &str = "no UDP passes";
const DERIVED: &str = "RFC 3489 5, derived from mapping and filtering";

/// The UDP part of the report.
#[must_use]
pub fn udp(observed: &Observed) -> UdpReport {
    let ledger = &observed.ledger;
    if !observed.udp_works() {
        return blocked(ledger);
    }
    let mapping = asked(ledger, &mapping::PROBE, mapping::conclude);
    let filtering = asked(ledger, &filtering::PROBE, filtering::conclude);
    let controls: Vec<bool> = ledger.controls(ledger.ripe).map(|t| t.returned()).collect();
    let lost = controls.iter().filter(|&&returned| !returned).count();
    let socket = mapping::main_socket(ledger);
    let mut external = Vec::new();
    for mapped in
        ledger.trials.iter().filter(|t| Some(t.socket) == socket).filter_map(|t| ledger.external(t.direct()?))
    {
        if !external.contains(&mapped) {
            external.push(mapped);
        }
    }
    UdpReport {
        local: socket.and_then(|s| ledger.local(s)),
        external,
        rtt_s: observed.rtt.map(|rtt| round(rtt.smoothed.as_secs_f64(), 6)),
        loss: (!controls.is_empty()).then(|| round(lost as f64 / controls.len() as f64, 4)),
        nat_type: nat_type(&mapping, &filtering),
        port_allocation: asked(ledger, &port_allocation::PROBE, port_allocation::conclude),
        hairpinning: asked(ledger, &hairpinning::PROBE, hairpinning::conclude),
        alg: asked(ledger, &alg::PROBE, alg::conclude),
        inbound_first_remap: asked(ledger, &inbound_first::PROBE, inbound_first::conclude),
        distance: asked(ledger, &distance::PROBE, distance::conclude),
        lifetime: lifetime::conclude(ledger),
        mapping,
        filtering,
    }
}

/// What the run tells of the server.
#[must_use]
pub fn server(observed: &Observed) -> ServerSide {
    let ledger = &observed.ledger;
    let places = Places::of(ledger.server, ledger);
    let first = |t: &crate::ledger::Trial| t.direct().and_then(|a| a.other);
    let named = ledger.trials.iter().filter(|t| t.to == ledger.server).find_map(first);
    ServerSide {
        addresses: ServerAddresses { primary: ledger.server, alternate: places.get(Place::BOTH).or(named) },
        features: ServerFeatures {
            change_request: asked(ledger, &filtering::PROBE, filtering::server_can),
            response_port: asked(ledger, &response_port::PROBE, response_port::conclude),
            classic: asked(ledger, &dialect::PROBE, dialect::conclude),
        },
        faults: server::faults(ledger),
        software: ledger.software.clone(),
    }
}

/// A measurement's conclusion, if the measurement was asked for and could be made.
fn asked<T>(ledger: &Ledger, probe: &Probe, conclude: fn(&Ledger) -> Finding<T>) -> Finding<T> {
    if !ledger.tests.contains(&probe.name) {
        return Finding::unknown("not asked for", probe.about);
    }
    if ledger.dialect().is_none() {
        return Finding::unknown(NO_UDP, probe.about);
    }
    let finding = conclude(ledger);
    match (&finding.value, &ledger.trouble) {
        (None, Some(trouble)) => finding.because(trouble.clone()),
        (None, None) if ledger.cut_short => finding.because("the run ended before this was done"),
        _ => finding,
    }
}

/// The classic name. Where the mapping depends on the destination, the filter does not matter for it.
pub(crate) fn nat_type(mapping: &Finding<Mapping>, filtering: &Finding<Filtering>) -> Finding<NatType> {
    match (mapping.value, filtering.value) {
        (Some(Mapping::Direct | Mapping::EndpointIndependent), None) => {
            let why = filtering.reason.as_deref().unwrap_or("filtering is not known");
            Finding::unknown(why, DERIVED)
        }
        (None, _) => {
            let why = mapping.reason.as_deref().unwrap_or("mapping is not known");
            Finding::unknown(why, DERIVED)
        }
        (Some(m @ (Mapping::Direct | Mapping::EndpointIndependent)), Some(f)) => {
            Finding::known(NatType::derive(m, f), mapping.confidence.min(filtering.confidence), DERIVED)
        }
        (Some(m), f) => {
            let f = f.unwrap_or(Filtering::AddressAndPortDependent);
            Finding::known(NatType::derive(m, f), mapping.confidence, DERIVED)
        }
    }
}

/// UDP does not pass, though the server was reached otherwise.
fn blocked(ledger: &Ledger) -> UdpReport {
    let sent = ledger.trials.len();
    let nat_type = Finding::known(
        NatType::UdpBlocked,
        Confidence::Strong,
        "RFC 3489 10.1, test I, beside TCP",
    )
    .because("the server answers over TCP but not over UDP: UDP is blocked on the way, or not served there")
    .with("udp_sent", sent)
    .with("udp_answered", 0);
    UdpReport {
        local: None,
        external: Vec::new(),
        rtt_s: None,
        loss: None,
        nat_type,
        mapping: Finding::unknown(NO_UDP, DERIVED),
        filtering: Finding::unknown(NO_UDP, DERIVED),
        port_allocation: Finding::unknown(NO_UDP, DERIVED),
        hairpinning: Finding::unknown(NO_UDP, DERIVED),
        alg: Finding::unknown(NO_UDP, DERIVED),
        inbound_first_remap: Finding::unknown(NO_UDP, DERIVED),
        distance: Finding::unknown(NO_UDP, DERIVED),
        lifetime: Finding::unknown(NO_UDP, DERIVED),
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
