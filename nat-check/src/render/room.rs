//! The report of a room for people: who was there, and a matrix of who reaches whom.

use nat_check_core::{
    punch::room::report::{MemberReport, PairOutcome, PairReport, RoomDocument, RoomReport},
    technique::Technique,
};

use super::{Style, layout};

/// The report for a person.
#[must_use]
pub fn table(document: &RoomDocument, style: &Style) -> String {
    let (room, width) = (&document.room, usize::from(style.width));
    let mut lines = layout::wrapped(&headline(room), width);
    lines.extend(layout::wrapped(&room.ended, width));
    room.warnings
        .iter()
        .for_each(|warning| lines.extend(layout::wrapped(&format!("Note: {warning}."), width)));
    if !room.members.is_empty() {
        lines.push(String::new());
        let rows: Vec<_> = room.members.iter().map(|member| row(member, room.you)).collect();
        lines.extend(layout::table(&["", "member", "NAT"], &rows, width));
    }
    if !room.pairs.is_empty() {
        if matrix_width(room) <= width {
            lines.push(String::new());
            lines.extend(matrix(room));
            lines.extend(layout::wrapped(LEGEND, width));
        }
        let others: Vec<_> = room.pairs.iter().filter(|pair| pair.outcome != PairOutcome::Direct).collect();
        if !others.is_empty() {
            lines.push(String::new());
            lines.push("Without a direct path, or not known:".into());
            others.iter().for_each(|pair| lines.extend(layout::wrapped(&told(pair), width)));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

const LEGEND: &str = "Above the diagonal: how. Below: round-trip time in milliseconds, the longer one of what the two measured.";
/// Columns of a number, and of a cell.
const NUMBER: usize = 5;
const CELL: usize = 8;

fn headline(room: &RoomReport) -> String {
    let name = room.name.as_deref().map_or(String::new(), |name| format!(" {name}"));
    let count = |outcome| room.pairs.iter().filter(|pair| pair.outcome == outcome).count();
    let all = [
        (PairOutcome::Direct, "direct"),
        (PairOutcome::Relay, "relay needed"),
        (PairOutcome::Failed, "failed"),
        (PairOutcome::Unknown, "not known"),
    ];
    let counts = all.map(|(outcome, words)| (count(outcome), words));
    let told: Vec<_> =
        counts.iter().filter(|(n, _)| *n > 0).map(|(n, words)| format!("{n} {words}")).collect();
    let (members, pairs) = (room.members.len(), room.pairs.len());
    let colon = if told.is_empty() { "" } else { ": " };
    format!("Room{name}: {members} members, {pairs} pairs{colon}{}.", told.join(", "))
}

fn row(member: &MemberReport, you: Option<u32>) -> Vec<String> {
    let name = member.name.clone().unwrap_or_default();
    let is_you = if you == Some(member.id) { "(this host)" } else { "" };
    let has_left = if member.here { "" } else { "(has left)" };
    let words: Vec<&str> = [&name, is_you, has_left].into_iter().filter(|word| !word.is_empty()).collect();
    let nat = member.nat_type.map_or("unknown".into(), |nat| nat.to_string());
    vec![member.id.to_string(), words.join(" "), nat]
}

fn matrix_width(room: &RoomReport) -> usize {
    NUMBER + CELL * room.members.len()
}

fn matrix(room: &RoomReport) -> Vec<String> {
    let ids = || room.members.iter().map(|member| member.id);
    let line = |cells: Vec<String>| cells.concat().trim_end().to_owned();
    let numbers = ids().map(|id| format!("{id:>CELL$}"));
    let mut lines = vec![line(std::iter::once(" ".repeat(NUMBER)).chain(numbers).collect())];
    for a in ids() {
        let cells = ids().map(|b| format!("{:>CELL$}", cell(room, a, b)));
        lines.push(line(std::iter::once(format!("{a:>NUMBER$}")).chain(cells).collect()));
    }
    lines
}

fn cell(room: &RoomReport, row: u32, column: u32) -> String {
    let pair = room.pairs.iter().find(|pair| (pair.a, pair.b) == (row.min(column), row.max(column)));
    let Some(pair) = pair else { return "-".into() };
    match pair.outcome {
        PairOutcome::Direct if row < column => pair.technique.map_or("direct", short).into(),
        PairOutcome::Direct => pair.rtt_s.map_or("direct".into(), |rtt| format!("{:.1}", rtt * 1000.0)),
        PairOutcome::Relay => "relay".into(),
        PairOutcome::Failed => "failed".into(),
        PairOutcome::Unknown => "?".into(),
    }
}

/// A technique in one cell.
fn short(technique: Technique) -> &'static str {
    match technique {
        Technique::Direct => "direct",
        Technique::Lan => "lan",
        Technique::Simultaneous => "simult.",
        Technique::LowTtl => "low-ttl",
        Technique::Ipv6 => "ipv6",
        Technique::Prediction => "predict",
        Technique::Tcp => "tcp",
        Technique::Birthday => "birthd.",
        Technique::Relay => "relay",
    }
}

fn told(pair: &PairReport) -> String {
    let what = match pair.outcome {
        PairOutcome::Direct => "direct path",
        PairOutcome::Failed => "no direct path was found",
        PairOutcome::Relay => "need a relay",
        PairOutcome::Unknown => "not known",
    };
    let predicted = pair.predicted.map_or("nothing was predicted".into(), |chance| {
        format!("predicted chance of a direct path {:.1} %", chance * 100.0)
    });
    let because = pair.reason.clone().unwrap_or(predicted);
    format!("{} and {}: {what} ({because})", pair.a, pair.b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(members: u32) -> RoomDocument {
        let json = serde_json::json!({
            "version": 1, "tool": "nat-check", "partial": false,
            "room": {
                "name": "team", "you": 2, "ended": "All pairs are settled.", "warnings": [],
                "members": (1..=members).map(|id| serde_json::json!({
                    "id": id, "name": if id == 1 { Some("berlin") } else { None },
                    "nat_type": "symmetric", "here": id != 3,
                })).collect::<Vec<_>>(),
                "pairs": [
                    pair(1, 2, "direct", None), pair(1, 3, "relay", None), pair(2, 3, "unknown", Some("only 2 says so")),
                ],
            },
        });
        serde_json::from_value(json).unwrap()
    }

    fn pair(a: u32, b: u32, outcome: &str, reason: Option<&str>) -> serde_json::Value {
        serde_json::json!({
            "a": a, "b": b, "predicted": 0.25, "outcome": outcome, "technique": "prediction", "family": "ipv4",
            "rtt_s": 0.0123, "reason": reason, "reason_code": reason.map(|_| "one-side-says"),
            "said": { "a": true, "b": null },
        })
    }

    #[test]
    fn a_matrix_tells_how_and_how_fast() {
        let style = Style { width: 80, evidence: false };
        let text = table(&document(3), &style);
        let wanted = "\
Room team: 3 members, 3 pairs: 1 direct, 1 relay needed, 1 not known.
All pairs are settled.";
        assert!(text.replace('\n', " ").contains(&wanted.replace('\n', " ")), "{text}");
        let matrix = "            1       2       3\n    1       - predict   relay\n    2    12.3       -       ?\n    3   relay       ?       -\n";
        assert!(text.contains(matrix), "{text}");
        assert!(
            text.contains("(this host)") && text.contains("(has left)") && text.contains("berlin"),
            "{text}"
        );
        assert!(text.contains("\n2 and 3: not known (only 2 says so)"), "{text}");
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        let many = table(&document(32), &style);
        assert!(!many.contains("diagonal") && many.contains("1 and 3: need a relay"), "{many}");
    }
}
