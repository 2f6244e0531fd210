//! Receiving: one task for each socket of a session.

use std::sync::{Arc, Weak};

use super::{DATAGRAM, Session};
use crate::{net::Datagram, observation::SocketId};

/// Receives on one socket until the session is gone.
pub(super) async fn receive(session: Weak<Session>, datagram: Arc<dyn Datagram>, on: SocketId) {
    let mut buffer = [0; DATAGRAM];
    let mut failures = 0;
    // Errors that ICMP brings back concern one destination, not the socket; but a socket that only fails is dead.
    while failures < 100 {
        match datagram.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                failures = 0;
                let Some(session) = session.upgrade() else { return };
                session.take(&buffer[..length], from, on);
            }
            Err(error) => {
                failures += 1;
                tracing::trace!(%error, "receiving failed");
                tokio::task::yield_now().await;
            }
        }
    }
}
