//! The words of NAT behaviour: mapping, filtering, port allocation, lifetime (RFC 4787), and the classic type
//! (RFC 3489) derived from them.

#[cfg(feature = "model")]
pub mod model;

use std::fmt;

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the external endpoint of an internal endpoint depends on the destination (RFC 4787 section 4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Mapping {
    /// No translation at all.
    Direct,
    /// One external endpoint for every destination.
    EndpointIndependent,
    /// One external endpoint for each destination address.
    AddressDependent,
    /// One external endpoint for each destination address and port.
    AddressAndPortDependent,
    /// One external endpoint for each destination port, whatever its address.
    PortDependent,
}

/// Whose packets are let in to an open mapping (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Anybody's.
    EndpointIndependent,
    /// Those from an address that the inside has sent to, from any port.
    AddressDependent,
    /// Those from an address and port that the inside has sent to.
    AddressAndPortDependent,
    /// Those from a port number that the inside has sent to, at any address.
    PortDependent,
}

/// The classic name (RFC 3489 section 5): derived from the two axes, never measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NatType {
    /// No UDP passes, though another transport does.
    UdpBlocked,
    /// No translation, no filter.
    OpenInternet,
    /// No translation, but a stateful firewall.
    SymmetricUdpFirewall,
    /// One mapping, open to all.
    FullCone,
    /// One mapping, open to addresses that were sent to.
    RestrictedCone,
    /// One mapping, open to addresses and ports that were sent to.
    PortRestrictedCone,
    /// A mapping that changes with the destination.
    Symmetric,
}

impl NatType {
    /// The classic name for a pair of axes. A port-dependent filter has no name of its own in RFC 3489: as it
    /// shuts out other ports of a contacted address, it is filed with the port-restricted cone.
    #[must_use]
    pub fn derive(mapping: Mapping, filtering: Filtering) -> Self {
        match (mapping, filtering) {
            (Mapping::Direct, Filtering::EndpointIndependent) => Self::OpenInternet,
            (Mapping::Direct, _) => Self::SymmetricUdpFirewall,
            (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => Self::FullCone,
            (Mapping::EndpointIndependent, Filtering::AddressDependent) => Self::RestrictedCone,
            (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent | Filtering::PortDependent) => {
                Self::PortRestrictedCone
            }
            (Mapping::AddressDependent | Mapping::AddressAndPortDependent | Mapping::PortDependent, _) => {
                Self::Symmetric
            }
        }
    }
}

/// How external ports are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PortPolicy {
    /// The internal port, where it is free.
    Preserving,
    /// The last one plus a fixed step.
    Sequential,
    /// Anywhere in a wide range.
    Random,
    /// Anywhere in a small block of ports.
    Block,
}

/// What a sample of mappings says about the allocation of ports and external addresses (RFC 4787 sections 4.1, 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct PortAllocation {
    /// The policy that explains the sample.
    pub policy: PortPolicy,
    /// The step from one mapping to the next; only when the policy is sequential.
    pub delta: Option<i32>,
    /// Lowest and highest port that the policy is believed to use.
    pub range: (u16, u16),
    /// Number of external IP addresses seen.
    pub external_ips: u32,
    /// Whether external ports keep the parity of internal ones (RFC 4787 REQ-4); null when it cannot be told.
    #[serde(default)]
    pub parity: Option<bool>,
}

/// A timer, bracketed: the last idle time at which a mapping was alive and the first at which it was gone.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Bracket {
    /// Longest idle time, in seconds, after which a mapping was seen alive.
    pub alive_s: f64,
    /// Shortest idle time, in seconds, after which a mapping was seen gone; null = still alive at the end.
    pub expired_s: Option<f64>,
}

/// Which packets restart the timer (RFC 4787 REQ-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Refresh {
    /// Packets from inside; null = not determined.
    pub outbound: Option<bool>,
    /// Packets from outside; null = not determined.
    pub inbound: Option<bool>,
    /// Traffic of the same socket with another destination: true where the timer belongs to the mapping, false where
    /// every path has its own; null = not determined.
    #[serde(default)]
    pub elsewhere: Option<bool>,
}

/// How exactly mappings are cleared away when their time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Clearing {
    /// At once.
    Exact,
    /// Some sooner, some later.
    Jittered,
    /// All that are due together, at intervals.
    Swept,
}

/// How exactly mappings are cleared away, and how many seconds that leaves open.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Granularity {
    /// The manner.
    pub clearing: Clearing,
    /// The interval of the sweeps; by how much lives differ, where they are jittered; 0 where they are exact.
    pub seconds: f64,
    /// Whether that is beyond doubt, with a chance of error of at most 1 in 10,000; else it is only likely.
    #[serde(default)]
    pub sure: bool,
}

/// How long mappings live (RFC 4787 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Lifetime {
    /// A mapping that never saw an answer.
    pub unreplied: Option<Bracket>,
    /// A mapping with traffic in both directions for longer than 2 seconds.
    pub stream: Option<Bracket>,
    /// What keeps it alive.
    pub refresh: Refresh,
    /// How exactly it ends; null = not determined.
    #[serde(default)]
    pub granularity: Option<Granularity>,
}

macro_rules! kebab_display {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            /// The word that the JSON report uses.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.serialize(f)
            }
        }
    )*};
}
kebab_display!(Mapping, Filtering, NatType, PortPolicy, Clearing);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_name_follows_the_contract_table() {
        use Filtering as F;
        use Mapping as M;
        let name = |m, f| NatType::derive(m, f).to_string();
        assert_eq!(name(M::Direct, F::EndpointIndependent), "open-internet");
        assert_eq!(name(M::Direct, F::AddressDependent), "symmetric-udp-firewall");
        assert_eq!(name(M::EndpointIndependent, F::EndpointIndependent), "full-cone");
        assert_eq!(name(M::EndpointIndependent, F::AddressDependent), "restricted-cone");
        assert_eq!(name(M::EndpointIndependent, F::AddressAndPortDependent), "port-restricted-cone");
        assert_eq!(name(M::AddressDependent, F::EndpointIndependent), "symmetric");
        assert_eq!(name(M::PortDependent, F::EndpointIndependent), "symmetric");
    }
}
