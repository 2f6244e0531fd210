//! What a report can hold at each place: its JSON Schema, reduced to what a condition can be checked against.

use std::sync::LazyLock;

use serde_json::Value;

use super::Malformed;
use nat_check_core::schema;

/// What can stand at one place of a report. Where a place has alternatives (`anyOf`), all of them are in here.
#[derive(Clone, Debug, Default)]
pub(super) struct Kind {
    /// Members of an object, in the order of the report.
    members: Vec<(String, Kind)>,
    /// Elements of a list.
    elements: Vec<Kind>,
    /// The words that it can be, booleans and null among them.
    words: Vec<String>,
    number: bool,
    /// Any string.
    text: bool,
    /// Anything at all, and anything below it.
    anything: bool,
}

impl Kind {
    /// A whole report.
    pub(super) fn report() -> &'static Self {
        static REPORT: LazyLock<Kind> = LazyLock::new(|| {
            let schema = schema::report();
            let mut kind = Kind::default();
            kind.add(&schema, &schema);
            kind
        });
        &REPORT
    }

    /// What stands at the end of this path; a finding stands for its value.
    pub(super) fn follow(&self, path: &str) -> Result<&Self, Malformed> {
        let mut place = self;
        for step in path.split('.') {
            // What is no part of a finding itself is part of its value.
            let inside = place.enter(step).or_else(|| place.value_of_finding()?.enter(step));
            place = inside.ok_or_else(|| Malformed::Path { step: step.to_owned(), known: place.steps() })?;
        }
        Ok(place.value_of_finding().unwrap_or(place))
    }

    pub(super) fn is_numeric(&self) -> bool {
        self.number || self.anything
    }

    /// Whether this value can stand here.
    pub(super) fn accepts(&self, value: &str) -> Result<(), Malformed> {
        let number = self.number && value.parse::<f64>().is_ok();
        if self.anything || self.text || number || self.words.iter().any(|word| word == value) {
            return Ok(());
        }
        let what = if self.members.is_empty() { "a list" } else { "an object" };
        if !self.members.is_empty() || !self.elements.is_empty() {
            return Err(Malformed::Compound { what, known: self.steps() });
        }
        let number = self.number.then(|| "a number".to_owned());
        let known: Vec<String> = number.into_iter().chain(self.words.iter().cloned()).collect();
        Err(Malformed::Value { known: known.join(", ") })
    }

    /// Adds what this node of the schema allows.
    fn add(&mut self, root: &Value, node: &Value) {
        if let Some(target) = node["$ref"].as_str() {
            return root.pointer(target.trim_start_matches('#')).map_or((), |target| self.add(root, target));
        }
        for choice in ["anyOf", "oneOf"].iter().filter_map(|&key| node[key].as_array()).flatten() {
            self.add(root, choice);
        }
        for (name, member) in node["properties"].as_object().into_iter().flatten() {
            let at = self.members.iter().position(|(known, _)| known == name).unwrap_or(self.members.len());
            if at == self.members.len() {
                self.members.push((name.clone(), Self::default()));
            }
            self.members[at].1.add(root, member);
        }
        let tuple = node["prefixItems"].as_array().into_iter().flatten();
        for element in tuple.chain(node.get("items").filter(|items| items.is_object())) {
            let mut kind = Self::default();
            kind.add(root, element);
            self.elements.push(kind);
        }
        self.anything |= node.as_bool() == Some(true) || node["additionalProperties"].as_bool() == Some(true);
        let constants = node["enum"].as_array().into_iter().flatten().chain(node.get("const"));
        self.words.extend(constants.map(super::plain));
        let listed = node.get("enum").is_some() || node.get("const").is_some();
        for name in kinds(&node["type"]) {
            match name {
                "boolean" => self.words.extend(["true".into(), "false".into()]),
                "null" => self.words.push("null".into()),
                "integer" | "number" => self.number = true,
                "string" => self.text |= !listed,
                _ => {}
            }
        }
    }

    fn enter(&self, step: &str) -> Option<&Self> {
        if self.anything {
            return Some(self);
        }
        let element = || step.parse().ok().and_then(|i: usize| self.elements.get(i).or(self.elements.last()));
        self.members.iter().find(|(name, _)| name == step).map(|(_, kind)| kind).or_else(element)
    }

    fn value_of_finding(&self) -> Option<&Self> {
        self.enter("confidence").filter(|_| !self.anything)?;
        self.enter("value")
    }

    fn steps(&self) -> String {
        match (self.members.as_slice(), self.elements.is_empty()) {
            ([], true) => "nothing below".into(),
            ([], false) => "0, 1, ...".into(),
            (members, _) => members.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", "),
        }
    }
}

/// The names under `type`: one, or a list of them.
fn kinds(node: &Value) -> impl Iterator<Item = &str> {
    let many = node.as_array().into_iter().flatten().filter_map(Value::as_str);
    node.as_str().into_iter().chain(many)
}
