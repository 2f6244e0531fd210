//! Text laid out for a terminal of a given width: paragraphs and tables. Plain ASCII, and nothing but spaces for lines.

use comfy_table::{ColumnConstraint, Table, Width, presets};
use textwrap::{Options, WordSplitter, core::display_width};

/// Between two columns.
const GAP: usize = 2;
/// A column that gets less than this is harder to read than one cell below the other.
const NARROWEST_COLUMN: usize = 24;
/// In front of every line of a table.
const INDENT: &str = "  ";

/// Lines of at most so many columns, broken between words.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    textwrap::wrap(text.trim(), options(width)).into_iter().map(String::from).collect()
}

/// A table with an optional header. What does not fit is wrapped inside the widest column; where that leaves too little for it, the
/// cells of a row stand below each other.
pub(super) fn table(header: &[&str], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let header: Vec<String> = header.iter().map(ToString::to_string).collect();
    let all = || header.first().map(|_| &header).into_iter().chain(rows);
    let mut columns: Vec<usize> = Vec::new();
    for row in all() {
        // A column takes up one place even where all its cells are empty.
        columns.resize(columns.len().max(row.len()), 1);
        for (column, cell) in columns.iter_mut().zip(row) {
            *column = (*column).max(display_width(cell));
        }
    }
    let room = width.saturating_sub(INDENT.len() + GAP * columns.len().saturating_sub(1));
    let wanted: usize = columns.iter().sum();
    if let Some(widest) = columns.iter_mut().max()
        && wanted > room
    {
        let left = (*widest + room).saturating_sub(wanted);
        if left < NARROWEST_COLUMN {
            return stacked(&header, rows, width);
        }
        *widest = left;
    }
    side_by_side(&header, rows, &columns)
}

/// Every row's cells beside each other, wrapped each in its column.
fn side_by_side(header: &[String], rows: &[Vec<String>], columns: &[usize]) -> Vec<String> {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    if !header.is_empty() {
        // Underlined column by column; the library's own line would run through.
        table.add_row(header);
        table.add_row(columns.iter().map(|&width| "-".repeat(width)));
    }
    table.add_rows(rows);
    for (column, &width) in table.column_iter_mut().zip(columns) {
        let padded = u16::try_from(width).unwrap_or(u16::MAX).saturating_add(PADDING);
        column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(padded)));
    }
    table.lines().map(|line| format!(" {}", line.trim_end())).collect()
}

/// A space on both sides of each cell: together with the one in front of each line, the indent and the gap.
const PADDING: u16 = GAP as u16;

/// The first cell of each row, and below it the others, each with its heading.
fn stacked(header: &[String], rows: &[Vec<String>], width: usize) -> Vec<String> {
    let deeper = INDENT.repeat(2);
    // What the rows are about; the other headings stand at their cells.
    let mut lines: Vec<String> =
        header.first().filter(|first| !first.is_empty()).cloned().into_iter().collect();
    for row in rows {
        let Some((first, others)) = row.split_first() else { continue };
        let headings = header.iter().skip(1).map(String::as_str).chain(std::iter::repeat(""));
        let told: Vec<String> = others
            .iter()
            .zip(headings)
            .filter(|(cell, _)| !cell.is_empty())
            .map(|(cell, heading)| match heading.trim_end_matches('?') {
                "" => cell.clone(),
                heading => format!("{heading}: {cell}"),
            })
            .collect();
        for (indent, text) in [(INDENT, first.clone()), (deeper.as_str(), told.join("; "))] {
            let indented = options(width).initial_indent(indent).subsequent_indent(indent);
            lines.extend(textwrap::wrap(&text, indented).into_iter().map(|line| line.trim_end().to_owned()));
        }
    }
    lines
}

/// Standard names such as `endpoint-independent` stay whole.
fn options<'a>(width: usize) -> Options<'a> {
    Options::new(width).word_splitter(WordSplitter::NoHyphenation)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        vec![
            row(["Mapping", "endpoint-independent: the same external port for every destination", "certain"]),
            row(["Local address", "192.0.2.1:5", ""]),
        ]
    }

    #[test]
    fn the_widest_column_is_wrapped() {
        assert_eq!(
            table(&[], &rows(), 62),
            [
                "  Mapping        endpoint-independent: the same        certain",
                "                 external port for every destination",
                "  Local address  192.0.2.1:5",
            ]
        );
    }

    #[test]
    fn on_a_narrow_terminal_cells_stand_below_each_other() {
        assert_eq!(
            table(&["what", "found", "sure"], &rows(), 40),
            [
                "what",
                "  Mapping",
                "    found: endpoint-independent: the",
                "    same external port for every",
                "    destination; sure: certain",
                "  Local address",
                "    found: 192.0.2.1:5",
            ]
        );
    }

    #[test]
    fn a_header_is_underlined() {
        let lines = table(&["a", "b", "c"], &[vec!["1".into(), "22".into(), "3".into()]], 80);
        assert_eq!(lines, ["  a  b   c", "  -  --  -", "  1  22  3"]);
    }

    #[test]
    fn no_line_is_wider_than_asked() {
        for width in 40..120 {
            for line in table(&[], &rows(), width) {
                assert!(display_width(&line) <= width, "{width}: {line}");
            }
        }
    }
}
