//! Progress for a person: a line on standard error that says what is being measured, gone when the report comes.

use std::{
    io::{IsTerminal, Write},
    sync::{LazyLock, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use nat_check_core::progress::{Event, Progress};
use shared::log_writer::LogWriter;

use crate::render::Style;

/// How a report is laid out here: as wide as `COLUMNS` says, else as the terminal, else 100 columns.
#[must_use]
pub fn style(evidence: bool) -> Style {
    let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || terminal_size::terminal_size().map(|(width, _)| width.0);
    let width = columns.or_else(terminal).unwrap_or(WIDTH).clamp(NARROWEST, WIDEST);
    Style { width, evidence }
}

/// Columns where there is no terminal, and the limits of what is good to read.
const WIDTH: u16 = 100;
const NARROWEST: u16 = 40;
const WIDEST: u16 = 120;

/// Shows a run on standard error.
#[derive(Debug)]
pub struct Terminal {
    bar: ProgressBar,
    running: Mutex<Vec<String>>,
    /// Whether ended tests leave a line.
    lines: bool,
}

impl Terminal {
    /// A line that follows the run, where standard error is a terminal; with `lines`, one for each ended test, too,
    /// wherever it goes.
    #[must_use]
    pub fn new(lines: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // The template is a constant: if it were wrong, the plain one would serve.
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            bar.set_style(style.tick_chars(SPINNER));
        }
        if std::io::stderr().is_terminal() {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, running: Mutex::default(), lines }
    }

    /// Writes a line of its own to standard error, above the one that follows the run.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| tell(line));
    }

    fn show(&self, running: &[String]) {
        self.bar.set_message(running.join(", "));
    }
}

impl Drop for Terminal {
    /// Takes the line away.
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

impl Progress for Terminal {
    fn event(&self, event: Event<'_>) {
        // A listener that panicked left the list whole.
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { test, .. } => running.push(test.to_owned()),
            Event::Finished { test, took } => {
                if let Some(at) = running.iter().position(|name| name.split(':').next() == Some(test)) {
                    running.remove(at);
                }
                if self.lines {
                    self.say(&format!("{:.3} s  {test}", took.as_secs_f64()));
                }
            }
            Event::Advanced { test, so_far } => {
                if let Some(at) = running.iter().position(|name| name.split(':').next() == Some(test)) {
                    running[at] = format!("{test}: {so_far}");
                }
                // Where there is no line that could follow the run, each step has one of its own.
                if self.bar.is_hidden() {
                    tell(&format!("{test}: {so_far}"));
                }
            }
        }
        self.show(&running);
    }
}

/// Writes a line to standard error. What nobody can read or reads is lost, and the run goes on.
pub fn tell(line: &str) {
    let line = format!("{line}\n");
    if std::io::stderr().is_terminal() {
        // At once: the line that follows the run must not come in between.
        _ = anstream::stderr().write_all(line.as_bytes());
    } else if let Some(mut writer) = log_writer() {
        _ = writer.write_all(line.as_bytes());
    }
}

/// What writes to standard error without ever waiting for a reader.
#[must_use]
pub fn log_writer() -> Option<LogWriter> {
    static WRITER: LazyLock<Option<LogWriter>> = LazyLock::new(|| LogWriter::start(anstream::stderr()).ok());
    WRITER.clone()
}

/// Gives the last lines the time to be written: for the end of the program.
pub fn flush() {
    if let Some(writer) = log_writer() {
        writer.flush_within(LAST_LINES);
    }
}

const LAST_LINES: Duration = Duration::from_millis(200);
const SPINNER: &str = "|/-\\ ";
const TICK: Duration = Duration::from_millis(100);
