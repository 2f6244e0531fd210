//! RFC 5382, TCP.

use super::{
    Rule,
    facts::{Facts, Judged, by, met, not_met, open, partly, timer},
    udp::{no_icmp, of_filtering, of_mapping},
};
use crate::report::{
    RequirementLevel::{Must, MustNot, Recommended, Should},
    SynAnswer, UnsolicitedSyn,
};

pub(super) const RFC_5382: &[Rule] = &[
    Rule {
        name: "REQ-1",
        level: Must,
        text: "endpoint-independent mapping",
        finding: Some("ipv4.tcp.mapping"),
        judge: |facts| by(facts.tcp.map(|tcp| &tcp.mapping), of_mapping),
    },
    Rule {
        name: "REQ-2",
        level: Must,
        text: "all valid sequences of packets, simultaneous open among them",
        finding: Some("ipv4.tcp.simultaneous_open"),
        judge: sequences,
    },
    Rule {
        name: "REQ-3",
        level: Recommended,
        text: "endpoint-independent or address-dependent filtering",
        finding: Some("ipv4.tcp.filtering"),
        judge: filtering,
    },
    Rule {
        name: "REQ-4",
        level: MustNot,
        text: "an answer to an unsolicited SYN within 6 s",
        finding: Some("ipv4.tcp.unsolicited_syn"),
        judge: unsolicited_syn,
    },
    Rule {
        name: "REQ-5",
        level: MustNot,
        text: "idle connections that expire in less than 2 h 4 min",
        finding: Some("ipv4.tcp.idle"),
        judge: idle,
    },
    Rule {
        name: "REQ-6",
        level: Recommended,
        text: "no application-level gateways for TCP",
        finding: None,
        judge: |_| open("no protocols were tried that they rewrite"),
    },
    Rule {
        name: "REQ-7",
        level: MustNot,
        text: "one external port for several internal endpoints",
        finding: None,
        judge: |_| open("it shows only where two hosts use the same port at a time"),
    },
    Rule {
        name: "REQ-8",
        level: Must,
        text: "hairpinning",
        finding: None,
        judge: |_| open("it is measured over UDP only"),
    },
    Rule {
        name: "REQ-9",
        level: Should,
        text: "ICMP \"destination unreachable\" is translated",
        finding: None,
        judge: no_icmp,
    },
    Rule {
        name: "REQ-10",
        level: MustNot,
        text: "mappings that an ICMP message ends",
        finding: None,
        judge: no_icmp,
    },
];

/// An answer earlier than this is one within 6 seconds.
const SYN_WAITS_S: f64 = 6.0;
/// 2 hours and 4 minutes (RFC 5382 REQ-5).
const IDLE_S: f64 = 7440.0;

/// Simultaneous open is the one that NATs get wrong.
pub(super) fn sequences(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.tcp.map(|tcp| &tcp.simultaneous_open), |works| match works {
        true => partly("simultaneous open works, as do ordinary connections"),
        false => not_met("simultaneous open does not work"),
    });
    facts.of_the_way_over_tcp(judged)
}

pub(super) fn filtering(facts: &Facts<'_>) -> Judged {
    facts.of_the_way_over_tcp(by(facts.tcp.map(|tcp| &tcp.filtering), of_filtering))
}

fn unsolicited_syn(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.tcp.map(|tcp| &tcp.unsolicited_syn), |UnsolicitedSyn { answer, after_s }| {
        match (answer, *after_s >= SYN_WAITS_S) {
            (SynAnswer::Drop, true) => met(format!("no answer came within {after_s:.1} s")),
            (SynAnswer::Drop, false) => partly(format!("no answer came within {after_s:.1} s")),
            (SynAnswer::Reset | SynAnswer::Icmp, true) => {
                met(format!("the answer came after {after_s:.1} s"))
            }
            (SynAnswer::Reset, false) => not_met(format!("a reset came after {after_s:.3} s")),
            (SynAnswer::Icmp, false) => not_met(format!("an ICMP message came after {after_s:.3} s")),
        }
    });
    facts.of_the_way_over_tcp(judged)
}

pub(super) fn idle(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.tcp.map(|tcp| &tcp.idle), |idle| timer(IDLE_S, Some(idle.alive_s), idle.expired_s));
    facts.of_the_way_over_tcp(judged)
}
