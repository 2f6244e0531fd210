//! The report of a punch for people.

use nat_check_core::punch::report::{PunchDocument, PunchOutcome, PunchReport, RoundReport, SideReport};

use super::{Style, layout};

/// The report for a person.
#[must_use]
pub fn table(document: &PunchDocument, style: &Style) -> String {
    let (report, width) = (&document.punch, usize::from(style.width));
    let mut lines = layout::wrapped(&headline(report), width);
    lines.extend(layout::wrapped(&report.why, width));
    if document.partial {
        lines.extend(layout::wrapped(
            "The attempt was ended early: what is unknown may only be unfinished.",
            width,
        ));
    }
    lines.push(String::new());
    lines.extend(layout::table(&[], &rows(report), width));
    lines.push(String::new());
    lines.join("\n")
}

fn headline(report: &PunchReport) -> String {
    match (report.outcome, report.technique) {
        (PunchOutcome::Direct, Some(technique)) => {
            format!("Direct path: {technique}, in round {}.", report.rounds)
        }
        (PunchOutcome::Direct, None) => "Direct path.".into(),
        (PunchOutcome::Unknown, _) => "Whether there is a direct path is not known.".into(),
        (PunchOutcome::Failed, _) => {
            let rounds = if report.rounds == 1 { "round" } else { "rounds" };
            format!("No direct path after {} {rounds}; a relay is needed.", report.rounds)
        }
    }
}

fn rows(report: &PunchReport) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut row = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    row("predicted", predicted(report));
    row("this side", side(&report.this));
    row("peer", side(&report.peer));
    if let (Some(local), Some(remote)) = (report.local, report.remote) {
        row("path", format!("{local} -> {remote}"));
        row("first packet after", milliseconds(report.first_packet_s));
        row("RTT, direct", milliseconds(report.rtt_s));
        row("RTT, via server", milliseconds(report.rtt_via_server_s));
    }
    if let (Some(held), Some(loss)) = (report.held_s, report.loss) {
        let jitter = milliseconds(report.jitter_s);
        row("kept open", format!("{held:.1} s, loss {:.1} %, jitter {jitter}", loss * 100.0));
    }
    row("packets sent", report.packets.to_string());
    for (number, attempt) in (1..).zip(&report.attempts) {
        row(&format!("round {number}"), round(attempt));
    }
    for warning in &report.warnings {
        row("note", warning.clone());
    }
    rows
}

fn predicted(report: &PunchReport) -> String {
    let predicted = &report.predicted;
    let chance = predicted
        .probability
        .map_or("probability unknown".into(), |p| format!("probability {:.1} %", p * 100.0));
    let outcome = match predicted.outcome {
        PunchOutcome::Direct => {
            let by = predicted.technique.map_or(String::new(), |t| format!(" by {t}"));
            let assumed = if predicted.assumed { ", assumed" } else { "" };
            format!("direct{by}, {chance}{assumed}")
        }
        PunchOutcome::Failed => format!("no direct path, {chance}"),
        PunchOutcome::Unknown => "unknown".into(),
    };
    format!("{outcome} ({})", predicted.why)
}

fn side(side: &SideReport) -> String {
    let mut told = side.nat_type.map_or("behaviour unknown".into(), |t| t.to_string());
    if let (Some(mapping), Some(filtering)) = (side.mapping, side.filtering) {
        let ports = side.ports.map_or(String::new(), |ports| format!(", ports {ports}"));
        told += &format!(" (mapping {mapping}, filtering {filtering}{ports})");
    }
    if !side.external.is_empty() {
        let list: Vec<_> = side.external.iter().map(ToString::to_string).collect();
        told += &format!(", external {}", list.join(" "));
    }
    told
}

fn round(round: &RoundReport) -> String {
    let result = if round.through { "connected" } else { "not connected" };
    let peer = match (round.peer_sent, round.peer_heard) {
        (Some(sent), Some(heard)) => format!("; peer sent {sent}, received {heard}"),
        _ => String::new(),
    };
    format!("{}: {result}; sent {}, received {}{peer}", round.technique, round.sent, round.heard)
}

fn milliseconds(seconds: Option<f64>) -> String {
    seconds.map_or("unknown".into(), |s| format!("{:.1} ms", s * 1000.0))
}
