//! The code of a session: 48 random bits, written so that it can be read aloud and typed after hearing it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Four syllable pairs such as `taboki-...`: consonants and vowels take turns, and no two letters sound alike.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Code(u64);

/// A text that is no code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no code: a code is four groups of four letters, such as {example}", example = Code::EXAMPLE)]
pub struct BadCode(pub String);

const CONSONANTS: &[u8; 16] = b"bdfghjklmnprstvz";
const VOWELS: &[u8; 4] = b"aiou";
/// Bits in a code.
const BITS: u32 = 48;
/// Groups of four letters in it.
const GROUPS: u32 = 4;

impl Code {
    /// What one looks like.
    pub const EXAMPLE: &str = "tabo-kiru-lama-dosu";

    /// The code of these random bits; all but the last 48 are ignored.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits & ((1 << BITS) - 1))
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for group in 0..GROUPS {
            let bits = (self.0 >> (12 * (GROUPS - 1 - group))) as usize;
            let letters = [
                CONSONANTS[bits >> 8 & 15],
                VOWELS[bits >> 6 & 3],
                CONSONANTS[bits >> 2 & 15],
                VOWELS[bits & 3],
            ];
            let dash = if group == 0 { "" } else { "-" };
            write!(f, "{dash}{}", letters.map(char::from).iter().collect::<String>())?;
        }
        Ok(())
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Whoever knows it can join.
        f.write_str("Code(..)")
    }
}

impl FromStr for Code {
    type Err = BadCode;

    /// Reads it whatever the case and wherever there are dashes and spaces.
    fn from_str(text: &str) -> Result<Self, BadCode> {
        let bad = || BadCode(text.chars().take(40).collect());
        let letters: Vec<u8> = text
            .bytes()
            .filter(|b| !matches!(b, b'-' | b' ' | b'_' | b'.'))
            .map(|b| b.to_ascii_lowercase())
            .collect();
        if letters.len() != 4 * GROUPS as usize {
            return Err(bad());
        }
        let mut bits = 0;
        for pair in letters.chunks(2) {
            let consonant = CONSONANTS.iter().position(|c| *c == pair[0]).ok_or_else(bad)?;
            let vowel = VOWELS.iter().position(|v| *v == pair[1]).ok_or_else(bad)?;
            bits = bits << 6 | (consonant << 2 | vowel) as u64;
        }
        Ok(Self(bits))
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.to_string()
    }
}

impl TryFrom<String> for Code {
    type Error = BadCode;

    fn try_from(text: String) -> Result<Self, BadCode> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_survives_being_read_aloud() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..1000 {
            let code = Code::from_bits(rng.u64(..));
            let text = code.to_string();
            assert_eq!(text.len(), 19);
            assert_eq!(text.parse(), Ok(code));
            assert_eq!(text.to_uppercase().replace('-', " ").parse(), Ok(code));
        }
        assert_eq!(Code::EXAMPLE.parse::<Code>().unwrap().to_string(), Code::EXAMPLE);
        for wrong in [
            "",
            "tabo",
            "tabo-kiru-lama-dosx",
            "tabo-kiru-lama-dosu-tabo",
            "tabo-kiru-lama-dose",
            "ťabo-kiru-lama-dos",
        ] {
            assert!(wrong.parse::<Code>().is_err(), "{wrong}");
        }
    }
}
