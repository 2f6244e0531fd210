//! Workers with batches: one thread waits for all sockets of a family, takes what has come in one system call and
//! sends the answers in one for each socket they leave from.

use std::{io, net::UdpSocket, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::{BatchContext, Sockets, Worker};
use crate::{
    batch::{Receiver, Sender},
    drop_reason::DropReason,
    respond::{Answers, MAX_REQUEST},
    shared_state::Held,
    topology::Endpoint,
};

/// How often one socket may be emptied before the others get their turn again.
const TURNS: usize = 8;
/// The same when the server is to stop: what waits in a socket's buffer, but not an endless flood.
const LAST_TURNS: usize = 256;
/// How often a resting thread shows that it lives.
const BEAT: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

pub(super) fn spawn(
    worker: Worker,
    sockets: Sockets,
    batch: usize,
) -> io::Result<Vec<thread::JoinHandle<()>>> {
    sockets.iter().flatten().try_for_each(|socket| socket.set_nonblocking(true))?;
    let name = format!("udp-{}", worker.family);
    let run = move || Batched::new(worker, sockets, batch).run();
    Ok(vec![thread::Builder::new().name(name).spawn(run)?])
}

struct Batched {
    worker: Worker,
    sockets: Sockets,
    held: Held,
    receiver: Receiver,
    sender: Sender,
    answers: Vec<Answers>,
}

impl Batched {
    fn new(worker: Worker, sockets: Sockets, batch: usize) -> Self {
        Self {
            held: Held::new(&worker.shared),
            receiver: Receiver::new(batch, MAX_REQUEST),
            // An answer and a receipt for each.
            sender: Sender::new(2 * batch),
            answers: vec![Answers::new(); batch],
            worker,
            sockets,
        }
    }

    fn run(mut self) {
        while !self.worker.shared.is_stopping() {
            self.worker.counters.beat();
            for at in self.wait().into_iter().flatten() {
                self.empty(at, TURNS);
            }
        }
        // What had come before the signal to stop is still answered.
        for at in Endpoint::ALL {
            self.empty(at, LAST_TURNS);
        }
    }

    /// Waits until something has come or the signal to stop is given; the endpoints that something has come to.
    ///
    /// Not by epoll, though that would be one call with less to pass: it stays in the wait queue of each socket, and
    /// the kernel then wakes it, under two locks, for every answer that has left.
    fn wait(&self) -> [Option<Endpoint>; 4] {
        let wake = PollFd::new(self.worker.shared.wake(), PollFlags::IN);
        let mut polled: [PollFd<'_>; 5] = std::array::from_fn(|_| wake.clone());
        let open = Endpoint::ALL.into_iter().filter_map(|at| Some((at, self.sockets[at.index()].as_ref()?)));
        for (entry, (_, socket)) in polled.iter_mut().zip(open.clone()) {
            *entry = PollFd::new(socket, PollFlags::IN);
        }
        let mut ready = [None; 4];
        // An interrupted wait is a wait that ended early: nothing is ready.
        if poll(&mut polled, Some(&BEAT)).is_ok() {
            for (entry, (at, _)) in polled.iter().zip(open) {
                ready[at.index()] = (!entry.revents().is_empty()).then_some(at);
            }
        }
        ready
    }

    /// Takes and answers what has come to one endpoint, until less than a whole batch comes.
    fn empty(&mut self, at: Endpoint, turns: usize) {
        for _ in 0..turns {
            let Some(socket) = &self.sockets[at.index()] else { return };
            let Ok(received) = self.receiver.receive(socket) else { return };
            self.worker.counters.batch();
            let mut batch = BatchContext::new(&self.worker, self.held.get(&self.worker.shared));
            let mut used = [false; 4];
            for (i, answers) in self.answers[..received].iter_mut().enumerate() {
                match self.receiver.get(i) {
                    Some((from, datagram)) => {
                        batch.take(at, from, datagram, answers);
                        answers.iter().for_each(|(leaves, _, _)| used[leaves.index()] = true);
                    }
                    None => {
                        answers.clear();
                        batch.counters.received(at, 0);
                        batch.counters.dropped(DropReason::Long, 1);
                    }
                }
            }
            batch.finish();
            for leaves in Endpoint::ALL.into_iter().filter(|e| used[e.index()]) {
                let from_here = self.answers[..received]
                    .iter()
                    .flat_map(Answers::iter)
                    .filter(|(from, _, _)| *from == leaves)
                    .map(|(_, to, bytes)| (to, bytes));
                send(&mut self.sender, self.sockets[leaves.index()].as_ref(), from_here, &self.worker);
            }
            if received < self.answers.len() {
                return;
            }
        }
    }
}

fn send<'a>(
    sender: &mut Sender,
    socket: Option<&UdpSocket>,
    messages: impl Iterator<Item = (std::net::SocketAddr, &'a [u8])>,
    worker: &Worker,
) {
    let Some(socket) = socket else { return };
    let failed = sender.send(socket, messages);
    if failed > 0 {
        worker.counters.dropped(DropReason::SendFailed, failed as u64);
    }
}
