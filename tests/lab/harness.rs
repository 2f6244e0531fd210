//! Runs tests that need network namespaces. Each test file is a program of its own (`harness = false`), because
//! privilege has to be obtained while the process has a single thread.

use std::{env, process::ExitCode};

pub use libtest_mimic::Trial;
use libtest_mimic::{Arguments, Completion, Failed, run};

use crate::{LabError, netns::obtain_privilege};

/// Runs the trials, or skips them loudly where this system allows no namespaces. With `LAB=required` in the
/// environment that is a failure.
#[must_use]
pub fn main(trials: impl FnOnce() -> Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // These tests mostly wait for packets.
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.test_threads.get_or_insert(2 * cores);
    let privilege = obtain_privilege();
    let mut trials = trials();
    if let Err(reason) = &privilege
        && !arguments.list
    {
        if required() {
            eprintln!("LAB=required, but there is no laboratory: {reason}");
            return ExitCode::FAILURE;
        }
        eprintln!(
            "\n==> SKIPPED: {} tests on real networks did NOT run: {reason}\n==> LAB=required makes this a failure\n",
            trials.len()
        );
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    run(&arguments, trials).exit_code()
}

/// One test: an error is a failure, and so is a panic. Where the system lacks a device, a right or a program that the
/// test needs, it is skipped and says so; with `LAB=required` that is a failure, too.
#[must_use]
pub fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<(), LabError> + Send + 'static) -> Trial {
    let name = name.into();
    let told = name.clone();
    Trial::ignorable_test(name, move || match test() {
        Ok(()) => Ok(Completion::Completed),
        Err(reason @ (LabError::Denied { .. } | LabError::Missing { .. })) if !required() => {
            eprintln!("==> SKIPPED: {told} did NOT run: {reason}");
            Ok(Completion::ignored_with(reason.to_string()))
        }
        Err(e) => Err(Failed::from(e.to_string())),
    })
}

fn required() -> bool {
    env::var_os("LAB").is_some_and(|value| value == "required")
}
