//! Text of a server or a peer, made safe to show: a terminal or a page must not take it for commands, nor show
//! something else than it says (Unicode Technical Report 36, section 3).

/// Longest text that is shown, in characters.
const LONGEST: usize = 200;

/// The text with every character written as an escape that is not visible, or that changes how others are shown:
/// control characters, bidirectional overrides, other format characters, combining marks. Cut off where it is too long.
#[must_use]
pub fn printable(text: &str) -> String {
    let mut safe = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            safe.push_str("...");
            break;
        }
        match c {
            '\\' | '\'' | '"' => safe.push(c),
            c => safe.extend(c.escape_debug()),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_visible_is_left_and_the_rest_is_escaped() {
        assert_eq!(printable("coturn-4.6 'Größe' \"日本\" a\\b"), "coturn-4.6 'Größe' \"日本\" a\\b");
        assert_eq!(printable("\x1b[2Jx\n"), "\\u{1b}[2Jx\\n");
        for hidden in [
            '\u{202e}',
            '\u{2066}',
            '\u{200f}',
            '\u{61c}',
            '\u{200b}',
            '\u{feff}',
            '\u{ad}',
            '\u{9b}',
            '\u{e0041}',
            '\u{2028}',
        ] {
            let shown = printable(&format!("a{hidden}b"));
            assert_eq!(shown, format!("a\\u{{{:x}}}b", u32::from(hidden)));
        }
        assert_eq!(printable(&"x".repeat(5000)).chars().count(), LONGEST + 3);
    }
}
