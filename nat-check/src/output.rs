//! What the program writes: the report to standard output, everything else to standard error.

use std::io::{self, Write};

use anstream::{AutoStream, ColorChoice};
use anyhow::Context;
use nat_check::{
    terminal::{self, tell},
    usage::Verbosity,
};
use tracing::Level;
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

use crate::SUCCESS;

/// Writes to standard output. Whoever closes the pipe has read enough.
///
/// # Errors
/// When the text is lost: the disk is full, or standard output is closed.
pub(crate) fn print(text: &str) -> anyhow::Result<u8> {
    let mut out = anstream::stdout();
    let written = closed::at_start().and_then(|()| out.write_all(text.as_bytes())).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        Ok(()) | Err(_) => Ok(SUCCESS),
    }
}

/// Writes an error to standard error.
pub(crate) fn complain(message: &str) {
    tell(&format!("nat-check: {message}"));
}

/// A message of the command line parser as one line: what is wrong and its tips, without the usage.
pub(crate) fn one_line(message: &str) -> String {
    let paragraphs =
        message.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let told = paragraphs.filter(|text| {
        !text.is_empty() && !text.starts_with("Usage:") && !text.starts_with("For more information")
    });
    let line = told.collect::<Vec<_>>().join("; ");
    line.strip_prefix("error: ").unwrap_or(&line).replace("; tip: ", "; ")
}

/// Log lines, where they are asked for. One that cannot be written is lost, and the run goes on.
pub(crate) fn log_to_stderr(verbosity: Verbosity) {
    let Some(writer) = terminal::log_writer().filter(|_| verbosity >= Verbosity::Logs) else { return };
    let chosen = std::env::var("RUST_LOG").ok().and_then(|directives| directives.parse::<Targets>().ok());
    let filter = chosen.unwrap_or_else(|| Targets::new().with_target("nat_check_core", Level::DEBUG));
    let lines = fmt::layer()
        .with_ansi(AutoStream::choice(&io::stderr()) != ColorChoice::Never)
        .with_writer(move || writer.clone())
        .log_internal_errors(false);
    tracing_subscriber::registry().with(lines.with_filter(filter)).init();
}

/// Whether standard output was closed when the program began (`>&-`). Before `main`, Rust opens the null device in the place
/// of a closed one, and what is written there would be lost without an error.
#[cfg(unix)]
mod closed {
    use std::{
        io,
        os::fd::AsFd,
        sync::atomic::{AtomicBool, Ordering::Relaxed},
    };

    static CLOSED: AtomicBool = AtomicBool::new(false);

    /// The error that the first write would have met.
    pub(super) fn at_start() -> io::Result<()> {
        if CLOSED.load(Relaxed) { Err(io::Error::from_raw_os_error(EBADF)) } else { Ok(()) }
    }

    /// The same number on every Unix.
    const EBADF: i32 = 9;

    ctor::declarative::ctor! {
        #[ctor(unsafe)]
        fn look() {
            let copy = io::stdout().as_fd().try_clone_to_owned();
            CLOSED.store(copy.is_err_and(|error| error.raw_os_error() == Some(EBADF)), Relaxed);
        }
    }
}

#[cfg(not(unix))]
mod closed {
    pub(super) fn at_start() -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parser_message_becomes_one_line() {
        assert_eq!(
            one_line(
                "error: unexpected argument '--timeot' found\n\n  tip: a similar argument exists: '--timeout'\n\n\
                 Usage: nat-check [OPTIONS]\n\nFor more information, try '--help'.\n"
            ),
            "unexpected argument '--timeot' found; a similar argument exists: '--timeout'"
        );
        assert_eq!(
            one_line(
                "error: invalid value 'yaml' for '--format <FORMAT>'\n  [possible values: table, json]\n\nFor more \
                      information, try '--help'.\n"
            ),
            "invalid value 'yaml' for '--format <FORMAT>' [possible values: table, json]"
        );
    }
}
