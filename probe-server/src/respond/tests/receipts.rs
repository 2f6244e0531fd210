//! Receipts, and what all answers may cost.

use super::*;

#[test]
fn a_receipt_comes_from_where_the_request_went() {
    for (topology, from) in topologies() {
        let paid = |filler| {
            modern(|w| {
                w.u32(attr::CHANGE_REQUEST, 6).bytes(attr::RECEIPT, &[]).zeros(attr::FILLER, filler);
            })
        };
        let mut out = Answers::new();
        respond(&topology, Endpoint::Primary, from, UNHEARD, &paid(300), &mut out).unwrap();
        let answers: Vec<_> = out.iter().collect();
        let length = answers[0].2.len();
        assert_eq!((answers[0].0, answers[0].1), (Endpoint::Alternate, from));
        assert_eq!((answers[1].0, answers[1].1), (Endpoint::Primary, from));
        let receipt = View::parse(answers[1].2).unwrap();
        assert_eq!((receipt.class(), receipt.id()), (Class::Success, id(Dialect::Modern)));
        assert_eq!(numbers(&receipt), [attr::RECEIPT, attr::ALTERNATE_UNHEARD, attr::FILLER]);
        assert_eq!(receipt.address(attr::RECEIPT), topology.bound(Endpoint::Alternate));
        assert_eq!(receipt.u32(attr::ALTERNATE_UNHEARD), Some(77));
        assert_eq!(receipt.bytes().len(), length, "what depends on size hits both alike");
        let answer = View::parse(answers[0].2).unwrap();
        assert_eq!((answer.find(attr::RECEIPT), answer.find(attr::ALTERNATE_UNHEARD)), (None, None));

        // Header, CHANGE-REQUEST, RECEIPT and FILLER take 36 bytes; the filler pays for the rest, to the byte.
        let shortest = if from.is_ipv4() { 32 } else { 44 };
        for receipt in [length, length - 4, shortest + 12, shortest + 8, shortest, shortest - 4] {
            respond(
                &topology,
                Endpoint::Primary,
                from,
                UNHEARD,
                &paid(length + receipt + SECOND_ANSWER - 36),
                &mut out,
            )
            .unwrap();
            let expected = if receipt < shortest { vec![length] } else { vec![length, receipt] };
            assert_eq!(out.iter().map(|(_, _, bytes)| bytes.len()).collect::<Vec<_>>(), expected);
            let told = out
                .iter()
                .nth(1)
                .and_then(|(_, _, bytes)| View::parse(bytes).ok()?.u32(attr::ALTERNATE_UNHEARD));
            assert_eq!(told.is_some(), receipt >= shortest + 8);
        }
        let nothing_moves = modern(|w| _ = w.bytes(attr::RECEIPT, &[0; 200]));
        respond(&topology, Endpoint::Primary, from, UNHEARD, &nothing_moves, &mut out).unwrap();
        one(&out);
    }
}

/// The documented table: bytes in, bytes out over IPv4, bytes out over IPv6.
#[test]
fn the_amplification_table() {
    let (four, six) = (topologies()[0].clone(), topologies()[1].clone());
    let rows: &[(&str, Vec<u8>, usize, [usize; 2])] = &[
        ("bare", modern(|_| {}), 20, [68, 116]),
        ("classic", classic(|_| {}), 20, [56, 92]),
        ("FINGERPRINT", modern(|w| _ = w.fingerprint()), 28, [76, 124]),
        ("CHANGE-REQUEST", modern(|w| _ = w.u32(attr::CHANGE_REQUEST, 6)), 28, [68, 116]),
        ("RESPONSE-PORT", modern(|w| _ = w.response_port(50000)), 28, [68, 116]),
        (
            "RECEIPT, unpaid",
            modern(|w| _ = w.u32(attr::CHANGE_REQUEST, 6).bytes(attr::RECEIPT, &[])),
            32,
            [68, 116],
        ),
        (
            "RECEIPT, paid",
            modern(|w| _ = w.u32(attr::CHANGE_REQUEST, 6).bytes(attr::RECEIPT, &[0; 228])),
            260,
            [136, 232],
        ),
        ("empty PADDING", modern(|w| _ = w.bytes(attr::PADDING, &[])), 24, [72, 120]),
        ("PADDING 1024", modern(|w| _ = w.zeros(attr::PADDING, 1024)), 1048, [1096, 1144]),
        ("PADDING 2024", modern(|w| _ = w.zeros(attr::PADDING, 2024)), 2048, [1572, 1620]),
        ("unknown attribute, 420", modern(|w| _ = w.bytes(0x7000, &[])), 24, [36, 36]),
        ("refused, 400", modern(|w| _ = w.response_port(80)), 28, [28, 28]),
    ];
    for (name, datagram, length, expected) in rows {
        assert_eq!(datagram.len(), *length, "{name}");
        for ((topology, from), expected) in [&four, &six].into_iter().zip(expected) {
            let mut out = Answers::new();
            respond(topology, Endpoint::Alternate, *from, UNHEARD, datagram, &mut out).unwrap();
            println!("{name}: {} -> {} bytes", datagram.len(), out.len());
            assert_eq!(out.len(), *expected, "{name} {from}");
            assert!(out.len() <= budget(datagram.len(), *from), "{name} {from}");
        }
    }
}

/// A server with one address has no other one that a source could have sent to.
#[test]
fn a_receipt_of_a_single_address_says_nothing_of_another() {
    let (topology, from) = single();
    let datagram = modern(|w| _ = w.response_port(50000).bytes(attr::RECEIPT, &[0; 228]));
    let mut out = Answers::new();
    respond(&topology, Endpoint::Primary, from, UNHEARD, &datagram, &mut out).unwrap();
    let answers: Vec<_> = out.iter().map(|(_, _, bytes)| bytes).collect();
    assert_eq!(numbers(&View::parse(answers[1]).unwrap()), [attr::RECEIPT, attr::FILLER]);
    assert_eq!(answers[0].len(), answers[1].len());
}
