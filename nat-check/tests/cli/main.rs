//! The command line from outside: the built program, its output and exit codes.

#![expect(clippy::unwrap_used, reason = "a helper of tests may panic as a test may")]

mod check;
mod help;
#[cfg(unix)]
mod pages;
#[cfg(unix)]
mod signals;
mod streams;
mod usage;

use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Variables that the program reads.
const UNSET: [&str; 12] = [
    "NAT_CHECK_SERVER",
    "COLUMNS",
    "NO_COLOR",
    "CLICOLOR_FORCE",
    "RUST_LOG",
    "ALL_PROXY",
    "all_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "http_proxy",
    "NO_PROXY",
    "no_proxy",
];

/// The program with the words of this line, in an environment that says nothing.
fn nat_check(line: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nat-check"));
    command.args(line.split_whitespace()).stdin(Stdio::null());
    for name in UNSET {
        command.env_remove(name);
    }
    command
}

/// Exit code, standard output, standard error.
fn run(line: &str) -> (i32, String, String) {
    ended(nat_check(line))
}

fn ended(mut command: Command) -> (i32, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn json(line: &str) -> Value {
    let (code, out, err) = run(line);
    assert_eq!(code, 0, "{line}: {err}");
    serde_json::from_str(&out).unwrap()
}
