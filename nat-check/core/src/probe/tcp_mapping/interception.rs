//! Does something on the way answer TCP connections in the server's place, as transparent proxies and the accelerators of
//! satellite lines do? A handshake that completes at a port where nobody listens shows it, and one that takes far less time
//! than UDP's round trip hints at it. What stands close to the server and leaves closed ports alone shows neither: from here it
//! cannot be told from the server, and the finding is about what is nearer.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{CLOSED_PORT, connected, seconds};
use crate::{
    observation::{ObservationLog, tcp::OutcomeKind},
    probe::{Found, Measured, measured::Transport, slot, tcp::CLOCKS},
    report::{Confidence, Finding, ReasonCode},
    session::Session,
};

/// What it finds out.
pub(super) struct Intercepted;

impl Measured for Intercepted {
    type Value = bool;
    const KEY: &'static str = "intercepted";
    const LABEL: &'static str = "TCP proxy";
    const LINE_KEY: Option<&'static str> = None;
    const OF_THE_NAT: bool = false;
    const TRANSPORT: Transport = Transport::Tcp;
    slot!(tcp.intercepted);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<bool> {
        let facts = Facts::of(log);
        facts
            .judge()
            .with("closed_ports_tried", facts.tried)
            .with("closed_ports_connected", facts.connected)
            .with("handshake_s", facts.handshake.map(seconds))
            .with("udp_round_trip_s", facts.round_trip.map(seconds))
    }

    fn text(value: &bool) -> String {
        match value {
            true => "connections are answered on the way, in the server's place",
            false => "connections are answered by the server itself, or by something close to it",
        }
        .into()
    }

    #[cfg(feature = "sim")]
    fn expected_tcp(_nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        Some(serde_json::json!(false))
    }
}

const METHOD: &str =
    "connections to ports of the server at which nobody listens; handshake beside UDP's round trip";
/// How long a connection to a closed port is waited for: at least so long, as a busy machine takes, and so many handshakes. It
/// delays no run in which UDP has told what it can.
const PATIENCE: Duration = Duration::from_millis(500);
const HANDSHAKES: u32 = 2;
/// Ports that are tried: the second only to confirm what the first one shows.
const PORTS: usize = 2;

/// Connects to ports of the server at which nobody listens: random ones of the dynamic range (RFC 6335 section 6).
pub(super) async fn connect_to_closed_ports(session: &Arc<Session>) {
    let Some(handshake) = session.read(|log| log.tcp.quickest(log.server)) else { return };
    for _ in 0..PORTS {
        let Ok(id) = session.transaction_id() else { return };
        let port = 0xc000 | u16::from_be_bytes([id.0[0], id.0[1]]);
        let to = SocketAddr::new(session.server().ip(), port);
        let local = SocketAddr::new(session.local_ip(), 0);
        let number = session.note_tcp(|log| log.begin(CLOSED_PORT, None, to, session.now()));
        let connecting = session.net().connect(Some(local), to);
        let Ok(result) = timeout(PATIENCE + handshake * HANDSHAKES, connecting).await else { return };
        match connected(session, number, result) {
            Some(stream) => session.keep_open(stream),
            None => return,
        }
    }
}

/// Whether it is as good as sure that something answers in the server's place: then what the server sees over TCP, and connects
/// to, belongs to that.
pub(super) fn is_shown(log: &ObservationLog) -> bool {
    Facts::of(log).judge().sure() == Some(&true)
}

/// What is left of a finding about this host, which something that answers in the server's place would have made another.
pub(in crate::probe) fn of_this_host<T>(log: &ObservationLog, finding: Finding<T>) -> Finding<T> {
    if is_shown(log) {
        let text = "something on the way answers connections in the server's place: the server sees that, and not this host";
        let unknown = Finding::unknown((ReasonCode::ConnectionsIntercepted, text), &finding.method);
        return Finding { evidence: finding.evidence, ..unknown };
    }
    if Facts::of(log).is_as_long() == Some(false) && finding.confidence > Confidence::Weak {
        let text = "the handshake took less than half of UDP's round trip: something near this host may have answered, and \
                    the server have seen that";
        return finding.at_most(Confidence::Weak).because((ReasonCode::HandshakeTooFast, text));
    }
    finding
}

/// Enters what shows it.
#[cfg(test)]
pub(in crate::probe) fn made_shown(log: &mut ObservationLog) {
    for port in [50_000, 60_000] {
        let to = SocketAddr::new(log.server.ip(), port);
        let number = log.tcp.begin(CLOSED_PORT, None, to, Duration::ZERO);
        let connected =
            crate::observation::tcp::Outcome { kind: OutcomeKind::Connected, at: Duration::from_millis(20) };
        log.tcp.connections[number].outcome = Some(connected);
    }
}

/// What the conclusion rests on.
struct Facts {
    tried: usize,
    connected: usize,
    refused: bool,
    handshake: Option<Duration>,
    round_trip: Option<Duration>,
}

impl Facts {
    fn of(log: &ObservationLog) -> Self {
        Self {
            tried: log.tcp.of(CLOSED_PORT).count(),
            connected: log.tcp.of(CLOSED_PORT).filter(|c| c.handshake().is_some()).count(),
            refused: log.tcp.of(CLOSED_PORT).any(|c| c.took(OutcomeKind::Refused).is_some()),
            handshake: log.tcp.quickest(log.server),
            round_trip: log.quickest(),
        }
    }

    /// Whether the handshake took at least half as long as UDP's round trip, where both are known; near by, programs take longer
    /// than the system.
    fn is_as_long(&self) -> Option<bool> {
        let is_long =
            |(handshake, round_trip)| handshake * 2 >= round_trip || handshake + CLOCKS >= round_trip;
        self.handshake.zip(self.round_trip).map(is_long)
    }

    fn judge(&self) -> Finding<bool> {
        if self.connected > 0 {
            let finding = Finding::known(true, Confidence::Strong, METHOD);
            let text = "one connection to a random port of the server came about: somebody may listen there";
            return match self.connected {
                1 => finding.at_most(Confidence::Weak).because((ReasonCode::TooFewSamples, text)),
                _ => finding,
            };
        }
        if let (Some(handshake), Some(round_trip)) = (self.handshake, self.round_trip)
            && is_far_less(handshake, round_trip)
        {
            let text = format!(
                "the handshake took {:.0} ms, UDP's round trip {:.0} ms: something nearer answers, or the server takes its \
                 time over UDP",
                handshake.as_secs_f64() * 1000.0,
                round_trip.as_secs_f64() * 1000.0
            );
            return Finding::known(true, Confidence::Weak, METHOD)
                .because((ReasonCode::HandshakeTooFast, text));
        }
        if self.refused {
            let finding = Finding::known(false, Confidence::Strong, METHOD);
            let alone = "without UDP's round trip to compare with, a proxy of single ports would not show";
            let quick = "the handshake took less than half of UDP's round trip: a proxy of single ports near this host would show \
                         no more";
            return match self.is_as_long() {
                Some(true) => finding,
                Some(false) => {
                    finding.at_most(Confidence::Weak).because((ReasonCode::HandshakeTooFast, quick))
                }
                None => finding.at_most(Confidence::Weak).because((ReasonCode::TooFewSamples, alone)),
            };
        }
        let text = "connections to closed ports of the server get no answer, as a firewall in front of it drops them";
        match self.round_trip {
            Some(_) => Finding::known(false, Confidence::Weak, METHOD).because((ReasonCode::NoAnswer, text)),
            None => Finding::unknown((ReasonCode::NoAnswer, text), METHOD),
        }
    }
}

/// Less than half, and by more than what a busy server adds.
fn is_far_less(handshake: Duration, round_trip: Duration) -> bool {
    handshake * 2 < round_trip && handshake + Duration::from_millis(20) < round_trip
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{made, tcp::Outcome};

    fn facts(connected: usize, refused: bool, handshake: u64, round_trip: Option<u64>) -> Facts {
        let [handshake, round_trip] = [Some(handshake), round_trip].map(|ms| ms.map(Duration::from_millis));
        Facts { tried: 2, connected, refused, handshake, round_trip }
    }

    fn found(facts: &Facts) -> (Option<bool>, Confidence) {
        let finding = facts.judge();
        (finding.value, finding.confidence)
    }

    #[test]
    fn two_closed_ports_that_answer_show_it() {
        assert_eq!(found(&facts(2, false, 50, Some(50))), (Some(true), Confidence::Strong));
        assert_eq!(found(&facts(1, true, 50, Some(50))), (Some(true), Confidence::Weak));
    }

    #[test]
    fn a_quick_handshake_is_a_hint_only() {
        assert_eq!(found(&facts(0, true, 20, Some(600))), (Some(true), Confidence::Weak));
        assert_eq!(found(&facts(0, true, 5, Some(10))), (Some(false), Confidence::Strong));
        for round_trip in [10, 20] {
            let near = found(&facts(0, true, 1, Some(round_trip)));
            assert_eq!(near, (Some(false), Confidence::Weak), "a busy server, or a proxy of this port alone");
        }
        assert_eq!(
            found(&facts(0, true, 20, None)),
            (Some(false), Confidence::Weak),
            "nothing to compare with"
        );
    }

    #[test]
    fn silence_of_a_closed_port_proves_nothing() {
        assert_eq!(found(&facts(0, false, 50, Some(50))), (Some(false), Confidence::Weak));
        assert_eq!(found(&facts(0, false, 50, None)), (None, Confidence::Unknown));
    }

    #[test]
    fn what_would_be_a_proxys_is_known_of_this_host_only_where_there_is_none() {
        let found = |handshake| {
            let mut log = made::without_loss();
            let number = log.tcp.begin(CLOSED_PORT, None, log.server, Duration::ZERO);
            let connected = Outcome { kind: OutcomeKind::Connected, at: Duration::from_millis(handshake) };
            log.tcp.connections[number].outcome = Some(connected);
            let finding = of_this_host(&log, Finding::known(1, Confidence::Certain, METHOD));
            (finding.confidence, finding.reason_code)
        };
        // UDP's round trip is 20 ms.
        assert_eq!(found(10), (Confidence::Certain, None));
        assert_eq!(found(9), (Confidence::Weak, Some(ReasonCode::HandshakeTooFast)));
    }
}
