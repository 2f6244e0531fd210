//! RFC 6092: what a home gateway's firewall does with IPv6.

use super::{
    Rule,
    facts::{Facts, Judged, by, not_met, open, partly},
    tcp, udp,
};
use crate::report::{
    RequirementLevel::{Must, MustNot, Should},
    SynAnswer, UnsolicitedSyn,
};

const LIFETIME: Option<&str> = Some("ipv6.udp.lifetime");

pub(super) const RFC_6092: &[Rule] = &[
    Rule {
        name: "REC-14",
        level: MustNot,
        text: "UDP state that expires in less than 2 minutes",
        finding: LIFETIME,
        judge: |facts| udp::lifetime(facts, 120.0),
    },
    Rule {
        name: "REC-16",
        level: Must,
        text: "outbound packets refresh UDP state",
        finding: LIFETIME,
        judge: udp::outbound_refresh,
    },
    Rule {
        name: "REC-17",
        level: Should,
        text: "endpoint-independent or address-dependent filtering of UDP",
        finding: Some("ipv6.udp.filtering"),
        judge: udp::filtering,
    },
    Rule {
        name: "REC-31",
        level: Must,
        text: "all valid sequences of TCP packets, simultaneous open among them",
        finding: Some("ipv6.tcp.simultaneous_open"),
        judge: |facts| of_connections(facts, tcp::sequences),
    },
    Rule {
        name: "REC-33",
        level: Should,
        text: "endpoint-independent or address-dependent filtering of TCP",
        finding: Some("ipv6.tcp.filtering"),
        judge: |facts| of_connections(facts, tcp::filtering),
    },
    Rule {
        name: "REC-34",
        level: Must,
        text: "an ICMPv6 answer to an unsolicited SYN, after 6 s",
        finding: Some("ipv6.tcp.unsolicited_syn"),
        judge: |facts| of_connections(facts, unsolicited_syn),
    },
    Rule {
        name: "REC-35",
        level: MustNot,
        text: "idle TCP connections that expire in less than 2 h 4 min",
        finding: Some("ipv6.tcp.idle"),
        judge: |facts| of_connections(facts, tcp::idle),
    },
];

/// An answer earlier than this is too early.
const ANSWERS_AFTER_S: f64 = 6.0;

fn unsolicited_syn(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.tcp.map(|tcp| &tcp.unsolicited_syn), |UnsolicitedSyn { answer, after_s }| {
        let way = facts.tcp.and_then(|tcp| tcp.rtt_s).unwrap_or_default();
        match (answer, after_s - way >= ANSWERS_AFTER_S) {
            // It has to be "administratively prohibited".
            (SynAnswer::Icmp, true) => {
                partly(format!("one came after {after_s:.1} s; its code was not looked at"))
            }
            (SynAnswer::Icmp, false) => not_met(format!("it came after {after_s:.3} s")),
            (SynAnswer::Reset, _) => not_met(format!("a reset came after {after_s:.3} s")),
            (SynAnswer::Drop, _) => open(format!("no answer came within {after_s:.1} s")),
        }
    });
    facts.of_a_lone_syn(judged)
}

/// What answers in the server's place is no firewall.
fn of_connections(facts: &Facts<'_>, judge: fn(&Facts<'_>) -> Judged) -> Judged {
    match facts.tcp.and_then(|tcp| tcp.intercepted.sure()) {
        Some(true) => open("something on the way answers connections in the server's place"),
        Some(false) | None => judge(facts),
    }
}
