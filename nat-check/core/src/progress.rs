//! What a run tells while it is under way. The engine reports events; who listens decides what becomes of them.

use std::{fmt, time::Duration};

/// Something that happened in a run.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A test has begun.
    Started {
        /// Its name in the registry.
        test: &'a str,
        /// What it does, for a person.
        about: &'a str,
    },
    /// A test has ended.
    Finished {
        /// Its name in the registry.
        test: &'a str,
        /// How long it ran, its waits between stages left out.
        took: Duration,
    },
    /// How far a long test has come.
    Advanced {
        /// Its name in the registry.
        test: &'a str,
        /// What is known by now.
        so_far: &'a str,
    },
}

/// Listens to a run.
pub trait Progress: Send + Sync + fmt::Debug {
    /// Takes note of an event. Must not block.
    fn event(&self, event: Event<'_>);
}

/// Listens to nothing.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event<'_>) {}
}
