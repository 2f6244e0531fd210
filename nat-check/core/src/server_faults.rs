//! The server is tested, too: what is wrong with it, from the observation log alone.

use std::net::SocketAddr;

use crate::{
    observation::{ObservationLog, RequestKind, Response, Transaction},
    probe::Found,
    rate_limit::RateLimit,
    server_endpoints::{AlternateFault, ServerEndpoint, ServerEndpoints},
    server_position::nat_before_server,
};

/// What is wrong with the server, or with the way to it: each a sentence.
#[must_use]
pub fn faults(log: &ObservationLog, found: &Found) -> Vec<String> {
    let endpoints = ServerEndpoints::of(log.server, log);
    let alive = log.transactions.iter().any(|t| t.direct().is_some());
    FAULTS.iter().filter(|_| alive).flat_map(|find| find(log, found, &endpoints)).collect()
}

/// One kind of fault: the sentences that it makes.
type FindFault = fn(&ObservationLog, &Found, &ServerEndpoints) -> Vec<String>;

const FAULTS: &[FindFault] = &[
    |_, _, endpoints| endpoints.fault().map(AlternateFault::sentence).into_iter().collect(),
    |log, _, _| nat_before_server(log).map(|reason| reason.text).into_iter().collect(),
    dead_endpoints,
    lying_origin,
    wrong_alternate,
    |log, _, _| {
        let ignored = log
            .transactions
            .iter()
            .any(|t| matches!(t.kind, RequestKind::ChangeRequest(_)) && t.direct().is_some());
        let sentence = "it ignores CHANGE-REQUEST: it answers from the address that was asked";
        ignored.then(|| sentence.to_owned()).into_iter().collect()
    },
    |log, _, _| {
        let only = log.dialect() == Some(shared::stun::Dialect::Classic);
        let sentence = "it answers classic requests (RFC 3489) only, not modern ones (RFC 8489)";
        only.then(|| sentence.to_owned()).into_iter().collect()
    },
    |log, _, _| {
        let sentence = |l: RateLimit| {
            format!(
                "it seems to limit the rate: of {} requests at once it answered the first {}",
                l.of, l.answered
            )
        };
        RateLimit::seen(log, log.timed_out_before).map(sentence).into_iter().collect()
    },
    slow,
    |log, found, _| {
        crate::probe::filtering::half_hearted(log, found).map(|reason| reason.text).into_iter().collect()
    },
    |log, _, _| {
        let doubled = log
            .transactions
            .iter()
            .filter(|t| {
                t.kind == RequestKind::Binding && t.successes().filter(|a| a.from == t.to).count() > 1
            })
            .count();
        let sentence = || format!("{doubled} of its answers came more than once");
        (doubled > 1).then(sentence).into_iter().collect()
    },
    |log, _, _| {
        let not_stun = log.unmatched.not_stun;
        let sentence = || format!("{not_stun} datagrams that are not STUN came in beside its answers");
        (not_stun > 0).then(sentence).into_iter().collect()
    },
    |log, _, _| log.objection.iter().map(|o| format!("its answers are not sound STUN: {o}")).collect(),
];

/// A server that takes its time, told from a long way by the TCP handshake, which the system answers at once.
fn slow(log: &ObservationLog, _: &Found, _: &ServerEndpoints) -> Vec<String> {
    let (Some(quickest), Some(handshake)) = (log.quickest(), log.handshake) else { return Vec::new() };
    let sentence = || {
        let (answer, way) = (quickest.as_secs_f64(), handshake.as_secs_f64());
        format!("it is slow: an answer takes {answer:.2} s, though the way there and back takes {way:.2} s")
    };
    let slow = quickest > handshake * 3 + std::time::Duration::from_millis(100);
    slow.then(sentence).into_iter().collect()
}

fn dead_endpoints(log: &ObservationLog, _: &Found, endpoints: &ServerEndpoints) -> Vec<String> {
    let asked = |endpoint: SocketAddr| {
        let timed_out_before = |t: &&Transaction| {
            t.to == endpoint && t.kind == RequestKind::Binding && t.sent <= log.timed_out_before
        };
        log.transactions.iter().filter(timed_out_before).count()
    };
    let lossless = log.controls(log.timed_out_before).filter(|t| !t.returned()).count() == 0;
    // Loss may swallow a few requests, hardly more.
    let enough = if lossless { 2 } else { 6 };
    ServerEndpoint::ALL
        .into_iter()
        .filter_map(|endpoint| endpoints.get(endpoint))
        .filter(|&endpoint| asked(endpoint) >= enough && !log.is_alive(endpoint))
        .map(|endpoint| format!("its endpoint {endpoint} does not answer from here"))
        .collect()
}

fn lying_origin(log: &ObservationLog, _: &Found, _: &ServerEndpoints) -> Vec<String> {
    let lie = log
        .transactions
        .iter()
        .flat_map(Transaction::successes)
        .find(|a| a.origin.is_some_and(|o| o != a.from));
    let sentence = |a: &Response| {
        let origin = a.origin.map(|o| o.to_string()).unwrap_or_default();
        format!("it says that an answer came from {origin} (RESPONSE-ORIGIN), but it came from {}", a.from)
    };
    lie.map(sentence).into_iter().collect()
}

/// Each endpoint must name as its other the one that differs in both IP and port.
fn wrong_alternate(log: &ObservationLog, _: &Found, endpoints: &ServerEndpoints) -> Vec<String> {
    if endpoints.fault().is_some() {
        return Vec::new();
    }
    let wrong = |transaction: &&Transaction| {
        let other = transaction.direct().and_then(|a| a.other);
        other.is_some_and(|o| o.ip() == transaction.to.ip() || o.port() == transaction.to.port())
    };
    let sentence = |t: &Transaction| {
        let other = t.direct().and_then(|a| a.other).map(|o| o.to_string()).unwrap_or_default();
        format!(
            "asked at {}, it names {other} as its alternate address, which does not differ in both IP and port",
            t.to
        )
    };
    let mapped = log.transactions.iter().filter(|t| t.kind == RequestKind::Binding);
    mapped.filter(|t| t.to != log.server).find(wrong).map(sentence).into_iter().collect()
}
