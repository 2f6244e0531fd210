//! What only a punch wants to know of the own network: whether its filter remembers whom a socket has sent to, or whom
//! each mapping has, and how many ports others take.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::stun::{Class, TransactionId, View, Writer, attr};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::post::Post;

/// Whom to ask, from where, and how long an answer takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct ServerEndpoint {
    pub(super) local: IpAddr,
    pub(super) server: SocketAddr,
    /// Differs from it in address and port.
    pub(super) other: SocketAddr,
    pub(super) rtt: Duration,
}

/// Questions for an answer that silence is to be the proof of.
const PROOFS: u32 = 7;
/// Silences that do: even if every third answer got lost, this many would be one case in 200.
const SILENCES: usize = 5;

/// Whether the answer of somebody whom another mapping of the same socket has sent to is let in. For mappings that
/// differ between the two endpoints.
pub(super) async fn shared_filter(post: &mut Post, place: ServerEndpoint) -> Option<bool> {
    // By chance a socket gets the port of an earlier one, whose mappings live on: two of them do not.
    for _ in 0..2 {
        if !is_heard(post, place).await? {
            return Some(false);
        }
    }
    Some(true)
}

/// Silence proves something only if the server shows that it has answered.
async fn is_heard(post: &mut Post, place: ServerEndpoint) -> Option<bool> {
    let socket = post.open(place.local).await.ok()?;
    post.ask(socket, place.other).await?;
    let mut asked: Vec<TransactionId> = Vec::new();
    let mut receipts: Vec<TransactionId> = Vec::new();
    for _ in 0..PROOFS {
        let id = TransactionId::modern(post.rng());
        ask(post, socket, &id, place.server).await;
        asked.push(id);
        let until = Instant::now() + patience(place.rtt);
        while let Ok(arrival) = timeout_at(until, post.receive()).await {
            let Ok(view) = View::parse(&arrival.bytes) else { continue };
            if !asked.contains(&view.id()) {
                continue;
            }
            if arrival.from == place.other {
                return Some(true);
            }
            let is_receipt = arrival.from == place.server && view.address(attr::RECEIPT) == Some(place.other);
            if is_receipt && !receipts.contains(&view.id()) {
                receipts.push(view.id());
            }
        }
        if receipts.len() >= SILENCES {
            return Some(false);
        }
    }
    None
}

/// How long others are watched: long enough for a figure, and the peer is waited for meanwhile.
const WATCH: Duration = Duration::from_millis(1500);

/// The mappings a second that others open behind a NAT that counts its ports up by `step`, as many as there may well be:
/// what was seen, and one and a half standard deviations.
pub(super) async fn cross_traffic(
    post: &mut Post,
    local: IpAddr,
    server: SocketAddr,
    step: i32,
) -> Option<f64> {
    let begun = Instant::now();
    let (_, before) = post.open_seen(local, server).await?;
    sleep_until(begun + WATCH).await;
    let took = begun.elapsed().as_secs_f64();
    let (_, after) = post.open_seen(local, server).await?;
    let others = others(before.port(), after.port(), step)?;
    // A whole number: both sides have to read the same.
    Some(((others + 1.5 * others.sqrt()) / took).ceil())
}

/// Mappings between two of our own; with one more, since what was not seen may come. None where the ports are no steps.
fn others(before: u16, after: u16, step: i32) -> Option<f64> {
    const RING: i32 = 65536 - 1024;
    let moved = (i32::from(after) - i32::from(before)) * step.signum();
    let (moved, step) = (moved.rem_euclid(RING), i32::try_from(step.unsigned_abs()).ok()?);
    // The far end of the ring is a NAT that has gone back.
    (step > 0 && moved > 0 && moved < RING / 2).then(|| f64::from(moved) / f64::from(step))
}

fn patience(rtt: Duration) -> Duration {
    rtt * 3 / 2 + Duration::from_millis(50)
}

/// Asks for an answer from the other endpoint (CHANGE-REQUEST, RFC 5780 section 7.2), and a receipt from this one.
async fn ask(post: &mut Post, socket: usize, id: &TransactionId, to: SocketAddr) {
    let mut request = [0; 256];
    let mut writer = Writer::new(&mut request, Class::Request, id);
    // As long as both answers: who asks pays for them.
    let whole: usize = if to.is_ipv6() { 208 } else { 128 };
    writer.u32(attr::CHANGE_REQUEST, attr::CHANGE_IP | attr::CHANGE_PORT);
    writer.bytes(attr::RECEIPT, &[]);
    writer.zeros(attr::FILLER, whole.saturating_sub(writer.len() + 4));
    if let Ok(length) = writer.finish() {
        post.send(socket, &request[..length], to).await;
    }
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
