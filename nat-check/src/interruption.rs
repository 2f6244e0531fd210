//! Ctrl-C, SIGTERM and the end of the terminal (SIGHUP): the first one ends the measurement, so that the report tells what is
//! known by then; the second one, or one that comes when nothing is being measured any more, ends the program at once.

use std::{io, process::exit, sync::mpsc, thread};

use tokio::{runtime::Builder, sync::watch};

/// What a shell reports for a program that ended by SIGINT, and by SIGTERM.
const BY_SIGINT: u8 = 130;
#[cfg(unix)]
const BY_SIGTERM: u8 = 143;
#[cfg(unix)]
const BY_SIGHUP: u8 = 129;

/// Whether the run was interrupted.
#[derive(Debug)]
pub(crate) struct Interruption {
    stop: watch::Receiver<bool>,
    code: watch::Receiver<Option<u8>>,
}

impl Interruption {
    /// Watches for signals from now on. A thread of its own does so: nothing that blocks the program keeps it from ending.
    pub(crate) fn watch() -> Self {
        let (stop, stopped) = watch::channel(false);
        let (code, by) = watch::channel(None);
        let (ready, is_ready) = mpsc::channel();
        let watching = move || {
            let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let Ok(mut signals) = Signals::new() else { return };
                _ = ready.send(());
                let first = signals.next().await;
                code.send_replace(Some(first));
                // A terminal that closes may say so twice.
                #[cfg(unix)]
                signals.hang_up.take();
                // Nobody listens any more once the measurement has ended.
                if stop.send(true).is_ok() {
                    signals.next().await;
                }
                exit(i32::from(first));
            });
        };
        // Without that thread a signal ends the program as if nobody watched.
        _ = thread::Builder::new().name("signals".into()).spawn(watching);
        // Either it watches, or it has ended and dropped its end of the channel.
        _ = is_ready.recv();
        Self { stop: stopped, code: by }
    }

    /// Becomes true at the first signal.
    pub(crate) fn flag(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Waits for the first signal.
    pub(crate) async fn happens(&self) {
        if self.flag().wait_for(|stopped| *stopped).await.is_err() {
            // Nobody watches.
            std::future::pending::<()>().await;
        }
    }

    /// The measurement has ended: the exit code, if a signal ended it.
    pub(crate) fn end(self) -> Option<u8> {
        *self.code.borrow()
    }
}

/// The signals that mean to end the program; each comes with the exit code that belongs to it.
#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    /// None where whoever started the program wants it to go on (nohup).
    hang_up: Option<tokio::signal::unix::Signal>,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let hang_up = match ignores_hang_up() {
            true => None,
            false => Some(signal(SignalKind::hangup())?),
        };
        let (interrupt, terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(Self { interrupt, terminate, hang_up })
    }

    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => BY_SIGINT,
            _ = self.terminate.recv() => BY_SIGTERM,
            Some(_) = async { Some(self.hang_up.as_mut()?.recv().await) } => BY_SIGHUP,
        }
    }
}

/// Whether SIGHUP is to be ignored. Where the system does not tell, it stays as it is.
#[cfg(unix)]
fn ignores_hang_up() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // Bit 0 is signal 1.
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & 1 == 1)
}

/// Ctrl-C.
#[cfg(windows)]
struct Signals(tokio::signal::windows::CtrlC);

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        tokio::signal::windows::ctrl_c().map(Self)
    }

    async fn next(&mut self) -> u8 {
        self.0.recv().await;
        BY_SIGINT
    }
}
