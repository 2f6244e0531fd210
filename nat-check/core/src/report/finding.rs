//! A finding: a conclusion that carries its confidence, its reason and its evidence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::reason::{Reason, ReasonCode};

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Confidence {
    /// Nothing is known; the reason says why.
    Unknown,
    /// Likely, but loss or missing controls leave room for error.
    Weak,
    /// Chance of error at most 1 in 10,000 under the loss measured in this run.
    Strong,
    /// An answer proves it.
    Certain,
}

/// A conclusion with its confidence, method and evidence. `value` is null exactly when the confidence is `unknown`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Finding<T> {
    /// What was found.
    pub value: Option<T>,
    /// How sure it is.
    pub confidence: Confidence,
    /// Why there is no value, or what to know about the one there is: a sentence, which may change.
    pub reason: Option<String>,
    /// The reason as a word that does not change; null exactly when there is no reason.
    pub reason_code: Option<ReasonCode>,
    /// The procedure, with the section that defines it.
    pub method: String,
    /// Counts, addresses and times in seconds, from which a reader can judge again.
    pub evidence: Evidence,
}

/// Named facts behind a finding.
pub type Evidence = BTreeMap<String, serde_json::Value>;

impl<T> Default for Finding<T> {
    /// Nothing is known, as nobody asked.
    fn default() -> Self {
        Self::not_asked_for("")
    }
}

impl<T> Finding<T> {
    /// A finding with a value.
    pub fn known(value: T, confidence: Confidence, method: &str) -> Self {
        Self {
            value: Some(value),
            confidence,
            reason: None,
            reason_code: None,
            method: method.into(),
            evidence: Evidence::new(),
        }
    }

    /// A finding without one, and why.
    pub fn unknown(reason: impl Into<Reason>, method: &str) -> Self {
        let Reason { code, text } = reason.into();
        Self {
            value: None,
            confidence: Confidence::Unknown,
            reason: Some(text),
            reason_code: Some(code),
            method: method.into(),
            evidence: Evidence::new(),
        }
    }

    /// A finding that nobody asked for.
    #[must_use]
    pub fn not_asked_for(method: &str) -> Self {
        Self::unknown((ReasonCode::NotAskedFor, "not asked for"), method)
    }

    /// The value, where it is strong or certain: what others may build on.
    #[must_use]
    pub fn sure(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.confidence >= Confidence::Strong)
    }

    /// Sets the reason, in place of any other.
    #[must_use]
    pub fn because(mut self, reason: impl Into<Reason>) -> Self {
        let Reason { code, text } = reason.into();
        self.reason = Some(text);
        self.reason_code = Some(code);
        self
    }

    /// The reason, if there is one; `otherwise` where there is not.
    pub fn reason_or(&self, otherwise: impl Into<Reason>) -> Reason {
        match (self.reason_code, &self.reason) {
            (Some(code), Some(text)) => Reason { code, text: text.clone() },
            _ => otherwise.into(),
        }
    }

    /// Makes it no surer than this.
    #[must_use]
    pub fn at_most(mut self, confidence: Confidence) -> Self {
        self.confidence = self.confidence.min(confidence);
        self
    }

    /// Adds a fact to the evidence.
    #[must_use]
    pub fn with(mut self, name: &str, fact: impl Serialize) -> Self {
        // Facts are counts, strings and lists of them: turning them into JSON cannot fail.
        self.evidence.insert(name.into(), serde_json::to_value(fact).unwrap_or_default());
        self
    }
}
