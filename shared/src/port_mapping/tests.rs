//! What is written is read again, and nothing that comes in breaks the readers.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![Just(Transport::Udp), Just(Transport::Tcp)]
}

fn pcp_operation() -> impl Strategy<Value = pcp::Operation> {
    let map = (any::<[u8; 12]>(), transport(), any::<u16>(), any::<u16>(), any::<Ipv4Addr>()).prop_map(
        |(nonce, transport, internal, external, address)| {
            let external_address = IpAddr::V4(address);
            pcp::Operation::Map(pcp::Map { nonce, transport, internal, external, external_address })
        },
    );
    prop_oneof![Just(pcp::Operation::Announce), map]
}

fn nat_pmp_map() -> impl Strategy<Value = (Transport, u16, u16, u32)> {
    (transport(), any::<u16>(), any::<u16>(), any::<u32>())
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        operation in pcp_operation(),
        client in any::<IpAddr>(),
        (lifetime, epoch, result) in any::<(u32, u32, u8)>(),
        (transport, internal, external, seconds) in nat_pmp_map(),
        address in any::<Ipv4Addr>(),
    ) {
        let request = pcp::Request { lifetime, client: client.to_canonical(), operation };
        prop_assert_eq!(pcp::Request::read(&request.write()), Some(request));
        let response = pcp::Response { result, lifetime, epoch, operation };
        prop_assert_eq!(pcp::Response::read(&response.write()), Some(response));
        prop_assert!(request.is_answered_by(&response));

        for request in [
            nat_pmp::Request::ExternalAddress,
            nat_pmp::Request::Map { transport, internal, external, lifetime: seconds },
        ] {
            prop_assert_eq!(nat_pmp::Request::read(&request.write()), Some(request));
        }
        for body in [
            nat_pmp::Body::ExternalAddress(address),
            nat_pmp::Body::Map { transport, internal, external, lifetime: seconds },
        ] {
            let response = nat_pmp::Response { result: result.into(), epoch, body };
            prop_assert_eq!(nat_pmp::Response::read(&response.write()), Some(response));
        }
    }

    #[test]
    fn nothing_that_comes_in_breaks_a_reader(message in proptest::collection::vec(any::<u8>(), 0..80)) {
        _ = pcp::Request::read(&message);
        _ = pcp::Response::read(&message);
        _ = nat_pmp::Request::read(&message);
        _ = nat_pmp::Response::read(&message);
    }
}

/// The example of a mapping, byte for byte: what the figures of RFC 6887 sections 7.1 and 11.1 say.
#[test]
fn a_request_for_a_mapping_has_60_bytes() {
    let map = pcp::Map {
        nonce: *b"abcdefghijkl",
        transport: Transport::Tcp,
        internal: 0x1234,
        external: 0x5678,
        external_address: Ipv4Addr::UNSPECIFIED.into(),
    };
    let client = Ipv4Addr::new(192, 168, 1, 2).into();
    let written = pcp::Request { lifetime: 120, client, operation: pcp::Operation::Map(map) }.write();
    let mut wanted = vec![2, 1, 0, 0, 0, 0, 0, 120, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2];
    wanted.extend(b"abcdefghijkl");
    wanted.extend([6, 0, 0, 0, 0x12, 0x34, 0x56, 0x78]);
    wanted.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    assert_eq!(written, wanted);
    assert_eq!(written.len(), 60);
}

#[test]
fn answers_to_others_are_told_apart() {
    let map = |nonce| pcp::Map {
        nonce,
        transport: Transport::Udp,
        internal: 1,
        external: 2,
        external_address: Ipv4Addr::UNSPECIFIED.into(),
    };
    let asked = pcp::Request {
        lifetime: 120,
        client: Ipv4Addr::LOCALHOST.into(),
        operation: pcp::Operation::Map(map([1; 12])),
    };
    let answer = |operation| pcp::Response { result: 0, lifetime: 1, epoch: 1, operation };
    assert!(asked.is_answered_by(&answer(asked.operation)));
    assert!(!asked.is_answered_by(&answer(pcp::Operation::Map(map([2; 12])))));
    assert!(!asked.is_answered_by(&answer(pcp::Operation::Announce)));
    let asked = nat_pmp::Request::Map { transport: Transport::Udp, internal: 1, external: 2, lifetime: 3 };
    let told = |transport, internal| nat_pmp::Response {
        result: 0,
        epoch: 0,
        body: nat_pmp::Body::Map { transport, internal, external: 7, lifetime: 3 },
    };
    assert!(asked.is_answered_by(&told(Transport::Udp, 1)));
    assert!(!asked.is_answered_by(&told(Transport::Tcp, 1)));
    assert!(!asked.is_answered_by(&told(Transport::Udp, 9)));
}

/// A gateway that knows NAT-PMP only answers a PCP request in its own version (RFC 6886 section 3.5).
#[test]
fn a_gateway_of_the_older_protocol_is_no_pcp_server() {
    let answer = nat_pmp::Response { result: 1, epoch: 5, body: nat_pmp::Body::Nothing }.write();
    assert_eq!(pcp::Response::read(&answer), None);
    assert_eq!(nat_pmp::Response::read(&answer).map(|it| it.result), Some(1));
}
