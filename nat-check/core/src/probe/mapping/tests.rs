//! The conclusion about the mapping, over logs made by hand.

use super::*;
use crate::observation::made;

const LOCAL: &str = "192.168.1.2:40000";

/// What four endpoints saw (A1:P1, A1:P2, A2:P1, A2:P2), as ports at one external address; 0 = no answer.
fn finding(seen: [u16; 4]) -> Finding<Mapping> {
    let mut log = made::log();
    let socket = made::socket(&mut log, LOCAL);
    for (endpoint, port) in ServerEndpoint::ALL.into_iter().zip(seen) {
        let external = format!("203.0.113.1:{port}");
        log.transactions.push(match port {
            0 => made::transaction(PURPOSE, socket, made::address_of(endpoint), RequestKind::Binding),
            _ => made::answered(PURPOSE, socket, endpoint, &external),
        });
    }
    conclude(&log)
}

#[test]
fn four_readings_tell_every_mapping() {
    let certain = |seen| {
        let finding = finding(seen);
        assert_eq!(finding.confidence, Confidence::Certain, "{seen:?}");
        finding.value.unwrap()
    };
    assert_eq!(certain([5, 5, 5, 5]), Mapping::EndpointIndependent);
    assert_eq!(certain([5, 5, 6, 6]), Mapping::AddressDependent);
    assert_eq!(certain([5, 6, 5, 6]), Mapping::PortDependent);
    assert_eq!(certain([5, 6, 7, 8]), Mapping::AddressAndPortDependent);
}

#[test]
fn one_missing_reading_changes_nothing() {
    for (full, value) in [
        ([5, 5, 5, 5], Mapping::EndpointIndependent),
        ([5, 5, 6, 6], Mapping::AddressDependent),
        ([5, 6, 5, 6], Mapping::PortDependent),
        ([5, 6, 7, 8], Mapping::AddressAndPortDependent),
    ] {
        for missing in 1..4 {
            let mut seen = full;
            seen[missing] = 0;
            assert_eq!(finding(seen).value, Some(value), "{seen:?}");
        }
    }
}

/// With endpoints that do not answer, the kind is open; that it depends on the destination is certain all the same.
#[test]
fn two_different_readings_prove_a_dependence() {
    for seen in [[5, 6, 0, 0], [5, 0, 6, 0], [5, 0, 0, 6]] {
        let finding = finding(seen);
        let told = (finding.value, finding.confidence, finding.reason_code);
        let kind_unknown = Some(ReasonCode::MappingKindUnknown);
        assert_eq!(
            told,
            (Some(Mapping::AddressAndPortDependent), Confidence::Weak, kind_unknown),
            "{seen:?}"
        );
        assert!(finding.reason.as_deref().unwrap().contains("for certain"), "{finding:?}");
        let name = crate::classify::nat_type(&finding, &Finding::unknown((ReasonCode::NoAnswer, "-"), "-"));
        assert_eq!(
            (name.value, name.confidence),
            (Some(shared::nat::NatType::Symmetric), Confidence::Certain)
        );
    }
}

#[test]
fn two_readings_never_prove_independence() {
    for seen in [[5, 5, 0, 0], [5, 0, 5, 0], [5, 0, 0, 5], [5, 0, 0, 0], [0, 0, 0, 0]] {
        let finding = finding(seen);
        assert_eq!((finding.value, finding.confidence), (None, Confidence::Unknown), "{seen:?}");
        assert!(finding.reason.is_some());
    }
}

#[test]
fn no_translation_is_direct() {
    let mut log = made::log();
    let socket = made::socket(&mut log, LOCAL);
    for endpoint in ServerEndpoint::ALL {
        log.transactions.push(made::answered(PURPOSE, socket, endpoint, LOCAL));
    }
    assert_eq!(conclude(&log).value, Some(Mapping::Direct));
}

#[test]
fn what_could_have_been_rewritten_on_the_way_proves_no_direct_mapping() {
    let mut log = made::log();
    let socket = made::socket(&mut log, LOCAL);
    for endpoint in ServerEndpoint::ALL {
        let mut transaction = made::answered(PURPOSE, socket, endpoint, LOCAL);
        transaction.responses[0].xor_mapped = None;
        log.transactions.push(transaction);
    }
    let finding = conclude(&log);
    assert_eq!((finding.value, finding.confidence), (Some(Mapping::Direct), Confidence::Weak));
    assert!(finding.reason.unwrap().contains("in clear only"));
}

#[test]
fn a_mapping_that_drifts_is_no_behaviour() {
    let mut log = made::log();
    let socket = made::socket(&mut log, LOCAL);
    for endpoint in ServerEndpoint::ALL {
        log.transactions.push(made::answered(PURPOSE, socket, endpoint, "203.0.113.1:5"));
    }
    log.transactions.push(made::answered(PURPOSE, socket, ServerEndpoint::PRIMARY, "203.0.113.1:9"));
    assert!(conclude(&log).reason.unwrap().contains("not deterministic"));
}

/// What `sockets` sockets were shown, each by all four endpoints, as last numbers of external addresses at a port that
/// is kept: the `n`th reading of all is `seen(n)`.
fn spread(sockets: u8, seen: impl Fn(u8) -> u8) -> Finding<Mapping> {
    let mut log = made::log();
    for number in 0..sockets {
        let socket = made::socket(&mut log, &format!("192.168.1.2:4000{number}"));
        for (at, endpoint) in (0..).zip(ServerEndpoint::ALL) {
            let external = format!("203.0.113.{}:4000{number}", seen(4 * number + at));
            log.transactions.push(made::answered(PURPOSE, socket, endpoint, &external));
        }
    }
    conclude(&log)
}

#[test]
fn what_several_external_addresses_depend_on_is_told_by_many_sockets() {
    let told = |sockets, seen: fn(u8) -> u8| {
        let finding = spread(sockets, seen);
        (finding.value, finding.confidence)
    };
    let (strong, weak) = (Confidence::Strong, Confidence::Weak);
    assert_eq!(told(8, |n| n / 4 % 2), (Some(Mapping::EndpointIndependent), strong), "one for each socket");
    assert_eq!(told(8, |n| n / 2 % 2), (Some(Mapping::AddressDependent), strong), "one for each address");
    assert_eq!(told(8, |n| n % 2), (Some(Mapping::PortDependent), strong));
    let by_flow = (Some(Mapping::AddressAndPortDependent), Confidence::Certain);
    // The first socket meets with one address only.
    assert_eq!(told(8, |n| u8::from(n > 3 && n % 3 == 0)), by_flow);
    // Two sockets may have met with equal addresses by chance.
    assert_eq!(told(2, |n| n / 4 % 2), (Some(Mapping::EndpointIndependent), weak));
    assert_eq!(told(2, |n| n / 2 % 2), (Some(Mapping::AddressDependent), weak));
}

#[test]
fn a_later_socket_is_compared_thing_by_thing() {
    let told = |first: [u16; 4], late: [u16; 4]| {
        let mut log = made::log();
        for (number, seen) in [first, late].into_iter().enumerate() {
            let socket = made::socket(&mut log, &format!("192.168.1.2:4000{number}"));
            for (endpoint, port) in ServerEndpoint::ALL.into_iter().zip(seen).filter(|(_, port)| *port > 0) {
                let external = format!("203.0.113.1:{port}");
                log.transactions.push(made::answered(PURPOSE, socket, endpoint, &external));
            }
        }
        let finding = conclude(&log);
        (finding.value, finding.confidence)
    };
    let (certain, weak) = (Confidence::Certain, Confidence::Weak);
    let all = Some(Mapping::AddressAndPortDependent);
    // Neither is above the other, so that both together are what counts.
    assert_eq!(told([5, 6, 5, 6], [7, 7, 8, 8]), (all, weak));
    assert_eq!(told([5, 6, 7, 8], [9, 10, 9, 10]), (all, weak), "the strictest one is not outdone");
    assert_eq!(told([5, 5, 5, 5], [6, 7, 8, 9]), (all, weak));
    // Half of what a later socket saw contradicts nothing, and may complete what is missing.
    assert_eq!(told([5, 5, 6, 6], [7, 0, 8, 0]), (Some(Mapping::AddressDependent), certain));
    assert_eq!(told([5, 0, 6, 0], [7, 7, 0, 0]), (Some(Mapping::AddressDependent), certain));
    assert_eq!(told([5, 0, 0, 6], [7, 7, 7, 0]).0, None, "equal and different: nothing explains it");
}
