//! The table of what hole punching is worth behind every kind of NAT, as the engine predicts it. The page of probe-server
//! looks its verdict up there, since a server has no engine.

use nat_check_core::{
    report::{Confidence, FamilyReport, FamilyStatus, Finding, ReasonCode, UdpReport},
    verdict::{
        self,
        predict::{Behaviour, Budget, Obstacle, Ports, Side, Strategy, predict},
    },
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use shared::nat::{Filtering, Keying, Mapping, NatType, PortAllocation, PortPolicy};

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

/// What comes of two browsers: the distinct outcomes, the class of each `mapping/filtering/ports`, and which outcome any two
/// classes have.
pub(crate) fn browser_pairs() -> Value {
    let mut sides: Vec<(String, Option<Side>)> = vec![("udp-blocked".into(), Some(Side::UdpBlocked))];
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for policy in POLICIES {
                let side = mapping.zip(filtering).map(|(mapping, filtering)| {
                    let ports = policy.map_or(Ports::ANYWHERE, |policy| Ports::of(&ports(policy), None));
                    Side::Udp(Behaviour { mapping, filtering, keying: Keying::Mapping, ports })
                });
                sides.push((format!("{}/{}/{}", word(&mapping), word(&filtering), word(&policy)), side));
            }
        }
    }
    let mut outcomes = Vec::new();
    let rows: Vec<Vec<usize>> = sides
        .iter()
        .map(|(_, a)| sides.iter().map(|(_, b)| place(&mut outcomes, of_browsers(*a, *b))).collect())
        .collect();
    let mut classes: Vec<usize> = Vec::new();
    let mut index = Map::new();
    for (number, (key, _)) in sides.iter().enumerate() {
        let same = classes.iter().position(|class| rows[*class] == rows[number]);
        let class = same.unwrap_or_else(|| {
            classes.push(number);
            classes.len() - 1
        });
        index.insert(key.clone(), class.into());
    }
    let pairs: Vec<Vec<usize>> =
        classes.iter().map(|a| classes.iter().map(|b| rows[*a][*b]).collect()).collect();
    json!({ "index": index, "pairs": pairs, "outcomes": outcomes })
}

/// One attempt in which both check what they are told, and guesses of few ports.
fn of_browsers(a: Option<Side>, b: Option<Side>) -> Value {
    let outcome = |outcome, technique, probability: Option<f64>, why| {
        let probability = probability.map(|p| (p * 1000.0).floor() / 1000.0);
        json!({ "outcome": outcome, "technique": technique, "probability": probability, "why": why })
    };
    let failed = |why| outcome("failed", None, Some(0.0), why);
    let Some((a, b)) = a.zip(b) else { return outcome("unknown", None, None, "unknown") };
    let predicted = predict(&a, &b, &Budget { rounds: 1, ..Budget::DEFAULT });
    match predicted.strategy {
        Strategy::OneSends(_) => outcome("direct", Some("simultaneous"), predicted.probability, "one-sends"),
        Strategy::BothSend => outcome("direct", Some("simultaneous"), predicted.probability, "both-send"),
        Strategy::PredictOne { ports, .. } if ports <= BROWSER_PORTS => {
            outcome("direct", Some("prediction"), predicted.probability, "predict")
        }
        Strategy::PredictOne { .. }
        | Strategy::PredictBoth(_)
        | Strategy::Birthday { .. }
        | Strategy::GuessBoth { .. }
        | Strategy::Relay(Obstacle::Ports) => failed("ports"),
        Strategy::Tcp(_) | Strategy::Relay(Obstacle::NoUdp) => failed("no-udp"),
    }
}

/// Candidates that a browser is given to guess.
const BROWSER_PORTS: u32 = 16;

fn place(list: &mut Vec<Value>, value: Value) -> usize {
    list.iter().position(|known| *known == value).unwrap_or_else(|| {
        list.push(value);
        list.len() - 1
    })
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
        let held: Value = serde_json::from_str(probe_server::page::PAIRS).unwrap();
        let advice =
            "cargo run -p nat-check -- --generate browser-pairs > probe-server/src/page/assets/pairs.json";
        assert!(held == browser_pairs(), "run: {advice}");
    }

    #[test]
    fn browsers_meet_where_no_port_has_to_be_guessed_and_where_one_can_be() {
        let table = browser_pairs();
        let of = |a: &str, b: &str| {
            let class = |key: &str| table["index"][key].as_u64().unwrap() as usize;
            let outcome = table["pairs"][class(a)][class(b)].as_u64().unwrap() as usize;
            table["outcomes"][outcome].clone()
        };
        let cone = "endpoint-independent/address-and-port-dependent/preserving";
        let open = "endpoint-independent/address-dependent/random";
        let symmetric = "address-and-port-dependent/address-and-port-dependent/random";
        let sequential = "address-and-port-dependent/address-and-port-dependent/sequential";
        for (a, b, outcome, why) in [
            (cone, cone, "direct", "both-send"),
            (open, symmetric, "direct", "both-send"),
            (cone, symmetric, "failed", "ports"),
            (cone, sequential, "direct", "predict"),
            (sequential, sequential, "failed", "ports"),
            ("udp-blocked", cone, "failed", "no-udp"),
            ("unknown/unknown/random", cone, "unknown", "unknown"),
        ] {
            let found = of(a, b);
            assert_eq!(found, of(b, a), "{a} with {b}");
            assert_eq!(
                (found["outcome"].as_str(), found["why"].as_str()),
                (Some(outcome), Some(why)),
                "{a} {b}"
            );
        }
    }
}
