//! What a server serves over HTTP: which WebSockets, and the page for browsers, with the headers that keep others out of it.

use std::net::IpAddr;

use http_body_util::Full;
use hyper::{
    Response,
    body::Bytes,
    header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS},
};

use shared::rendezvous;

use super::{HttpOptions, INVITATIONS, text};

/// What there is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site<'a> {
    pub(crate) options: &'a HttpOptions,
    /// Where WebSockets are opened.
    pub(crate) paths: &'a [&'static str],
    pub(crate) page: Option<&'a Page>,
    /// Where the same is offered over TLS.
    pub(crate) tls_port: Option<u16>,
}

impl Site<'_> {
    /// This path, if WebSockets are opened there.
    pub(crate) fn socket(&self, path: &str) -> Option<&'static str> {
        self.paths.iter().find(|at| **at == path).copied()
    }

    /// Whether this path lets a browser into a session; the code is for the page to look at.
    pub(super) fn is_invitation(&self, path: &str) -> bool {
        let code = path.strip_prefix(INVITATIONS).filter(|code| code.len() <= LONGEST_CODE);
        code.is_some_and(|_| self.page.is_some() && self.socket(rendezvous::PATH).is_some())
    }
}

/// What follows the path of an invitation is a code, or nothing.
const LONGEST_CODE: usize = 40;

/// The page for browsers.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// The names and addresses of this server. Under others it is not served: a name that somebody else has made to lead
    /// here (DNS rebinding) must not measure its visitors in their name.
    pub(crate) names: Vec<String>,
    /// The whole document.
    pub(crate) document: Bytes,
    /// What its policy allows to run and to style, such as `'sha256-...'`.
    pub(crate) script: String,
    pub(crate) style: String,
}

impl Page {
    /// Whether this `Host`, with a port or without, is this server.
    pub(crate) fn is_named(&self, host: &str) -> bool {
        let name = name_of(host);
        let same = |own: &String| match (own.parse::<IpAddr>(), name.parse::<IpAddr>()) {
            (Ok(own), Ok(asked)) => own == asked,
            _ => own.eq_ignore_ascii_case(name),
        };
        !name.is_empty() && self.names.iter().any(same)
    }

    /// Whether this `Origin` is this page's.
    pub(crate) fn is_origin(&self, origin: &str) -> bool {
        let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        rest.is_some_and(|host| self.is_named(host))
    }

    /// The document for a `Host` that is this server.
    pub(super) fn answer(&self, host: &str) -> Response<Full<Bytes>> {
        // Not every browser counts WebSockets of the same host as its own. The host has been found among the names, and
        // what stands behind it is a port.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".:-[]".contains(c);
        let sockets =
            if host.chars().all(is_plain) { format!(" ws://{host} wss://{host}") } else { String::new() };
        let policy = format!(
            "default-src 'none'; script-src {}; style-src {}; connect-src 'self'{sockets}; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'",
            self.script, self.style
        );
        let mut answer = text(hyper::StatusCode::OK, "");
        *answer.body_mut() = Full::new(self.document.clone());
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        if let Ok(policy) = HeaderValue::try_from(policy) {
            headers.insert(CONTENT_SECURITY_POLICY, policy);
        }
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert("cache-control", HeaderValue::from_static("no-store"));
        answer
    }
}

/// The name or address in front of a port.
fn name_of(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.split_once(':').map_or(host, |(name, _)| name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let names = ["probe.example.org", "198.51.100.10", "2001:db8::10"].map(str::to_owned).to_vec();
        Page {
            names,
            document: Bytes::from_static(b"<!doctype html>"),
            script: "'a'".into(),
            style: "'b'".into(),
        }
    }

    #[test]
    fn only_names_of_this_server_count() {
        for host in
            ["probe.example.org", "Probe.Example.Org:3478", "198.51.100.10:80", "[2001:db8:0::10]:5349"]
        {
            assert!(page().is_named(host), "{host}");
        }
        for host in
            ["", ":80", "probe.example.org.evil", "evil", "198.51.100.1", "[::1]", "probe.example.org@evil"]
        {
            assert!(!page().is_named(host), "{host}");
        }
        assert!(
            page().is_origin("https://probe.example.org:5349")
                && page().is_origin("http://198.51.100.10:3478")
        );
        for origin in ["null", "probe.example.org", "file://probe.example.org", "https://evil"] {
            assert!(!page().is_origin(origin), "{origin}");
        }
    }

    #[test]
    fn the_policy_names_the_host_and_nothing_that_could_be_more() {
        let policy =
            |host| page().answer(host).headers()[CONTENT_SECURITY_POLICY].to_str().unwrap().to_owned();
        assert!(
            policy("probe.example.org:3478")
                .contains("connect-src 'self' ws://probe.example.org:3478 wss://")
        );
        assert!(!policy("probe.example.org:1; script-src *").contains('*'));
    }
}
