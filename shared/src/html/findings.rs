//! The findings of one family as a table, each with its confidence and its reason, its evidence folded away.

use serde_json::{Map, Value, json};

use super::{Html, Words, known, text};

/// The findings about UDP, in the order in which people ask for them.
pub(super) const UDP: [&str; 9] = [
    "nat_type",
    "mapping",
    "filtering",
    "port_allocation",
    "hairpinning",
    "alg",
    "inbound_first_remap",
    "distance",
    "lifetime",
];

pub(super) fn write(html: &mut Html, udp: &Value, words: &Words) {
    table(html, udp, &UDP, words);
}

/// What is told of IPv6 alone.
pub(super) fn ipv6(html: &mut Html, family: &Value, words: &Words) {
    let inbound = |transport: &str| family["inbound"][transport].clone();
    let part = json!({
        "translation": family["translation"], "inbound_udp": inbound("udp"), "inbound_tcp": inbound("tcp"),
    });
    table(html, &part, &["translation", "inbound_udp", "inbound_tcp"], words);
}

/// Those findings of a part of the report that there are.
pub(super) fn table(html: &mut Html, part: &Value, keys: &[&str], words: &Words) {
    html.raw("<div class=\"wide\"><table><tbody>");
    for key in keys.iter().copied().filter(|key| part[key].is_object()) {
        let finding = &part[key];
        let confidence = text(&finding["confidence"]);
        html.raw("<tr><th scope=\"row\">").text(words.finding(key)).raw("</th><td>");
        html.text(&value(key, &finding["value"], words));
        if !finding["reason"].is_null() {
            html.element("p", "class=\"reason\"", &words.reason(finding));
        }
        evidence(html, finding, words);
        let class = known(&confidence, &["certain", "strong", "weak"]);
        html.raw("</td><td class=\"confidence ")
            .raw(class)
            .raw("\">")
            .text(words.value(&confidence))
            .raw("</td></tr>");
    }
    html.raw("</tbody></table></div>\n");
}

/// A value in words.
fn value(key: &str, value: &Value, words: &Words) -> String {
    match value {
        Value::Null => words.unknown.into(),
        Value::Bool(true) => words.yes.into(),
        Value::Bool(false) => words.no.into(),
        // "None" is also a level.
        Value::String(word) if key == "translation" => words.value(&format!("translation-{word}")).to_owned(),
        Value::String(word) => words.value(word).to_owned(),
        Value::Object(parts) if key == "port_allocation" => ports(parts, words),
        Value::Object(parts) if key == "lifetime" => lifetime(parts, words),
        other => other.to_string(),
    }
}

fn ports(parts: &Map<String, Value>, words: &Words) -> String {
    let policy = parts.get("policy").map(text).unwrap_or_default();
    let delta = parts.get("delta").and_then(Value::as_i64).map(|delta| format!(" ({delta:+})"));
    format!("{}{}", words.value(&policy), delta.unwrap_or_default())
}

fn lifetime(parts: &Map<String, Value>, words: &Words) -> String {
    let timer = |key: &str| {
        let bracket = parts.get(key)?;
        let alive = bracket["alive_s"].as_f64()?;
        let until =
            bracket["expired_s"].as_f64().map_or(format!("> {alive} s"), |end| format!("{alive} – {end} s"));
        Some(format!("{}: {until}", words.timer(key)))
    };
    ["unreplied", "stream"].into_iter().filter_map(timer).collect::<Vec<_>>().join("; ")
}

/// How it was found and what it rests on.
fn evidence(html: &mut Html, finding: &Value, words: &Words) {
    let empty = Map::new();
    let facts = finding["evidence"].as_object().unwrap_or(&empty);
    let method = text(&finding["method"]);
    if facts.is_empty() && method.is_empty() {
        return;
    }
    html.raw("<details>").element("summary", "", words.evidence);
    html.element("p", "", &method).raw("<dl>");
    for (name, fact) in facts {
        html.element("dt", "", &name.replace('_', " "));
        html.element("dd", "", &shortened(&text(fact)));
    }
    html.raw("</dl></details>");
}

/// Long lists are in the JSON.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 400;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text.to_owned(),
    }
}
