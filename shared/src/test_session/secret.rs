//! Random bytes that show who somebody is: 32 hexadecimal digits in JSON, 16 bytes everywhere else.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! secret {
    ($(#[$doc:meta])* $name:ident $text:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; 16]);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                // A secret does not belong into logs.
                f.write_str(concat!(stringify!($name), "(..)"))
            }
        }

        impl From<$name> for String {
            fn from(secret: $name) -> Self {
                format!("{:032x}", u128::from_be_bytes(secret.0))
            }
        }

        impl TryFrom<String> for $name {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                let valid = text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
                let number = valid.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
                number.map(|n| Self(n.to_be_bytes())).ok_or($text)
            }
        }
    };
}

secret! {
    /// What the server gives a session: a STUN request that carries it in TOKEN proves the port that it comes from.
    Token "a token is 32 hexadecimal digits"
}
secret! {
    /// What the server writes on a connection, and expects back.
    Nonce "a nonce is 32 hexadecimal digits"
}

impl Nonce {
    /// The nonce of the connect with this number, where this is the first one of a session: a number that only the two sides
    /// of the session know, and of which the client can choose no more than the last ten bits.
    #[must_use]
    pub fn of_connect(self, id: u32) -> Self {
        Self(u128::from_be_bytes(self.0).wrapping_add(id.into()).to_be_bytes())
    }
}
