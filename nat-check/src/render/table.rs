//! The report for people. The first line is the answer; what it rests on follows.

use std::fmt::Write;

use anstyle::{AnsiColor, Style as Paint};
use shared::nat::NatType;

use super::{Format, Style, layout, words};
use nat_check_core::report::{
    Confidence, FamilyReport, Finding, Level, PeerOutcome, PeerVerdict, Report, ServerReport, UdpReport,
};

pub(super) const FORMAT: Format = Format { name: "table", render };

fn render(report: &Report, style: &Style) -> String {
    let mut page = Page { text: String::new(), width: style.width };
    page.answer(report);
    page.family("IPv4", &report.ipv4);
    page.family("IPv6", &report.ipv6);
    page.peers(&report.hole_punching.peers, style.evidence);
    page.server(report);
    page.list("Note", &report.warnings);
    if style.evidence {
        page.evidence(report);
    }
    page.text.push('\n');
    let footer = format!("{}; {:.2} s; {}", report.tool, report.duration_s, report.started_at);
    page.paragraph(Paint::new(), &footer);
    page.text
}

const BOLD: Paint = Paint::new().bold();
const DIM: Paint = Paint::new().dimmed();

/// A label, what was found, how sure it is.
type Row = [String; 3];

struct Page {
    text: String,
    width: u16,
}

// Writing to a string cannot fail, so results of `write!` are dropped throughout.
impl Page {
    fn answer(&mut self, report: &Report) {
        let colour = match report.hole_punching.level {
            Level::AnyPeer | Level::MostPeers => AnsiColor::Green,
            Level::SomePeers | Level::Unknown => AnsiColor::Yellow,
            Level::None => AnsiColor::Red,
        };
        self.paragraph(colour.on_default().bold(), &report.hole_punching.summary);
        if report.simulated {
            self.paragraph(
                AnsiColor::Cyan.on_default(),
                "Simulated network: this is not about the network you are on.",
            );
        }
        if report.partial {
            self.paragraph(
                AnsiColor::Yellow.on_default(),
                "The run was ended early: unknown results may only be unfinished.",
            );
        }
        if let Some(seconds) = report.hole_punching.keepalive_s {
            let advice = format!(
                "To keep a path open, send a packet every {} s (80 % of the idle time survived).",
                words::number(seconds)
            );
            self.paragraph(Paint::new(), &advice);
        }
    }

    fn family(&mut self, name: &str, family: &FamilyReport) {
        let mut rows: Vec<Row> = Vec::new();
        if let Some(udp) = &family.udp {
            udp_rows(udp, &mut rows);
        }
        if let Some(tcp) = &family.tcp
            && family.udp.as_ref().is_none_or(|udp| udp.external.is_empty())
        {
            let seen = tcp.external.map_or(String::new(), |at| format!(", seen from {at}"));
            let reached = if tcp.reachable { "reaches the server" } else { "does not reach the server" };
            rows.push(row("TCP", format!("{reached}{seen}"), ""));
        }
        if rows.is_empty() {
            let status = serde_json::to_value(family.status).unwrap_or_default();
            let reason = family.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            let line = format!("{name}: {}{reason}", status.as_str().unwrap_or("not tested"));
            self.text.push('\n');
            self.paragraph(DIM, &line);
            return;
        }
        self.heading(name);
        let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
        self.table(&[], &rows);
    }

    fn peers(&mut self, peers: &[PeerVerdict], with_reasons: bool) {
        if peers.is_empty() {
            return;
        }
        self.heading("Hole punching");
        let rows = peers.iter().map(|peer| {
            let chance = match (peer.outcome, peer.probability) {
                (PeerOutcome::Direct, Some(probability)) => words::chance(probability),
                (PeerOutcome::Direct | PeerOutcome::Unknown, _) => "not known".into(),
                (PeerOutcome::Relay, _) => String::new(),
            };
            let cost = match (peer.packets, peer.seconds) {
                (Some(packets), Some(seconds)) if packets > FEW && seconds >= 1.0 => {
                    format!("{packets} packets, {seconds:.0} s")
                }
                (Some(packets), _) if packets > FEW => format!("{packets} packets"),
                (Some(_), _) => "a few packets".into(),
                (None, _) => String::new(),
            };
            let how = peer.technique.map_or("", words::technique);
            vec![words::peer(peer.peer).into(), words::outcome(peer.outcome).into(), how.into(), chance, cost]
        });
        let rows: Vec<Vec<String>> = rows.collect();
        self.table(&["peer", "direct?", "technique", "probability", "cost"], &rows);
        if with_reasons {
            for peer in peers {
                let line = format!("{}: {}.", words::peer(peer.peer), peer.why);
                self.paragraph(DIM, &line);
            }
        }
    }

    fn server(&mut self, report: &Report) {
        let servers = || std::iter::once(&report.server).chain(&report.more_servers);
        self.heading(if report.more_servers.is_empty() { "Server" } else { "Servers" });
        for server in servers() {
            let line = server_line(server);
            self.paragraph(Paint::new(), &line);
        }
        for server in servers() {
            self.list(&format!("Fault of {}", server.query), &server.faults);
        }
    }

    fn evidence(&mut self, report: &Report) {
        let families = [("ipv4", &report.ipv4), ("ipv6", &report.ipv6)];
        for (name, udp) in families.into_iter().filter_map(|(name, f)| f.udp.as_ref().map(|udp| (name, udp)))
        {
            self.heading(&format!("Evidence, {name}.udp"));
            self.table(&[], &evidence_rows(udp));
        }
    }

    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "\n{BOLD}{text}{BOLD:#}");
    }

    fn list(&mut self, label: &str, lines: &[String]) {
        let paint = AnsiColor::Yellow.on_default();
        for line in lines {
            self.text.push('\n');
            self.paragraph(paint, &format!("{label}: {line}"));
        }
    }

    /// Text in lines no wider than the terminal.
    fn paragraph(&mut self, paint: Paint, text: &str) {
        for line in layout::wrapped(text, usize::from(self.width)) {
            let _ = writeln!(self.text, "{paint}{line}{paint:#}");
        }
    }

    fn table(&mut self, header: &[&str], rows: &[Vec<String>]) {
        for line in layout::table(header, rows, usize::from(self.width)) {
            let _ = writeln!(self.text, "{line}");
        }
    }
}

/// Below this a number of packets is not worth telling.
const FEW: u32 = 10;

fn row(label: &str, value: impl Into<String>, sure: &str) -> Row {
    [label.into(), value.into(), sure.into()]
}

fn udp_rows(udp: &UdpReport, rows: &mut Vec<Row>) {
    let mut nat_type = finding("NAT type", &udp.nat_type, |t| words::nat_type(*t).into());
    if udp.nat_type.value == Some(NatType::UdpBlocked)
        && let Some(reason) =
            udp.nat_type.reason.as_ref().filter(|_| udp.nat_type.confidence != Confidence::Weak)
    {
        // It may also be the server that does not serve UDP.
        let _ = write!(nat_type[1], " ({reason})");
    }
    rows.push(nat_type);
    if let Some(local) = udp.local {
        rows.push(row("Local address", local.to_string(), ""));
    }
    if !udp.external.is_empty() {
        let seen: Vec<String> = udp.external.iter().map(ToString::to_string).collect();
        rows.push(row("External address", seen.join(", "), ""));
    }
    if udp.nat_type.value == Some(NatType::UdpBlocked) {
        return;
    }
    rows.push(finding("Mapping", &udp.mapping, |m| words::mapping(*m).into()));
    rows.push(finding("Filtering", &udp.filtering, |f| words::filtering(*f).into()));
    rows.push(finding("Port allocation", &udp.port_allocation, words::ports));
    rows.push(finding("Hairpinning", &udp.hairpinning, |works| words::hairpinning(*works).into()));
    rows.push(finding("ALG", &udp.alg, |rewrites| words::alg(*rewrites).into()));
    rows.push(finding("Inbound-first remapping", &udp.inbound_first_remap, |r| {
        words::inbound_first(*r).into()
    }));
    rows.push(finding("Outermost filter", &udp.distance, |hops| words::distance(*hops)));
    rows.push(finding("Mapping lifetime", &udp.lifetime, words::lifetime));
    rows.extend(
        udp.lifetime.value.as_ref().and_then(words::keepalives).map(|text| row("Keepalive", text, "")),
    );
    let path = match (udp.rtt_s, udp.loss) {
        (Some(rtt), Some(loss)) => {
            format!("round trip {} ms, packet loss {}", words::number(rtt * 1000.0), words::chance(loss))
        }
        (Some(rtt), None) => format!("round trip {} ms", words::number(rtt * 1000.0)),
        (None, Some(loss)) => format!("packet loss {}", words::chance(loss)),
        (None, None) => return,
    };
    rows.push(row("Path to server", path, ""));
}

fn finding<T>(label: &str, finding: &Finding<T>, in_words: impl Fn(&T) -> String) -> Row {
    let sure = words::confidence(finding.confidence);
    match &finding.value {
        Some(value) => {
            // What is not sure needs its reason.
            let reason = finding.reason.as_ref().filter(|_| finding.confidence == Confidence::Weak);
            let reason = reason.map_or(String::new(), |reason| format!(" ({reason})"));
            row(label, in_words(value) + &reason, sure)
        }
        None => {
            let reason = finding.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            row(label, format!("not known{reason}"), sure)
        }
    }
}

fn server_line(server: &ServerReport) -> String {
    let mut line = server.query.clone();
    let families = [&server.ipv4, &server.ipv6];
    for addresses in families.into_iter().flatten() {
        let _ = write!(line, "; asked at {}", addresses.primary);
        if let Some(alternate) = addresses.alternate {
            let _ = write!(line, " and {alternate}");
        }
    }
    if let Some(software) = &server.software {
        let _ = write!(line, "; {software}");
    }
    if server.features.change_request.value == Some(false) {
        line.push_str("; cannot answer from another address");
    }
    line
}

fn evidence_rows(udp: &UdpReport) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut add =
        |name: &str, method: &str, reason: Option<&String>, evidence: &nat_check_core::report::Evidence| {
            let mut facts: Vec<String> =
                evidence.iter().map(|(name, fact)| format!("{name} {fact}")).collect();
            facts.extend(reason.map(|reason| format!("({reason})")));
            rows.push(vec![name.to_owned(), method.to_owned(), facts.join(", ")]);
        };
    macro_rules! each {
        ($($field:ident),*) => {$(
            let finding = &udp.$field;
            add(stringify!($field), &finding.method, finding.reason.as_ref(), &finding.evidence);
        )*};
    }
    each!(
        nat_type,
        mapping,
        filtering,
        port_allocation,
        hairpinning,
        alg,
        inbound_first_remap,
        distance,
        lifetime
    );
    rows
}
