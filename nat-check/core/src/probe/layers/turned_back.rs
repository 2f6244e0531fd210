//! Where packets to this host's own external endpoints are turned back: each router on the way there and back takes one from the
//! TTL, so what is left of it tells how far away the box is that has the external address (hairpinning, RFC 4787 section 6).

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::stun::{Class, View};
use tokio::time::timeout;

use crate::{
    contactable::{Scope, is_contactable},
    net::{Arrival, TraceSocket},
    observation::{ObservationLog, RequestKind, layers::Turned},
    session::{ROUND_INTERVAL, Session},
};

use super::trace::binding_request;

/// The TTL that packets are sent with. A router that sets it anew lets both arrive with the same.
const TTLS: [u8; 2] = [64, 40];
/// Packets with each, in each direction: the first ones open each other's filter.
const COPIES: usize = 2;
/// Longest datagram that is read.
const MAX_DATAGRAM: usize = 1024;

/// Sends them, unless it is known that nothing comes back, and enters what does.
pub(super) async fn send(session: &Arc<Session>) -> Option<()> {
    if session.read(comes_nothing_back) {
        return None;
    }
    let [a, b] = [end(session).await?, end(session).await?];
    let nonce: [u8; 12] = session.nonce()?;
    for (here, there) in [(&a, &b), (&b, &a)] {
        listen(session, nonce, here, there);
    }
    for _ in 0..COPIES {
        for ttl in TTLS {
            let datagram = [&nonce[..], &[ttl]].concat();
            for (from, to) in [(&a, &b), (&b, &a)] {
                // What the system refuses to send does not come back.
                _ = from.socket.send(&datagram, to.external, ttl).await;
            }
        }
        // The way to the NAT and back is no longer than the one to the server.
        let wait = session.response_timeout().min(ROUND_INTERVAL);
        let has_all = |log: &ObservationLog| {
            TTLS.iter().all(|ttl| log.layers.turned.iter().any(|turned| turned.sent == *ttl))
        };
        if session.until(session.now() + wait, has_all).await {
            break;
        }
    }
    Some(())
}

/// Whether the measurement of hairpinning has tried, and heard nothing.
fn comes_nothing_back(log: &ObservationLog) -> bool {
    let mut tried = log.transactions.iter().filter(|t| t.kind == RequestKind::Hairpin).peekable();
    tried.peek().is_some() && tried.all(|t| t.responses.is_empty())
}

/// A socket, and the endpoint that the server sees it at.
struct End {
    socket: Arc<dyn TraceSocket>,
    external: SocketAddr,
}

async fn end(session: &Arc<Session>) -> Option<End> {
    let local = SocketAddr::new(session.local_ip(), 0);
    let socket: Arc<dyn TraceSocket> = session.net().trace_socket(local).await.ok()?.into();
    for _ in 0..COPIES {
        let (id, request) = binding_request(session)?;
        socket.send(&request, session.server(), TTLS[0]).await.ok()?;
        let external = async {
            let mut buffer = [0; MAX_DATAGRAM];
            loop {
                // An error is a report by ICMP of what was sent before.
                let Ok(Arrival { length, from, .. }) = socket.receive(&mut buffer).await else { continue };
                let response = View::parse(&buffer[..length]).ok().filter(|view| view.id() == id);
                let response = response.filter(|view| view.class() == Class::Success);
                if let Some(external) = response.and_then(|view| view.mapped())
                    && from == session.server()
                {
                    return SocketAddr::new(external.ip().to_canonical(), external.port());
                }
            }
        };
        if let Ok(external) = timeout(session.response_timeout(), external).await {
            // The server may name what it likes.
            let scope = Scope::Server(session.server());
            let is_own =
                is_contactable(external.ip(), external.port(), scope) && external.ip() != session.local_ip();
            return is_own.then_some(End { socket, external });
        }
    }
    None
}

/// Enters what arrives at this end from the other one, until the run ends.
fn listen(session: &Arc<Session>, nonce: [u8; 12], here: &End, there: &End) {
    let (weak, socket, sender) = (Arc::downgrade(session), Arc::clone(&here.socket), there.external.ip());
    session.spawn(async move {
        let mut buffer = [0; MAX_DATAGRAM];
        loop {
            let Ok(Arrival { length, from, ttl }) = socket.receive(&mut buffer).await else {
                tokio::time::sleep(AFTER_AN_ERROR).await;
                continue;
            };
            let sent = buffer[..length].strip_prefix(&nonce[..]).and_then(|rest| rest.first().copied());
            let Some((sent, arrived)) = sent.zip(ttl) else { continue };
            let Some(session) = weak.upgrade() else { return };
            let turned = Turned { sent, arrived, is_external: from.ip().to_canonical() == sender };
            session.note_layers(|log| {
                if log.turned.len() < 4 * COPIES {
                    log.turned.push(turned);
                }
            });
        }
    });
}

/// So that errors that do not end cost no time.
const AFTER_AN_ERROR: Duration = Duration::from_millis(10);
