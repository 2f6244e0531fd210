//! The test vectors of RFC 5769, read by our reader and by stun-rs, and written again by our writer.

use nat_check_protocol::stun::{Class, Dialect, View, Writer, attr, strict};
use stun_rs::{Algorithm, AlgorithmId, DecoderContextBuilder, HMACKey, MessageDecoderBuilder};

const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";

/// Section 2.1.
const REQUEST: &str = "
    000100582112a442b7e7a701bc34d686fa87dfae 802200105354554e207465737420636c69656e74 002400046e0001ff
    80290008932ff9b151263b36 0006000965 76746a3a68367659202020 000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2
    80280004e57a3bcf";
/// Section 2.2.
const RESPONSE_4: &str = "
    0101003c2112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220 002000080001a147e112a643
    000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7 80280004c07d4c96";
/// Section 2.3.
const RESPONSE_6: &str = "
    010100482112a442b7e7a701bc34d686fa87dfae 8022000b7465737420766563746f7220
    002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9 00080014a382954e4be67bf11784c97c8292c275bfe3ed41
    80280004c8fb0b4c";
/// Section 2.4.
const LONG_TERM: &str = "
    000100602112a44278ad3433c6ad72c029da412e 00060012e3839ee38388e383aae38383e382afe382b90000
    0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341 0014000b6578616d706c652e6f726700
    00080014f67024656dd64a3e02b8e0712e85c9a28ca89666";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| digit as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Whether stun-rs finds the message integrity (and FINGERPRINT) right.
fn validates(message: &[u8], key: HMACKey) -> bool {
    let context = DecoderContextBuilder::default().with_key(key).with_validation().build();
    MessageDecoderBuilder::default().with_context(context).build().decode(message).is_ok()
}

#[test]
fn short_term_vectors_are_read_alike() {
    for (hex, class, mapped) in [
        (REQUEST, Class::Request, None),
        (RESPONSE_4, Class::Success, Some("192.0.2.1:32853")),
        (RESPONSE_6, Class::Success, Some("[2001:db8:1234:5678:11:2233:4455:6677]:32853")),
    ] {
        let message = bytes(hex);
        let view = View::parse(&message).unwrap();
        assert_eq!((view.class(), view.dialect(), view.method()), (class, Dialect::Modern, 1));
        assert_eq!(view.fingerprint(), Some(true));
        assert_eq!(view.xor_address(attr::XOR_MAPPED_ADDRESS), mapped.map(|m| m.parse().unwrap()));
        assert_eq!(strict::objection(&message), None);
        assert!(validates(&message, HMACKey::new_short_term(PASSWORD).unwrap()));
    }
}

#[test]
fn the_long_term_vector_is_read_alike() {
    let message = bytes(LONG_TERM);
    let view = View::parse(&message).unwrap();
    let text = |number| std::str::from_utf8(view.find(number).unwrap()).unwrap();
    assert_eq!(text(attr::USERNAME), "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}");
    assert_eq!((text(attr::REALM), text(attr::NONCE)), ("example.org", "f//499k954d6OL34oL9FSTvy64sA"));
    assert_eq!((view.fingerprint(), strict::objection(&message)), (None, None));
    let md5 = Algorithm::from(AlgorithmId::MD5);
    let key = HMACKey::new_long_term(text(attr::USERNAME), text(attr::REALM), "TheMatrIX", md5).unwrap();
    assert!(validates(&message, key));
}

#[test]
fn one_wrong_bit_anywhere_breaks_the_fingerprint() {
    let good = bytes(RESPONSE_4);
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let fingerprint = View::parse(&bad).ok().and_then(|view| view.fingerprint());
        assert_ne!(fingerprint, Some(true), "bit {bit}");
    }
}

#[test]
fn written_again_the_responses_are_the_same_to_the_bit() {
    for hex in [RESPONSE_4, RESPONSE_6] {
        let message = bytes(hex);
        let view = View::parse(&message).unwrap();
        let mut buffer = [0; 256];
        let mut writer = Writer::new(&mut buffer, Class::Success, &view.id());
        writer.bytes(attr::SOFTWARE, view.find(attr::SOFTWARE).unwrap());
        writer.xor_address(attr::XOR_MAPPED_ADDRESS, view.mapped().unwrap());
        writer.bytes(attr::MESSAGE_INTEGRITY, view.find(attr::MESSAGE_INTEGRITY).unwrap());
        let before_fingerprint = writer.finish().unwrap();
        writer.fingerprint();
        let length = writer.finish().unwrap();
        // The vectors pad with spaces, we pad with zeros: put the one padding byte back, then all must agree.
        assert_eq!(buffer[35], 0);
        buffer[35] = 0x20;
        assert_eq!(buffer[..before_fingerprint], message[..before_fingerprint]);
        let crc = nat_check_protocol::stun::fingerprint(&buffer[..before_fingerprint]).to_be_bytes();
        assert_eq!(crc, message[length - 4..]);
    }
}
