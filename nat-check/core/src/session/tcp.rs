//! The TCP half of a session: one local port that the measurements share, and the connections that stay open until the end,
//! since the mapping and the filter of a NAT live as long as they do.

use std::{io, net::SocketAddr, sync::Arc};

use super::Session;
use crate::{
    net::{Stream, TcpPort},
    observation::{ObservationLog, tcp::TcpLog},
};

/// What the measurements over TCP share.
#[derive(Default)]
pub(super) struct TcpState {
    port: Option<Arc<dyn TcpPort>>,
    kept: Vec<Box<dyn Stream>>,
    /// Whether packets may go to the server's other endpoints.
    others_allowed: bool,
}

impl Session {
    /// The local port under test; it is that of the user's choice, where there is one and it is free.
    ///
    /// # Errors
    /// When the system has none to give.
    pub(crate) async fn tcp_port(&self) -> io::Result<Arc<dyn TcpPort>> {
        if let Some(port) = self.lock().tcp.port.clone() {
            return Ok(port);
        }
        let take = |port: u16| self.net.tcp_port(SocketAddr::new(self.local_ip, port));
        let taken = match self.forced_port() {
            Some(wanted) => match take(wanted).await {
                Err(_) => take(0).await,
                taken => taken,
            },
            None => take(0).await,
        };
        let port: Arc<dyn TcpPort> = match taken {
            Ok(port) => port.into(),
            Err(error) => {
                self.note_tcp(|log| {
                    log.error.get_or_insert(format!("no TCP port could be had: {error}")).clone()
                });
                return Err(error);
            }
        };
        Ok(Arc::clone(self.lock().tcp.port.get_or_insert(port)))
    }

    /// Enters what was observed over TCP, and wakes whoever waits.
    pub(crate) fn note_tcp<T>(&self, change: impl FnOnce(&mut TcpLog) -> T) -> T {
        let result = change(&mut self.lock().log.tcp);
        self.changed.notify_waiters();
        result
    }

    /// Keeps a connection open until the end of the run, when it is reset.
    pub(crate) fn keep_open(&self, stream: Box<dyn Stream>) {
        // Where it cannot be reset it is closed in the ordinary way.
        let _ = stream.reset_on_drop();
        self.lock().tcp.kept.push(stream);
    }

    /// Says that packets may go to the server's other endpoints: filtering is decided, or there is none to be decided.
    pub(crate) fn allow_others(&self) {
        self.lock().tcp.others_allowed = true;
        self.changed.notify_waiters();
    }

    /// Waits until packets may go to the server's other endpoints.
    pub(crate) async fn others_allowed(&self) {
        self.wait_for(|state| state.tcp.others_allowed.then_some(())).await;
    }

    /// Waits until the log shows this.
    pub(crate) async fn until_log(&self, shows: impl Fn(&ObservationLog) -> bool) {
        self.wait_for(|state| shows(&state.log).then_some(())).await;
    }
}
