//! HTTP on the ports of STUN over TCP and TLS: one request a connection, which may open a WebSocket (RFC 6455).

mod forwarded;
mod frame_limiter;
mod options;

use std::{convert::Infallible, net::IpAddr, sync::Mutex, time::Duration};

use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, ALT_SVC, CONNECTION, CONTENT_TYPE, HeaderValue, ORIGIN},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::TokioIo;
use shared::rendezvous::{MAX_MESSAGE, tls_offer};
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
/// Messages that may wait in the library until the client takes them.
const WRITE_BUFFER: usize = 8 * MAX_MESSAGE;

type Answer = Response<Full<Bytes>>;
type Handler = fn(&Request<()>, &HttpOptions) -> Answer;

/// What is served where, beside WebSockets.
const ROUTES: &[(&str, Handler)] = &[("/", about)];

/// A WebSocket that a client has opened.
pub(crate) struct Upgraded<S> {
    pub(crate) socket: Socket<S>,
    /// The address of the client, which is another one than the connection's where a trusted proxy stands in between.
    pub(crate) client: IpAddr,
    /// Where it was opened.
    pub(crate) path: &'static str,
}

/// Serves one request of a client at `from`, of which `beginning` has been read already. Where it opens a WebSocket, at one
/// of `paths`: that. `tls_port` is where the same is offered over TLS; the client is told before it has said anything that
/// others should not read (RFC 7838).
pub(crate) async fn serve<S>(
    beginning: Vec<u8>,
    stream: S,
    from: IpAddr,
    options: &HttpOptions,
    paths: &[&'static str],
    tls_port: Option<u16>,
) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgrade: Mutex<Option<(OnUpgrade, IpAddr, &'static str)>> = Mutex::default();
    let service = service_fn(|mut request: Request<Incoming>| {
        let upgraded = hyper::upgrade::on(&mut request);
        // No endpoint reads a body.
        let request = request.map(|_| ());
        let mut answer = route(&request, options, paths);
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Ok(mut upgrade) = upgrade.lock()
        {
            let offer = tls_port.and_then(|port| HeaderValue::try_from(tls_offer(port)).ok());
            offer.map(|offer| answer.headers_mut().insert(ALT_SVC, offer));
            let client = forwarded::client(from, request.headers(), options);
            let path = paths.iter().find(|path| **path == request.uri().path());
            *upgrade = path.map(|path| (upgraded, client, *path));
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
    let (upgraded, client, path) = upgrade.into_inner().ok()??;
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
        .max_write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    Some(Upgraded { socket: Box::new(socket), client, path })
}

fn route(request: &Request<()>, options: &HttpOptions, paths: &[&str]) -> Answer {
    let path = request.uri().path();
    let web_sockets = paths.iter().map(|path| (*path, web_socket as Handler));
    let Some((_, handler)) = ROUTES.iter().copied().chain(web_sockets).find(|(at, _)| *at == path) else {
        return text(StatusCode::NOT_FOUND, "nothing here\n");
    };
    if request.method() != Method::GET {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    handler(request, options)
}

/// `/`: what this is.
fn about(_: &Request<()>, _: &HttpOptions) -> Answer {
    text(
        StatusCode::OK,
        "This is a probe server for nat-check: STUN, the rendezvous for hole punching at \
         /punch, and test sessions at /probe.\n",
    )
}

/// A WebSocket, if no page of an origin that is not allowed asks for it: no page is to meet anybody in the name of its
/// visitors.
fn web_socket(request: &Request<()>, options: &HttpOptions) -> Answer {
    if !is_allowed(request.headers(), options) {
        return text(StatusCode::FORBIDDEN, "not for pages of this origin\n");
    }
    match create_response(request) {
        Ok(answer) => answer.map(|()| Full::default()),
        Err(_) => text(StatusCode::BAD_REQUEST, "a WebSocket is opened here\n"),
    }
}

/// Browsers name the origin of the page that asks; whatever is no browser names none.
fn is_allowed(headers: &HeaderMap, options: &HttpOptions) -> bool {
    headers.get_all(ORIGIN).iter().all(|origin| options.allowed_origins.iter().any(|it| it == origin))
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
