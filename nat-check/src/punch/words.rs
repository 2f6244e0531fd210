//! An attempt in words: why it ended as it did, and the report as a table.

use std::{fmt::Write, net::SocketAddr};

use super::report::{PunchOutcome, PunchReport, RoundReport, SideReport};

/// Why an attempt without a path has none: which packets left and were never seen, as this side, the peer and the server
/// tell.
pub(super) fn why_failed(rounds: &[RoundReport], because: &str) -> String {
    let Some(round) = rounds.iter().filter(|round| round.sent > 0).max_by_key(|round| round.sent) else {
        return format!("No technique applies: {because}.");
    };
    let first = |list: &[SocketAddr]| list.first().map(ToString::to_string);
    let to = first(&round.to).unwrap_or("the peer".into());
    let saw = match round.peer_heard {
        Some(0) => "the peer saw none".into(),
        Some(n) => format!("the peer saw {n}"),
        None => "the peer has not said what it saw".into(),
    };
    let ours = format!("Of {} packets that left for {to} ({}), {saw}", round.sent, round.technique);
    let at = first(&round.peer_to).map_or(String::new(), |at| format!(" to {at}"));
    let theirs = match (round.peer_sent, round.heard) {
        (Some(0), _) => "the peer had nowhere to send to".into(),
        (Some(sent), 0) => format!("of {sent} that the peer sent{at}, none arrived here"),
        (Some(sent), heard) => format!("of {sent} that the peer sent{at}, {heard} arrived here"),
        (None, heard) => format!("{heard} of the peer's arrived here"),
    };
    let seen = match (first(&round.seen_as), first(&round.peer_seen_as)) {
        (Some(mine), Some(peers)) => {
            format!("; the server had just seen this side at {mine} and the peer at {peers}")
        }
        (Some(mine), None) => format!("; the server had just seen this side at {mine} and the peer nowhere"),
        (None, Some(peers)) => {
            format!("; the server had just seen the peer at {peers} and this side nowhere")
        }
        (None, None) => "; the server had seen neither over UDP".into(),
    };
    let refused = match round.refused {
        0 => String::new(),
        n => format!("; {n} were refused on the way"),
    };
    format!("{ours}; {theirs}{seen}{refused}: {because}.")
}

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

#[cfg(test)]
mod tests {
    use shared::rendezvous::Technique;

    use super::*;

    #[test]
    fn a_failure_is_told_by_both_sides_and_the_server() {
        let at = |text: &str| vec![text.parse().unwrap()];
        let round = RoundReport {
            technique: Technique::Simultaneous,
            through: false,
            seen_as: at("203.0.113.1:41114"),
            peer_seen_as: at("203.0.113.2:6918"),
            to: at("203.0.113.2:6918"),
            peer_to: at("203.0.113.1:41114"),
            sent: 12,
            heard: 0,
            refused: 0,
            peer_sent: Some(24),
            peer_heard: Some(0),
        };
        assert_eq!(
            why_failed(std::slice::from_ref(&round), "ports would have to be guessed"),
            "Of 12 packets that left for 203.0.113.2:6918 (simultaneous), the peer saw none; of 24 that the peer sent \
             to 203.0.113.1:41114, none arrived here; the server had just seen this side at 203.0.113.1:41114 and the \
             peer at 203.0.113.2:6918: ports would have to be guessed."
        );
        let silent = RoundReport { peer_sent: None, peer_heard: None, peer_seen_as: Vec::new(), ..round };
        let told = why_failed(&[silent], "the peer has left");
        assert!(
            told.contains("the peer has not said what it saw") && told.contains("the peer nowhere"),
            "{told}"
        );
        assert_eq!(why_failed(&[], "both want nothing"), "No technique applies: both want nothing.");
    }
}
