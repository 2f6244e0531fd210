//! A link as a QR code for terminals (ISO/IEC 18004).

use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

/// The code in half blocks, black on white where colours are allowed; none where it is wider than so many columns, or the
/// text is too long for any code.
#[must_use]
pub fn code(text: &str, columns: usize) -> Option<String> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let drawn = code.render::<Dense1x2>().quiet_zone(true).build();
    let fits = drawn.lines().all(|line| line.chars().count() <= columns);
    let colours = |line: &str| format!("\x1b[30;107m{line}\x1b[0m");
    fits.then(|| drawn.lines().map(colours).collect::<Vec<_>>().join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: &str = "https://probe.example.org:5349/p/tabo-kiru-lama-dosu";

    #[test]
    fn a_link_fits_a_usual_terminal_and_is_never_broken() {
        let drawn = code(LINK, 80).unwrap();
        let lines: Vec<&str> = drawn.lines().collect();
        assert!(lines.len() < 24, "{} lines", lines.len());
        assert!(lines.iter().all(|line| line.starts_with("\x1b[30;107m") && line.ends_with("\x1b[0m")));
        assert_eq!(code(LINK, 30), None);
        assert_eq!(code(&"x".repeat(4000), 1000), None);
    }

    /// Its three corners have the pattern that readers look for (section 6.3.3): seven modules wide.
    #[test]
    fn the_corners_are_there() {
        let drawn = code(LINK, 80).unwrap().replace("\x1b[30;107m", "").replace("\x1b[0m", "");
        let first = drawn.lines().find(|line| line.contains('█')).unwrap();
        let corner = "█▀▀▀▀▀█";
        assert!(first.trim().starts_with(corner) && first.trim().ends_with(corner), "{drawn}");
    }
}
