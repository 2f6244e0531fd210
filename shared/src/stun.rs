//! STUN as bytes: RFC 8489 with RFC 5780's attributes, and the classic dialect of RFC 3489.
//!
//! [`View`] reads and [`Writer`] writes, both without allocation. The transaction id is 16 bytes everywhere: in
//! the modern dialect its first four are the magic cookie, in the classic dialect they are part of the id, so an
//! id that is echoed whole is right in both.

pub mod attr;
pub mod frame;
#[cfg(feature = "ice")]
pub mod ice;
#[cfg(feature = "strict")]
pub mod strict;
mod view;
mod writer;

use std::fmt;

pub use view::{Attribute, Attributes, ErrorCode, ParseError, View};
pub use writer::{WriteError, Writer};

/// The magic cookie that marks the modern dialect (RFC 8489 section 5).
pub const COOKIE: u32 = 0x2112_A442;
/// Length of the fixed header in bytes.
pub const HEADER: usize = 20;
/// The default port for STUN over UDP and TCP (RFC 8489 section 18.6).
pub const PORT: u16 = 3478;
/// The only method served and asked: Binding.
pub const BINDING: u16 = 0x001;

/// Which of the two wire formats a message is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// RFC 5389 and RFC 8489: with the magic cookie.
    Modern,
    /// RFC 3489: without it.
    Classic,
}

/// The class of a message (RFC 8489 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Asks for an answer.
    Request,
    /// Asks for none.
    Indication,
    /// Answers with success.
    Success,
    /// Answers with an error.
    Error,
}

/// A message type: class and method interleaved as on the wire (RFC 8489 figure 3).
#[must_use]
pub const fn message_type(class: Class, method: u16) -> u16 {
    let c = match class {
        Class::Request => 0b00,
        Class::Indication => 0b01,
        Class::Success => 0b10,
        Class::Error => 0b11,
    };
    (method & 0x000f)
        | ((method & 0x0070) << 1)
        | ((method & 0x0f80) << 2)
        | ((c & 0b01) << 4)
        | ((c & 0b10) << 7)
}

/// The id that ties an answer to its request: 16 bytes, the cookie included where there is one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId(pub [u8; 16]);

impl TransactionId {
    /// A modern id: the cookie and 96 random bits.
    #[must_use]
    pub fn modern(rng: &mut fastrand::Rng) -> Self {
        let mut random = [0; 12];
        rng.fill(&mut random);
        Self::modern_from(random)
    }

    /// A modern id with these 96 bits.
    #[must_use]
    pub fn modern_from(random: [u8; 12]) -> Self {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&COOKIE.to_be_bytes());
        id[4..].copy_from_slice(&random);
        Self(id)
    }

    /// A classic id: 128 random bits that do not begin with the cookie.
    #[must_use]
    pub fn classic(rng: &mut fastrand::Rng) -> Self {
        let mut random = [0; 16];
        rng.fill(&mut random);
        Self::classic_from(random)
    }

    /// A classic id of these 128 bits, save that it does not begin with the cookie.
    #[must_use]
    pub fn classic_from(random: [u8; 16]) -> Self {
        let mut id = random;
        if id[..4] == COOKIE.to_be_bytes() {
            id[0] ^= 0xff;
        }
        Self(id)
    }

    /// The dialect that the id belongs to.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        if self.0[..4] == COOKIE.to_be_bytes() { Dialect::Modern } else { Dialect::Classic }
    }
}

impl fmt::Debug for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The value of FINGERPRINT for the bytes before it (RFC 8489 section 14.7).
#[must_use]
pub fn fingerprint(before: &[u8]) -> u32 {
    crc32fast::hash(before) ^ 0x5354_554e
}
