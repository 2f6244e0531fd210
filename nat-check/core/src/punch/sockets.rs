//! The UDP sockets of an attempt: opened as rounds need them, all received on at once, counted. Nothing leaves them but
//! to whom the attempt's [`Contacts`] admit.

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

use shared::stun::{Class, Dialect, TransactionId, View, Writer};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::contacts::Contacts;
use crate::{
    net::{Datagram, Net},
    randomness::RandomSource,
    receive::Receiver,
};

/// Opens, sends, receives.
pub(super) struct Sockets {
    net: Arc<dyn Net>,
    contacts: Contacts,
    sockets: Vec<Arc<dyn Datagram>>,
    receivers: JoinSet<()>,
    arriving: mpsc::Sender<Arrival>,
    arrived: mpsc::Receiver<Arrival>,
    /// What came while something else was waited for.
    early: VecDeque<Arrival>,
    errors: Arc<AtomicU32>,
    sent: u32,
    random: RandomSource,
    /// For choices that anybody may guess.
    choices: fastrand::Rng,
}

/// A datagram that came in.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) socket: usize,
    pub(super) from: SocketAddr,
    pub(super) bytes: Vec<u8>,
    pub(super) at: Instant,
}

/// A socket that has asked a server endpoint for its external one.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) socket: usize,
    /// What was answered.
    pub(super) at: Option<SocketAddr>,
    ids: Vec<TransactionId>,
}

/// Datagrams that may wait; a flood is cut off here.
const QUEUE: usize = 1024;
/// What is longer is nobody's packet of an attempt, nor a response of a server.
const LONGEST: usize = 600;
/// How long the system may take to send a datagram.
const SENDING: Duration = Duration::from_secs(1);
/// Sockets that are tried when a server does not answer.
const SOCKETS: usize = 2;
/// How long responses of one server endpoint are waited for, one request after the other, before it counts as silent:
/// where a tenth of all packets is lost in each direction, that happens once in 20,000 times.
const TIMEOUTS_MS: [u64; 6] = [250, 400, 600, 900, 1300, 1800];

impl Sockets {
    pub(super) fn new(
        net: Arc<dyn Net>,
        contacts: Contacts,
        random: RandomSource,
        choices: fastrand::Rng,
    ) -> Self {
        let (arriving, arrived) = mpsc::channel(QUEUE);
        Self {
            net,
            contacts,
            sockets: Vec::new(),
            receivers: JoinSet::new(),
            arriving,
            arrived,
            early: VecDeque::new(),
            errors: Arc::default(),
            sent: 0,
            random,
            choices,
        }
    }

    /// Opens a socket that sends from this address, on a random port.
    pub(super) async fn open(&mut self, ip: IpAddr) -> io::Result<usize> {
        let socket: Arc<dyn Datagram> = self.net.bind(SocketAddr::new(ip, 0)).await?.into();
        let number = self.sockets.len();
        let receiver = Receiver::new(Arc::clone(&socket));
        self.receivers.spawn(receive(receiver, number, self.arriving.clone(), Arc::clone(&self.errors)));
        self.sockets.push(socket);
        Ok(number)
    }

    /// Opens a socket that this server endpoint answers, and gives its external endpoint. Servers rightly keep quiet
    /// towards the ports of services that can be made to echo, so a socket that hears nothing is given up for another one.
    pub(super) async fn open_seen(&mut self, ip: IpAddr, server: SocketAddr) -> Option<(usize, SocketAddr)> {
        for _ in 0..SOCKETS {
            let socket = self.open(ip).await.ok()?;
            if let Some(at) = self.external(socket, server).await {
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

    /// Sends, if packets may go there.
    pub(super) async fn send(&mut self, socket: usize, datagram: &[u8], to: SocketAddr) {
        let Some(socket) = self.sockets.get(socket) else { return };
        if !self.contacts.admit(to) {
            tracing::debug!(%to, "not to be contacted, or no more than before");
            return;
        }
        self.sent += 1;
        let sent = timeout(SENDING, socket.send_to(datagram, to)).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            self.errors.fetch_add(1, Ordering::Relaxed);
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
    pub(super) async fn external(&mut self, socket: usize, server: SocketAddr) -> Option<SocketAddr> {
        let id = self.transaction_id()?;
        let mut request = [0; 64];
        let length = Writer::new(&mut request, Class::Request, &id).finish().ok()?;
        for wait in TIMEOUTS_MS {
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

    /// Asks a server endpoint for the external endpoint of a socket, and waits for nothing.
    pub(super) async fn ask(&mut self, socket: usize, server: SocketAddr) -> Asked {
        let mut asked = Asked { socket, at: None, ids: Vec::new() };
        self.ask_again(&mut asked, server).await;
        asked
    }

    async fn ask_again(&mut self, asked: &mut Asked, server: SocketAddr) {
        let Some(id) = self.transaction_id() else { return };
        let mut request = [0; 64];
        let Ok(length) = Writer::new(&mut request, Class::Request, &id).finish() else { return };
        asked.ids.push(id);
        self.send(asked.socket, &request[..length], server).await;
    }

    /// Waits for what these are answered; those that are not ask again, so many passes in all.
    pub(super) async fn endpoints(&mut self, asked: &mut [Asked], server: SocketAddr, passes: usize) {
        for (pass, wait) in TIMEOUTS_MS.into_iter().take(passes).enumerate() {
            for one in asked.iter_mut().filter(|one| pass > 0 && one.at.is_none()) {
                self.ask_again(one, server).await;
            }
            self.hear(asked, Duration::from_millis(wait)).await;
        }
    }

    /// Waits for what these are answered, at most so long.
    pub(super) async fn hear(&mut self, asked: &mut [Asked], wait: Duration) {
        let deadline = Instant::now() + wait;
        while asked.iter().any(|one| one.at.is_none()) {
            let Ok(Some(arrival)) = timeout_at(deadline, self.arrived.recv()).await else { break };
            let view = View::parse(&arrival.bytes).ok();
            let seen = view.and_then(|view| Some((view.id(), view.mapped()?)));
            let answered =
                seen.and_then(|(id, at)| Some((asked.iter_mut().find(|one| one.ids.contains(&id))?, at)));
            match answered {
                Some((one, at)) => one.at = Some(at),
                None if self.early.len() < QUEUE => self.early.push_back(arrival),
                None => {}
            }
        }
    }

    /// Packets sent so far.
    pub(super) fn sent(&self) -> u32 {
        self.sent
    }

    /// Errors that came back so far.
    pub(super) fn errors(&self) -> u32 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Whom packets may go to.
    pub(super) fn contacts(&self) -> &Contacts {
        &self.contacts
    }

    /// Notes that this address has answered, with what only a packet to it can have shown.
    pub(super) fn answered(&mut self, from: IpAddr) {
        self.contacts.answered(from);
    }

    /// A transaction id that nobody can predict.
    pub(super) fn transaction_id(&mut self) -> Option<TransactionId> {
        self.random.transaction_id(Dialect::Modern).ok()
    }

    /// For choices that anybody may guess.
    pub(super) fn choices(&mut self) -> &mut fastrand::Rng {
        &mut self.choices
    }
}

/// Receives on one socket until the attempt is over.
async fn receive(
    mut receiver: Receiver,
    socket: usize,
    arriving: mpsc::Sender<Arrival>,
    errors: Arc<AtomicU32>,
) {
    while let Some(received) = receiver.next().await {
        match received {
            Ok((bytes, from)) if bytes.len() <= LONGEST => {
                let arrival = Arrival { socket, from, bytes: bytes.to_vec(), at: Instant::now() };
                // What does not fit is lost, as in any queue.
                _ = arriving.try_send(arrival);
            }
            Ok(_) => {}
            Err(_) => _ = errors.fetch_add(1, Ordering::Relaxed),
        }
    }
}
