//! Why an attempt found no path, in a sentence: which packets left, and which were never seen.

use std::net::SocketAddr;

use super::report::RoundReport;

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

#[cfg(test)]
mod tests {
    use crate::technique::Technique;

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
