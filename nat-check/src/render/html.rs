//! The report as a file for browsers: the same that a probe server's page shows.

use nat_check_core::{punch::report::PunchDocument, report::Report};
use serde::Serialize;
use shared::html::{Language, document};

use super::{Format, Style};

pub(super) const FORMAT: Format = Format { name: "html", render };

fn render(report: &Report, _style: &Style) -> String {
    page(report)
}

/// The report of a punch.
#[must_use]
pub fn punch(document: &PunchDocument) -> String {
    page(document)
}

fn page(report: &impl Serialize) -> String {
    // A report is maps with string keys, lists, strings and finite numbers: turning it into JSON cannot fail.
    document(&serde_json::to_value(report).unwrap_or_default(), Language::English)
}
