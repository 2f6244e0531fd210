//! STUN over TCP and TLS (RFC 8489 section 6.2.2), and introductions on the same ports: one thread with its own runtime,
//! so that nothing that happens to a connection delays a datagram.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::{
    limited_stream::Limited,
    page::{self, PageCounts},
    rendezvous::{Counts, Rendezvous},
    shared_state::Shared,
    test_session::{TestCounts, TestSessions},
    topology::Endpoint,
};

mod connection;
mod connection_limiter;
mod events;
mod tls;
mod tls_record_limiter;
mod web_socket;

pub(crate) use connection_limiter::ConnectionLimiter;
use connection_limiter::ConnectionSlot;
use events::Event;
pub use events::StreamCounts;
pub use tls::TlsError;
pub(crate) use tls::identity;
use tls_record_limiter::{MAX_HELD, TlsRecordLimiter, readable};

/// The certificate and key that new connections get; replaced as a whole.
pub(crate) type Identity = Arc<ServerConfig>;

/// What is to be served; each listener stands at the position of its endpoint.
#[derive(Default)]
pub(crate) struct Services {
    /// By family.
    pub tcp: Vec<Vec<TcpListener>>,
    /// By family.
    pub tls: Vec<Vec<TcpListener>>,
    pub identity: Option<Identity>,
    /// ConnectionLimiter on introductions, if there are to be any.
    pub rendezvous: Option<crate::rendezvous::SessionLimits>,
    /// Test sessions, if there are to be any.
    pub test_sessions: Option<Arc<TestSessions>>,
    /// The sockets of the page for browsers, by family; none without it.
    pub page: Option<page::Sockets>,
}

/// The thread that serves them.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    identity: Arc<Mutex<Option<Identity>>>,
    limiter: Arc<ConnectionLimiter>,
    rendezvous: Option<Arc<Rendezvous>>,
    test_sessions: Option<Arc<TestSessions>>,
    page: Option<Arc<page::Driver>>,
    thread: JoinHandle<()>,
}

/// What operators may look at.
#[derive(Clone)]
pub(crate) struct Observed {
    pub(crate) limiter: Arc<ConnectionLimiter>,
    pub(crate) rendezvous: Option<Arc<Rendezvous>>,
    pub(crate) test_sessions: Option<Arc<TestSessions>>,
    pub(crate) page: Option<Arc<page::Driver>>,
}

/// Over what a connection came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Tcp,
    Tls,
}

impl Transport {
    /// What a connection costs, in answers.
    const fn cost(self) -> u32 {
        match self {
            Self::Tcp => CONNECTION_COST,
            Self::Tls => TLS_CONNECTION_COST,
        }
    }
}

/// Everything that a listener's task needs.
#[derive(Clone)]
struct Context {
    shared: Arc<Shared>,
    limiter: Arc<ConnectionLimiter>,
    rendezvous: Option<Arc<Rendezvous>>,
    test_sessions: Option<Arc<TestSessions>>,
    page: Option<Arc<page::Driver>>,
    identity: Arc<Mutex<Option<Identity>>>,
    stop: watch::Receiver<bool>,
    drain: Duration,
    /// Held by everybody who serves a connection.
    running: mpsc::Sender<Infallible>,
}

/// Where a listener stands.
#[derive(Clone, Copy)]
struct ListenerEndpoint {
    transport: Transport,
    family: usize,
    at: Endpoint,
}

/// How long accepting rests after a failure such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long clients may take to hear that the server ends, when the time of the drain is over.
const STOP_NOTICE_TIMEOUT: Duration = Duration::from_secs(1);
/// What a connection over TCP costs, in answers.
const CONNECTION_COST: u32 = 5;
/// What one over TLS costs: signing takes as long as a thousand answers.
const TLS_CONNECTION_COST: u32 = 50;
/// What a measurement of a browser costs besides its connection: as much as one over TLS.
const PAGE_COST: u32 = 50;
/// Asked for, for each direction of a connection: messages are small, and what waits in the system counts as well.
const SOCKET_BUFFER: usize = 16 * 1024;
/// How often the thread shows that it lives.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(250);

/// Starts the thread. It ends when told to, after the connections have ended or their time is over.
pub(crate) fn start(mut services: Services, shared: Arc<Shared>, drain: Duration) -> io::Result<Running> {
    let (stop, stopped) = watch::channel(false);
    let limiter = Arc::new(ConnectionLimiter::default());
    let identity = Arc::new(Mutex::new(services.identity.clone()));
    let rendezvous = services.rendezvous.map(Rendezvous::new);
    let test_sessions = services.test_sessions.clone();
    let (running, ended) = mpsc::channel(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let page = {
        let _inside = runtime.enter();
        let Services { page, .. } = &mut services;
        page.take().map(|sockets| page::Driver::start(sockets, Arc::clone(&shared))).transpose()?
    };
    let context = Context {
        shared,
        limiter: Arc::clone(&limiter),
        rendezvous: rendezvous.clone(),
        test_sessions: services.test_sessions.clone(),
        page: page.clone(),
        identity: Arc::clone(&identity),
        stop: stopped,
        drain,
        running,
    };
    let thread = std::thread::Builder::new()
        .name("streams".into())
        .spawn(move || runtime.block_on(serve(services, context, ended)))?;
    Ok(Running { stop, identity, limiter, rendezvous, test_sessions, page, thread })
}

impl Running {
    pub(crate) fn replace_identity(&self, identity: Identity) {
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = Some(identity);
    }

    pub(crate) fn counts(&self) -> StreamCounts {
        self.limiter.counts()
    }

    pub(crate) fn introductions(&self) -> Option<Counts> {
        self.rendezvous.as_ref().map(|r| r.counts())
    }

    pub(crate) fn test_sessions(&self) -> Option<TestCounts> {
        self.test_sessions.as_ref().map(|sessions| sessions.counts())
    }

    pub(crate) fn page(&self) -> Option<PageCounts> {
        self.page.as_ref().map(|page| page.counts())
    }

    /// What operators may look at.
    pub(crate) fn observed(&self) -> Observed {
        Observed {
            limiter: Arc::clone(&self.limiter),
            rendezvous: self.rendezvous.clone(),
            test_sessions: self.test_sessions.clone(),
            page: self.page.clone(),
        }
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        // A thread that panicked has said so on standard error.
        _ = self.thread.join();
    }
}

impl Context {
    /// A slot for a connection that has just come, or none.
    fn admit(&self, listener: ListenerEndpoint, from: SocketAddr) -> Option<ConnectionSlot> {
        if self.is_self_check(listener.family, from) {
            return Some(ConnectionLimiter::enter_unlimited(&self.limiter));
        }
        let current = self.shared.current();
        let mut limits = current.streams;
        if current.http.is_proxy(from.ip()) {
            // Its clients have their limits; it has none but the room that there is.
            (limits.most_per_host, limits.most_per_net) = (usize::MAX, usize::MAX);
        } else if !self.take(listener.family, from, listener.transport.cost()) {
            // The connection is closed at once: it must not cost what the limits protect.
            self.limiter.count(Event::TooFast);
            return None;
        }
        let now = self.shared.clock.now();
        ConnectionLimiter::enter(&self.limiter, &limits, listener.transport, from, now)
    }

    /// Whether this source may have what costs so much.
    fn take(&self, family: usize, from: SocketAddr, cost: u32) -> bool {
        let buckets = &self.shared.stream_buckets[family];
        self.is_self_check(family, from)
            || buckets.take(&self.shared.current().limits, from, cost, self.shared.clock.now()).is_ok()
    }

    fn is_self_check(&self, family: usize, from: SocketAddr) -> bool {
        let topologies = &self.shared.current().topologies;
        topologies.get(family).is_some_and(|own| self.shared.self_check.asks_from(own, from))
    }
}

async fn serve(services: Services, context: Context, mut ended: mpsc::Receiver<Infallible>) {
    let mut tasks = JoinSet::new();
    for (transport, families) in [(Transport::Tcp, services.tcp), (Transport::Tls, services.tls)] {
        for (family, listeners) in families.into_iter().enumerate() {
            for (listener, at) in listeners.into_iter().zip(Endpoint::ALL) {
                tasks.spawn(accept(listener, ListenerEndpoint { transport, family, at }, context.clone()));
            }
        }
    }
    let counters = context.shared.new_counters(0);
    tokio::spawn(async move {
        loop {
            counters.beat();
            time::sleep(HEARTBEAT_INTERVAL).await;
        }
    });
    let mut stop = context.stop.clone();
    _ = stop.wait_for(|stop| *stop).await;
    let (rendezvous, drain) = (context.rendezvous.clone(), context.drain);
    let test_sessions = context.test_sessions.clone();
    drop(context);
    if let Some(rendezvous) = &rendezvous {
        rendezvous.close();
    }
    if let Some(sessions) = &test_sessions {
        sessions.close();
    }
    let all_ended = async {
        while tasks.join_next().await.is_some() {}
        // Nobody ever says anything there: it ends when the last one has.
        ended.recv().await;
    };
    tokio::pin!(all_ended);
    if time::timeout(drain, &mut all_ended).await.is_err() {
        if let Some(rendezvous) = &rendezvous {
            rendezvous.end();
        }
        _ = time::timeout(STOP_NOTICE_TIMEOUT, all_ended).await;
    }
}

/// Takes connections until the server is to stop, then waits for the open ones.
async fn accept(listener: TcpListener, endpoint: ListenerEndpoint, context: Context) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let socket = SockRef::from(&listener);
    // Connections inherit them. A system that grants less, or more, has its reasons.
    _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    let mut connections = JoinSet::new();
    let mut stop = context.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
            _ = stop.wait_for(|stop| *stop) => break,
        };
        match accepted {
            Ok((stream, from)) => {
                let Some(slot) = context.admit(endpoint, from) else { continue };
                let handle = slot.handle();
                let task = connections.spawn(connection(stream, from, endpoint, context.clone(), slot));
                handle.set_task(task);
            }
            Err(_) => {
                context.limiter.count(Event::AcceptFailed);
                time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    from: SocketAddr,
    endpoint: ListenerEndpoint,
    context: Context,
    slot: ConnectionSlot,
) {
    // Answers are small and complete: waiting for more to send would only delay them.
    _ = stream.set_nodelay(true);
    let slow = context.shared.current().streams.slow;
    match endpoint.transport {
        Transport::Tcp => connection::serve(stream, from, endpoint, context, slot).await,
        Transport::Tls => {
            let identity = context.identity.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Some(identity) = identity else { return };
            let handshake = TlsAcceptor::from(identity)
                .accept_with(Limited::new(stream, TlsRecordLimiter::new()), |tls| {
                    tls.set_buffer_limit(Some(MAX_HELD))
                });
            match time::timeout_at(Instant::now() + slow, handshake).await {
                Ok(Ok(stream)) => {
                    slot.handshake_done();
                    // Boxed, because its state is large and would be there once for every place that it is handed to.
                    connection::serve(Box::new(readable(stream)), from, endpoint, context, slot).await;
                }
                Ok(Err(_)) => context.limiter.count(Event::TlsFailed),
                Err(_) => context.limiter.count(Event::Slow),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Streams, limits::Limits, shared_state::Current, topology::Topology};

    pub(super) fn context() -> Context {
        let topology = Topology::new([192, 0, 2, 100].into(), None, (3478, 3479));
        let current = Current {
            topologies: vec![topology],
            tls: Vec::new(),
            limits: Limits::default(),
            streams: Streams::default(),
            http: Arc::default(),
            page_topologies: Vec::new(),
            page: None,
        };
        Context {
            shared: Arc::new(Shared::new(current, 1, false).unwrap()),
            limiter: Arc::default(),
            rendezvous: None,
            test_sessions: None,
            page: None,
            identity: Arc::default(),
            stop: watch::channel(false).1,
            drain: Duration::ZERO,
            running: mpsc::channel(1).0,
        }
    }

    fn from(ip: &str) -> SocketAddr {
        SocketAddr::new(ip.parse().unwrap(), 40000)
    }

    /// How many of these it may have at once.
    pub(super) fn at_once(context: &Context, from: SocketAddr, cost: u32) -> usize {
        (0..10_000).take_while(|_| context.take(0, from, cost)).count()
    }

    #[test]
    fn forged_datagrams_take_nothing_from_the_connections_of_a_victim() {
        let context = context();
        let (victim, limits, now) = (from("198.51.100.7"), Limits::default(), context.shared.clock.now());
        while context.shared.buckets[0].admit(&limits, victim, now).is_ok() {}
        assert!(at_once(&context, victim, 1) >= limits.host_burst as usize);
        while context.shared.buckets[0].admit(&limits, from("198.51.100.8"), now).is_ok() {}
        assert!(at_once(&context, from("198.51.100.9"), CONNECTION_COST) >= 100, "nor from its network");
    }

    #[test]
    fn what_costs_the_server_more_costs_the_client_more() {
        // Time passes while it is counted, so a few more than the burst are fair.
        let count = |ip, cost| at_once(&context(), from(ip), cost);
        assert!((200..300).contains(&count("198.51.100.7", CONNECTION_COST)));
        assert!((20..30).contains(&count("198.51.100.7", TLS_CONNECTION_COST)));
        assert!((20..30).contains(&count("2001:db8::7", TLS_CONNECTION_COST)));
    }
}
