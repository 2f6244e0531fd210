//! The signals that end the server or make it read its file again.

use std::{io, time::Duration};

pub(crate) enum Signal {
    Stop,
    Reload,
}

#[cfg(unix)]
pub(crate) struct Signals([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    pub(crate) async fn next(&mut self) -> Signal {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => Signal::Stop,
            _ = interrupt.recv() => Signal::Stop,
            _ = hangup.recv() => Signal::Reload,
        }
    }
}

#[cfg(not(unix))]
pub(crate) struct Signals;

#[cfg(not(unix))]
impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) -> Signal {
        _ = tokio::signal::ctrl_c().await;
        Signal::Stop
    }
}

impl Signals {
    /// Whether a signal to stop has come while nobody listened.
    pub(crate) async fn have_said_stop(&mut self) -> bool {
        let soon = Duration::from_millis(50);
        matches!(tokio::time::timeout(soon, self.next()).await, Ok(Signal::Stop))
    }
}
