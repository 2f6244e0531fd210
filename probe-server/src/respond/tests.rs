//! The answer table, the amplification budget and the refusals, for both dialects and families.

mod receipts;

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use shared::stun::{TransactionId, message_type, strict};

use super::*;

const UNHEARD: Unheard = Unheard(77);

fn topologies() -> [(Topology, SocketAddr); 2] {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    [
        (
            Topology::new(ip("198.51.100.10"), Some(ip("198.51.100.11")), (3478, 3479)),
            "192.0.2.7:40000".parse().unwrap(),
        ),
        (
            Topology::new(ip("2001:db8::10"), Some(ip("2001:db8::11")), (3478, 3479)),
            "[2001:db8:7::7]:40000".parse().unwrap(),
        ),
    ]
}

fn single() -> (Topology, SocketAddr) {
    let (_, from) = topologies()[0].clone();
    (Topology::new("198.51.100.10".parse().unwrap(), None, (3478, 3479)), from)
}

fn id(dialect: Dialect) -> TransactionId {
    let mut rng = fastrand::Rng::with_seed(7);
    match dialect {
        Dialect::Modern => TransactionId::modern(&mut rng),
        Dialect::Classic => TransactionId::classic(&mut rng),
    }
}

fn request(dialect: Dialect, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = [0; 4096];
    let mut writer = Writer::new(&mut buffer, Class::Request, &id(dialect));
    fill(&mut writer);
    let length = writer.finish().unwrap();
    buffer[..length].to_vec()
}

fn modern(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    request(Dialect::Modern, fill)
}

fn classic(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    request(Dialect::Classic, fill)
}

/// The one answer that is expected.
fn one(answers: &Answers) -> (Endpoint, SocketAddr, View<'_>) {
    let all: Vec<_> = answers.iter().collect();
    assert_eq!(all.len(), 1);
    (all[0].0, all[0].1, View::parse(all[0].2).unwrap())
}

fn numbers(view: &View<'_>) -> Vec<u16> {
    view.attributes().map(|a| a.number).collect()
}

fn unknown_list(view: &View<'_>) -> Vec<u16> {
    let value = view.find(attr::UNKNOWN_ATTRIBUTES).unwrap();
    value.chunks(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect()
}

/// What a refused request gets: error code and list of unknown attributes.
fn refused(topology: &Topology, from: SocketAddr, datagram: &[u8]) -> (u16, Vec<u16>) {
    let mut out = Answers::new();
    respond(topology, Endpoint::PrimaryAlternatePort, from, UNHEARD, datagram, &mut out).unwrap();
    let (leaves, to, view) = one(&out);
    assert_eq!((leaves, to), (Endpoint::PrimaryAlternatePort, from), "errors go the way the request came");
    assert_eq!(view.class(), Class::Error);
    let code = view.error().unwrap().0;
    (code, if code == 420 { unknown_list(&view) } else { Vec::new() })
}

#[test]
fn all_endpoints_all_changes_both_families_both_dialects() {
    for (topology, from) in topologies() {
        for at in Endpoint::ALL {
            for (ip, port) in [(false, false), (false, true), (true, false), (true, true)] {
                for dialect in [Dialect::Modern, Dialect::Classic] {
                    let flags = u32::from(ip) * attr::CHANGE_IP + u32::from(port) * attr::CHANGE_PORT;
                    let datagram = request(dialect, |w| {
                        w.u32(attr::CHANGE_REQUEST, flags);
                    });
                    let mut out = Answers::new();
                    let outcome = respond(&topology, at, from, UNHEARD, &datagram, &mut out).unwrap();
                    assert_eq!(outcome == Outcome::Changed, ip || port);

                    let (leaves, to, view) = one(&out);
                    let asked = topology.bound(at).unwrap();
                    let source = topology.bound(leaves).unwrap();
                    assert_eq!(source.ip() != asked.ip(), ip);
                    assert_eq!(source.port() != asked.port(), port);
                    assert_eq!(to, from);
                    assert_eq!((view.class(), view.id()), (Class::Success, id(dialect)));

                    let (origin, other) = match dialect {
                        Dialect::Modern => (attr::RESPONSE_ORIGIN, attr::OTHER_ADDRESS),
                        Dialect::Classic => (attr::SOURCE_ADDRESS, attr::CHANGED_ADDRESS),
                    };
                    assert_eq!(view.address(attr::MAPPED_ADDRESS), Some(from));
                    assert_eq!(view.address(origin), Some(source), "the true source");
                    let told = view.address(other).unwrap();
                    assert!(told.ip() != asked.ip() && told.port() != asked.port());
                    assert_eq!(Some(told), topology.bound(at.other()), "whatever the flags");
                    match dialect {
                        Dialect::Modern => {
                            assert_eq!(view.xor_address(attr::XOR_MAPPED_ADDRESS), Some(from));
                            assert_eq!(numbers(&view).len(), 4);
                            assert_eq!(strict::objection(view.bytes()), None);
                        }
                        Dialect::Classic => assert_eq!(numbers(&view), [1, 4, 5]),
                    }
                }
            }
        }
    }
}

#[test]
fn the_public_addresses_of_a_cloud_host_are_told() {
    let topology =
        Topology::new("10.0.0.4".parse().unwrap(), Some("10.0.0.5".parse().unwrap()), (3478, 3479))
            .advertise("10.0.0.4".parse().unwrap(), "203.0.113.4".parse().unwrap())
            .advertise("10.0.0.5".parse().unwrap(), "203.0.113.5".parse().unwrap());
    let mut out = Answers::new();
    let datagram = modern(|w| {
        w.u32(attr::CHANGE_REQUEST, attr::CHANGE_PORT);
    });
    respond(&topology, Endpoint::Primary, "192.0.2.7:40000".parse().unwrap(), UNHEARD, &datagram, &mut out)
        .unwrap();
    let (_, _, view) = one(&out);
    assert_eq!(view.address(attr::RESPONSE_ORIGIN), Some("203.0.113.4:3479".parse().unwrap()));
    assert_eq!(view.address(attr::OTHER_ADDRESS), Some("203.0.113.5:3479".parse().unwrap()));
}

#[test]
fn response_port_goes_to_the_source_host_and_that_port() {
    for (topology, from) in topologies() {
        for value in [&[0xc3, 0x50][..], &[0xc3, 0x50, 0, 0]] {
            let datagram = modern(|w| {
                w.bytes(attr::RESPONSE_PORT, value).u32(attr::CHANGE_REQUEST, attr::CHANGE_IP);
            });
            let mut out = Answers::new();
            let outcome = respond(&topology, Endpoint::Primary, from, UNHEARD, &datagram, &mut out);
            assert_eq!(outcome, Ok(Outcome::Changed));
            let (leaves, to, view) = one(&out);
            assert_eq!(to, SocketAddr::new(from.ip(), 50000));
            assert_eq!(leaves, Endpoint::AlternatePrimaryPort);
            assert_eq!(view.mapped(), Some(from), "the source is reported, not the port that was asked for");
        }
    }
}

#[test]
fn requests_that_get_400() {
    type Row<'a> = (&'a str, &'a [(u16, &'a [u8])]);
    let rows: &[Row<'_>] = &[
        ("RESPONSE-PORT 0", &[(attr::RESPONSE_PORT, &[0, 0])]),
        ("RESPONSE-PORT 1023", &[(attr::RESPONSE_PORT, &[3, 255])]),
        ("RESPONSE-PORT of a reflector, 11211", &[(attr::RESPONSE_PORT, &[0x2b, 0xcb])]),
        ("RESPONSE-PORT of our own, 3478", &[(attr::RESPONSE_PORT, &[0x0d, 0x96])]),
        ("RESPONSE-PORT of 3 bytes", &[(attr::RESPONSE_PORT, &[0xc3, 0x50, 0])]),
        ("empty RESPONSE-PORT", &[(attr::RESPONSE_PORT, &[])]),
        ("RESPONSE-PORT with PADDING", &[(attr::PADDING, &[0; 8]), (attr::RESPONSE_PORT, &[0xc3, 0x50])]),
        ("CHANGE-REQUEST of 2 bytes", &[(attr::CHANGE_REQUEST, &[0, 4])]),
        ("CHANGE-REQUEST of 8 bytes", &[(attr::CHANGE_REQUEST, &[0; 8])]),
    ];
    for (topology, from) in topologies() {
        for (what, attributes) in rows {
            let datagram = modern(|w| attributes.iter().for_each(|(n, v)| _ = w.bytes(*n, v)));
            assert_eq!(refused(&topology, from, &datagram).0, 400, "{what}");
        }
    }
}

#[test]
fn requests_that_get_420_with_the_list() {
    let (topology, from) = topologies()[0].clone();
    let two = |w: &mut Writer<'_>| _ = w.bytes(0x0024, &[0; 4]).bytes(0x0025, &[]).bytes(0x0024, &[]);
    assert_eq!(refused(&topology, from, &modern(two)), (420, vec![0x0024, 0x0025]));
    let response_address = |w: &mut Writer<'_>| _ = w.address(attr::RESPONSE_ADDRESS, from);
    assert_eq!(refused(&topology, from, &modern(response_address)), (420, vec![attr::RESPONSE_ADDRESS]));
    // Classic: RFC 5780's attributes are unknown there, and an odd list repeats an entry.
    let padding = |w: &mut Writer<'_>| _ = w.bytes(attr::PADDING, &[0; 4]);
    assert_eq!(refused(&topology, from, &classic(padding)), (420, vec![attr::PADDING, attr::PADDING]));
}

#[test]
fn one_address_is_honest() {
    let (topology, from) = single();
    let ask = |datagram: &[u8]| {
        let mut out = Answers::new();
        respond(&topology, Endpoint::Primary, from, UNHEARD, datagram, &mut out).unwrap();
        let (_, _, view) = one(&out);
        (numbers(&view), view.error().map(|e| e.0))
    };
    assert_eq!(
        ask(&modern(|_| {})).0,
        [attr::MAPPED_ADDRESS, attr::XOR_MAPPED_ADDRESS, attr::RESPONSE_ORIGIN]
    );
    assert_eq!(ask(&classic(|_| {})).0, [attr::MAPPED_ADDRESS, attr::SOURCE_ADDRESS]);
    for flags in [0, 2, 4, 6] {
        let change = |w: &mut Writer<'_>| _ = w.u32(attr::CHANGE_REQUEST, flags);
        assert_eq!(ask(&modern(change)).1, Some(420));
        assert_eq!(ask(&classic(change)).1, (flags != 0).then_some(420));
    }
}

#[test]
fn response_address_is_never_honoured() {
    let (topology, from) = topologies()[0].clone();
    let datagram = classic(|w| _ = w.address(attr::RESPONSE_ADDRESS, "203.0.113.99:9".parse().unwrap()));
    let mut out = Answers::new();
    assert_eq!(
        respond(&topology, Endpoint::Primary, from, UNHEARD, &datagram, &mut out),
        Ok(Outcome::Success)
    );
    assert_eq!(one(&out).1, from);
}

#[test]
fn fingerprint_is_checked_and_echoed() {
    let (topology, from) = topologies()[0].clone();
    let mut datagram = modern(|w| _ = w.fingerprint());
    let mut out = Answers::new();
    assert_eq!(
        respond(&topology, Endpoint::Primary, from, UNHEARD, &datagram, &mut out),
        Ok(Outcome::Success)
    );
    assert_eq!(one(&out).2.fingerprint(), Some(true));

    *datagram.last_mut().unwrap() ^= 1;
    let mut out = Answers::new();
    assert_eq!(
        respond(&topology, Endpoint::Primary, from, UNHEARD, &datagram, &mut out),
        Err(DropReason::Fingerprint)
    );
    assert!(out.is_empty());

    let not_last = modern(|w| _ = w.fingerprint().bytes(attr::SOFTWARE, b"late"));
    assert_eq!(
        respond(&topology, Endpoint::Primary, from, UNHEARD, &not_last, &mut out),
        Err(DropReason::Fingerprint)
    );

    // An error answers it, too; and the classic dialect has no such attribute.
    let unknown = modern(|w| _ = w.bytes(0x7000, &[]).fingerprint());
    respond(&topology, Endpoint::Primary, from, UNHEARD, &unknown, &mut out).unwrap();
    assert_eq!(one(&out).2.fingerprint(), Some(true));
    let old = classic(|w| _ = w.bytes(attr::FINGERPRINT, &[1, 2, 3, 4]));
    respond(&topology, Endpoint::Primary, from, UNHEARD, &old, &mut out).unwrap();
    assert_eq!(one(&out).2.find(attr::FINGERPRINT), None);
}

#[test]
fn nothing_behind_a_message_integrity_counts() {
    let (topology, from) = topologies()[0].clone();
    let datagram = modern(|w| {
        w.bytes(attr::MESSAGE_INTEGRITY, &[0; 20]).u32(attr::CHANGE_REQUEST, 6).bytes(0x7000, &[]);
    });
    let mut out = Answers::new();
    assert_eq!(
        respond(&topology, Endpoint::Primary, from, UNHEARD, &datagram, &mut out),
        Ok(Outcome::Success)
    );
}

#[test]
fn datagrams_that_get_nothing() {
    let (topology, from) = topologies()[0].clone();
    let of = |class, method| {
        let mut bytes = modern(|_| {});
        bytes[..2].copy_from_slice(&message_type(class, method).to_be_bytes());
        bytes
    };
    let mut cut = modern(|w| _ = w.bytes(attr::SOFTWARE, b"cut off"));
    cut[23] = 200;
    let rows = [
        (vec![], DropReason::Short),
        (vec![0; 19], DropReason::Short),
        ([&[0x80; 20][..]].concat(), DropReason::NotStun),
        ([&modern(|_| {})[..], &[0; 4]].concat(), DropReason::Length),
        (cut, DropReason::Attribute),
        (modern(|w| (0..17).for_each(|_| _ = w.bytes(attr::SOFTWARE, &[]))), DropReason::TooManyAttributes),
        (of(Class::Success, BINDING), DropReason::Response),
        (of(Class::Error, BINDING), DropReason::Response),
        (of(Class::Indication, BINDING), DropReason::Indication),
        (of(Class::Request, 3), DropReason::Method),
        (modern(|w| _ = w.zeros(attr::PADDING, 2048)), DropReason::Long),
    ];
    for (datagram, reason) in rows {
        let mut out = Answers::new();
        assert_eq!(respond(&topology, Endpoint::Primary, from, UNHEARD, &datagram, &mut out), Err(reason));
        assert!(out.is_empty());
    }
    let mut out = Answers::new();
    let mirror = "198.51.100.11:3479".parse().unwrap();
    let bare = modern(|_| {});
    assert_eq!(
        respond(&topology, Endpoint::Primary, mirror, UNHEARD, &bare, &mut out),
        Err(DropReason::OwnEndpoint)
    );
}

#[test]
fn a_stream_answers_on_the_same_stream_or_refuses() {
    let (topology, from) = topologies()[0].clone();
    let mut out = Answers::new();
    let bare = respond_stream(&topology, Endpoint::AlternatePrimaryPort, from, &modern(|_| {}), &mut out);
    assert_eq!(bare, Ok(Outcome::Success));
    assert_eq!(one(&out).2.address(attr::RESPONSE_ORIGIN), topology.bound(Endpoint::AlternatePrimaryPort));
    for datagram in [modern(|w| _ = w.u32(attr::CHANGE_REQUEST, 0)), modern(|w| _ = w.response_port(50000))] {
        let outcome = respond_stream(&topology, Endpoint::Primary, from, &datagram, &mut out);
        assert_eq!(outcome, Ok(Outcome::BadRequest));
    }
}

#[derive(Clone, Debug)]
struct Piece {
    number: u16,
    value: Vec<u8>,
}

/// Requests that look like STUN: mostly known attributes, mostly sensible lengths.
pub(crate) fn hostile_request() -> impl Strategy<Value = Vec<u8>> {
    let number = prop_oneof![
        4 => prop::sample::select(vec![
            attr::CHANGE_REQUEST, attr::RESPONSE_PORT, attr::PADDING, attr::FINGERPRINT, attr::RECEIPT, attr::FILLER,
            attr::RESPONSE_ADDRESS, attr::MESSAGE_INTEGRITY, attr::SOFTWARE, attr::USERNAME,
        ]),
        1 => any::<u16>(),
    ];
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..12),
        (0..500_usize).prop_map(|n| vec![0; n]),
        Just(vec![0, 0, 0, 6]),
    ];
    let piece = (number, value).prop_map(|(number, value)| Piece { number, value });
    (prop::collection::vec(piece, 0..12), any::<bool>(), any::<bool>()).prop_map(
        |(pieces, old, fingerprint)| {
            let dialect = if old { Dialect::Classic } else { Dialect::Modern };
            let fill = |w: &mut Writer<'_>| {
                for piece in &pieces {
                    if w.len() + piece.value.len() < 2000 {
                        w.bytes(piece.number, &piece.value);
                    }
                }
                if fingerprint {
                    w.fingerprint();
                }
            };
            request(dialect, fill)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn random_bytes_never_panic_and_keep_to_the_budget(
        bytes in prop::collection::vec(any::<u8>(), 0..300), at in 0..4_usize, six in any::<bool>(),
    ) {
        let (topology, from) = topologies()[usize::from(six)].clone();
        let mut out = Answers::new();
        let outcome = respond(&topology, Endpoint::ALL[at], from, UNHEARD, &bytes, &mut out);
        prop_assert_eq!(outcome.is_err(), out.is_empty());
        prop_assert!(out.len() <= budget(bytes.len(), from));
    }

    #[test]
    fn hostile_requests_keep_to_the_budget_and_to_the_source(
        datagram in hostile_request(), at in 0..4_usize, six in any::<bool>(), alone in any::<bool>(),
    ) {
        let (mut topology, from) = topologies()[usize::from(six)].clone();
        let mut at = Endpoint::ALL[at];
        if alone {
            topology = Topology::new(topology.bound(Endpoint::Primary).unwrap().ip(), None, (3478, 3479));
            at = Endpoint::Primary;
        }
        let mut out = Answers::new();
        let outcome = respond(&topology, at, from, UNHEARD, &datagram, &mut out);
        prop_assert_eq!(outcome.is_err(), out.is_empty());
        prop_assert!(out.len() <= budget(datagram.len(), from));
        let asked = View::parse(&datagram).unwrap();
        let brought = asked.find(attr::PADDING).map_or(0, <[u8]>::len);
        for (leaves, to, bytes) in out.iter() {
            prop_assert_eq!(to.ip(), from.ip());
            prop_assert!(topology.bound(leaves).is_some());
            prop_assert!(to.port() == from.port() || to.port() >= 1024);
            let view = View::parse(bytes).unwrap();
            prop_assert_eq!(view.id(), asked.id());
            prop_assert!(view.find(attr::PADDING).map_or(0, <[u8]>::len) <= brought);
            if asked.dialect() == Dialect::Modern {
                prop_assert_eq!(strict::objection(bytes), None);
            }
        }
        // Over a stream, too, and on the same one.
        let outcome = respond_stream(&topology, at, from, &datagram, &mut out);
        prop_assert_eq!(outcome.is_err(), out.is_empty());
        prop_assert!(out.len() <= budget(datagram.len(), from));
        prop_assert!(out.iter().all(|(leaves, to, _)| (leaves, to) == (at, from)));
    }
}
