//! What happens to a port that is kept open, for people and for scripts: a sentence or a JSON object a line.

use std::net::SocketAddr;

use nat_check_core::{
    port_mapping::{Granted, keep::Event},
    report::{Confidence, Finding},
};
use serde_json::{Value, json};

/// What has happened to this port, in a sentence.
#[must_use]
pub fn sentence(port: u16, event: &Event<'_>) -> String {
    let name = event.transport().name();
    match event {
        Event::Opened { protocol, gateway, granted, .. } => {
            let external = match granted.external_address {
                Some(address) => SocketAddr::new(address, granted.external).to_string(),
                None => format!("external port {}", granted.external),
            };
            let time = match granted.lifetime.as_secs() {
                0 => "without end".to_owned(),
                seconds => format!("for {seconds} s, and renewed"),
            };
            let by = protocol.name();
            format!("{name} port {port}: opened at {gateway} by {by} as {external}, {time}")
        }
        Event::Tested { external, reachable, seen, .. } => {
            let at = seen
                .map_or_else(|| format!("port {external}"), |ip| SocketAddr::new(ip, *external).to_string());
            format!("{name} {at}: {}", verdict(reachable))
        }
        Event::Renewed(_, granted) => {
            format!("{name} port {port}: renewed, external port {}", granted.external)
        }
        Event::Restored(_, granted) => format!(
            "{name} port {port}: the gateway had lost its mappings; opened again, external port {}",
            granted.external
        ),
        Event::NotRenewed(_, why) => format!("{name} port {port}: not renewed: {why}"),
        Event::Closed(_) => format!("{name} port {port}: closed"),
        Event::NotClosed(_, why) => format!("{name} port {port}: not closed, it ends by itself: {why}"),
    }
}

/// The same as JSON, on one line.
#[must_use]
pub fn json(port: u16, event: &Event<'_>) -> String {
    let (name, more) = match event {
        Event::Opened { protocol, gateway, granted, .. } => {
            let mut more = granted_json(granted);
            more["protocol"] = protocol.key().into();
            more["gateway"] = gateway.to_string().into();
            ("opened", more)
        }
        Event::Tested { external, reachable, seen, .. } => {
            ("tested", json!({ "external": external, "seen_at": seen, "reachable": reachable }))
        }
        Event::Renewed(_, granted) => ("renewed", granted_json(granted)),
        Event::Restored(_, granted) => ("restored", granted_json(granted)),
        Event::NotRenewed(_, why) => ("not-renewed", json!({ "error": why.to_string() })),
        Event::Closed(_) => ("closed", json!({})),
        Event::NotClosed(_, why) => ("not-closed", json!({ "error": why.to_string() })),
    };
    let mut line = json!({
        "version": 1,
        "tool": concat!("nat-check ", env!("CARGO_PKG_VERSION")),
        "event": name,
        "transport": event.transport().name().to_lowercase(),
        "port": port,
    });
    if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
        line.extend(more);
    }
    line.to_string()
}

fn granted_json(granted: &Granted) -> Value {
    json!({
        "external": granted.external,
        "external_address": granted.external_address,
        "lifetime_s": granted.lifetime.as_secs(),
    })
}

fn verdict(reachable: &Finding<bool>) -> String {
    let reason = reachable.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    match reachable.value {
        Some(true) if reachable.confidence >= Confidence::Strong => format!("reached from outside{reason}"),
        Some(true) => format!("probably reached from outside{reason}"),
        Some(false) => format!("NOT reached from outside{reason}"),
        None => format!("not known whether it is reached from outside{reason}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::IpAddr, time::Duration};

    use nat_check_core::{
        port_mapping::{MappingError, Protocol, Transport},
        report::ReasonCode,
    };

    use super::*;

    fn granted() -> Granted {
        Granted {
            external: 42_001,
            external_address: Some(IpAddr::from([203, 0, 113, 5])),
            lifetime: Duration::from_secs(600),
            epoch: Some(7),
        }
    }

    #[test]
    fn each_event_is_one_line_that_says_the_same_twice() {
        let reachable = Finding::known(true, Confidence::Certain, "m");
        let gateway = IpAddr::from([192, 168, 1, 1]);
        let opened = Event::Opened {
            protocol: Protocol::NatPmp,
            gateway,
            transport: Transport::Udp,
            granted: granted(),
        };
        let tested = Event::Tested {
            transport: Transport::Tcp,
            external: 42_001,
            reachable: &reachable,
            seen: Some([203, 0, 113, 5].into()),
        };
        let failed = MappingError::NoAnswer;
        for (event, name, sentence_part) in [
            (opened, "opened", "opened at 192.168.1.1 by NAT-PMP as 203.0.113.5:42001, for 600 s"),
            (tested, "tested", "TCP 203.0.113.5:42001: reached from outside"),
            (Event::Renewed(Transport::Udp, granted()), "renewed", "renewed, external port 42001"),
            (Event::Restored(Transport::Udp, granted()), "restored", "had lost its mappings"),
            (Event::NotRenewed(Transport::Udp, failed.clone()), "not-renewed", "not renewed: no answer"),
            (Event::Closed(Transport::Tcp), "closed", "TCP port 42000: closed"),
            (Event::NotClosed(Transport::Tcp, failed), "not-closed", "not closed"),
        ] {
            assert!(sentence(42_000, &event).contains(sentence_part), "{}", sentence(42_000, &event));
            let line = json(42_000, &event);
            assert!(!line.contains('\n'));
            let read: Value = serde_json::from_str(&line).unwrap();
            assert_eq!((&read["version"], &read["event"]), (&json!(1), &json!(name)));
            assert_eq!(
                (&read["port"], &read["transport"]),
                (&json!(42_000), &json!(event.transport().name().to_lowercase()))
            );
        }
    }

    #[test]
    fn the_finding_of_a_test_is_the_one_of_a_report() {
        let reason = (ReasonCode::GrantedWithoutEffect, "nothing comes through");
        let reachable = Finding::known(false, Confidence::Strong, "m").because(reason);
        let event =
            Event::Tested { transport: Transport::Udp, external: 42_000, reachable: &reachable, seen: None };
        let read: Value = serde_json::from_str(&json(42_000, &event)).unwrap();
        assert_eq!(read["reachable"]["value"], false);
        assert_eq!(read["reachable"]["reason_code"], "granted-without-effect");
        assert_eq!(read["seen_at"], Value::Null);
        assert!(sentence(42_000, &event).contains("NOT reached from outside (nothing comes through)"));
    }
}
