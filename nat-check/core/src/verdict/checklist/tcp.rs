//! RFC 5382, TCP.

use super::{
    Rule,
    facts::{Facts, Judged, by, met, not_met, open, partly, timer},
    udp::{is_port_kept, no_icmp, of_filtering, of_mapping},
};
use crate::report::{
    RequirementLevel::{Must, MustNot, Recommended, Should},
    RequirementVerdict, SynAnswer, UnsolicitedSyn,
};

pub(super) const RFC_5382: &[Rule] = &[
    Rule {
        name: "REQ-1",
        level: Must,
        text: "endpoint-independent mapping",
        finding: Some("ipv4.tcp.mapping"),
        judge: mapping,
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

fn mapping(facts: &Facts<'_>) -> Judged {
    let is_kept = facts.tcp.is_some_and(|tcp| is_port_kept(tcp.local, &tcp.external));
    by(facts.tcp.map(|tcp| &tcp.mapping), |mapping| of_mapping(mapping, is_kept))
}

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
    facts.of_a_lone_syn(judged)
}

pub(super) fn filtering(facts: &Facts<'_>) -> Judged {
    facts.of_a_lone_syn(by(facts.tcp.map(|tcp| &tcp.filtering), of_filtering))
}

fn unsolicited_syn(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.tcp.map(|tcp| &tcp.unsolicited_syn), |UnsolicitedSyn { answer, after_s }| {
        let way = facts.tcp.and_then(|tcp| tcp.rtt_s).unwrap_or_default();
        match (answer, after_s - way >= SYN_WAITS_S) {
            // ICMP may be kept from the server.
            (SynAnswer::Drop, _) => partly(format!("no answer came within {after_s:.1} s")),
            (SynAnswer::Reset | SynAnswer::Icmp, true) => {
                met(format!("the answer came after {after_s:.1} s"))
            }
            (SynAnswer::Reset, false) => not_met(format!("a reset came after {after_s:.3} s")),
            (SynAnswer::Icmp, false) => not_met(format!("an ICMP message came after {after_s:.3} s")),
        }
    });
    facts.of_a_lone_syn(judged)
}

pub(super) fn idle(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.tcp.map(|tcp| &tcp.idle), |idle| timer(IDLE_S, Some(idle.alive_s), idle.expired_s));
    let judged = match judged.verdict {
        // The other half: 4 minutes for connections that are opening or closing.
        RequirementVerdict::Met => {
            partly(format!("{}; connections that are opening or closing were not looked at", judged.why))
        }
        _ => judged,
    };
    facts.of_the_way_over_tcp(judged)
}
