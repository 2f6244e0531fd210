//! Nested NATs, such as a home router behind a carrier-grade NAT.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer};

use super::{spec::NatSpec, syntax::SpecError};

/// Nested NATs, the innermost first.
#[derive(Clone, Debug, PartialEq)]
pub struct Stack(pub Vec<NatSpec>);

impl FromStr for Stack {
    type Err = SpecError;

    /// One NAT, or several joined by `+`, the innermost first: `linux+symmetric`.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        text.split('+').map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl fmt::Display for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"))
    }
}

impl From<NatSpec> for Stack {
    fn from(spec: NatSpec) -> Self {
        Self(vec![spec])
    }
}

impl<'de> Deserialize<'de> for Stack {
    /// One NAT (text or table), or a list of them.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Text(String),
            Many(Vec<NatSpec>),
            One(Box<NatSpec>),
        }
        match Given::deserialize(deserializer)? {
            Given::Text(text) => text.parse().map_err(serde::de::Error::custom),
            Given::Many(specs) => Ok(Self(specs)),
            Given::One(spec) => Ok((*spec).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_nats_are_joined_by_plus() {
        let stack: Stack = "linux+symmetric,quota=5".parse().expect("stack");
        assert_eq!(stack.0.len(), 2);
        assert_eq!(stack.0[1].quota, Some(5));
        assert_eq!(stack.to_string().parse(), Ok(stack));
    }
}
