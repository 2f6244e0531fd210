//! From what was observed to what is reported: each measurement's own conclusion, and the classic name over them.

use shared::nat::{Filtering, Mapping, NatType};

use crate::{
    engine::Observed,
    observation::ObservationLog,
    probe::{
        Probe, alg, dialect, distance, filtering, hairpinning, inbound_first, lifetime, mapping,
        port_allocation, response_port,
    },
    report::{Confidence, Finding, ReasonCode, ServerAddresses, ServerFeatures, UdpReport},
    server_endpoints::ServerEndpoint,
    server_endpoints::ServerEndpoints,
    server_faults,
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
const NO_UDP: (ReasonCode, &str) = (ReasonCode::UdpBlocked, "no UDP passes");
const DERIVED: &str = "RFC 3489 5, derived from mapping and filtering";

/// The UDP part of the report.
#[must_use]
pub fn udp(observed: &Observed) -> UdpReport {
    let log = &observed.log;
    if !observed.udp_works() {
        return blocked(log);
    }
    let mapping = asked(log, &mapping::PROBE, mapping::conclude);
    let filtering = asked(log, &filtering::PROBE, filtering::conclude);
    let controls: Vec<bool> = log.controls(log.timed_out_before).map(|t| t.returned()).collect();
    let lost = controls.iter().filter(|&&returned| !returned).count();
    let socket = mapping::main_socket(log);
    let mut external = Vec::new();
    for mapped in
        log.transactions.iter().filter(|t| Some(t.socket) == socket).filter_map(|t| log.external(t.direct()?))
    {
        if !external.contains(&mapped) {
            external.push(mapped);
        }
    }
    UdpReport {
        local: socket.and_then(|s| log.local(s)),
        external,
        rtt_s: observed.rtt.map(|rtt| round(rtt.smoothed.as_secs_f64(), 6)),
        loss: (!controls.is_empty()).then(|| round(lost as f64 / controls.len() as f64, 4)),
        nat_type: nat_type(&mapping, &filtering),
        port_allocation: asked(log, &port_allocation::PROBE, port_allocation::conclude),
        hairpinning: asked(log, &hairpinning::PROBE, hairpinning::conclude),
        alg: asked(log, &alg::PROBE, alg::conclude),
        inbound_first_remap: asked(log, &inbound_first::PROBE, inbound_first::conclude),
        distance: asked(log, &distance::PROBE, distance::conclude),
        lifetime: lifetime::conclude(log),
        mapping,
        filtering,
    }
}

/// What the run tells of the server.
#[must_use]
pub fn server(observed: &Observed) -> ServerSide {
    let log = &observed.log;
    let endpoints = ServerEndpoints::of(log.server, log);
    let first = |t: &crate::observation::Transaction| t.direct().and_then(|a| a.other);
    let named = log.transactions.iter().filter(|t| t.to == log.server).find_map(first);
    ServerSide {
        addresses: ServerAddresses {
            primary: log.server,
            alternate: endpoints.get(ServerEndpoint::BOTH).or(named),
        },
        features: ServerFeatures {
            change_request: asked(log, &filtering::PROBE, filtering::server_can),
            response_port: asked(log, &response_port::PROBE, response_port::conclude),
            classic: asked(log, &dialect::PROBE, dialect::conclude),
        },
        faults: server_faults::faults(log),
        software: log.software.clone(),
    }
}

/// A measurement's conclusion, if the measurement was asked for and could be made.
fn asked<T>(log: &ObservationLog, probe: &Probe, conclude: fn(&ObservationLog) -> Finding<T>) -> Finding<T> {
    if !log.tests.contains(&probe.name) {
        return Finding::not_asked_for(probe.about);
    }
    if log.dialect().is_none() {
        return Finding::unknown(NO_UDP, probe.about);
    }
    let finding = conclude(log);
    match (&finding.value, &log.socket_error) {
        (None, Some(socket_error)) => finding.because((ReasonCode::SystemRefused, socket_error.as_str())),
        (None, None) if log.ended_early => {
            finding.because((ReasonCode::EndedEarly, "the run ended before this was done"))
        }
        _ => finding,
    }
}

/// The classic name. Where the mapping depends on the destination, the filter does not matter for it.
pub(crate) fn nat_type(mapping: &Finding<Mapping>, filtering: &Finding<Filtering>) -> Finding<NatType> {
    match (mapping.value, filtering.value) {
        (Some(Mapping::Direct | Mapping::EndpointIndependent), None) => {
            let unknown = (ReasonCode::FilteringUnknown, "filtering is not known");
            Finding::unknown(filtering.reason_or(unknown), DERIVED)
        }
        (None, _) => {
            let unknown = (ReasonCode::MappingUnknown, "mapping is not known");
            Finding::unknown(mapping.reason_or(unknown), DERIVED)
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
fn blocked(log: &ObservationLog) -> UdpReport {
    let sent = log.transactions.len();
    let nat_type = Finding::known(
        NatType::UdpBlocked,
        Confidence::Strong,
        "RFC 3489 10.1, test I, beside TCP",
    )
    .because((
        ReasonCode::UdpBlocked,
        "the server answers over TCP but not over UDP: UDP is blocked on the way, or not served there",
    ))
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
