//! Just enough HTTP/1.1 (RFC 9112) to read a device description and to call an action of UPnP: one request to an address that
//! the caller has chosen, no redirects, with bounds on bytes and time.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::net::Net;

/// Longest body that is read.
pub(super) const LONGEST_BODY: usize = 256 * 1024;
/// Longest head that is read.
const LONGEST_HEAD: usize = 16 * 1024;
/// Header fields that are read.
const MOST_FIELDS: usize = 64;

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    pub(super) at: SocketAddr,
    /// Begins with a slash.
    pub(super) path: &'a str,
    /// The action of SOAP that is called, and its body; none for a description.
    pub(super) action: Option<(&'a str, &'a str)>,
    pub(super) within: Duration,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// Why nothing did that can be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum HttpError {
    #[error("no answer in time")]
    Timeout,
    #[error("no connection: {0}")]
    NoConnection(String),
    #[error("an answer that is not HTTP")]
    NotHttp,
    #[error("an answer longer than {LONGEST_BODY} bytes")]
    TooLong,
    #[error("a redirect, which is not followed")]
    Redirect,
    #[error("an answer that ends too soon")]
    Cut,
}

/// Asks and reads the answer.
pub(super) async fn ask(net: &dyn Net, local: IpAddr, request: Request<'_>) -> Result<Response, HttpError> {
    timeout(request.within, exchange(net, local, request)).await.unwrap_or(Err(HttpError::Timeout))
}

async fn exchange(net: &dyn Net, local: IpAddr, request: Request<'_>) -> Result<Response, HttpError> {
    let lost = |error: std::io::Error| HttpError::NoConnection(error.to_string());
    let local = SocketAddr::new(local, 0);
    let mut stream = net.connect(Some(local), request.at).await.map_err(lost)?;
    stream.write_all(written(request).as_bytes()).await.map_err(lost)?;
    stream.flush().await.map_err(lost)?;
    let mut received = Vec::new();
    loop {
        let read = (&mut stream).take(16 * 1024).read_buf(&mut received).await.map_err(lost)?;
        if let Some(response) = parse(&received, read == 0)? {
            return Ok(response);
        }
    }
}

/// The request as text; everything goes out at once, as some devices read no further than the first segment.
fn written(request: Request<'_>) -> String {
    let Request { at, path, .. } = request;
    // Without the interface, which means nothing to the device.
    let at = SocketAddr::new(at.ip(), at.port());
    let method = if request.action.is_some() { "POST" } else { "GET" };
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n");
    match request.action {
        None => text += "\r\n",
        Some((action, body)) => {
            text += "Content-Type: text/xml; charset=\"utf-8\"\r\n";
            text += &format!("SOAPAction: \"{action}\"\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    }
    text
}

/// The response, once it is whole; `ended` says that nothing more will come.
pub(super) fn parse(received: &[u8], ended: bool) -> Result<Option<Response>, HttpError> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    let mut head = httparse::Response::new(&mut fields);
    let length = match head.parse(received) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if received.len() > LONGEST_HEAD => return Err(HttpError::TooLong),
        Ok(httparse::Status::Partial) if ended => {
            return Err(if received.is_empty() { HttpError::Cut } else { HttpError::NotHttp });
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(HttpError::NotHttp),
    };
    let status = head.code.unwrap_or_default();
    if (300..400).contains(&status) {
        return Err(HttpError::Redirect);
    }
    let field = |name: &str| {
        let found = head.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
        found.and_then(|field| std::str::from_utf8(field.value).ok()).map(str::trim)
    };
    let body = &received[length..];
    if body.len() > 2 * LONGEST_BODY {
        return Err(HttpError::TooLong);
    }
    if field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
        let body = unchunked(body)?;
        return match body {
            None if ended => Err(HttpError::Cut),
            body => Ok(body.map(|body| Response { status, body })),
        };
    }
    let announced = match field("content-length").map(str::parse::<usize>) {
        Some(Err(_)) => return Err(HttpError::NotHttp),
        Some(Ok(length)) => Some(length),
        None => None,
    };
    if announced.unwrap_or(body.len()) > LONGEST_BODY {
        return Err(HttpError::TooLong);
    }
    let whole = match announced {
        Some(length) => body.get(..length),
        None if ended => Some(body),
        None => None,
    };
    match whole {
        None if ended => Err(HttpError::Cut),
        whole => Ok(whole.map(|body| Response { status, body: body.to_vec() })),
    }
}

/// The body without its chunks (RFC 9112 section 7.1); none where it is not whole.
fn unchunked(mut rest: &[u8]) -> Result<Option<Vec<u8>>, HttpError> {
    let mut body = Vec::new();
    loop {
        let (start, size) = match httparse::parse_chunk_size(rest) {
            Ok(httparse::Status::Complete(chunk)) => chunk,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(HttpError::NotHttp),
        };
        let size = usize::try_from(size).map_err(|_| HttpError::TooLong)?;
        if size == 0 {
            return Ok(Some(body));
        }
        if body.len().saturating_add(size) > LONGEST_BODY {
            return Err(HttpError::TooLong);
        }
        // A chunk ends with a line break.
        let Some(chunk) = rest.get(start..start + size + 2) else { return Ok(None) };
        body.extend_from_slice(&chunk[..size]);
        rest = &rest[start + size + 2..];
    }
}
