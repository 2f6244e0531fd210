//! What only a punch wants to know of the own network: whether its filter remembers whom a socket has sent to, or whom
//! each mapping has, and how many ports others take. Measured in a [`Session`], concluded from its log, as a check is.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::{nat::PortAllocation, rendezvous::peer::MAX_ADDRESSES, stun::Dialect};

use tokio::time::{Instant, sleep_until};

use crate::{
    net::Net,
    observation::{ObservationLog, Purpose, RequestKind, SocketId, Transaction},
    randomness::Randomness,
    server_endpoints::ServerEndpoint,
    session::{Contact, Request, Session},
};

/// What its requests are sent for, in the log.
const PURPOSE: Purpose = Purpose::main("punch");
/// Requests for one external endpoint, and sockets that are tried when none is answered.
const TRIES: u32 = 6;
const SOCKETS: usize = 2;
/// Requests for a response that silence is to be the proof of.
const PROOFS: usize = 7;
/// Silences that do: even if every third response got lost, this many would be one case in 200.
const SILENCES: usize = 5;
/// Sockets for each external address that is looked for: of four, one is missed once in 25 times.
const SOCKETS_AN_ADDRESS: usize = 4;
/// How long others are watched: long enough for a figure, and the peer is waited for meanwhile.
const WATCH: Duration = Duration::from_millis(1500);

/// Whether a server answers at this endpoint, which somebody has named.
pub(super) async fn answers(net: &Arc<dyn Net>, endpoint: SocketAddr, randomness: Randomness) -> bool {
    let any: IpAddr =
        if endpoint.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let Ok(session) = Session::new(Arc::clone(net), endpoint, SocketAddr::new(any, 0), randomness) else {
        return false;
    };
    session.declare(Contact::Udp(Dialect::Modern));
    let Ok(socket) = session.open().await else { return false };
    session.learn_external(&socket, PURPOSE, endpoint, TRIES).await.is_some()
}

/// Whether the response of somebody whom another mapping of the same socket has sent to is let in. For mappings that
/// differ between the server's endpoint and `other`, which differs from it in address and port.
pub(super) async fn shared_filter(session: &Arc<Session>, other: SocketAddr) -> Option<bool> {
    // By chance a socket gets the port of an earlier one, whose mappings live on: two of them do not.
    for _ in 0..2 {
        if !is_let_in(session, other).await? {
            return Some(false);
        }
    }
    Some(true)
}

/// Silence proves something only if the server shows that it has responded.
async fn is_let_in(session: &Arc<Session>, other: SocketAddr) -> Option<bool> {
    let socket = session.open().await.ok()?;
    session.learn_external(&socket, PURPOSE, other, TRIES).await?;
    for _ in 0..PROOFS {
        let kind = RequestKind::ChangeRequest(ServerEndpoint::BOTH);
        let request = Request { purpose: PURPOSE, to: session.server(), kind, round: session.round() };
        session.send(&socket, request).await;
        let deadline = session.now() + session.response_timeout();
        if session.until(deadline, |log| came_from(log, socket.id, other)).await {
            return Some(true);
        }
        if session.read(|log| receipts(log, socket.id)) >= SILENCES {
            return Some(false);
        }
    }
    None
}

fn came_from(log: &ObservationLog, socket: SocketId, other: SocketAddr) -> bool {
    change_requests(log, socket).any(|transaction| transaction.answer_from(other).is_some())
}

fn receipts(log: &ObservationLog, socket: SocketId) -> usize {
    change_requests(log, socket).filter(|transaction| transaction.receipt.is_some()).count()
}

fn change_requests(log: &ObservationLog, socket: SocketId) -> impl Iterator<Item = &Transaction> {
    let kind = RequestKind::ChangeRequest(ServerEndpoint::BOTH);
    log.transactions
        .iter()
        .filter(move |transaction| transaction.socket == socket && transaction.kind == kind)
}

/// The mappings a second that others open behind a NAT that counts its ports up by `step`, as many as there may well be:
/// what was seen, and one and a half standard deviations.
pub(super) async fn cross_traffic(session: &Arc<Session>, step: i32) -> Option<f64> {
    let begun = Instant::now();
    let before = external(session).await?;
    sleep_until(begun + WATCH).await;
    let took = begun.elapsed().as_secs_f64();
    let after = external(session).await?;
    let others = others(before.port(), after.port(), step)?;
    // A whole number: both sides have to read the same.
    Some(((others + 1.5 * others.sqrt()) / took).ceil())
}

/// External addresses of fresh sockets, until all that the check has counted were seen again.
pub(super) async fn external_addresses(
    session: &Arc<Session>,
    ports: Option<&PortAllocation>,
) -> Vec<IpAddr> {
    let Some(ports) = ports else { return Vec::new() };
    let count = (ports.external_ips as usize).min(MAX_ADDRESSES);
    let mut seen: Vec<IpAddr> = Vec::new();
    // Where the destination decides, more sockets show nothing more.
    let sockets = if ports.external_ip_by_destination == Some(true) { 1 } else { count * SOCKETS_AN_ADDRESS };
    for _ in 0..sockets {
        if seen.len() >= count {
            break;
        }
        let Some(external) = external(session).await else { break };
        if !seen.contains(&external.ip()) {
            seen.push(external.ip());
        }
    }
    seen
}

/// The external endpoint of a fresh socket.
async fn external(session: &Arc<Session>) -> Option<SocketAddr> {
    for _ in 0..SOCKETS {
        let socket = session.open().await.ok()?;
        if let Some(external) = session.learn_external(&socket, PURPOSE, session.server(), TRIES).await {
            return Some(external);
        }
    }
    None
}

/// Mappings between two of our own; with one more, since what was not seen may come. None where the ports are no steps.
fn others(before: u16, after: u16, step: i32) -> Option<f64> {
    const RING: i32 = 65536 - 1024;
    let moved = (i32::from(after) - i32::from(before)) * step.signum();
    let (moved, step) = (moved.rem_euclid(RING), i32::try_from(step.unsigned_abs()).ok()?);
    // The far end of the ring is a NAT that has gone back.
    (step > 0 && moved > 0 && moved < RING / 2).then(|| f64::from(moved) / f64::from(step))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_are_counted_by_their_ports() {
        assert_eq!(others(5000, 5001, 1), Some(1.0), "nobody, and one for what was not seen");
        assert_eq!(others(5000, 5031, 1), Some(31.0));
        assert_eq!(others(5000, 4980, -2), Some(10.0));
        assert_eq!(others(65530, 1030, 1), Some(12.0), "round the ring");
        assert_eq!(others(5000, 4000, 1), None);
        assert_eq!(others(5000, 5000, 1), None);
        assert_eq!(others(5000, 5010, 0), None);
        assert_eq!(others(5000, 5010, i32::MIN), None);
    }
}
