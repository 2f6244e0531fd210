//! The lock around a simulated world, and the task that lets its time pass.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::fabric::Fabric;

/// A world, shared by its sockets, its connections and its driver.
#[derive(Debug)]
pub(super) struct Shared {
    fabric: Mutex<Fabric>,
    start: Instant,
    wake: Arc<Notify>,
    driven: AtomicBool,
}

impl Shared {
    pub(super) fn new(fabric: Fabric) -> Arc<Self> {
        Arc::new(Self {
            fabric: Mutex::new(fabric),
            start: Instant::now(),
            wake: Arc::new(Notify::new()),
            driven: AtomicBool::new(false),
        })
    }

    /// Looks at the world as it is now, or changes it.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Fabric) -> T) -> T {
        let mut fabric = self.fabric.lock().unwrap_or_else(PoisonError::into_inner);
        fabric.pump(self.start.elapsed());
        let before = fabric.next_event();
        let result = act(&mut fabric);
        let sooner = fabric.next_event().is_some_and(|next| before.is_none_or(|b| next < b));
        drop(fabric);
        if sooner {
            self.wake.notify_one();
        }
        result
    }

    /// Starts the task that works off events when their time has come; it ends with the world.
    pub(super) fn drive(self: &Arc<Self>) {
        if !self.driven.swap(true, Ordering::Relaxed) {
            tokio::spawn(work_off(Arc::downgrade(self), Arc::clone(&self.wake)));
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

async fn work_off(world: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        let Some(shared) = world.upgrade() else { return };
        let next = shared.with(|fabric| fabric.next_event());
        let start = shared.start;
        drop(shared);
        match next {
            Some(at) => tokio::select! {
                biased;
                () = wake.notified() => {}
                () = sleep_until(start + at) => {}
            },
            None => wake.notified().await,
        }
    }
}
