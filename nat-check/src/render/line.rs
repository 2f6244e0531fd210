//! The report for logs: a line for each address family that was wanted, `key=value` in a fixed order, `?` for what is not
//! known.

use std::fmt::{self, Display, Write};

use super::{Format, Style};
use nat_check_core::report::{self, FamilyReport, FamilyStatus, Level, Report, UdpReport, json_word};

pub(super) const FORMAT: Format = Format { name: "line", render };

fn render(report: &Report, _style: &Style) -> String {
    let mut text = String::new();
    for (name, family) in [("ipv4", &report.ipv4), ("ipv6", &report.ipv6)] {
        if family.status != FamilyStatus::Skipped {
            // Writing to a string does not fail.
            _ = writeln!(text, "{} {name} {}", report.started_at, Line { report, family });
        }
    }
    text
}

struct Line<'a> {
    report: &'a Report,
    family: &'a FamilyReport,
}

impl Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { report, family } = self;
        let level = family.hole_punching.as_ref().map_or(Level::Unknown, |verdict| verdict.level);
        write!(f, "status={} level={}", json_word(&family.status), json_word(&level))?;
        if let Some(udp) = &family.udp {
            write!(f, " {}", Udp(udp))?;
        }
        if let Some(seconds) = family.hole_punching.as_ref().and_then(|verdict| verdict.keepalive_s) {
            write!(f, " keepalive_s={seconds}")?;
        }
        let faults = report.server.faults.len();
        // A name with blanks is one value all the same.
        let query = match report.server.query.contains(char::is_whitespace) {
            true => format!("{:?}", report.server.query),
            false => report.server.query.clone(),
        };
        write!(f, " duration_s={} server={query} server_faults={faults}", report.duration_s)?;
        match &family.reason {
            Some(reason) => write!(f, " reason={reason:?}"),
            None => Ok(()),
        }
    }
}

struct Udp<'a>(&'a UdpReport);

impl Display for Udp<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let udp = self.0;
        for row in report::udp_rows("", udp) {
            if let (Some(key), Some(basis)) = (row.line_key, &row.basis) {
                let value = row.word.map(|value| format!("{value}/{}", json_word(&basis.confidence)));
                write!(f, "{key}={} ", value.as_deref().unwrap_or("?"))?;
            }
        }
        let external: Vec<String> = udp.external.iter().map(ToString::to_string).collect();
        write!(f, "external={}", if external.is_empty() { "?".into() } else { external.join(",") })?;
        match udp.rtt_s {
            Some(seconds) => write!(f, " rtt_ms={:.1}", seconds * 1000.0)?,
            None => write!(f, " rtt_ms=?")?,
        }
        match udp.loss {
            Some(share) => write!(f, " loss={share}"),
            None => write!(f, " loss=?"),
        }
    }
}
