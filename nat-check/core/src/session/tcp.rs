//! The TCP half of a session: one local port that the measurements share, and the connections that stay open until the end,
//! since the mapping and the filter of a NAT live as long as they do.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

#[cfg(feature = "punch")]
use tokio::sync::OnceCell;

use super::Session;
#[cfg(feature = "punch")]
use super::{Contact, State, TestSession};
use crate::{
    net::{Stream, TcpPort},
    observation::{ObservationLog, tcp::TcpLog},
};

/// What the measurements over TCP share.
#[derive(Default)]
pub(super) struct TcpState {
    port: Option<Arc<dyn TcpPort>>,
    kept: Vec<Box<dyn Stream>>,
    /// Whether packets may go to the server's other endpoints, as far as filtering over UDP is concerned.
    others_allowed: bool,
    /// The same for filtering over TCP.
    filtering_over: bool,
    /// Whether there is no time left for what needs a test session.
    time_is_up: bool,
    /// Whether what takes long was asked for by name.
    patient: bool,
    #[cfg(feature = "punch")]
    pub(super) test_session: Arc<OnceCell<Option<Arc<TestSession>>>>,
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
        self.wait_for(|state| (state.tcp.others_allowed && state.tcp.filtering_over).then_some(())).await;
    }

    /// Waits until the log shows this.
    pub(crate) async fn until_log(&self, shows: impl Fn(&ObservationLog) -> bool) {
        self.wait_for(|state| shows(&state.log).then_some(())).await;
    }

    /// Says that filtering over TCP is decided, or not to be decided.
    pub(crate) fn tcp_filtering_is_over(&self) {
        self.lock().tcp.filtering_over = true;
        self.changed.notify_waiters();
    }

    /// Says that what needs a test session is waited for no longer; then the others are.
    pub(crate) fn end_test_session(&self) {
        self.lock().tcp.time_is_up = true;
        self.tcp_filtering_is_over();
    }

    /// Sets the longest idle time of a connection that is to be looked at.
    pub(crate) fn ask_tcp_idle(&self, longest: Option<Duration>) {
        self.note_tcp(|log| log.longest_idle = longest);
    }

    /// Says that the measurements over TCP may take their time.
    pub(crate) fn be_patient(&self) {
        self.lock().tcp.patient = true;
    }
}

#[cfg(feature = "punch")]
impl Session {
    /// A further local port, for measurements that must not share one.
    ///
    /// # Errors
    /// When the system has none to give.
    pub(crate) async fn new_tcp_port(&self) -> io::Result<Box<dyn TcpPort>> {
        self.net.tcp_port(SocketAddr::new(self.local_ip, 0)).await
    }

    /// The longest idle time of a connection that is to be looked at.
    pub(crate) fn tcp_idle(&self) -> Option<Duration> {
        self.lock().log.tcp.longest_idle
    }

    /// Waits until filtering over TCP is decided, or not to be decided.
    pub(crate) async fn tcp_filtering_over(&self) {
        self.wait_for(|state| state.tcp.filtering_over.then_some(())).await;
    }

    /// Does this for as long as there is time for what needs a test session.
    pub(crate) async fn while_there_is_time(&self, work: impl Future<Output = Option<()>>) {
        tokio::select! {
            _ = work => {}
            () = self.wait_for(|state| state.tcp.time_is_up.then_some(())) => {}
        }
    }

    /// Waits until the server has seen the token come from here; gives its number of the connection.
    pub(crate) async fn proven(&self, at: SocketAddr) -> u32 {
        let at = SocketAddr::new(at.ip().to_canonical(), at.port());
        let number = |state: &State| state.log.tcp.proven.iter().find(|(_, seen)| *seen == at).map(|it| it.0);
        self.wait_for(number).await
    }

    /// Whether the measurements over TCP may take their time.
    pub(crate) fn is_patient(&self) -> bool {
        self.lock().tcp.patient
    }

    /// What is known of the way to the server over UDP by now.
    pub(crate) fn contact_so_far(&self) -> Contact {
        self.lock().contact
    }

    /// Does this until the run ends.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.lock().receivers.spawn(task);
    }
}
