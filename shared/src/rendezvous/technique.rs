//! The techniques of hole punching, each a round of its own.

use std::{fmt, str::FromStr};

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// Straight to each other's address on the same local network.
    Lan,
    /// Both send to each other's external endpoint at the same moment.
    Simultaneous,
    /// The same after both have opened their own gateway with packets that die before they reach the other one.
    LowTtl,
    /// Both send to each other's IPv6 address at the same moment.
    Ipv6,
    /// The next port of a gateway is told from its last one.
    Prediction,
    /// Both connect over TCP at the same moment.
    Tcp,
    /// Many sockets on one side, many guesses on the other.
    Birthday,
}

impl Technique {
    /// All of them; what costs little comes first.
    pub const ALL: [Self; 7] = [
        Self::Lan,
        Self::Simultaneous,
        Self::LowTtl,
        Self::Ipv6,
        Self::Prediction,
        Self::Tcp,
        Self::Birthday,
    ];
}

impl fmt::Display for Technique {
    /// The word that the JSON report uses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for Technique {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|t| t.to_string() == text).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(Self::to_string).collect();
            format!("no technique `{text}`; there are {}", known.join(", "))
        })
    }
}
