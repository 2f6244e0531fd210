//! The names that behaviours have on the wire. A name that is not known reads as "not known", so that a client may learn
//! to tell more without a new version of the protocol.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::nat::{Filtering, Mapping, PortPolicy};

/// A behaviour with a name for each value.
pub(super) trait WireNames: Copy + PartialEq + 'static {
    const NAMES: &'static [(Self, &'static str)];

    fn name(self) -> Option<&'static str> {
        Self::NAMES.iter().find(|(value, _)| *value == self).map(|(_, name)| *name)
    }

    fn of(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(value, _)| *value)
    }
}

impl WireNames for Mapping {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Direct, "direct"),
        (Self::EndpointIndependent, "endpoint-independent"),
        (Self::AddressDependent, "address-dependent"),
        (Self::AddressAndPortDependent, "address-and-port-dependent"),
        (Self::PortDependent, "port-dependent"),
    ];
}

impl WireNames for Filtering {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::EndpointIndependent, "endpoint-independent"),
        (Self::AddressDependent, "address-dependent"),
        (Self::AddressAndPortDependent, "address-and-port-dependent"),
        (Self::PortDependent, "port-dependent"),
    ];
}

impl WireNames for PortPolicy {
    const NAMES: &'static [(Self, &'static str)] = &[
        (Self::Preserving, "preserving"),
        (Self::Sequential, "sequential"),
        (Self::Random, "random"),
        (Self::Block, "block"),
    ];
}

pub(super) fn serialize<T: WireNames, S: Serializer>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error> {
    value.and_then(WireNames::name).serialize(to)
}

pub(super) fn deserialize<'de, T: WireNames, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
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
        #[serde(default, skip_serializing_if = "Option::is_none")]
        external_ip_by_destination: Option<bool>,
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
            external_ip_by_destination: it.external_ip_by_destination,
        });
        ports.serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PortAllocation>, D::Error> {
        let Some(ports) = Option::<Ports>::deserialize(from)? else { return Ok(None) };
        let Ports { policy, delta, range, external_ips, external_ip_by_destination } = ports;
        Ok(policy.map(|policy| PortAllocation {
            policy,
            delta,
            range,
            external_ips,
            external_ip_by_destination,
            parity: None,
            cross_traffic_per_s: None,
        }))
    }
}
