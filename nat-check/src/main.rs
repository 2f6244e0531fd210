//! The `nat-check` program: from the command line to a report and an exit code.

mod checking;
mod generate;
mod interruption;
mod mapping;
mod output;
mod prospects;
mod proxies;
mod punching;
mod rooming;

use std::process::ExitCode;

use clap::{Parser, error::ErrorKind};
use nat_check::{
    args::{Args, Command},
    terminal,
    usage::UsageError,
};
use nat_check_core::{probe::REGISTRY, punch::IntroError, resolve::ResolveError};
use output::{complain, print};

fn main() -> ExitCode {
    let code = match Args::try_parse().map_err(anyhow::Error::from).and_then(run) {
        Ok(code) => code,
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(error) => refuse(&error),
            Err(error) => {
                complain(&format!("{error:#}"));
                exit_code(&error)
            }
        },
    };
    terminal::flush();
    ExitCode::from(code)
}

fn run(args: Args) -> anyhow::Result<u8> {
    match &args.command {
        Some(Command::Punch(args)) => return punching::run(args),
        Some(Command::Map(args)) => return mapping::run(args),
        Some(Command::Room(args)) => return rooming::run(args),
        None => {}
    }
    if let Some(what) = args.generate {
        return print(&generate::text(what)?);
    }
    if args.list {
        return print(&tests());
    }
    checking::run(args)
}

/// Exit codes, see the contract in the help text.
const SUCCESS: u8 = 0;
const UNMET: u8 = 1;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHED: u8 = 3;

/// What an error that ended the program means for scripts: only a server that could not be reached is one.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        USAGE
    } else if error.is::<ResolveError>() || error.is::<IntroError>() {
        UNREACHED
    } else {
        FAILED
    }
}

/// Help that was asked for goes to standard output, whatever is wrong with the command line to standard error in one line.
fn refuse(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => print(&error.render().ansi().to_string())
            .unwrap_or_else(|error| {
                complain(&format!("{error:#}"));
                FAILED
            }),
        _ => {
            complain(&output::one_line(&error.render().to_string()));
            USAGE
        }
    }
}

fn tests() -> String {
    let width = REGISTRY.iter().map(|probe| probe.name.len()).max().unwrap_or(0);
    REGISTRY.iter().map(|probe| format!("{:width$}  {}\n", probe.name, probe.about)).collect()
}
