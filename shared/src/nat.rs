//! The vocabulary of NAT behaviour: mapping, filtering, port allocation, lifetime (RFC 4787), and the classic type
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

/// Which packets from outside an existing mapping accepts (RFC 4787 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Packets from any endpoint.
    EndpointIndependent,
    /// Packets from any port of an address that the internal endpoint has sent to.
    AddressDependent,
    /// Packets from an address and port that the internal endpoint has sent to.
    AddressAndPortDependent,
    /// Packets from a port number that the internal endpoint has sent to, at any address.
    PortDependent,
}

/// What a filter entry belongs to. The RFCs leave it open, and for several pairs of NATs hole punching depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keying {
    /// The mapping that the packet was sent through.
    Mapping,
    /// The internal address and port, whatever mapping the packet was sent through.
    Endpoint,
    /// The internal address: one list for the whole host.
    Host,
}

/// The classic name (RFC 3489 section 5): derived from mapping and filtering, never measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum NatType {
    /// No UDP passes, though another transport does.
    UdpBlocked,
    /// Neither translation nor filtering.
    OpenInternet,
    /// No translation, but a stateful firewall.
    SymmetricUdpFirewall,
    /// Endpoint-independent mapping and filtering.
    FullCone,
    /// Endpoint-independent mapping, address-dependent filtering.
    RestrictedCone,
    /// Endpoint-independent mapping, address-and-port-dependent filtering.
    PortRestrictedCone,
    /// A mapping that depends on the destination.
    Symmetric,
}

impl NatType {
    /// The classic name for a mapping and a filtering behaviour. RFC 3489 has no name for port-dependent filtering: as it
    /// rejects other ports of a contacted address, it counts as a port-restricted cone.
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
    /// The previous port plus a fixed step.
    Sequential,
    /// A random port of a wide range.
    Random,
    /// A random port of a small block.
    Block,
}

/// What a sample of mappings shows about the allocation of ports and external addresses (RFC 4787 sections 4.1, 4.2).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct PortAllocation {
    /// The policy that explains the sample.
    pub policy: PortPolicy,
    /// The step from one mapping to the next; only when the policy is sequential.
    pub delta: Option<i32>,
    /// Lowest and highest port that the policy is estimated to use.
    pub range: (u16, u16),
    /// Number of external IP addresses seen.
    pub external_ips: u32,
    /// Of several external addresses, whether each destination address sees one only; absent with one, or not determined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_ip_by_destination: Option<bool>,
    /// Whether external ports keep the parity of internal ones (RFC 4787 REQ-4); null = not determined.
    #[serde(default)]
    pub parity: Option<bool>,
    /// Mappings a second that other hosts behind the NAT open; only when the policy is sequential, absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cross_traffic_per_s: Option<u32>,
}

impl Lifetime {
    /// Idle time in seconds that every mapping survives, by the shorter of the timers, as far as it is known. One that was
    /// seen to survive may have been lucky: where expired mappings are removed at intervals, or lifetimes differ, the next
    /// one may be gone earlier by as much.
    #[must_use]
    pub fn survived_s(&self) -> Option<f64> {
        let luck = self.granularity.map_or(0.0, |granularity| granularity.seconds);
        let survived = [self.unreplied, self.stream].into_iter().flatten().map(|bracket| bracket.alive_s);
        survived.reduce(f64::min).map(|shortest| (shortest - luck).max(0.0))
    }
}

/// The bounds of a timer: the longest idle time that a mapping survived and the shortest after which one had expired.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Bracket {
    /// Longest idle time, in seconds, after which a mapping still existed.
    pub alive_s: f64,
    /// Shortest idle time, in seconds, after which a mapping had expired; null = none expired before the end.
    pub expired_s: Option<f64>,
}

/// Which packets refresh a mapping, that is, restart its timer (RFC 4787 REQ-6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Refresh {
    /// Packets from inside; null = not determined.
    pub outbound: Option<bool>,
    /// Packets from outside; null = not determined.
    pub inbound: Option<bool>,
    /// Traffic of the same socket with another destination: true where the mapping has one timer, false where each
    /// destination has its own; null = not determined.
    #[serde(default)]
    pub elsewhere: Option<bool>,
}

/// How mappings expire once their timer has run out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ExpiryStyle {
    /// Each at once.
    Exact,
    /// Each after a random further time.
    Jittered,
    /// All expired mappings together, at fixed intervals.
    Swept,
}

/// How mappings expire, and by how many seconds that lengthens a lifetime at most.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Granularity {
    /// Exact, jittered or swept.
    #[serde(rename = "clearing")]
    pub style: ExpiryStyle,
    /// The interval of the sweeps; the range of the jitter; 0 for an exact timer.
    pub seconds: f64,
    /// Whether the chance of error is at most 1 in 10,000; otherwise it is only likely.
    #[serde(default)]
    pub sure: bool,
}

/// How long an idle mapping exists (RFC 4787 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct Lifetime {
    /// A mapping through which no response ever came.
    pub unreplied: Option<Bracket>,
    /// A mapping with traffic in both directions for longer than 2 seconds.
    pub stream: Option<Bracket>,
    /// What refreshes it.
    pub refresh: Refresh,
    /// How mappings expire; null = not determined.
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
kebab_display!(Mapping, Filtering, NatType, PortPolicy, ExpiryStyle);

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
