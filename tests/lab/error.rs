//! What can go wrong when a laboratory is built, told apart by what the reader can do about it.

use std::{io, time::Duration};

/// Why there is no laboratory, or why something in it failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The system does not let this user do it.
    #[error("{operation} is not allowed here ({source}): {advice}")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// What would help.
        advice: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// A program is not installed.
    #[error("{program} is not installed{}", package.map_or_else(String::new, |package| format!(" (Debian package {package})")))]
    Missing {
        /// Its name.
        program: String,
        /// Where it comes from, if it is one that the laboratory itself needs.
        package: Option<&'static str>,
    },
    /// A program that sets the laboratory up did not succeed.
    #[error("{operation} failed: {message}")]
    Setup {
        /// What was being set up.
        operation: String,
        /// What the program said.
        message: String,
    },
    /// A system call failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A program ended, or stayed silent, before it did what was waited for.
    #[error("{operation}: nothing came within {within:?}; it printed: {printed}")]
    Timeout {
        /// What was waited for.
        operation: String,
        /// How long.
        within: Duration,
        /// What the program printed until then.
        printed: String,
    },
    /// The words do not name a NAT, a network or a scenario.
    #[error("{0}")]
    Words(String),
}

impl LabError {
    /// Wraps a failed system call.
    pub fn io(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Io { operation, source }
    }
}
