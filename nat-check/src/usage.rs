//! Command lines that cannot be run, and the values that `nat-check` and `nat-check punch` share.

use std::{fmt::Display, time::Duration};

use nat_check_core::{punch::secure::TrustError, resolve::Query};

/// A command line that cannot be run. Each message is one line and names the value.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No certificate authority that could vouch for a server.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// No server to measure against.
    #[error(
        "no probe server: give --server HOST or --public, or set NAT_CHECK_SERVER; --local and --simulate NAT need none"
    )]
    NoServer,
    /// No server to meet the peer at.
    #[error("no probe server: give --server HOST, or set NAT_CHECK_SERVER")]
    NoRendezvous,
    /// What cannot be the name of a room.
    #[error("room `{name}`: {why}")]
    Room {
        /// What was given.
        name: String,
        /// Why not.
        why: shared::rendezvous::room::BadRoomName,
    },
    /// A value that makes no sense.
    #[error("--{flag} {value}: {reason}")]
    Value {
        /// The option.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl UsageError {
    /// A value that makes no sense, and why.
    pub fn value(flag: &'static str, value: impl Display, reason: impl Display) -> Self {
        Self::Value { flag, value: value.to_string(), reason: reason.to_string() }
    }
}

/// How much is told besides the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verbosity {
    /// The report and errors.
    Quiet,
    /// Progress, on a terminal.
    Normal,
    /// The evidence behind each finding.
    Evidence,
    /// Log lines as well.
    Logs,
}

impl Verbosity {
    /// Of `-q` and so many `-v`, of which the parser lets only the last kind pass.
    #[must_use]
    pub fn new(quiet: bool, verbose: u8) -> Self {
        match verbose {
            _ if quiet => Self::Quiet,
            0 => Self::Normal,
            1 => Self::Evidence,
            _ => Self::Logs,
        }
    }
}

pub(crate) fn server(value: &str) -> Result<Query, UsageError> {
    Query::parse(value).map_err(|reason| UsageError::value("server", value, reason))
}

/// A number of seconds, at least `min` and at most `max`.
pub(crate) fn seconds(flag: &'static str, value: f64, min: f64, max: f64) -> Result<Duration, UsageError> {
    if (min..=max).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(UsageError::value(flag, value, format!("not a number of seconds between {min} and {max}")))
    }
}
