//! `--require CONDITION`: what a script wants the report to say. A condition is checked against what a report can hold
//! before anything is measured, so that a misspelt key never passes for an answer.

mod kind;

use std::fmt;

use serde_json::Value;

use kind::Kind;
use nat_check_core::{report::Level, verdict::checklist};

/// One condition.
#[derive(Clone, Debug, PartialEq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    wanted: String,
}

/// A condition that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmet {
    /// The condition.
    pub condition: String,
    /// What the report says.
    pub got: String,
}

/// A condition that no report could meet or fail.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// No comparison in it, or nothing on one side of it.
    #[error("not KEY=VALUE (a shell needs quotes around < and >: 'ipv4.udp.rtt_s<0.2')")]
    NoComparison,
    /// A level that does not exist.
    #[error("no such level; there are: any-peer, most-peers, some-peers, none")]
    Level,
    /// A level compared otherwise than by `=`.
    #[error(
        "write hole-punching=LEVEL (or ipv4.hole-punching=LEVEL), which holds at that level or a better one"
    )]
    LevelOperator,
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
    /// A requirement of an RFC that is not on the checklist.
    #[error("the checklist has no such requirement; it has: {known}")]
    NoRequirement {
        /// Those of the same RFC, or the RFCs.
        known: String,
    },
    /// `<` and the like, where there is no number.
    #[error("{0} compares numbers only")]
    NotNumeric(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones first: `<=` begins with `<`.
const OPERATORS: &[(&str, Operator)] = &[
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("=", Operator::Equal),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

/// The keys that are no paths, and where the level stands: it holds as well if it is a better one.
const AT_LEAST: &[(&str, &str)] = &[
    ("hole-punching", "hole_punching.level"),
    ("ipv4.hole-punching", "ipv4.hole_punching.level"),
    ("ipv6.hole-punching", "ipv6.hole_punching.level"),
];

const LEVELS: &[(&str, Level)] = &[
    ("any-peer", Level::AnyPeer),
    ("most-peers", Level::MostPeers),
    ("some-peers", Level::SomePeers),
    ("none", Level::None),
];

impl Requirement {
    /// Reads `KEY=VALUE` or another comparison.
    ///
    /// # Errors
    /// Where the key is no path in a report, or the comparison can never be made there.
    pub fn parse(given: &str) -> Result<Self, Malformed> {
        let at = given.find(['=', '!', '<', '>']).ok_or(Malformed::NoComparison)?;
        let (key, rest) = given.split_at(at);
        let (sign, operator) =
            *OPERATORS.iter().find(|(sign, _)| rest.starts_with(sign)).ok_or(Malformed::NoComparison)?;
        let (key, wanted) = (key.trim(), rest[sign.len()..].trim());
        if key.is_empty() || wanted.is_empty() {
            return Err(Malformed::NoComparison);
        }
        if level_path(key).is_some() {
            level(wanted).ok_or(Malformed::Level)?;
            if operator != Operator::Equal {
                return Err(Malformed::LevelOperator);
            }
        } else {
            let kind = match on_the_checklist(key) {
                Some(asked) if checklist::names().all(|known| known != asked) => {
                    return Err(Malformed::no_requirement(asked));
                }
                Some(_) => Kind::report().follow(VERDICT)?,
                None => Kind::report().follow(key)?,
            };
            if matches!(operator, Operator::Equal | Operator::NotEqual) {
                kind.accepts(wanted)?;
            } else if !kind.is_numeric() || wanted.parse::<f64>().is_err() {
                return Err(Malformed::NotNumeric(sign));
            }
        }
        Ok(Self { key: key.to_owned(), operator, wanted: wanted.to_owned() })
    }

    /// Whether it is about the checklist, which a report has where it is asked for.
    #[must_use]
    pub fn is_of_the_checklist(&self) -> bool {
        self.key.split('.').next() == Some("checklist")
    }

    /// Whether the report (as JSON) says so.
    ///
    /// # Errors
    /// What was wanted and what the report says instead.
    pub fn check(&self, report: &Value) -> Result<(), Unmet> {
        let (holds, got) = if let Some(path) = level_path(&self.key) {
            let found = look_up(report, path);
            let got = found.value.as_str().and_then(level);
            (got.is_some_and(|got| Some(got) >= level(&self.wanted)), found.to_string())
        } else {
            let found = look_up(report, &self.key);
            (self.operator.holds(found.value, &self.wanted), found.to_string())
        };
        if holds { Ok(()) } else { Err(Unmet { condition: self.to_string(), got }) }
    }
}

/// Where the verdict about the first requirement stands; it stands so for all of them.
const VERDICT: &str = "checklist.0.verdict";

/// `checklist.4787.REQ-1`: the number of the RFC and the name of the requirement.
fn on_the_checklist(key: &str) -> Option<(u16, &str)> {
    let (rfc, name) = key.strip_prefix("checklist.")?.split_once('.')?;
    // Smaller numbers are places in the list.
    rfc.parse().ok().filter(|rfc| *rfc >= 1000).map(|rfc| (rfc, name))
}

impl Malformed {
    fn no_requirement((rfc, _): (u16, &str)) -> Self {
        let names: Vec<&str> =
            checklist::names().filter(|(of, _)| *of == rfc).map(|(_, name)| name).collect();
        let mut rfcs: Vec<String> = checklist::names().map(|(of, _)| of.to_string()).collect();
        rfcs.dedup();
        Self::NoRequirement { known: if names.is_empty() { rfcs.join(", ") } else { names.join(", ") } }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = OPERATORS.iter().rfind(|(_, operator)| *operator == self.operator);
        write!(f, "{}{}{}", self.key, sign.map_or("=", |(sign, _)| sign), self.wanted)
    }
}

impl fmt::Display for Unmet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "required {}, got {}", self.condition, self.got)
    }
}

fn level_path(key: &str) -> Option<&'static str> {
    AT_LEAST.iter().find(|(name, _)| *name == key).map(|(_, path)| *path)
}

fn level(name: &str) -> Option<Level> {
    LEVELS.iter().find(|(known, _)| *known == name).map(|(_, level)| *level)
}

impl Operator {
    /// What is not known meets nothing but `=null`.
    fn holds(self, found: &Value, wanted: &str) -> bool {
        let numbers = found.as_f64().zip(wanted.parse::<f64>().ok());
        let equal = match numbers {
            Some((found, wanted)) => (found - wanted).abs() <= f64::EPSILON * found.abs(),
            None => plain(found) == wanted,
        };
        match self {
            Self::Equal => equal,
            Self::NotEqual => !equal && !found.is_null(),
            Self::Less => numbers.is_some_and(|(found, wanted)| found < wanted),
            Self::LessOrEqual => numbers.is_some_and(|(found, wanted)| found < wanted || equal),
            Self::Greater => numbers.is_some_and(|(found, wanted)| found > wanted),
            Self::GreaterOrEqual => numbers.is_some_and(|(found, wanted)| found > wanted || equal),
        }
    }
}

/// What stands at the end of a path, and the nearest reason on the way to it.
struct Found<'a> {
    value: &'a Value,
    reason: Option<&'a str>,
}

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&plain(self.value))?;
        self.reason.map_or(Ok(()), |reason| write!(f, " ({reason})"))
    }
}

fn look_up<'a>(report: &'a Value, key: &str) -> Found<'a> {
    if let Some((rfc, name)) = on_the_checklist(key) {
        let is_it = |it: &&Value| it["rfc"] == rfc && it["requirement"] == name;
        let it =
            report["checklist"].as_array().and_then(|list| list.iter().find(is_it)).unwrap_or(&Value::Null);
        return Found { value: &it["verdict"], reason: it["why"].as_str() };
    }
    let mut found = Found { value: report, reason: None };
    for step in key.split('.') {
        found.note_reason();
        // What is no part of a finding itself is part of its value.
        if found.is_finding() && found.value.get(step).is_none() {
            found.value = &found.value["value"];
        }
        let index = step.parse::<usize>().ok().filter(|_| found.value.is_array());
        found.value =
            index.map_or_else(|| found.value.get(step), |i| found.value.get(i)).unwrap_or(&Value::Null);
    }
    if found.is_finding() {
        found.note_reason();
        found.value = &found.value["value"];
    }
    // What is known needs no reason.
    Found { reason: found.reason.filter(|_| found.value.is_null()), ..found }
}

impl Found<'_> {
    fn is_finding(&self) -> bool {
        self.value.get("confidence").is_some()
    }

    fn note_reason(&mut self) {
        self.reason = self.value.get("reason").and_then(Value::as_str).or(self.reason);
    }
}

/// A string without its quotes, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
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
        assert_eq!(holds("ipv4.udp.mapping == direct", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.mapping!=address-dependent", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.mapping.value=direct", &report), Ok(()));
        assert_eq!(holds("ipv4.udp.mapping.confidence=certain", &report), Ok(()));
        assert_eq!(
            holds("ipv4.udp.mapping=address-dependent", &report),
            Err("required ipv4.udp.mapping=address-dependent, got direct".into())
        );
        assert_eq!(
            holds("ipv4.udp.mapping!=direct", &report),
            Err("required ipv4.udp.mapping!=direct, got direct".into())
        );
    }

    #[test]
    fn what_is_not_known_is_told_with_its_reason_and_meets_nothing_but_null() {
        let report = json!({
            "ipv4": { "udp": { "hairpinning": finding(json!(null), json!("too much loss")), "rtt_s": null } },
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
        for condition in ["ipv4.udp.hairpinning!=true", "ipv4.udp.hairpinning!=null", "ipv4.udp.rtt_s<9"] {
            assert!(holds(condition, &report).is_err(), "{condition}");
        }
        assert_eq!(holds("ipv6.status!=tested", &report), Ok(()));
    }

    #[test]
    fn a_level_holds_at_a_better_one_and_the_path_to_it_exactly() {
        let at = |level: &str| json!({ "hole_punching": { "level": level } });
        assert_eq!(holds("hole-punching=most-peers", &at("any-peer")), Ok(()));
        assert_eq!(holds("hole-punching=most-peers", &at("most-peers")), Ok(()));
        assert_eq!(
            holds("hole-punching=most-peers", &at("some-peers")),
            Err("required hole-punching=most-peers, got some-peers".into())
        );
        assert!(holds("hole-punching=none", &at("unknown")).is_err());
        assert!(holds("hole_punching.level=most-peers", &at("any-peer")).is_err());
        assert_eq!(holds("hole_punching.level=most-peers", &at("most-peers")), Ok(()));
    }

    #[test]
    fn a_level_may_be_that_of_one_family() {
        let report = json!({
            "hole_punching": { "level": "some-peers" },
            "ipv4": { "status": "tested", "reason": null, "hole_punching": { "level": "some-peers" } },
            "ipv6": { "status": "skipped", "reason": "not asked for", "hole_punching": null }
        });
        assert_eq!(holds("ipv4.hole-punching=some-peers", &report), Ok(()));
        assert_eq!(
            holds("ipv4.hole-punching=most-peers", &report),
            Err("required ipv4.hole-punching=most-peers, got some-peers".into())
        );
        assert_eq!(
            holds("ipv6.hole-punching=some-peers", &report),
            Err("required ipv6.hole-punching=some-peers, got null (not asked for)".into())
        );
        assert_eq!(holds("ipv6.hole_punching=null", &report), Ok(()));
        assert!(refused("ipv6.hole-punching>=most-peers").contains("LEVEL"));
    }

    #[test]
    fn numbers_are_compared_as_numbers() {
        let report = json!({ "ipv4": { "udp": {
            "rtt_s": 0.15,
            "external": ["203.0.113.1:5"],
            "port_allocation": finding(json!({ "policy": "sequential", "delta": 2 }), json!(null))
        } } });
        for condition in [
            "ipv4.udp.rtt_s<0.2",
            "ipv4.udp.rtt_s<=0.15",
            "ipv4.udp.rtt_s>=0.15",
            "ipv4.udp.rtt_s>1e-3",
            "ipv4.udp.rtt_s!=0.2",
            "ipv4.udp.external.0=203.0.113.1:5",
            "ipv4.udp.port_allocation.value.delta=2",
            "ipv4.udp.port_allocation.delta=2.0",
            "ipv4.udp.port_allocation.policy=sequential",
        ] {
            assert_eq!(holds(condition, &report), Ok(()), "{condition}");
        }
        for (condition, got) in [
            ("ipv4.udp.rtt_s<0.15", "0.15"),
            ("ipv4.udp.rtt_s>0.15", "0.15"),
            ("ipv4.udp.rtt_s>=10", "0.15"),
            ("ipv4.udp.port_allocation.delta<=1", "2"),
            ("ipv4.udp.port_allocation.policy=random", "sequential"),
            ("ipv4.udp.external.1=203.0.113.1:5", "null"),
        ] {
            assert_eq!(holds(condition, &report), Err(format!("required {condition}, got {got}")));
        }
        let unknown =
            json!({ "ipv4": { "udp": { "port_allocation": finding(json!(null), json!("too few")) } } });
        assert_eq!(
            holds("ipv4.udp.port_allocation.policy=random", &unknown),
            Err("required ipv4.udp.port_allocation.policy=random, got null (too few)".into())
        );
    }

    #[test]
    fn what_no_report_can_answer_is_refused() {
        for (requirement, wanted) in [
            ("ipv4.udp.mapping", "KEY=VALUE"),
            ("ipv4.udp.rtt_s", "'ipv4.udp.rtt_s<0.2'"),
            ("=x", "KEY=VALUE"),
            ("ipv4.udp.rtt_s<", "KEY=VALUE"),
            ("ipv4.udp.rtt_s!0.2", "KEY=VALUE"),
            ("hole-punching=most", "some-peers"),
            ("hole-punching>=most-peers", "hole-punching=LEVEL"),
            ("ipv4.udp.maping=direct", "no `maping` there; there is: local, external"),
            ("ipv4.udp.rtt<0.2", "no `rtt` there"),
            ("ipv5.udp=null", "no `ipv5` there"),
            ("ipv4.udp.mapping=symmetric", "address-and-port-dependent"),
            ("ipv4.udp.mapping!=symmetric", "address-and-port-dependent"),
            ("ipv4.udp.mapping<direct", "< compares numbers only"),
            ("ipv4.udp.rtt_s<fast", "< compares numbers only"),
            ("ipv4.udp.rtt_s=fast", "a number"),
            ("ipv4.udp.local>=1", ">= compares numbers only"),
            ("ipv4.udp.hairpinning=yes", "true, false"),
            ("ipv4.udp.port_allocation=sequential", "policy"),
            ("ipv4.udp.port_allocation.policy=increasing", "sequential"),
            ("ipv4.udp.external=1.2.3.4:5", "a list"),
            ("ipv4.status=fine", "unreachable"),
            ("version.x=1", "no `x` there; there is: nothing below"),
        ] {
            let message = refused(requirement);
            assert!(message.contains(wanted), "{requirement:?} gives {message:?}");
        }
    }

    #[test]
    fn a_requirement_of_an_rfc_is_named_by_both() {
        let report = json!({ "checklist": [
            { "rfc": 4787, "requirement": "REQ-1", "verdict": "met", "why": "one external endpoint" },
            { "rfc": 5382, "requirement": "REQ-1", "verdict": "not-met", "why": "the mapping is address-dependent" },
        ] });
        assert_eq!(holds("checklist.4787.REQ-1=met", &report), Ok(()));
        assert_eq!(holds("checklist.5382.REQ-1!=met", &report), Ok(()));
        assert_eq!(holds("checklist.1.verdict=not-met", &report), Ok(()));
        assert_eq!(
            holds("checklist.5382.REQ-1=met", &report),
            Err("required checklist.5382.REQ-1=met, got not-met (the mapping is address-dependent)".into())
        );
        assert!(holds("checklist.4787.REQ-8=met", &report).is_err());
        assert!(Requirement::parse("checklist.4787.REQ-1=met").unwrap().is_of_the_checklist());
        assert!(!Requirement::parse("hole-punching=none").unwrap().is_of_the_checklist());
        for (condition, wanted) in [
            ("checklist.4787.REQ-99=met", "REQ-1, REQ-2, REQ-3"),
            ("checklist.2131.REQ-1=met", "4787, 5382, 7857"),
            ("checklist.4787.REQ-1=yes", "met, not-met"),
            ("checklist.4787.REQ-1<1", "compares numbers only"),
            ("checklist=met", "a list"),
        ] {
            assert!(refused(condition).contains(wanted), "{condition}: {}", refused(condition));
        }
    }

    #[test]
    fn evidence_is_free() {
        assert!(Requirement::parse("ipv4.udp.mapping.evidence.sent=5").is_ok());
        assert!(Requirement::parse("ipv4.udp.mapping.evidence.sent>=5").is_ok());
    }
}
