//! The table of what hole punching is worth behind every kind of NAT, as the engine predicts it. The page of probe-server
//! looks its verdict up there, since a server has no engine.

use nat_check_core::{
    report::{Confidence, FamilyReport, FamilyStatus, Finding, ReasonCode, UdpReport},
    verdict,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shared::nat::{Filtering, Mapping, NatType, PortAllocation, PortPolicy};

/// Distinct verdicts, and which of them holds for each `mapping/filtering/ports`.
pub(crate) fn table() -> Value {
    let (mut rows, mut index) = (Vec::new(), Map::new());
    let mut add = |key: String, udp: UdpReport| {
        let verdict = serde_json::to_value(over(udp)).unwrap_or_default();
        let row = rows.iter().position(|row| *row == verdict).unwrap_or(rows.len());
        if row == rows.len() {
            rows.push(verdict);
        }
        index.insert(key, row.into());
    };
    let mut blocked = UdpReport::default();
    blocked.nat_type = Finding::known(NatType::UdpBlocked, Confidence::Strong, "");
    add("udp-blocked".into(), blocked);
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for policy in POLICIES {
                let mut udp = UdpReport::default();
                udp.mapping = finding(mapping);
                udp.filtering = finding(filtering);
                udp.port_allocation = finding(policy.map(ports));
                if let (Some(mapping), Some(filtering)) = (mapping, filtering) {
                    udp.nat_type = finding(Some(NatType::derive(mapping, filtering)));
                }
                add(format!("{}/{}/{}", word(&mapping), word(&filtering), word(&policy)), udp);
            }
        }
    }
    json!({ "index": index, "rows": rows })
}

fn over(udp: UdpReport) -> impl Serialize {
    let mut family = FamilyReport::default();
    family.status = FamilyStatus::Tested;
    family.udp = Some(udp);
    verdict::over(&family)
}

fn finding<T>(value: Option<T>) -> Finding<T> {
    match value {
        Some(value) => Finding::known(value, Confidence::Certain, ""),
        None => Finding::unknown((ReasonCode::TooMuchLoss, "too many packets were lost"), ""),
    }
}

fn word<T: Serialize>(value: &Option<T>) -> String {
    value.as_ref().map_or("unknown".into(), nat_check_core::report::json_word)
}

/// As a page sees them: other hosts' mappings, and so the odds of the next port, are not measured there.
fn ports(policy: PortPolicy) -> PortAllocation {
    PortAllocation {
        policy,
        delta: (policy == PortPolicy::Sequential).then_some(1),
        range: (1024, 65535),
        external_ips: 1,
        external_ip_by_destination: None,
        parity: None,
        cross_traffic_per_s: None,
    }
}

const MAPPINGS: [Option<Mapping>; 6] = [
    Some(Mapping::Direct),
    Some(Mapping::EndpointIndependent),
    Some(Mapping::AddressDependent),
    Some(Mapping::AddressAndPortDependent),
    Some(Mapping::PortDependent),
    None,
];

const FILTERINGS: [Option<Filtering>; 5] = [
    Some(Filtering::EndpointIndependent),
    Some(Filtering::AddressDependent),
    Some(Filtering::AddressAndPortDependent),
    Some(Filtering::PortDependent),
    None,
];

const POLICIES: [Option<PortPolicy>; 5] = [
    Some(PortPolicy::Preserving),
    Some(PortPolicy::Sequential),
    Some(PortPolicy::Random),
    Some(PortPolicy::Block),
    None,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_table_of_this_engine() {
        let held: Value = serde_json::from_str(probe_server::page::prospects::TABLE).unwrap();
        let advice =
            "cargo run -p nat-check -- --generate prospects > probe-server/src/page/assets/prospects.json";
        assert!(held == table(), "run: {advice}");
    }
}
