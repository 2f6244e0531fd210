//! Runs tests that need network namespaces. Each test file is a program of its own (`harness = false`), because
//! privilege has to be obtained while the process has a single thread.

use std::{
    cell::Cell,
    collections::BTreeMap,
    env,
    panic::Location,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

pub use libtest_mimic::Trial;
use libtest_mimic::{Arguments, Completion, Failed, run};
use serde_json::Value;

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
    let outcome = run(&arguments, trials);
    let by_place = BY_PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    for ((file, line), Times { asked, made }) in by_place.iter().filter(|(_, it)| it.made < it.asked) {
        eprintln!("{file}:{line}: {made} of {asked} findings were made");
    }
    let (asked, open) = (ASKED.load(Relaxed), OPEN.load(Relaxed));
    if open > FEW && open * MOST_OPEN > asked {
        eprintln!(
            "\n==> {open} tests left open some of {asked} findings: too many even for a busy machine\n"
        );
        return ExitCode::FAILURE;
    }
    if let Some((place, times)) = by_place.iter().find(|(_, it)| it.made == 0 && it.asked > FEW) {
        eprintln!("\n==> what {}:{} asks for was open each of {} times\n", place.0, place.1, times.asked);
        return ExitCode::FAILURE;
    }
    outcome.exit_code()
}

/// For so many findings one test may leave some open in a run of all tests, ...
const MOST_OPEN: usize = 10;
/// ... and so many in a run of few.
const FEW: usize = 2;
static ASKED: AtomicUsize = AtomicUsize::new(0);
static OPEN: AtomicUsize = AtomicUsize::new(0);
/// By the file and line that asks.
static BY_PLACE: Mutex<BTreeMap<(&str, u32), Times>> = Mutex::new(BTreeMap::new());

/// How often something was asked for, and how often it was made.
#[derive(Default)]
struct Times {
    asked: usize,
    made: usize,
}

thread_local! {
    /// Whether this test has left something open: what comes late at one time is counted once.
    static LEAVES_OPEN: Cell<bool> = const { Cell::new(false) };
}

/// Counts a finding that a test asks for, and whether it was made; gives that back. On a busy machine packets come late, and a
/// measurement that says nothing then is right: it may, but not often, and not each time at the same place.
#[track_caller]
pub fn is_decided(is_made: bool) -> bool {
    ASKED.fetch_add(1, Relaxed);
    if !is_made && !LEAVES_OPEN.replace(true) {
        OPEN.fetch_add(1, Relaxed);
    }
    let place = Location::caller();
    let mut by_place = BY_PLACE.lock().unwrap_or_else(PoisonError::into_inner);
    let times = by_place.entry((place.file(), place.line())).or_default();
    times.asked += 1;
    times.made += usize::from(is_made);
    is_made
}

/// Holds a finding of a report against the truth: it is sure and wrong in no case, and not both sure and right in few.
///
/// # Panics
/// When it is `certain` or `strong` and not what is expected.
#[track_caller]
pub fn says(finding: &Value, expected: &Value) {
    let is_right = is_right(finding, expected);
    if !is_decided(is_right && is_sure(finding)) {
        eprintln!("open, {expected} is expected: {finding:#}");
    }
}

/// The same for what may be right without being sure, as with servers that leave much open.
///
/// # Panics
/// When it is `certain` or `strong` and not what is expected.
#[track_caller]
pub fn shows(finding: &Value, expected: &Value) {
    let is_right = is_right(finding, expected);
    is_decided(is_right);
}

#[track_caller]
fn is_right(finding: &Value, expected: &Value) -> bool {
    let is_right = finding["value"] == *expected;
    assert!(is_right || !is_sure(finding), "{expected} is expected: {finding:#}");
    is_right
}

fn is_sure(finding: &Value) -> bool {
    finding["confidence"] == "certain" || finding["confidence"] == "strong"
}

/// One test: an error is a failure, and so is a panic. Where the system lacks a device, a right or a program that the
/// test needs, it is skipped and says so; with `LAB=required` that is a failure, too.
#[must_use]
pub fn trial(name: impl Into<String>, test: impl FnOnce() -> Result<(), LabError> + Send + 'static) -> Trial {
    let name = name.into();
    let told = name.clone();
    let test = move || {
        // A thread runs one test after another.
        LEAVES_OPEN.set(false);
        test()
    };
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
