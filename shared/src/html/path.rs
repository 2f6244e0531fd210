//! The way out, drawn: the host, what stands in front of it, the server, with the addresses that are seen on both sides.

use serde_json::Value;

use super::{FAMILIES, Html, Words, items, text};

/// Draws the way over each family that was tested.
pub(super) fn write(html: &mut Html, report: &Value, words: &Words) {
    for (key, name) in FAMILIES {
        if report[key]["udp"].is_object() {
            draw(html, name, &report[key]["udp"], &report["server"][key], &report["layers"], words);
        }
    }
}

fn draw(html: &mut Html, family: &str, udp: &Value, server: &Value, layers: &Value, words: &Words) {
    let kind = text(&udp["nat_type"]["value"]);
    let is_known = !kind.is_empty();
    let external: Vec<String> = items(&udp["external"]).map(text).collect();
    let nat = if is_known { words.value(&kind).to_owned() } else { words.unknown.to_owned() };
    let boxes = boxes(&kind, layers, words);
    let title = format!("{family}: {}", words.path);
    let local = Some(text(&udp["local"])).filter(|local| !local.is_empty());
    let described = [
        format!("{} {}", words.host, local.clone().unwrap_or_default()),
        nat.clone(),
        external.join(", "),
        format!("{} {} {}", words.server, text(&server["primary"]), text(&server["alternate"])),
    ];
    html.raw("<figure>").picture(WIDTH, HEIGHT, &title, &described.join(" → "));
    html.rectangle((10.0, 50.0), (150.0, 60.0), "box").label((85.0, 76.0), "middle", words.host);
    html.label((85.0, 96.0), "middle", local.as_deref().unwrap_or(words.hidden));
    let width = 250.0 / boxes.len().max(1) as f64;
    let edge = if is_known { "edge" } else { "edge unknown" };
    html.line((160.0, 80.0), (225.0, 80.0), edge);
    for (number, name) in boxes.iter().enumerate() {
        let x = 225.0 + number as f64 * width;
        let class = if is_known { "box nat" } else { "box unknown" };
        html.rectangle((x + 3.0, 50.0), (width - 6.0, 60.0), class);
        html.label((x + width / 2.0, 84.0), "middle", name);
    }
    if boxes.is_empty() {
        html.line((225.0, 80.0), (475.0, 80.0), edge);
    }
    let blocked = kind == "udp-blocked";
    html.line((475.0, 80.0), (560.0, 80.0), if blocked { "edge blocked" } else { edge });
    if blocked {
        html.label((517.0, 70.0), "middle", "✕");
    }
    let seen = match &external[..] {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} (+{})", rest.len()),
    };
    html.label((517.0, 134.0), "middle", &seen);
    html.rectangle((560.0, 50.0), (150.0, 60.0), "box").label((635.0, 70.0), "middle", words.server);
    html.label((635.0, 86.0), "middle", &text(&server["primary"]));
    html.label((635.0, 102.0), "middle", &text(&server["alternate"]));
    html.raw("</svg>")
        .element("figcaption", "", &format!("{title}: {}", described.join(" → ")))
        .raw("</figure>\n");
}

/// What stands in between: one box for each layer that is known, or one for what is known as a whole.
fn boxes(kind: &str, layers: &Value, words: &Words) -> Vec<String> {
    let layer = text(&layers["kind"]["value"]);
    match (kind, layer.as_str()) {
        ("open-internet", _) => Vec::new(),
        (_, "own-double" | "carrier-grade") => vec![words.gateway.into(), words.value(&layer).to_owned()],
        ("", _) => vec!["?".into()],
        (kind, _) => vec![words.value(kind).to_owned()],
    }
}

const WIDTH: u32 = 720;
const HEIGHT: u32 = 150;
