//! The report about TCP (RFC 5382), and its rows for people.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use shared::nat::{Filtering, Mapping};

use super::{Finding, Row, number};
use crate::probe::{Found, REGISTRY};

/// TCP behaviour, finding by finding.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default)]
#[non_exhaustive]
pub struct TcpReport {
    /// Whether the server answered over TCP.
    pub reachable: bool,
    /// The shortest handshake with the server, in seconds.
    pub rtt_s: Option<f64>,
    /// The local endpoint of the mapping test.
    pub local: Option<SocketAddr>,
    /// Every external endpoint that a server endpoint saw for that port, without repeats.
    pub external: Vec<SocketAddr>,
    /// RFC 5382 REQ-1.
    pub mapping: Finding<Mapping>,
    /// RFC 5382 REQ-3.
    pub filtering: Finding<Filtering>,
    /// What an inbound SYN gets that nothing asked for (RFC 5382 REQ-4).
    pub unsolicited_syn: Finding<UnsolicitedSyn>,
    /// Whether two SYNs that cross make a connection (RFC 5382 REQ-2).
    pub simultaneous_open: Finding<bool>,
    /// Whether TCP leaves from the same external IP address as UDP.
    pub same_address_as_udp: Finding<bool>,
    /// How long an idle connection lives (RFC 5382 REQ-5).
    pub idle: Finding<TcpIdle>,
    /// Whether something on the way answers in the server's place: a transparent proxy.
    pub intercepted: Finding<bool>,
}

/// What an unsolicited SYN gets.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct UnsolicitedSyn {
    /// In which form.
    pub answer: SynAnswer,
    /// After how many seconds; for `drop`, how long nothing came.
    pub after_s: f64,
}

impl UnsolicitedSyn {
    /// An answer, after so many seconds.
    #[must_use]
    pub fn new(answer: SynAnswer, after_s: f64) -> Self {
        Self { answer, after_s }
    }
}

/// The forms of answer to an unsolicited SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum SynAnswer {
    /// None.
    Drop,
    /// A TCP reset.
    Reset,
    /// ICMP destination unreachable.
    Icmp,
}

/// How long an idle connection lives.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct TcpIdle {
    /// The longest idle time after which the server still reached the client, in seconds.
    pub alive_s: f64,
    /// The shortest after which it did not; null = the connection was alive at the end.
    pub expired_s: Option<f64>,
    /// Whether the client's next packet brings an expired connection back; null where none expired.
    pub revived_by_inside: Option<bool>,
}

impl TcpIdle {
    /// A bracket, and whether traffic from inside brings an expired connection back.
    #[must_use]
    pub fn new(alive_s: f64, expired_s: Option<f64>, revived_by_inside: Option<bool>) -> Self {
        Self { alive_s, expired_s, revived_by_inside }
    }
}

/// The rows about TCP; `prefix` is its path in the report, such as `ipv4.tcp`. The first one says it all in a line.
#[must_use]
pub fn rows(prefix: &str, tcp: &TcpReport) -> Vec<Row> {
    let found = Found { tcp: tcp.clone(), ..Found::default() };
    let mut rows = vec![Row::plain("reachable", "TCP", summary(tcp))];
    if !tcp.external.is_empty() {
        let seen: Vec<String> = tcp.external.iter().map(ToString::to_string).collect();
        rows.push(Row::plain("external", "TCP address", seen.join(", ")));
    }
    rows.extend(REGISTRY.iter().flat_map(|probe| probe.tcp).flat_map(|slot| slot.rows(&found)));
    for row in &mut rows {
        row.key = format!("{prefix}.{}", row.key);
    }
    rows
}

/// What is known, in a line.
fn summary(tcp: &TcpReport) -> String {
    if !tcp.reachable {
        return "does not reach the server".into();
    }
    let mapping = tcp.mapping.value.map(|mapping| match mapping {
        Mapping::Direct => "not translated",
        Mapping::EndpointIndependent => "endpoint-independent mapping",
        Mapping::AddressDependent => "address-dependent mapping",
        Mapping::AddressAndPortDependent => "address-and-port-dependent mapping",
        Mapping::PortDependent => "port-dependent mapping",
    });
    let address = tcp.same_address_as_udp.value.map(|same| match same {
        true => "same address as UDP",
        false => "another address than UDP",
    });
    let strangers = tcp.filtering.value.map(|filtering| match filtering {
        Filtering::EndpointIndependent => "strangers are let in",
        Filtering::AddressDependent => "strangers at contacted addresses are let in",
        Filtering::PortDependent => "strangers at contacted ports are let in",
        Filtering::AddressAndPortDependent => match tcp.unsolicited_syn.value.map(|syn| syn.answer) {
            Some(SynAnswer::Drop) => "strangers are dropped",
            Some(SynAnswer::Reset) => "strangers are reset",
            Some(SynAnswer::Icmp) => "strangers are told that the port is unreachable",
            None => "strangers are kept out",
        },
    });
    let simultaneous = tcp.simultaneous_open.value.map(|works| match works {
        true => "simultaneous open works",
        false => "simultaneous open does not work",
    });
    let intercepted = tcp
        .intercepted
        .value
        .filter(|intercepted| *intercepted)
        .map(|_| "something answers in the server's place");
    let idle = tcp.idle.value.map(|idle| match idle.expired_s {
        Some(expired) => {
            format!("idle connections expire after {} to {} s", number(idle.alive_s), number(expired))
        }
        None => format!("idle connections are alive after {} s", number(idle.alive_s)),
    });
    let parts: Vec<&str> = [mapping, address, strangers, simultaneous, idle.as_deref(), intercepted]
        .into_iter()
        .flatten()
        .collect();
    if parts.is_empty() { "reaches the server".into() } else { parts.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Confidence;

    #[test]
    fn every_finding_has_a_row_under_its_key() {
        let json = serde_json::to_value(TcpReport::default()).unwrap();
        let findings = json.as_object().unwrap().iter().filter(|(_, part)| part.get("confidence").is_some());
        let slots: Vec<&str> = REGISTRY.iter().flat_map(|probe| probe.tcp).map(|slot| slot.key).collect();
        let rows = rows("ipv4.tcp", &TcpReport::default());
        for (key, _) in findings.filter(|(key, _)| slots.contains(&key.as_str())) {
            assert!(rows.iter().any(|row| row.key == format!("ipv4.tcp.{key}")), "{key}");
        }
    }

    #[test]
    fn the_first_row_says_it_all() {
        let mut tcp = TcpReport { reachable: true, ..TcpReport::default() };
        assert_eq!(summary(&tcp), "reaches the server");
        tcp.mapping = Finding::known(Mapping::EndpointIndependent, Confidence::Certain, "");
        tcp.filtering = Finding::known(Filtering::AddressAndPortDependent, Confidence::Strong, "");
        let drop = UnsolicitedSyn::new(SynAnswer::Drop, 1.0);
        tcp.unsolicited_syn = Finding::known(drop, Confidence::Strong, "");
        tcp.intercepted = Finding::known(false, Confidence::Strong, "");
        assert_eq!(summary(&tcp), "endpoint-independent mapping; strangers are dropped");
        tcp.idle = Finding::known(TcpIdle::new(120.0, Some(139.5), None), Confidence::Strong, "");
        assert!(
            summary(&tcp).ends_with("; idle connections expire after 120 to 139.5 s"),
            "{}",
            summary(&tcp)
        );
    }
}
