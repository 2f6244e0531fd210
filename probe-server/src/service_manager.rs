//! What systemd is told, where it asked for it (sd_notify(3)), and the sockets that it keeps for a successor. That
//! nobody listens is no error; on other systems there is nobody.

pub(crate) use system::{alive, keep, passed_sockets, ready, reloading, status, stopping, watchdog};

#[cfg(target_os = "linux")]
mod system {
    use std::{os::fd::AsFd, time::Duration};

    use probe_server::{KeptSocket, SocketPool};
    use sd_notify::NotifyState;

    /// The sockets of the predecessor. To be called first, before there are threads.
    pub(crate) fn passed_sockets() -> SocketPool {
        SocketPool::from_environment(std::env::var_os("NOTIFY_SOCKET").is_some())
    }

    /// Hands over these sockets, and tells which of the former ones nobody needs any more.
    pub(crate) fn keep(sockets: &[KeptSocket], unused: &[String]) {
        for name in unused {
            tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
        }
        for KeptSocket { name, socket } in sockets {
            // A service manager that keeps none says nothing about it.
            _ = sd_notify::notify_with_fds(
                &[NotifyState::FdStore, NotifyState::FdName(name)],
                &[socket.as_fd()],
            );
        }
    }

    pub(crate) fn ready() {
        tell(&[NotifyState::Ready]);
    }

    pub(crate) fn reloading() {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    pub(crate) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }

    pub(crate) fn alive() {
        tell(&[NotifyState::Watchdog]);
    }

    /// One line for `systemctl status`.
    pub(crate) fn status(line: &str) {
        tell(&[NotifyState::Status(line)]);
    }

    /// How often systemd wants to hear from us, halved; `None` if it does not.
    pub(crate) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|interval| interval / 2)
    }

    fn tell(states: &[NotifyState<'_>]) {
        _ = sd_notify::notify(states);
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::time::Duration;

    use probe_server::{KeptSocket, SocketPool};

    pub(crate) fn passed_sockets() -> SocketPool {
        SocketPool::default()
    }

    pub(crate) const fn keep(_: &[KeptSocket], _: &[String]) {}
    pub(crate) const fn ready() {}
    pub(crate) const fn reloading() {}
    pub(crate) const fn stopping() {}
    pub(crate) const fn alive() {}
    pub(crate) const fn status(_: &str) {}

    pub(crate) const fn watchdog() -> Option<Duration> {
        None
    }
}
