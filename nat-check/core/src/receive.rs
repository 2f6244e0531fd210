//! Receiving on a UDP socket: the one loop that every socket of a check or a punch is read by.

use std::{io, net::SocketAddr, sync::Arc};

use crate::net::Datagram;

/// Longest datagram that is read; what is longer is cut off.
const DATAGRAM: usize = 1500;
/// Errors that ICMP brings back concern one destination, not the socket; but a socket that only fails is dead.
const MOST_FAILURES: u32 = 100;

/// Reads a socket until it is dead.
pub(crate) struct Receiver {
    socket: Arc<dyn Datagram>,
    buffer: [u8; DATAGRAM],
    failures: u32,
}

impl Receiver {
    pub(crate) fn new(socket: Arc<dyn Datagram>) -> Self {
        Self { socket, buffer: [0; DATAGRAM], failures: 0 }
    }

    /// The next datagram with its sender, or an error that came back for something sent; none once the socket is dead.
    pub(crate) async fn next(&mut self) -> Option<io::Result<(&[u8], SocketAddr)>> {
        if self.failures >= MOST_FAILURES {
            return None;
        }
        match self.socket.recv_from(&mut self.buffer).await {
            Ok((length, from)) => {
                self.failures = 0;
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                Some(Ok((&self.buffer[..length], from)))
            }
            Err(error) => {
                self.failures += 1;
                tracing::trace!(%error, "receiving failed");
                tokio::task::yield_now().await;
                Some(Err(error))
            }
        }
    }
}
