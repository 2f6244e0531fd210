//! Connections that were left idle until the server spoke, and what came of them.

use std::time::Duration;

/// A connection that nobody said anything on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleConnection {
    /// For how long, until the server spoke.
    pub idle: Duration,
    /// What came of it; none = nothing can be told, or it is still idle.
    pub outcome: Option<IdleOutcome>,
}

/// What came of a connection that was idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleOutcome {
    /// What the server said arrived.
    Heard,
    /// It did not arrive, though the server still answered in its test session.
    Silent {
        /// Whether it arrived after this host had sent something.
        revived: bool,
    },
    /// The connection was ended from outside.
    Ended,
}

impl IdleConnection {
    /// Whether it was alive.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.outcome == Some(IdleOutcome::Heard)
    }

    /// Whether it had expired.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        matches!(self.outcome, Some(IdleOutcome::Silent { .. } | IdleOutcome::Ended))
    }
}
