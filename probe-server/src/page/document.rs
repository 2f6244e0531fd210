//! The document that browsers get: markup, style and script in one, and the hashes by which its policy knows them.

use data_encoding::BASE64;
use ring::digest::{SHA256, digest};

use crate::http::Page;

const MARKUP: &str = include_str!("assets/page.html");
/// What only declares comes first.
const SCRIPTS: [&str; 2] = [include_str!("assets/peer.js"), include_str!("assets/page.js")];
/// What comes of two browsers, as nat-check's engine predicts it: `nat-check --generate browser-pairs`.
pub const PAIRS: &str = include_str!("assets/pairs.json");

/// The page of a server with these names.
pub(crate) fn page(names: Vec<String>) -> Page {
    let style = [shared::html::STYLE, include_str!("assets/page.css")].concat();
    let script = format!("{}const PAIRS = {};\n{}", SCRIPTS[0], PAIRS.trim(), SCRIPTS[1]);
    let document = MARKUP.replace("/* style */", &style).replace("/* script */", &script);
    Page { names, document: document.into(), script: hash(&script), style: hash(&style) }
}

/// As a Content-Security-Policy writes it.
fn hash(text: &str) -> String {
    format!("'sha256-{}'", BASE64.encode(digest(&SHA256, text.as_bytes()).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_small_and_asks_nobody_for_anything() {
        let page = page(Vec::new());
        let text = std::str::from_utf8(&page.document).unwrap();
        assert!(text.len() < 60_000, "{} bytes", text.len());
        for word in ["http://", "https://", "@import", "url(", "<img", "src=", "localStorage", "cookie"] {
            let allowed = word == "http://" && !text.replace("http://www.w3.org", "").contains(word);
            assert!(allowed || !text.contains(word), "{word}");
        }
        assert!(!text.contains("/* script */") && !text.contains("/* style */"));
        assert!(text.contains(&format!("const VERSION = {};", shared::rendezvous::VERSION)));
    }
}
