//! HTTP on the ports of STUN over TCP and TLS: one request a connection, which may open a WebSocket (RFC 6455).

mod forwarded;
mod frame_limiter;
mod options;
mod site;

use std::{convert::Infallible, net::IpAddr, sync::Mutex, time::Duration};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, ALT_SVC, CONNECTION, CONTENT_TYPE, HOST, HeaderValue, ORIGIN},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use shared::rendezvous::{self, MAX_MESSAGE, tls_offer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        handshake::server::create_response,
        protocol::{Role, WebSocketConfig},
    },
};

use crate::limited_stream::Limited;
pub(crate) use frame_limiter::FrameLimiter;
pub use options::{HttpOptions, TrustedProxy};
pub(crate) use site::{Page, Site};

/// A WebSocket of which what the client sends is limited. Boxed, because it is large and would be there once for every
/// function that it is handed to.
pub(crate) type Socket<S> = Box<WebSocketStream<Limited<S, FrameLimiter>>>;

/// How long a client may take to send its request and to take the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The least that the library accepts; the request itself has a limit below that.
const REQUEST_BUFFER: usize = 8192;
/// Headers in a request.
const MAX_HEADERS: usize = 64;
/// WebSockets are many and their messages small: the library's own sizes would cost a quarter of a megabyte each.
const FRAME_BUFFER: usize = 512;

/// Messages that may wait in the library until the client takes them: a limit, which is not allocated.
const WRITE_BUFFER: usize = 8 * MAX_MESSAGE;
/// The same for the page, which gets a whole report.
const PAGE_WRITE_BUFFER: usize = 64 * MAX_MESSAGE;

type Answer = Response<Full<Bytes>>;
/// The address of a client, and whether a proxy stands before it.
type Client = (IpAddr, bool);
type Handler = fn(&Request<()>, &Site<'_>) -> Answer;

/// Where the page opens its WebSocket.
pub(crate) const PAGE_PATH: &str = "/see";

/// What is served where, beside WebSockets.
const ROUTES: &[(&str, Handler)] = &[("/", root)];
/// Below it, the page lets a browser join the session whose code follows, or open one.
const INVITATIONS: &str = "/p/";

/// A WebSocket that a client has opened.
pub(crate) struct Upgraded<S> {
    pub(crate) socket: Socket<S>,
    /// The address of the client, which is another one than the connection's where a trusted proxy stands in between.
    pub(crate) client: IpAddr,
    /// Whether the request came from a proxy or through one, as far as can be seen.
    pub(crate) is_proxied: bool,
    /// Where it was opened.
    pub(crate) path: &'static str,
    /// The name and port that it asked for.
    pub(crate) host: String,
}

/// Serves one request of a client at `from`, of which `beginning` has been read already, and gives the WebSocket that it
/// opens, if it does.
pub(crate) async fn serve<S>(
    beginning: Vec<u8>,
    stream: S,
    from: IpAddr,
    site: &Site<'_>,
) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgrade: Mutex<Option<(OnUpgrade, &'static str, Client, String)>> = Mutex::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let upgraded = hyper::upgrade::on(&mut request);
        // No endpoint reads a body.
        let request = request.map(|_| ());
        let mut answer = route(&request, site);
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(path) = site.socket(request.uri().path())
            && let Ok(mut upgrade) = upgrade.lock()
        {
            // The client is told before it has said anything that others should not read (RFC 7838).
            let port = site.tls_port.filter(|_| path != PAGE_PATH);
            let offer = port.and_then(|port| HeaderValue::try_from(tls_offer(port)).ok());
            offer.map(|offer| answer.headers_mut().insert(ALT_SVC, offer));
            let headers = request.headers();
            let client = (
                forwarded::client(from, headers, site.options),
                forwarded::is_proxied(from, headers, site.options),
            );
            *upgrade = Some((upgraded, path, client, host(headers).unwrap_or_default().to_owned()));
        }
        async { Ok::<_, Infallible>(answer) }
    });
    let stream = TokioIo::new(Limited::after(beginning, stream, FrameLimiter::new()));
    // Boxed, because its state is large and would stay with the connection for as long as that lasts.
    let connection = Box::pin(
        http1::Builder::new()
            .max_buf_size(REQUEST_BUFFER)
            .max_headers(MAX_HEADERS)
            .serve_connection(stream, service)
            .with_upgrades(),
    );
    timeout(REQUEST_TIMEOUT, connection).await.ok()?.ok()?;
    let (upgraded, path, (client, is_proxied), host) = upgrade.into_inner().ok()??;
    let parts = upgraded.await.ok()?.downcast::<TokioIo<Limited<S, FrameLimiter>>>().ok()?;
    // A client has to wait for the answer: frames that came before it would not have been followed.
    if !parts.read_buf.is_empty() {
        return None;
    }
    let mut stream = parts.io.into_inner();
    stream.limit_mut().begin_frames();
    let config = WebSocketConfig::default()
        .read_buffer_size(FRAME_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(if path == PAGE_PATH { PAGE_WRITE_BUFFER } else { WRITE_BUFFER })
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    Some(Upgraded { socket: Box::new(socket), client, is_proxied, path, host })
}

fn route(request: &Request<()>, site: &Site<'_>) -> Answer {
    let path = request.uri().path();
    let handler = ROUTES.iter().find(|(at, _)| *at == path).map(|(_, handler)| *handler);
    let socket = site.socket(path).map(|_| web_socket as Handler);
    let invitation = site.is_invitation(path).then_some(root as Handler);
    let Some(handler) = handler.or(socket).or(invitation) else {
        return text(StatusCode::NOT_FOUND, "nothing here\n");
    };
    if request.method() != Method::GET {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    handler(request, site)
}

/// The name and port that the client asked for.
fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(HOST)?.to_str().ok()
}

/// `/`: the page for browsers, to whoever asks for it by a name of this server; what this is, to all others.
fn root(request: &Request<()>, site: &Site<'_>) -> Answer {
    match site.page.zip(host(request.headers())).filter(|(page, host)| page.is_named(host)) {
        Some((page, host)) => page.answer(host),
        None => text(
            StatusCode::OK,
            "This is a probe server for nat-check: STUN, the rendezvous for hole punching at \
             /punch, and test sessions at /probe.\n\
             If it has a page for browsers, that is at this path under the server's addresses and names.\n",
        ),
    }
}

/// A WebSocket, if no page of an origin that is not allowed asks for it: no page is to meet anybody in the name of its
/// visitors.
fn web_socket(request: &Request<()>, site: &Site<'_>) -> Answer {
    if !is_allowed(request, site) {
        return text(StatusCode::FORBIDDEN, "not for pages of this origin\n");
    }
    match create_response(request) {
        Ok(answer) => answer.map(|()| Full::default()),
        Err(_) => text(StatusCode::BAD_REQUEST, "a WebSocket is opened here\n"),
    }
}

/// Browsers name the origin of the page that asks; whatever is no browser names none.
fn is_allowed(request: &Request<()>, site: &Site<'_>) -> bool {
    let is_own = |origin: &HeaderValue| {
        let page = site.page.filter(|_| [PAGE_PATH, rendezvous::PATH].contains(&request.uri().path()));
        page.zip(origin.to_str().ok()).is_some_and(|(page, origin)| page.is_origin(origin))
    };
    let is_allowed = |origin| site.options.allowed_origins.iter().any(|it| it == origin) || is_own(origin);
    request.headers().get_all(ORIGIN).iter().all(is_allowed)
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // One request a connection: what a connection may send is counted as a whole.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests;
