//! The words that behaviours have on the wire. A word that is not known reads as "not known", so that a client may learn
//! to tell more without a new version of the protocol.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::nat::{Filtering, Mapping, PortPolicy};

/// A behaviour with words for its values.
pub(super) trait Words: Copy + PartialEq + 'static {
    const WORDS: &'static [(Self, &'static str)];

    fn word(self) -> Option<&'static str> {
        Self::WORDS.iter().find(|(value, _)| *value == self).map(|(_, word)| *word)
    }

    fn of(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(value, _)| *value)
    }
}

impl Words for Mapping {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Direct, "direct"),
        (Self::EndpointIndependent, "endpoint-independent"),
        (Self::AddressDependent, "address-dependent"),
        (Self::AddressAndPortDependent, "address-and-port-dependent"),
        (Self::PortDependent, "port-dependent"),
    ];
}

impl Words for Filtering {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::EndpointIndependent, "endpoint-independent"),
        (Self::AddressDependent, "address-dependent"),
        (Self::AddressAndPortDependent, "address-and-port-dependent"),
        (Self::PortDependent, "port-dependent"),
    ];
}

impl Words for PortPolicy {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::Preserving, "preserving"),
        (Self::Sequential, "sequential"),
        (Self::Random, "random"),
        (Self::Block, "block"),
    ];
}

pub(super) fn serialize<T: Words, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    value.and_then(Words::word).serialize(to)
}

pub(super) fn deserialize<'de, T: Words, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    let value = serde_json::Value::deserialize(from)?;
    Ok(value.as_str().and_then(T::of))
}

/// How ports are chosen, in wire form.
pub(super) mod ports {
    use super::*;
    use crate::nat::PortAllocation;

    #[derive(Serialize, Deserialize)]
    struct Ports {
        #[serde(default, with = "super")]
        policy: Option<PortPolicy>,
        #[serde(default)]
        delta: Option<i32>,
        range: (u16, u16),
        #[serde(default)]
        external_ips: u32,
    }

    pub(in super::super) fn serialize<S: Serializer>(
        value: &Option<PortAllocation>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let ports = value.as_ref().map(|it| Ports {
            policy: Some(it.policy),
            delta: it.delta,
            range: it.range,
            external_ips: it.external_ips,
        });
        ports.serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PortAllocation>, D::Error> {
        let Some(ports) = Option::<Ports>::deserialize(from)? else { return Ok(None) };
        let Ports { policy, delta, range, external_ips } = ports;
        Ok(policy.map(|policy| PortAllocation { policy, delta, range, external_ips, parity: None }))
    }
}
