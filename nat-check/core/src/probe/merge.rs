//! One verdict from several servers: the surest finding of each kind, and a warning where they disagree.

use serde::Serialize;

use crate::report::{Confidence, Finding, ReasonCode, json_word};

/// Which server the merged finding of one kind comes from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    by: String,
    /// Why it is weak, once two that were equally sure said different things.
    disputed: Option<String>,
}

impl Source {
    /// The finding is this server's.
    pub(crate) fn of(server: &str) -> Self {
        Self { by: server.to_owned(), disputed: None }
    }
}

/// Another server's finding, about to be merged.
#[derive(Debug)]
pub struct Merge<'a> {
    pub(crate) key: &'static str,
    pub(crate) source: &'a mut Source,
    /// The other server.
    pub(crate) by: &'a str,
    /// Whether it has an address in common with those before.
    pub(crate) shares_address: bool,
    pub(crate) warnings: &'a mut Vec<String>,
}

impl Merge<'_> {
    /// The surer one counts, whatever the other says.
    pub fn surest<T: Clone>(self, mine: &mut Finding<T>, other: &Finding<T>) {
        if other.confidence > mine.confidence {
            *mine = other.clone();
            self.source.by = self.by.to_owned();
        }
    }

    /// The same, but both must say the same: a contradiction is warned of, and between equally sure servers it makes the
    /// finding weak.
    pub fn agree<T: Clone + PartialEq + Serialize>(self, mine: &mut Finding<T>, other: &Finding<T>) {
        let Self { key, source, by, warnings, .. } = self;
        if let (Some(a), Some(b)) = (&mine.value, &other.value)
            && a != b
        {
            let (a, b) = (json_word(a), json_word(b));
            warnings.push(format!("the servers disagree on {key}: {} says {a}, {by} says {b}", source.by));
            if mine.confidence == other.confidence {
                source.disputed = Some(format!("{by} says otherwise"));
            }
        } else if source.disputed.is_some() {
            return;
        }
        if other.confidence > mine.confidence {
            *mine = other.clone();
            source.by = by.to_owned();
        }
        if let Some(why) = &source.disputed {
            let merged = std::mem::take(mine);
            *mine = merged.at_most(Confidence::Weak).because((ReasonCode::ServersDisagree, why.as_str()));
        }
    }

    /// The same, but of two that differ the one counts that lets in less: a filter that remembers for the whole host whom
    /// it has sent to looks open to whoever is asked later. Servers with an address in common are each other's past.
    pub fn stricter<T: Clone + PartialEq + Serialize>(
        self,
        mine: &mut Finding<T>,
        other: &Finding<T>,
        is_stricter: impl Fn(&T, &T) -> bool,
    ) {
        let (Some(a), Some(b)) = (&mine.value, &other.value) else { return self.agree(mine, other) };
        let theirs = is_stricter(b, a);
        let (strict, open) = if theirs { (other, &*mine) } else { (&*mine, other) };
        let comparable = theirs || is_stricter(a, b);
        let disputed = self.source.disputed.is_some();
        if !comparable
            || !disputed && (strict.confidence == Confidence::Weak || strict.confidence > open.confidence)
        {
            return self.agree(mine, other);
        }
        let Self { key, source, by, shares_address, warnings } = self;
        let (first, second) = (json_word(a), json_word(b));
        warnings.push(format!(
            "the servers disagree on {key}: {} says {first}, {by} says {second}; the stricter one counts, as a filter that \
             remembers for the whole host looks open to whoever is asked later: ask one server alone, to which nothing was \
             sent for ten minutes",
            source.by
        ));
        if theirs {
            *mine = other.clone();
            source.by = by.to_owned();
        }
        if !shares_address {
            source.disputed = Some(format!("{by} says otherwise"));
        }
        if let Some(why) = &source.disputed {
            let merged = std::mem::take(mine);
            *mine = merged.at_most(Confidence::Weak).because((ReasonCode::ServersDisagree, why.as_str()));
        }
    }
}
