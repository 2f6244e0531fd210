//! The oracle: holds a report against what must be in it.
//!
//! Wrong is only what the report is sure of and mistaken about. What it cannot tell, or tells with little confidence, is
//! undecided and counted apart: a diagnosis may be modest, but never false.

use nat_check_core::{probe::REGISTRY, report::Report};
use serde_json::{Map, Value, json};
use shared::nat::model::{Behaviour, Stack};

/// Asks for a finding that is not sure of itself, whatever it says.
pub const UNSURE: &str = "unsure";

/// How a report fares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judgement {
    /// Paths that are as they must be.
    pub right: Vec<String>,
    /// Paths about which the report is not sure, each with what it says.
    pub undecided: Vec<String>,
    /// Paths about which it is sure and mistaken, each with what it says.
    pub wrong: Vec<String>,
}

impl Judgement {
    /// Whether everything is as it must be.
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        self.wrong.is_empty() && self.undecided.is_empty()
    }

    /// Whether this path is as it must be.
    #[must_use]
    pub fn decided(&self, path: &str) -> bool {
        self.right.iter().any(|p| p == path)
    }
}

/// Holds a report against the part of it that must be so. `expected` is shaped like the report; a finding is compared by
/// its value, `"unknown"` asks for a finding without one, [`UNSURE`] for one that is neither certain nor strong, a list of
/// words asks that each occur in one of the sentences.
#[must_use]
pub fn judge(expected: &Value, report: &Report) -> Judgement {
    let report = serde_json::to_value(report).unwrap_or_default();
    judge_json(expected, &report)
}

/// The same for a report that came as JSON from the program.
#[must_use]
pub fn judge_json(expected: &Value, report: &Value) -> Judgement {
    let mut judgement = Judgement::default();
    compare("", expected, report, true, &mut judgement);
    broken_promises("", report, &mut judgement.wrong);
    judgement
}

/// What a report on these NATs must say over IPv4, according to the model.
#[must_use]
pub fn expected(stack: &Stack) -> Value {
    let Behaviour { nat_type, udp, tcp } = stack.behaviour();
    let mut findings = Map::new();
    findings.insert("nat_type".into(), json!(nat_type));
    for slot in REGISTRY.iter().flat_map(|probe| probe.udp) {
        let expected = udp.as_ref().and_then(|udp| slot.expected(udp));
        findings.extend(expected.map(|value| (slot.key.to_owned(), value)));
    }
    let over_tcp: Map<String, Value> = REGISTRY
        .iter()
        .flat_map(|probe| probe.tcp)
        .filter_map(|slot| Some((slot.key.to_owned(), slot.expected_tcp(tcp.as_ref()?)?)))
        .collect();
    json!({ "ipv4": { "status": "tested", "udp": findings, "tcp": over_tcp } })
}

/// What the contract promises of every report: a value or a reason why there is none, and a code beside each reason.
fn broken_promises(path: &str, part: &Value, broken: &mut Vec<String>) {
    let is_known = part.get("confidence").is_some_and(|confidence| confidence != "unknown");
    if part.get("confidence").is_some() && part["value"].is_null() == is_known {
        broken.push(format!("{path}: value and confidence contradict each other: {part}"));
    }
    if part.get("confidence").is_some() && !is_known && part["reason"].is_null() {
        broken.push(format!("{path}: neither value nor reason: {part}"));
    }
    if part.get("reason").is_some_and(|reason| reason.is_string() != part["reason_code"].is_string()) {
        broken.push(format!("{path}: a reason without its code, or a code alone: {part}"));
    }
    match part {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, part)| broken_promises(&format!("{path}.{key}"), part, broken));
        }
        Value::Array(items) => items.iter().for_each(|part| broken_promises(path, part, broken)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn compare(path: &str, expected: &Value, found: &Value, sure: bool, judgement: &mut Judgement) {
    if let Some(confidence) = found.get("confidence").and_then(Value::as_str) {
        if expected == "unknown" {
            return note(path, expected, &found["value"], found["value"].is_null(), true, judgement);
        }
        let sure = confidence == "certain" || confidence == "strong";
        if expected == UNSURE {
            return note(path, expected, &json!(confidence), !sure, true, judgement);
        }
        if found["value"].is_null() {
            let why = found["reason"].as_str().unwrap_or("no reason given");
            judgement.undecided.push(format!("{path}: unknown, {why}"));
            return;
        }
        return compare(path, expected, &found["value"], sure, judgement);
    }
    match expected {
        Value::Object(parts) => {
            for (key, part) in parts {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(&path, part, found.get(key).unwrap_or(&Value::Null), sure, judgement);
            }
        }
        Value::Array(words) => {
            let sentences: Vec<&str> =
                found.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            for word in words.iter().filter_map(Value::as_str) {
                let said = sentences.iter().any(|sentence| sentence.contains(word));
                note(path, &json!(word), found, said, sure, judgement);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            note(path, expected, found, expected == found, sure, judgement);
        }
    }
}

fn note(path: &str, expected: &Value, found: &Value, right: bool, sure: bool, judgement: &mut Judgement) {
    let said = || format!("{path}: {found} instead of {expected}");
    // Words that are no findings have "unknown" among them.
    let sure = sure && found != "unknown";
    match (right, sure) {
        (true, _) => judgement.right.push(path.to_owned()),
        (false, true) => judgement.wrong.push(said()),
        (false, false) => judgement.undecided.push(format!("{}, weakly", said())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(value: Value, confidence: &str) -> Value {
        json!({ "value": value, "confidence": confidence, "reason": "because", "reason_code": "no-answer" })
    }

    #[test]
    fn sure_and_mistaken_is_wrong_and_modest_is_undecided() {
        let report = |f: Value| json!({ "ipv4": { "mapping": f } });
        let expected = json!({ "ipv4": { "mapping": "direct" } });
        let judged = |f| judge_json(&expected, &report(f));
        assert!(judged(finding(json!("direct"), "weak")).is_perfect());
        assert_eq!(judged(finding(json!("port-dependent"), "strong")).wrong.len(), 1);
        assert_eq!(judged(finding(json!("port-dependent"), "weak")).undecided.len(), 1);
        assert_eq!(judged(finding(Value::Null, "unknown")).undecided, ["ipv4.mapping: unknown, because"]);
        assert_eq!(judge_json(&expected, &json!({})).wrong.len(), 1);
    }

    #[test]
    fn unknown_can_be_asked_for_and_words_are_looked_up() {
        let expected = json!({ "f": "unknown", "faults": ["same IP"] });
        let good =
            json!({ "f": finding(Value::Null, "unknown"), "faults": ["it has the same IP as before"] });
        let bad = json!({ "f": finding(json!(true), "weak"), "faults": [] });
        assert!(judge_json(&expected, &good).is_perfect());
        assert_eq!(judge_json(&expected, &bad).wrong.len(), 2);
    }

    #[test]
    fn a_broken_promise_is_wrong() {
        let broken = |f: Value| judge_json(&json!({}), &json!({ "ipv4": { "mapping": f } })).wrong.len();
        let mut f = finding(Value::Null, "unknown");
        assert_eq!(broken(f.clone()), 0);
        f["reason_code"] = Value::Null;
        assert_eq!(broken(f.clone()), 1);
        f["reason"] = Value::Null;
        assert_eq!(broken(f.clone()), 1);
        f["confidence"] = json!("certain");
        assert_eq!(broken(f), 1);
    }

    #[test]
    fn parts_of_a_value_can_be_asked_for() {
        let expected = json!({ "ports": { "policy": "sequential" } });
        let found = json!({ "ports": finding(json!({ "policy": "sequential", "delta": 1 }), "strong") });
        assert!(judge_json(&expected, &found).is_perfect());
    }
}
