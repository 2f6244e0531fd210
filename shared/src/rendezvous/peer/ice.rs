//! The credentials of ICE (RFC 8445 section 5.3), with which a browser is met.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What one side calls itself in connectivity checks, and what it proves itself with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Fields")]
pub struct IceSide {
    /// Username fragment.
    pub ufrag: String,
    /// Password.
    pub password: String,
    /// SHA-256 fingerprint of its certificate (RFC 8122), which browsers have: they would speak DTLS over the path. None =
    /// it speaks nothing but the checks.
    pub fingerprint: Option<String>,
}

/// The same before it was looked at.
#[derive(Deserialize)]
struct Fields {
    ufrag: String,
    password: String,
    #[serde(default)]
    fingerprint: Option<String>,
}

/// A text of ICE that is too short, too long, or has characters that RFC 8839 section 5.4 does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("credentials that are none of ICE")]
struct NotIce;

impl TryFrom<Fields> for IceSide {
    type Error = NotIce;

    fn try_from(Fields { ufrag, password, fingerprint }: Fields) -> Result<Self, NotIce> {
        let is_ice = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+' || b == b'/');
        let fits = |text: &str, least: usize| (least..=LONGEST).contains(&text.len()) && is_ice(text);
        let is_digest = |text: &String| {
            text.len() == DIGEST
                && text.split(':').all(|byte| byte.len() == 2 && u8::from_str_radix(byte, 16).is_ok())
        };
        let is_valid = fits(&ufrag, 4) && fits(&password, 22) && fingerprint.as_ref().is_none_or(is_digest);
        if is_valid { Ok(Self { ufrag, password, fingerprint }) } else { Err(NotIce) }
    }
}

impl fmt::Debug for IceSide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password is a secret, which does not belong into logs.
        f.debug_struct("IceSide").field("ufrag", &self.ufrag).finish_non_exhaustive()
    }
}

/// No browser's are longer.
const LONGEST: usize = 64;
/// 32 bytes as hexadecimal digits, with colons in between.
const DIGEST: usize = 32 * 3 - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ice_allows_is_read() {
        let read = |ufrag: &str, password: &str, fingerprint: serde_json::Value| {
            let value =
                serde_json::json!({ "ufrag": ufrag, "password": password, "fingerprint": fingerprint });
            serde_json::from_value::<IceSide>(value)
        };
        let (password, digest) = ("0123456789012345678901", ["AB"; 32].join(":"));
        assert!(read("evtj", password, digest.clone().into()).is_ok());
        assert!(read("evtj", password, serde_json::Value::Null).is_ok());
        for (ufrag, password, fingerprint) in [
            ("evt", password, digest.clone()),
            ("ev:j", password, digest.clone()),
            ("evtj", "short", digest.clone()),
            ("evtj", password, "AB:CD".into()),
            ("evtj", password, digest.replace("AB", "\r\n")),
        ] {
            assert!(read(ufrag, password, fingerprint.into()).is_err(), "{ufrag} {password}");
        }
        let long = "a".repeat(65);
        assert!(read(&long, password, digest.into()).is_err());
        assert!(!format!("{:?}", read("evtj", password, serde_json::Value::Null)).contains(password));
    }
}
