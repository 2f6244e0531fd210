//! The mapped ports, tried from outside by the probe server: datagrams from an endpoint that this host has not sent to, and
//! connections in a test session. Nothing may have knocked at a port before it is mapped: routers remember that it was closed.

use std::{sync::Arc, time::Duration};

use shared::test_session::{Source, SourceAddress};

use super::{CONTROL_CALL, conclude::datagram_counts};
use crate::{
    observation::{ObservationLog, Purpose, RequestKind, SocketId},
    probe::tcp_calls::{Caller, WAIT, rejection},
    server_endpoints::ServerEndpoint,
    session::{CallRequest, Request, Session, Socket, TestSession},
};

/// Between two rounds of datagrams.
const INTERVAL: Duration = Duration::from_millis(60);
/// The fewest rounds beside controls: one of those is lost easily.
const FEWEST_ROUNDS: usize = 3;
/// The most rounds: so many decide where less than a third is lost.
const MOST_ROUNDS: usize = 20;
/// Calls to one port, at the most.
pub(super) const CALLS: usize = 5;
/// Calls to a port that was closed again: servers connect to one address so often only.
pub(super) const AFTER_CALLS: usize = 3;
/// Calls to a port that was not mapped: servers connect to one address so often only, and silence of the others is to be decided.
const CONTROL_CALLS: usize = 2;
/// Between two calls.
const CALL_INTERVAL: Duration = Duration::from_millis(120);

/// Datagrams of the server to an external port of this host.
pub(in crate::probe) struct Datagrams<'a> {
    pub(in crate::probe) session: &'a Arc<Session>,
    /// The socket that asks for them.
    pub(in crate::probe) asks: &'a Socket,
    /// The socket that they are to arrive at.
    pub(in crate::probe) mapped: SocketId,
    /// The external port.
    pub(in crate::probe) port: u16,
}

impl Datagrams<'_> {
    /// Asks for datagrams until one arrives, or silence is decided; beside each for one to a port that was not mapped, where
    /// one is given. Tells whether one arrived.
    pub(in crate::probe) async fn reach(
        &self,
        purpose: Purpose,
        control: Option<(Purpose, u16)>,
        from: ServerEndpoint,
    ) -> bool {
        let Self { session, asks, mapped, port } = *self;
        let is_heard =
            |log: &ObservationLog| log.of(purpose).any(|t| t.successes().any(|answer| answer.on == mapped));
        for round in 1..=MOST_ROUNDS {
            let number = session.round();
            for (purpose, port) in [(purpose, port)].into_iter().chain(control) {
                let kind = RequestKind::ToMappedPort { port, from };
                session.send(asks, Request { purpose, to: session.server(), kind, round: number }).await;
            }
            // Beside controls there is more to hear than one answer.
            session.until(session.now() + INTERVAL, |log| control.is_none() && is_heard(log)).await;
            let until = session.now().saturating_sub(session.response_timeout());
            let is_enough = |log: &ObservationLog| datagram_counts(log, purpose, mapped, until).is_enough();
            let least = if control.is_some() { FEWEST_ROUNDS } else { 1 };
            if round >= least && session.read(|log| is_heard(log) || is_enough(log)) {
                break;
            }
        }
        // Silence counts once an answer would have been here.
        let patience = session.now() + session.response_timeout();
        session.until(patience, |log| control.is_none() && is_heard(log)).await;
        // An endpoint that answers nobody is silent here, too.
        if let Some(endpoint) = session.endpoints().get(from)
            && !session.read(|log| is_heard(log) || log.is_alive(endpoint))
        {
            let purpose = Purpose::main(purpose.measurement).role("alive");
            session.learn_external(asks, purpose, endpoint, 3).await;
        }
        session.read(is_heard)
    }
}

/// Has the server connect to an external port of this host until a connection arrives, so often at the most. Tells whether one
/// arrived.
pub(in crate::probe) async fn call(
    session: &Arc<Session>,
    test: &TestSession,
    purpose: Purpose,
    port: u16,
    most: usize,
) -> bool {
    let to = std::net::SocketAddr::new(test.seen_at(), port);
    let caller = Caller { session, test, to };
    // Nothing has been sent there from the port under test, so either address will do; the other one has seen less of this host.
    let from = match test.welcome.alternate {
        Some(_) => SourceAddress::Alternate,
        None => SourceAddress::Primary,
    };
    let is_settled = |log: &ObservationLog| {
        let mut calls = log.tcp.calls_of(purpose);
        calls.any(|call| call.arrived.is_some() || rejection(log, call).is_some())
    };
    for _ in 0..most {
        let (source, put_off) = (Source::Ephemeral, Duration::ZERO);
        if caller.call(CallRequest { purpose, from, source, to, put_off, wait: WAIT }).await.is_none() {
            return false;
        }
        if session.until(session.now() + CALL_INTERVAL, is_settled).await {
            break;
        }
    }
    caller.settle(purpose).await;
    session.read(|log| log.tcp.calls_of(purpose).any(|call| call.arrived.is_some()))
}

/// Has the server connect to a port of this host that nobody has mapped.
pub(super) async fn call_unmapped(session: Arc<Session>) {
    let Ok(port) = session.new_tcp_port().await else { return };
    let (Ok(local), Ok(listener)) = (port.local_addr(), port.listen()) else { return };
    let Some(test) = session.test_session().await else { return };
    session.accept_calls(&test, listener);
    call(&session, &test, CONTROL_CALL, local.port(), CONTROL_CALLS).await;
}
