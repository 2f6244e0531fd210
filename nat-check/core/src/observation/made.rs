//! Logs made by hand, for the tests of conclusions.

use shared::test_session::{Source, SourceAddress};

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

/// A call of the server that nothing has come of, asked for a second after the start.
pub(crate) fn call(purpose: Purpose, from: SourceAddress, source: Source) -> call::Call {
    call::Call {
        purpose,
        from,
        source,
        to: at("203.0.113.1:40000"),
        asked: Duration::from_secs(1),
        put_off: Duration::ZERO,
        wait: Duration::from_millis(1500),
        left: Some(Duration::from_secs(1)),
        arrived: None,
        result: None,
        icmp: None,
        declined: None,
    }
}

/// A run of ten seconds, with 30 control requests before and after all calls, of which none got lost.
pub(crate) fn without_loss() -> ObservationLog {
    let mut log = log();
    let local = socket(&mut log, "192.168.1.2:40000");
    for sent in [0, 2].map(Duration::from_secs) {
        for _ in 0..30 {
            let control = answered(Purpose::main("control"), local, ServerEndpoint::PRIMARY, "203.0.113.1:1");
            log.transactions.push(Transaction { sent, ..control });
        }
    }
    log.transactions.iter_mut().for_each(|t| t.responses[0].at = t.sent + Duration::from_millis(20));
    log.tcp.session = call::TestSessionState::Open;
    log.ended = Duration::from_secs(10);
    log
}
