//! HTML and SVG as text, everything from outside escaped.

use std::fmt::Write;

/// Markup in the making.
#[derive(Debug, Default)]
pub(super) struct Html {
    pub(super) text: String,
}

impl Html {
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Adds markup as it is.
    pub(super) fn raw(&mut self, markup: &str) -> &mut Self {
        self.text.push_str(markup);
        self
    }

    /// Adds text that is not markup.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.text.push_str(&escaped(text));
        self
    }

    /// Adds an element with this text; the attributes are markup.
    pub(super) fn element(&mut self, name: &str, attributes: &str, text: &str) -> &mut Self {
        let space = if attributes.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        _ = write!(self.text, "<{name}{space}{attributes}>{}</{name}>", escaped(text));
        self
    }

    /// Begins a picture with the text that stands for it.
    pub(super) fn picture(&mut self, width: u32, height: u32, title: &str, description: &str) -> &mut Self {
        _ = write!(self.text, "<svg role=\"img\" viewBox=\"0 0 {width} {height}\">");
        self.element("title", "", title).element("desc", "", description)
    }

    /// Adds a rectangle of a class.
    pub(super) fn rectangle(&mut self, at: (f64, f64), size: (f64, f64), class: &str) -> &mut Self {
        let ((x, y), (width, height)) = (at, size);
        _ = write!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"3\" class=\"{class}\"/>"
        );
        self
    }

    /// Adds a line of a class.
    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) -> &mut Self {
        let ((x1, y1), (x2, y2)) = (from, to);
        _ = write!(
            self.text,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>"
        );
        self
    }

    /// Adds a dot of a class.
    pub(super) fn dot(&mut self, (x, y): (f64, f64), class: &str) -> &mut Self {
        _ = write!(self.text, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" class=\"{class}\"/>");
        self
    }

    /// Adds text in a picture, about this point: `start`, `middle` or `end` of it.
    pub(super) fn label(&mut self, (x, y): (f64, f64), anchor: &str, text: &str) -> &mut Self {
        self.element("text", &format!("x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\""), text)
    }
}

/// Text in which nothing is markup. Control characters, and those that turn the direction of writing, are left out.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
