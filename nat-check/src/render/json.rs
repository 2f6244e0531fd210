//! The report for scripts: JSON, version 1, as `schema/report.schema.json` has it.

use super::{Format, Style};
use nat_check_core::report::Report;

pub(super) const FORMAT: Format = Format { name: "json", render };

fn render(report: &Report, _style: &Style) -> String {
    // A report is maps with string keys, lists, strings and finite numbers: turning it into JSON cannot fail.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_default();
    text.push('\n');
    text
}
