//! Errors of the laboratory, by what the reader can do about them.

use std::{io, time::Duration};

/// Why there is no laboratory, or why something in it failed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The system does not permit it.
    #[error("{operation} is not allowed here ({source}): {advice}")]
    Denied {
        /// What was tried.
        operation: &'static str,
        /// What would help.
        advice: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A program is not installed.
    #[error("{program} is not installed{}", package.map_or_else(String::new, |package| format!(" (Debian package {package})")))]
    Missing {
        /// Its name.
        program: String,
        /// The package that provides it, if the laboratory itself needs it.
        package: Option<&'static str>,
    },
    /// A program that sets up the laboratory failed.
    #[error("{operation} failed: {message}")]
    Setup {
        /// What was being set up.
        operation: String,
        /// What the program printed.
        message: String,
    },
    /// A system call failed.
    #[error("{operation}: {source}")]
    Io {
        /// What was being done.
        operation: String,
        /// The system's error.
        source: io::Error,
    },
    /// A program ended, or the time was up, before it did what was waited for.
    #[error("{operation}: nothing came within {within:?}; it printed: {printed}")]
    Timeout {
        /// What was waited for.
        operation: String,
        /// How long.
        within: Duration,
        /// What the program printed until then.
        printed: String,
    },
    /// A text is not a valid NAT, network or scenario.
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
