//! Conclusions over logs made by hand.

use std::time::Duration;

use shared::{
    port_mapping::{Protocol, Transport, epoch::Epoch},
    test_session::{Source, SourceAddress, SynOutcome},
};

use super::{CONTROL_CALL, PROBE, Purposes, conclude};
use crate::{
    observation::{
        ObservationLog, Purpose, RequestKind, Response, SocketId, Transaction,
        call::{Call, CallResult},
        made::{answer, at, call, socket, transaction, without_loss},
        port_mapping::{AskedMapping, Attempt, Deletion, Opened},
    },
    report::{Confidence, MappingProtocol, ReasonCode},
    server_endpoints::ServerEndpoint,
};

const EXTERNAL: u16 = 41_000;
/// The server's endpoint that datagrams come from.
const OTHER: &str = "198.51.100.11:3479";

fn epoch(heard: u64, told: u32) -> Epoch {
    Epoch { heard: Duration::from_secs(heard), told }
}

/// A run without loss in which the gateway has granted a mapping for each transport, and nothing was tested so far.
fn granted(named: &str) -> (ObservationLog, SocketId) {
    let mut log = without_loss();
    log.tests.push(PROBE.name);
    let mapped = socket(&mut log, "192.168.1.2:50000");
    // The server's other endpoint answers whoever asks it.
    let asks = socket(&mut log, "192.168.1.2:50008");
    let mut asked = transaction(Purpose::main("test"), asks, at(OTHER), RequestKind::Binding);
    asked.responses.push(answer(asks, at(OTHER), "203.0.113.1:50008"));
    log.transactions.push(asked);
    log.port_mapping.gateway = Some(Some("192.168.1.1".parse().unwrap()));
    log.port_mapping.is_discovered = true;
    log.port_mapping.control = Some(socket(&mut log, "192.168.1.2:50002"));
    let opened = Opened { external: EXTERNAL, lifetime: Duration::from_secs(120) };
    let mapping = |transport, socket| AskedMapping {
        transport,
        internal: 50_000,
        socket,
        answer: Some(Ok(opened)),
        deletion: Some(Deletion::Confirmed { listed: None }),
    };
    log.port_mapping.attempts.push(Attempt {
        external_address: Some(named.parse().unwrap()),
        epochs: Some((epoch(1, 86_400), epoch(4, 86_403))),
        mappings: vec![mapping(Transport::Udp, Some(mapped)), mapping(Transport::Tcp, None)],
        ..Attempt::new(Protocol::Pcp, "192.168.1.1".parse().unwrap())
    });
    (log, mapped)
}

/// Datagrams with receipts, which arrive at this socket, or nowhere.
fn tested(log: &mut ObservationLog, purpose: Purpose, arrives: Option<SocketId>) {
    let asks = socket(log, "192.168.1.2:50001");
    for _ in 0..8 {
        let kind = RequestKind::ToMappedPort { port: EXTERNAL, from: ServerEndpoint::BOTH };
        let mut test = transaction(purpose, asks, log.server, kind);
        test.wants_receipt = true;
        test.sent = Duration::from_secs(1);
        test.receipt = Some(Duration::from_millis(1020));
        test.responses.extend(arrives.map(|on| Response {
            at: Duration::from_millis(1020),
            ..answer(on, at("198.51.100.11:3479"), "203.0.113.1:50001")
        }));
        log.transactions.push(test);
    }
}

fn called(log: &mut ObservationLog, purpose: Purpose, arrived: bool) {
    for _ in 0..5 {
        let outcome = if arrived { SynOutcome::Echoed } else { SynOutcome::Timeout };
        let result = Some(CallResult::Tried { outcome, after: Duration::from_millis(20) });
        let arrived = arrived.then_some(Duration::from_millis(1020));
        let call: Call = call(purpose, SourceAddress::Alternate, Source::Ephemeral);
        log.tcp.calls.push(Call { arrived, result, ..call });
    }
}

/// Connections that are refused.
fn rejected(log: &mut ObservationLog, purpose: Purpose) {
    called(log, purpose, false);
    let result = Some(CallResult::Tried { outcome: SynOutcome::Refused, after: Duration::from_millis(20) });
    log.tcp.calls.iter_mut().rev().take(5).for_each(|call| call.result = result);
}

fn concluded(log: &ObservationLog) -> MappingProtocol {
    conclude(log).and_then(|report| report.pcp).unwrap()
}

#[test]
fn what_arrives_has_come_through() {
    let (mut log, mapped) = granted("203.0.113.1");
    let purposes = Purposes::of(Protocol::Pcp);
    tested(&mut log, purposes.test, Some(mapped));
    tested(&mut log, purposes.control, None);
    tested(&mut log, purposes.after, None);
    called(&mut log, purposes.call, true);
    rejected(&mut log, purposes.call_after);
    called(&mut log, CONTROL_CALL, false);
    let found = concluded(&log);
    for (name, finding) in [("udp", &found.reachable_udp), ("tcp", &found.reachable_tcp)] {
        assert_eq!(
            (finding.value, finding.confidence),
            (Some(true), Confidence::Certain),
            "{name}: {finding:?}"
        );
        assert_eq!(finding.reason, None, "{name}");
    }
    assert_eq!(found.external_address_agrees.value, Some(true));
    assert_eq!(
        (found.deleted.value, found.deleted.confidence),
        (Some(true), Confidence::Strong),
        "{:?}",
        found.deleted
    );
}

#[test]
fn granted_is_not_reachable() {
    let (mut log, _) = granted("203.0.113.1");
    let purposes = Purposes::of(Protocol::Pcp);
    tested(&mut log, purposes.test, None);
    tested(&mut log, purposes.control, None);
    called(&mut log, purposes.call, false);
    let found = concluded(&log);
    for (finding, sure) in
        [(&found.reachable_udp, Confidence::Strong), (&found.reachable_tcp, Confidence::Weak)]
    {
        assert_eq!((finding.value, finding.confidence), (Some(false), sure), "{finding:?}");
        assert_eq!(finding.reason_code, Some(ReasonCode::GrantedWithoutEffect));
    }
    // Once a connection of the server was seen to leave its network, silence counts for more.
    rejected(&mut log, CONTROL_CALL);
    assert_eq!(concluded(&log).reachable_tcp.confidence, Confidence::Strong);
    assert_eq!(found.deleted.confidence, Confidence::Weak, "nobody saw it open: {:?}", found.deleted);
}

#[test]
fn another_address_of_the_gateway_tells_why() {
    for (named, why) in [
        ("10.0.0.2", (Some(false), ReasonCode::BehindAnotherNat)),
        ("100.64.3.4", (Some(false), ReasonCode::BehindAnotherNat)),
        // The port may be open there, which nobody has tried.
        ("203.0.113.200", (None, ReasonCode::AnotherPublicAddress)),
    ] {
        let (mut log, _) = granted(named);
        tested(&mut log, Purposes::of(Protocol::Pcp).test, None);
        let found = concluded(&log);
        assert_eq!(found.external_address_agrees.value, Some(false), "{named}");
        let reachable = found.reachable_udp;
        assert_eq!((reachable.value, reachable.reason_code), (why.0, Some(why.1)), "{named}");
    }
}

#[test]
fn silence_of_an_endpoint_that_answers_nobody_and_of_several_addresses_says_nothing() {
    let judged = |change: fn(&mut ObservationLog)| {
        let (mut log, _) = granted("203.0.113.1");
        tested(&mut log, Purposes::of(Protocol::Pcp).test, None);
        change(&mut log);
        let found = concluded(&log).reachable_udp;
        (found.value, found.reason_code)
    };
    assert_eq!(judged(|_| ()).0, Some(false));
    let dead = |log: &mut ObservationLog| log.transactions.retain(|t| t.to != at(OTHER));
    assert_eq!(judged(dead), (None, Some(ReasonCode::ServerEndpointSilent)));
    let elsewhere = |log: &mut ObservationLog| {
        let asks = socket(log, "192.168.1.2:50009");
        let mut seen = transaction(Purpose::main("test"), asks, log.server, RequestKind::Binding);
        seen.responses.push(answer(asks, log.server, "203.0.113.77:50009"));
        log.transactions.push(seen);
    };
    assert_eq!(judged(elsewhere), (None, Some(ReasonCode::SeveralExternalAddresses)));
}

#[test]
fn what_is_reached_without_a_mapping_proves_nothing_of_it() {
    let (mut log, mapped) = granted("203.0.113.1");
    let purposes = Purposes::of(Protocol::Pcp);
    let control = log.port_mapping.control;
    tested(&mut log, purposes.test, Some(mapped));
    tested(&mut log, purposes.control, control);
    called(&mut log, purposes.call, true);
    called(&mut log, CONTROL_CALL, true);
    let found = concluded(&log);
    for finding in [&found.reachable_udp, &found.reachable_tcp] {
        assert_eq!(
            (finding.value, finding.reason_code),
            (Some(true), Some(ReasonCode::ReachableWithoutMapping))
        );
    }
    // Nor does it tell whether the mapping is gone.
    tested(&mut log, purposes.after, Some(mapped));
    called(&mut log, purposes.call_after, true);
    let deleted = concluded(&log).deleted;
    assert_eq!((deleted.value, deleted.reason_code), (None, Some(ReasonCode::ReachableWithoutMapping)));
}

#[test]
fn silence_that_nothing_vouches_for_stays_unknown() {
    let without_receipts = |log: &mut ObservationLog| {
        log.transactions.iter_mut().for_each(|t: &mut Transaction| t.receipt = None);
    };
    let (mut log, _) = granted("203.0.113.1");
    tested(&mut log, Purposes::of(Protocol::Pcp).test, None);
    without_receipts(&mut log);
    let found = concluded(&log).reachable_udp;
    assert_eq!((found.value, found.reason_code), (None, Some(ReasonCode::ServerGivesNoReceipts)));
    let (mut log, _) = granted("203.0.113.1");
    tested(&mut log, Purposes::of(Protocol::Pcp).test, None);
    // Every second control gets lost.
    let controls = log.transactions.iter_mut().filter(|t| t.kind == RequestKind::Binding);
    controls.step_by(2).for_each(|t| t.responses.clear());
    let found = concluded(&log).reachable_udp;
    assert_eq!((found.value, found.reason_code), (None, Some(ReasonCode::TooMuchLoss)), "{found:?}");
}

#[test]
fn a_mapping_that_stays_is_told() {
    let (mut log, mapped) = granted("203.0.113.1");
    let purposes = Purposes::of(Protocol::Pcp);
    tested(&mut log, purposes.test, Some(mapped));
    tested(&mut log, purposes.after, Some(mapped));
    assert_eq!(concluded(&log).deleted.value, Some(false));
    // Over TCP alone.
    let (mut log, mapped) = granted("203.0.113.1");
    tested(&mut log, purposes.test, Some(mapped));
    tested(&mut log, purposes.after, None);
    called(&mut log, purposes.call, true);
    let word = concluded(&log).deleted;
    assert_eq!(
        (word.value, word.confidence),
        (Some(true), Confidence::Weak),
        "nobody called again: {word:?}"
    );
    called(&mut log, purposes.call_after, true);
    assert_eq!(concluded(&log).deleted.value, Some(false));
    let (mut log, _) = granted("203.0.113.1");
    log.port_mapping.attempts[0].mappings[1].deletion = Some(Deletion::Failed("no answer in time".into()));
    let deleted = concluded(&log).deleted;
    assert_eq!(deleted.value, None);
    assert!(deleted.reason.unwrap().contains("ends by itself after 120 s"));
}

#[test]
fn lost_mappings_are_seen_in_epochs_that_go_on() {
    use Confidence::{Strong, Unknown};
    for (what, [first, last], losses, value, confidence) in [
        ("it goes on", [epoch(1, 500), epoch(4, 503)], 0, Some(false), Strong),
        ("it began again", [epoch(1, 500), epoch(4, 2)], 1, Some(true), Strong),
        ("both answers came in one second", [epoch(1, 500), epoch(2, 500)], 0, Some(false), Strong),
        ("it stands still, and not for long", [epoch(1, 77), epoch(3, 77)], 0, None, Unknown),
        ("it stands still", [epoch(1, 77), epoch(9, 77)], 1, None, Unknown),
    ] {
        let (mut log, _) = granted("203.0.113.1");
        (log.port_mapping.attempts[0].epochs, log.port_mapping.attempts[0].losses) =
            (Some((first, last)), losses);
        let found = concluded(&log).lost_mappings;
        assert_eq!((found.value, found.confidence), (value, confidence), "{what}: {found:?}");
    }
}

#[test]
fn a_refusal_is_told_by_its_name() {
    let (mut log, _) = granted("203.0.113.1");
    for mapping in &mut log.port_mapping.attempts[0].mappings {
        mapping.answer = Some(Err("NOT_AUTHORIZED".into()));
    }
    let found = concluded(&log);
    assert_eq!(found.error.as_deref(), Some("NOT_AUTHORIZED"));
    assert_eq!(found.mapping, None);
    for finding in [&found.reachable_udp, &found.reachable_tcp, &found.deleted] {
        assert_eq!((finding.value, finding.reason_code), (None, Some(ReasonCode::MappingRefused)));
    }
}

#[test]
fn why_nothing_is_known_is_told() {
    let mut log = without_loss();
    assert!(conclude(&log).is_none(), "it was not asked for");
    log.tests.push(PROBE.name);
    assert_eq!(conclude(&log).and_then(|it| it.reason_code), Some(ReasonCode::EndedEarly));
    log.port_mapping.gateway = Some(None);
    assert_eq!(conclude(&log).and_then(|it| it.reason_code), Some(ReasonCode::GatewayUnknown));
    log.port_mapping.gateway = Some(Some("192.168.1.1".parse().unwrap()));
    assert_eq!(conclude(&log).and_then(|it| it.reason_code), Some(ReasonCode::EndedEarly), "who answers?");
    log.port_mapping.is_discovered = true;
    let found = conclude(&log).unwrap();
    assert!(found.reason.is_none() && found.pcp.is_none() && found.upnp.is_none(), "nobody answers");
}
