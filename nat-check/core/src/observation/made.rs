//! Logs made by hand, for the tests of conclusions.

use super::*;

pub(crate) const SERVER: &str = "198.51.100.10:3478";
pub(crate) const OTHER: &str = "198.51.100.11:3479";

pub(crate) fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

pub(crate) fn address_of(endpoint: ServerEndpoint) -> SocketAddr {
    let ip = if endpoint.other_ip { at(OTHER) } else { at(SERVER) }.ip();
    let port = if endpoint.other_port { at(OTHER) } else { at(SERVER) }.port();
    SocketAddr::new(ip, port)
}

pub(crate) fn log() -> ObservationLog {
    ObservationLog::new(at(SERVER))
}

pub(crate) fn socket(log: &mut ObservationLog, local: &str) -> SocketId {
    log.sockets.push(LocalSocket { local: at(local) });
    SocketId(log.sockets.len() - 1)
}

/// A request that nothing has come of.
pub(crate) fn transaction(
    purpose: Purpose,
    socket: SocketId,
    to: SocketAddr,
    kind: RequestKind,
) -> Transaction {
    Transaction {
        purpose,
        socket,
        to,
        kind,
        round: 0,
        dialect: Dialect::Modern,
        wants_receipt: matches!(kind, RequestKind::ChangeRequest(_)),
        sent: Duration::ZERO,
        responses: Vec::new(),
        unsent: false,
        receipt: None,
        alternate_unheard: None,
    }
}

/// An answer from `from` that shows `mapped`.
pub(crate) fn answer(on: SocketId, from: SocketAddr, mapped: &str) -> Response {
    Response {
        at: Duration::from_millis(10),
        from,
        on,
        class: Class::Success,
        error: None,
        mapped: Some(at(mapped)),
        xor_mapped: Some(at(mapped)),
        origin: Some(from),
        other: Some(at(OTHER)),
    }
}

/// A Binding request to `endpoint`, answered.
pub(crate) fn answered(
    purpose: Purpose,
    socket: SocketId,
    endpoint: ServerEndpoint,
    mapped: &str,
) -> Transaction {
    let mut transaction = transaction(purpose, socket, address_of(endpoint), RequestKind::Binding);
    transaction.responses.push(answer(socket, address_of(endpoint), mapped));
    transaction
}
