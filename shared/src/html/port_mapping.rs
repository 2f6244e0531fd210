//! Ports that the gateway opens: what each protocol came to.

use serde_json::Value;

use super::{Html, Words, findings, text};

/// Protocols: key and name.
const PROTOCOLS: [(&str, &str); 3] = [("pcp", "PCP"), ("nat_pmp", "NAT-PMP"), ("upnp", "UPnP")];
/// What is said of each, in the order of the table for terminals.
const FINDINGS: [&str; 6] = [
    "external_address_agrees",
    "reachable_udp",
    "reachable_tcp",
    "outbound_uses_mapping",
    "deleted",
    "lost_mappings",
];

pub(super) fn write(html: &mut Html, report: &Value, words: &Words) {
    if !report.is_object() {
        return;
    }
    html.raw("<section>").element("h2", "", words.port_mapping);
    let answered: Vec<_> = PROTOCOLS.into_iter().filter(|(key, _)| report[key].is_object()).collect();
    if !report["reason"].is_null() {
        html.element("p", "", &words.reason(report));
    } else if answered.is_empty() {
        html.element("p", "", words.nobody_opens_ports);
    }
    let over_ipv6 = [("pcp", "PCP, IPv6"), ("upnp", "UPnP, IPv6")];
    let over_ipv6 = over_ipv6.into_iter().map(|(key, name)| (&report["ipv6"][key], name));
    let all = answered.into_iter().map(|(key, name)| (&report[key], name)).chain(over_ipv6);
    for (it, name) in all.filter(|(it, _)| it.is_object()) {
        html.element("h3", "", name).element("p", "", &summary(it, words));
        if it["mapping"].is_object() || it["mapping_tcp"].is_object() {
            findings::table(html, it, &FINDINGS, words);
        }
    }
    chain(html, &report["chain"], words);
    html.raw("</section>\n");
}

/// Both NATs of a double NAT: what each opened, and whether anybody comes in through both.
fn chain(html: &mut Html, chain: &Value, words: &Words) {
    if !chain.is_object() {
        return;
    }
    html.element("h3", "", words.both_nats);
    if !chain["reason"].is_null() {
        html.element("p", "", &words.reason(chain));
    }
    for (link, name) in [("inner", words.first_router), ("outer", words.second_router)] {
        let link = &chain[link];
        if link.is_object() {
            html.element("p", "", &format!("{name}: {}", summary(link, words)));
            findings::table(html, link, &["deleted"], words);
        }
    }
    if chain["reason"].is_null() {
        findings::table(html, chain, &["reachable_udp", "reachable_tcp"], words);
    }
}

/// Who answers and what was opened, or why nothing was.
fn summary(it: &Value, words: &Words) -> String {
    let mut parts = vec![text(&it["gateway"]), text(&it["software"])];
    for mapping in [&it["mapping"], &it["mapping_tcp"]] {
        if mapping.is_object() {
            let protocol = text(&mapping["protocol"]).to_uppercase();
            let (internal, external) = (text(&mapping["internal"]), text(&mapping["external"]));
            parts.push(format!("{protocol} {external} → {internal} ({} s)", text(&mapping["lifetime_s"])));
        }
    }
    let error = text(&it["error"]);
    if !error.is_empty() {
        parts.push(format!("{}: {error}", words.refused));
    }
    parts.retain(|part| !part.is_empty());
    parts.join(", ")
}
