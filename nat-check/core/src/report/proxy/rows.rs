//! A proxy as rows for people.

use super::{
    Application, ApplicationOutcome, ProxyApplication, ProxyBind, ProxyConnect, ProxyFoundBy, ProxyKind,
    ProxyPort, ProxyReport, ProxyUdp,
};
use crate::report::Row;

/// The rows of a proxy, without those about UDP through it; `prefix` is its path in the report, such as `proxy.0`.
#[must_use]
pub fn rows(prefix: &str, proxy: &ProxyReport) -> Vec<Row> {
    let key = |part: &str| format!("{prefix}.{part}");
    let mut rows = vec![Row::plain(&key("kind"), "Proxy", what(proxy))];
    if !proxy.tested {
        return rows;
    }
    let exit = proxy.exit_address.map_or_else(String::new, |exit| format!("; the server sees {exit}"));
    rows.push(Row::of(&key("connect"), "TCP", &proxy.connect, |value| match value {
        ProxyConnect::Works => format!("reaches the server{exit}"),
        ProxyConnect::Refused => with_reason("refused", &proxy.connect.reason),
        ProxyConnect::Unreachable => with_reason("the server is not reached", &proxy.connect.reason),
    }));
    if proxy.error.is_some() {
        // All else is not known for the same reason.
        return rows;
    }
    let yes_no =
        |yes: &'static str, no: &'static str| move |value: &bool| if *value { yes } else { no }.to_owned();
    rows.push(Row::of(
        &key("remote_dns"),
        "Names",
        &proxy.remote_dns,
        yes_no("looked up by the proxy", "not looked up by the proxy"),
    ));
    rows.push(Row::of(&key("ipv6"), "IPv6", &proxy.ipv6, yes_no("connects", "does not connect")));
    if !proxy.connect_ports.is_empty() {
        rows.push(Row::plain(&key("connect_ports"), "Ports", ports(&proxy.connect_ports)));
    }
    rows.push(Row::of(&key("bind"), "Listening", &proxy.bind, |value| match value {
        ProxyBind::Granted => with_reason("BIND", &proxy.bind.reason),
        ProxyBind::Refused => with_reason("no", &proxy.bind.reason),
    }));
    rows.push(Row::of(&key("udp_associate"), "UDP", &proxy.udp_associate, |value| match value {
        ProxyUdp::Works => with_reason("relayed", &proxy.udp_associate.reason),
        ProxyUdp::Refused => with_reason("not relayed", &proxy.udp_associate.reason),
        ProxyUdp::GrantedButDead => "granted, and nothing comes back through the relay".to_owned(),
    }));
    if proxy.kind == Some(ProxyKind::HttpConnect) {
        rows.push(Row::of(
            &key("connect_udp"),
            "UDP over HTTP",
            &proxy.connect_udp,
            yes_no("offered (RFC 9298)", "not offered"),
        ));
    }
    rows.extend(proxy.applications.iter().map(|it| application(&key("applications"), it)));
    rows
}

fn what(proxy: &ProxyReport) -> String {
    let kind = match proxy.kind {
        Some(ProxyKind::Socks5) => "SOCKS5",
        Some(ProxyKind::Socks4) => "SOCKS4",
        Some(ProxyKind::Socks4a) => "SOCKS4a",
        Some(ProxyKind::HttpConnect) => "HTTP",
        None => "not usable",
    };
    let software = proxy.software.as_ref().map_or_else(String::new, |name| format!(" ({name})"));
    let found = match (proxy.found_by, &proxy.variable) {
        (ProxyFoundBy::Env, Some(variable)) => format!(", named by {variable}"),
        (ProxyFoundBy::Env, None) | (ProxyFoundBy::Flag, _) => String::new(),
    };
    // What names no proxy cannot be measured through either.
    let could_be_used = !proxy.tested && proxy.kind.is_some();
    let unused = if could_be_used { "; not used: --proxy measures through it" } else { "" };
    let error = proxy.error.as_ref().map_or_else(String::new, |error| format!(": {error}"));
    format!("{kind}{software}{found}{unused}{error}")
}

fn with_reason(text: &str, reason: &Option<String>) -> String {
    reason.as_ref().map_or_else(|| text.to_owned(), |reason| format!("{text}: {reason}"))
}

fn ports(ports: &[ProxyPort]) -> String {
    let words = ports.iter().map(|it| {
        let code = it.code.map_or_else(String::new, |code| format!(" ({code})"));
        match it.allowed {
            Some(true) => format!("{} allowed{code}", it.port),
            Some(false) => format!("{} refused{code}", it.port),
            None => format!("{} not known{code}", it.port),
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

fn application(key: &str, it: &ProxyApplication) -> Row {
    let label = match it.application {
        Application::Web => "Web",
        Application::OtherTcp => "Other TCP",
        Application::BrowserCalls => "Browser calls",
        Application::PeerToPeer => "Peer-to-peer",
        Application::OtherUdp => "Games, VPNs",
    };
    let outcome = match it.outcome {
        ApplicationOutcome::ThroughProxy => "through the proxy",
        ApplicationOutcome::Direct => "past the proxy",
        ApplicationOutcome::RelayOnly => "over a relay only",
        ApplicationOutcome::Blocked => "blocked",
        ApplicationOutcome::Unknown => "not known",
    };
    Row::plain(key, label, format!("{outcome}: {}", it.how))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Confidence, Finding};

    #[test]
    fn a_dead_proxy_takes_one_line_besides_its_name() {
        let mut proxy =
            ProxyReport { tested: true, error: Some("no connection".into()), ..ProxyReport::default() };
        proxy.connect = Finding::known(ProxyConnect::Unreachable, Confidence::Certain, "");
        let texts: Vec<String> = rows("proxy.0", &proxy).into_iter().map(|row| row.text).collect();
        assert_eq!(texts, ["not usable: no connection", "the server is not reached"]);
    }

    #[test]
    fn one_that_is_not_used_says_how_it_would_be() {
        let proxy = ProxyReport {
            found_by: ProxyFoundBy::Env,
            variable: Some("ALL_PROXY".into()),
            kind: Some(ProxyKind::Socks5),
            ..ProxyReport::default()
        };
        let rows = rows("proxy.0", &proxy);
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].text, "SOCKS5, named by ALL_PROXY; not used: --proxy measures through it");
    }

    #[test]
    fn one_that_cannot_be_used_says_why() {
        let proxy = ProxyReport {
            found_by: ProxyFoundBy::Env,
            variable: Some("ALL_PROXY".into()),
            error: Some("no host in it".into()),
            ..ProxyReport::default()
        };
        assert_eq!(rows("proxy.0", &proxy)[0].text, "not usable, named by ALL_PROXY: no host in it");
    }
}
