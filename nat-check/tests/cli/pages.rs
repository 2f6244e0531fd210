//! The pages in `docs/`: every command in them is run, and prints what the page says.
//!
//! In a block `console`, a line with `$ ` in front is a command, and what follows is its output, standard error
//! included; a line `...` stands for any lines, and `...` at the end of a line for its rest. In a block `yaml`, every line that calls nat-check is run and succeeds.

use std::{
    os::unix::fs::symlink,
    path::Path,
    process::{Command, Stdio},
};

use probe_server::{Server, config::Config, topology::Endpoint};

#[test]
fn the_commands_of_the_pages_do_what_the_pages_say() {
    if Command::new("jq").arg("--version").stdout(Stdio::null()).status().is_err() {
        assert!(std::env::var_os("LAB").is_none_or(|lab| lab != "required"), "jq is missing");
        eprintln!("SKIPPED: jq is missing");
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let _inside = runtime.enter();
    let server = Server::start(Config::local()).unwrap();
    let address = server.topologies().first().and_then(|t| t.bound(Endpoint::Primary)).unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    symlink(env!("CARGO_BIN_EXE_nat-check"), folder.path().join("nat-check")).unwrap();
    let mut run = 0;
    for page in [include_str!("../../docs/cli.md"), include_str!("../../docs/json.md")] {
        for (language, block) in blocks(page) {
            match language {
                "console" => run += console(block, folder.path(), &address),
                "yaml" => run += yaml(block, folder.path(), &address),
                _ => {}
            }
        }
    }
    assert!(run >= 20, "only {run} commands were found");
}

/// Language and text of each fenced block.
fn blocks(page: &str) -> Vec<(&str, &str)> {
    let parts = page.split("```").collect::<Vec<_>>();
    assert_eq!(parts.len() % 2, 1, "a block without an end");
    parts.into_iter().skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

fn console(block: &str, folder: &Path, server: &str) -> usize {
    let commands: Vec<(&str, &str)> = block
        .strip_prefix("$ ")
        .unwrap_or_else(|| panic!("no command: {block}"))
        .split("\n$ ")
        .map(|one| one.split_once('\n').unwrap_or((one, "")))
        .collect();
    for (command, expected) in &commands {
        let (_, printed) = bash(command, folder, server);
        assert!(matches(&printed, expected), "$ {command}\nprints:\n{printed}\nexpected:\n{expected}");
    }
    commands.len()
}

fn yaml(block: &str, folder: &Path, server: &str) -> usize {
    let mut run = 0;
    for line in block.lines().map(str::trim) {
        let command = line.trim_start_matches("- ").trim_start_matches("run: ");
        if command.starts_with("nat-check ") {
            let (code, printed) = bash(command, folder, server);
            assert_eq!(code, Some(0), "{command}: {printed}");
            run += 1;
        }
    }
    run
}

fn bash(command: &str, folder: &Path, server: &str) -> (Option<i32>, String) {
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut bash = Command::new("bash");
    let command = format!("exec 2>&1; {command}");
    bash.args(["-o", "pipefail", "-c", &command]).current_dir(folder).stdin(Stdio::null());
    bash.env("PATH", path).env("NAT_CHECK_SERVER", server).env_remove("COLUMNS").env_remove("CLICOLOR_FORCE");
    let output = bash.output().unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Whether the text is what was expected, where a line `...` stands for any lines.
fn matches(printed: &str, expected: &str) -> bool {
    let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
    let expected: Vec<&str> = expected.lines().map(str::trim_end).collect();
    matching(&printed, &expected)
}

fn matching(printed: &[&str], expected: &[&str]) -> bool {
    match (expected, printed) {
        ([], rest) => rest.is_empty(),
        (["...", more @ ..], _) => (0..=printed.len()).any(|skip| matching(&printed[skip..], more)),
        ([line, more @ ..], [first, rest @ ..]) => {
            let begins = line.strip_suffix("...").is_some_and(|begin| first.starts_with(begin));
            (line == first || begins) && matching(rest, more)
        }
        (_, []) => false,
    }
}

#[test]
fn an_expectation_can_fail() {
    assert!(matches("a\nb\nc\n", "a\n...\nc"));
    assert!(matches("a\nb\n", "...\nb\n..."));
    assert!(matches("a long line\nb\n", "a long...\nb"));
    for wrong in ["a\nb", "a\n...\nd", "b\n...", ""] {
        assert!(!matches("a\nb\nc\n", wrong), "{wrong}");
    }
}
