//! Workers without batches, for every operating system: one thread a socket.

use std::{io, net::UdpSocket, sync::Arc, thread, time::Duration};

use super::{BatchContext, Sockets, Worker};
use crate::{
    drop_reason::DropReason,
    respond::{Answers, MAX_REQUEST},
    shared_state::{Held, Shared},
    topology::Endpoint,
};

/// How often a resting thread looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(100);
/// Datagrams that had come before the signal to stop and are still answered; not an endless flood.
const LAST: usize = 8192;

pub(super) fn spawn(
    family: usize,
    shared: &Arc<Shared>,
    sockets: Sockets,
) -> io::Result<Vec<thread::JoinHandle<()>>> {
    let sockets = Arc::new(sockets);
    let mut threads = Vec::new();
    for at in Endpoint::ALL {
        let Some(socket) = &sockets[at.index()] else { continue };
        // One that a predecessor left may not wait, as that one ended.
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(LOOK))?;
        // Counters have one writer, so each thread has its own set.
        let worker = Worker::new(family, shared);
        let sockets = Arc::clone(&sockets);
        let name = format!("udp-{family}-{}", at.index());
        threads.push(thread::Builder::new().name(name).spawn(move || run(&worker, &sockets, at))?);
    }
    Ok(threads)
}

fn run(worker: &Worker, sockets: &Sockets, at: Endpoint) {
    let Some(socket) = &sockets[at.index()] else { return };
    let mut held = Held::new(&worker.shared);
    let mut answers = Answers::new();
    // One byte more than is read: what fills it is too long.
    let mut buffer = [0; MAX_REQUEST + 1];
    let mut answer_one = || {
        let (length, from) = socket.recv_from(&mut buffer)?;
        worker.counters.batch();
        let mut batch = BatchContext::new(worker, held.get(&worker.shared));
        batch.take(at, from, &buffer[..length], &mut answers);
        for (leaves, to, bytes) in answers.iter() {
            send(worker, sockets[leaves.index()].as_ref(), bytes, to);
        }
        batch.finish();
        io::Result::Ok(())
    };
    while !worker.shared.is_stopping() {
        worker.counters.beat();
        // A rest of nothing, or an error that belongs to an earlier answer.
        _ = answer_one();
    }
    _ = socket.set_nonblocking(true);
    for _ in 0..LAST {
        if answer_one().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) {
            return;
        }
    }
}

fn send(worker: &Worker, socket: Option<&UdpSocket>, bytes: &[u8], to: std::net::SocketAddr) {
    let sent = socket.map(|socket| socket.send_to(bytes, to));
    if !matches!(sent, Some(Ok(_))) {
        worker.counters.dropped(DropReason::SendFailed, 1);
    }
}
