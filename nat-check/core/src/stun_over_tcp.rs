//! STUN over TCP (RFC 8489 section 6.2.2): one Binding request over a connection that is open already.

use std::{io, net::SocketAddr};

use shared::{
    stun::{Class, HEADER, TransactionId, View, Writer, attr},
    test_session::Token,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::Stream;

/// Longest response that is read; an ordinary one has about a hundred bytes.
const MAX_LENGTH: usize = 1024;

/// Asks over this connection, and gives the external endpoint that the server saw. Takes as long as the server does.
pub(crate) async fn binding(stream: &mut dyn Stream, id: TransactionId) -> io::Result<SocketAddr> {
    ask(stream, id, None).await.map(|answer| answer.mapped)
}

/// What a server answers to a Binding request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The external endpoint that it saw.
    pub(crate) mapped: SocketAddr,
    /// Its alternate endpoint (OTHER-ADDRESS), if it named one.
    pub(crate) other: Option<SocketAddr>,
}

/// The same, with the token of a test session, and with all that the measurements need of the answer.
pub(crate) async fn ask(
    stream: &mut dyn Stream,
    id: TransactionId,
    token: Option<Token>,
) -> io::Result<Answer> {
    let mut request = [0; HEADER + 4 + 16];
    let mut writer = Writer::new(&mut request, Class::Request, &id);
    if let Some(token) = token {
        writer.bytes(attr::TOKEN, &token.0);
    }
    let length = writer.finish().map_err(io::Error::other)?;
    stream.write_all(&request[..length]).await?;
    let mut response = vec![0; HEADER];
    stream.read_exact(&mut response).await?;
    let rest = usize::from(u16::from_be_bytes([response[2], response[3]])).min(MAX_LENGTH);
    response.resize(HEADER + rest, 0);
    stream.read_exact(&mut response[HEADER..]).await?;
    let view = View::parse(&response).ok().filter(|view| view.id() == id && view.class() == Class::Success);
    let answer = view.and_then(|view| Some(Answer { mapped: view.mapped()?, other: view.other_address() }));
    answer.ok_or_else(|| io::ErrorKind::InvalidData.into())
}
