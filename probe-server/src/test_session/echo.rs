//! A connection to a client: whether it is the client that answers.

use std::{io, net::SocketAddr};

use shared::test_session::{ECHO_TIMEOUT, Nonce, SynOutcome, ToClient};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{Attempted, ByteStream};

/// What came of a connect: where there is a connection, whether the nonce comes back over it.
pub(super) async fn judge_attempt(
    id: u32,
    attempted: Attempted,
    from: Option<SocketAddr>,
    nonce: Nonce,
) -> ToClient {
    let after_us = u32::try_from(attempted.after.as_micros()).unwrap_or(u32::MAX);
    let (outcome, icmp) = match attempted.end {
        Ok(stream) => match is_echoed(stream, nonce).await {
            true => (SynOutcome::Echoed, None),
            false => (SynOutcome::Connected, None),
        },
        Err(none) => (none.outcome, none.icmp),
    };
    ToClient::SynResult { id, outcome, after_us, from, icmp }
}

/// Writes the nonce; whether it comes back.
async fn is_echoed(mut stream: Box<dyn ByteStream>, nonce: Nonce) -> bool {
    let exchange = async {
        stream.write_all(&nonce.0).await?;
        stream.flush().await?;
        let mut echo = [0; 16];
        stream.read_exact(&mut echo).await?;
        Ok::<_, io::Error>(echo == nonce.0)
    };
    matches!(timeout(ECHO_TIMEOUT, exchange).await, Ok(Ok(true)))
}
