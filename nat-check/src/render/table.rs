//! The report for people. The first line is the answer; what it rests on follows.

use std::fmt::Write;

use anstyle::{AnsiColor, Style as Paint};
use shared::nat::NatType;

use super::{Format, Style, layout, words};
use nat_check_core::report::{
    self, AdviceCode, Confidence, FamilyReport, Level, PeerOutcome, PeerVerdict, Report, Requirement,
    RequirementVerdict, ServerReport, TcpReport, UdpReport, checklist,
};

pub(super) const FORMAT: Format = Format { name: "table", render };

fn render(report: &Report, style: &Style) -> String {
    let mut page = Page { text: String::new(), width: style.width };
    page.answer(report);
    page.family("IPv4", &report.ipv4);
    page.family("IPv6", &report.ipv6);
    page.layers(report);
    page.port_mapping(report);
    page.proxies(report);
    page.hole_punching(report, style.evidence);
    page.consoles(report);
    page.advice(report);
    page.checklist(report, style.evidence);
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
        let is_advised = report.advice.iter().any(|advice| advice.code == AdviceCode::SendKeepalives);
        if let Some(seconds) = report.hole_punching.keepalive_s.filter(|_| !is_advised) {
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
            rows.extend(udp_rows(udp));
        }
        if let Some(tcp) = &family.tcp {
            rows.extend(tcp_row(tcp, family.udp.as_ref()));
        }
        if !rows.is_empty() && !family.addresses.is_empty() {
            rows.push(row("Own addresses", words::addresses(&family.addresses), ""));
        }
        let ipv6 = report::ipv6_rows(family.translation.as_ref(), family.inbound.as_ref());
        rows.extend(ipv6.into_iter().map(|row| {
            let sure = row.basis.map_or("", |basis| words::confidence(basis.confidence));
            [row.label.into(), row.text, sure.into()]
        }));
        if rows.is_empty() {
            let reason = family.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            let line = format!("{name}: {}{reason}", words::status(family));
            self.text.push('\n');
            self.paragraph(DIM, &line);
            return;
        }
        self.heading(name);
        let rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
        self.table(&[], &rows);
    }

    fn layers(&mut self, report: &Report) {
        let Some(layers) = &report.layers else { return };
        self.heading("Way to the Internet");
        self.findings(report::layers_rows(layers));
    }

    fn port_mapping(&mut self, report: &Report) {
        let Some(port_mapping) = &report.port_mapping else { return };
        self.heading("Port mapping");
        self.findings(report::port_mapping_rows(port_mapping));
    }

    fn findings(&mut self, rows: Vec<report::Row>) {
        let rows: Vec<Vec<String>> = rows.into_iter().map(labelled).collect();
        self.table(&[], &rows);
    }

    fn proxies(&mut self, report: &Report) {
        for proxy in report.proxy.iter().flatten() {
            // Of what names no proxy only the variable is shown: the rest may hold a password.
            match (&proxy.variable, proxy.url.as_str()) {
                (Some(variable), "") => self.heading(variable),
                (_, url) => self.heading(&format!("Through {url}")),
            }
            let rows: Vec<Vec<String>> = report::proxy_rows("", proxy).into_iter().map(labelled).collect();
            self.table(&[], &rows);
            if let Some(through) = &proxy.udp {
                let direct = [&report.ipv4, &report.ipv6].into_iter().find_map(|family| family.udp.as_ref());
                self.text.push('\n');
                self.table(&["UDP", "without", "through"], &side_by_side(direct, through));
            }
        }
    }

    /// One table where both families have the same prospects.
    fn hole_punching(&mut self, report: &Report, with_reasons: bool) {
        let of = |family: &FamilyReport| family.hole_punching.as_ref().map(|verdict| verdict.peers.clone());
        match (of(&report.ipv4), of(&report.ipv6)) {
            (Some(four), Some(six)) if four == six => {
                self.peers("Hole punching, over IPv4 and IPv6 alike", &four, with_reasons);
            }
            (Some(four), Some(six)) => {
                self.peers("Hole punching over IPv4", &four, with_reasons);
                self.peers("Hole punching over IPv6, with peers that have it, too", &six, with_reasons);
            }
            (Some(four), None) => self.peers("Hole punching", &four, with_reasons),
            (None, Some(six)) => {
                self.peers("Hole punching over IPv6, with peers that have it, too", &six, with_reasons);
            }
            (None, None) => {}
        }
    }

    fn peers(&mut self, heading: &str, peers: &[PeerVerdict], with_reasons: bool) {
        self.heading(heading);
        let rows = peers.iter().map(|peer| {
            let chance = match (peer.outcome, peer.probability) {
                (PeerOutcome::Direct, Some(least)) if peer.at_least && least < 1.0 => {
                    format!("at least {}", words::chance(least).trim_start_matches("over "))
                }
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

    fn consoles(&mut self, report: &Report) {
        if let Some(consoles) = &report.consoles {
            self.heading("Game consoles");
            self.findings(report::console_rows(consoles));
        }
    }

    fn advice(&mut self, report: &Report) {
        if !report.advice.is_empty() {
            self.heading("What to do");
        }
        for advice in &report.advice {
            let width = usize::from(self.width).saturating_sub(2);
            for (at, line) in layout::wrapped(&advice.text, width).into_iter().enumerate() {
                let _ = writeln!(self.text, "{} {line}", if at == 0 { "-" } else { " " });
            }
        }
    }

    /// A line for each RFC, and what is not met; with the evidence everything that can be said.
    fn checklist(&mut self, report: &Report, with_evidence: bool) {
        let Some(checklist) = &report.checklist else { return };
        self.heading("Requirements of the RFCs");
        for line in checklist::summary(checklist) {
            self.paragraph(Paint::new(), &line);
        }
        for (rfc, requirements) in checklist::by_rfc(checklist) {
            let is_told = |it: &&Requirement| match it.verdict {
                RequirementVerdict::NotApplicable => false,
                RequirementVerdict::NotSettled => with_evidence || it.finding.is_some(),
                _ => true,
            };
            let rows = requirements.iter().filter(is_told).map(|it| {
                let text = format!("{}: {}", it.text, it.why);
                vec![it.requirement.clone(), it.level.text().into(), it.verdict.text().into(), text]
            });
            let rows: Vec<Vec<String>> = rows.collect();
            if !rows.is_empty() {
                self.text.push('\n');
                self.table(
                    &[&format!("RFC {rfc}"), "level", "verdict", "what it is about, and what was found"],
                    &rows,
                );
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
        for (name, family) in [("ipv4", &report.ipv4), ("ipv6", &report.ipv6)] {
            if let Some(udp) = &family.udp {
                self.heading(&format!("Evidence, {name}.udp"));
                self.table(&[], &evidence_rows(report::udp_rows("", udp)));
            }
            if let Some(tcp) = &family.tcp {
                self.heading(&format!("Evidence, {name}.tcp"));
                self.table(&[], &evidence_rows(report::tcp_rows("", tcp)));
            }
        }
        let ipv6 = report::ipv6_rows(report.ipv6.translation.as_ref(), report.ipv6.inbound.as_ref());
        if !ipv6.is_empty() {
            self.heading("Evidence, ipv6");
            self.table(&[], &evidence_rows(ipv6));
        }
        if let Some(layers) = &report.layers {
            self.heading("Evidence, layers");
            self.table(&[], &evidence_rows(report::layers_rows(layers)));
        }
        if let Some(consoles) = &report.consoles {
            self.heading("Evidence, consoles");
            self.table(&[], &evidence_rows(report::console_rows(consoles)));
        }
        if let Some(port_mapping) = &report.port_mapping {
            self.heading("Evidence, port_mapping");
            self.table(&[], &evidence_rows(report::port_mapping_rows(port_mapping)));
        }
        for (at, proxy) in report.proxy.iter().flatten().enumerate() {
            let through = proxy.udp.iter().flat_map(|udp| report::udp_rows(&format!("proxy.{at}.udp"), udp));
            self.heading(&format!("Evidence, proxy.{at}"));
            let rows = report::proxy_rows(&format!("proxy.{at}"), proxy);
            self.table(&[], &evidence_rows(rows.into_iter().chain(through).collect()));
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

/// The rows about UDP. Where it is blocked there is nothing to tell of its behaviour.
fn udp_rows(udp: &UdpReport) -> impl Iterator<Item = Row> {
    let blocked = udp.nat_type.value == Some(NatType::UdpBlocked);
    let tells = move |(at, row): &(usize, report::Row)| *at == 0 || !blocked || row.basis.is_none();
    report::udp_rows("", udp).into_iter().enumerate().filter(tells).map(|(_, row)| {
        let sure = row.basis.map_or("", |basis| words::confidence(basis.confidence));
        [row.label.into(), row.text, sure.into()]
    })
}

/// A row with its label, and how sure it is.
fn labelled(row: report::Row) -> Vec<String> {
    let sure = row.basis.map_or("", |basis| words::confidence(basis.confidence));
    vec![row.label.into(), row.text, sure.into()]
}

/// What is known of UDP without a proxy and through it, in one row each: the word alone, as both have to fit in.
fn side_by_side(direct: Option<&UdpReport>, through: &UdpReport) -> Vec<Vec<String>> {
    let short = |row: report::Row| {
        let is_known = row.basis.as_ref().is_none_or(|basis| basis.confidence > Confidence::Unknown);
        let weak = row.basis.is_some_and(|basis| basis.confidence == Confidence::Weak);
        let text = row.word.unwrap_or(row.text);
        let text = if is_known { text } else { "not known".to_owned() };
        (row.label, if weak { format!("{text} (weak)") } else { text })
    };
    let direct: Vec<_> = direct.map(|udp| report::udp_rows("", udp)).unwrap_or_default();
    let direct: Vec<_> = direct.into_iter().map(short).collect();
    let rows = report::udp_rows("", through).into_iter().map(short).map(|(label, text)| {
        let without = direct.iter().find(|row| row.0 == label).map(|row| row.1.clone());
        vec![label.to_owned(), without.unwrap_or_default(), text]
    });
    rows.collect()
}

/// What is known over TCP in one row, with the address where UDP has none.
fn tcp_row(tcp: &TcpReport, udp: Option<&UdpReport>) -> Option<Row> {
    let mut rows = report::tcp_rows("", tcp).into_iter().filter(|row| row.basis.is_none());
    let known = rows.next()?;
    let external = rows.next().filter(|_| udp.is_none_or(|udp| udp.external.is_empty()));
    let seen = external.map_or_else(String::new, |external| format!(", seen from {}", external.text));
    Some(row(known.label, known.text + &seen, ""))
}

fn server_line(server: &ServerReport) -> String {
    let mut line = server.query.clone();
    let families = [&server.ipv4, &server.ipv6];
    if families.iter().all(|addresses| addresses.is_none()) {
        line.push_str("; not reached");
    }
    for addresses in families.into_iter().flatten() {
        let _ = write!(line, "; asked at {}", addresses.primary);
        // Some servers name themselves.
        if let Some(alternate) = addresses.alternate.filter(|alternate| *alternate != addresses.primary) {
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

fn evidence_rows(rows: Vec<report::Row>) -> Vec<Vec<String>> {
    let rows = rows.into_iter().filter_map(|row| row.basis.map(|basis| (row.key, basis)));
    rows.map(|(key, basis)| {
        let mut facts: Vec<String> =
            basis.evidence.iter().map(|(name, fact)| format!("{name} {fact}")).collect();
        facts.extend(basis.reason.map(|reason| format!("({reason})")));
        vec![key.trim_start_matches('.').to_owned(), basis.method, facts.join(", ")]
    })
    .collect()
}
