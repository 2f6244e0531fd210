//! What can be changed while a laboratory runs, in words: `home restart`, `home nat=symmetric`, `home loss=5% delay=80ms`,
//! `home address=203.0.113.77`, `home link=down`, `alice on=office`, `alice link=up`.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use shared::nat::model::Stack;

use super::line;
use crate::LabError;

/// Changes of one router or host.
#[derive(Clone, Debug, PartialEq)]
pub struct Order {
    /// The name of the router or host.
    pub target: String,
    /// What changes.
    pub changes: Vec<Change>,
    /// As it was written.
    text: String,
}

/// A change.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The NAT of a router loses its state.
    Restart,
    /// A router gets another NAT.
    Nat(Stack),
    /// A router gets another external address.
    Address(Ipv4Addr),
    /// The line of a router, or the interface of a host, goes down or comes up.
    Link(bool),
    /// A setting of a router's line.
    Line(String, String),
    /// A host moves to the LAN of another router.
    On(String),
}

impl FromStr for Order {
    type Err = LabError;

    fn from_str(text: &str) -> Result<Self, LabError> {
        let mut words = text.split_whitespace();
        let wrong = |what: String| Err(LabError::Words(what));
        let Some(target) = words.next() else { return wrong("a change names a router or host first".into()) };
        let changes: Vec<Change> = words.map(change).collect::<Result<_, _>>()?;
        if changes.is_empty() {
            return wrong(format!("`{text}` says not what to change; write `{target} {FORMS}`"));
        }
        Ok(Self { target: target.to_owned(), changes, text: text.trim().to_owned() })
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The forms of a change, for messages.
const FORMS: &str =
    "restart | nat=NAT | address=IP | link=up|down | delay=TIME | loss=PERCENT | rate=RATE | ... | on=ROUTER";

fn change(word: &str) -> Result<Change, LabError> {
    let (name, value) = word.split_once('=').unwrap_or((word, ""));
    let wrong = |what: &str| LabError::Words(format!("`{word}`: {what}"));
    match name {
        "restart" if value.is_empty() => Ok(Change::Restart),
        "nat" => value.parse().map(Change::Nat).map_err(|e| wrong(&format!("{e}"))),
        "address" => value.parse().map(Change::Address).map_err(|_| wrong("it takes an IPv4 address")),
        "link" => match value {
            "up" => Ok(Change::Link(true)),
            "down" => Ok(Change::Link(false)),
            _ => Err(wrong("it takes up or down")),
        },
        "on" if !value.is_empty() => Ok(Change::On(value.to_owned())),
        name if line::is_key(name) => {
            // A queue needs a rate, which only the running line can tell.
            if name != "queue" {
                line::parse(word)?;
            }
            Ok(Change::Line(name.to_owned(), value.to_owned()))
        }
        _ => Err(wrong(&format!("unknown change; write {FORMS}"))),
    }
}
