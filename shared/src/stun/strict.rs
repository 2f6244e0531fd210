//! The strict reader: what stun-rs, an implementation of RFC 8489 that is not ours, objects to in a message.
//!
//! The tolerant [`View`] takes what it can from a sloppy server; what this reader objects to is a
//! finding about the server, not a failure of the measurement.

use stun_rs::{DecoderContextBuilder, MessageDecoderBuilder};

use super::{COOKIE, View};

/// Longer messages are not judged: some legal attributes cost the strict reader quadratic time.
pub const LONGEST: usize = 2048;

/// What is wrong with a message in the eyes of the strict reader, in one line, or `None`. Classic messages and
/// messages longer than [`LONGEST`] are not judged.
#[must_use]
pub fn objection(message: &[u8]) -> Option<String> {
    if message.len() > LONGEST || message.get(4..8) != Some(&COOKIE.to_be_bytes()) {
        return None;
    }
    // Its own check of FINGERPRINT wants a key as soon as there is a message integrity, so ours does that part.
    let context = DecoderContextBuilder::default().build();
    let decoder = MessageDecoderBuilder::default().with_context(context).build();
    match decoder.decode(message) {
        Err(error) => Some(one_line(&error.to_string())),
        Ok((_, used)) if used != message.len() => {
            Some(format!("{} bytes behind the end of the message", message.len() - used))
        }
        Ok(_) => match View::parse(message).ok()?.fingerprint() {
            Some(false) => Some("FINGERPRINT is wrong or not the last attribute".into()),
            Some(true) | None => None,
        },
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::{Class, TransactionId, Writer, attr};
    use super::*;

    fn message(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
        let mut buffer = [0; 256];
        let mut writer = Writer::new(
            &mut buffer,
            Class::Success,
            &TransactionId::modern(&mut fastrand::Rng::with_seed(1)),
        );
        fill(&mut writer);
        let length = writer.finish().unwrap();
        buffer[..length].to_vec()
    }

    #[test]
    fn a_sound_message_is_not_objected_to() {
        let sound = message(|w| {
            w.xor_address(attr::XOR_MAPPED_ADDRESS, "192.0.2.1:32853".parse().unwrap())
                .address(attr::OTHER_ADDRESS, "[2001:db8::1]:3479".parse().unwrap())
                .bytes(attr::SOFTWARE, b"sound")
                .fingerprint();
        });
        assert_eq!(objection(&sound), None);
    }

    #[test]
    fn sloppy_messages_are() {
        let bad_software = message(|w| _ = w.bytes(attr::SOFTWARE, &[0xff, 0xfe]));
        assert!(objection(&bad_software).is_some());
        let short_address = message(|w| _ = w.bytes(attr::MAPPED_ADDRESS, &[0, 1, 2]));
        assert!(objection(&short_address).is_some());
        let mut bad_fingerprint = message(|w| _ = w.fingerprint());
        *bad_fingerprint.last_mut().unwrap() ^= 1;
        assert_eq!(objection(&bad_fingerprint).unwrap(), "FINGERPRINT is wrong or not the last attribute");
        let mut trailing = message(|_| {});
        trailing.extend([0; 4]);
        assert_eq!(objection(&trailing).unwrap(), "4 bytes behind the end of the message");
    }
}
