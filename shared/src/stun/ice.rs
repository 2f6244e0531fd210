//! Connectivity checks of ICE (RFC 8445 section 7) as bytes: short-term credentials and MESSAGE-INTEGRITY (RFC 8489
//! sections 9.1, 14.5), in the controlled role.

use std::{fmt, net::SocketAddr};

use ring::hmac;

use super::{Class, TransactionId, View, WriteError, Writer, attr, message_type};

/// Longest message that is written here.
pub const MAX_CHECK: usize = 256;

/// What one side of a connection calls itself, and what it proves itself with (RFC 8445 section 5.3).
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Username fragment, 4 to 256 characters.
    pub ufrag: String,
    /// Password, 22 to 256 characters.
    pub password: String,
}

impl Credentials {
    /// Whether both have a length that RFC 8839 section 5.4 allows, at most 64 here, of characters that it allows.
    #[must_use]
    pub fn are_valid(&self) -> bool {
        let is_ice = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        let fits = |text: &str, least: usize| (least..=64).contains(&text.len()) && is_ice(text);
        fits(&self.ufrag, 4) && fits(&self.password, 22)
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// The fragments in USERNAME of a request: the receiver's, then the sender's (RFC 8445 section 7.2.2).
#[must_use]
pub fn username<'a>(check: &View<'a>) -> Option<(&'a str, &'a str)> {
    std::str::from_utf8(check.find(attr::USERNAME)?).ok()?.split_once(':')
}

/// PRIORITY of a request.
#[must_use]
pub fn priority(check: &View<'_>) -> Option<u32> {
    check.u32(attr::PRIORITY)
}

/// Whether MESSAGE-INTEGRITY was made with this password. It must be there, and nothing but FINGERPRINT, which must be
/// right, may follow.
#[must_use]
pub fn is_authentic(message: &View<'_>, password: &str) -> bool {
    let Some(found) = message.attributes().find(|a| a.number == attr::MESSAGE_INTEGRITY) else {
        return false;
    };
    let end = found.offset + 4 + found.value.len();
    let rest = message.bytes().len() - end;
    let ends_well = rest == 0 || (rest == 8 && message.fingerprint() == Some(true));
    ends_well && hmac::verify(&key(password), &covered(message.bytes(), found.offset), found.value).is_ok()
}

/// Writes a check from the controlled side to a peer with these credentials, in the name of `own` (RFC 8445 section 7.1).
///
/// # Errors
/// When it does not fit.
pub fn write_check(
    buffer: &mut [u8],
    id: &TransactionId,
    own: &str,
    peer: &Credentials,
    priority: u32,
    tie_breaker: u64,
) -> Result<usize, WriteError> {
    let mut writer = Writer::new(buffer, Class::Request, id);
    writer
        .bytes(attr::USERNAME, format!("{}:{own}", peer.ufrag).as_bytes())
        .bytes(attr::ICE_CONTROLLED, &tie_breaker.to_be_bytes())
        .u32(attr::PRIORITY, priority);
    let length = writer.finish()?;
    seal(buffer, length, &peer.password)
}

/// Writes the success response to a check that came from `from` and was authenticated with this password.
///
/// # Errors
/// When it does not fit.
pub fn write_response(
    buffer: &mut [u8],
    id: &TransactionId,
    from: SocketAddr,
    password: &str,
) -> Result<usize, WriteError> {
    let length =
        Writer::new(buffer, Class::Success, id).xor_address(attr::XOR_MAPPED_ADDRESS, from).finish()?;
    seal(buffer, length, password)
}

/// Appends MESSAGE-INTEGRITY and FINGERPRINT to the first `length` bytes; the length of the whole.
fn seal(buffer: &mut [u8], length: usize, password: &str) -> Result<usize, WriteError> {
    const ATTRIBUTES: usize = 24 + 8;
    let whole = length + ATTRIBUTES;
    if whole > buffer.len() {
        return Err(WriteError);
    }
    let tag = hmac::sign(&key(password), &covered(&buffer[..length], length));
    buffer[length..length + 2].copy_from_slice(&attr::MESSAGE_INTEGRITY.to_be_bytes());
    buffer[length + 2..length + 4].copy_from_slice(&20_u16.to_be_bytes());
    buffer[length + 4..length + 24].copy_from_slice(tag.as_ref());
    set_length(buffer, whole);
    let value = super::fingerprint(&buffer[..length + 24]);
    buffer[length + 24..length + 26].copy_from_slice(&attr::FINGERPRINT.to_be_bytes());
    buffer[length + 26..length + 28].copy_from_slice(&4_u16.to_be_bytes());
    buffer[length + 28..whole].copy_from_slice(&value.to_be_bytes());
    Ok(whole)
}

/// What the integrity covers: everything before it, with a length field that ends behind it.
fn covered(message: &[u8], before: usize) -> Vec<u8> {
    let mut bytes = message[..before].to_vec();
    set_length(&mut bytes, before + 24);
    bytes
}

fn set_length(message: &mut [u8], whole: usize) {
    message[2..4].copy_from_slice(&((whole - super::HEADER) as u16).to_be_bytes());
}

fn key(password: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes())
}

/// The type of a Binding request, by which a datagram can be told before it is parsed.
pub const REQUEST_TYPE: u16 = message_type(Class::Request, super::BINDING);

#[cfg(test)]
mod tests {
    use super::*;

    fn peer() -> Credentials {
        Credentials { ufrag: "evtj".into(), password: "VOkJxbRl1RmTxUk/WvJxBt".into() }
    }

    fn check(buffer: &mut [u8]) -> usize {
        let id = TransactionId::modern_from([7; 12]);
        write_check(buffer, &id, "h6vY", &peer(), 1 << 24, 5).unwrap()
    }

    #[test]
    fn a_check_is_authentic_and_any_changed_bit_makes_it_another() {
        let mut buffer = [0; MAX_CHECK];
        let length = check(&mut buffer);
        let view = View::parse(&buffer[..length]).unwrap();
        assert!(is_authentic(&view, &peer().password) && !is_authentic(&view, "another password"));
        assert_eq!((username(&view), priority(&view)), (Some(("evtj", "h6vY")), Some(1 << 24)));
        for bit in 0..length * 8 {
            let mut changed = buffer;
            changed[bit / 8] ^= 1 << (bit % 8);
            let authentic =
                View::parse(&changed[..length]).is_ok_and(|view| is_authentic(&view, &peer().password));
            assert!(!authentic, "bit {bit}");
        }
    }

    #[test]
    fn nothing_but_the_fingerprint_may_follow_the_integrity() {
        let mut buffer = [0; MAX_CHECK];
        let length = check(&mut buffer);
        let mut longer = buffer[..length - 8].to_vec();
        longer.extend([0x80, 0x22, 0, 4, b'a', b'b', b'c', b'd']);
        assert!(!is_authentic(&View::parse(&longer).unwrap(), &peer().password));
    }

    /// RFC 5769 section 2.1: the sample request.
    #[test]
    fn the_sample_of_rfc_5769_is_authentic() {
        let sample = concat!(
            "000100582112a442b7e7a701bc34d686fa87dfae80220010",
            "5354554e207465737420636c69656e74002400046e0001ff",
            "80290008932ff9b151263b36000600096576746a3a683676",
            "59202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249",
            "c1b571a280280004e57a3bcf"
        );
        let bytes: Vec<u8> = (0..sample.len() / 2)
            .map(|i| u8::from_str_radix(&sample[2 * i..2 * i + 2], 16).unwrap())
            .collect();
        let view = View::parse(&bytes).unwrap();
        assert!(is_authentic(&view, "VOkJxbRl1RmTxUk/WvJxBt"));
        assert_eq!((username(&view), priority(&view)), (Some(("evtj", "h6vY")), Some(0x6e00_01ff)));
    }
}
