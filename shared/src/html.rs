//! A report as a document for browsers, or as a fragment of one: one file, nothing loaded from anywhere, no script. It reads
//! the report's JSON, which is the contract, and so serves the client and the server's page alike. All of it comes from
//! strangers: every text is escaped, and attributes hold fixed words and numbers only.

mod findings;
mod layers;
mod markup;
mod path;
mod peers;
mod pictures;
mod port_mapping;
mod punch;
#[cfg(test)]
mod tests;
mod words;

use serde_json::Value;

use markup::Html;
pub use words::Language;
use words::Words;

/// The style of every report.
pub const STYLE: &str = include_str!("html/report.css");

/// A report of nat-check or of the server's page, or of a punch, as a document of its own.
#[must_use]
pub fn document(report: &Value, language: Language) -> String {
    let words = words::of(language);
    let title = if report["punch"].is_object() { words.punch_title } else { words.title };
    let mut html = Html::new();
    html.raw("<!doctype html>\n<html lang=\"").raw(words.tag).raw("\">\n<head>\n<meta charset=\"utf-8\">\n");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
    html.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; ");
    html.raw("img-src data:\">\n<link rel=\"icon\" href=\"data:,\">\n");
    html.element("title", "", title).raw("<style>").raw(STYLE).raw("</style>\n</head>\n<body>\n<main>\n");
    html.element("h1", "", title).raw(&fragment(report, language));
    html.raw("</main>\n<script type=\"application/json\" id=\"report\">");
    // Inside a script element only `<` can end it.
    let json = serde_json::to_string(report).unwrap_or_default();
    html.raw(&json.replace('<', "\\u003c")).raw("</script>\n</body>\n</html>\n");
    html.text
}

/// What stands inside the `main` of such a document.
#[must_use]
pub fn fragment(report: &Value, language: Language) -> String {
    let words = words::of(language);
    let mut html = Html::new();
    if report["punch"].is_object() {
        punch::write(&mut html, report, words);
        return html.text;
    }
    answer(&mut html, report, words);
    path::write(&mut html, report, words);
    peers::write(&mut html, &report["hole_punching"], words);
    advice(&mut html, report, words);
    for (key, name) in FAMILIES {
        let family = &report[key];
        if family["status"] == "skipped" {
            continue;
        }
        html.raw("<section>").element(
            "h2",
            "",
            &format!("{name}: {}", words.value(&text(&family["status"]))),
        );
        if !family["reason"].is_null() {
            html.element("p", "", &words.reason(family));
        }
        if family["udp"].is_object() {
            findings::write(&mut html, &family["udp"], words);
            pictures::write(&mut html, &family["udp"], words);
        }
        if family["translation"].is_object() {
            findings::ipv6(&mut html, family, words);
        }
        html.raw("</section>\n");
    }
    layers::write(&mut html, &report["layers"], words);
    port_mapping::write(&mut html, &report["port_mapping"], words);
    about(&mut html, report, words);
    html.text
}

/// The families of a report: key and name.
const FAMILIES: [(&str, &str); 2] = [("ipv4", "IPv4"), ("ipv6", "IPv6")];

/// The answer comes first.
fn answer(html: &mut Html, report: &Value, words: &Words) {
    let verdict = &report["hole_punching"];
    let level = text(&verdict["level"]);
    html.raw("<section class=\"answer ").raw(known(&level, &LEVELS)).raw("\">");
    html.element("p", "class=\"level\"", words.value(&level));
    html.element("p", "class=\"summary\"", &words.summary(verdict));
    if let Some(seconds) = verdict["keepalive_s"].as_f64() {
        html.element("p", "", &format!("{}: {seconds} s", words.keepalive));
    }
    if report["partial"] == true {
        html.element("p", "", words.partial);
    }
    html.raw("</section>\n");
}

/// The levels, which are also classes of the style.
const LEVELS: [&str; 5] = ["any-peer", "most-peers", "some-peers", "none", "unknown"];

fn advice(html: &mut Html, report: &Value, words: &Words) {
    let list: Vec<String> = items(&report["advice"]).map(|advice| text(&advice["text"])).collect();
    let warnings: Vec<String> = items(&report["warnings"]).map(text).collect();
    for (heading, list) in [(words.advice, list), (words.warnings, warnings)] {
        if !list.is_empty() {
            html.raw("<section>").element("h2", "", heading).raw("<ul>");
            list.iter().for_each(|item| _ = html.element("li", "", item));
            html.raw("</ul></section>\n");
        }
    }
}

/// The server, and when it was.
fn about(html: &mut Html, report: &Value, words: &Words) {
    html.raw("<section>").element("h2", "", words.about).raw("<dl>");
    let server = &report["server"];
    let mut row = |name: &str, value: String| {
        if !value.is_empty() {
            html.element("dt", "", name).element("dd", "", &value);
        }
    };
    row(words.server, text(&server["query"]));
    row(words.software, text(&server["software"]));
    for (key, name) in FAMILIES {
        let at = &server[key];
        let both = [text(&at["primary"]), text(&at["alternate"])];
        row(name, both.iter().filter(|at| !at.is_empty()).cloned().collect::<Vec<_>>().join(", "));
    }
    for fault in items(&server["faults"]) {
        row(words.fault, text(fault));
    }
    row(words.time, text(&report["started_at"]));
    row(words.duration, format!("{} s", text(&report["duration_s"])));
    row(words.tool, text(&report["tool"]));
    html.raw("</dl></section>\n");
}

/// A value as text, without the quotation marks of a string; nothing for null.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The items of a list, at most as many as can be looked at.
fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten().take(64)
}

/// This word, if it is one of those, so that nothing else gets into an attribute.
fn known(word: &str, all: &[&'static str]) -> &'static str {
    all.iter().find(|known| **known == word).copied().unwrap_or("unknown")
}
