//! Which of the server's endpoints do not answer when they are asked themselves, and whether that is a port or an address
//! to which nothing passes, as firewalls have it (RFC 5780 section 3 names the endpoints).

use std::net::SocketAddr;

use crate::{
    mapping_limit::MappingLimit,
    observation::{ObservationLog, RequestKind, Transaction},
    report::{Reason, ReasonCode},
    server_endpoints::{ServerEndpoint, ServerEndpoints},
};

/// The endpoints that stayed silent while others answered what travelled beside it, so often that loss is out of the
/// question. A NAT that gives no more mappings is not their fault.
pub(crate) fn silent(log: &ObservationLog, endpoints: &ServerEndpoints) -> Vec<ServerEndpoint> {
    if MappingLimit::seen(log, log.timed_out_before).is_some() {
        return Vec::new();
    }
    let asked = || {
        let had_its_time = |t: &&Transaction| !t.unsent && t.sent <= log.timed_out_before;
        log.transactions.iter().filter(|t| t.kind == RequestKind::Binding).filter(had_its_time)
    };
    let is_silent = |endpoint: SocketAddr| {
        let tries = || asked().filter(|t| t.to == endpoint);
        let (Some(first), Some(last)) = (tries().next(), tries().next_back()) else { return false };
        let others = asked().filter(|t| log.is_alive(t.to) && (first.sent..=last.sent).contains(&t.sent));
        let others = others.filter(|t| log.dialect() == Some(t.dialect));
        let (beside, lost) =
            others.fold((0, 0), |(beside, lost), t| (beside + 1, lost + u32::from(!t.returned())));
        // Loss may swallow a few requests, hardly more: all of them once in 10,000 times.
        let share = f64::from(lost) / f64::from(beside.max(1));
        let enough = if lost == 0 { 2 } else { 6.max((-4.0 / share.log10()).ceil() as usize) };
        !log.is_alive(endpoint) && tries().count() >= enough && lost * 2 <= beside
    };
    let is_silent = |endpoint: &ServerEndpoint| endpoints.get(*endpoint).is_some_and(is_silent);
    ServerEndpoint::ALL.into_iter().filter(is_silent).collect()
}

/// The port, or the address, to which nothing passes while everything passes to the other one.
pub(crate) fn blocked(log: &ObservationLog, endpoints: &ServerEndpoints) -> Option<Reason> {
    let silent = silent(log, endpoints);
    let alive = |endpoint| endpoints.get(endpoint).is_some_and(|at| log.is_alive(at));
    let both = endpoints.get(ServerEndpoint::BOTH).filter(|_| silent.contains(&ServerEndpoint::BOTH))?;
    let (code, what, firewall) = if silent.contains(&ServerEndpoint::PORT) && alive(ServerEndpoint::IP) {
        let what = format!(
            "nothing that is sent to port {} is answered, at neither of the server's addresses",
            both.port()
        );
        (ReasonCode::AlternatePortSilent, what, "a firewall lets out other ports only")
    } else if silent.contains(&ServerEndpoint::IP) && alive(ServerEndpoint::PORT) {
        let what = format!(
            "nothing that is sent to the server's other address {} is answered, at neither port",
            both.ip()
        );
        (ReasonCode::AlternateAddressSilent, what, "a firewall does not let it out")
    } else {
        return None;
    };
    let text = if silent.iter().any(|&endpoint| is_heard_from(log, endpoints, endpoint)) {
        format!("{what}, though answers come from there: {firewall}")
    } else {
        format!("{what}: {firewall}, or the server does not listen there")
    };
    Some((code, text).into())
}

/// Whether an answer came from an endpoint when another one was asked for it (CHANGE-REQUEST).
fn is_heard_from(log: &ObservationLog, endpoints: &ServerEndpoints, endpoint: ServerEndpoint) -> bool {
    let mut answers = log.transactions.iter().flat_map(|t| &t.responses);
    endpoints.get(endpoint).is_some_and(|at| answers.any(|answer| answer.from == at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Purpose, made};

    /// A run in which each endpoint was asked six times and those that are named answered; `heard` answers for A1:P1.
    fn run(answering: &[ServerEndpoint], heard: Option<ServerEndpoint>) -> Option<(ReasonCode, String)> {
        let mut log = made::log();
        let socket = made::socket(&mut log, "192.168.1.2:40000");
        let purpose = Purpose::main("any");
        for endpoint in ServerEndpoint::ALL.into_iter().cycle().take(24) {
            let to = made::address_of(endpoint);
            log.transactions.push(if answering.contains(&endpoint) {
                made::answered(purpose, socket, endpoint, "203.0.113.1:5")
            } else {
                made::transaction(purpose, socket, to, RequestKind::Binding)
            });
        }
        if let Some(heard) = heard {
            let kind = RequestKind::ChangeRequest(heard);
            let mut transaction = made::transaction(purpose, socket, log.server, kind);
            transaction.responses.push(made::answer(socket, made::address_of(heard), "203.0.113.1:5"));
            log.transactions.push(transaction);
        }
        blocked(&log, &ServerEndpoints::of(log.server, &log)).map(|reason| (reason.code, reason.text))
    }

    #[test]
    fn a_port_or_an_address_that_nothing_passes_to_is_named() {
        use ServerEndpoint as E;
        let (code, text) = run(&[E::PRIMARY, E::IP], None).unwrap();
        assert_eq!(code, ReasonCode::AlternatePortSilent);
        assert!(text.contains("port 3479") && text.contains("or the server does not listen"), "{text}");
        let (_, text) = run(&[E::PRIMARY, E::IP], Some(E::PORT)).unwrap();
        assert!(text.ends_with("answers come from there: a firewall lets out other ports only"), "{text}");
        let (code, text) = run(&[E::PRIMARY, E::PORT], None).unwrap();
        assert_eq!(code, ReasonCode::AlternateAddressSilent);
        assert!(text.contains("198.51.100.11"), "{text}");
    }

    #[test]
    fn a_single_silent_endpoint_and_a_server_that_answers_at_one_only_are_neither() {
        use ServerEndpoint as E;
        assert_eq!(run(&[E::PRIMARY, E::PORT, E::IP], None), None);
        assert_eq!(run(&[E::PRIMARY], None), None);
        assert_eq!(run(&E::ALL, None), None);
    }
}
