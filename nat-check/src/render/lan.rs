//! The report of a local network for people: the findings, and a matrix of what arrives from whom at whom.

use std::net::Ipv4Addr;

use nat_check_core::{
    lan::{
        report::{
            AnswerKind, DeviceProtocol, DeviceReport, Known, LanDocument, NeighbourReport, NetworkReport,
            PairReport, Reach, Verdict,
        },
        way::Way,
    },
    report::{Confidence, Finding},
};

use super::{Style, layout};

/// The report for a person.
#[must_use]
pub fn table(document: &LanDocument, style: &Style) -> String {
    let width = usize::from(style.width);
    let mut lines = Vec::new();
    if document.partial {
        lines.extend(layout::wrapped("It was ended early: what is unknown may only be unfinished.", width));
    }
    for network in std::iter::once(&document.lan.network).chain(&document.lan.more_networks) {
        lines.extend(layout::wrapped(&headline(network), width));
        lines.extend(layout::table(&[], &rows(network), width));
        lines.extend(matrix(network, width));
        if style.evidence {
            lines.extend(evidence(network, width));
        }
        lines.push(String::new());
    }
    lines.join("\n")
}

fn headline(it: &NetworkReport) -> String {
    let count = match it.neighbours.len() {
        0 => "no other host runs nat-check lan".to_owned(),
        1 => "1 other host".to_owned(),
        count => format!("{count} other hosts"),
    };
    format!("{}, {}/{}: {count}, {:.0} s", it.interface, it.address, it.prefix_len, it.listened_s)
}

fn rows(it: &NetworkReport) -> Vec<Vec<String>> {
    let row = |label: &str, value: String, sure: &str| vec![label.to_owned(), value, sure.to_owned()];
    let finding = |label: &str, value: Option<&str>, of: Told<'_>| {
        let known = value.unwrap_or("not known");
        let text = of.reason.map_or(known.to_owned(), |reason| format!("{known}: {reason}"));
        row(label, text, word(of.confidence))
    };
    let reach = |label: &str, of: &Finding<Reach>| finding(label, of.value.map(reach), of.into());
    let yes = |label: &str, of: &Finding<bool>| {
        finding(label, of.value.map(|value| if value { "yes" } else { "no" }), of.into())
    };
    let mut rows = vec![
        reach("Multicast", &it.multicast),
        reach("IPv6 multicast", &it.ipv6_multicast),
        reach("Broadcast", &it.broadcast),
        yes("Clients isolated", &it.isolation),
        yes("One way only", &it.one_way),
        yes("Groups last", &it.lasts),
    ];
    if let Some(gateway) = it.gateway {
        let answers = if gateway.answers == Some(true) { "answers" } else { "does not answer" };
        rows.push(row("Gateway", format!("{} {answers}", gateway.address), ""));
    }
    if !it.refused.is_empty() {
        let ways: Vec<&str> = it.refused.iter().copied().map(way).collect();
        rows.push(row("Not sent", ways.join(", "), ""));
    }
    rows.extend(it.devices.iter().map(|device| row("Device", told(device), "")));
    let unheard = it.neighbours.iter().filter(|it| it.known != Known::Proven);
    rows.extend(unheard.map(|it| row("Neighbour", neighbour(it), "")));
    rows
}

/// What is told of a finding, whatever its value.
struct Told<'a> {
    reason: Option<&'a str>,
    confidence: Confidence,
}

impl<'a, T> From<&'a Finding<T>> for Told<'a> {
    fn from(finding: &'a Finding<T>) -> Self {
        Self { reason: finding.reason.as_deref(), confidence: finding.confidence }
    }
}

fn word(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Unknown => "unknown",
        Confidence::Weak => "weak",
        Confidence::Strong => "strong",
        Confidence::Certain => "certain",
    }
}

fn reach(reach: Reach) -> &'static str {
    match reach {
        Reach::Works => "works",
        Reach::LinkLocalOnly => "groups of the link only (224.0.0.0/24)",
        Reach::OneWay => "in one direction only",
        Reach::Partly => "between some hosts only, or by some ways",
        Reach::Filtered => "filtered",
    }
}

fn told(device: &DeviceReport) -> String {
    let protocol = match device.protocol {
        DeviceProtocol::Ssdp => "UPnP",
        DeviceProtocol::Mdns => "mDNS",
    };
    let how = match device.answers {
        AnswerKind::Unicast => "to this host",
        AnswerKind::Multicast => "to the group",
        AnswerKind::Both => "to this host and to the group",
    };
    let software = device.software.as_ref().map_or(String::new(), |text| format!(", {text}"));
    format!("{} answers {protocol} {how}{software}", device.address)
}

fn neighbour(it: &NeighbourReport) -> String {
    match it.known {
        Known::Proven => it.address.to_string(),
        Known::Heard => format!("{} is heard, and does not show that it hears this host", it.address),
        Known::Told => format!("{} is heard by others, not here", it.address),
    }
}

fn way(way: Way) -> &'static str {
    match way {
        Way::Multicast => "group",
        Way::MulticastTtl4 => "TTL 4",
        Way::MdnsGroup => "mDNS",
        Way::MulticastIpv6 => "IPv6",
        Way::SubnetBroadcast => "subnet",
        Way::LimitedBroadcast => "all",
        Way::Unicast => "host",
        Way::UnicastIpv6 => "host v6",
    }
}

/// Columns of a pair and of a cell.
const PAIR: usize = 10;
const CELL: usize = 8;
const LEGEND: &str = "Beacons that arrived, of those that could. To groups: 239.255.77.78 with TTL 1 and with TTL 4, that of mDNS, ff12::4e41:5443; broadcasts: to the subnet, to all (255.255.255.255); to the host alone. *: as that host says. !: silent, and not by loss.";

fn matrix(it: &NetworkReport, width: usize) -> Vec<String> {
    if it.matrix.is_empty() {
        return Vec::new();
    }
    let mut hosts = vec![it.address];
    hosts.extend(it.matrix.iter().flat_map(|pair| [pair.from, pair.to]));
    let mut seen = Vec::new();
    hosts.retain(|host| {
        !seen.contains(host) && {
            seen.push(*host);
            true
        }
    });
    let number = |host: Ipv4Addr| hosts.iter().position(|it| *it == host).map_or(0, |index| index + 1);
    let name = |pair: &PairReport| {
        format!("  {} -> {}{}", number(pair.from), number(pair.to), if pair.told { "*" } else { "" })
    };
    let mut lines = vec![String::new()];
    lines.extend((1..).zip(&hosts).map(|(number, host)| {
        format!("  {number}  {host}{}", if *host == it.address { "  this host" } else { "" })
    }));
    let cells = |pair: &PairReport| Way::ALL.map(|way| cell(pair, way));
    if PAIR + Way::ALL.len() * CELL <= width {
        let row = |name: &str, cells: [String; 8]| {
            let cells = cells.map(|it| format!("{it:>CELL$}")).concat();
            format!("{name:PAIR$}{cells}").trim_end().to_owned()
        };
        lines.push(row("", Way::ALL.map(|it| way(it).to_owned())));
        lines.extend(it.matrix.iter().map(|pair| row(&name(pair), cells(pair))));
    } else {
        lines.extend(it.matrix.iter().flat_map(|pair| {
            let told: Vec<String> = Way::ALL
                .into_iter()
                .zip(cells(pair))
                .map(|(it, cell)| format!("{} {cell}", way(it)))
                .collect();
            layout::wrapped(&format!("{}: {}", name(pair), told.join(", ")), width)
        }));
    }
    lines.extend(layout::wrapped(LEGEND, width));
    lines
}

fn cell(pair: &PairReport, way: Way) -> String {
    let Some(it) = pair.ways.iter().find(|it| it.way == way) else { return "-".into() };
    let sure = if it.verdict == Verdict::Silent { "!" } else { "" };
    match it.sent {
        100.. => format!("{}%{sure}", u32::from(it.heard) * 100 / u32::from(it.sent)),
        _ => format!("{}/{}{sure}", it.heard, it.sent),
    }
}

fn evidence(it: &NetworkReport, width: usize) -> Vec<String> {
    let of = |label: &str, method: &str, evidence: &nat_check_core::report::Evidence| {
        let facts: Vec<String> = evidence.iter().map(|(name, fact)| format!("{name} {fact}")).collect();
        layout::wrapped(&format!("{label}: {method}; {}", facts.join("; ")), width)
    };
    [
        of("Multicast", &it.multicast.method, &it.multicast.evidence),
        of("IPv6 multicast", &it.ipv6_multicast.method, &it.ipv6_multicast.evidence),
        of("Broadcast", &it.broadcast.method, &it.broadcast.evidence),
        of("Isolation", &it.isolation.method, &it.isolation.evidence),
        of("One way", &it.one_way.method, &it.one_way.evidence),
        of("Lasts", &it.lasts.method, &it.lasts.evidence),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn finding(value: Value, confidence: &str, reason: Option<&str>) -> Value {
        json!({
            "value": value, "confidence": confidence, "reason": reason,
            "reason_code": reason.map(|_| "hosts-isolated"), "method": "beacons", "evidence": { "isolated": ["a and b"] },
        })
    }

    fn pair(from: &str, to: &str, told: bool, heard: u8) -> Value {
        let verdict = if heard == 0 { "silent" } else { "passes" };
        let way = |way: &str| json!({ "way": way, "sent": 16, "heard": heard, "verdict": verdict });
        json!({ "from": from, "to": to, "told": told, "ways": [way("multicast"), way("ipv6-unicast")] })
    }

    fn document() -> LanDocument {
        let works = finding("works".into(), "certain", None);
        let not_known = finding(Value::Null, "unknown", Some("switches remember members"));
        let lan = json!({
            "interface": "eth0", "address": "192.168.77.2", "prefix_len": 24, "ipv6_address": null,
            "gateway": { "address": "192.168.77.1", "answers": true }, "listened_s": 20.0,
            "multicast": works, "ipv6_multicast": works, "broadcast": works,
            "isolation": finding(true.into(), "strong", Some("not even unicast passes")),
            "one_way": finding(false.into(), "certain", None), "lasts": not_known,
            "hears_itself": ["multicast"], "refused": ["ipv6-multicast"],
            "devices": [{ "address": "192.168.77.9", "protocol": "ssdp", "answers": "unicast", "software": "box/1.0" }],
            "neighbours": [{
                "address": "192.168.77.3", "ipv6_address": null, "known": "told", "reaches_gateway": false, "rounds": 0,
            }],
            "matrix": [
                pair("192.168.77.3", "192.168.77.2", false, 0), pair("192.168.77.2", "192.168.77.4", true, 16),
            ],
            "ignored": 0, "more_networks": [],
        });
        let document = json!({ "version": 1, "tool": "nat-check", "partial": false, "lan": lan });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn findings_and_the_matrix_fit_the_width() {
        for width in [40, 80, 120] {
            let text = table(&document(), &Style { width, evidence: true });
            assert!(text.lines().all(|line| line.len() <= usize::from(width)), "{width}: {text}");
            assert!(text.contains("192.168.77.9 answers UPnP") || width == 40, "{text}");
        }
        let text = table(&document(), &Style { width: 80, evidence: false });
        assert!(text.starts_with("eth0, 192.168.77.2/24: 1 other host, 20 s\n"), "{text}");
        let wanted = "
  1  192.168.77.2  this host
  2  192.168.77.3
  3  192.168.77.4
             group   TTL 4    mDNS    IPv6  subnet     all    host host v6
  2 -> 1     0/16!       -       -       -       -       -       -   0/16!
  1 -> 3*    16/16       -       -       -       -       -       -   16/16
";
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains("yes: not even unicast passes"), "{text}");
        assert!(!text.contains("beacons;"), "{text}");
    }
}
