//! Standard output and standard error: closed, full, without a reader, narrow, coloured.

use std::{fs::File, io::Read, process::Stdio};

use serde_json::Value;

use crate::{ended, nat_check, run};

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = nat_check("--simulate full-cone --json")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before the report is there, so that all of it meets a closed pipe.
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
    assert_eq!((child.wait().unwrap().code(), errors.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_report_that_cannot_be_written_is_an_error() {
    for line in ["--simulate full-cone --json", "--simulate full-cone", "--list", "--help", "--version"] {
        let mut command = nat_check(line);
        let output = command.stdout(full()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {errors}");
        assert!(errors.contains("standard output") && errors.lines().count() == 1, "{line}: {errors}");
    }
}

/// The standard library puts the null device in the place of a closed file descriptor.
#[cfg(unix)]
#[test]
fn a_closed_standard_output_is_an_error() {
    let through_a_shell = |redirection: &str| {
        let program = nat_check("");
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(format!("exec \"$0\" --simulate full-cone --json {redirection}"));
        ended(std::mem::replace(shell.arg(program.get_program()), std::process::Command::new("true")))
    };
    let (code, _, err) = through_a_shell(">&-");
    assert_eq!((code, err.lines().count()), (1, 1), "{err}");
    assert!(err.contains("standard output"), "{err}");
    // Nobody wants the report here, and that is said so.
    assert_eq!(through_a_shell(">/dev/null"), (0, String::new(), String::new()));
    assert_eq!(through_a_shell("1<>/dev/null"), (0, String::new(), String::new()));
    let (code, out, _) = through_a_shell("2>&-");
    assert_eq!((code, out.is_empty()), (0, false));
}

#[cfg(target_os = "linux")]
#[test]
fn logs_that_cannot_be_written_do_not_cost_the_report() {
    for line in ["--local -v --json", "--local -vv --json", "--simulate full-cone --lifetime 5 -v --json"] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        for stderr in [Stdio::from(full()), Stdio::from(writer)] {
            let mut command = nat_check(line);
            let output = command.stderr(stderr).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{line}");
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(report["partial"], false, "{line}");
        }
    }
}

#[test]
fn logs_that_nobody_reads_do_not_stop_the_run() {
    let mut command = nat_check("--simulate symmetric --lifetime 5 -vv --json");
    command.env("RUST_LOG", "trace").stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut report = String::new();
    child.stdout.take().unwrap().read_to_string(&mut report).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(serde_json::from_str::<Value>(&report).is_ok());
}

#[test]
fn the_report_is_as_wide_as_columns_says() {
    for (columns, widest) in [("40", 40), ("1", 40), ("72", 72), ("9999", 120), ("wide", 100), ("", 100)] {
        for line in ["--simulate symmetric", "--simulate symmetric -v"] {
            let mut command = nat_check(line);
            command.env("COLUMNS", columns);
            let (code, out, _) = ended(command);
            assert_eq!(code, 0);
            assert!(out.lines().all(|line| line.chars().count() <= widest), "{columns}: {out}");
        }
    }
}

#[test]
fn a_locale_without_unicode_gets_plain_ascii() {
    let mut command = nat_check("--simulate symmetric -v");
    command.env("LC_ALL", "C");
    assert!(ended(command).1.is_ascii());
}

#[test]
fn colour_is_for_terminals_and_for_those_who_insist() {
    let (code, out, err) = run("--simulate full-cone");
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(!out.contains('\u{1b}'));
    let mut command = nat_check("--simulate full-cone");
    command.env("CLICOLOR_FORCE", "1");
    assert!(ended(command).1.contains('\u{1b}'));
}

#[cfg(target_os = "linux")]
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}
