//! Receiving: one task for each socket of a session.

use std::sync::{Arc, Weak};

use super::Session;
use crate::{net::Datagram, observation::SocketId, receive::Receiver};

/// Receives on one socket until the session is gone.
pub(super) async fn receive(session: Weak<Session>, datagram: Arc<dyn Datagram>, on: SocketId) {
    let mut receiver = Receiver::new(datagram);
    while let Some(received) = receiver.next().await {
        let Ok((datagram, from)) = received else { continue };
        let Some(session) = session.upgrade() else { return };
        session.handle_datagram(datagram, from, on);
    }
}
