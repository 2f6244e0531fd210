//! What the log says of mapped ports. Pure.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::{
    nat::Filtering,
    port_mapping::{Protocol, Transport},
};

use super::{CONTROL_CALL, PROBE, Purposes};
use crate::{
    contactable::is_global,
    loss_test::{DECIDED, LossCounts},
    observation::{
        ObservationLog, Purpose, RequestKind, SocketId, Transaction,
        call::{Call, CallResult},
        port_mapping::{AskedMapping, Attempt, Deletion, Link},
    },
    probe::{
        so_far,
        tcp_calls::{counts, is_tried, log_ratio, rejection, why_no_calls},
    },
    report::{
        Chain, ChainLink, Confidence, Finding, GrantedMapping, MappedTransport, MappingProtocol, PortMapping,
        Reason, ReasonCode,
    },
    server_endpoints::ServerEndpoints,
    server_position::nat_before_server,
};

pub(super) const OUTSIDE: &str =
    "datagrams of the probe server to the mapped port, from an endpoint that this host has not sent to";
pub(super) const CALLS: &str = "connections of the probe server to the mapped port";
const ADDRESS: &str = "the gateway's word, compared with the address that the probe server sees";
const OUTBOUND: &str = "RFC 6886 3.9, what leaves from the mapped port";
const EPOCH: &str = "RFC 6887 8.5, RFC 6886 3.6, the gateway's epoch in each of its answers";
/// After this time an epoch, which counts seconds, has gone on.
const GOES_ON: Duration = Duration::from_secs(2);
const DELETED: &str =
    "the gateway's word, and datagrams and connections of the probe server to the port afterwards";

/// What the run says of port mapping; none where that was not asked for.
#[must_use]
pub fn conclude(log: &ObservationLog) -> Option<PortMapping> {
    if !log.tests.contains(&PROBE.name) {
        return None;
    }
    let gateway = match log.port_mapping.gateway {
        Some(Some(gateway)) if !log.port_mapping.is_discovered => {
            let text = "the run ended while the gateway was asked";
            return Some(PortMapping::unknown(Some(gateway), (ReasonCode::EndedEarly, text)));
        }
        Some(Some(gateway)) => gateway,
        Some(None) => {
            let text = "there is no gateway on the way to the server, or this system does not say which";
            return Some(PortMapping::unknown(None, (ReasonCode::GatewayUnknown, text)));
        }
        None if log.dialect().is_none() => {
            let text = "nobody outside can test it: no UDP passes to the server";
            return Some(PortMapping::unknown(None, (ReasonCode::UdpBlocked, text)));
        }
        None => {
            let text = "the run ended before the gateway was asked";
            return Some(PortMapping::unknown(None, (ReasonCode::EndedEarly, text)));
        }
    };
    Some(conclude_log(log, Some(gateway)))
}

/// What the protocols of the gateway came to, and those of two routers in a row.
pub(super) fn conclude_log(log: &ObservationLog, gateway: Option<IpAddr>) -> PortMapping {
    let of = |protocol| {
        let mut attempts = log.port_mapping.attempts.iter().filter(|it| it.link == Link::Gateway);
        attempts.find(|attempt| attempt.protocol == protocol).map(|attempt| of_protocol(log, attempt))
    };
    PortMapping {
        gateway,
        pcp: of(Protocol::Pcp),
        nat_pmp: of(Protocol::NatPmp),
        upnp: of(Protocol::Upnp),
        chain: log.port_mapping.is_chain_asked.then(|| chain(log)),
        ..PortMapping::default()
    }
}

/// Two routers in a row, opened one after the other.
fn chain(log: &ObservationLog) -> Chain {
    // Of several protocols of the outer one the last that was tried counts.
    let of = |link| log.port_mapping.attempts.iter().rfind(|attempt| attempt.link == link);
    let (inner, outer) = (of(Link::Inner), of(Link::Outer));
    let not_tried = || match &log.port_mapping.no_chain {
        Some(reason) => reason.clone(),
        None if log.ended_early => (ReasonCode::EndedEarly, "the run ended before this was done").into(),
        None => (ReasonCode::NoAnswer, "no router opens ports here").into(),
    };
    let reachable = |conclude: fn(&ObservationLog, &Attempt) -> Finding<bool>, method| match outer {
        Some(outer) => conclude(log, outer),
        None => Finding::unknown(not_tried(), method),
    };
    let reason = outer.is_none().then(not_tried);
    Chain {
        reason: reason.as_ref().map(|reason| reason.text.clone()),
        reason_code: reason.map(|reason| reason.code),
        inner: inner.map(|attempt| of_link(log, attempt)),
        outer: outer.map(|attempt| of_link(log, attempt)),
        reachable_udp: reachable(reachable_udp, OUTSIDE),
        reachable_tcp: reachable(reachable_tcp, CALLS),
    }
}

fn of_link(log: &ObservationLog, attempt: &Attempt) -> ChainLink {
    let MappingProtocol { gateway, software, external_address, mapping, mapping_tcp, deleted, error, .. } =
        of_protocol(log, attempt);
    let protocol = attempt.protocol.key().to_owned();
    ChainLink { gateway, protocol, software, external_address, mapping, mapping_tcp, deleted, error }
}

fn of_protocol(log: &ObservationLog, attempt: &Attempt) -> MappingProtocol {
    let granted = |transport, protocol| {
        let mapping = attempt.mapping(transport)?;
        let opened = mapping.opened()?;
        Some(GrantedMapping::new(protocol, mapping.internal, opened.external, opened.lifetime.as_secs()))
    };
    let refusal = attempt.mappings.iter().find_map(AskedMapping::refusal).map(str::to_owned);
    MappingProtocol {
        gateway: Some(attempt.gateway),
        software: attempt.software.clone(),
        external_address: attempt.external_address,
        external_address_agrees: address_agrees(log, attempt),
        mapping: granted(Transport::Udp, MappedTransport::Udp),
        mapping_tcp: granted(Transport::Tcp, MappedTransport::Tcp),
        reachable_udp: reachable_udp(log, attempt),
        reachable_tcp: reachable_tcp(log, attempt),
        outbound_uses_mapping: outbound(log, attempt),
        deleted: deleted(log, attempt),
        lost_mappings: lost_mappings(attempt),
        error: attempt.unusable.clone().or(refusal),
    }
}

fn address_agrees(log: &ObservationLog, attempt: &Attempt) -> Finding<bool> {
    let Some(named) = attempt.external_address else {
        let text = "the gateway names no external address";
        return Finding::unknown((ReasonCode::NoExternalAddressNamed, text), ADDRESS);
    };
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, ADDRESS);
    }
    let seen = seen_at(log);
    let finding = match seen.as_slice() {
        [] => {
            Finding::unknown((ReasonCode::NoAnswer, "no answer shows this host's external address"), ADDRESS)
        }
        seen => Finding::known(seen.contains(&named), Confidence::Certain, ADDRESS),
    };
    finding.with("named", named).with("seen", seen)
}

/// The addresses that the server sees this host at.
pub(super) fn seen_at(log: &ObservationLog) -> Vec<IpAddr> {
    let asked = log.transactions.iter().filter(|t| t.kind == RequestKind::Binding);
    let mut seen: Vec<IpAddr> = Vec::new();
    for ip in asked.filter_map(|t| Some(log.external(t.direct()?)?.ip())) {
        if !seen.contains(&ip) {
            seen.push(ip);
        }
    }
    seen
}

/// What there is to say where a port was not opened.
fn not_opened(log: &ObservationLog, attempt: &Attempt, transport: Transport) -> Reason {
    if let Some(why) = &attempt.unusable {
        return (ReasonCode::GatewayAnswerUnusable, format!("the gateway answers, and {why}")).into();
    }
    match attempt.mapping(transport).and_then(AskedMapping::refusal) {
        Some(why) => (ReasonCode::MappingRefused, format!("the gateway did not open the port: {why}")).into(),
        None if log.ended_early => (ReasonCode::EndedEarly, "the run ended before this was done").into(),
        None => (ReasonCode::Unfinished, "the port was not opened").into(),
    }
}

pub(super) fn reachable_udp(log: &ObservationLog, attempt: &Attempt) -> Finding<bool> {
    let purposes = Purposes::of_attempt(attempt);
    let Some((mapping, _)) = attempt.mapping(Transport::Udp).and_then(|it| Some((it, it.opened()?))) else {
        return Finding::unknown(not_opened(log, attempt, Transport::Udp), OUTSIDE);
    };
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, OUTSIDE);
    }
    let Some(socket) = mapping.socket else { return Finding::not_asked_for(OUTSIDE) };
    let tests = || log.of(purposes.test);
    let counts = datagram_counts(log, purposes.test, socket, log.timed_out_before);
    let control = log.port_mapping.control;
    let controls = || log.of(purposes.control);
    let is_control_heard = is_unmapped_reached(log, purposes);
    let finding = if tests().any(|t| is_heard(t, socket)) {
        let finding = Finding::known(true, Confidence::Certain, OUTSIDE);
        if is_control_heard { finding.because(without_mapping()) } else { finding }
    } else if let Some(code) = tests().find_map(Transaction::error_code) {
        let text = format!("the server refuses to answer to another port (error {code})");
        Finding::unknown((ReasonCode::ServerRefuses, text), OUTSIDE)
    } else if tests().any(|t| t.successes().next().is_some()) {
        let text = "the server ignores RESPONSE-PORT: it answers to the port that asked";
        Finding::unknown((ReasonCode::ServerIgnores, text), OUTSIDE)
    } else if counts.sent > 0 && !log.gives_receipts() {
        let text = "the server confirms no receipt of requests, so that silence proves nothing";
        Finding::unknown((ReasonCode::ServerGivesNoReceipts, text), OUTSIDE)
    } else if counts.is_filtered() {
        match asked_from(log, purposes.test) {
            Some(endpoint) if !log.is_alive(endpoint) => {
                let text = format!(
                    "the server's endpoint {endpoint}, which they were to come from, answers nobody here"
                );
                Finding::unknown((ReasonCode::ServerEndpointSilent, text), OUTSIDE)
            }
            Some(_) | None => silent(log, attempt, OUTSIDE),
        }
    } else {
        Finding::unknown(undecided(log), OUTSIDE)
    };
    finding
        .with("sent", counts.sent)
        .with("answered", counts.answered)
        .with("receipts", tests().filter(|t| t.receipt.is_some()).count())
        .with("controls_sent", controls().count())
        .with("controls_heard", controls().filter(|t| t.successes().any(|a| Some(a.on) == control)).count())
}

/// The server's endpoint that the answers were to come from.
fn asked_from(log: &ObservationLog, purpose: Purpose) -> Option<SocketAddr> {
    let from = log.of(purpose).find_map(|t| match t.kind {
        RequestKind::ToMappedPort { from, .. } => Some(from),
        _ => None,
    })?;
    ServerEndpoints::of(log.server, log).get(from)
}

/// Tests of a port that have had their time, and the controls of the whole run.
pub(in crate::probe) fn datagram_counts(
    log: &ObservationLog,
    purpose: Purpose,
    socket: SocketId,
    until: Duration,
) -> LossCounts {
    let mut counts = LossCounts::after_returned(log.controls(until).map(Transaction::returned));
    for test in log.of(purpose).filter(|t| t.sent <= until && !t.unsent) {
        counts.sent += 1;
        counts.answered += u32::from(is_heard(test, socket));
        counts.silent += u32::from(!is_heard(test, socket) && test.receipt.is_some());
    }
    counts
}

/// By its id, whoever it seems to come from: where two mappings lead to one socket, routers rewrite the source.
fn is_heard(test: &Transaction, socket: SocketId) -> bool {
    test.successes().any(|answer| answer.on == socket)
}

pub(super) fn reachable_tcp(log: &ObservationLog, attempt: &Attempt) -> Finding<bool> {
    let purpose = Purposes::of_attempt(attempt).call;
    if attempt.mapping(Transport::Tcp).is_none_or(|mapping| mapping.opened().is_none()) {
        return Finding::unknown(not_opened(log, attempt, Transport::Tcp), CALLS);
    }
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, CALLS);
    }
    let calls = || log.tcp.calls_of(purpose).filter(|call| is_tried(log, call));
    let arrived = calls().filter(|call| call.arrived.is_some()).count();
    let controls = || log.tcp.calls_of(CONTROL_CALL).filter(|call| is_tried(log, call));
    let control_arrived = controls().filter(|call| call.arrived.is_some()).count();
    let finding = if arrived > 0 {
        let finding = Finding::known(true, Confidence::Certain, CALLS);
        if control_arrived > 0 { finding.because(without_mapping()) } else { finding }
    } else if calls().next().is_none() {
        Finding::unknown(why_no_calls(log), CALLS)
    } else if is_refused_or_silent(log, calls) {
        let finding = silent(log, attempt, CALLS);
        let got_out = |call: &Call| call.arrived.is_some() || rejection(log, call).is_some();
        // Nothing shows that the server's connections leave its own network.
        if log.tcp.calls.iter().any(got_out) { finding } else { finding.at_most(Confidence::Weak) }
    } else if log.tcp.calls_of(purpose).any(|call| call.result == Some(CallResult::Declined)) {
        Finding::unknown(why_no_calls(log), CALLS)
    } else {
        Finding::unknown(undecided(log), CALLS)
    };
    finding
        .with("calls", calls().count())
        .with("arrived", arrived)
        .with("rejected", calls().filter_map(|call| rejection(log, call)).count())
        .with("controls", controls().count())
        .with("controls_arrived", control_arrived)
}

/// Whether a datagram to a port that nobody opened arrives.
fn is_unmapped_reached(log: &ObservationLog, purposes: Purposes) -> bool {
    let control = log.port_mapping.control;
    log.of(purposes.control).any(|t| t.successes().any(|answer| Some(answer.on) == control))
}

/// Whether nobody accepts these calls: they are rejected, or silence is no loss.
pub(in crate::probe) fn is_refused_or_silent<'a, I: Iterator<Item = &'a Call>>(
    log: &ObservationLog,
    calls: impl Fn() -> I,
) -> bool {
    calls().filter_map(|call| rejection(log, call)).count() > 1 || log_ratio(&counts(log, calls())) <= DECIDED
}

fn undecided(log: &ObservationLog) -> Reason {
    if log.ended_early {
        return (ReasonCode::EndedEarly, "the run ended before this was done").into();
    }
    (ReasonCode::TooMuchLoss, "nothing came through, and too much was lost to tell why").into()
}

fn without_mapping() -> Reason {
    let text = "a port that was not opened is reached from outside as well";
    (ReasonCode::ReachableWithoutMapping, text).into()
}

/// What silence says: nothing comes through, unless the mapping got lost while it was tried.
fn silent(log: &ObservationLog, attempt: &Attempt, method: &str) -> Finding<bool> {
    if attempt.losses > 0 {
        let text = "the gateway lost its mappings while this one was tried";
        return Finding::unknown((ReasonCode::GatewayLostMappings, text), method);
    }
    let seen = seen_at(log);
    if let [_, _, ..] = seen.as_slice() {
        let text = "packets leave over several external addresses, and the port may be open at another one than was tried";
        return Finding::unknown((ReasonCode::SeveralExternalAddresses, text), method);
    }
    if let Some(named) = attempt.external_address.filter(|named| is_global(*named) && !seen.contains(named)) {
        let text =
            format!("the gateway opens ports at {named}, which is not where the server sees this host");
        return Finding::unknown((ReasonCode::AnotherPublicAddress, text), method);
    }
    Finding::known(false, Confidence::Strong, method).because(why_not(attempt))
}

/// Why nothing comes through a mapping that the gateway has granted.
fn why_not(attempt: &Attempt) -> Reason {
    match attempt.external_address {
        Some(named) if !is_global(named) => {
            let text = format!(
                "the gateway's own external address is {named}, which is not where the server sees this host: another NAT \
                 stands in front of the gateway"
            );
            (ReasonCode::BehindAnotherNat, text).into()
        }
        _ => {
            let text = match attempt.link {
                Link::Gateway => {
                    "the gateway has granted the mapping, and nothing arrives: it does nothing, or a firewall of this host drops it"
                }
                Link::Inner | Link::Outer => {
                    "both routers have granted the mapping, and nothing arrives: one does nothing, or a firewall of this host drops it"
                }
            };
            (ReasonCode::GrantedWithoutEffect, text).into()
        }
    }
}

fn outbound(log: &ObservationLog, attempt: &Attempt) -> Finding<bool> {
    let is_way_back = asked_from(log, Purposes::of_attempt(attempt).test) == Some(log.server);
    let mapping = attempt.mapping(Transport::Udp);
    let Some((socket, opened)) = mapping.and_then(|it| Some((it.socket?, it.opened()?))) else {
        return Finding::unknown(not_opened(log, attempt, Transport::Udp), OUTBOUND);
    };
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, OUTBOUND);
    }
    match log.mapped(socket, log.server) {
        None => {
            let reason = (ReasonCode::NoAnswer, "no answer came to what was sent from the mapped port");
            Finding::unknown(reason, OUTBOUND)
        }
        Some(seen) if is_way_back && seen.port() == opened.external => {
            let text =
                "the server has one endpoint, which has knocked at the port: answers leave by it in any case";
            Finding::unknown((ReasonCode::ServerHasNoAlternate, text), OUTBOUND)
        }
        Some(seen) => Finding::known(seen.port() == opened.external, Confidence::Certain, OUTBOUND)
            .with("mapped", opened.external)
            .with("seen", seen),
    }
}

fn lost_mappings(attempt: &Attempt) -> Finding<bool> {
    let Some((first, last)) = attempt.epochs else {
        let text = "the gateway tells no epoch from which it could be seen";
        return Finding::unknown((ReasonCode::NoEpochNamed, text), EPOCH);
    };
    let stands_still = first.told == last.told && last.heard.saturating_sub(first.heard) >= GOES_ON;
    let finding = match attempt.losses {
        _ if stands_still => {
            Finding::unknown((ReasonCode::NoEpochNamed, "the gateway's epoch stands still"), EPOCH)
        }
        0 => Finding::known(false, Confidence::Strong, EPOCH),
        // Routers set their clocks, too, when they have learned the time.
        _ => Finding::known(true, Confidence::Strong, EPOCH)
            .because((ReasonCode::GatewayLostMappings, "its epoch began again between two answers")),
    };
    finding.with("first_epoch_s", first.told).with("last_epoch_s", last.told)
}

fn deleted(log: &ObservationLog, attempt: &Attempt) -> Finding<bool> {
    let opened = || attempt.mappings.iter().filter(|mapping| mapping.opened().is_some());
    if opened().next().is_none() {
        return Finding::unknown((ReasonCode::MappingRefused, "no port was opened"), DELETED);
    }
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, DELETED);
    }
    let purposes = Purposes::of_attempt(attempt);
    let socket = attempt.mapping(Transport::Udp).and_then(|mapping| mapping.socket);
    let counts = socket.map(|socket| datagram_counts(log, purposes.after, socket, log.timed_out_before));
    let counts = counts.unwrap_or_default();
    // Of two routers in a row the inner one is open still when the server calls again.
    let is_called = attempt.link != Link::Inner;
    let calls = || log.tcp.calls_of(purposes.call_after).filter(|call| is_called && is_tried(log, call));
    let called = calls().filter(|call| call.arrived.is_some()).count();
    let is_heard = counts.answered > 0 || called > 0;
    let control_called = log.tcp.calls_of(CONTROL_CALL).any(|call| call.arrived.is_some());
    let is_open_anyway =
        counts.answered > 0 && is_unmapped_reached(log, purposes) || called > 0 && control_called;
    // Servers call so often only: over TCP one call has to do, beside UDP.
    let has_opened = |transport| attempt.mapping(transport).and_then(AskedMapping::opened).is_some();
    let is_silent = match (has_opened(Transport::Udp), has_opened(Transport::Tcp)) {
        (true, true) => counts.is_filtered() && (!is_called || calls().next().is_some()),
        (true, false) => counts.is_filtered(),
        (false, _) => is_refused_or_silent(log, calls),
    };
    // What was sent from the port has a mapping of its own then, which needs nobody to open it.
    let filtering = so_far(log, &["mapping", "filtering"]).udp.filtering;
    let is_filtered = filtering.sure().is_some_and(|it| *it != Filtering::EndpointIndependent);
    let may_be_anothers = outbound(log, attempt).value == Some(true) && !is_filtered;
    let ends_after = opened().filter_map(AskedMapping::opened).map(|opened| opened.lifetime).max();
    let failed = opened().find_map(|mapping| match &mapping.deletion {
        Some(Deletion::Failed(why)) => Some(why.as_str()),
        None => Some("the run ended before that"),
        Some(Deletion::Confirmed { .. }) => None,
    });
    let listed = |is: Option<bool>| {
        opened().filter(|it| it.deletion == Some(Deletion::Confirmed { listed: is })).count()
    };
    let finding = if is_heard && is_open_anyway && listed(Some(true)) == 0 {
        Finding::unknown(without_mapping(), DELETED)
    } else if is_heard && may_be_anothers && failed.is_none() && listed(Some(true)) == 0 {
        let text = "the port is reached still, which what was sent from it may have opened";
        let reason = (ReasonCode::ReachableWithoutMapping, text);
        Finding::known(false, Confidence::Weak, DELETED).because(reason)
    } else if !is_heard && listed(Some(true)) > 0 {
        let text = "the gateway lists the mapping still; from outside nobody came through any more";
        let reason = (ReasonCode::GatewaysWordOnly, text);
        Finding::known(false, Confidence::Weak, DELETED).because(reason)
    } else if is_heard {
        let text = match failed {
            Some(why) => format!("the mapping is still there: {why}"),
            None => "the gateway has confirmed it, and the mapping is still there".into(),
        };
        Finding::known(false, Confidence::Certain, DELETED).because((ReasonCode::GatewayAnswerUnusable, text))
    } else if let Some(why) = failed {
        let until = match ends_after {
            Some(time) if !time.is_zero() => format!("; it ends by itself after {} s", time.as_secs()),
            _ => String::new(),
        };
        let text = format!("the gateway did not confirm it: {why}{until}");
        Finding::unknown((ReasonCode::GatewayAnswerUnusable, text), DELETED)
    } else if is_silent && listed(Some(false)) == opened().count() {
        Finding::known(true, Confidence::Certain, DELETED)
    } else if is_silent {
        Finding::known(true, Confidence::Strong, DELETED)
    } else {
        let text = "the gateway says so; from outside it was not seen";
        Finding::known(true, Confidence::Weak, DELETED).because((ReasonCode::GatewaysWordOnly, text))
    };
    finding
        .with("sent_after", counts.sent)
        .with("heard_after", counts.answered)
        .with("calls_after", calls().count())
        .with("arrived_after", called)
}
