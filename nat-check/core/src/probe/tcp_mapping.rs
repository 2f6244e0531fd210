//! TCP mapping (RFC 5382 REQ-1): does the external endpoint of one local port depend on the destination? Connections to all
//! four endpoints of the server from one port, all open at the same time.

pub(super) mod interception;
mod same_address;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::nat::Mapping;

use super::{
    mapping::{self, external_addresses, readings::Readings},
    measured::Transport,
    tcp::{ask, connected, endpoints, implausible},
};
use crate::{
    observation::{ObservationLog, Purpose, tcp::Connection},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, Reason, ReasonCode},
    server_endpoints::ServerEndpoint,
    session::Session,
};

/// What its connections are opened for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("tcp-mapping");
/// What a connection to a port is opened for at which nobody listens.
const CLOSED_PORT: Purpose = PURPOSE.role("closed-port");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "the same over TCP, and whether something on the way answers in the server's place",
    needs: &[],
    steps: &[Step { stage: Stage::Tcp, run: |session| Box::pin(run(session)) }],
    udp: &[],
    tcp: &[
        Slot::of::<TcpMapping>(),
        Slot::of::<same_address::SameAddressAsUdp>(),
        Slot::of::<interception::Intercepted>(),
    ],
    server: &[],
};

/// Whether the external endpoint depends on the destination.
struct TcpMapping;

impl Measured for TcpMapping {
    type Value = Mapping;
    const KEY: &'static str = "mapping";
    const LABEL: &'static str = "TCP mapping";
    const LINE_KEY: Option<&'static str> = Some("tcp_mapping");
    const TRANSPORT: Transport = Transport::Tcp;
    slot!(tcp.mapping);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<Mapping> {
        conclude(log)
    }

    fn text(value: &Mapping) -> String {
        mapping::text(*value).into()
    }

    #[cfg(feature = "sim")]
    fn expected_tcp(nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        Some(serde_json::json!(nat.mapping))
    }
}

const METHOD: &str = "RFC 5382 REQ-1, connections from one port to all four endpoints";

async fn run(session: Arc<Session>) {
    let Ok(port) = session.tcp_port().await else { return };
    ask(&session, &*port, PURPOSE, session.server()).await;
    session.others_allowed().await;
    let endpoints = session.read(endpoints);
    let ask_at = |endpoint| {
        let (session, port, to) = (&session, &*port, endpoints.get(endpoint));
        async move {
            if let Some(to) = to {
                ask(session, port, PURPOSE, to).await;
            }
        }
    };
    let others = async {
        let [port, ip, both] = [ServerEndpoint::PORT, ServerEndpoint::IP, ServerEndpoint::BOTH].map(ask_at);
        // What a lost packet holds up is not waited for where the rest decides.
        tokio::select! {
            ((), (), ()) = async { tokio::join!(port, ip, both) } => {}
            () = session.until_log(is_decided) => {}
        }
    };
    tokio::join!(others, interception::connect_to_closed_ports(&session));
}

/// Whether what has come by now decides it, from more than one endpoint.
fn is_decided(log: &ObservationLog) -> bool {
    log.tcp.of(PURPOSE).filter(|connection| connection.answer.is_some()).count() > 1
        && conclude(log).confidence >= Confidence::Strong
}

/// Since when an answer to the first SYN of a connection has been waited for.
pub(crate) fn waits_since(log: &ObservationLog) -> Option<Duration> {
    log.tcp
        .of(PURPOSE)
        .filter(|connection| connection.outcome.is_none())
        .map(|connection| connection.begun)
        .min()
}

/// Draws the conclusion.
pub(super) fn conclude(log: &ObservationLog) -> Finding<Mapping> {
    let endpoints = endpoints(log);
    let mut readings = Readings::default();
    for connection in log.tcp.of(PURPOSE) {
        if let (Some(endpoint), Some(answer)) = (endpoints.endpoint_at(connection.to), connection.answer) {
            readings.seen.entry(endpoint).or_insert(answer.mapped);
        }
    }
    let local = log.tcp.of(PURPOSE).find_map(|connection| connection.local);
    let seen: BTreeMap<_, _> = readings.seen.iter().map(|(endpoint, at)| (endpoint.name(), at)).collect();
    let finding = judge(log, local, &readings);
    let finding = match finding.value {
        // Each connection of a proxy has a port of its own: that would look like a dependence.
        Some(Mapping::Direct | Mapping::EndpointIndependent) if !interception::is_shown(log) => finding,
        _ => interception::of_this_host(log, finding),
    };
    finding.with("seen", seen).with("local", local)
}

fn judge(log: &ObservationLog, local: Option<SocketAddr>, readings: &Readings) -> Finding<Mapping> {
    let doubt =
        local.and_then(|local| log.tcp.of(PURPOSE).find_map(|c| implausible(c.to, local, c.answer?.mapped)));
    if readings.is_direct(local) {
        let sure = if readings.seen.len() > 1 { Confidence::Certain } else { Confidence::Strong };
        let finding = Finding::known(Mapping::Direct, sure, METHOD);
        return match doubt {
            Some(doubt) => finding.at_most(Confidence::Weak).because(doubt),
            None => finding,
        };
    }
    if let Some(doubt) = doubt {
        return Finding::unknown(doubt, METHOD);
    }
    let axes = readings.axes();
    let several = several_addresses(log);
    let known = axes.mapping().filter(|(value, _)| match value {
        // Equal readings by endpoints that differ in both things exclude a dependence; different ones show it.
        Mapping::EndpointIndependent => readings.is_uniform(),
        _ => true,
    });
    match known {
        // Which of several addresses a connection leaves from may be chance, and look like a dependence or hide one.
        Some((value, _)) if several && value != Mapping::AddressAndPortDependent => {
            let text = "this host has several external addresses: one port is too few to tell what the mapping depends on";
            Finding::unknown((ReasonCode::SeveralExternalAddresses, text), METHOD)
        }
        Some((value, Confidence::Weak)) => {
            Finding::known(value, Confidence::Weak, METHOD).because(why_unknown(log))
        }
        Some((value, confidence)) => Finding::known(value, confidence, METHOD),
        None => Finding::unknown(why_unknown(log), METHOD),
    }
}

/// Whether this host was seen at several external addresses, over TCP or UDP.
fn several_addresses(log: &ObservationLog) -> bool {
    let mut addresses = external_addresses(log);
    addresses.extend(external_over_tcp(log));
    addresses.len() > 1
}

/// The external addresses that the port under test was seen at.
fn external_over_tcp(log: &ObservationLog) -> impl Iterator<Item = IpAddr> {
    log.tcp.of(PURPOSE).filter_map(|connection| Some(connection.answer?.mapped.ip()))
}

/// Why the readings are too few.
fn why_unknown(log: &ObservationLog) -> Reason {
    let endpoints = endpoints(log);
    if let Some(fault) = endpoints.fault() {
        return fault
            .reason()
            .map(|text| text + ": one endpoint alone cannot tell what the mapping depends on");
    }
    let silent: Vec<String> =
        log.tcp.of(PURPOSE).filter(|c| c.answer.is_none()).map(|c| c.to.to_string()).collect();
    if silent.is_empty() {
        return (ReasonCode::EndedEarly, "the run ended before all endpoints were asked over TCP").into();
    }
    let gave_up = |c: &Connection| c.outcome.is_some() && c.handshake().is_none();
    let code = match log.tcp.of(PURPOSE).any(gave_up) {
        true => ReasonCode::ServerEndpointSilent,
        false => ReasonCode::TooMuchLoss,
    };
    (code, format!("no answer over TCP from {} in time", silent.join(", "))).into()
}

/// A time in seconds, for evidence.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}
