//! What a report says of the requirements that RFCs make of NATs and firewalls: part of the report (`--checklist`).

use serde::{Deserialize, Serialize};

/// A requirement, and what the report says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Requirement {
    /// The number of the RFC.
    pub rfc: u16,
    /// Its name there: `REQ-1`, `REC-17`, `section-9`.
    pub requirement: String,
    /// How strongly the RFC asks for it.
    pub level: RequirementLevel,
    /// What it asks for, in short.
    pub text: String,
    /// Whether it is met.
    pub verdict: RequirementVerdict,
    /// The finding that this follows from, as a path in this report; null where no finding tells.
    pub finding: Option<String>,
    /// What was found, or why nothing was: a phrase, which may change.
    pub why: String,
}

/// How strongly an RFC asks for something (RFC 2119).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING-KEBAB-CASE")]
#[non_exhaustive]
pub enum RequirementLevel {
    /// It is a must.
    Must,
    /// It is forbidden.
    #[serde(rename = "MUST NOT")]
    MustNot,
    /// It is left out for good reasons only.
    Should,
    /// It is done for good reasons only.
    #[serde(rename = "SHOULD NOT")]
    ShouldNot,
    /// It is advised, as strongly as by SHOULD.
    Recommended,
}

/// Whether a requirement is met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum RequirementVerdict {
    /// It was seen to be, by a finding that is strong or certain.
    Met,
    /// A counter-example was seen, by a finding that is strong or certain.
    NotMet,
    /// It held in all that was looked at, which is not all that it asks for.
    PartlySettled,
    /// Nothing is known, and `why` says why.
    NotSettled,
    /// It is not about what stands here.
    NotApplicable,
}

impl RequirementLevel {
    /// As RFC 2119 writes it.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Must => "MUST",
            Self::MustNot => "MUST NOT",
            Self::Should => "SHOULD",
            Self::ShouldNot => "SHOULD NOT",
            Self::Recommended => "RECOMMENDED",
        }
    }
}

impl RequirementVerdict {
    /// All of them, in the order in which a summary counts them.
    pub const ALL: [Self; 5] =
        [Self::Met, Self::NotMet, Self::PartlySettled, Self::NotSettled, Self::NotApplicable];

    /// In words for a person.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Met => "met",
            Self::NotMet => "not met",
            Self::PartlySettled => "partly settled",
            Self::NotSettled => "not settled",
            Self::NotApplicable => "not applicable",
        }
    }
}

/// A line for each RFC: how many of its requirements are met, and which are not.
#[must_use]
pub fn summary(checklist: &[Requirement]) -> Vec<String> {
    by_rfc(checklist).map(|(rfc, requirements)| format!("RFC {rfc}: {}", counts(requirements))).collect()
}

/// The requirements of each RFC.
pub fn by_rfc(checklist: &[Requirement]) -> impl Iterator<Item = (u16, &[Requirement])> {
    checklist.chunk_by(|a, b| a.rfc == b.rfc).map(|requirements| (requirements[0].rfc, requirements))
}

fn counts(requirements: &[Requirement]) -> String {
    let of = |verdict| requirements.iter().filter(move |it| it.verdict == verdict);
    let counted = RequirementVerdict::ALL.into_iter().filter_map(|verdict| {
        let count = of(verdict).count();
        let which: Vec<&str> = match verdict {
            RequirementVerdict::NotMet => of(verdict).map(|it| it.requirement.as_str()).collect(),
            _ => Vec::new(),
        };
        let which = if which.is_empty() { String::new() } else { format!(" ({})", which.join(", ")) };
        (count > 0).then(|| format!("{count} {}{which}", verdict.text()))
    });
    match requirements {
        [first, ..] if of(RequirementVerdict::NotApplicable).count() == requirements.len() => {
            format!("not applicable: {}", first.why)
        }
        _ => counted.collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requirement(rfc: u16, name: &str, verdict: RequirementVerdict) -> Requirement {
        Requirement {
            rfc,
            requirement: name.into(),
            level: RequirementLevel::Must,
            text: String::new(),
            verdict,
            finding: None,
            why: "nothing translates".into(),
        }
    }

    #[test]
    fn a_line_for_each_rfc_names_what_is_not_met() {
        use RequirementVerdict as V;
        let checklist = [
            requirement(4787, "REQ-1", V::Met),
            requirement(4787, "REQ-2", V::NotSettled),
            requirement(4787, "REQ-9", V::NotMet),
            requirement(4787, "REQ-14", V::NotMet),
            requirement(6888, "REQ-2", V::NotApplicable),
        ];
        let wanted = [
            "RFC 4787: 1 met, 2 not met (REQ-9, REQ-14), 1 not settled",
            "RFC 6888: not applicable: nothing translates",
        ];
        assert_eq!(summary(&checklist), wanted);
        assert!(summary(&[]).is_empty());
    }

    #[test]
    fn levels_are_written_as_in_the_rfcs() {
        use RequirementLevel as L;
        for level in [L::Must, L::MustNot, L::Should, L::ShouldNot, L::Recommended] {
            assert_eq!(serde_json::to_value(level).unwrap(), level.text());
        }
    }
}
