//! A connection that begins with HTTP: it may open the WebSocket of the rendezvous, of a test session, or of the page.

use std::net::SocketAddr;

use shared::{
    rendezvous,
    rendezvous::{Refusal, ToClient},
    test_session,
};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{CONNECTION_COST, ConnectionSlot, Context, Event, ListenerEndpoint, PAGE_COST, Transport};
use crate::{
    http::{self, PAGE_PATH, Site, Upgraded},
    test_session::ServerSide,
    topology::Endpoint,
};

/// Whether anything is served over HTTP.
pub(super) fn is_served(context: &Context) -> bool {
    context.rendezvous.is_some() || context.test_sessions.is_some() || context.page.is_some()
}

/// Serves the connection, of which `beginning` has been read already, in a task of its own: sessions wait long, and the task
/// of a connection has room for all that a connection can be.
pub(super) fn spawn<S>(
    beginning: Vec<u8>,
    stream: S,
    from: SocketAddr,
    listener: ListenerEndpoint,
    context: Context,
    slot: ConnectionSlot,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handle = slot.handle();
    let task = tokio::spawn(async move {
        if let Some(opened) = Box::pin(open(beginning, stream, from, listener, &context)).await {
            converse(opened, from, listener, context, slot).await;
        }
    });
    handle.set_task(task.abort_handle());
}

/// Serves the HTTP request. Boxed by whoever calls it: its state is large, and would stay for as long as a session lasts.
async fn open<S>(
    beginning: Vec<u8>,
    stream: S,
    from: SocketAddr,
    listener: ListenerEndpoint,
    context: &Context,
) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let current = context.shared.current();
    let tls_port = tls_port(from, listener, context);
    let page = current.page.as_deref().filter(|_| context.page.is_some());
    let site = Site { options: &current.http, paths: &paths(context), page, tls_port };
    http::serve(beginning, stream, from.ip(), &site).await
}

/// Where WebSockets can be opened.
fn paths(context: &Context) -> Vec<&'static str> {
    let rendezvous = context.rendezvous.as_ref().map(|_| rendezvous::PATH);
    let test_sessions = context.test_sessions.as_ref().map(|_| test_session::PATH);
    let page = context.page.as_ref().map(|_| PAGE_PATH);
    rendezvous.into_iter().chain(test_sessions).chain(page).collect()
}

/// Where the same is offered over TLS. A proxy has its own TLS towards its clients, and ports of its own.
fn tls_port(from: SocketAddr, listener: ListenerEndpoint, context: &Context) -> Option<u16> {
    let current = context.shared.current();
    let is_offered = listener.transport == Transport::Tcp && !current.http.is_proxy(from.ip());
    let tls = current.tls.get(listener.family).filter(|_| is_offered)?;
    tls.advertised(listener.at).map(|at| at.port())
}

async fn converse<S>(
    opened: Upgraded<S>,
    from: SocketAddr,
    listener: ListenerEndpoint,
    context: Context,
    mut slot: ConnectionSlot,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Upgraded { socket, client, is_proxied, path, host } = opened;
    // Whoever came through a proxy pays here what others have paid to the listener.
    let client = SocketAddr::new(client, from.port());
    let is_told = client.ip() != from.ip().to_canonical();
    let cost = if path == PAGE_PATH { PAGE_COST } else { CONNECTION_COST };
    let pays = is_told || path == PAGE_PATH;
    let is_too_fast = pays && !context.take(listener.family, client, cost);
    if is_too_fast {
        context.limiter.count(Event::TooFast);
    }
    let current = context.shared.current();
    let page = context.page.is_some() && current.page.is_some();
    let stun =
        || current.topologies.iter().filter_map(|t| t.advertised(Endpoint::Primary)).collect::<Vec<_>>();
    if let Some(page) = context.page.filter(|_| path == PAGE_PATH) {
        if is_too_fast {
            return Box::pin(page.refuse(socket, Refusal::TooFast)).await;
        }
        let stun = stun();
        drop(current);
        return Box::pin(page.measure(socket, client, &host, &stun, context.stop)).await;
    }
    // The server does not end before its time while this is there.
    let _running = context.running;
    if let Some(sessions) = context.test_sessions.filter(|_| path == test_session::PATH) {
        // What a proxy says of an address is no reason to send anything there, and its own address is not the client's.
        let refusal = is_too_fast.then_some(Refusal::TooFast).or(is_proxied.then_some(Refusal::Proxied));
        if let Some(refusal) = refusal {
            return Box::pin(sessions.refuse(socket, refusal)).await;
        }
        let topology = current.topologies[listener.family].clone();
        let server = ServerSide { topology, at: listener.at, serves_tcp: context.shared.serves_tcp() };
        drop(current);
        // Boxed, so that introductions, which are more and wait longer, are not as large as the others.
        Box::pin(sessions.converse_over(socket, client, server, || slot.hand_over())).await;
    } else if let Some(rendezvous) = context.rendezvous {
        if is_too_fast {
            return Box::pin(rendezvous.refuse(socket, Refusal::TooFast)).await;
        }
        let welcome = ToClient::Welcome { stun: stun(), page };
        drop(current);
        rendezvous.introduce(socket, client.ip(), welcome, || slot.hand_over()).await;
    }
}
