//! From what was observed to what is reported: each measurement's own conclusion, and the classic name over them.

use std::net::SocketAddr;

use shared::nat::{Filtering, Mapping, NatType};

use crate::{
    engine::Observed,
    observation::{ObservationLog, Transaction},
    probe::{self, Found, contact, mapping, tcp_mapping},
    report::{Confidence, Finding, ReasonCode, ServerAddresses, ServerFeatures, TcpReport, UdpReport},
    server_endpoints::{ServerEndpoint, ServerEndpoints},
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

const DERIVED: &str = "RFC 3489 5, derived from mapping and filtering";

/// Everything that is concluded from what was observed, each measurement's conclusion drawn once.
#[must_use]
pub fn found(observed: &Observed) -> Found {
    let log = &observed.log;
    let mut found = probe::conclude(log);
    found.tcp = over_tcp(observed, found.tcp);
    found.tcp_tried = observed.tcp.is_some() || !log.tcp.connections.is_empty();
    if !observed.udp_works() {
        found.udp.nat_type = blocked(log);
        return found;
    }
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
    found.udp = UdpReport {
        local: socket.and_then(|s| log.local(s)),
        external,
        rtt_s: observed.rtt.map(|rtt| round(rtt.as_secs_f64(), 6)),
        loss: (!controls.is_empty()).then(|| round(lost as f64 / controls.len() as f64, 4)),
        nat_type: nat_type(&found.udp.mapping, &found.udp.filtering),
        ..found.udp
    };
    found
}

/// What is known over TCP besides the findings.
fn over_tcp(observed: &Observed, findings: TcpReport) -> TcpReport {
    let log = &observed.log;
    let mut external: Vec<SocketAddr> = Vec::new();
    for answer in log.tcp.of(tcp_mapping::PURPOSE).filter_map(|connection| connection.answer) {
        if !external.contains(&answer.mapped) {
            external.push(answer.mapped);
        }
    }
    let first_contact = observed.tcp.as_ref().filter(|_| external.is_empty());
    external.extend(first_contact.into_iter().flat_map(|tcp| &tcp.external));
    let quickest = log.tcp.quickest(log.server).or(log.handshake.filter(|_| observed.tcp.is_some()));
    TcpReport {
        reachable: log.tcp.reached(log.server) || observed.tcp.as_ref().is_some_and(|tcp| tcp.reachable),
        rtt_s: quickest.map(|handshake| round(handshake.as_secs_f64(), 6)),
        local: log.tcp.of(tcp_mapping::PURPOSE).find_map(|connection| connection.local),
        external,
        ..findings
    }
}

/// What the run tells of the server.
#[must_use]
pub fn server(observed: &Observed, found: &Found) -> ServerSide {
    let log = &observed.log;
    let endpoints = ServerEndpoints::of(log.server, log);
    let first = |t: &crate::observation::Transaction| t.direct().and_then(|a| a.other);
    let named = log.transactions.iter().filter(|t| t.to == log.server).find_map(first);
    ServerSide {
        addresses: ServerAddresses {
            primary: log.server,
            alternate: endpoints.get(ServerEndpoint::BOTH).or(named),
        },
        features: found.server.clone(),
        faults: server_faults::faults(log, found),
        software: log.software.clone(),
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
            // Several kinds of mapping have the same name.
            let is_certain = mapping.reason_code == Some(ReasonCode::MappingKindUnknown);
            let sure = if is_certain { Confidence::Certain } else { mapping.confidence };
            Finding::known(NatType::derive(m, f), sure, DERIVED)
        }
    }
}

/// UDP does not pass, though the server was reached otherwise.
fn blocked(log: &ObservationLog) -> Finding<NatType> {
    const METHOD: &str = "RFC 3489 10.1, test I, beside TCP";
    if let Some(code) = log.transactions.iter().find_map(Transaction::error_code) {
        let text = format!("the server answers over UDP, but every request with error {code}");
        return Finding::unknown((ReasonCode::ServerRefuses, text), METHOD);
    }
    let finding = Finding::known(NatType::UdpBlocked, Confidence::Strong, METHOD)
        .with("udp_sent", log.transactions.iter().filter(|t| !t.unsent).count())
        .with("udp_answered", 0);
    let text = "the server answers over TCP but not over UDP: UDP is blocked on the way, or not served there";
    match contact::is_udp_dead(log, log.ended) {
        true => finding.because((ReasonCode::UdpBlocked, text)),
        false => {
            let text =
                "the server answers over TCP, and the run ended before it was clear that no UDP passes";
            finding.at_most(Confidence::Weak).because((ReasonCode::EndedEarly, text))
        }
    }
}

fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}
