//! What hole punching is worth behind a NAT of this behaviour. The engine that predicts it is the client's; here is the
//! table of what it says, made with `nat-check --generate prospects` and held to it by a test of nat-check's.

use std::sync::OnceLock;

use serde_json::{Value, json};

/// The table, as it is generated.
pub const TABLE: &str = include_str!("assets/prospects.json");

/// The verdict over one family, by the findings that are not weak.
pub(crate) fn of(udp: &Value) -> Value {
    let sure = |name: &str| {
        let finding = &udp[name];
        let is_sure = matches!(finding["confidence"].as_str(), Some("certain" | "strong"));
        if is_sure { finding["value"].clone() } else { Value::Null }
    };
    let word = |value: Value| value.as_str().unwrap_or("unknown").to_owned();
    let key = if sure("nat_type") == "udp-blocked" {
        "udp-blocked".to_owned()
    } else {
        let ports = sure("port_allocation")["policy"].clone();
        format!("{}/{}/{}", word(sure("mapping")), word(sure("filtering")), word(ports))
    };
    let table = table();
    let row = table["index"][&key].as_u64().and_then(|row| table["rows"].get(usize::try_from(row).ok()?));
    row.cloned().unwrap_or_else(|| unknown(None))
}

/// The verdict over both families: that of IPv4, which every peer has, with what IPv6 adds for peers that have it, too.
pub(crate) fn joint(families: &[Value; 2]) -> Value {
    let verdict = |family: &Value| Some(family["hole_punching"].clone()).filter(Value::is_object);
    let [four, six] = families;
    match (verdict(four), verdict(six)) {
        (Some(four), Some(six)) => of_both(four, &six),
        (Some(four), None) => four,
        (None, Some(mut six)) => {
            six["summary"] = with_ipv6(&six).into();
            six
        }
        (None, None) => unknown(four["reason"].as_str().or(six["reason"].as_str())),
    }
}

/// Levels from the worst on.
const LEVELS: [&str; 5] = ["unknown", "none", "some-peers", "most-peers", "any-peer"];

fn of_both(mut four: Value, six: &Value) -> Value {
    let rank = |verdict: &Value| LEVELS.iter().position(|level| verdict["level"] == **level).unwrap_or(0);
    let (mine, its) = (rank(&four), rank(six));
    if mine == its {
        return four;
    }
    let summary = if mine == 1 && its > 0 {
        format!("{} Over IPv4, UDP is blocked.", with_ipv6(six))
    } else {
        let rest = match its {
            4 => "if the peer has it, too, it works with any peer",
            3 => "if the peer has it, too, it works with most peers",
            2 => "if the peer has it, too, it works with some peers",
            1 => "UDP is blocked",
            _ => "that is not known",
        };
        format!("Over IPv4, {} Over IPv6, {rest}.", continued(text(&four)))
    };
    four["summary"] = summary.into();
    if mine == 1 {
        four["level"] = LEVELS[its.clamp(1, 2)].into();
    }
    four
}

fn with_ipv6(verdict: &Value) -> String {
    format!("If the peer has IPv6, too, {}", continued(text(verdict)))
}

fn text(verdict: &Value) -> &str {
    verdict["summary"].as_str().unwrap_or_default()
}

/// A sentence that goes on behind a comma.
fn continued(sentence: &str) -> String {
    let mut characters = sentence.chars();
    let first = characters.next().map(|first| first.to_ascii_lowercase());
    first.into_iter().chain(characters).collect()
}

fn unknown(why: Option<&str>) -> Value {
    let because = why.map_or(String::new(), |why| format!(": {why}"));
    let summary = format!("Whether hole punching works is not known{because}.");
    json!({ "level": "unknown", "summary": summary, "keepalive_s": null, "peers": [] })
}

fn table() -> &'static Value {
    static PARSED: OnceLock<Value> = OnceLock::new();
    PARSED.get_or_init(|| serde_json::from_str(TABLE).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let words =
            ["endpoint-independent", "address-dependent", "address-and-port-dependent", "port-dependent"];
        for mapping in words.into_iter().chain(["direct", "unknown"]) {
            for filtering in words.into_iter().chain(["unknown"]) {
                for ports in ["preserving", "sequential", "random", "block", "unknown"] {
                    let row = table()["index"][format!("{mapping}/{filtering}/{ports}")].as_u64();
                    let row = row.and_then(|row| table()["rows"].get(row as usize));
                    assert!(
                        row.is_some_and(|row| row["peers"].as_array().is_some_and(|peers| peers.len() == 7))
                    );
                }
            }
        }
    }

    #[test]
    fn a_weak_finding_counts_for_nothing() {
        let udp = |sure: &str| {
            json!({ "mapping": { "value": "endpoint-independent", "confidence": "certain" },
                    "filtering": { "value": "endpoint-independent", "confidence": sure } })
        };
        assert_eq!(of(&udp("certain"))["level"], "any-peer");
        assert_eq!(of(&udp("weak"))["level"], "unknown");
    }
}
