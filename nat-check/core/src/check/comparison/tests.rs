//! Logs made by hand: what servers say together.

use super::*;
use crate::observation::{Purpose, made};

const PURPOSE: Purpose = Purpose::main("servers");
const A: &str = "198.51.100.10:3478";
const B: &str = "198.51.100.20:3478";
const C: &str = "198.51.100.30:3478";
const D: &str = "198.51.100.40:19302";

/// What these server endpoints saw of socket after socket.
fn compared(endpoints: &[&str], seen: &[&[&str]]) -> Comparison {
    compared_beside(endpoints, seen, None)
}

fn compared_beside(endpoints: &[&str], seen: &[&[&str]], independent: Option<&str>) -> Comparison {
    let mut log = made::log();
    for (number, row) in seen.iter().enumerate() {
        let socket = made::socket(&mut log, &format!("192.168.1.2:{}", 40_000 + number));
        for (endpoint, external) in endpoints.iter().zip(*row) {
            let to = made::at(endpoint);
            let mut transaction = made::transaction(PURPOSE, socket, to, RequestKind::Binding);
            if !external.is_empty() {
                transaction.responses.push(made::answer(socket, to, external));
            }
            log.transactions.push(transaction);
        }
    }
    conclude(&log, PURPOSE.measurement, independent.map(|server| made::at(server).ip()))
}

fn told(comparison: &Comparison) -> (Option<Mapping>, Confidence, Option<ReasonCode>) {
    let mapping = &comparison.mapping;
    (mapping.value, mapping.confidence, mapping.reason_code)
}

use Confidence::{Certain, Unknown, Weak};
const INDEPENDENT: Option<Mapping> = Some(Mapping::EndpointIndependent);
const SYMMETRIC: Option<Mapping> = Some(Mapping::AddressAndPortDependent);

#[test]
fn servers_that_agree_on_different_addresses_and_ports_prove_independence() {
    let same: &[&[&str]] = &[&["203.0.113.1:5", "203.0.113.1:5"], &["203.0.113.1:6", "203.0.113.1:6"]];
    assert_eq!(told(&compared(&[A, D], same)), (INDEPENDENT, Certain, None));
    assert_eq!(told(&compared(&[A, B], same)), (INDEPENDENT, Weak, Some(ReasonCode::OnePortNumber)));
    let one_address = compared(&[A, "198.51.100.10:19302"], same);
    assert_eq!(told(&one_address), (None, Unknown, Some(ReasonCode::ServersShareAddress)));
    assert_eq!(told(&compared(&[A], &[&["203.0.113.1:5"]])).0, None);
    assert_eq!(told(&compared(&[A, B], &[&["203.0.113.1:5", ""]])).0, None);
}

#[test]
fn servers_that_differ_prove_dependence_and_two_ports_its_kind() {
    let random: &[&[&str]] = &[
        &["203.0.113.1:5", "203.0.113.1:900"],
        &["203.0.113.1:77", "203.0.113.1:20"],
        &["203.0.113.1:400", "203.0.113.1:401"],
    ];
    let found = compared(&[A, B], random);
    assert_eq!(told(&found), (SYMMETRIC, Weak, Some(ReasonCode::MappingKindUnknown)));
    assert!(found.distrusted.is_empty());
    let with_two_ports = |last: [&str; 3]| {
        let rows: Vec<Vec<&str>> =
            random.iter().zip(last).map(|(row, last)| [*row, &[last]].concat()).collect();
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        told(&compared(&[A, B, "198.51.100.20:3479"], &rows))
    };
    let by_address = with_two_ports(["203.0.113.1:900", "203.0.113.1:20", "203.0.113.1:401"]);
    assert_eq!(by_address, (Some(Mapping::AddressDependent), Certain, None));
    let by_both = with_two_ports(["203.0.113.1:1", "203.0.113.1:2", "203.0.113.1:3"]);
    assert_eq!(by_both, (SYMMETRIC, Certain, None));
    let by_port: &[&[&str]] = &[
        &["203.0.113.1:5", "203.0.113.1:5", "203.0.113.1:9"],
        &["203.0.113.1:6", "203.0.113.1:6", "203.0.113.1:2"],
    ];
    let by_port = compared(&[A, B, "198.51.100.20:3479"], by_port);
    assert_eq!(told(&by_port), (Some(Mapping::PortDependent), Certain, None));
}

#[test]
fn a_server_that_contradicts_itself_is_left_out() {
    for lie in [["192.0.2.9:9", "192.0.2.9:9"], ["10.0.0.7:4000", "10.0.0.7:4001"]] {
        let rows: [&[&str]; 2] =
            [&["203.0.113.1:5", lie[0], "203.0.113.1:5"], &["203.0.113.1:6", lie[1], "203.0.113.1:6"]];
        let found = compared(&[A, B, D], &rows);
        assert_eq!(told(&found), (INDEPENDENT, Certain, None), "{lie:?}");
        assert_eq!(found.distrusted.len(), 1);
        assert!(found.distrusted[0].is_at(made::at(B)) && found.distrusted[0].is_wrong);
        // Nothing is left to compare the only other one with.
        let rows = rows.map(|row| &row[..2]);
        assert_eq!(told(&compared(&[A, B], &rows)).0, None);
    }
}

#[test]
fn one_against_all_others_is_left_out_and_leaves_doubt_where_a_nat_may_do_it() {
    let rows = |ip: &str| -> Vec<Vec<String>> {
        let row = |port: u16, lie: u16| {
            let own = format!("203.0.113.1:{port}");
            vec![own.clone(), own.clone(), format!("{ip}:{lie}"), own]
        };
        vec![row(5, 91), row(6, 17), row(7, 55)]
    };
    let compare = |rows: &[Vec<String>]| {
        let rows: Vec<Vec<&str>> = rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
        let rows: Vec<&[&str]> = rows.iter().map(Vec::as_slice).collect();
        compared(&[A, B, C, D], &rows)
    };
    let another_address = compare(&rows("203.0.113.2"));
    assert_eq!(told(&another_address), (INDEPENDENT, Weak, Some(ReasonCode::ServersDisagree)));
    assert!(another_address.distrusted[0].is_at(made::at(C)));
    assert!(!another_address.distrusted[0].is_wrong);
    // At the same port number and with the same external address no NAT makes a difference.
    let another_port = compare(&rows("203.0.113.1"));
    assert_eq!(told(&another_port), (INDEPENDENT, Certain, None));
    assert!(another_port.distrusted[0].is_wrong);
}

#[test]
fn behind_a_symmetric_nat_another_address_gives_a_server_away() {
    let rows: &[&[&str]] = &[
        &["203.0.113.1:5", "192.0.2.50:4000", "203.0.113.1:700"],
        &["203.0.113.1:90", "192.0.2.50:4777", "203.0.113.1:6"],
        &["203.0.113.1:44", "192.0.2.50:5001", "203.0.113.1:43"],
    ];
    let found = compared(&[A, B, D], rows);
    assert_eq!(told(&found), (SYMMETRIC, Weak, Some(ReasonCode::MappingKindUnknown)));
    assert!(found.distrusted.len() == 1 && found.distrusted[0].is_at(made::at(B)));
    assert!(!found.distrusted[0].is_wrong, "it may be another way out");
}

#[test]
fn where_all_differ_nobody_is_blamed() {
    let rows: &[&[&str]] = &[
        &["203.0.113.1:5", "203.0.113.1:60", "203.0.113.1:7"],
        &["203.0.113.1:15", "203.0.113.1:3", "203.0.113.1:900"],
    ];
    let found = compared(&[A, B, D], rows);
    assert!(found.distrusted.is_empty(), "{:?}", found.distrusted);
    assert_eq!(
        (found.mapping.value, found.mapping.reason_code),
        (SYMMETRIC, Some(ReasonCode::MappingKindUnknown))
    );
}

#[test]
fn two_servers_of_which_one_may_misread_prove_nothing() {
    let shifted: &[&[&str]] = &[
        &["203.0.113.1:5000", "203.0.113.1:5256"],
        &["203.0.113.1:6000", "203.0.113.1:6256"],
        &["203.0.113.1:7000", "203.0.113.1:7256"],
    ];
    assert_eq!(told(&compared(&[A, B], shifted)), (SYMMETRIC, Weak, Some(ReasonCode::ServersDisagree)));
    let masked: &[&[&str]] = &[
        &["203.0.113.1:5000", "203.0.113.1:12954"],
        &["203.0.113.1:6000", "203.0.113.1:13922"],
        &["203.0.113.1:7000", "203.0.113.1:14922"],
    ];
    assert_eq!(told(&compared(&[A, B], masked)).2, Some(ReasonCode::ServersDisagree), "XORed with 0x2112");
    // A NAT that counts shows the one that was asked first the lower port, and the order changes.
    let counted: &[&[&str]] = &[
        &["203.0.113.1:5000", "203.0.113.1:5001"],
        &["203.0.113.1:5003", "203.0.113.1:5002"],
        &["203.0.113.1:5004", "203.0.113.1:5005"],
    ];
    assert_eq!(told(&compared(&[A, B], counted)).2, Some(ReasonCode::MappingKindUnknown));
}

#[test]
fn more_than_one_external_address_is_called_so() {
    let rows: &[&[&str]] = &[
        &["203.0.113.1:5", "203.0.113.2:5"],
        &["203.0.113.1:6", "203.0.113.2:6"],
        &["203.0.113.1:7", "203.0.113.2:7"],
    ];
    assert_eq!(told(&compared(&[A, B], rows)), (None, Unknown, Some(ReasonCode::SeveralExternalAddresses)));
    let layers = compared(&[A, B], rows).several_connections().unwrap();
    assert_eq!((layers.value, layers.confidence), (Some(LayersKind::MultiWan), Weak));
    assert!(compared(&[A, B], &[&["203.0.113.1:5", "203.0.113.1:6"]]).several_connections().is_none());
}

#[test]
fn agreement_may_be_chance_where_there_are_several_ways_out() {
    let row = |number: u16| vec![format!("203.0.113.{}:{number}", 1 + number % 2); 2];
    let compare = |count: u16| {
        let rows: Vec<Vec<String>> = (0..count).map(row).collect();
        let rows: Vec<Vec<&str>> = rows.iter().map(|row| row.iter().map(String::as_str).collect()).collect();
        told(&compared(&[A, D], &rows.iter().map(Vec::as_slice).collect::<Vec<_>>()))
    };
    assert_eq!(compare(4), (INDEPENDENT, Weak, Some(ReasonCode::SeveralExternalAddresses)));
    assert_eq!(compare(14), (INDEPENDENT, Certain, None), "a pool that gives each socket one address");
}

#[test]
fn a_server_that_has_shown_independence_alone_is_the_measure_of_others() {
    let rows: &[&[&str]] = &[
        &["203.0.113.1:5", "203.0.113.1:9"],
        &["203.0.113.1:6", "203.0.113.1:2"],
        &["203.0.113.1:7", "203.0.113.1:8"],
    ];
    let found = compared_beside(&[A, B], rows, Some(A));
    assert!(found.distrusted.len() == 1 && found.distrusted[0].is_at(made::at(B)));
}

#[test]
fn a_host_without_nat_is_direct_and_a_private_one_at_public_servers_only_likely() {
    let rows: &[&[&str]] = &[&["192.168.1.2:40000", "192.168.1.2:40000"]];
    assert_eq!(
        told(&compared(&[A, D], rows)),
        (Some(Mapping::Direct), Weak, Some(ReasonCode::PrivateAddressShown))
    );
    let private = ["192.168.9.1:3478", "192.168.9.2:3478"];
    assert_eq!(told(&compared(&private, rows)), (Some(Mapping::Direct), Certain, None));
}

#[test]
fn a_mapping_that_drifts_is_no_behaviour() {
    let mut log = made::log();
    let socket = made::socket(&mut log, "192.168.1.2:40000");
    for (to, external) in [(A, "203.0.113.1:5"), (D, "203.0.113.1:5"), (A, "203.0.113.1:9")] {
        let mut transaction = made::transaction(PURPOSE, socket, made::at(to), RequestKind::Binding);
        transaction.responses.push(made::answer(socket, made::at(to), external));
        log.transactions.push(transaction);
    }
    let mapping = conclude(&log, PURPOSE.measurement, None).mapping;
    assert_eq!((mapping.value, mapping.reason_code), (None, Some(ReasonCode::NotDeterministic)));
}
