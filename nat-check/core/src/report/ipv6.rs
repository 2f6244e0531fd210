//! What is to be told of IPv6 beside the usual: whether addresses are translated, and whether strangers reach this host; and
//! its rows for people.

use serde::{Deserialize, Serialize};

use super::{Finding, Row};

/// How addresses are translated on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Ipv6Translation {
    /// Not at all: the server sees this host's own address.
    None,
    /// Another prefix stands in front of each address, one to one (RFC 6296).
    Nptv6,
    /// Several addresses look like one, or like others of a pool: a NAT as with IPv4.
    Nat66,
}

/// Whether what strangers send reaches ports of this host that have sent nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct Ipv6Inbound {
    /// Datagrams.
    pub udp: Finding<bool>,
    /// Connections.
    pub tcp: Finding<bool>,
}

/// What else was found over IPv6.
#[derive(Clone, Debug, PartialEq)]
pub struct Ipv6Findings {
    /// How addresses are translated.
    pub translation: Finding<Ipv6Translation>,
    /// Who reaches this host.
    pub inbound: Ipv6Inbound,
}

/// Its rows.
#[must_use]
pub fn rows(translation: Option<&Finding<Ipv6Translation>>, inbound: Option<&Ipv6Inbound>) -> Vec<Row> {
    let translation = translation.map(|finding| {
        Row::of("ipv6.translation", "Translation", finding, |value| {
            let text = match value {
                Ipv6Translation::None => "none: the server sees this host's own address",
                Ipv6Translation::Nptv6 => {
                    "prefix translation (NPTv6): each address has one of its own outside, with its ports"
                }
                Ipv6Translation::Nat66 => "NAT66: this host's address is hidden, as with IPv4",
            };
            text.into()
        })
    });
    let inbound = inbound.into_iter().flat_map(|inbound| {
        let row = |key, label, finding, what: &'static str| {
            Row::of(key, label, finding, move |comes_in: &bool| {
                let how = if *comes_in { "reach" } else { "do not reach" };
                format!("strangers' {what} {how} ports that have sent nothing")
            })
        };
        [
            row("ipv6.inbound.udp", "Inbound UDP", &inbound.udp, "datagrams"),
            row("ipv6.inbound.tcp", "Inbound TCP", &inbound.tcp, "connections"),
        ]
    });
    translation.into_iter().chain(inbound).collect()
}
