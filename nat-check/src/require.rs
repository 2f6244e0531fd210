//! `--require KEY=VALUE`: what a script wants the report to say. Keys are checked against the report's schema
//! before anything is measured, so that a misspelt one never passes for an answer.

use std::{fmt, sync::LazyLock};

use serde_json::Value;

use nat_check_core::{report::Level, schema};

/// One requirement.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    given: String,
    wanted: Wanted,
}

/// A requirement that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The key.
    pub key: String,
    /// The value that was wanted.
    pub wanted: String,
    /// What the report says.
    pub got: String,
}

/// A requirement that no report could answer.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No `=`, or nothing on one side of it.
    #[error("not KEY=VALUE")]
    NotKeyValue,
    /// A level that does not exist.
    #[error("no such level; there are: any-peer, most-peers, some-peers, none")]
    Level,
    /// A path that leads nowhere.
    #[error("the report has no `{step}` there; there is: {known}")]
    Path {
        /// The step that leads nowhere.
        step: String,
        /// The steps that exist.
        known: String,
    },
    /// A path that stops too early.
    #[error("that is {what}; go on with one of: {known}")]
    Compound {
        /// An object, a list.
        what: &'static str,
        /// The steps that exist.
        known: String,
    },
    /// A value that the report never has there.
    #[error("never has that value; it can be: {known}")]
    Value {
        /// The values that it can have.
        known: String,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Level(Level),
    At { path: Vec<String>, value: String },
}

impl Requirement {
    /// Reads `KEY=VALUE`.
    ///
    /// # Errors
    /// Where the key is no path in a report, or the value can never be there.
    pub fn parse(given: &str) -> Result<Self, Malformed> {
        let (key, value) = given.split_once('=').ok_or(Malformed::NotKeyValue)?;
        let (key, value) = (key.trim(), value.trim());
        if key.is_empty() || value.is_empty() {
            return Err(Malformed::NotKeyValue);
        }
        let wanted = if key == "hole-punching" {
            let (_, level) = LEVELS.iter().find(|(name, _)| *name == value).ok_or(Malformed::Level)?;
            Wanted::Level(*level)
        } else {
            Wanted::At { path: checked_path(key, value)?, value: value.to_owned() }
        };
        Ok(Self { given: given.to_owned(), wanted })
    }

    /// Whether the report (as JSON) says so.
    ///
    /// # Errors
    /// What was wanted and what the report says instead.
    pub fn check(&self, report: &Value) -> Result<(), Unmet> {
        let got = match &self.wanted {
            Wanted::Level(wanted) => {
                let level = report["hole_punching"]["level"].as_str().unwrap_or_default();
                match LEVELS.iter().find(|(name, _)| *name == level) {
                    Some((_, got)) if got >= wanted => return Ok(()),
                    Some(_) | None => level.to_owned(),
                }
            }
            Wanted::At { path, value } => {
                let found = look_up(report, path);
                if found.scalar().as_deref() == Some(value) || same_number(found.value, value) {
                    return Ok(());
                }
                found.to_string()
            }
        };
        let (key, wanted) = self.given.split_once('=').unwrap_or((&self.given, ""));
        Err(Unmet { key: key.trim().to_owned(), wanted: wanted.trim().to_owned(), got })
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "required {}={}, got {}", self.key, self.wanted, self.got)
    }
}

const LEVELS: &[(&str, Level)] = &[
    ("any-peer", Level::AnyPeer),
    ("most-peers", Level::MostPeers),
    ("some-peers", Level::SomePeers),
    ("none", Level::None),
];

/// What stands at the end of a path, and the nearest reason on the way to it.
struct Found<'a> {
    value: &'a Value,
    reason: Option<&'a str>,
}

impl Found<'_> {
    fn scalar(&self) -> Option<String> {
        match self.value {
            Value::String(text) => Some(text.clone()),
            Value::Null | Value::Bool(_) | Value::Number(_) => Some(self.value.to_string()),
            Value::Array(_) | Value::Object(_) => None,
        }
    }
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.scalar().unwrap_or_else(|| self.value.to_string()))?;
        match self.reason {
            Some(reason) if self.value.is_null() => write!(f, " ({reason})"),
            Some(_) | None => Ok(()),
        }
    }
}

fn look_up<'a>(report: &'a Value, path: &[String]) -> Found<'a> {
    let reason_in = |value: &'a Value| value.get("reason").and_then(Value::as_str);
    let mut found = Found { value: report, reason: None };
    for step in path {
        found.reason = reason_in(found.value).or(found.reason);
        // What is no part of a finding itself is part of its value.
        if found.value.get("confidence").is_some() && found.value.get(step).is_none() {
            found.value = &found.value["value"];
        }
        found.value = match found.value {
            Value::Array(items) => {
                step.parse().ok().and_then(|i: usize| items.get(i)).unwrap_or(&Value::Null)
            }
            other => other.get(step).unwrap_or(&Value::Null),
        };
    }
    if found.value.get("confidence").is_some() {
        found.reason = reason_in(found.value).or(found.reason);
        found.value = &found.value["value"];
    }
    found
}

fn same_number(found: &Value, wanted: &str) -> bool {
    match (found.as_f64(), wanted.parse::<f64>()) {
        (Some(found), Ok(wanted)) => (found - wanted).abs() <= f64::EPSILON * found.abs(),
        _ => false,
    }
}

static SCHEMA: LazyLock<Value> = LazyLock::new(schema::report);

/// Follows the path through the schema of the report.
fn checked_path(key: &str, value: &str) -> Result<Vec<String>, Malformed> {
    let inside_finding = |places: &[&'static Value]| {
        let finding = places.iter().find(|place| place["properties"].get("confidence").is_some());
        finding.map(|finding| enter(&SCHEMA, finding, "value"))
    };
    let path: Vec<String> = key.split('.').map(str::to_owned).collect();
    let mut places = alternatives(&SCHEMA, &SCHEMA);
    for step in &path {
        let lead = |places: &[&'static Value]| -> Vec<&'static Value> {
            places.iter().flat_map(|place| enter(&SCHEMA, place, step)).collect()
        };
        let mut next = lead(&places);
        if next.is_empty()
            && let Some(values) = inside_finding(&places)
        {
            next = lead(&values);
        }
        if next.is_empty() {
            return Err(Malformed::Path { step: step.clone(), known: steps(&places) });
        }
        places = next;
    }
    if let Some(values) = inside_finding(&places) {
        places = values;
    }
    checked_value(&places, value)?;
    Ok(path)
}

fn checked_value(places: &[&Value], value: &str) -> Result<(), Malformed> {
    let compound = places.iter().find_map(|place| {
        let what = if place.get("properties").is_some() {
            "an object"
        } else if place.get("items").is_some() {
            "a list"
        } else {
            return None;
        };
        Some(what)
    });
    if let Some(what) = compound
        && value != "null"
    {
        return Err(Malformed::Compound { what, known: steps(places) });
    }
    let mut known: Vec<String> = Vec::new();
    for place in places {
        match (place.get("const"), place["enum"].as_array(), types(place)) {
            (Some(Value::String(word)), _, _) => known.push(word.clone()),
            (_, Some(words), _) => known.extend(words.iter().filter_map(Value::as_str).map(str::to_owned)),
            (None, None, kinds) => match kinds.as_slice() {
                ["null"] => known.push("null".into()),
                ["boolean"] => known.extend(["true".into(), "false".into()]),
                // Strings and numbers without a list can be anything.
                _ if kinds.contains(&"boolean") => {
                    known.extend(["true".into(), "false".into(), "null".into()])
                }
                _ => return Ok(()),
            },
            (Some(_), _, _) => return Ok(()),
        }
    }
    if known.iter().any(|word| word == value) {
        Ok(())
    } else {
        Err(Malformed::Value { known: known.join(", ") })
    }
}

/// The concrete schemas that a node stands for: references followed, `anyOf` and `oneOf` spread out.
fn alternatives<'a>(root: &'a Value, node: &'a Value) -> Vec<&'a Value> {
    if let Some(target) = node["$ref"].as_str() {
        return root.pointer(target.trim_start_matches('#')).map_or(Vec::new(), |n| alternatives(root, n));
    }
    match node["anyOf"].as_array().or_else(|| node["oneOf"].as_array()) {
        Some(choices) => choices.iter().flat_map(|choice| alternatives(root, choice)).collect(),
        None => vec![node],
    }
}

/// What one step leads to.
fn enter<'a>(root: &'a Value, place: &'a Value, step: &str) -> Vec<&'a Value> {
    let inside = if step.parse::<usize>().is_ok()
        && (place.get("items").is_some() || place.get("prefixItems").is_some())
    {
        place
            .get("items")
            .filter(|items| items.is_object())
            .or_else(|| place["prefixItems"].get(step.parse::<usize>().unwrap_or(0)))
    } else {
        place["properties"].get(step).or_else(|| place.get("additionalProperties").filter(|_| is_open(place)))
    };
    match inside {
        // `true` stands for anything at all: evidence is free.
        Some(node) if node.is_object() => alternatives(root, node),
        Some(node) => vec![node],
        None => Vec::new(),
    }
}

fn is_open(place: &Value) -> bool {
    place.get("properties").is_none() && place["additionalProperties"].as_bool() != Some(false)
}

fn types(place: &Value) -> Vec<&str> {
    match &place["type"] {
        Value::String(one) => vec![one],
        Value::Array(many) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn steps(places: &[&Value]) -> String {
    let mut known: Vec<&str> = Vec::new();
    for place in places {
        match place["properties"].as_object() {
            Some(properties) => known.extend(properties.keys().map(String::as_str)),
            None if place.get("items").is_some() => known.push("0, 1, ..."),
            None => {}
        }
    }
    if known.is_empty() { "nothing below".into() } else { known.join(", ") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(requirement: &str, report: &Value) -> Result<(), String> {
        Requirement::parse(requirement).unwrap().check(report).map_err(|unmet| unmet.to_string())
    }

    fn refused(requirement: &str) -> String {
        Requirement::parse(requirement).unwrap_err().to_string()
    }

    fn finding(value: Value, reason: Value) -> Value {
        json!({ "value": value, "confidence": "certain", "reason": reason, "method": "", "evidence": {} })
    }

    #[test]
    fn a_finding_is_compared_by_its_value() {
        let report = json!({ "ipv4": { "udp": { "mapping": finding(json!("direct"), json!(null)) } } });
        assert_eq!(holds("ipv4.udp.mapping=direct", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.mapping.value=direct", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.mapping.confidence=certain", &report), Ok(()));
        assert_eq!(
            holds("ipv4.udp.mapping=address-dependent", &report),
            Err("required ipv4.udp.mapping=address-dependent, got direct".into())
        );
    }

    #[test]
    fn what_is_not_known_is_told_with_its_reason() {
        let report = json!({
            "ipv4": { "udp": { "hairpinning": finding(json!(null), json!("too much loss")) } },
            "ipv6": { "status": "unavailable", "reason": "no global IPv6 address", "udp": null }
        });
        assert_eq!(
            holds("ipv4.udp.hairpinning=true", &report),
            Err("required ipv4.udp.hairpinning=true, got null (too much loss)".into())
        );
        assert_eq!(holds("ipv6.udp=null", &report), Ok(()));
        assert_eq!(
            holds("ipv6.udp.mapping=direct", &report),
            Err("required ipv6.udp.mapping=direct, got null (no global IPv6 address)".into())
        );
    }

    #[test]
    fn a_level_holds_at_a_better_one() {
        let at = |level: &str| json!({ "hole_punching": { "level": level } });
        assert_eq!(holds("hole-punching=most-peers", &at("any-peer")), Ok(()));
        assert_eq!(holds("hole-punching=most-peers", &at("most-peers")), Ok(()));
        assert_eq!(
            holds("hole-punching=most-peers", &at("some-peers")),
            Err("required hole-punching=most-peers, got some-peers".into())
        );
        assert!(holds("hole-punching=none", &at("unknown")).is_err());
    }

    #[test]
    fn numbers_and_list_elements_can_be_named() {
        let report = json!({ "ipv4": { "udp": {
            "external": ["203.0.113.1:5"],
            "port_allocation": finding(json!({ "policy": "sequential", "delta": 2 }), json!(null))
        } } });
        assert_eq!(holds("ipv4.udp.external.0=203.0.113.1:5", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.port_allocation.value.delta=2", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.port_allocation.value.delta=2.0", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.port_allocation.policy=sequential", &report), Ok(()));
        assert_eq!(
            holds("ipv4.udp.port_allocation.policy=random", &report),
            Err("required ipv4.udp.port_allocation.policy=random, got sequential".into())
        );
        let unknown =
            json!({ "ipv4": { "udp": { "port_allocation": finding(json!(null), json!("too few")) } } });
        assert_eq!(
            holds("ipv4.udp.port_allocation.policy=random", &unknown),
            Err("required ipv4.udp.port_allocation.policy=random, got null (too few)".into())
        );
        assert!(refused("ipv4.udp.port_allocation.policy=increasing").contains("sequential"));
        assert!(holds("ipv4.udp.external.1=203.0.113.1:5", &report).is_err());
    }

    #[test]
    fn what_no_report_can_answer_is_refused() {
        for (requirement, wanted) in [
            ("ipv4.udp.mapping", "KEY=VALUE"),
            ("=x", "KEY=VALUE"),
            ("hole-punching=most", "some-peers"),
            ("ipv4.udp.maping=direct", "no `maping` there; there is: local, external"),
            ("ipv5.udp=null", "no `ipv5` there"),
            ("ipv4.udp.mapping=symmetric", "address-and-port-dependent"),
            ("ipv4.udp.hairpinning=yes", "true, false"),
            ("ipv4.udp.port_allocation=sequential", "policy"),
            ("ipv4.udp.external=1.2.3.4:5", "a list"),
            ("ipv4.status=fine", "unreachable"),
            ("version.x=1", "no `x` there; there is: nothing below"),
        ] {
            let message = refused(requirement);
            assert!(message.contains(wanted), "{requirement:?} gives {message:?}");
        }
    }

    #[test]
    fn evidence_is_free() {
        assert!(Requirement::parse("ipv4.udp.mapping.evidence.sent=5").is_ok());
    }
}
