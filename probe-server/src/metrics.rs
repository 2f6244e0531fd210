//! The counters in Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use crate::{
    counters::Snapshot, drops::DropReason, rendezvous::Counts, respond::Outcome, streams::StreamCounts,
    topology::Endpoint,
};

/// All counters as text.
#[must_use]
pub(crate) fn text(udp: &Snapshot, streams: &StreamCounts, introductions: Option<Counts>) -> String {
    let mut text = String::new();
    let endpoint = |e: Endpoint| match e {
        Endpoint::Primary => "primary",
        Endpoint::PrimaryAlternatePort => "primary-alternate-port",
        Endpoint::AlternatePrimaryPort => "alternate-primary-port",
        Endpoint::Alternate => "alternate",
    };
    let received = Endpoint::ALL.map(|e| (endpoint(e), udp.received[e.index()]));
    let answered = Outcome::ALL.map(|o| (o.name(), udp.answered(o)));
    let dropped: Vec<_> = DropReason::ALL.iter().map(|r| (r.name(), udp.dropped(*r))).collect();
    family(&mut text, "probe_udp_received_total", "Datagrams received, by endpoint.", "endpoint", &received);
    family(&mut text, "probe_udp_answered_total", "Requests answered, by outcome.", "outcome", &answered);
    family(&mut text, "probe_udp_dropped_total", "Datagrams not answered, by reason.", "reason", &dropped);
    single(&mut text, "probe_udp_received_bytes_total", "counter", "UDP payload received.", udp.bytes_in);
    single(&mut text, "probe_udp_sent_bytes_total", "counter", "UDP payload sent.", udp.bytes_out);
    single(&mut text, "probe_udp_batches_total", "counter", "Receiving system calls.", udp.batches);
    let events = streams.events();
    family(
        &mut text,
        "probe_stream_events_total",
        "What happened to connections and messages.",
        "event",
        &events,
    );
    single(&mut text, "probe_stream_open", "gauge", "Connections open now.", streams.open);
    if let Some(Counts { opened, paired, refused, sessions }) = introductions {
        let events = [("opened", opened), ("paired", paired), ("refused", refused)];
        let help = "What happened to introductions.";
        family(&mut text, "probe_rendezvous_events_total", help, "event", &events);
        single(&mut text, "probe_rendezvous_sessions", "gauge", "Sessions open now.", sessions);
    }
    text
}

fn family(text: &mut String, name: &str, help: &str, label: &str, rows: &[(&str, u64)]) {
    header(text, name, "counter", help);
    for (value, n) in rows {
        _ = writeln!(text, "{name}{{{label}=\"{value}\"}} {n}");
    }
}

fn single(text: &mut String, name: &str, kind: &str, help: &str, n: u64) {
    header(text, name, kind, help);
    _ = writeln!(text, "{name} {n}");
}

fn header(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string does not fail.
    _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}
