//! What the measurements over TCP have in common: a connection from the port under test, and what the server sees of it.

use std::{io, net::SocketAddr, sync::Arc};

use crate::{
    contactable::is_global,
    net::Stream,
    observation::{
        ObservationLog, Purpose,
        tcp::{Outcome, OutcomeKind, TcpAnswer},
    },
    report::{Reason, ReasonCode},
    server_endpoints::ServerEndpoints,
    session::Session,
    stun_over_tcp,
};

/// Connects from the port under test and asks what the server sees (RFC 8489 section 6.2.2). The connection stays open, and
/// with it the mapping.
pub(super) async fn ask_from_port(session: &Arc<Session>, purpose: Purpose, to: SocketAddr) {
    let Ok(port) = session.tcp_port().await else { return };
    let local = port.local_addr().ok();
    let number = session.note_tcp(|log| log.begin(purpose, local, to, session.now()));
    let Some(mut stream) = connected(session, number, port.connect(to).await) else { return };
    let Ok(id) = session.transaction_id() else { return };
    if let Ok(answer) = stun_over_tcp::ask(&mut *stream, id).await {
        let stun_over_tcp::Answer { mapped, other } = answer;
        let answer = TcpAnswer { at: session.now(), mapped, other };
        session.note_tcp(|log| log.connections[number].answer = Some(answer));
    }
    session.keep_open(stream);
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

/// The server's endpoints: as it named them over UDP, or over TCP where nothing came over UDP.
pub(super) fn endpoints(log: &ObservationLog) -> ServerEndpoints {
    let over_tcp = log.tcp.connections.iter().find(|c| c.to == log.server).and_then(|c| c.answer);
    match over_tcp {
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
