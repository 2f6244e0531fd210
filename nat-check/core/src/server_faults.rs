//! The server is tested, too: what is wrong with it, from the observation log alone.

use crate::{
    observation::{ObservationLog, RequestKind, Response, Transaction},
    probe::Found,
    rate_limit::{self, RateLimit},
    server_endpoints::{AlternateFault, ServerEndpoints},
    server_position::nat_before_server,
    silent_endpoints::{blocked, silent},
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
                "it, or the line to it, seems to limit the rate: about {:.0} requests a second are answered",
                l.pace(log, log.timed_out_before)
            )
        };
        let limit = RateLimit::likely(log, log.timed_out_before).map(sentence);
        let lockout = || {
            let (answers, silence) = rate_limit::lockout(log, log.timed_out_before)?;
            let silence = silence.as_secs_f64();
            Some(format!(
                "it, or the line to it, seems to limit the rate: after {answers} answers none came for {silence:.0} s"
            ))
        };
        limit.or_else(lockout).into_iter().collect()
    },
    slow,
    |log, found, _| {
        crate::probe::filtering::half_hearted(log, found).map(|reason| reason.text).into_iter().collect()
    },
    doubled,
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
    if let Some(blocked) = blocked(log, endpoints) {
        return vec![blocked.text];
    }
    let silent = silent(log, endpoints).into_iter().filter_map(|endpoint| endpoints.get(endpoint));
    silent.map(|endpoint| format!("its endpoint {endpoint} does not answer from here")).collect()
}

/// Answers that came more than once. Who doubles them cannot be seen, save where requests are doubled as well.
fn doubled(log: &ObservationLog, _: &Found, _: &ServerEndpoints) -> Vec<String> {
    let copies = |t: &Transaction| t.successes().filter(|a| a.from == t.to).count();
    let asked = log.transactions.iter().filter(|t| t.kind == RequestKind::Binding);
    let doubled: Vec<usize> = asked.map(copies).filter(|&copies| copies > 1).collect();
    let sentence = match doubled.iter().max() {
        Some(3..) => "packets to it and from it are doubled on the way".to_owned(),
        _ => format!(
            "{} of its answers came more than once: it sends them twice, or they are doubled on the way",
            doubled.len()
        ),
    };
    (doubled.len() > 1).then_some(sentence).into_iter().collect()
}

fn lying_origin(log: &ObservationLog, _: &Found, _: &ServerEndpoints) -> Vec<String> {
    let lie = log
        .transactions
        .iter()
        .flat_map(Transaction::successes)
        .find(|a| a.origin.is_some_and(|o| o != a.from));
    let sentence = |a: &Response| {
        let origin = a.origin.map(|o| o.to_string()).unwrap_or_default();
        format!(
            "it says that an answer came from {origin} (RESPONSE-ORIGIN or SOURCE-ADDRESS), but it came from {}",
            a.from
        )
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Purpose, made};
    use crate::server_endpoints::ServerEndpoint;

    /// A run in which each endpoint was asked four times, at the same moments; `answers` tells which requests came back,
    /// by endpoint and number.
    fn run(answers: impl Fn(ServerEndpoint, u64) -> bool) -> ObservationLog {
        let mut log = made::log();
        let socket = made::socket(&mut log, "192.168.1.2:40000");
        let purpose = Purpose::main("any");
        for number in 0..8 {
            for endpoint in ServerEndpoint::ALL {
                let mut transaction = made::answered(purpose, socket, endpoint, "203.0.113.1:5");
                transaction.sent = std::time::Duration::from_millis(60 * number);
                transaction.responses[0].at += transaction.sent;
                if !answers(endpoint, number) {
                    transaction.responses.clear();
                }
                log.transactions.push(transaction);
            }
        }
        log
    }

    fn dead(log: &ObservationLog) -> usize {
        let found = faults(log, &Found::default());
        found.iter().filter(|fault| fault.contains("does not answer from here")).count()
    }

    #[test]
    fn an_endpoint_is_dead_if_it_alone_is_silent() {
        let alone = run(|endpoint, _| endpoint != ServerEndpoint::BOTH);
        assert_eq!(dead(&alone), 1);
        let mut unsent = alone.clone();
        unsent.transactions.iter_mut().filter(|t| t.responses.is_empty()).for_each(|t| t.unsent = true);
        assert_eq!(dead(&unsent), 0, "this host refused to send");
        let policed = run(|endpoint, number| endpoint != ServerEndpoint::BOTH && number == 0);
        assert_eq!(dead(&policed), 0, "whatever leaves later is lost");
    }

    #[test]
    fn who_doubles_packets_is_said_only_where_it_shows() {
        let fault = |copies: usize| {
            let mut log = run(|_, _| true);
            for transaction in &mut log.transactions {
                let answer = transaction.responses[0].clone();
                transaction.responses = vec![answer; copies];
            }
            faults(&log, &Found::default()).into_iter().find(|f| f.contains("doubled")).unwrap_or_default()
        };
        assert_eq!(fault(1), "");
        assert!(fault(2).contains("32 of its answers came more than once"), "{}", fault(2));
        assert!(fault(4).contains("doubled on the way"));
    }
}
