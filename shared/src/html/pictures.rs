//! Pictures of one family: how ports are chosen, how long mappings live, how many packets came back. Each says in words what
//! it shows, and draws no more than it was told.

use serde_json::Value;

use super::{Html, Words, items};

pub(super) fn write(html: &mut Html, udp: &Value, words: &Words) {
    ports(html, udp, words);
    lifetime(html, &udp["lifetime"], words);
    line(html, udp, words);
}

const WIDTH: f64 = 720.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 700.0;

/// External ports in the order of their mappings.
fn ports(html: &mut Html, udp: &Value, words: &Words) {
    let evidence = &udp["port_allocation"]["evidence"];
    let port = |value: &Value| value.as_u64().filter(|port| *port <= 65535).map(|port| port as f64);
    let of_client = items(&evidence["external_ports"]).filter_map(port);
    let of_page = items(&evidence["local_and_external"]).filter_map(|pair| port(&pair[1]));
    let ports: Vec<f64> = of_client.chain(of_page).collect();
    if ports.len() < 2 {
        return;
    }
    let low = ports.iter().copied().fold(f64::MAX, f64::min);
    let high = ports.iter().copied().fold(0.0, f64::max);
    let text = format!("{}: {} – {}", words.port_picture, low, high);
    html.raw("<figure>").picture(WIDTH as u32, 170, words.port_picture, &text);
    html.line((LEFT, 140.0), (RIGHT, 140.0), "axis").line((LEFT, 20.0), (LEFT, 140.0), "axis");
    html.label((LEFT - 8.0, 30.0), "end", &high.to_string()).label(
        (LEFT - 8.0, 140.0),
        "end",
        &low.to_string(),
    );
    html.label((RIGHT, 160.0), "end", words.order);
    let step = (RIGHT - LEFT - 20.0) / (ports.len() - 1) as f64;
    for (number, port) in ports.iter().enumerate() {
        let share = if high > low { (port - low) / (high - low) } else { 0.5 };
        html.dot((LEFT + 10.0 + number as f64 * step, 130.0 - share * 100.0), "dot");
    }
    html.raw("</svg>").element("figcaption", "", &text).raw("</figure>\n");
}

/// For each timer, the idle times at which a mapping was still there or gone, on a logarithmic scale.
fn lifetime(html: &mut Html, finding: &Value, words: &Words) {
    let value = &finding["value"];
    let timers: Vec<(&str, f64, Option<f64>)> = ["unreplied", "stream"]
        .into_iter()
        .filter_map(|key| Some((key, value[key]["alive_s"].as_f64()?, value[key]["expired_s"].as_f64())))
        .collect();
    if timers.is_empty() {
        return;
    }
    let longest = timers.iter().map(|(_, alive, end)| end.unwrap_or(*alive)).fold(1.0, f64::max) * 1.5;
    let x = |seconds: f64| {
        LEFT + (RIGHT - LEFT) * (seconds.max(1.0).ln() / longest.max(2.0).ln()).clamp(0.0, 1.0)
    };
    let told: Vec<String> = timers
        .iter()
        .map(|(key, alive, end)| {
            let end = end.map_or(String::new(), |end| format!(" – {end} s"));
            format!("{}: {alive} s{end}", words.timer(key))
        })
        .collect();
    let text = format!("{}: {}", words.lifetime_picture, told.join("; "));
    let height = 50 + 40 * timers.len() as u32;
    html.raw("<figure>").picture(WIDTH as u32, height, words.lifetime_picture, &text);
    let bottom = f64::from(height) - 30.0;
    for seconds in [1.0, 10.0, 60.0, 300.0, 3600.0, 7200.0].into_iter().filter(|seconds| *seconds <= longest)
    {
        html.line((x(seconds), 10.0), (x(seconds), bottom), "grid");
        html.label((x(seconds), bottom + 18.0), "middle", &format!("{seconds} s"));
    }
    for (row, (key, alive, end)) in timers.iter().enumerate() {
        let y = 30.0 + 40.0 * row as f64;
        html.label((LEFT - 8.0, y + 5.0), "end", words.timer(key));
        html.rectangle((LEFT, y - 6.0), ((x(*alive) - LEFT).max(1.0), 12.0), "alive");
        if let Some(end) = end {
            html.rectangle((x(*alive), y - 6.0), ((x(*end) - x(*alive)).max(2.0), 12.0), "between");
        }
        for look in items(&finding["evidence"][format!("{key}_looks")]) {
            let Some(seconds) = look[0].as_f64() else { continue };
            html.dot((x(seconds), y), if look[1] == "alive" { "dot there" } else { "dot gone" });
        }
    }
    html.raw("</svg>").element("figcaption", "", &text).raw("</figure>\n");
}

/// Round-trip time, and the control packets that came back and that did not.
fn line(html: &mut Html, udp: &Value, words: &Words) {
    let Some(rtt) = udp["rtt_s"].as_f64() else { return };
    let evidence = &udp["filtering"]["evidence"];
    let count =
        |flat: &str, name: &str| evidence[flat].as_u64().or_else(|| evidence["controls"][name].as_u64());
    let (sent, answered) = (count("controls_sent", "sent"), count("controls_answered", "answered"));
    let loss = udp["loss"].as_f64().unwrap_or(0.0);
    let text = format!("{}: {:.1} ms; {}: {:.1} %", words.round_trip, rtt * 1000.0, words.loss, loss * 100.0);
    html.raw("<figure>").picture(WIDTH as u32, 60, words.round_trip, &text);
    html.label((LEFT - 8.0, 35.0), "end", &format!("{:.1} ms", rtt * 1000.0));
    if let (Some(sent), Some(answered)) = (sent, answered) {
        let sent = sent.clamp(1, 200);
        let step = (RIGHT - LEFT) / sent as f64;
        for number in 0..sent {
            let x = LEFT + number as f64 * step;
            let (class, height) = if number < answered { ("returned", 30.0) } else { ("lost", 14.0) };
            html.rectangle((x, 45.0 - height), ((step - 2.0).max(1.0), height), class);
        }
    }
    html.raw("</svg>").element("figcaption", "", &text).raw("</figure>\n");
}
