//! The report of a punch: both sides, what was predicted, what came of it.

use serde_json::Value;

use super::{Html, Words, items, known, text};

pub(super) fn write(html: &mut Html, document: &Value, words: &Words) {
    let punch = &document["punch"];
    let outcome = text(&punch["outcome"]);
    html.raw("<section class=\"answer ").raw(known(&outcome, &["direct", "failed"])).raw("\">");
    html.element("p", "class=\"level\"", words.value(&outcome));
    html.element("p", "class=\"summary\"", &text(&punch["why"]));
    if document["partial"] == true {
        html.element("p", "", words.partial);
    }
    html.raw("</section>\n");
    draw(html, punch, words);
    html.raw("<section>").element("h2", "", words.about).raw("<dl>");
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            html.element("dt", "", name).element("dd", "", &value);
        }
    };
    let predicted = &punch["predicted"];
    let chance = predicted["probability"].as_f64().map(|p| format!(", {:.1} %", p * 100.0));
    row(words.predicted, words.value(&text(&predicted["outcome"])).to_owned() + &chance.unwrap_or_default());
    row(words.technique, words.technique_name(&text(&punch["technique"])).to_owned());
    row(words.round_trip, milliseconds(&punch["rtt_s"]));
    row(words.first_packet, milliseconds(&punch["first_packet_s"]));
    row(words.packets, text(&punch["packets"]));
    for (number, round) in (1..).zip(items(&punch["attempts"])) {
        row(&format!("{} {number}", words.round), text(&round["technique"]));
    }
    for warning in items(&punch["warnings"]) {
        row(words.warnings, text(warning));
    }
    row(words.tool, text(&document["tool"]));
    html.raw("</dl></section>\n");
}

/// Two hosts, their NATs, and the path between them, or none.
fn draw(html: &mut Html, punch: &Value, words: &Words) {
    let side = |name: &str| {
        let kind = text(&punch[name]["nat_type"]);
        if kind.is_empty() { words.unknown.to_owned() } else { words.value(&kind).to_owned() }
    };
    let (this, peer) = (side("self"), side("peer"));
    let (local, remote) = (text(&punch["local"]), text(&punch["remote"]));
    let is_direct = punch["outcome"] == "direct";
    let told = format!("{} {local} → {this} → {peer} → {} {remote}", words.host, words.peer);
    html.raw("<figure>").picture(720, 150, words.path, &told);
    html.rectangle((10.0, 50.0), (120.0, 60.0), "box").label((70.0, 84.0), "middle", words.host);
    html.rectangle((160.0, 50.0), (150.0, 60.0), "box nat").label((235.0, 84.0), "middle", &this);
    html.rectangle((410.0, 50.0), (150.0, 60.0), "box nat").label((485.0, 84.0), "middle", &peer);
    html.rectangle((590.0, 50.0), (120.0, 60.0), "box").label((650.0, 84.0), "middle", words.peer);
    html.line((130.0, 80.0), (160.0, 80.0), "edge").line((560.0, 80.0), (590.0, 80.0), "edge");
    html.line((310.0, 80.0), (410.0, 80.0), if is_direct { "edge" } else { "edge blocked" });
    if !is_direct {
        html.label((360.0, 70.0), "middle", "✕");
    }
    html.label((70.0, 130.0), "middle", &local).label((485.0, 130.0), "middle", &remote);
    html.raw("</svg>").element("figcaption", "", &told).raw("</figure>\n");
}

fn milliseconds(value: &Value) -> String {
    value.as_f64().map_or(String::new(), |seconds| format!("{:.1} ms", seconds * 1000.0))
}
