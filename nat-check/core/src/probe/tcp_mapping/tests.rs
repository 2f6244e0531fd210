//! Conclusions over logs made by hand.

use super::*;
use crate::observation::{
    made,
    tcp::{Outcome, OutcomeKind, TcpAnswer},
};

const LOCAL: &str = "192.168.1.2:40000";

/// A run in which the endpoints saw these external endpoints, in the order of [`ServerEndpoint::ALL`].
fn run(local: &str, seen: [Option<&str>; 4]) -> ObservationLog {
    let mut log = made::log();
    for (endpoint, mapped) in ServerEndpoint::ALL.into_iter().zip(seen) {
        let to = made::address_of(endpoint);
        let number = log.tcp.begin(PURPOSE, Some(made::at(local)), to, Duration::ZERO);
        let at = Duration::from_millis(20);
        if let Some(mapped) = mapped {
            log.tcp.connections[number].outcome = Some(Outcome { kind: OutcomeKind::Connected, at });
            let (mapped, other) = (made::at(mapped), Some(made::at(made::OTHER)));
            log.tcp.connections[number].answer = Some(TcpAnswer { at, mapped, other });
        }
    }
    log
}

fn found(log: &ObservationLog) -> (Option<Mapping>, Confidence, Option<ReasonCode>) {
    let finding = conclude(log);
    (finding.value, finding.confidence, finding.reason_code)
}

fn certain(seen: [&str; 4]) -> Mapping {
    let (value, confidence, _) = found(&run(LOCAL, seen.map(Some)));
    assert_eq!(confidence, Confidence::Certain);
    value.unwrap()
}

#[test]
fn the_four_endpoints_show_what_the_mapping_depends_on() {
    let [a, b, c, d] = ["203.0.113.1:1", "203.0.113.1:2", "203.0.113.1:3", "203.0.113.1:4"];
    assert_eq!(certain([a, a, a, a]), Mapping::EndpointIndependent);
    assert_eq!(certain([a, a, b, b]), Mapping::AddressDependent);
    assert_eq!(certain([a, b, a, b]), Mapping::PortDependent);
    assert_eq!(certain([a, b, c, d]), Mapping::AddressAndPortDependent);
}

#[test]
fn what_is_not_translated_is_direct() {
    let own = Some("203.0.113.7:40000");
    let direct = run("203.0.113.7:40000", [own; 4]);
    assert_eq!(found(&direct), (Some(Mapping::Direct), Confidence::Certain, None));
    let shown = run(LOCAL, [Some(LOCAL); 4]);
    let doubtful = (Some(Mapping::Direct), Confidence::Weak, Some(ReasonCode::PrivateAddressShown));
    assert_eq!(found(&shown), doubtful, "nobody in the Internet sees a private address");
}

#[test]
fn endpoints_that_did_not_answer_leave_it_open() {
    let a = Some("203.0.113.1:1");
    let open = (None, Confidence::Unknown, Some(ReasonCode::TooMuchLoss));
    assert_eq!(found(&run(LOCAL, [a, a, None, None])), open);
    assert_eq!(found(&run(LOCAL, [a, None, None, None])), open);
    let both = run(LOCAL, [a, None, None, Some("203.0.113.1:2")]);
    assert_eq!(found(&both), open, "it depends on one of the two, or on both");
    let sure = run(LOCAL, [a, a, a, None]);
    assert_eq!(found(&sure).0, Some(Mapping::EndpointIndependent), "three differ in each thing");
}

#[test]
fn several_external_addresses_may_be_chance() {
    let [a, b] = ["203.0.113.1:40000", "203.0.113.2:40000"].map(Some);
    let by_chance = run(LOCAL, [a, a, b, b]);
    assert_eq!(found(&by_chance).2, Some(ReasonCode::SeveralExternalAddresses));
    assert_eq!(found(&run(LOCAL, [a, b, b, a])).0, Some(Mapping::AddressAndPortDependent));
}

#[test]
fn a_nat_before_the_server_is_not_this_sides() {
    let proxy = run(LOCAL, [Some("172.17.0.1:1"); 4]);
    assert_eq!(found(&proxy), (None, Confidence::Unknown, Some(ReasonCode::NatBeforeServer)));
}

#[test]
fn the_ports_of_whoever_answers_in_the_servers_place_are_no_mapping() {
    let mut log = run(
        LOCAL,
        [1, 2, 3, 4].map(|port| format!("203.0.113.1:{port}")).each_ref().map(|at| Some(at.as_str())),
    );
    assert_eq!(found(&log).0, Some(Mapping::AddressAndPortDependent));
    interception::made_shown(&mut log);
    assert_eq!(found(&log), (None, Confidence::Unknown, Some(ReasonCode::ConnectionsIntercepted)));
}
