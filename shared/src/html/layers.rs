//! The way to the Internet: which kind it is, and the nearest routers.

use serde_json::Value;

use super::{Html, Words, findings, items, text};

/// What is said of the way, in the order of the table for terminals.
const FINDINGS: [&str; 3] = ["kind", "at_least", "gateway_external_address"];

pub(super) fn write(html: &mut Html, layers: &Value, words: &Words) {
    if !layers.is_object() {
        return;
    }
    html.raw("<section>").element("h2", "", words.layers);
    let is_known = |key: &&str| *key == "kind" || !layers[*key]["value"].is_null();
    let known: Vec<&str> = FINDINGS.into_iter().filter(is_known).collect();
    findings::table(html, layers, &known, words);
    let hops: Vec<String> = items(&layers["hops"]).map(|hop| hop_text(hop, words)).collect();
    if !hops.is_empty() {
        html.raw("<ol>");
        hops.iter().for_each(|hop| _ = html.element("li", "", hop));
        html.raw("</ol>");
    }
    html.raw("</section>\n");
}

fn hop_text(hop: &Value, words: &Words) -> String {
    let (address, kind) = (text(&hop["address"]), text(&hop["kind"]));
    let took = hop["rtt_s"].as_f64().map(|seconds| format!(", {:.1} ms", seconds * 1000.0));
    format!("{}: {address} ({}{})", text(&hop["hop"]), words.value(&kind), took.unwrap_or_default())
}
