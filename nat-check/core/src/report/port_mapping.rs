//! Ports opened at the gateway, tested from outside: part of the report.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Finding, Reason, ReasonCode, Row, number};

/// Who opens ports here, and whether what they open can be reached.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PortMapping {
    /// The gateway that was asked; null where it is not known.
    pub gateway: Option<IpAddr>,
    /// Why nothing is known at all: a sentence, which may change.
    pub reason: Option<String>,
    /// The reason as a word that does not change; null exactly when there is no reason.
    pub reason_code: Option<ReasonCode>,
    /// Port Control Protocol, RFC 6887; null where nobody answers.
    pub pcp: Option<MappingProtocol>,
    /// NAT-PMP, RFC 6886; null where nobody answers.
    pub nat_pmp: Option<MappingProtocol>,
    /// UPnP Internet Gateway Device; null where nobody answers.
    pub upnp: Option<MappingProtocol>,
    /// The same over IPv6, where the firewall is opened and nothing is translated; null where IPv6 was not tested.
    pub ipv6: Option<Pinholes>,
    /// Both NATs of one's own double NAT, opened by this host; null where that was not asked for.
    #[serde(default)]
    pub chain: Option<Chain>,
}

/// Two routers in a row, the second one's port leading to the first one's.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Chain {
    /// Why the second router was not asked: a sentence, which may change.
    pub reason: Option<String>,
    /// The reason as a word that does not change; null exactly when there is no reason.
    pub reason_code: Option<ReasonCode>,
    /// The first router; null where it was not asked for this.
    pub inner: Option<ChainLink>,
    /// The second router; null where it was not asked.
    pub outer: Option<ChainLink>,
    /// Whether a datagram from outside that nobody here asked for arrives through both.
    pub reachable_udp: Finding<bool>,
    /// Whether a connection from outside comes about through both.
    pub reachable_tcp: Finding<bool>,
}

/// One of two routers in a row.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ChainLink {
    /// Its address.
    pub gateway: Option<IpAddr>,
    /// The protocol that opened the ports, or the last that was tried: `pcp`, `nat-pmp` or `upnp`.
    pub protocol: String,
    /// What it says that it runs.
    pub software: Option<String>,
    /// The external address that it names.
    pub external_address: Option<IpAddr>,
    /// The mapping for UDP that it granted; of the second router the internal port is the first one's external port.
    pub mapping: Option<GrantedMapping>,
    /// The mapping for TCP that it granted.
    pub mapping_tcp: Option<GrantedMapping>,
    /// Whether the mappings are gone again.
    pub deleted: Finding<bool>,
    /// What it refused with, by the protocol's own name.
    pub error: Option<String>,
}

/// Who opens the firewall for IPv6.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Pinholes {
    /// The gateway that was asked; null where it is not known.
    pub gateway: Option<IpAddr>,
    /// Why nothing is known at all: a sentence, which may change.
    pub reason: Option<String>,
    /// The reason as a word that does not change; null exactly when there is no reason.
    pub reason_code: Option<ReasonCode>,
    /// Port Control Protocol, RFC 6887; null where nobody answers.
    pub pcp: Option<MappingProtocol>,
    /// UPnP WANIPv6FirewallControl; null where nobody answers.
    pub upnp: Option<MappingProtocol>,
}

/// What came of one protocol.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct MappingProtocol {
    /// Who answers.
    pub gateway: Option<IpAddr>,
    /// What it says that it runs.
    pub software: Option<String>,
    /// The external address that it names.
    pub external_address: Option<IpAddr>,
    /// Whether the probe server sees this host at that address.
    pub external_address_agrees: Finding<bool>,
    /// The mapping for UDP that it granted.
    pub mapping: Option<GrantedMapping>,
    /// The mapping for TCP that it granted.
    pub mapping_tcp: Option<GrantedMapping>,
    /// Whether a datagram from outside that nobody here asked for arrives through the mapping.
    pub reachable_udp: Finding<bool>,
    /// Whether a connection from outside comes about through the mapping.
    pub reachable_tcp: Finding<bool>,
    /// Whether what this host sends from the mapped port leaves from the external port of the mapping (RFC 6886 section 3.9).
    pub outbound_uses_mapping: Finding<bool>,
    /// Whether the mappings are gone again.
    pub deleted: Finding<bool>,
    /// Whether the gateway lost its mappings during the run, as it does when it restarts (RFC 6887 section 8.5).
    pub lost_mappings: Finding<bool>,
    /// What the gateway refused with, by the protocol's own name.
    pub error: Option<String>,
}

/// A mapping as the gateway says it has made it. That it works is another matter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct GrantedMapping {
    /// `udp` or `tcp`.
    pub protocol: MappedTransport,
    /// The port of this host.
    pub internal: u16,
    /// The external port.
    pub external: u16,
    /// For how many seconds; 0 = without end.
    pub lifetime_s: u64,
}

/// The transport of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum MappedTransport {
    /// Datagrams.
    Udp,
    /// Streams.
    Tcp,
}

impl GrantedMapping {
    /// A mapping of this transport.
    #[must_use]
    pub fn new(protocol: MappedTransport, internal: u16, external: u16, lifetime_s: u64) -> Self {
        Self { protocol, internal, external, lifetime_s }
    }
}

impl PortMapping {
    /// Nothing is known, for this reason.
    #[must_use]
    pub fn unknown(gateway: Option<IpAddr>, reason: impl Into<Reason>) -> Self {
        let Reason { code, text } = reason.into();
        Self { gateway, reason: Some(text), reason_code: Some(code), ..Self::default() }
    }

    /// What is known over both families; none where nobody asked.
    #[must_use]
    pub(crate) fn of_both(v4: Option<Self>, v6: Option<Self>) -> Option<Self> {
        let ipv6 = v6.map(|Self { gateway, reason, reason_code, pcp, upnp, .. }| Pinholes {
            gateway,
            reason,
            reason_code,
            pcp,
            upnp,
        });
        match (v4, ipv6) {
            (None, None) => None,
            (None, ipv6) => {
                let reason = (ReasonCode::NotAskedFor, "IPv4 was not tested");
                Some(Self { ipv6, ..Self::unknown(None, reason) })
            }
            (Some(v4), ipv6) => Some(Self { ipv6, ..v4 }),
        }
    }

    /// The protocols, with their keys and names, in the order in which they are told.
    #[must_use]
    pub fn protocols(&self) -> [(&'static str, &'static str, Option<&MappingProtocol>); 3] {
        [
            ("pcp", "PCP", self.pcp.as_ref()),
            ("nat_pmp", "NAT-PMP", self.nat_pmp.as_ref()),
            ("upnp", "UPnP", self.upnp.as_ref()),
        ]
    }
}

/// The rows about port mapping: one for each protocol in plain words, then its findings.
#[must_use]
pub fn rows(report: &PortMapping) -> Vec<Row> {
    let mut rows = of_ipv4(report);
    rows.extend(report.chain.iter().flat_map(of_chain));
    rows.extend(report.ipv6.iter().flat_map(of_ipv6));
    rows
}

/// Two routers: one row for each, then whether both together let anybody in.
fn of_chain(chain: &Chain) -> Vec<Row> {
    let key = |part: &str| format!("port_mapping.chain{part}");
    let links = [(".inner", "First router", &chain.inner), (".outer", "Second router", &chain.outer)];
    let mut rows: Vec<Row> = Vec::new();
    for (part, name, link) in links {
        let Some(link) = link else { continue };
        rows.push(Row::plain(&key(part), name, link.text()));
        if link.mapping.is_some() || link.mapping_tcp.is_some() {
            let closed = |gone: &bool| if *gone { "yes" } else { "no" }.to_owned();
            rows.push(Row::of(&key(&format!("{part}.deleted")), "Closed again", &link.deleted, closed));
        }
    }
    if let Some(reason) = &chain.reason {
        rows.push(Row::plain(&key(""), "Through both NATs", format!("not tried: {reason}")));
        return rows;
    }
    let reached = |yes: &bool| if *yes { "reached" } else { "not reached" }.to_owned();
    rows.push(Row::of(&key(".reachable_udp"), "Through both, UDP", &chain.reachable_udp, reached));
    rows.push(Row::of(&key(".reachable_tcp"), "Through both, TCP", &chain.reachable_tcp, reached));
    rows
}

impl ChainLink {
    /// What it opened, in words.
    fn text(&self) -> String {
        let at = self.gateway.map_or_else(String::new, |at| format!("{at} by {}: ", self.protocol));
        let ports = [&self.mapping, &self.mapping_tcp].into_iter().flatten();
        let ports: Vec<String> = ports
            .map(|it| {
                let name = if it.protocol == MappedTransport::Udp { "UDP" } else { "TCP" };
                format!("{name} port {} to {}", it.external, it.internal)
            })
            .collect();
        match ports.is_empty() {
            true => {
                format!("{at}no port was opened: {}", self.error.as_deref().unwrap_or("nothing came of it"))
            }
            false => format!("{at}{}", ports.join(", ")),
        }
    }
}

fn of_ipv6(report: &Pinholes) -> Vec<Row> {
    let protocols =
        [("ipv6.pcp", "PCP, IPv6", report.pcp.as_ref()), ("ipv6.upnp", "UPnP, IPv6", report.upnp.as_ref())];
    let answered = protocols.into_iter().filter_map(|(key, name, it)| Some((key, name, it?)));
    let rows: Vec<Row> = answered.flat_map(|(key, name, it)| of_protocol(key, name, it)).collect();
    let text = match &report.reason {
        Some(reason) => format!("not known: {reason}"),
        None => "none: nobody answers PCP or UPnP over IPv6".to_owned(),
    };
    if rows.is_empty() { vec![Row::plain("port_mapping.ipv6", "Over IPv6", text)] } else { rows }
}

fn of_ipv4(report: &PortMapping) -> Vec<Row> {
    if let Some(reason) = &report.reason {
        return vec![Row::plain("port_mapping", "Port mapping", format!("not known: {reason}"))];
    }
    let answered = report.protocols().into_iter().filter_map(|(key, name, it)| Some((key, name, it?)));
    let rows: Vec<Row> = answered.flat_map(|(key, name, it)| of_protocol(key, name, it)).collect();
    if rows.is_empty() {
        let at = report.gateway.map_or_else(String::new, |gateway| format!(" at {gateway}"));
        let text =
            format!("none: the gateway{at} answers neither PCP nor NAT-PMP, and no device answers UPnP");
        return vec![Row::plain("port_mapping", "Port mapping", text)];
    }
    rows
}

fn of_protocol(key: &str, name: &'static str, it: &MappingProtocol) -> Vec<Row> {
    let key = |part: &str| format!("port_mapping.{key}{part}");
    let yes_no =
        |yes: &'static str, no: &'static str| move |value: &bool| if *value { yes } else { no }.to_owned();
    let summary = Row::plain(&key(""), name, summary(it));
    if it.mapping.is_none() && it.mapping_tcp.is_none() {
        // All else is not known for the same reason.
        return vec![summary];
    }
    let lost = Row::of(
        &key(".lost_mappings"),
        "Lost mappings",
        &it.lost_mappings,
        yes_no("yes, during the run: the gateway has restarted", "no"),
    );
    let mut rows = vec![
        summary,
        Row::of(
            &key(".external_address_agrees"),
            "External address",
            &it.external_address_agrees,
            yes_no("the one that the server sees", "not the one that the server sees"),
        ),
        Row::of(
            &key(".reachable_udp"),
            "From outside, UDP",
            &it.reachable_udp,
            yes_no("reached", "not reached"),
        ),
        Row::of(
            &key(".reachable_tcp"),
            "From outside, TCP",
            &it.reachable_tcp,
            yes_no("reached", "not reached"),
        ),
        Row::of(
            &key(".outbound_uses_mapping"),
            "Outbound",
            &it.outbound_uses_mapping,
            yes_no("leaves from the mapped port", "leaves from another port than the mapped one"),
        ),
        Row::of(&key(".deleted"), "Closed again", &it.deleted, yes_no("yes", "no")),
    ];
    rows.extend(Some(lost).filter(|_| it.lost_mappings.value == Some(true)));
    rows
}

/// What came of it, in a sentence.
fn summary(it: &MappingProtocol) -> String {
    let software = it.software.as_ref().map_or_else(String::new, |software| format!(" ({software})"));
    let at = it.gateway.map_or_else(String::new, |gateway| format!("{gateway}{software}: "));
    if it.mapping.is_none() && it.mapping_tcp.is_none() {
        let why = it.error.as_deref().unwrap_or("nothing came of it");
        return format!("{at}no port was opened: {why}");
    }
    let ports: Vec<String> = [&it.mapping, &it.mapping_tcp]
        .into_iter()
        .flatten()
        .map(|granted| {
            let name = if granted.protocol == MappedTransport::Udp { "UDP" } else { "TCP" };
            let until = match granted.lifetime_s {
                0 => "without end".to_owned(),
                seconds => format!("for {} s", number(seconds as f64)),
            };
            format!("{name} port {} {until}", granted.external)
        })
        .collect();
    let outside = match (it.reachable_udp.sure().copied(), it.reachable_tcp.sure().copied()) {
        (Some(true), Some(true)) => "reached from outside over UDP and TCP",
        (Some(true), Some(false)) => "reached from outside over UDP, not over TCP",
        (Some(false), Some(true)) => "reached from outside over TCP, not over UDP",
        (Some(false), Some(false)) => "granted, but not reached from outside",
        (Some(true), None) => "reached from outside over UDP",
        (None, Some(true)) => "reached from outside over TCP",
        (Some(false), None) | (None, Some(false)) => {
            "granted, but not reached from outside as far as is known"
        }
        (None, None) => "not known whether that is reached from outside",
    };
    let gone = match it.deleted.value {
        Some(true) => ", closed again",
        Some(false) => ", NOT closed again",
        None => "",
    };
    format!("{at}{}; {outside}{gone}", ports.join(", "))
}
