//! The report as bytes: one file a format, and [`FORMATS`], the one list of them.

pub mod html;
mod json;
mod layout;
mod line;
pub mod map;
pub mod punch;
pub mod room;
mod table;
#[cfg(test)]
mod tests;
mod words;

use nat_check_core::report::Report;

/// A way to print a report.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// What `--format` calls it.
    pub name: &'static str,
    /// Turns a report into text, with ANSI styles that whoever writes it to something else than a terminal strips.
    pub render: fn(&Report, &Style) -> String,
}

/// What a format may take into account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// Columns of the terminal.
    pub width: u16,
    /// Whether the evidence behind each finding is shown.
    pub evidence: bool,
}

/// Every format; the first one is the one without `--format`.
pub const FORMATS: &[Format] = &[table::FORMAT, json::FORMAT, line::FORMAT, html::FORMAT];

/// The names of the formats.
pub fn names() -> impl Iterator<Item = &'static str> {
    FORMATS.iter().map(|format| format.name)
}

/// The format of this name; the first one where there is none.
#[must_use]
pub fn by_name(name: &str) -> &'static Format {
    FORMATS.iter().find(|format| format.name == name).unwrap_or(&FORMATS[0])
}
