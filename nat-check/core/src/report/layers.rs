//! What stands between this host and the Internet: part of the report.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Finding, Row, number};

/// What stands between this host and the Internet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Layers {
    /// So many boxes translate addresses or filter on the way, at the least; where nothing translates, a firewall of this host
    /// itself counts, too.
    #[serde(default)]
    pub at_least: Finding<u8>,
    /// What kind of way it is.
    pub kind: Finding<LayersKind>,
    /// The router that packets leave the local network by; null where this system does not say.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
    /// The external address that this router names of itself (NAT-PMP, UPnP).
    #[serde(default)]
    pub gateway_external_address: Finding<IpAddr>,
    /// The nearest routers, as far as they tell that packets have died at them.
    #[serde(default)]
    pub hops: Vec<LayersHop>,
}

/// The kind of way to the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LayersKind {
    /// Nothing translates addresses; a firewall may stand there.
    None,
    /// One NAT.
    One,
    /// Two NATs, both in the user's own network.
    OwnDouble,
    /// The carrier translates (RFC 6888), behind a NAT of the user's own or without one.
    CarrierGrade,
    /// A tunnel takes all packets to somebody else, whose NAT it is.
    Vpn,
    /// IPv4 in IPv6 to the carrier's NAT (RFC 6333).
    DsLite,
    /// IPv4 is translated to IPv6 here and back again at the carrier (RFC 6877).
    #[serde(rename = "464xlat")]
    Xlat464,
    /// Several Internet connections: packets leave over several external addresses, by flow or by destination.
    MultiWan,
}

/// A router on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct LayersHop {
    /// How many routers away, from 1.
    pub hop: u8,
    /// The address that it answers with.
    pub address: IpAddr,
    /// Whose it is, as far as its address tells.
    pub kind: HopKind,
    /// How long the answer took, in seconds.
    pub rtt_s: f64,
}

/// Whose a router is, as far as its address tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HopKind {
    /// This host's own gateway.
    Gateway,
    /// It has a private address (RFC 1918).
    Private,
    /// It has an address that is set aside for carriers (RFC 6598, RFC 7335).
    Carrier,
    /// It has a public address.
    Public,
}

impl LayersHop {
    /// One at this distance.
    #[must_use]
    pub fn new(hop: u8, address: IpAddr, kind: HopKind, rtt_s: f64) -> Self {
        Self { hop, address, kind, rtt_s }
    }
}

impl From<Finding<LayersKind>> for Layers {
    fn from(kind: Finding<LayersKind>) -> Self {
        Self { kind, ..Self::default() }
    }
}

impl LayersKind {
    /// In words for a person.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::None => "no NAT: packets keep this host's own address",
            Self::One => "one NAT",
            Self::OwnDouble => "two NATs in your own network, one behind the other",
            Self::CarrierGrade => "a NAT of the carrier (carrier-grade NAT)",
            Self::Vpn => "a VPN takes all packets: what is found is about its NAT, not about this line's",
            Self::DsLite => "IPv4 goes through IPv6 to a NAT of the carrier (DS-Lite)",
            Self::Xlat464 => "IPv4 is translated to IPv6 here and back by the carrier (464XLAT)",
            Self::MultiWan => "several Internet connections, or a pool of external addresses",
        }
    }
}

/// The rows about layers of NAT.
#[must_use]
pub fn rows(layers: &Layers) -> Vec<Row> {
    let mut rows = vec![Row::of("layers.kind", "Kind", &layers.kind, |kind| kind.text().into())];
    // What was not asked for needs no row, and what is not known is said above.
    if layers.at_least.value.is_some() {
        rows.push(Row::of("layers.at_least", "Boxes", &layers.at_least, |count| match count {
            0 => "none was seen that translates or filters".into(),
            count => format!("at least {count} that translate or filter"),
        }));
    }
    if let Some(gateway) = layers.gateway {
        rows.push(Row::plain("layers.gateway", "Gateway", gateway.to_string()));
    }
    if layers.gateway_external_address.value.is_some() {
        rows.push(Row::of(
            "layers.gateway_external_address",
            "It names itself",
            &layers.gateway_external_address,
            ToString::to_string,
        ));
    }
    if !layers.hops.is_empty() {
        let hops: Vec<String> = layers.hops.iter().map(hop_text).collect();
        rows.push(Row::plain("layers.hops", "Nearest routers", hops.join(", ")));
    }
    rows
}

fn hop_text(hop: &LayersHop) -> String {
    let whose = match hop.kind {
        HopKind::Gateway => ", gateway",
        HopKind::Private => ", private",
        HopKind::Carrier => ", carrier's",
        HopKind::Public => "",
    };
    format!("{}: {} ({} ms{whose})", hop.hop, hop.address, number(hop.rtt_s * 1000.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Confidence;

    #[test]
    fn words_of_the_contract() {
        let word = |kind| serde_json::to_value::<LayersKind>(kind).unwrap();
        for (kind, wanted) in [
            (LayersKind::None, "none"),
            (LayersKind::OwnDouble, "own-double"),
            (LayersKind::CarrierGrade, "carrier-grade"),
            (LayersKind::DsLite, "ds-lite"),
            (LayersKind::Xlat464, "464xlat"),
            (LayersKind::MultiWan, "multi-wan"),
        ] {
            assert_eq!(word(kind), wanted);
        }
    }

    #[test]
    fn nothing_seen_is_not_nothing_there() {
        let mut layers = Layers::from(Finding::known(LayersKind::None, Confidence::Strong, ""));
        layers.at_least = Finding::known(0, Confidence::Strong, "");
        let texts: Vec<String> = rows(&layers).into_iter().map(|row| row.text).collect();
        assert_eq!(texts[1], "none was seen that translates or filters");
    }

    #[test]
    fn rows_tell_what_is_known() {
        let mut layers = Layers::from(Finding::known(LayersKind::CarrierGrade, Confidence::Strong, ""));
        assert_eq!(rows(&layers).len(), 1);
        layers.at_least = Finding::known(2, Confidence::Strong, "");
        layers.hops = vec![
            LayersHop::new(1, "192.168.1.1".parse().unwrap(), HopKind::Gateway, 0.0012),
            LayersHop::new(2, "100.64.0.1".parse().unwrap(), HopKind::Carrier, 0.008),
        ];
        let texts: Vec<String> = rows(&layers).into_iter().map(|row| row.text).collect();
        assert_eq!(
            texts,
            [
                "a NAT of the carrier (carrier-grade NAT)",
                "at least 2 that translate or filter",
                "1: 192.168.1.1 (1.2 ms, gateway), 2: 100.64.0.1 (8 ms, carrier's)"
            ]
        );
    }
}
