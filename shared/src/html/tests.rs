//! Reports as they are and as they must not be.

use serde_json::{Value, json};

use super::*;

fn report() -> Value {
    let finding = |value: Value| json!({ "value": value, "confidence": "strong", "reason": null, "reason_code": null, "method": "RFC 5780", "evidence": {} });
    let unknown = json!({ "value": null, "confidence": "unknown", "reason": "a browser cannot measure it; nat-check does", "reason_code": "not-in-a-browser", "method": "", "evidence": {} });
    json!({
        "version": 1, "tool": "nat-check 0.1.0", "started_at": "2026-01-31T12:00:00Z", "duration_s": 0.6, "partial": false,
        "server": { "query": "probe.example.org", "software": "s", "ipv4": { "primary": "198.51.100.10:3478", "alternate": "198.51.100.11:3479" }, "ipv6": null, "faults": ["it is slow"] },
        "ipv4": { "status": "tested", "reason": null, "udp": {
            "local": "192.168.77.2:53211", "external": ["203.0.113.1:1", "203.0.113.1:2"], "rtt_s": 0.05, "loss": 0.1,
            "nat_type": finding(json!("symmetric")), "mapping": finding(json!("address-and-port-dependent")),
            "filtering": json!({ "value": "address-and-port-dependent", "confidence": "strong", "reason": null, "method": "m", "evidence": { "controls_sent": 10, "controls_answered": 9 } }),
            "port_allocation": json!({ "value": { "policy": "sequential", "delta": 1 }, "confidence": "strong", "method": "m", "evidence": { "external_ports": [1024, 1025, 1026] } }),
            "hairpinning": finding(json!(false)), "alg": unknown.clone(), "inbound_first_remap": unknown.clone(), "distance": unknown,
            "lifetime": json!({ "value": { "unreplied": { "alive_s": 29.9, "expired_s": 30.5 }, "stream": { "alive_s": 119.3, "expired_s": null } }, "confidence": "strong", "method": "m", "evidence": { "unreplied_looks": [[3.9, "alive"], [31.0, "gone"]] } }),
        } },
        "ipv6": { "status": "unavailable", "reason": "no global IPv6 address", "reason_code": "no-route", "udp": null },
        "layers": null,
        "hole_punching": { "level": "some-peers", "summary": "It works with some peers.", "keepalive_s": 23.0, "peers": [
            { "peer": "full-cone", "outcome": "direct", "technique": "direct", "probability": 0.998, "packets": 2, "seconds": null, "why": "anybody can send to the peer" },
            { "peer": "udp-blocked", "outcome": "relay", "technique": "relay", "probability": 0.0, "packets": null, "seconds": null, "why": "no UDP" } ] },
        "warnings": ["a note"], "advice": [{ "code": "c", "text": "Ask for a public address." }],
    })
}

/// Every element is closed, in order.
fn assert_well_formed(html: &str) {
    const VOID: [&str; 4] = ["meta", "link", "!doctype", "br"];
    let mut open: Vec<String> = Vec::new();
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag ends");
        let tag = &rest[at + 1..end];
        let name: String =
            tag.trim_start_matches('/').chars().take_while(|c| !c.is_whitespace() && *c != '/').collect();
        if tag.starts_with('/') {
            assert_eq!(open.pop().as_deref(), Some(name.as_str()));
        } else if !tag.ends_with('/') && !VOID.contains(&name.to_lowercase().as_str()) {
            open.push(name);
        }
        rest = &rest[end + 1..];
    }
    assert_eq!(open, [""; 0]);
}

#[test]
fn the_answer_comes_first_and_everything_has_its_words() {
    let html = document(&report(), Language::English);
    assert_well_formed(&html);
    let order = [
        "Works with some peers",
        "It works with some peers.",
        "The way out",
        "With whom",
        "Ask for a public",
        "NAT type",
        "External ports",
        "How long idle",
        "Round-trip",
        "About this report",
    ];
    let places: Vec<_> =
        order.iter().map(|words| html.find(words).unwrap_or_else(|| panic!("{words}"))).collect();
    assert!(places.is_sorted(), "{places:?}");
    for words in [
        "203.0.113.1:1 (+1)",
        "29.9 – 30.5 s",
        "&gt; 119.3 s",
        "sequential (+1)",
        "&gt; 99 %",
        "10.0 %",
        "it is slow",
        "no global IPv6 address",
    ] {
        assert!(html.contains(words), "{words}");
    }
}

#[test]
fn in_chinese_there_is_no_english_sentence() {
    let html = fragment(&report(), Language::Chinese);
    assert_well_formed(&html);
    for words in ["It works", "cannot measure", "not known", "anybody can send"] {
        assert!(!html.contains(words), "{words}");
    }
    assert!(html.contains("对称型 NAT") && html.contains("浏览器无法测量此项"));
}

/// Whatever a server or a peer calls itself, it is text.
#[test]
fn nothing_from_outside_is_markup() {
    const EVIL: &str = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\u{202e}";
    fn poison(value: &mut Value) {
        match value {
            Value::String(text) => *text = EVIL.into(),
            Value::Array(list) => list.iter_mut().for_each(poison),
            Value::Object(parts) => {
                parts.values_mut().for_each(poison);
                let names: Vec<String> = parts.keys().cloned().collect();
                parts.insert(EVIL.into(), names.len().into());
            }
            _ => {}
        }
    }
    let mut report = report();
    poison(&mut report);
    for language in [Language::English, Language::Chinese] {
        let html = document(&report, language);
        assert_eq!(html.matches("<script").count(), 1, "its own, for the JSON");
        let shown = html.split("<script").next().unwrap();
        assert!(!html.contains("<img") && !shown.contains('\u{202e}'));
        assert_well_formed(&html);
    }
}

#[test]
fn a_punch_is_drawn_as_well() {
    let document = json!({ "version": 1, "tool": "nat-check", "punch": { "outcome": "failed", "technique": null, "local": null, "remote": null,
        "self": { "nat_type": "symmetric" }, "peer": { "nat_type": null }, "predicted": { "outcome": "failed", "probability": 0.1 }, "why": "It did not work.", "attempts": [{ "technique": "simultaneous" }], "warnings": [] } });
    let html = super::document(&document, Language::English);
    assert_well_formed(&html);
    assert!(html.contains("no direct path") && html.contains("It did not work.") && html.contains("✕"));
}

#[test]
fn nothing_at_all_is_no_panic() {
    for report in
        [json!(null), json!({}), json!({ "ipv4": { "udp": {} }, "ipv6": [] }), json!({ "punch": {} })]
    {
        assert_well_formed(&document(&report, Language::English));
    }
}

#[test]
fn the_way_to_the_internet_has_its_section() {
    let finding = |value: Value| json!({ "value": value, "confidence": "strong", "reason": null, "method": "m", "evidence": {} });
    let mut report = report();
    assert!(!document(&report, Language::English).contains("Way to the Internet"));
    report["layers"] = json!({ "kind": finding(json!("carrier-grade")), "at_least": finding(json!(2)),
        "gateway": "192.168.1.1", "gateway_external_address": finding(Value::Null), "hops": [
            { "hop": 1, "address": "192.168.1.1", "kind": "gateway", "rtt_s": 0.0012 },
            { "hop": 2, "address": "<b>", "kind": "carrier", "rtt_s": 0.008 }] });
    let html = document(&report, Language::English);
    assert_well_formed(&html);
    for said in ["Way to the Internet", "1: 192.168.1.1 (gateway, 1.2 ms)", "2: &lt;b&gt; (carrier, 8.0 ms)"]
    {
        assert!(html.contains(said), "{said}");
    }
    assert!(!html.contains("The gateway names itself"), "it does not");
    assert_well_formed(&document(&report, Language::Chinese));
}

#[test]
fn ports_that_the_gateway_opens_have_their_section() {
    let finding = |value: Value| json!({ "value": value, "confidence": "certain", "reason": null, "method": "m", "evidence": {} });
    let mapping = json!({ "protocol": "udp", "internal": 50000, "external": 41000, "lifetime_s": 120 });
    let mut report = report();
    assert!(!document(&report, Language::English).contains("Ports that the gateway opens"), "nobody asked");
    report["port_mapping"] = json!({ "gateway": "192.168.77.1", "reason": null, "pcp": null, "nat_pmp": { "gateway": "192.168.77.1", "error": "<refused>" }, "upnp": {
        "gateway": "192.168.77.1", "software": "MiniUPnPd & more", "mapping": mapping, "mapping_tcp": null, "error": null,
        "reachable_udp": finding(json!(true)), "deleted": finding(json!(true)) } });
    for language in [Language::English, Language::Chinese] {
        let html = document(&report, language);
        assert_well_formed(&html);
        for said in ["MiniUPnPd &amp; more", "UDP 41000 → 50000 (120 s)", "&lt;refused&gt;"] {
            assert!(html.contains(said), "{said}");
        }
    }
    assert!(document(&report, Language::English).contains("Reached from outside over UDP"));
    let link = |gateway: &str, internal: u16| {
        json!({ "gateway": gateway, "protocol": "pcp", "error": null, "mapping_tcp": null,
        "mapping": { "protocol": "udp", "internal": internal, "external": 43000, "lifetime_s": 120 }, "deleted": finding(json!(true)) })
    };
    report["port_mapping"]["chain"] = json!({ "reason": null, "inner": link("192.168.77.1", 50000),
        "outer": link("192.168.1.1", 41000), "reachable_udp": finding(json!(true)), "reachable_tcp": finding(json!(false)) });
    let html = document(&report, Language::English);
    assert_well_formed(&html);
    for said in ["Through both NATs", "Second router: 192.168.1.1, UDP 43000 → 41000 (120 s)", "over TCP"] {
        assert!(html.contains(said), "{said}");
    }
    report["port_mapping"]["chain"] = json!({ "reason": "it is <not> sure", "reason_code": "second-nat-unsure",
        "inner": null, "outer": null, "reachable_udp": finding(Value::Null), "reachable_tcp": finding(Value::Null) });
    let html = document(&report, Language::English);
    assert!(
        html.contains("it is &lt;not&gt; sure")
            && !html.contains("Second router")
            && !html.contains("over TCP"),
        "{html}"
    );
    report["port_mapping"] =
        json!({ "gateway": "192.168.77.1", "reason": null, "pcp": null, "nat_pmp": null, "upnp": null });
    assert!(document(&report, Language::English).contains("answers neither PCP"));
    report["port_mapping"] =
        json!({ "gateway": null, "reason": "there is no gateway", "reason_code": "gateway-unknown" });
    assert!(document(&report, Language::English).contains("there is no gateway"));
}
