//! Calls: connections that the server opens to this host, with controls beside them, so that silence can be judged as it is
//! over UDP.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::{
    stun::Dialect,
    test_session::{Decline, SynOutcome},
};
use tokio::time::{sleep, timeout};

use super::tcp::{CLOCKS, connected, endpoints};
use crate::{
    loss_test::{LIKELY, LossCounts},
    observation::{
        ObservationLog, Purpose, RequestKind,
        call::{Call, CallResult, TestSessionState},
    },
    report::{Reason, ReasonCode},
    server_endpoints::ServerEndpoint,
    session::{CallRequest, Contact, Request, Session, TestSession},
};

/// What controls are for, in the log.
pub(super) const CONTROL: Purpose = Purpose::main("tcp-control");
/// How long the server waits for an answer: a SYN that gets lost is sent again after a second.
pub(super) const WAIT: Duration = Duration::from_millis(1500);
/// Between two calls.
pub(super) const SPACING: Duration = Duration::from_millis(5);
/// What else was sent over UDP so short a time before is as good as a control of its own.
const NEIGHBOUR: Duration = Duration::from_millis(40);
/// Controls over UDP for each call where hardly anything else is sent; beside other measurements one is enough.
const PATIENT_CONTROLS: usize = 6;
/// Controls over TCP for each call: where UDP is silent, there are no others.
const CONTROLS_OVER_TCP: usize = 5;
/// A handshake that took longer has lost a segment.
const FIRST_SYN: Duration = Duration::from_millis(900);

/// Asks for calls to one external endpoint of this host.
pub(super) struct Caller<'a> {
    pub(super) session: &'a Arc<Session>,
    pub(super) test: &'a TestSession,
    pub(super) to: SocketAddr,
}

impl Caller<'_> {
    /// Asks for a call, with a control before it; gives its number in the log.
    pub(super) async fn call(&self, request: CallRequest) -> Option<usize> {
        self.control().await;
        let number = self.test.call(self.session, request);
        sleep(SPACING).await;
        number
    }

    /// A last control, and the time that what was asked for may take.
    pub(super) async fn settle(&self, purpose: Purpose) {
        self.control().await;
        let due = self.session.now() + self.patience();
        let settled = |log: &ObservationLog| {
            log.tcp.calls_of(purpose).all(|call| call.arrived.is_some() || call.result.is_some())
        };
        self.session.until(due, settled).await;
    }

    /// How long after it was asked for a call has arrived, or been rejected to the server's knowledge.
    pub(super) fn patience(&self) -> Duration {
        let handshake = self.session.read(|log| log.tcp.quickest(log.server)).unwrap_or(FIRST_SYN);
        match self.session.rtt() {
            // What UDP's round trip varies by, TCP's may, too.
            Some(rtt) => handshake + rtt.response_timeout().saturating_sub(rtt.smoothed) + SPACING,
            None => handshake * 2 + Duration::from_millis(50),
        }
    }

    async fn control(&self) {
        let session = self.session;
        let contact = session.retained_sockets(|retained| retained.contact.clone());
        if let (Contact::Udp(Dialect::Modern), Some(socket)) = (session.contact_so_far(), contact) {
            for _ in 0..self.controls_needed() {
                let (to, round) = (session.server(), session.round());
                let request = Request { purpose: CONTROL, to, kind: RequestKind::Binding, round };
                session.send(&socket, request).await;
            }
            return;
        }
        for _ in 0..CONTROLS_OVER_TCP {
            session.spawn(handshake(Arc::clone(session)));
        }
    }

    /// A server that takes long over each request, or answers only so many, is not to be burdened for TCP's sake; and where
    /// UDP is being measured, its requests are controls.
    fn controls_needed(&self) -> usize {
        let session = self.session;
        let since = session.now().saturating_sub(NEIGHBOUR);
        let last = session.read(|log| log.controls(Duration::MAX).map(|t| t.sent).last());
        match last {
            _ if session.is_patient() => PATIENT_CONTROLS,
            _ if session.is_slow() => 0,
            Some(last) if last >= since => 0,
            Some(_) | None => 1,
        }
    }
}

/// A connection that is opened and reset.
async fn handshake(session: Arc<Session>) {
    let (local, to) = (SocketAddr::new(session.local_ip(), 0), session.server());
    let number = session.note_tcp(|log| log.begin(CONTROL, None, to, session.now()));
    if let Ok(result) = timeout(FIRST_SYN, session.net().connect(Some(local), to)).await
        && let Some(stream) = connected(&session, number, result)
    {
        // Where it cannot be reset it is closed in the ordinary way.
        _ = stream.reset_on_drop();
    }
}

/// Those of these calls that neither arrived nor were rejected, though what was sent next to them came back; and the
/// controls of the whole run.
pub(super) fn counts<'a>(log: &ObservationLog, calls: impl Iterator<Item = &'a Call>) -> LossCounts {
    let mut controls = controls(log);
    controls.sort_by_key(|(sent, _)| *sent);
    let mut counts = LossCounts::after_returned(controls.iter().map(|(_, returned)| *returned));
    let (patience, now) = (patience(log), end_of(log));
    for call in calls.filter(|call| is_tried(log, call) && call.begun() + patience <= now) {
        counts.sent += 1;
        let before = controls.iter().rev().find(|(sent, _)| *sent <= call.begun());
        let after = controls.iter().find(|(sent, _)| *sent > call.begun());
        let corroborated =
            [before, after].iter().all(|control| control.is_some_and(|(_, returned)| *returned));
        counts.answered += u32::from(call.arrived.is_some());
        counts.silent += u32::from(call.arrived.is_none() && rejection(log, call).is_none() && corroborated);
    }
    counts
}

/// log10 of the likelihood ratio of "lost" against "filtered". A call takes twice the packets of a control, so that it is lost
/// more often, in bursts by an amount that nothing here shows: where controls were lost, silence is likely to be a filter at
/// the most.
pub(super) fn log_ratio(counts: &LossCounts) -> f64 {
    let is_lossless = counts.controls_answered == counts.controls_sent;
    counts.log_ratio().max(if is_lossless { f64::NEG_INFINITY } else { LIKELY })
}

/// When each control was sent that has had its time, over UDP or TCP, and whether it came back.
fn controls(log: &ObservationLog) -> Vec<(Duration, bool)> {
    let now = end_of(log);
    let to_server = log.tcp.connections.iter().filter(|c| c.to == log.server);
    let tried = to_server.filter(|c| c.outcome.is_some() || c.begun + FIRST_SYN <= now);
    let over_tcp = tried.map(|c| (c.begun, c.handshake().is_some_and(|took| took < FIRST_SYN)));
    let over_udp = log.controls(log.timed_out_before).map(|t| (t.sent, t.returned()));
    over_tcp.chain(over_udp.filter(|_| log.dialect().is_some())).collect()
}

/// How long a call may take to arrive.
fn patience(log: &ObservationLog) -> Duration {
    let over_udp = log.quickest().into_iter().chain(log.tcp.quickest(log.server)).max();
    over_udp.map_or(FIRST_SYN, |way| way + way / 2)
}

/// The end of the run; while it is under way, whoever asks has waited.
pub(super) fn end_of(log: &ObservationLog) -> Duration {
    if log.ended.is_zero() { Duration::MAX } else { log.ended }
}

/// Whether the server has tried, and its SYN may have come here.
pub(super) fn is_tried(log: &ObservationLog, call: &Call) -> bool {
    call.counts() && !is_rejected_at_the_server(log, call)
}

/// What something on this side of the way says no with, and after how long.
pub(super) fn rejection(log: &ObservationLog, call: &Call) -> Option<(SynOutcome, Duration)> {
    call.rejection().filter(|_| !is_rejected_at_the_server(log, call))
}

/// Whether what said no to a SYN stands on the server's side of the way, as its own firewall or its provider does: it said so
/// sooner than a packet comes to the middle of the way and back, or sends from the server's own network.
pub(super) fn is_rejected_at_the_server(log: &ObservationLog, call: &Call) -> bool {
    let Some((_, after)) = call.rejection() else { return false };
    let way = log.quickest().into_iter().chain(log.tcp.quickest(log.server)).min();
    let is_too_soon = way.is_some_and(|way| after * 2 < way && after + CLOCKS < way);
    is_too_soon || call.icmp.is_some_and(|icmp| is_of_the_server(log, call, icmp.from.to_canonical()))
}

/// Whether this address is in the server's network (IPv4 /24, IPv6 /48), and not the one that was connected to.
fn is_of_the_server(log: &ObservationLog, call: &Call, ip: IpAddr) -> bool {
    let network = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => IpAddr::from(ip & Ipv4Addr::new(255, 255, 255, 0)),
        IpAddr::V6(ip) => IpAddr::from(ip & Ipv6Addr::new(0xffff, 0xffff, 0xffff, 0, 0, 0, 0, 0)),
    };
    let endpoints = endpoints(log);
    let servers = ServerEndpoint::ALL.into_iter().filter_map(|endpoint| endpoints.get(endpoint));
    let is_near = servers.into_iter().any(|server| network(server.ip().to_canonical()) == network(ip));
    is_near && ip != call.to.ip()
}

/// Why calls that were rejected say nothing.
pub(super) fn rejected_at_the_server() -> Reason {
    let text =
        "connections of the server are rejected on its own side of the way, by a firewall or its provider";
    (ReasonCode::ServerNotProven, text).into()
}

/// The end of the sentence that the server declines to connect.
fn why_declined(reason: Decline) -> String {
    match reason {
        Decline::TooFast | Decline::PortsTooFast | Decline::TooManyPorts => {
            format!(": it does so only so often for one address ({reason})")
        }
        Decline::Busy => {
            ": it does so only for so many clients of one host, of one network and of all at a time".into()
        }
        other => format!(": {other}"),
    }
}

/// Why there are no calls to judge.
pub(super) fn why_no_calls(log: &ObservationLog) -> Reason {
    if log.tcp.calls.iter().any(|call| call.result == Some(CallResult::Declined)) {
        let why = log.tcp.calls.iter().find_map(|call| call.declined).map_or(String::new(), why_declined);
        return (ReasonCode::ServerRefuses, format!("the server declines to connect{why}")).into();
    }
    if log.tcp.calls.iter().any(|call| is_rejected_at_the_server(log, call)) {
        return rejected_at_the_server();
    }
    match &log.tcp.session {
        TestSessionState::Absent(why) => (ReasonCode::ServerHasNoTestSessions, why.as_str()).into(),
        TestSessionState::NotTried => {
            (ReasonCode::EndedEarly, "the run ended before a test session was opened").into()
        }
        TestSessionState::Open => {
            let text = "no port of this host is known that the server connects to: the connection from it got no answer in \
                        time, or leaves from another address than the test session";
            (ReasonCode::NoAnswer, text).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use shared::test_session::{Icmp, Source, SourceAddress};

    use super::*;
    use crate::observation::made;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    fn rejected(after: Duration, from: Option<&str>) -> Call {
        let result = Some(CallResult::Tried { outcome: SynOutcome::Unreachable, after });
        let icmp = from.map(|from| Icmp { kind: 3, code: 13, from: from.parse().unwrap() });
        Call { result, icmp, ..made::call(CONTROL, SourceAddress::Alternate, Source::Ephemeral) }
    }

    #[test]
    fn what_is_rejected_on_the_servers_side_says_nothing_of_this_one() {
        // The way takes 20 ms.
        let log = made::without_loss();
        let is_theirs = |call: &Call| {
            let theirs = is_rejected_at_the_server(&log, call);
            assert_eq!((is_tried(&log, call), rejection(&log, call).is_some()), (!theirs, !theirs));
            theirs
        };
        for (after, from, theirs) in [
            (MS(1), None, true),
            (MS(9), None, true),
            (MS(11), None, false),
            (MS(20), None, false),
            (MS(6000), None, false),
            (MS(1), Some("203.0.113.1"), true),
            (MS(20), Some("203.0.113.1"), false),
            (MS(20), Some("203.0.113.254"), false),
            (MS(20), Some("198.51.100.11"), true),
            (MS(20), Some("198.51.100.254"), true),
        ] {
            assert_eq!(is_theirs(&rejected(after, from)), theirs, "{after:?} {from:?}");
        }
        let neighbour =
            Call { to: made::at("198.51.100.77:40000"), ..rejected(MS(20), Some("198.51.100.77")) };
        assert!(!is_theirs(&neighbour), "this side's own NAT, in the same network as the server");
        let silent = made::call(CONTROL, SourceAddress::Primary, Source::Ephemeral);
        assert!(is_tried(&log, &silent) && rejection(&log, &silent).is_none());
    }

    #[test]
    fn where_the_way_is_short_the_clocks_do_not_tell() {
        let mut log = made::without_loss();
        log.transactions.iter_mut().for_each(|t| t.responses[0].at = t.sent + MS(1));
        assert!(!is_rejected_at_the_server(&log, &rejected(Duration::from_micros(100), None)));
    }

    #[test]
    fn each_decline_has_its_reason() {
        let text = |declined| {
            let mut log = made::without_loss();
            let call = made::call(CONTROL, SourceAddress::Primary, Source::Ephemeral);
            log.tcp.calls = vec![Call { result: Some(CallResult::Declined), declined, ..call }];
            let Reason { code, text, .. } = why_no_calls(&log);
            assert_eq!(code, ReasonCode::ServerRefuses);
            text
        };
        let often = text(Some(Decline::TooFast));
        let [busy, low] = [Decline::Busy, Decline::LowPort].map(|decline| text(Some(decline)));
        assert!(often.contains("so often for one address"), "{often}");
        assert!(busy.contains("so many clients") && !busy.contains("so often"), "{busy}");
        assert!(low.contains("1024") && !low.contains("so often"), "{low}");
    }
}
