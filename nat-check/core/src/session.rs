//! One server over one family: opens sockets, sends transactions, receives what comes, keeps the log and the round-trip
//! time. The only place of the engine that does I/O, always through [`Net`].

#[cfg(feature = "port-mapping")]
mod ipv6;
#[cfg(feature = "port-mapping")]
mod layers;
mod pace;
#[cfg(feature = "port-mapping")]
mod port_mapping;
mod receive;
mod request;
mod rtt;
mod send;
mod socket;
mod strangers;
mod tcp;
#[cfg(feature = "punch")]
mod test_session;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::{
    ports::is_reflector,
    stun::{Dialect, TransactionId},
};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{Instant, timeout_at},
};

use crate::{
    net::{Datagram, Net},
    observation::{LocalSocket, ObservationLog, Purpose, RequestKind, SocketId, Transaction},
    randomness::{NoRandomness, RandomSource, Randomness},
    server_endpoints::ServerEndpoints,
};
#[cfg(feature = "port-mapping")]
pub(crate) use port_mapping::OpenMapping;
pub use request::Request;
pub use rtt::Rtt;
pub use socket::{Contact, RetainedSockets, Socket};
use strangers::Strangers;
use tcp::TcpState;
#[cfg(feature = "punch")]
pub(crate) use test_session::{CallRequest, TestSession};

/// Packets that one check may send to one server, retransmissions included. The lifetime measurement, which has a pace
/// of its own, comes on top.
pub const BUDGET: usize = 150;
/// The same where much gets lost, and the server gives receipts: such a server is made for this, and loss takes its part
/// of what is sent.
pub const BUDGET_UNDER_LOSS: usize = 400;
/// The time between rounds of a test.
pub const ROUND_INTERVAL: Duration = Duration::from_millis(60);
/// A round-trip time from which on the way is long.
pub(crate) const FAR: Duration = Duration::from_secs(1);
/// Ports that are tried for one that servers talk to; nearly all are.
const PORTS: usize = 32;

/// What all measurements of one server over one family share.
pub struct Session {
    net: Arc<dyn Net>,
    server: SocketAddr,
    /// The address that packets to the server leave from.
    local_ip: IpAddr,
    bind: SocketAddr,
    started: Instant,
    /// Wakes in the order in which tasks began to wait, so that equal seeds give equal runs; a watch channel would
    /// wake them in a random one.
    changed: Notify,
    status: watch::Sender<(&'static str, String)>,
    state: Mutex<State>,
}

struct State {
    contact: Contact,
    log: ObservationLog,
    random: RandomSource,
    rtt: Option<Rtt>,
    rounds: u32,
    strangers: Strangers,
    retained: RetainedSockets,
    tcp: TcpState,
    #[cfg(feature = "port-mapping")]
    open_mappings: Vec<OpenMapping>,
    /// By [`SocketId`].
    sockets: Vec<Socket>,
    receivers: JoinSet<()>,
    /// Whether each measurement keeps to a budget and a pace of its own.
    unlimited: bool,
    /// Requests of mapping and filtering that wait for their turn: others have to wait for them.
    urgent: usize,
}

impl Session {
    /// Begins a session. `bind` is the local address to use, unspecified for any; its port, if not 0, is used by the
    /// mapping test. Transaction ids come from `randomness`.
    ///
    /// # Errors
    /// When there is no route to the server in this family.
    pub fn new(
        net: Arc<dyn Net>,
        server: SocketAddr,
        bind: SocketAddr,
        randomness: Randomness,
    ) -> io::Result<Arc<Self>> {
        let local_ip = if bind.ip().is_unspecified() { net.source_for(server)? } else { bind.ip() };
        Ok(Arc::new(Self {
            net,
            server,
            local_ip,
            bind,
            started: Instant::now(),
            changed: Notify::new(),
            status: watch::Sender::new(("", String::new())),
            state: Mutex::new(State {
                contact: Contact::Pending,
                log: ObservationLog::new(server),
                random: randomness.source(),
                rtt: None,
                rounds: 0,
                strangers: Strangers::default(),
                retained: RetainedSockets::default(),
                tcp: TcpState::default(),
                #[cfg(feature = "port-mapping")]
                open_mappings: Vec::new(),
                sockets: Vec::new(),
                receivers: JoinSet::new(),
                unlimited: false,
                urgent: 0,
            }),
        }))
    }

    /// The endpoint that was asked first, A1:P1.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// The address that packets to the server leave from.
    #[must_use]
    pub fn local_ip(&self) -> IpAddr {
        self.local_ip
    }

    /// The local port that the user wants, if any.
    #[must_use]
    pub fn forced_port(&self) -> Option<u16> {
        Some(self.bind.port()).filter(|&port| port != 0)
    }

    /// The network.
    #[must_use]
    pub fn net(&self) -> &Arc<dyn Net> {
        &self.net
    }

    /// Time since the session began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The moment that is `at` into the session.
    #[must_use]
    pub fn instant(&self, at: Duration) -> Instant {
        self.started + at
    }

    /// Opens a socket with a fresh random port.
    ///
    /// # Errors
    /// When the system has none to give.
    pub async fn open(self: &Arc<Self>) -> io::Result<Socket> {
        self.open_at(0).await
    }

    /// Opens a socket on a port of the user's choice.
    ///
    /// # Errors
    /// When it is taken, or not allowed.
    pub async fn open_at(self: &Arc<Self>, port: u16) -> io::Result<Socket> {
        // A host may have several addresses and choose among them by destination, which would look like a mapping
        // that depends on it. One address for all packets.
        let mut bound = self.net.bind(SocketAddr::new(self.local_ip, port)).await;
        // Servers do not talk to a few ports; where the system chose one of them, it is asked again.
        let mut tries = 0;
        while let Ok(datagram) = &bound
            && port == 0
            && tries < PORTS
            && datagram.local_addr().is_ok_and(|local| is_reflector(local.port()))
        {
            tries += 1;
            bound = self.net.bind(SocketAddr::new(self.local_ip, port)).await;
        }
        let datagram: Arc<dyn Datagram> = match bound {
            Ok(datagram) => datagram.into(),
            Err(error) => {
                self.lock().log.socket_error.get_or_insert(format!("no socket could be opened: {error}"));
                return Err(error);
            }
        };
        let local = SocketAddr::new(self.local_ip, datagram.local_addr()?.port());
        let mut state = self.lock();
        let id = SocketId(state.log.sockets.len());
        state.log.sockets.push(LocalSocket { local });
        state.receivers.spawn(receive::receive(Arc::downgrade(self), datagram.clone(), id));
        let socket = Socket { id, datagram };
        state.sockets.push(socket.clone());
        Ok(socket)
    }

    /// A socket that was opened before. All stay open until the end.
    #[must_use]
    pub fn socket(&self, id: SocketId) -> Option<Socket> {
        self.lock().sockets.get(id.0).cloned()
    }

    /// A number for what travels together.
    pub fn round(&self) -> u32 {
        let mut state = self.lock();
        state.rounds += 1;
        state.rounds
    }

    /// Counts these addresses as the server's: the user named them.
    pub(crate) fn named_by_user(&self, servers: impl IntoIterator<Item = IpAddr>) {
        let mut state = self.lock();
        servers.into_iter().for_each(|server| state.strangers.named_by_user(server));
    }

    /// A transaction id that nobody can predict.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn transaction_id(&self) -> Result<TransactionId, NoRandomness> {
        self.lock().random.transaction_id(Dialect::Modern)
    }

    /// Sets the time to live of what this socket sends from now on; whether that is possible.
    pub fn set_ttl(&self, socket: &Socket, ttl: u32) -> bool {
        socket.datagram.set_ttl(ttl).is_ok()
    }

    /// Reads the log.
    pub fn read<T>(&self, look: impl FnOnce(&ObservationLog) -> T) -> T {
        look(&self.lock().log)
    }

    /// Notes how long a TCP handshake with the server took.
    pub fn shook_hands(&self, took: Duration) {
        let now = self.now();
        let mut state = self.lock();
        state.log.handshake = Some(took);
        state.log.connected = Some(now);
    }

    /// Takes the log out at the end.
    #[must_use]
    pub fn finish(&self) -> ObservationLog {
        let timed_out_before = self.now().saturating_sub(self.response_timeout());
        let mut state = self.lock();
        state.receivers.abort_all();
        state.log.ended = self.started.elapsed();
        state.log.timed_out_before = timed_out_before;
        std::mem::replace(&mut state.log, ObservationLog::new(self.server))
    }

    /// Waits until what ran for it has let go of its sockets: after this they are closed when the session is dropped.
    pub async fn shut_down(&self) {
        let mut receivers = std::mem::take(&mut self.lock().receivers);
        receivers.shutdown().await;
    }

    /// Sockets that one measurement leaves for a later one.
    pub fn retained_sockets<T>(&self, change: impl FnOnce(&mut RetainedSockets) -> T) -> T {
        change(&mut self.lock().retained)
    }

    /// The round-trip time, once something came back.
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        self.lock().rtt
    }

    /// The round-trip time of the way. Where requests wait for one another at a bottleneck, the time that they spend there
    /// is our own doing; the quickest answer has waited least.
    #[must_use]
    pub fn path_rtt(&self) -> Option<Duration> {
        if self.has_queue() {
            self.read(ObservationLog::quickest)
        } else {
            self.rtt().map(|rtt| rtt.smoothed)
        }
    }

    /// Whether an exchange takes so long that what does not depend on its outcome should not wait for it.
    #[must_use]
    pub fn is_far(&self) -> bool {
        self.rtt().is_some_and(|rtt| rtt.smoothed >= FAR)
    }

    /// Whether a request to the server that is always answered was not.
    #[must_use]
    pub fn has_lost(&self) -> bool {
        let timed_out_before = self.now().saturating_sub(self.response_timeout());
        self.read(|log| log.controls(timed_out_before).any(|t| !t.returned()))
    }

    /// How long after sending an answer would have been here, whatever is queued before it. Before anything came back: a
    /// second.
    #[must_use]
    pub fn response_timeout(&self) -> Duration {
        self.lock().response_timeout()
    }

    /// Sets the longest idle time that the lifetime measurement is to look at.
    pub fn ask_lifetime(&self, longest: Option<Duration>) {
        self.lock().log.lifetime = longest;
    }

    /// The longest idle time that the lifetime measurement is to look at.
    #[must_use]
    pub fn lifetime(&self) -> Option<Duration> {
        self.lock().log.lifetime
    }

    /// Tells how far a long test has come, for whoever listens.
    pub fn report_status(&self, test: &'static str, so_far: String) {
        self.status.send_replace((test, so_far));
    }

    /// What is told from now on.
    pub(crate) fn status(&self) -> watch::Receiver<(&'static str, String)> {
        self.status.subscribe()
    }

    /// Notes that the machine was asleep.
    pub fn slept(&self, time: Duration) {
        self.lock().log.slept += time;
    }

    /// The server's endpoints, as far as it named them.
    #[must_use]
    pub fn endpoints(&self) -> ServerEndpoints {
        self.read(|log| ServerEndpoints::of(self.server, log))
    }

    /// Waits until something is known of the way to the server.
    pub async fn contact(&self) -> Contact {
        self.wait_for(|state| Some(state.contact).filter(|&contact| contact != Contact::Pending)).await
    }

    /// Waits until `look` finds what it looks for.
    async fn wait_for<T>(&self, look: impl Fn(&State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            if let Some(found) = look(&self.lock()) {
                return found;
            }
            changed.await;
        }
    }

    /// What is known of it by now.
    #[must_use]
    pub fn known_contact(&self) -> Contact {
        self.lock().contact
    }

    /// Declares what is known of the way to the server; the first word counts.
    pub fn declare(&self, contact: Contact) {
        let mut state = self.lock();
        if state.contact == Contact::Pending {
            state.contact = contact;
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// Waits until `done` says so, at the latest until `deadline`; asked again whenever something arrives. Tells
    /// whether it was done.
    pub async fn until(&self, deadline: Duration, mut done: impl FnMut(&ObservationLog) -> bool) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.read(&mut done) {
                return true;
            }
            if timeout_at(self.instant(deadline), changed).await.is_err() {
                return self.read(&mut done);
            }
        }
    }

    /// Waits until `done` says so, or until what was sent at `sent` must have been answered, which is later the longer
    /// others are found to take. Tells whether it was done.
    pub async fn until_due(&self, sent: Duration, mut done: impl FnMut(&ObservationLog) -> bool) -> bool {
        loop {
            let due = sent + self.response_timeout();
            if self.until(due, &mut done).await {
                return true;
            }
            if self.now() >= sent + self.response_timeout() {
                return false;
            }
        }
    }

    /// Repeats a Binding request from this socket until it is answered, and gives the external endpoint that the
    /// answer shows. Gives up after `tries`.
    pub async fn learn_external(
        &self,
        socket: &Socket,
        purpose: Purpose,
        to: SocketAddr,
        tries: u32,
    ) -> Option<SocketAddr> {
        let answered = |log: &ObservationLog| log.mapped(socket.id, to).is_some();
        for attempt in 1..=tries {
            self.turn(purpose).await;
            if self.read(answered) {
                break;
            }
            let round = self.round();
            self.send(socket, Request { purpose, to, kind: RequestKind::Binding, round }).await;
            let sent = self.now();
            if self.contact().await == Contact::None {
                return None;
            }
            if self.until_due(sent, answered).await {
                break;
            }
            // On a way that loses nothing, a socket that hears nothing three times never will: its external port may be
            // one that the server does not talk to.
            let timed_out_before = self.now().saturating_sub(self.response_timeout());
            let others_hear = |l: &ObservationLog| {
                l.controls(timed_out_before).filter(|t| t.socket != socket.id).all(Transaction::returned)
            };
            if attempt >= 3 && self.read(others_hear) {
                break;
            }
        }
        self.read(|log| log.mapped(socket.id, to))
    }

    fn handle_datagram(&self, datagram: &[u8], from: SocketAddr, on: SocketId) {
        let now = self.now();
        let mut state = self.lock();
        let State { log, rtt, strangers, .. } = &mut *state;
        let Some(transaction) = log.received(datagram, from, on, now) else {
            return;
        };
        strangers.answered(from.ip());
        if transaction.kind != RequestKind::Hairpin && transaction.first_reaction() == Some(now) {
            let sample = now - transaction.sent;
            *rtt = Some(rtt.map_or_else(|| Rtt::first(sample), |rtt| rtt.next(sample)));
        }
        // A classic answer does not settle the dialect: the modern one may only be late.
        let settled = transaction.kind != RequestKind::Hairpin
            && transaction.dialect == Dialect::Modern
            && transaction.successes().next().is_some();
        drop(state);
        if settled {
            self.declare(Contact::Udp(Dialect::Modern));
        }
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
