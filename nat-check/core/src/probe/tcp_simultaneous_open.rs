//! Simultaneous open (RFC 5382 REQ-2): do two SYNs that cross make a connection? This host connects to a port of the server
//! that swallows SYNs, and the server connects from that very port meanwhile.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use shared::{
    nat::Mapping,
    test_session::{Source, SourceAddress},
};

use super::{
    measured::Transport,
    tcp::{self, connected},
    tcp_calls::{Caller, WAIT, counts, is_tried, log_ratio, rejection, why_no_calls},
    tcp_mapping::{self, interception},
};
use crate::{
    loss_test::{DECIDED, LossCounts},
    net::TcpPort,
    observation::{ObservationLog, Purpose},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode},
    session::{CallRequest, Session, TestSession},
};

/// What its connections and calls are for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("tcp-simultaneous-open");
/// What the connection is opened for that nothing answers.
const PENDING: Purpose = PURPOSE.role("pending");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whether two TCP connections that cross become one, as hole punching over TCP needs",
    needs: &["tcp-mapping"],
    steps: &[Step { stage: Stage::Tcp, run: |session| Box::pin(run(session)) }],
    udp: &[],
    tcp: &[Slot::of::<SimultaneousOpen>()],
    server: &[],
};

/// What it finds out.
struct SimultaneousOpen;

impl Measured for SimultaneousOpen {
    type Value = bool;
    const KEY: &'static str = "simultaneous_open";
    const LABEL: &'static str = "Simultaneous open";
    const LINE_KEY: Option<&'static str> = Some("tcp_simultaneous_open");
    const TRANSPORT: Transport = Transport::Tcp;
    slot!(tcp.simultaneous_open);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<bool> {
        // What arrived may have come over the connection of whoever answers in the server's place.
        interception::of_this_host(log, conclude(log, found))
    }

    fn text(value: &bool) -> String {
        match value {
            true => "works: two connections that cross become one",
            false => "does not work",
        }
        .into()
    }

    #[cfg(feature = "sim")]
    fn expected_tcp(nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        follows(nat.mapping).then(|| serde_json::json!(true))
    }
}

const METHOD: &str = "RFC 5382 REQ-2, connection to a port of the server that connects back from it";
/// How much later than it is asked for the server begins: by then this host's SYN has long passed its own gateways.
const PUT_OFF: Duration = Duration::from_millis(30);
/// How long the server tries, and the way to and fro, where that is waited for.
const PATIENCE: Duration = Duration::from_millis(2000);
/// Tries where it is asked for by name and nothing comes.
const TRIES: usize = 4;

async fn run(session: Arc<Session>) {
    session.while_there_is_time(tries(&session)).await;
}

async fn tries(session: &Arc<Session>) -> Option<()> {
    for _ in 0..TRIES {
        let settled = |log: &ObservationLog| {
            log.tcp.calls_of(PURPOSE).any(|call| call.arrived.is_some() || rejection(log, call).is_some())
        };
        try_once(session).await?;
        if session.read(settled) || !session.is_patient() {
            break;
        }
    }
    Some(())
}

async fn try_once(session: &Arc<Session>) -> Option<()> {
    let port = session.new_tcp_port().await.ok()?;
    let (test, to) = tcp::prove(session, &*port, PURPOSE).await?;
    let pending = test.welcome.primary.pending?;
    session.spawn(open(Arc::downgrade(session), Arc::clone(&test), port, pending));
    let caller = Caller { session, test: &test, to };
    let (from, source) = (SourceAddress::Primary, Source::Pending);
    let request = CallRequest { purpose: PURPOSE, from, source, to, put_off: PUT_OFF, wait: WAIT };
    let number = caller.call(request).await?;
    let over = |log: &ObservationLog| {
        let call = &log.tcp.calls[number];
        call.arrived.is_some() || call.result.is_some() || !can_arrive(log)
    };
    // A SYN that gets lost is sent again after a second, which only whoever has asked for this waits for.
    let patience = if session.is_patient() { PATIENCE } else { PUT_OFF + caller.patience() };
    session.until(session.now() + patience, over).await;
    Some(())
}

/// Connects to the port that swallows SYNs. It goes on doing so to the end of the run: a SYN of the server that comes late must
/// not find the port closed.
async fn open(session: Weak<Session>, test: Arc<TestSession>, port: Box<dyn TcpPort>, pending: SocketAddr) {
    let begin = |session: &Arc<Session>| {
        let (local, begun) = (port.local_addr().ok(), session.now());
        session.note_tcp(|log| log.begin(PENDING, local, pending, begun))
    };
    let Some(number) = session.upgrade().as_ref().map(begin) else { return };
    let result = port.connect(pending).await;
    let Some(session) = session.upgrade() else { return };
    if let Some(stream) = connected(&session, number, result) {
        session.await_nonce(&test, stream);
    }
}

/// Whether the external endpoint that one port of the server sees is the one that another port of that address sees.
fn follows(mapping: Mapping) -> bool {
    match mapping {
        Mapping::Direct | Mapping::EndpointIndependent | Mapping::AddressDependent => true,
        Mapping::AddressAndPortDependent | Mapping::PortDependent => false,
    }
}

/// Whether the server's SYN can find this host: not where the port under test was seen at another external endpoint by another
/// port of the server.
pub(super) fn can_arrive(log: &ObservationLog) -> bool {
    tcp_mapping::conclude(log).value.is_none_or(follows)
}

fn conclude(log: &ObservationLog, found: &Found) -> Finding<bool> {
    let calls = || log.tcp.calls_of(PURPOSE).filter(|call| is_tried(log, call));
    if calls().next().is_none() {
        return Finding::unknown(why_no_calls(log), METHOD);
    }
    let [arrived, rejected] = [
        calls().filter(|call| call.arrived.is_some()).count(),
        calls().filter(|call| rejection(log, call).is_some()).count(),
    ];
    let counts = counts(log, calls());
    let finding = match found.tcp.mapping.value {
        _ if arrived > 0 => Finding::known(true, Confidence::Certain, METHOD),
        Some(mapping) if !follows(mapping) => {
            let text = "the mapping depends on the destination: the server cannot know where to connect to";
            Finding::unknown((ReasonCode::MappingDependsOnDestination, text), METHOD)
        }
        None => {
            let text = "the mapping is not known: the server may have connected to another port";
            Finding::unknown((ReasonCode::MappingUnknown, text), METHOD)
        }
        // Where this host's own SYN got lost before it reached its gateways, they reject the server's.
        Some(_) if rejected > 0 => {
            let finding = Finding::known(false, Confidence::Strong, METHOD);
            let text = "this host's own SYN may have been lost before the server's was rejected";
            let loss = LossCounts { silent: counts.silent + rejected as u32, ..counts };
            match log_ratio(&loss) <= DECIDED {
                true => finding,
                false => finding.at_most(Confidence::Weak).because((ReasonCode::LossLeavesDoubt, text)),
            }
        }
        // Silence proves something only where another connection of the server is known to have left it.
        Some(_)
            if log_ratio(&counts) <= DECIDED && log.tcp.calls.iter().any(|call| call.arrived.is_some()) =>
        {
            Finding::known(false, Confidence::Strong, METHOD)
        }
        Some(_) => {
            let text = "the server's SYN did not arrive: it may have been lost";
            Finding::unknown((ReasonCode::LossLeavesDoubt, text), METHOD)
        }
    };
    finding.with("tried", calls().count()).with("arrived", arrived).with("rejected", rejected)
}

#[cfg(test)]
mod tests {
    use shared::test_session::SynOutcome;

    use super::*;
    use crate::observation::{
        call::{Call, CallResult},
        made,
    };

    fn found(call: Call, mapping: Mapping) -> (Option<bool>, Confidence, Option<ReasonCode>) {
        found_of(vec![call], mapping)
    }

    fn found_of(calls: Vec<Call>, mapping: Mapping) -> (Option<bool>, Confidence, Option<ReasonCode>) {
        let mut log = made::without_loss();
        log.tcp.calls = calls;
        let mut found = Found::default();
        found.tcp.mapping = Finding::known(mapping, Confidence::Certain, "test");
        let finding = conclude(&log, &found);
        (finding.value, finding.confidence, finding.reason_code)
    }

    fn call() -> Call {
        made::call(PURPOSE, SourceAddress::Primary, Source::Pending)
    }

    #[test]
    fn a_nonce_that_arrives_proves_it_and_a_rejection_the_opposite() {
        let arrived = Call { arrived: Some(Duration::from_secs(1)), ..call() };
        let mapping = Mapping::EndpointIndependent;
        assert_eq!(found(arrived, mapping), (Some(true), Confidence::Certain, None));
        let after = Duration::from_millis(20);
        let refused = CallResult::Tried { outcome: SynOutcome::Refused, after };
        let refused = Call { result: Some(refused), ..call() };
        let calls = |calls| found_of(vec![refused.clone(); calls], mapping);
        assert_eq!(calls(4), (Some(false), Confidence::Strong, None));
        let doubt = Some(ReasonCode::LossLeavesDoubt);
        assert_eq!(calls(1), (Some(false), Confidence::Weak, doubt), "its own SYN may have been lost");
        let depends = (None, Confidence::Unknown, Some(ReasonCode::MappingDependsOnDestination));
        assert_eq!(found(refused.clone(), Mapping::AddressAndPortDependent), depends, "another port");
    }

    #[test]
    fn silence_of_a_server_that_may_not_connect_proves_nothing() {
        let (value, _, code) = found(call(), Mapping::Direct);
        assert_eq!((value, code), (None, Some(ReasonCode::LossLeavesDoubt)));
    }

    #[test]
    fn what_arrives_through_somebody_who_answers_in_the_servers_place_proves_nothing() {
        let mut log = made::without_loss();
        log.tcp.calls = vec![Call { arrived: Some(Duration::from_secs(1)), ..call() }];
        interception::made_shown(&mut log);
        let finding = SimultaneousOpen::conclude(&log, &Found::default());
        assert_eq!((finding.value, finding.reason_code), (None, Some(ReasonCode::ConnectionsIntercepted)));
    }
}
