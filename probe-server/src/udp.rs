//! The UDP workers: sockets around the pure function. A worker owns the sockets of one family and answers from
//! them; nothing on its way allocates, locks or logs, and the clock is read once a batch.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::Arc,
};

use crate::{
    counters::Counters,
    drop_reason::DropReason,
    last_heard::LastHeard,
    limits::{Buckets, Egress},
    respond::{Answers, respond},
    self_check::SelfCheck,
    shared_state::{Current, Shared},
    topology::Endpoint,
};

#[cfg(target_os = "linux")]
mod batched;
mod plain;

/// The sockets of one family, by [`Endpoint::index`]; one alone in single-address mode.
pub(crate) type Sockets = [Option<UdpSocket>; 4];

/// Everything that a worker works with besides its sockets.
struct Worker {
    /// Position of its family in the settings.
    family: usize,
    shared: Arc<Shared>,
    counters: Arc<Counters>,
}

impl Worker {
    /// One with counters of its own.
    fn new(family: usize, shared: &Arc<Shared>) -> Self {
        Self { family, shared: Arc::clone(shared), counters: shared.new_counters(family) }
    }
}

/// Starts the threads that serve these sockets of a family. They end when the shared stop signal is given.
pub(crate) fn spawn(
    family: usize,
    shared: &Arc<Shared>,
    sockets: Sockets,
    batch: usize,
) -> io::Result<Vec<std::thread::JoinHandle<()>>> {
    #[cfg(target_os = "linux")]
    if batch > 1 {
        return batched::spawn(Worker::new(family, shared), sockets, batch);
    }
    _ = batch;
    plain::spawn(family, shared, sockets)
}

/// What one batch of datagrams is judged by.
struct BatchContext<'a> {
    current: &'a Current,
    last_heard: &'a LastHeard,
    buckets: &'a Buckets,
    egress: &'a Egress,
    self_check: &'a SelfCheck,
    counters: &'a Counters,
    family: usize,
    now: u64,
    open: bool,
    sent: u64,
}

impl<'a> BatchContext<'a> {
    fn new(worker: &'a Worker, current: &'a Current) -> Self {
        let now = worker.shared.clock.now();
        let egress = &worker.shared.egress;
        BatchContext {
            current,
            last_heard: &worker.shared.last_heard[worker.family],
            buckets: &worker.shared.buckets[worker.family],
            egress,
            self_check: &worker.shared.self_check,
            counters: &worker.counters,
            family: worker.family,
            now,
            open: egress.is_open(&current.limits, now),
            sent: 0,
        }
    }

    /// Judges and answers one datagram; `out` holds what is to be sent, perhaps nothing.
    #[inline]
    fn take(&mut self, at: Endpoint, from: SocketAddr, datagram: &[u8], out: &mut Answers) {
        let unheard = self.last_heard.note(from.ip(), at, self.now);
        self.counters.received(at, datagram.len());
        let topology = &self.current.topologies[self.family];
        let outcome = respond(topology, at, from, unheard, datagram, out).and_then(|outcome| {
            if self.self_check.asks_from(topology, from) {
                return Ok(outcome);
            }
            self.buckets.admit(&self.current.limits, from, self.now)?;
            if self.open { Ok(outcome) } else { Err(DropReason::EgressCap) }
        });
        match outcome {
            Ok(outcome) => {
                let headers = if from.is_ipv4() { 28 } else { 48 };
                self.sent += (out.len() + headers) as u64;
                self.counters.answered(outcome, out.len());
            }
            Err(reason) => {
                out.clear();
                self.counters.dropped(reason, 1);
            }
        }
    }

    fn finish(self) {
        self.egress.charge(&self.current.limits, self.sent, self.now);
    }
}

#[cfg(test)]
mod tests;
