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
    /// What a client gives with a request: the server writes it on the connection, and expects it back.
    Nonce "a nonce is 32 hexadecimal digits"
}
