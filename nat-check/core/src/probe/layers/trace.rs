//! Packets that die on the way: to the server, and to this host's own external address, each twice.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use shared::stun::{Class, TransactionId, Writer};

use crate::{net::TraceSocket, observation::layers::TracePacket, session::Session};

/// Packets die after so many routers at the most: what comes later is the carrier's network or the Internet.
const MOST: u8 = 5;
/// Routers send few ICMP errors a second (RFC 1812 section 4.3.2.8), Linux six at once.
const COPIES: usize = 2;
/// Ports of this host's own external address that a packet is sent to: those that the Internet's traceroute uses.
const UNUSED_PORTS: std::ops::Range<u16> = 33434..33534;

/// Sends them; whether that was possible. What routers say is entered as it comes.
pub(super) async fn send(session: &Arc<Session>, own_external: Option<IpAddr>) -> bool {
    let mut sockets: Vec<Arc<dyn TraceSocket>> = Vec::new();
    for ttl in 1..=MOST {
        // One for each distance, as some routers quote no more than the ports of what they drop.
        match session.net().trace_socket(SocketAddr::new(session.local_ip(), 0)).await {
            Ok(socket) => {
                let socket: Arc<dyn TraceSocket> = socket.into();
                listen(session, ttl, Arc::clone(&socket));
                sockets.push(socket);
            }
            Err(error) => {
                session.note_layers(|log| log.no_trace = Some(error.to_string()));
                return false;
            }
        }
    }
    let unused = own_external.map(|ip| SocketAddr::new(ip, session.choice(UNUSED_PORTS)));
    // The gateway's word matters most: it has to come before its limit of ICMP errors is reached.
    let nearest = (0..COPIES).map(|_| 1..=1);
    let farther = (0..COPIES).map(|_| 2..=MOST);
    for distances in nearest.chain(farther) {
        for ttl in distances {
            let Some(socket) = sockets.get(usize::from(ttl) - 1) else { continue };
            for to in [Some(session.server()), unused].into_iter().flatten() {
                let Some((_, datagram)) = binding_request(session) else { return true };
                let sent = session.now();
                session.note_layers(|log| log.trace.push(TracePacket { to, ttl, sent, report: None }));
                // What the system refuses to send nobody reports.
                _ = socket.send(&datagram, to, ttl).await;
            }
        }
    }
    true
}

fn listen(session: &Arc<Session>, ttl: u8, socket: Arc<dyn TraceSocket>) {
    let weak = Arc::downgrade(session);
    session.spawn(async move {
        while let Ok(report) = socket.report().await {
            let Some(session) = weak.upgrade() else { return };
            let at = session.now().saturating_sub(report.ago);
            session.note_layers(|log| log.reported(ttl, report, at));
        }
    });
}

/// A server that is so near gets something that it knows; its answers are not waited for.
pub(super) fn binding_request(session: &Session) -> Option<(TransactionId, Vec<u8>)> {
    let id = session.transaction_id().ok()?;
    let mut buffer = [0; 64];
    let length = Writer::new(&mut buffer, Class::Request, &id).finish().ok()?;
    Some((id, buffer[..length].to_vec()))
}
