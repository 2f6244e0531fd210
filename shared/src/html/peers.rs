//! With whom hole punching works: one row a kind of peer.

use serde_json::Value;

use super::{Html, Words, items, known, text};

pub(super) fn write(html: &mut Html, verdict: &Value, words: &Words) {
    if items(&verdict["peers"]).next().is_none() {
        return;
    }
    html.raw("<section>").element("h2", "", words.peers);
    html.raw("<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"")
        .text(words.peers)
        .raw("\"><table><thead><tr>");
    for heading in [words.peer, words.direct, words.technique, words.chance, words.cost] {
        html.element("th", "scope=\"col\"", heading);
    }
    html.raw("</tr></thead><tbody>");
    for peer in items(&verdict["peers"]) {
        let outcome = text(&peer["outcome"]);
        html.raw("<tr class=\"").raw(known(&outcome, &["direct", "relay", "unknown"])).raw("\">");
        html.element("th", "scope=\"row\"", words.value(&text(&peer["peer"])));
        let answer = match outcome.as_str() {
            "direct" => words.yes,
            "relay" => words.no,
            _ => words.unknown,
        };
        html.element("td", "class=\"outcome\"", answer);
        html.element("td", "", words.technique_name(&text(&peer["technique"])));
        html.element("td", "class=\"number\"", &chance(peer));
        html.element("td", "class=\"number\"", &cost(peer, words)).raw("</tr>");
        if words.shows_sentences {
            html.raw("<tr class=\"why\"><td colspan=\"5\">").text(&text(&peer["why"])).raw("</td></tr>");
        }
    }
    html.raw("</tbody></table></div></section>\n");
}

/// In percent, never rounded up to certainty.
fn chance(peer: &Value) -> String {
    let Some(share) = peer["probability"].as_f64() else { return "–".into() };
    let least = if peer["at_least"] == true { "≥ " } else { "" };
    match share {
        1.0.. => format!("{least}100 %"),
        s if s > 0.99 => format!("{least}> 99 %"),
        s if s > 0.0 && s < 0.01 => "< 1 %".into(),
        s => format!("{least}{:.0} %", s * 100.0),
    }
}

fn cost(peer: &Value, words: &Words) -> String {
    let packets = peer["packets"].as_u64().map(|packets| format!("{packets} {}", words.packets));
    let seconds = peer["seconds"].as_f64().map(|seconds| format!("{seconds:.1} s"));
    [packets, seconds].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
