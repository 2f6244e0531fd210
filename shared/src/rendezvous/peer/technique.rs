//! The words that techniques of hole punching have on the wire. A word that is not known is skipped.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A technique, as two clients name it to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WireTechnique {
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
    /// Both connect over TCP at the same moment.
    Tcp,
    /// Many sockets on one side, many guesses on the other.
    Birthday,
}

impl WireTechnique {
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

impl fmt::Display for WireTechnique {
    /// The word on the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl FromStr for WireTechnique {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|technique| technique.to_string() == text).ok_or(())
    }
}
