//! What the measurements over TCP have in common: a connection from a port under test, and what the server sees of it.

#[cfg(feature = "punch")]
use std::net::IpAddr;
use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use shared::test_session::Token;

#[cfg(feature = "punch")]
use crate::session::TestSession;
use crate::{
    contactable::is_global,
    net::{Stream, TcpPort},
    observation::{
        ObservationLog, Purpose,
        tcp::{Outcome, OutcomeKind, TcpAnswer},
    },
    report::{Reason, ReasonCode},
    server_endpoints::ServerEndpoints,
    session::Session,
    stun_over_tcp,
};

/// By so much two times of which each is taken by a program of its own differ at least before one is less than the other.
pub(super) const CLOCKS: Duration = Duration::from_millis(1);

/// A connection from a port under test that is open.
pub(super) struct Reached {
    number: usize,
    stream: Box<dyn Stream>,
}

/// Connects from this port and asks what the server sees (RFC 8489 section 6.2.2). The connection stays open, and with it the
/// mapping.
pub(super) async fn ask(session: &Arc<Session>, port: &dyn TcpPort, purpose: Purpose, to: SocketAddr) {
    if let Some(reached) = reach(session, port, purpose, to).await {
        reached.ask(session, None).await;
    }
}

/// Connects from this port.
pub(super) async fn reach(
    session: &Arc<Session>,
    port: &dyn TcpPort,
    purpose: Purpose,
    to: SocketAddr,
) -> Option<Reached> {
    let local = port.local_addr().ok();
    let number = session.note_tcp(|log| log.begin(purpose, local, to, session.now()));
    let stream = connected(session, number, port.connect(to).await)?;
    Some(Reached { number, stream })
}

impl Reached {
    /// Asks what the server sees, with the token of a test session where the port is to be proven.
    pub(super) async fn ask(mut self, session: &Arc<Session>, token: Option<Token>) {
        let Ok(id) = session.transaction_id() else { return };
        if let Ok(answer) = stun_over_tcp::ask(&mut *self.stream, id, token).await {
            let stun_over_tcp::Answer { mapped, other } = answer;
            let answer = TcpAnswer { at: session.now(), mapped, other };
            session.note_tcp(|log| log.connections[self.number].answer = Some(answer));
        }
        session.keep_open(self.stream);
    }

    /// The same, but the connection is kept by the caller; gives the external endpoint.
    #[cfg(feature = "punch")]
    pub(super) async fn prove(
        mut self,
        session: &Arc<Session>,
        token: Token,
    ) -> Option<(SocketAddr, Box<dyn Stream>)> {
        let id = session.transaction_id().ok()?;
        let answer = stun_over_tcp::ask(&mut *self.stream, id, Some(token)).await.ok()?;
        Some((answer.mapped, self.stream))
    }
}

/// Connects from this port, only so that a SYN leaves.
#[cfg(feature = "punch")]
pub(super) async fn knock(session: &Arc<Session>, port: &dyn TcpPort, purpose: Purpose, to: SocketAddr) {
    if let Some(reached) = reach(session, port, purpose, to).await {
        session.keep_open(reached.stream);
    }
}

/// Opens the test session and meanwhile connects from a port under test, then proves that port; gives the session and the
/// external endpoint that the server connects to.
#[cfg(feature = "punch")]
pub(super) async fn prove(
    session: &Arc<Session>,
    port: &dyn TcpPort,
    purpose: Purpose,
) -> Option<(Arc<TestSession>, SocketAddr)> {
    let reached = reach(session, port, purpose, session.server());
    let (test, reached) = tokio::join!(session.test_session(), reached);
    let test = test?;
    reached?.ask(session, Some(test.welcome.token)).await;
    let local = port.local_addr().ok();
    let to = session.read(|log| proven(log, purpose, local, test.seen_at()))?;
    Some((test, to))
}

/// Enters what came of connecting; gives the stream.
pub(super) fn connected(
    session: &Arc<Session>,
    number: usize,
    result: io::Result<Box<dyn Stream>>,
) -> Option<Box<dyn Stream>> {
    let kind = result.as_ref().map_or_else(OutcomeKind::of, |_| OutcomeKind::Connected);
    let outcome = Outcome { kind, at: session.now() };
    session.note_tcp(|log| log.connections[number].outcome = Some(outcome));
    result.ok()
}

/// The external endpoint of a local port under test, where the server sees it at the address that it connects to.
#[cfg(feature = "punch")]
fn proven(
    log: &ObservationLog,
    purpose: Purpose,
    local: Option<SocketAddr>,
    seen_at: IpAddr,
) -> Option<SocketAddr> {
    let answers = log.tcp.of(purpose).filter(|c| c.local == local).filter_map(|c| c.answer);
    answers.map(|answer| answer.mapped).find(|mapped| mapped.ip().to_canonical() == seen_at)
}

/// The server's endpoints: as it named them over UDP, or over TCP where nothing came over UDP.
pub(super) fn endpoints(log: &ObservationLog) -> ServerEndpoints {
    let over_tcp = log.tcp.connections.iter().find(|c| c.to == log.server && c.answer.is_some());
    match over_tcp.and_then(|c| c.answer) {
        Some(answer) if log.dialect().is_none() => ServerEndpoints::named(log.server, answer.other),
        _ => ServerEndpoints::of(log.server, log),
    }
}

/// Why the external endpoint that a server in the Internet shows over TCP tells nothing of this side, or not all: it has been
/// put there by a gateway, or a NAT stands in front of the server.
pub(super) fn implausible(server: SocketAddr, local: SocketAddr, external: SocketAddr) -> Option<Reason> {
    if !is_global(server.ip()) || is_global(external.ip()) && external.ip() != server.ip() {
        return None;
    }
    Some(if external.ip() == local.ip() {
        let text = format!("the server shows this host's own private address {} over TCP", external.ip());
        (ReasonCode::PrivateAddressShown, text).into()
    } else {
        let text =
            format!("there is a NAT in front of the server: over TCP it sees this host at {}", external.ip());
        (ReasonCode::NatBeforeServer, text).into()
    })
}
