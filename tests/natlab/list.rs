//! The NATs that have names, and all settings.

use serde_json::json;
use shared::nat::model::{KEYS, PRESETS};

/// For people.
pub(crate) fn text() -> String {
    let mut text = String::from("NATs with names:\n");
    for preset in PRESETS {
        text += &format!("  {:<22} {}\n  {:<22}   {}\n", preset.name, preset.about, "", preset.settings);
    }
    text += "\nSettings, joined by commas, alone or after a name:\n";
    for key in KEYS {
        text += &format!("  {:<22} {} ({})\n", format!("{}=", key.name), key.about, key.takes());
    }
    text + "\nSeveral in a row are joined by +, the innermost first: linux+symmetric\n"
}

/// For programs.
pub(crate) fn json() -> String {
    let nats: Vec<_> = PRESETS
        .iter()
        .map(|preset| json!({ "name": preset.name, "about": preset.about, "settings": preset.settings }))
        .collect();
    let settings: Vec<_> = KEYS
        .iter()
        .map(|key| json!({ "name": key.name, "about": key.about, "takes": key.takes() }))
        .collect();
    format!("{:#}\n", json!({ "version": 1, "nats": nats, "settings": settings }))
}
