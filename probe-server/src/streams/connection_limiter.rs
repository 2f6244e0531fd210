//! How many connections there are, in all, from one host and from one network, and what became of them.
//!
//! When there are as many as there may be, one of whoever has most makes room for the next, as [`crate::admission`] has
//! it. TLS handshakes have limits of their own: they are what costs the server most.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::AbortHandle;

use super::{
    Transport,
    events::{Event, EventCounters, StreamCounts},
};
use crate::{
    admission::{AdmissionTable, Refused, Shares},
    config::Streams,
};

/// TLS handshakes at a time: honest ones are over after two round trips.
const MAX_HANDSHAKES: usize = 256;

/// The open connections, and the counters.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimiter {
    table: Mutex<Table>,
    events: EventCounters,
}

#[derive(Debug, Default)]
struct Table {
    numbered: u64,
    connections: HashMap<u64, Connection>,
    admission: AdmissionTable,
    /// Those of them whose TLS handshake is not over.
    handshakes: AdmissionTable,
    /// When the handshakes so far have been had at their rate, in nanoseconds (GCRA).
    handshakes_had: u64,
    /// Connections whose number is bounded elsewhere.
    unlimited: usize,
}

#[derive(Debug)]
struct Connection {
    from: IpAddr,
    /// Ends it.
    task: Option<AbortHandle>,
}

/// A place among the open connections, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionSlot {
    limiter: Arc<ConnectionLimiter>,
    /// Counted from 1.
    number: u64,
    is_unlimited: bool,
}

/// Whose slot it is.
#[derive(Debug)]
pub(crate) struct SlotHandle {
    limiter: Arc<ConnectionLimiter>,
    number: u64,
}

impl ConnectionLimiter {
    /// A slot for a connection, or none if there are too many.
    pub(super) fn enter(
        limiter: &Arc<Self>,
        limits: &Streams,
        transport: Transport,
        from: SocketAddr,
        now: u64,
    ) -> Option<ConnectionSlot> {
        let mut table = limiter.lock();
        let from = from.ip();
        let is_tls = transport == Transport::Tls;
        if let Err(event) = table.admit(limiter, limits, is_tls, from, now) {
            limiter.count(event);
            return None;
        }
        limiter.count(Event::Accepted);
        let number = table.insert(from, is_tls, now);
        drop(table);
        Some(ConnectionSlot { limiter: Arc::clone(limiter), number, is_unlimited: false })
    }

    /// A slot for the server's own check, which takes none of those that clients have.
    pub(super) fn enter_unlimited(limiter: &Arc<Self>) -> ConnectionSlot {
        limiter.count(Event::Accepted);
        limiter.lock().unlimited += 1;
        ConnectionSlot { limiter: Arc::clone(limiter), number: 0, is_unlimited: true }
    }

    pub(crate) fn counts(&self) -> StreamCounts {
        self.events.counts(self.lock().open())
    }

    pub(crate) fn count(&self, event: Event) {
        self.events.count(event);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SlotHandle {
    /// This task serves the connection from now on, and is to end when another connection needs the slot.
    pub(crate) fn set_task(&self, task: AbortHandle) {
        if let Some(connection) = self.limiter.lock().connections.get_mut(&self.number) {
            connection.task = Some(task);
        }
    }
}

impl ConnectionSlot {
    /// To tell who serves the connection after the slot has been handed over.
    pub(crate) fn handle(&self) -> SlotHandle {
        SlotHandle { limiter: Arc::clone(&self.limiter), number: self.number }
    }

    /// The TLS handshake is over.
    pub(crate) fn handshake_done(&self) {
        let mut table = self.limiter.lock();
        if let Some(from) = table.connections.get(&self.number).map(|connection| connection.from) {
            table.handshakes.remove(self.number, from);
        }
    }

    /// The connection has said something.
    pub(crate) fn touch(&self, now: u64) {
        let mut table = self.limiter.lock();
        if let Some(from) = table.connections.get(&self.number).map(|connection| connection.from) {
            table.admission.touch(self.number, from, now);
        }
    }

    /// From now on the number of such connections is bounded elsewhere.
    pub(crate) fn hand_over(&mut self) {
        let mut table = self.limiter.lock();
        table.remove(self.number);
        table.unlimited += 1;
        self.is_unlimited = true;
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut table = self.limiter.lock();
        if self.is_unlimited {
            table.unlimited -= 1;
        } else {
            table.remove(self.number);
        }
    }
}

impl Table {
    /// Whether one more may come; those that have to go for it are ended.
    fn admit(
        &mut self,
        limiter: &ConnectionLimiter,
        limits: &Streams,
        is_tls: bool,
        from: IpAddr,
        now: u64,
    ) -> Result<(), Event> {
        let shares = Shares { per_host: limits.most_per_host, per_network: limits.most_per_net };
        if is_tls {
            self.take_handshake(limits.handshake_rate, now)?;
            let is_full = self.handshakes.len() >= MAX_HANDSHAKES;
            let victim = self.handshakes.admit(from, shares, is_full, now).map_err(event)?;
            self.evict(limiter, victim);
        }
        let is_full = self.connections.len() >= limits.most;
        let victim = self.admission.admit(from, shares, is_full, now).map_err(event)?;
        self.evict(limiter, victim);
        Ok(())
    }

    /// One TLS handshake of those that there may be in a second, or in a burst as large.
    fn take_handshake(&mut self, rate: u32, now: u64) -> Result<(), Event> {
        const SECOND: u64 = 1_000_000_000;
        let Some(interval) = SECOND.checked_div(rate.into()) else { return Ok(()) };
        let had = self.handshakes_had.max(now) + interval;
        if had > now + SECOND {
            return Err(Event::HandshakesTooFast);
        }
        self.handshakes_had = had;
        Ok(())
    }

    fn evict(&mut self, limiter: &ConnectionLimiter, number: Option<u64>) {
        let Some(connection) = number.and_then(|number| self.remove(number)) else { return };
        limiter.count(Event::Evicted);
        connection.task.iter().for_each(AbortHandle::abort);
    }

    fn insert(&mut self, from: IpAddr, is_tls: bool, now: u64) -> u64 {
        self.numbered += 1;
        self.connections.insert(self.numbered, Connection { from, task: None });
        self.admission.insert(self.numbered, from, now);
        if is_tls {
            self.handshakes.insert(self.numbered, from, now);
        }
        self.numbered
    }

    fn remove(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        self.admission.remove(number, connection.from);
        self.handshakes.remove(number, connection.from);
        Some(connection)
    }

    fn open(&self) -> u64 {
        (self.connections.len() + self.unlimited) as u64
    }
}

fn event(refused: Refused) -> Event {
    match refused {
        Refused::HostFull => Event::HostFull,
        Refused::TooFast => Event::TooFast,
        Refused::NoRoom => Event::Full,
    }
}

#[cfg(test)]
mod tests;
