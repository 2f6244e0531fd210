//! The counters in Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use crate::{
    counters::Snapshot, drop_reason::DropReason, page::PageCounts, rendezvous::Counts, respond::Outcome,
    streams::StreamCounts, test_session::TestCounts, topology::Endpoint,
};

/// What is to be told about the program itself.
pub(crate) struct Program {
    pub uptime_seconds: u64,
    pub lost_log_lines: u64,
    pub certificate_seconds: Option<i64>,
    pub missing_addresses: u64,
}

/// All counters as text; those of UDP by address family.
#[must_use]
pub(crate) fn text(
    udp: &[(&'static str, Snapshot)],
    streams: &StreamCounts,
    introductions: Option<Counts>,
    test_sessions: Option<TestCounts>,
    page: Option<PageCounts>,
    program: &Program,
) -> String {
    let mut text = String::new();
    let endpoint = |e: Endpoint| match e {
        Endpoint::Primary => "primary",
        Endpoint::PrimaryAlternatePort => "primary-alternate-port",
        Endpoint::AlternatePrimaryPort => "alternate-primary-port",
        Endpoint::Alternate => "alternate",
    };
    let rows = |label: &str, of: &dyn Fn(&Snapshot) -> Vec<(&'static str, u64)>| -> Vec<(String, u64)> {
        let row = |family: &str, (value, n)| (format!("{{family=\"{family}\",{label}=\"{value}\"}}"), n);
        udp.iter().flat_map(|(family, all)| of(all).into_iter().map(move |it| row(family, it))).collect()
    };
    let sums = |of: fn(&Snapshot) -> u64| -> Vec<(String, u64)> {
        udp.iter().map(|(family, all)| (format!("{{family=\"{family}\"}}"), of(all))).collect()
    };
    let received = |all: &Snapshot| Endpoint::ALL.map(|e| (endpoint(e), all.received[e.index()])).to_vec();
    let answered = |all: &Snapshot| Outcome::ALL.map(|o| (o.name(), all.answered(o))).to_vec();
    let dropped = |all: &Snapshot| DropReason::ALL.iter().map(|r| (r.name(), all.dropped(*r))).collect();
    const COUNTER: &str = "counter";
    let tables = [
        ("received_total", "Datagrams received, by endpoint.", rows("endpoint", &received)),
        (
            "answered_total",
            "Requests answered, by outcome; an answer that the system did not take is among the dropped, too.",
            rows("outcome", &answered),
        ),
        ("dropped_total", "Datagrams not answered, by reason.", rows("reason", &dropped)),
        (
            "received_bytes_total",
            "UDP payload received, of datagrams that were not too long.",
            sums(|all| all.bytes_in),
        ),
        ("sent_bytes_total", "UDP payload of answers.", sums(|all| all.bytes_out)),
        ("batches_total", "Receiving system calls.", sums(|all| all.batches)),
    ];
    for (name, help, rows) in tables {
        family(&mut text, &format!("probe_udp_{name}"), help, COUNTER, &rows);
    }
    let events = streams.events();
    let by_event = |events: &[(&str, u64)]| -> Vec<(String, u64)> {
        events.iter().map(|(event, n)| (format!("{{event=\"{event}\"}}"), *n)).collect()
    };
    let help = "What happened to connections and messages.";
    family(&mut text, "probe_stream_events_total", help, COUNTER, &by_event(&events));
    single(&mut text, "probe_stream_open", "Connections open now.", streams.open);
    if let Some(counts) = introductions {
        let Counts { opened, paired, refused, rooms_made, entered, sessions, rooms, members } = counts;
        let events = [
            ("opened", opened),
            ("paired", paired),
            ("refused", refused),
            ("room-made", rooms_made),
            ("room-entered", entered),
        ];
        let help = "What happened to introductions.";
        family(&mut text, "probe_rendezvous_events_total", help, COUNTER, &by_event(&events));
        single(&mut text, "probe_rendezvous_sessions", "Sessions open now.", sessions);
        single(&mut text, "probe_rendezvous_rooms", "Rooms with somebody in them.", rooms);
        single(&mut text, "probe_rendezvous_room_members", "Clients in rooms.", members);
    }
    if let Some(counts) = test_sessions {
        let help = "What happened in test sessions.";
        family(&mut text, "probe_test_session_events_total", help, COUNTER, &by_event(&counts.events()));
        single(&mut text, "probe_test_sessions", "Test sessions open now.", counts.sessions);
    }
    if let Some(PageCounts { begun, reported, refused, received, dropped, sent, sessions }) = page {
        let events = [("begun", begun), ("reported", reported), ("refused", refused)];
        let help = "What happened to measurements of browsers.";
        family(&mut text, "probe_page_events_total", help, COUNTER, &by_event(&events));
        let datagrams = [("received", received), ("dropped", dropped), ("sent", sent)];
        let help = "Datagrams at the ports of the page.";
        family(&mut text, "probe_page_datagrams_total", help, COUNTER, &by_event(&datagrams));
        single(&mut text, "probe_page_sessions", "Measurements of browsers that run now.", sessions);
    }
    let version = [(format!("{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1)];
    family(&mut text, "probe_build_info", "The version that runs; the value is always 1.", "gauge", &version);
    single(
        &mut text,
        "probe_uptime_seconds",
        "Seconds since the server was started.",
        program.uptime_seconds,
    );
    if let Some(seconds) = program.certificate_seconds {
        let help = "Seconds until the certificate ends; 0 when it has.";
        single(&mut text, "probe_certificate_seconds", help, u64::try_from(seconds).unwrap_or(0));
    }
    let help = "Configured addresses that this host does not have.";
    single(&mut text, "probe_missing_addresses", help, program.missing_addresses);
    let help = "Log lines that could not be written.";
    family(
        &mut text,
        "probe_log_lost_lines_total",
        help,
        COUNTER,
        &[(String::new(), program.lost_log_lines)],
    );
    text
}

fn single(text: &mut String, name: &str, help: &str, n: u64) {
    family(text, name, help, "gauge", &[(String::new(), n)]);
}

/// One metric: a row for each set of labels.
fn family(text: &mut String, name: &str, help: &str, kind: &str, rows: &[(String, u64)]) {
    // Writing to a string does not fail.
    _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    for (labels, n) in rows {
        _ = writeln!(text, "{name}{labels} {n}");
    }
}
