//! The conclusion about filtering, over logs made by hand.

use super::*;
use crate::{
    observation::{Response, made},
    probe::mapping,
};

fn conclude(log: &ObservationLog) -> Finding<Filtering> {
    super::conclude(log, &crate::probe::so_far(log, PROBE.needs))
}

/// A run in which `let_in` were answered and the others not, in `rounds` rounds with both controls; the server
/// gives receipts or not, and its alternate address answers or not.
fn run(let_in: &[ServerEndpoint], rounds: u32, receipts: bool, alive: bool) -> ObservationLog {
    let mut log = made::log();
    let socket = made::socket(&mut log, "192.168.1.2:40000");
    let server = log.server;
    for round in 1..=rounds {
        let asks = [RequestKind::Binding]
            .into_iter()
            .chain(TESTED.map(RequestKind::ChangeRequest))
            .chain([RequestKind::Binding]);
        for kind in asks {
            let mut transaction = made::transaction(PURPOSE, socket, server, kind);
            transaction.round = round;
            match kind {
                RequestKind::ChangeRequest(kind) => {
                    transaction.receipt = receipts.then_some(Duration::from_millis(10));
                    transaction.alternate_unheard = receipts.then_some(Duration::from_secs(600));
                    if let_in.contains(&kind) {
                        transaction.responses.push(from(socket, kind));
                    }
                }
                _ => transaction.responses.push(from(socket, ServerEndpoint::PRIMARY)),
            }
            log.transactions.push(transaction);
        }
    }
    for endpoint in TESTED.into_iter().filter(|_| alive) {
        // The mapping test comes later.
        let sent = Duration::from_secs(1);
        log.transactions.push(Transaction {
            sent,
            ..made::answered(mapping::PURPOSE, socket, endpoint, "203.0.113.1:5")
        });
    }
    log
}

fn from(socket: crate::observation::SocketId, endpoint: ServerEndpoint) -> Response {
    made::answer(socket, made::address_of(endpoint), "203.0.113.1:5")
}

#[test]
fn the_truth_table_with_receipts() {
    use Confidence::{Certain, Strong};
    for (let_in, value, confidence) in [
        (&TESTED[..], Filtering::EndpointIndependent, Certain),
        (&[ServerEndpoint::BOTH], Filtering::EndpointIndependent, Certain),
        (&[ServerEndpoint::PORT], Filtering::AddressDependent, Strong),
        (&[ServerEndpoint::IP], Filtering::PortDependent, Strong),
        (&[], Filtering::AddressAndPortDependent, Strong),
    ] {
        let finding = conclude(&run(let_in, 8, true, true));
        assert_eq!((finding.value, finding.confidence), (Some(value), confidence), "{let_in:?}");
    }
}

#[test]
fn what_comes_in_through_a_hole_of_a_later_measurement_proves_nothing() {
    let mut log = run(&[], 8, true, true);
    let socket = log.transactions[0].socket;
    let last = log
        .transactions
        .iter_mut()
        .rfind(|t| t.kind == RequestKind::ChangeRequest(ServerEndpoint::BOTH))
        .unwrap();
    last.responses.push(Response { at: Duration::from_millis(1050), ..from(socket, ServerEndpoint::BOTH) });
    assert_eq!(conclude(&log).value, Some(Filtering::AddressAndPortDependent));
}

#[test]
fn silence_from_a_dead_endpoint_means_nothing() {
    let finding = conclude(&run(&[], 8, true, false));
    assert_eq!(finding.value, None);
}

#[test]
fn without_receipts_and_proof_silence_is_only_weak() {
    let finding = conclude(&run(&[], 8, false, true));
    assert_eq!(finding.value, Some(Filtering::AddressAndPortDependent));
    assert_eq!(finding.confidence, Confidence::Weak);
}

#[test]
fn a_single_silence_decides_nothing() {
    assert_eq!(conclude(&run(&[], 1, true, true)).value, None);
}

#[test]
fn an_answer_from_the_address_that_was_asked_accuses_the_server() {
    let mut log = run(&[], 8, false, true);
    for transaction in &mut log.transactions {
        if matches!(transaction.kind, RequestKind::ChangeRequest(_)) {
            transaction.responses.push(from(transaction.socket, ServerEndpoint::PRIMARY));
        }
    }
    let finding = conclude(&log);
    assert!(finding.value.is_none() && finding.reason.unwrap().contains("ignores CHANGE-REQUEST"));
}

#[test]
fn whoever_may_have_been_contacted_lately_proves_no_open_filter() {
    let told = |change: fn(&mut Transaction)| {
        let mut log = run(&TESTED, 8, true, true);
        log.transactions.iter_mut().for_each(change);
        let finding = conclude(&log);
        assert_eq!(finding.value, Some(Filtering::EndpointIndependent));
        (finding.confidence, finding.reason_code)
    };
    let doubtful = (Confidence::Weak, Some(ReasonCode::AlternateNotFresh));
    assert_eq!(told(|_| {}), (Confidence::Certain, None));
    assert_eq!(told(|t| t.alternate_unheard = Some(Duration::from_secs(599))), doubtful);
    assert_eq!(told(|t| t.alternate_unheard = None), doubtful, "a server without this extension");
    // The server's word is about one external address.
    let other = |t: &mut Transaction| {
        let elsewhere = t.to != made::address_of(ServerEndpoint::PRIMARY);
        t.responses.iter_mut().filter(|_| elsewhere).for_each(|r| {
            r.xor_mapped = Some("203.0.113.2:5".parse().unwrap());
        });
    };
    assert_eq!(told(other), doubtful);
}

#[test]
fn a_server_is_disproved_only_where_the_way_was_open() {
    let asked = |opened: bool| {
        let mut log = run(&[], 8, false, true);
        let socket = log.transactions[0].socket;
        for endpoint in ServerEndpoint::ALL {
            log.transactions.push(made::answered(mapping::PURPOSE, socket, endpoint, "203.0.113.1:5"));
        }
        for round in 100..105 {
            let to = made::address_of(ServerEndpoint::BOTH);
            let opens = match opened {
                true => made::answered(proof::PROOF, socket, ServerEndpoint::BOTH, "203.0.113.1:5"),
                false => made::transaction(proof::PROOF, socket, to, RequestKind::Binding),
            };
            let asks = RequestKind::ChangeRequest(ServerEndpoint::BOTH);
            let asks = made::transaction(proof::PROOF, socket, log.server, asks);
            log.transactions.extend([opens, asks].map(|t| Transaction { round, ..t }));
        }
        is_disproved(&log, &crate::probe::so_far(&log, PROBE.needs), ServerEndpoint::BOTH)
    };
    assert!(asked(true));
    assert!(!asked(false), "the NAT may have dropped the mapping");
}
