//! natlab: runs programs as hosts behind NATs of your choice, with a small Internet outside.

/// A line on standard error; that nobody reads it any more ends nothing.
macro_rules! tell {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod args;
#[cfg(target_os = "linux")]
mod attach;
#[cfg(target_os = "linux")]
mod control;
mod generate;
mod list;
#[cfg(target_os = "linux")]
mod run;
#[cfg(target_os = "linux")]
mod stage;

use std::{fs, io, path::Path, process::ExitCode};

use clap::{CommandFactory, Parser};
use natlab::topology::Topology;

use args::{Action, Cli};

/// A change was refused.
#[cfg(target_os = "linux")]
const REFUSED: u8 = 1;
/// As of all programs that read their command line with clap.
const USAGE: u8 = 2;
/// As of `timeout`: the time was up.
#[cfg(target_os = "linux")]
const TIMED_OUT: u8 = 124;
/// As of `timeout`, `nice` and their like: the laboratory failed, not the command.
const LAB_FAILED: u8 = 125;
/// The same: there is no such command.
#[cfg(target_os = "linux")]
const NO_COMMAND: u8 = 127;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match (&cli.generate, &cli.action) {
        (Some(what), _) => generate::text(*what).map(print).map_err(|e| Failure::lab(e.to_string())),
        (None, Some(action)) => act(action),
        (None, None) => Err(Failure::usage(Cli::command().render_usage().to_string())),
    };
    done.unwrap_or_else(|Failure { code, message }| {
        tell!("natlab: {message}");
        ExitCode::from(code)
    })
}

/// Why nothing was run.
#[derive(Debug)]
struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    fn usage(message: impl Into<String>) -> Self {
        Self { code: USAGE, message: message.into() }
    }

    fn lab(message: impl Into<String>) -> Self {
        Self { code: LAB_FAILED, message: message.into() }
    }
}

fn act(action: &Action) -> Result<ExitCode, Failure> {
    match action {
        Action::List { json } => Ok(print(if *json { list::json() } else { list::text() })),
        Action::Draw { file, svg } => {
            let topology = read(file)?;
            let drawn = if *svg { topology.draw_svg() } else { topology.draw_text() };
            drawn.map(print).map_err(|e| Failure::usage(e.to_string()))
        }
        other => on_linux(other),
    }
}

#[cfg(target_os = "linux")]
fn on_linux(action: &Action) -> Result<ExitCode, Failure> {
    match action {
        Action::Exec { which, host, command } => attach::exec(which, host, command),
        Action::Set { which, target, changes } => attach::set(which, target, changes),
        other => run::act(other),
    }
}

#[cfg(not(target_os = "linux"))]
fn on_linux(_: &Action) -> Result<ExitCode, Failure> {
    Err(Failure::lab("network namespaces exist on Linux only; `nat-check --simulate NAT` works everywhere"))
}

/// Reads a topology; `-` is standard input.
fn read(file: &Path) -> Result<Topology, Failure> {
    let told = |e: io::Error| Failure::usage(format!("{}: {e}", file.display()));
    let text = match file.to_str() {
        Some("-") => io::read_to_string(io::stdin()).map_err(told)?,
        _ => fs::read_to_string(file).map_err(told)?,
    };
    Topology::read(&text).map_err(|e| Failure::usage(format!("{}: {e}", file.display())))
}

/// Prints; a reader that has seen enough, such as `head`, is no error.
fn print(text: String) -> ExitCode {
    let _ = io::Write::write_all(&mut io::stdout(), text.as_bytes());
    ExitCode::SUCCESS
}
