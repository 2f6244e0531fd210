//! The techniques of hole punching: one list for predictions, attempts, reports and the command line.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How two sides reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Technique {
    /// One side simply sends, the other is open to it.
    Direct,
    /// To each other's address on the same local network.
    Lan,
    /// Both send to each other's external endpoint at the same moment.
    Simultaneous,
    /// The same after both have opened their own gateways with packets that expire before they reach the other one.
    LowTtl,
    /// Both send to each other's IPv6 address at the same moment.
    Ipv6,
    /// The next port of a gateway is predicted from its last one.
    Prediction,
    /// A TCP connection: to a peer that can be reached, or both connect at the same moment.
    Tcp,
    /// Many sockets on one side, many guesses on the other.
    Birthday,
    /// A relay server.
    Relay,
}

impl Technique {
    /// Those that an attempt can be made with; what costs little comes first.
    pub const ATTEMPTS: [Self; 7] = [
        Self::Lan,
        Self::Simultaneous,
        Self::LowTtl,
        Self::Ipv6,
        Self::Prediction,
        Self::Tcp,
        Self::Birthday,
    ];
}

/// A word that names no technique that can be tried.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no technique `{0}`; there are {known}", known = known())]
pub struct UnknownTechnique(pub String);

fn known() -> String {
    Technique::ATTEMPTS.map(|technique| technique.to_string()).join(", ")
}

impl fmt::Display for Technique {
    /// The word that the JSON report uses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for Technique {
    type Err = UnknownTechnique;

    fn from_str(text: &str) -> Result<Self, UnknownTechnique> {
        let named = Self::ATTEMPTS.into_iter().find(|technique| technique.to_string() == text);
        named.ok_or_else(|| UnknownTechnique(text.to_owned()))
    }
}
