//! The UDP sockets of an attempt: opened as rounds need them, all received on at once, counted.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use shared::stun::{Class, TransactionId, View, Writer};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::net::{Datagram, Net};

/// Opens, sends, receives.
pub(super) struct Post {
    net: Arc<dyn Net>,
    sockets: Vec<Arc<dyn Datagram>>,
    receivers: JoinSet<()>,
    arriving: mpsc::Sender<Arrival>,
    arrived: mpsc::Receiver<Arrival>,
    /// What came while something else was waited for.
    early: VecDeque<Arrival>,
    refused: Arc<AtomicU32>,
    sent: u32,
    rng: fastrand::Rng,
}

/// A datagram that came in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) socket: usize,
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) at: Instant,
}

/// Datagrams that may wait; a flood is cut off here.
const QUEUE: usize = 1024;
/// Longest datagram that is read.
const DATAGRAM: usize = 600;
/// Sockets that are tried when a server does not answer.
const SOCKETS: usize = 2;
/// How long answers to requests to one server endpoint are waited for, one after the other, before it counts as silent:
/// where a tenth of all packets is lost in each direction, that happens once in 20,000 times.
const WAITS_MS: [u64; 6] = [250, 400, 600, 900, 1300, 1800];

impl Post {
    pub(super) fn new(net: Arc<dyn Net>, seed: u64) -> Self {
        let (arriving, arrived) = mpsc::channel(QUEUE);
        Self {
            net,
            sockets: Vec::new(),
            receivers: JoinSet::new(),
            arriving,
            arrived,
            early: VecDeque::new(),
            refused: Arc::default(),
            sent: 0,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Opens a socket that sends from this address, on a random port.
    pub(super) async fn open(&mut self, ip: IpAddr) -> io::Result<usize> {
        let socket: Arc<dyn Datagram> = self.net.bind(SocketAddr::new(ip, 0)).await?.into();
        let number = self.sockets.len();
        self.receivers.spawn(receive(
            Arc::clone(&socket),
            number,
            self.arriving.clone(),
            Arc::clone(&self.refused),
        ));
        self.sockets.push(socket);
        Ok(number)
    }

    /// Opens a socket that this server endpoint answers, and tells its external endpoint. Servers rightly keep quiet towards
    /// the ports of services that can be made to echo, so a socket that hears nothing gives way to another one.
    pub(super) async fn open_seen(&mut self, ip: IpAddr, server: SocketAddr) -> Option<(usize, SocketAddr)> {
        for _ in 0..SOCKETS {
            let socket = self.open(ip).await.ok()?;
            if let Some(at) = self.ask(socket, server).await {
                return Some((socket, at));
            }
        }
        None
    }

    /// The local endpoint of a socket.
    pub(super) fn local(&self, socket: usize) -> Option<SocketAddr> {
        self.sockets.get(socket)?.local_addr().ok()
    }

    pub(super) fn set_ttl(&self, socket: usize, ttl: u32) {
        // Where the system cannot, packets go all the way, as they do without the attempt to stop them.
        if let Some(Err(error)) = self.sockets.get(socket).map(|s| s.set_ttl(ttl)) {
            tracing::debug!(%error, "the time to live cannot be set");
        }
    }

    pub(super) async fn send(&mut self, socket: usize, datagram: &[u8], to: SocketAddr) {
        let Some(socket) = self.sockets.get(socket) else { return };
        self.sent += 1;
        if let Err(error) = socket.send_to(datagram, to).await {
            self.refused.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%to, %error, "not sent");
        }
    }

    /// The next datagram, whatever it is.
    pub(super) async fn receive(&mut self) -> Arrival {
        match self.early.pop_front() {
            Some(arrival) => arrival,
            // The sender lives in self: it cannot end.
            None => match self.arrived.recv().await {
                Some(arrival) => arrival,
                None => std::future::pending().await,
            },
        }
    }

    /// The external endpoint of a socket as this server endpoint sees it.
    pub(super) async fn ask(&mut self, socket: usize, server: SocketAddr) -> Option<SocketAddr> {
        let id = TransactionId::modern(&mut self.rng);
        let mut request = [0; 64];
        let length = Writer::new(&mut request, Class::Request, &id).finish().ok()?;
        for wait in WAITS_MS {
            self.send(socket, &request[..length], server).await;
            let deadline = Instant::now() + Duration::from_millis(wait);
            while let Ok(arrival) = timeout_at(deadline, self.arrived.recv()).await {
                let arrival = arrival?;
                let seen = View::parse(&arrival.bytes).ok().filter(|view| view.id() == id);
                match seen.and_then(|view| view.mapped()) {
                    Some(mapped) => return Some(mapped),
                    None if self.early.len() < QUEUE => self.early.push_back(arrival),
                    None => {}
                }
            }
        }
        None
    }

    /// Packets sent so far.
    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// Errors that came back so far.
    pub(super) fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn rng(&mut self) -> &mut fastrand::Rng {
        &mut self.rng
    }
}

/// Receives on one socket until the attempt is over.
async fn receive(
    datagram: Arc<dyn Datagram>,
    socket: usize,
    arriving: mpsc::Sender<Arrival>,
    refused: Arc<AtomicU32>,
) {
    let mut buffer = [0; DATAGRAM];
    let mut failures = 0;
    while failures < 100 {
        match datagram.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                failures = 0;
                let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                let arrival = Arrival { socket, from, bytes: buffer[..length].to_vec(), at: Instant::now() };
                // What does not fit is lost, as in any queue.
                _ = arriving.try_send(arrival);
            }
            Err(_) => {
                failures += 1;
                refused.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    }
}
