//! RFC 6092: what a home gateway's firewall does with IPv6.

use super::{
    Rule,
    facts::{Facts, Judged, by, met, not_met, open},
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
        judge: tcp::sequences,
    },
    Rule {
        name: "REC-33",
        level: Should,
        text: "endpoint-independent or address-dependent filtering of TCP",
        finding: Some("ipv6.tcp.filtering"),
        judge: tcp::filtering,
    },
    Rule {
        name: "REC-34",
        level: Must,
        text: "an ICMPv6 answer to an unsolicited SYN, after 6 s",
        finding: Some("ipv6.tcp.unsolicited_syn"),
        judge: unsolicited_syn,
    },
    Rule {
        name: "REC-35",
        level: MustNot,
        text: "idle TCP connections that expire in less than 2 h 4 min",
        finding: Some("ipv6.tcp.idle"),
        judge: tcp::idle,
    },
];

/// An answer earlier than this is too early.
const ANSWERS_AFTER_S: f64 = 6.0;

fn unsolicited_syn(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.tcp.map(|tcp| &tcp.unsolicited_syn), |UnsolicitedSyn { answer, after_s }| {
        match (answer, *after_s >= ANSWERS_AFTER_S) {
            (SynAnswer::Icmp, true) => met(format!("it came after {after_s:.1} s")),
            (SynAnswer::Icmp, false) => not_met(format!("it came after {after_s:.3} s")),
            (SynAnswer::Reset, _) => not_met(format!("a reset came after {after_s:.3} s")),
            (SynAnswer::Drop, _) => open(format!("no answer came within {after_s:.1} s")),
        }
    });
    facts.of_the_way_over_tcp(judged)
}
