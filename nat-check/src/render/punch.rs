//! The report of a punch for people.

use std::fmt::Write;

use nat_check_core::punch::report::{PunchOutcome, PunchReport, SideReport};

/// The report for a person.
#[must_use]
pub fn table(report: &PunchReport) -> String {
    let mut text = String::new();
    let seconds = |s: Option<f64>| s.map_or("-".into(), |s| format!("{:.1} ms", s * 1000.0));
    let chance = |p: Option<f64>| p.map_or("chance unknown".into(), |p| format!("chance {:.1} %", p * 100.0));
    let headline = match (report.outcome, report.technique) {
        (PunchOutcome::Direct, Some(technique)) => {
            format!("Direct path: {technique}, in round {}.", report.rounds)
        }
        (PunchOutcome::Direct, None) => "Direct path.".into(),
        (PunchOutcome::Failed | PunchOutcome::Unknown, _) => {
            let rounds = if report.rounds == 1 { "round" } else { "rounds" };
            format!("No direct path after {} {rounds}; a relay would be needed.", report.rounds)
        }
    };
    let predicted = match report.predicted.outcome {
        PunchOutcome::Direct => {
            let by = report.predicted.technique.map_or(String::new(), |t| format!(" by {t}"));
            let assumed = if report.predicted.assumed { ", assumed" } else { "" };
            format!("direct{by}, {}{assumed}", chance(report.predicted.probability))
        }
        PunchOutcome::Failed => format!("none, {}", chance(report.predicted.probability)),
        PunchOutcome::Unknown => "unknown".into(),
    };
    let mut row = |name: &str, value: String| {
        for (number, line) in wrapped(&value, WIDTH - INDENT).into_iter().enumerate() {
            let name = if number == 0 { name } else { "" };
            // Writing to a string does not fail.
            _ = writeln!(text, "{name:<INDENT$}{line}");
        }
    };
    row("", headline);
    row("why", report.why.clone());
    row("predicted before", format!("{predicted} ({})", report.predicted.why));
    row("this side", side(&report.this));
    row("the peer", side(&report.peer));
    if let (Some(local), Some(remote)) = (report.local, report.remote) {
        row("path", format!("{local} -> {remote}"));
        row("first packet after", seconds(report.first_packet_s));
        row("round trip, direct", seconds(report.rtt_s));
        row("round trip, by server", seconds(report.rtt_via_server_s));
    }
    if let (Some(held), Some(loss)) = (report.held_s, report.loss) {
        let jitter = seconds(report.jitter_s);
        row("held", format!("{held:.1} s, loss {:.1} %, jitter {jitter}", loss * 100.0));
    }
    row("packets spent", report.packets.to_string());
    for (number, round) in (1..).zip(&report.attempts) {
        let peer = match (round.peer_sent, round.peer_heard) {
            (Some(sent), Some(heard)) => format!("; peer sent {sent}, heard {heard}"),
            _ => String::new(),
        };
        let through = if round.through { "through" } else { "not through" };
        let told = format!("{through}; sent {}, heard {}{peer}", round.sent, round.heard);
        row(&format!("round {number}"), format!("{}: {told}", round.technique));
    }
    for warning in &report.warnings {
        row("warning", warning.clone());
    }
    // The headline has no name in front of it.
    text.trim_start().to_owned()
}

/// Columns of the whole table, and of its names.
const WIDTH: usize = 100;
const INDENT: usize = 22;

/// Lines of at most so many columns, broken between words.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

fn side(side: &SideReport) -> String {
    let mut told = side.nat_type.map_or("behaviour unknown".into(), |t| t.to_string());
    if let (Some(mapping), Some(filtering)) = (side.mapping, side.filtering) {
        _ = write!(told, " (mapping {mapping}, filtering {filtering}");
        match side.ports {
            Some(ports) => _ = write!(told, ", ports {ports})"),
            None => told.push(')'),
        }
    }
    if !side.external.is_empty() {
        let list: Vec<_> = side.external.iter().map(ToString::to_string).collect();
        _ = write!(told, ", seen as {}", list.join(" "));
    }
    told
}
