//! The ports that a session has opened at the gateway: kept where every way out of a run finds them.

use super::Session;
use crate::{
    observation::port_mapping::PortMappingLog,
    port_mapping::{Client, Wish},
};

/// A mapping that is open, or may be: it is entered before it is asked for.
#[derive(Clone, Debug)]
pub(crate) struct OpenMapping {
    /// The number of the protocol in the log.
    pub(crate) attempt: usize,
    pub(crate) client: Client,
    pub(crate) wish: Wish,
    /// Whether the gateway has said that it is there.
    pub(crate) is_granted: bool,
}

impl Session {
    /// Looks at, or changes, what is open.
    pub(crate) fn open_mappings<T>(&self, change: impl FnOnce(&mut Vec<OpenMapping>) -> T) -> T {
        change(&mut self.lock().open_mappings)
    }

    /// Enters what was observed of port mapping, and wakes whoever waits.
    pub(crate) fn note_port_mapping<T>(&self, change: impl FnOnce(&mut PortMappingLog) -> T) -> T {
        let result = change(&mut self.lock().log.port_mapping);
        self.changed.notify_waiters();
        result
    }

    /// Random bytes that nobody can predict.
    pub(crate) fn nonce<const N: usize>(&self) -> Option<[u8; N]> {
        self.lock().random.bytes().ok()
    }

    /// A choice that anybody may guess.
    pub(crate) fn choice(&self, among: std::ops::Range<u16>) -> u16 {
        let choices = self.lock().random.choices();
        choices.map_or(among.start, |mut choices| choices.u16(among))
    }
}
