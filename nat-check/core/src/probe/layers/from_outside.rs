//! A trace from the server: packets that die at the outermost NAT and behind it. NATs put the external address over the source
//! of every ICMP error from inside (RFC 5508 section 4.2), so the errors that come from that address count the routers from the
//! outermost NAT inwards.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    stun::{Class, Writer, attr},
    test_session::Token,
};

use super::PATIENCE;
use crate::{
    contactable::{LOWEST_PORT, Scope, is_contactable},
    net::Datagram,
    session::Session,
};

/// Enough for any way through the Internet.
const TTLS: std::ops::RangeInclusive<u8> = 1..=32;
/// Tokens that are sent at the most, as one may get lost.
const COPIES: u32 = 3;
/// How late ICMP errors may come.
const LATE: Duration = Duration::from_millis(700);
/// What packets of the trace begin with; the last byte is the TTL.
const PAYLOAD: &[u8] = b"trace\0\0";

/// Has the server send them, and enters what arrives here; the server's word is entered by the test session.
pub(super) async fn ask(session: &Arc<Session>) -> Option<()> {
    let test = session.test_session().await?;
    // With a server that does nothing else meanwhile a trace would delay what others ask it for.
    if test.welcome.trace_ms == 0 {
        return None;
    }
    let socket: Arc<dyn Datagram> =
        session.net().bind(SocketAddr::new(session.local_ip(), 0)).await.ok()?.into();
    test.open_trace_port()?;
    let until = session.now() + PATIENCE;
    session.until(until, |log| log.tcp.trace.port.is_some() || log.tcp.trace.is_declined).await;
    let port = session.read(|log| log.tcp.trace.port).filter(|at| is_of_server(session, *at))?;
    listen(session, Arc::clone(&socket));
    let request = request(session, test.welcome.token)?;
    for _ in 0..COPIES {
        socket.send_to(&request, port).await.ok()?;
        let wait = session.response_timeout();
        if session.until(session.now() + wait, |log| log.tcp.trace.flow.is_some()).await {
            break;
        }
    }
    session.read(|log| log.tcp.trace.flow)?;
    let wait = session.response_timeout().max(LATE);
    test.trace(TTLS, wait)?;
    let is_over =
        |log: &crate::observation::ObservationLog| log.tcp.trace.hops.is_some() || log.tcp.trace.is_declined;
    session.until(session.now() + 2 * PATIENCE, is_over).await;
    Some(())
}

/// Packets go to the server itself alone, whatever it names.
fn is_of_server(session: &Session, at: SocketAddr) -> bool {
    let server = session.server();
    at.ip().to_canonical() == server.ip().to_canonical()
        && at.port() >= LOWEST_PORT
        && is_contactable(at.ip(), at.port(), Scope::Server(server))
}

fn request(session: &Session, token: Token) -> Option<Vec<u8>> {
    let id = session.transaction_id().ok()?;
    let mut buffer = [0; 64];
    let mut writer = Writer::new(&mut buffer, Class::Request, &id);
    writer.bytes(attr::TOKEN, &token.0);
    let length = writer.finish().ok()?;
    Some(buffer[..length].to_vec())
}

fn listen(session: &Arc<Session>, socket: Arc<dyn Datagram>) {
    let weak = Arc::downgrade(session);
    session.spawn(async move {
        let mut buffer = [0; 64];
        loop {
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(AFTER_AN_ERROR).await;
                continue;
            };
            let ttl = buffer[..length].strip_prefix(PAYLOAD).and_then(|rest| rest.first().copied());
            let Some(session) = weak.upgrade() else { return };
            session.note_tcp(|log| {
                let is_from_port = log.trace.port.is_some_and(|port| port == from);
                if let Some(ttl) = ttl.filter(|ttl| is_from_port && TTLS.contains(ttl))
                    && !log.trace.arrived.contains(&ttl)
                {
                    log.trace.arrived.push(ttl);
                }
            });
        }
    });
}

/// So that errors that do not end cost no time.
const AFTER_AN_ERROR: Duration = Duration::from_millis(10);
