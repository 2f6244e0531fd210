//! What systemd is told, where it asked for it (sd_notify(3)), and the sockets that it keeps for a successor. That
//! nobody listens is no error; on other systems there is nobody.

pub(crate) use system::{ServiceManager, passed_sockets, watchdog};

#[cfg(target_os = "linux")]
mod system {
    use std::{
        io,
        os::fd::AsFd,
        sync::mpsc::{Receiver, SyncSender, channel, sync_channel},
        thread,
        time::Duration,
    };

    use probe_server::{KeptSocket, SocketPool};
    use sd_notify::NotifyState;

    /// Messages that may wait for a service manager that does not read; what comes then is lost.
    const MOST_WAITING: usize = 1024;

    /// The service manager, told from a thread of its own: sending waits as long as nobody reads, and only that thread
    /// may wait.
    pub(crate) struct ServiceManager {
        messages: Option<SyncSender<Message>>,
        /// Never gets anything: it is closed when all has been told.
        told: Receiver<()>,
    }

    enum Message {
        /// What sd_notify(3) calls an assignment, one a line.
        State(String),
        Socket(KeptSocket),
    }

    /// The sockets of the predecessor. To be called first, before there are threads.
    pub(crate) fn passed_sockets() -> SocketPool {
        SocketPool::from_environment(is_there())
    }

    /// How often systemd wants to hear from us, halved; `None` if it does not.
    pub(crate) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|interval| interval / 2)
    }

    impl ServiceManager {
        /// Begins to listen to what it is to be told.
        pub(crate) fn start() -> io::Result<Self> {
            let (messages, waiting) = sync_channel(MOST_WAITING);
            let (telling, told) = channel::<()>();
            if !is_there() {
                return Ok(Self { messages: None, told });
            }
            thread::Builder::new().name("notify".into()).spawn(move || {
                let _telling = telling;
                waiting.into_iter().for_each(|message| tell(&message));
            })?;
            Ok(Self { messages: Some(messages), told })
        }

        /// Hands over these sockets, and tells which of the former ones nobody needs any more.
        pub(crate) fn keep(&self, sockets: Vec<KeptSocket>, unused: &[String]) {
            for name in unused {
                self.say(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
            }
            sockets.into_iter().for_each(|socket| self.queue(Message::Socket(socket)));
        }

        pub(crate) fn ready(&self) {
            self.say(&[NotifyState::Ready]);
        }

        pub(crate) fn reloading(&self) {
            if let Ok(now) = NotifyState::monotonic_usec_now() {
                self.say(&[NotifyState::Reloading, now]);
            }
        }

        pub(crate) fn stopping(&self) {
            self.say(&[NotifyState::Stopping]);
        }

        pub(crate) fn alive(&self) {
            self.say(&[NotifyState::Watchdog]);
        }

        /// One line for `systemctl status`.
        pub(crate) fn status(&self, line: &str) {
            self.say(&[NotifyState::Status(line)]);
        }

        /// Waits until all has been told, but not for one who does not read.
        pub(crate) fn finish_within(mut self, longest: Duration) {
            self.messages.take();
            // Closed or too late: the program ends in either case.
            _ = self.told.recv_timeout(longest);
        }

        fn say(&self, states: &[NotifyState<'_>]) {
            let lines: Vec<_> = states.iter().map(ToString::to_string).collect();
            self.queue(Message::State(lines.join("\n")));
        }

        fn queue(&self, message: Message) {
            if let Some(messages) = &self.messages {
                // Whoever has not read so many will not miss one more.
                _ = messages.try_send(message);
            }
        }
    }

    fn is_there() -> bool {
        std::env::var_os("NOTIFY_SOCKET").is_some()
    }

    /// A service manager that is gone, or that keeps no sockets, says nothing about it.
    fn tell(message: &Message) {
        _ = match message {
            Message::State(lines) => sd_notify::notify(&[NotifyState::Custom(lines)]),
            Message::Socket(KeptSocket { name, socket }) => sd_notify::notify_with_fds(
                &[NotifyState::FdStore, NotifyState::FdName(name)],
                &[socket.as_fd()],
            ),
        };
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::{io, time::Duration};

    use probe_server::{KeptSocket, SocketPool};

    pub(crate) struct ServiceManager;

    pub(crate) fn passed_sockets() -> SocketPool {
        SocketPool::default()
    }

    pub(crate) const fn watchdog() -> Option<Duration> {
        None
    }

    impl ServiceManager {
        pub(crate) const fn start() -> io::Result<Self> {
            Ok(Self)
        }

        pub(crate) fn keep(&self, _: Vec<KeptSocket>, _: &[String]) {}
        pub(crate) const fn ready(&self) {}
        pub(crate) const fn reloading(&self) {}
        pub(crate) const fn stopping(&self) {}
        pub(crate) const fn alive(&self) {}
        pub(crate) const fn status(&self, _: &str) {}
        pub(crate) const fn finish_within(self, _: Duration) {}
    }
}
