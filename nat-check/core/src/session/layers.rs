//! What the session keeps of the routers on the way.

use super::Session;
use crate::observation::layers::LayersLog;

impl Session {
    /// Enters what was observed of the way out, and wakes whoever waits.
    pub(crate) fn note_layers<T>(&self, change: impl FnOnce(&mut LayersLog) -> T) -> T {
        let result = change(&mut self.lock().log.layers);
        self.changed.notify_waiters();
        result
    }
}
