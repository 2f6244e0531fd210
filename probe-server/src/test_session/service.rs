//! The test sessions of one server: reads what clients say, has the rules judge it, and carries out what they allow.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use shared::test_session::{
    Decline, Nonce, PATH, Refusal, ServerAddress, Source, SourceAddress, ToClient, ToServer, Token, Welcome,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::{
    Attempt, Connect, ConnectBack, Hold, HoldOrder, Offer, Order, ServerSide, SessionTable, TestCounts,
    TestLimits, Trace, TracePort, echo::judge_attempt, rules::MAX_TRACE_WAIT, server_side::SOURCES,
};
use crate::{
    http::{self, HttpOptions, Site, Socket},
    rendezvous::{read, write},
    source_filter::is_clients_own,
};

/// All of them.
pub struct TestSessions {
    state: Mutex<State>,
    network: Arc<dyn ConnectBack>,
    limits: TestLimits,
    started: Instant,
}

struct State {
    table: SessionTable,
    links: HashMap<u64, Link>,
    counts: TestCounts,
    is_closing: bool,
}

/// What leads to the task of a session, and from it to its connections.
struct Link {
    mailbox: mpsc::Sender<ToClient>,
    connections: HashMap<u32, oneshot::Sender<HoldOrder>>,
}

/// A connection that proved a port: it may be asked to be held.
pub struct Proof {
    orders: Option<oneshot::Receiver<HoldOrder>>,
}

/// How a session ended.
enum End {
    /// The client left.
    Over,
    /// It did not take what was said to it.
    Stuck,
    Refused(Refusal),
}

/// How long a client may take to say what it wants, or to take what is said to it.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for a client: one for each port that it may prove, and a few more.
const MAILBOX: usize = 80;

impl TestSessions {
    /// None yet. Its clock starts now. Nothing is ever sent to `own_ports`.
    #[must_use]
    pub fn new(limits: TestLimits, own_ports: Vec<u16>, network: Arc<dyn ConnectBack>) -> Arc<Self> {
        let state = State {
            table: SessionTable::new(limits, own_ports),
            links: HashMap::new(),
            counts: TestCounts::default(),
            is_closing: false,
        };
        Arc::new(Self { state: Mutex::new(state), network, limits, started: Instant::now() })
    }

    /// Serves one connection, from the HTTP request that opens the WebSocket to the end, and gives why the client was
    /// refused, if it was.
    pub async fn serve<S>(
        self: &Arc<Self>,
        stream: S,
        from: SocketAddr,
        server: ServerSide,
    ) -> Option<Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let options = HttpOptions::default();
        let site = Site { options: &options, paths: &[PATH], page: None, tls_port: None };
        let opened = http::serve(Vec::new(), stream, from.ip(), &site).await?;
        if opened.is_proxied {
            return self.close_socket(opened.socket, End::Refused(Refusal::Proxied)).await;
        }
        self.converse_over(opened.socket, from, server, || {}).await
    }

    /// The same from the WebSocket on. `admitted` is called when
    /// the client has a session: from then on the number of its connections is bounded here and no longer by the listener.
    pub(crate) async fn converse_over<S>(
        self: &Arc<Self>,
        mut socket: Socket<S>,
        from: SocketAddr,
        server: ServerSide,
        admitted: impl FnOnce() + Send,
    ) -> Option<Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (mailbox, mut inbox) = mpsc::channel(MAILBOX);
        let end = match self.admit(&mut socket, from, &server, mailbox.clone()).await {
            Ok((session, welcome)) => {
                let token = welcome.token;
                admitted();
                // Ends the session even if this task is stopped half-way.
                let _guard = SessionGuard { sessions: Arc::clone(self), session };
                match write(&mut socket, &ToClient::Welcome(welcome)).await {
                    true => {
                        self.converse(&mut socket, (session, token), &server, (&mailbox, &mut inbox)).await
                    }
                    false => End::Stuck,
                }
            }
            Err(refusal) => End::Refused(refusal),
        };
        self.close_socket(socket, end).await
    }

    /// Refuses a client that has said nothing yet.
    pub(crate) async fn refuse<S>(&self, socket: Socket<S>, reason: Refusal)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        self.close_socket(socket, End::Refused(reason)).await;
    }

    /// A request with this token came from `at` to the server's endpoint `to`, over a connection.
    pub fn prove(&self, token: &Token, at: SocketAddr, to: SocketAddr) -> Option<Proof> {
        let now = self.now();
        let mut state = self.lock();
        let (session, connection) = state.table.prove(token, at, now)?;
        state.counts.proven += 1;
        let (order, orders) = oneshot::channel();
        let link = state.links.get_mut(&session)?;
        link.connections.insert(connection, order);
        // There is room for one of each port; who has not read those before does not miss it.
        _ = link.mailbox.try_send(ToClient::Proven { connection, at, to });
        Some(Proof { orders: Some(orders) })
    }

    /// The server is about to end: all clients are told, and nobody new is let in.
    pub fn close(&self) {
        let mut state = self.lock();
        state.is_closing = true;
        for link in state.links.values() {
            _ = link.mailbox.try_send(ToClient::Refused { reason: Refusal::Stopping });
        }
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> TestCounts {
        let state = self.lock();
        TestCounts { sessions: state.table.count() as u64, ..state.counts }
    }

    async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        socket: &mut Socket<S>,
        from: SocketAddr,
        server: &ServerSide,
        mailbox: mpsc::Sender<ToClient>,
    ) -> Result<(u64, Box<Welcome>), Refusal> {
        let text = timeout(CLIENT_TIMEOUT, read(socket)).await.ok().flatten().ok_or(Refusal::Expired)??;
        ToServer::first(&text)?;
        if !is_clients_own(&server.topology, from.ip()) || self.network.is_own(from.ip()) {
            return Err(Refusal::Proxied);
        }
        let (mut token, mut nonces) = (Token([0; 16]), Nonce([0; 16]));
        getrandom::fill(&mut token.0).map_err(|_| Refusal::Full)?;
        getrandom::fill(&mut nonces.0).map_err(|_| Refusal::Full)?;
        let [primary, alternate] = self.server_addresses(server);
        let primary = primary.ok_or(Refusal::Stopping)?;
        let has_pending = |address: Option<&ServerAddress>| address.is_some_and(|it| it.pending.is_some());
        let offer = Offer {
            alternate: alternate.is_some(),
            pending: [has_pending(Some(&primary)), has_pending(alternate.as_ref())],
        };
        let now = self.now();
        let mut state = self.lock();
        if state.is_closing {
            return Err(Refusal::Stopping);
        }
        let (session, victim) = state.table.open(from.ip(), offer, (token, nonces), now)?;
        if let Some(link) = victim.and_then(|victim| state.links.remove(&victim)) {
            _ = link.mailbox.try_send(ToClient::Refused { reason: Refusal::Full });
        }
        state.counts.opened += 1;
        state.links.insert(session, Link { mailbox, connections: HashMap::new() });
        let [hold_ms, trace_ms] = [self.limits.hold, MAX_TRACE_WAIT]
            .map(|longest| u32::try_from(longest.as_millis()).unwrap_or(u32::MAX));
        Ok((session, Box::new(Welcome { token, nonces, you: from, primary, alternate, hold_ms, trace_ms })))
    }

    /// Reads, judges and tells, until one side ends it.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        self: &Arc<Self>,
        socket: &mut Socket<S>,
        (session, token): (u64, Token),
        server: &ServerSide,
        (mailbox, inbox): (&mpsc::Sender<ToClient>, &mut mpsc::Receiver<ToClient>),
    ) -> End {
        // Dropped with the session, and with it all that is under way.
        let mut under_way = JoinSet::new();
        let mut trace_port: Option<Arc<dyn TracePort>> = None;
        loop {
            let deadline = self.lock().table.deadline(session);
            let until = self.started + deadline.unwrap_or_default();
            let message = tokio::select! {
                biased;
                Some(message) = inbox.recv() => message,
                Some(done) = under_way.join_next() => match done {
                    Ok(message) => message,
                    // A task that panicked has said so on standard error.
                    Err(_) => continue,
                },
                text = read(socket) => {
                    let Some(text) = text else { return End::Over };
                    match text.and_then(|text| self.judge(session, &text)) {
                        Ok(Order::Tell(message)) => message,
                        Ok(Order::Connect(order)) => {
                            under_way.spawn(self.connect(order, server, mailbox.clone()));
                            continue;
                        }
                        Ok(Order::Hold(order)) => match self.hold(session, order) {
                            Some(message) => message,
                            None => continue,
                        },
                        Ok(Order::TracePort(id)) => self.open_trace_port(id, server, &mut trace_port),
                        Ok(Order::Trace(order)) => {
                            under_way.spawn(self.trace(order, trace_port.clone()));
                            continue;
                        }
                        Err(refusal) => return End::Refused(refusal),
                    }
                }
                at = flow(trace_port.as_deref(), token) => {
                    if !self.lock().table.prove_flow(session, at) {
                        continue;
                    }
                    ToClient::Flow { at }
                }
                () = tokio::time::sleep_until(until) => return End::Refused(Refusal::Expired),
            };
            if let ToClient::Refused { reason } = message {
                return End::Refused(reason);
            }
            if !write(socket, &message).await {
                return End::Stuck;
            }
        }
    }

    fn judge(&self, session: u64, text: &str) -> Result<Order, Refusal> {
        let message = ToServer::parse(text).map_err(|_| Refusal::BadMessage)?;
        let now = self.now();
        let mut state = self.lock();
        let order = state.table.handle(session, &message, now)?;
        match order {
            Order::Connect(_) => state.counts.connects += 1,
            Order::Hold(_) => state.counts.holds += 1,
            Order::Tell(ToClient::Declined { .. }) => state.counts.declined += 1,
            Order::Trace(_) => state.counts.traces += 1,
            Order::Tell(_) | Order::TracePort(_) => {}
        }
        Ok(order)
    }

    /// Carries out a connect; what came of it.
    fn connect(
        self: &Arc<Self>,
        order: Connect,
        server: &ServerSide,
        mailbox: mpsc::Sender<ToClient>,
    ) -> impl Future<Output = ToClient> + Send + use<> {
        let guard = WorkGuard { sessions: Arc::clone(self), ip: order.to.ip(), work: Work::Connect };
        let addresses = SOURCES.map(|which| server.address(which));
        let network = Arc::clone(&self.network);
        async move {
            let _guard = guard;
            let Connect { id, to, from, source, nonce, after, wait } = order;
            let declined = ToClient::Declined { id, reason: Decline::NotOffered };
            let which = usize::from(from == SourceAddress::Alternate);
            let Some((bound, seen)) = addresses[which] else { return declined };
            let port = match source {
                Source::Ephemeral => Some(0),
                Source::Pending => {
                    let helpers = network.helper_ports(addresses.map(|address| Some(address?.0)));
                    helpers[which].pending.map(|pending| pending.port())
                }
            };
            let Some(port) = port else { return declined };
            sleep(after).await;
            // Who does not take what is told before this is cut off by then.
            _ = mailbox.send(ToClient::SynSent { id }).await;
            drop(mailbox);
            let attempted = network.connect(Attempt { from: SocketAddr::new(bound, port), to, wait }).await;
            let from = attempted.from.map(|from| SocketAddr::new(seen, from.port()));
            judge_attempt(id, attempted, from, nonce).await
        }
    }

    /// Asks a connection to be held; what is to be told if it cannot be.
    fn hold(self: &Arc<Self>, session: u64, hold: Hold) -> Option<ToClient> {
        let declined = ToClient::Declined { id: hold.id, reason: Decline::NoConnection };
        let (ip, link) = {
            let mut state = self.lock();
            let ip = state.table.address(session);
            let link = state.links.get_mut(&session);
            (ip, link.and_then(|it| Some((it.connections.remove(&hold.connection)?, it.mailbox.clone()))))
        };
        // Its end is counted even if the connection has ended meanwhile.
        let guard = WorkGuard { sessions: Arc::clone(self), ip: ip?, work: Work::Hold };
        let Some((connection, mailbox)) = link else { return Some(declined) };
        connection.send(HoldOrder { hold, mailbox, guard }).err().map(|_| declined)
    }

    /// Opens the session's trace port.
    fn open_trace_port(
        &self,
        id: u32,
        server: &ServerSide,
        trace_port: &mut Option<Arc<dyn TracePort>>,
    ) -> ToClient {
        let opened = server
            .address(SourceAddress::Primary)
            .and_then(|(bound, seen)| Some((self.network.trace_port(bound)?, seen)));
        let Some((port, seen)) = opened else {
            return ToClient::Declined { id, reason: Decline::NotOffered };
        };
        let at = SocketAddr::new(seen, port.port());
        *trace_port = Some(port);
        ToClient::TracePort { id, at }
    }

    /// Carries out a trace; what came of it.
    fn trace(
        self: &Arc<Self>,
        order: Trace,
        trace_port: Option<Arc<dyn TracePort>>,
    ) -> impl Future<Output = ToClient> + Send + use<> {
        let guard = WorkGuard { sessions: Arc::clone(self), ip: order.to.ip(), work: Work::Connect };
        async move {
            let _guard = guard;
            let Trace { id, to, ttls, wait } = order;
            match trace_port {
                Some(port) => ToClient::TraceResult { id, hops: port.trace(to, ttls, wait).await },
                None => ToClient::Declined { id, reason: Decline::NoFlow },
            }
        }
    }

    /// The addresses of the server as the client sees them.
    fn server_addresses(&self, server: &ServerSide) -> [Option<ServerAddress>; 2] {
        let addresses = SOURCES.map(|which| server.address(which));
        let helpers = self.network.helper_ports(addresses.map(|address| Some(address?.0)));
        let mut index = 0;
        SOURCES.map(|which| {
            let (address, helpers) = (addresses[index], helpers[index]);
            index += 1;
            let (_, seen) = address?;
            let seen_at = |port: SocketAddr| SocketAddr::new(seen, port.port());
            Some(ServerAddress {
                stun: server.stun(which),
                pending: helpers.pending.map(seen_at),
                closed: helpers.closed.map(seen_at),
            })
        })
    }

    /// Tells the client why, and closes the WebSocket.
    async fn close_socket<S>(&self, mut socket: Socket<S>, end: End) -> Option<Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (refusal, code) = match end {
            End::Over => (None, CloseCode::Normal),
            End::Stuck => return None,
            End::Refused(Refusal::Stopping) => (Some(Refusal::Stopping), CloseCode::Away),
            End::Refused(refusal) => (Some(refusal), CloseCode::Policy),
        };
        if let Some(reason) = refusal {
            self.lock().counts.refused += 1;
            if !write(&mut socket, &ToClient::Refused { reason }).await {
                return refusal;
            }
        }
        _ = timeout(CLIENT_TIMEOUT, (*socket).close(Some(CloseFrame { code, reason: "".into() }))).await;
        refusal
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Proof {
    /// Waits until the connection is to be held.
    pub async fn hold(&mut self) -> HoldOrder {
        if let Some(orders) = &mut self.orders
            && let Ok(order) = orders.await
        {
            self.orders = None;
            return order;
        }
        // The session is over.
        self.orders = None;
        std::future::pending().await
    }
}

/// Waits for a datagram with the token at the trace port.
async fn flow(trace_port: Option<&dyn TracePort>, token: Token) -> SocketAddr {
    match trace_port {
        Some(port) => port.flow(token).await,
        None => std::future::pending().await,
    }
}

/// A session's place, given back when it is dropped.
struct SessionGuard {
    sessions: Arc<TestSessions>,
    session: u64,
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        let mut state = self.sessions.lock();
        state.table.close(self.session);
        state.links.remove(&self.session);
    }
}

/// What counts as under way until it is dropped.
pub(super) struct WorkGuard {
    sessions: Arc<TestSessions>,
    ip: IpAddr,
    work: Work,
}

enum Work {
    Connect,
    Hold,
}

impl Drop for WorkGuard {
    fn drop(&mut self) {
        let mut state = self.sessions.lock();
        match self.work {
            Work::Connect => state.table.end_connect(self.ip),
            Work::Hold => state.table.end_hold(self.ip),
        }
    }
}
