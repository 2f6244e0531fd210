//! Rooms: what the server keeps of those who are in one, and what they tell each other through it.
//!
//! A room has a [`RoomName`]. Its members say that they are ready ([`Readiness`]), are paired by the server one pair at a
//! time, meet in sessions of their own, and say what came of each pair ([`PairResult`]). The server passes both on to
//! all without reading them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use super::{Code, Payload, peer::WireTechnique};
use crate::nat::NatType;

/// Most members that a room has at a time.
pub const MAX_MEMBERS: usize = 32;
/// Longest payload of a member, in bytes: all of a room's have to be told to everyone who comes.
pub const MAX_ROOM_PAYLOAD: usize = 256;

/// The name of a room: a code that the server made, or a word of the user's.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoomName(String);

/// A text that names no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a room's name is 1 to {LONGEST_NAME} letters, digits, dashes, dots and underscores")]
pub struct BadRoomName;

/// Longest name, in bytes.
const LONGEST_NAME: usize = 64;

impl RoomName {
    /// Whether it is a code, which only the server makes and nobody guesses.
    #[must_use]
    pub fn is_code(&self) -> bool {
        self.0.parse::<Code>().is_ok()
    }
}

impl From<Code> for RoomName {
    fn from(code: Code) -> Self {
        Self(code.to_string())
    }
}

impl FromStr for RoomName {
    type Err = BadRoomName;

    /// Reads it whatever the case; a code also with dashes and spaces anywhere.
    fn from_str(text: &str) -> Result<Self, BadRoomName> {
        if let Ok(code) = text.parse::<Code>() {
            return Ok(code.into());
        }
        let is_allowed = |c: u8| c.is_ascii_alphanumeric() || b"-._".contains(&c);
        let fits = !text.is_empty() && text.len() <= LONGEST_NAME && text.bytes().all(is_allowed);
        if fits { Ok(Self(text.to_ascii_lowercase())) } else { Err(BadRoomName) }
    }
}

impl fmt::Display for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RoomName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows it can enter.
        f.write_str("RoomName(..)")
    }
}

impl From<RoomName> for String {
    fn from(name: RoomName) -> Self {
        name.0
    }
}

impl TryFrom<String> for RoomName {
    type Error = BadRoomName;

    fn try_from(text: String) -> Result<Self, BadRoomName> {
        text.parse()
    }
}

/// A member, as the server tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberNews {
    /// Its number in this room, which no other member ever has.
    pub id: u32,
    /// Whether it is in the room now.
    pub here: bool,
    /// What it says of itself; none until it is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready: Option<Payload>,
}

/// What a member says came of a pair, as the server passes it on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ResultNews {
    /// Who says it: the server vouches for that.
    pub from: u32,
    /// The other one of the pair.
    pub to: u32,
    /// What it says.
    pub result: Payload,
}

/// What a member says of itself when it can be paired.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// What it wants to be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The classic name of its NAT.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub nat_type: Option<NatType>,
}

/// What a member says came of a pair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PairResult {
    /// Whether there is a direct path; none where the attempt did not come to its end.
    #[serde(default)]
    pub through: Option<bool>,
    /// What found it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "known")]
    pub technique: Option<WireTechnique>,
    /// Whether it is over IPv6.
    #[serde(default)]
    pub ipv6: bool,
    /// Round-trip time over it, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    /// The chance of a direct path as predicted, in millionths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<u32>,
}

/// A word that this version does not know counts as not said.
fn known<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Word<T> {
        Known(T),
        Unknown(serde::de::IgnoredAny),
    }
    Ok(match Option::<Word<T>>::deserialize(deserializer)? {
        Some(Word::Known(word)) => Some(word),
        Some(Word::Unknown(_)) | None => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_codes_or_words() {
        let name = |text: &str| text.parse::<RoomName>().map(|name| (name.to_string(), name.is_code()));
        assert_eq!(name("TABO kiru-lamadosu"), Ok((Code::EXAMPLE.into(), true)));
        assert_eq!(name("Team-7.b_c"), Ok(("team-7.b_c".into(), false)));
        assert_eq!(name(&"x".repeat(64)), Ok(("x".repeat(64), false)));
        for wrong in ["", "two words", "naïve", "a/b", "\u{1b}[2J", "a\nb", &"x".repeat(65)] {
            assert_eq!(name(wrong), Err(BadRoomName), "{wrong:?}");
        }
        assert_eq!(format!("{:?}", "secret".parse::<RoomName>().unwrap()), "RoomName(..)");
    }

    #[test]
    fn words_of_later_versions_count_as_not_said() {
        let read = |text: &str| serde_json::from_str::<PairResult>(text);
        let told = read(r#"{"through":true,"technique":"teleport","rtt_us":7,"later":[1]}"#).unwrap();
        assert_eq!((told.through, told.technique, told.rtt_us), (Some(true), None, Some(7)));
        assert_eq!(read(r#"{"technique":"low-ttl"}"#).unwrap().technique, Some(WireTechnique::LowTtl));
        assert!(read(r#"{"through":"maybe"}"#).is_err());
        let ready = serde_json::from_str::<Readiness>(r#"{"nat_type":"weird"}"#).unwrap();
        assert_eq!(ready, Readiness::default());
    }
}
