//! RFC 5508, ICMP. From the inside hardly anything of it shows without raw sockets.

use super::{
    Rule,
    facts::{Facts, Judged, open},
    udp::no_icmp,
};
use crate::report::RequirementLevel::{Must, MustNot, Should};

pub(super) const RFC_5508: &[Rule] = &[
    Rule {
        name: "REQ-1",
        level: Must,
        text: "ICMP queries and their answers pass",
        finding: None,
        judge: no_queries,
    },
    Rule {
        name: "REQ-2",
        level: MustNot,
        text: "ICMP query sessions that expire in less than 60 s",
        finding: None,
        judge: no_queries,
    },
    Rule {
        name: "REQ-4",
        level: Must,
        text: "ICMP errors about mappings are translated inwards",
        finding: None,
        judge: no_icmp,
    },
    Rule { name: "REQ-7", level: Must, text: "hairpinned ICMP errors pass", finding: None, judge: no_icmp },
    Rule {
        name: "REQ-8",
        level: Should,
        text: "ICMP code 13 where no mapping can be made",
        finding: None,
        judge: no_icmp,
    },
];

fn no_queries(_: &Facts<'_>) -> Judged {
    open("ICMP queries are not sent")
}
