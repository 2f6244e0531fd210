//! The epochs that one gateway has told in the course of a run, and how often it lost its mappings meanwhile.

use std::sync::{Arc, Mutex, PoisonError};

use shared::port_mapping::{Protocol, epoch::Epoch};
use tokio::time::Instant;

/// Shared by the clones of a client.
#[derive(Clone, Debug)]
pub struct Epochs {
    protocol: Protocol,
    told: Arc<Mutex<Told>>,
}

#[derive(Debug, Default)]
struct Told {
    /// When the first answer came: the clock of all epochs.
    since: Option<Instant>,
    first: Option<Epoch>,
    last: Option<Epoch>,
    losses: u32,
}

impl Epochs {
    pub(super) fn new(protocol: Protocol) -> Self {
        Self { protocol, told: Arc::default() }
    }

    /// Judges an answer that came at this time by the one before it.
    pub(super) fn note(&self, told: u32, at: Instant) {
        let mut all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let since = *all.since.get_or_insert(at);
        let epoch = Epoch { heard: at.saturating_duration_since(since), told };
        let is_lost = all.last.is_some_and(|last| last.is_lost_by(epoch, self.protocol));
        all.losses += u32::from(is_lost);
        all.first.get_or_insert(epoch);
        all.last = Some(epoch);
    }

    /// How often the gateway has lost its mappings between two answers.
    #[must_use]
    pub fn losses(&self) -> u32 {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).losses
    }

    /// The first and the last epoch that it told.
    #[must_use]
    pub fn told(&self) -> Option<(Epoch, Epoch)> {
        let all = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        Some((all.first?, all.last?))
    }
}
