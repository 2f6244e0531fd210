//! A picture of a topology: a tree from the Internet down to the hosts, as text or SVG.

use std::fmt::Write as _;

use shared::nat::model::{NatSpec, PRESETS, Stack};

use super::{Host, Topology, plan::Plan};

/// A line of the tree.
struct Row {
    depth: usize,
    /// A router, as opposed to a host.
    router: bool,
    name: String,
    about: String,
}

/// As text.
pub(super) fn text(topology: &Topology, plan: &Plan) -> String {
    let rows = rows(topology, plan);
    let width = rows.iter().map(|row| 3 * row.depth + row.name.len()).max().unwrap_or(0) + 2;
    let mut out = String::new();
    for (at, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for depth in 1..=row.depth {
            let goes_on =
                rows[at + 1..].iter().take_while(|next| next.depth >= depth).any(|next| next.depth == depth);
            line += match (depth == row.depth, goes_on) {
                (true, true) => "├─ ",
                (true, false) => "└─ ",
                (false, true) => "│  ",
                (false, false) => "   ",
            };
        }
        line += &row.name;
        let pad = width.saturating_sub(line.chars().count());
        let _ = writeln!(out, "{line}{}{}", " ".repeat(pad), row.about);
    }
    out
}

/// Sizes of the picture.
const ROW: usize = 40;
const INDENT: usize = 44;
const BOX: usize = 26;

/// As SVG.
pub(super) fn svg(topology: &Topology, plan: &Plan) -> String {
    let rows = rows(topology, plan);
    let widest = rows.iter().map(|row| INDENT * row.depth + 8 * (row.name.len() + row.about.len())).max();
    let (width, height) = (widest.unwrap_or(0) + 80, ROW * rows.len() + 20);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" font-size=\"13\">\n"
    );
    for (at, row) in rows.iter().enumerate() {
        let (x, y) = (10 + INDENT * row.depth, 10 + ROW * at);
        if let Some(above) = rows[..at].iter().rposition(|other| other.depth + 1 == row.depth) {
            let (px, py) = (10 + INDENT * (row.depth - 1) + 14, 10 + ROW * above + BOX);
            let _ =
                writeln!(out, "<path d=\"M{px} {py} V{} H{x}\" fill=\"none\" stroke=\"#888\"/>", y + BOX / 2);
        }
        let (fill, radius) = if row.router { ("#fde9c9", 3) } else { ("#d6e8fa", 12) };
        let (wide, name, about) = (16 + 8 * row.name.len(), escaped(&row.name), escaped(&row.about));
        let _ = writeln!(
            out,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{wide}\" height=\"{BOX}\" rx=\"{radius}\" fill=\"{fill}\" stroke=\"#666\"/>\
             <text x=\"{}\" y=\"{}\">{name}</text><text x=\"{}\" y=\"{}\" fill=\"#555\">{about}</text>",
            x + 8,
            y + 17,
            x + wide + 8,
            y + 17
        );
    }
    out + "</svg>\n"
}

fn rows(topology: &Topology, plan: &Plan) -> Vec<Row> {
    let mut rows = vec![Row {
        depth: 0,
        router: true,
        name: "internet".into(),
        about: "probe server 198.51.100.10 and .11, echo 198.51.100.10:7".into(),
    }];
    below(topology, plan, None, 1, &mut rows);
    rows
}

fn below(topology: &Topology, plan: &Plan, router: Option<&str>, depth: usize, rows: &mut Vec<Row>) {
    for (host, interfaces) in topology.hosts.iter().zip(&plan.hosts) {
        for (at, (attachment, interface)) in host.on.iter().zip(interfaces).enumerate() {
            if attachment.router.as_deref() == router {
                let about = about_host(topology, host, at, interface);
                rows.push(Row { depth, router: false, name: host.name.clone(), about });
            }
        }
    }
    for (number, other) in topology.routers.iter().enumerate() {
        if other.behind.as_deref() == router {
            let outermost = plan.routers[number].last().map(|node| &plan.nodes[*node].lan);
            let outside = outermost.map(|lan| lan.outside4.to_string()).unwrap_or_default();
            let about = format!("{} {outside}", short(&other.nat));
            rows.push(Row { depth, router: true, name: other.name.clone(), about });
            below(topology, plan, Some(&other.name), depth + 1, rows);
        }
    }
}

fn about_host(topology: &Topology, host: &Host, at: usize, interface: &super::plan::Interface) -> String {
    let mut about = String::new();
    if host.on.len() > 1 {
        let _ = write!(about, "eth{at} ");
    }
    if topology.families.v4 {
        let _ = write!(about, "{} ", interface.ip4);
    }
    if topology.families.v6 {
        let _ = write!(about, "{} ", interface.ip6);
    }
    for route in &interface.routes {
        let _ = write!(about, "for {route} ");
    }
    if let Some(run) = &host.run {
        let _ = write!(about, "runs {}", run.join(" "));
    }
    about.trim_end().to_owned()
}

/// The NATs by their names, where they have names.
fn short(nat: &Stack) -> String {
    let named = |spec: &NatSpec| {
        let preset = PRESETS.iter().find(|preset| preset.name.parse().as_ref() == Ok(spec));
        preset.map_or_else(|| spec.to_string(), |preset| preset.name.to_owned())
    };
    nat.0.iter().map(named).collect::<Vec<_>>().join("+")
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
