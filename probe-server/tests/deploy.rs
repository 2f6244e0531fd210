//! The files for operators: the example configuration is right, the container's steps build the program, the unit runs
//! under systemd.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use probe_server::config::{Config, Settings};

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
}

#[test]
fn the_example_configuration_is_right_also_with_its_defaults_written_out() {
    let path = deploy("probe-server.toml");
    let config = Settings::read(&path).unwrap().check(false).unwrap();
    assert!(config.families.iter().all(|family| family.alternate.is_some()));
    assert_eq!(config.ports, (3478, 3479));

    // A commented key is the default: with it, nothing changes. The others are examples, not defaults.
    let text = fs::read_to_string(path).unwrap();
    let examples =
        ["advertise", "tls-certificate", "tls-key", "tls-port", "tls-alternate-port", "workers", "admin"];
    let is_default = |line: &&str| line.contains(" = ") && !examples.iter().any(|key| line.starts_with(key));
    let defaults: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_default).collect();
    assert!(defaults.len() >= 12, "{defaults:?}");
    let with =
        Settings::read_text(&format!("{text}\n{}", defaults.join("\n"))).unwrap().check(false).unwrap();
    assert_eq!(Config { workers: config.workers, ..with }, config);

    // And every key of the examples is one.
    let all: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# ")).filter(|l| l.contains(" = ")).collect();
    Settings::read_text(&format!("{text}\n{}", all.join("\n"))).unwrap();
}

/// The same steps as the Containerfile's first stage, in a clean directory, where no container engine is to be had.
#[test]
#[ignore = "builds the whole program anew, which takes minutes: cargo test -p probe-server --test deploy -- --ignored"]
fn the_steps_of_the_container_build_the_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let clean = tempfile::tempdir().unwrap();
    let containerfile = fs::read_to_string(deploy("Containerfile")).unwrap();
    let first_stage = containerfile.split("\nFROM ").nth(1).unwrap();
    for line in first_stage.lines() {
        match line.split_once(' ') {
            Some(("COPY", words)) => {
                let words: Vec<_> = words.split(' ').collect();
                let (to, from) = words.split_last().unwrap();
                for from in from {
                    let to = if *to == "./" { clean.path().join(from) } else { clean.path().join(to) };
                    copy(&root.join(from), &to);
                }
            }
            Some(("RUN", command)) => {
                // Without the settings of the build around this test.
                let mut words = command.split(' ');
                let mut build = Command::new(words.next().unwrap());
                build.args(words).current_dir(clean.path()).env_remove("CARGO_TARGET_DIR");
                assert!(build.status().unwrap().success(), "{command}");
            }
            _ => {}
        }
    }
    let program = clean.path().join("target/release/probe-server");
    let version = Command::new(program).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("probe-server "));
}

/// A systemd of its own, in namespaces of its own, runs the unit as it stands.
#[test]
#[ignore = "needs root and systemd, takes a minute: cargo test -p probe-server --test deploy -- --ignored systemd"]
fn the_unit_runs_under_systemd() {
    let work = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/systemd.sh");
    let mut run = Command::new("timeout");
    run.args(["--kill-after=5", "150"]).arg(script).arg(env!("CARGO_BIN_EXE_probe-server"));
    run.arg(deploy("")).arg(work.path()).status().unwrap();
    let read = |name| fs::read_to_string(work.path().join(name)).unwrap_or_default();
    let (result, log) = (read("result"), read("log"));
    println!("{result}{log}");
    let steps = [
        "started: 0 active",
        "health: ok, 16 combinations answered, 4 endpoints over tcp",
        "reloaded: 0 active",
        "restarted: 0 active",
        "later: active, restarts 0",
        "health: ok, 16 combinations answered, 4 endpoints over tcp",
        "stopped: success 0",
    ];
    assert_eq!(result.lines().collect::<Vec<_>>(), steps);
    assert!(log.contains("taken over from the predecessor"), "systemd kept the sockets");
    assert!(log.contains("unknown field `bogus`"), "the wrong file is named");
}

fn copy(from: &Path, to: &Path) {
    if from.is_file() {
        fs::copy(from, to).unwrap();
        return;
    }
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "target" {
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    }
}
