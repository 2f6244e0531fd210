//! The sockets of the page and its sessions: each WebSocket is one measurement, and what comes over UDP goes to the one that
//! it names.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use shared::{html, rendezvous::Refusal, stun::View};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UdpSocket,
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::tungstenite::{
    Message,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use super::{
    message::{FromPage, ToPage},
    observed::{Observed, Path},
    report::{self, Circumstances},
    session::{LONGEST, Received, Session, Transmit},
};
use crate::{
    http::Socket,
    last_heard::Unheard,
    shared_state::{Clock, Shared},
    source_filter::screen_source,
    topology::{Endpoint, Topology},
};

/// Sockets of the page by family, in the order of the endpoints.
pub(crate) type Sockets = Vec<crate::udp::Sockets>;

/// The sessions of one server, and the sockets that they share.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    sockets: Vec<[Option<UdpSocket>; 4]>,
    sessions: Mutex<HashMap<u32, mpsc::Sender<Datagram>>>,
    counters: Counters,
    started: Instant,
}

/// What has happened to the page so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageCounts {
    /// Measurements begun.
    pub begun: u64,
    /// Measurements that ended with a report.
    pub reported: u64,
    /// Browsers refused, for whatever reason.
    pub refused: u64,
    /// Datagrams received.
    pub received: u64,
    /// Datagrams that belong to no measurement, or from sources that get no answer.
    pub dropped: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Measurements that run now.
    pub sessions: u64,
}

#[derive(Debug, Default)]
struct Counters {
    begun: AtomicU64,
    reported: AtomicU64,
    refused: AtomicU64,
    received: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
}

/// A datagram on its way to a session.
#[derive(Debug)]
struct Datagram {
    family: usize,
    at: Endpoint,
    from: SocketAddr,
    bytes: Vec<u8>,
    unheard: Unheard,
}

/// Longest datagram that is looked at.
const MAX_DATAGRAM: usize = 548;
/// Datagrams that may wait for a session; what does not fit is lost, as in any queue.
const INBOX: usize = 64;
/// How long a page may take to say something, or to take what is said to it.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The sockets of the page on the endpoints of one family.
///
/// # Errors
/// When the operating system refuses one.
pub(crate) fn sockets(
    topology: &Topology,
    open: impl Fn(SocketAddr) -> io::Result<std::net::UdpSocket>,
) -> Result<crate::udp::Sockets, (SocketAddr, io::Error)> {
    let mut sockets = [const { None }; 4];
    for endpoint in topology.endpoints() {
        let Some(address) = topology.bound(endpoint) else { continue };
        sockets[endpoint.index()] = Some(open(address).map_err(|error| (address, error))?);
    }
    Ok(sockets)
}

impl Driver {
    /// Takes the sockets into the runtime that this is called in, and begins to read them.
    ///
    /// # Errors
    /// When the runtime refuses one.
    pub(crate) fn start(sockets: Sockets, shared: Arc<Shared>) -> io::Result<Arc<Self>> {
        let adopt = |set: [Option<std::net::UdpSocket>; 4]| {
            let mut adopted = [const { None }; 4];
            for (place, socket) in adopted.iter_mut().zip(set) {
                if let Some(socket) = socket {
                    socket.set_nonblocking(true)?;
                    *place = Some(UdpSocket::from_std(socket)?);
                }
            }
            Ok::<_, io::Error>(adopted)
        };
        let sockets: Vec<_> = sockets.into_iter().map(adopt).collect::<Result<_, _>>()?;
        let (sessions, counters, started) = (Mutex::default(), Counters::default(), Instant::now());
        let driver = Arc::new(Self { shared, sockets, sessions, counters, started });
        for family in 0..driver.sockets.len() {
            for at in Endpoint::ALL {
                if driver.sockets[family][at.index()].is_some() {
                    tokio::spawn(Arc::clone(&driver).read(family, at));
                }
            }
        }
        Ok(driver)
    }

    /// What has happened so far.
    pub(crate) fn counts(&self) -> PageCounts {
        let Counters { begun, reported, refused, received, dropped, sent } = &self.counters;
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        PageCounts {
            begun: get(begun),
            reported: get(reported),
            refused: get(refused),
            received: get(received),
            dropped: get(dropped),
            sent: get(sent),
            sessions: self.lock().len() as u64,
        }
    }

    /// Tells a page that there will be no measurement.
    pub(crate) async fn refuse<S>(&self, mut socket: Socket<S>, reason: Refusal)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        self.counters.refused.fetch_add(1, Relaxed);
        if say(&mut socket, &ToPage::Refused { reason }).await {
            let frame = CloseFrame { code: CloseCode::Policy, reason: "".into() };
            _ = timeout(PAGE_TIMEOUT, (*socket).close(Some(frame))).await;
        }
    }

    /// Measures the browser at the other end of this WebSocket, which came from `client` and asked for `host`.
    pub(crate) async fn measure<S>(
        &self,
        mut socket: Socket<S>,
        client: SocketAddr,
        host: &str,
        stun: &[SocketAddr],
        mut stop: watch::Receiver<bool>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut circumstances = Circumstances {
            started_at: humantime::format_rfc3339_seconds(
                std::time::UNIX_EPOCH + Duration::from_secs(Clock::unix()),
            )
            .to_string(),
            host: host.to_owned(),
            over_ipv4: client.ip().to_canonical().is_ipv4(),
            heard_over_stun: false,
        };
        let Some((mut session, mut inbox, place)) = self.begin(stun) else {
            return self.refuse(socket, Refusal::Full).await;
        };
        socket.get_mut().limit_mut().allow_payloads();
        let ended = self.converse(&mut socket, &mut session, &mut inbox, &mut stop).await;
        drop(place);
        match ended {
            Ok(()) => {
                let Some(observed) = session.outcome() else { return };
                circumstances.heard_over_stun = self.was_heard(client.ip().to_canonical(), observed);
                let report = report::of(observed, &circumstances);
                let html = html::fragment(&report, session.language());
                self.counters.reported.fetch_add(1, Relaxed);
                if say(&mut socket, &ToPage::Report { report: Box::new(report), html }).await {
                    _ = timeout(PAGE_TIMEOUT, (*socket).close(None)).await;
                }
            }
            Err(Some(reason)) => self.refuse(socket, reason).await,
            Err(None) => {}
        }
    }

    /// Whether a datagram of this host has come to the primary address since this session began.
    fn was_heard(&self, client: IpAddr, observed: &Observed) -> bool {
        let is_its = |ends: &Path| ends.endpoints.iter().flatten().any(|at| at.is_ipv4() == client.is_ipv4());
        let Some(family) = observed.paths.iter().position(is_its) else { return false };
        let Unheard(seconds) =
            self.shared.last_heard[family].unheard(client, Endpoint::Primary, self.shared.clock.now());
        u64::from(seconds) <= (observed.ended - observed.started).as_secs() + 1
    }

    /// A new session, and where its datagrams come in.
    fn begin(&self, stun: &[SocketAddr]) -> Option<(Session, mpsc::Receiver<Datagram>, Place<'_>)> {
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).ok()?;
        let (outbox, inbox) = mpsc::channel(INBOX);
        let tag = {
            let mut sessions = self.lock();
            // Nobody else has it: of four thousand million, a few thousand are taken at most.
            let tag = (0..8).filter_map(|_| getrandom::u32().ok()).find(|tag| !sessions.contains_key(tag))?;
            sessions.insert(tag, outbox);
            tag
        };
        let current = self.shared.current();
        let ends = |topology: &Topology| Endpoint::ALL.map(|at| topology.advertised(at));
        let endpoints = current.page_topologies.iter().map(ends).collect();
        let stun = stun.iter().filter(|at| at.is_ipv4()).map(|at| format!("stun:{at}")).collect();
        self.counters.begun.fetch_add(1, Relaxed);
        let session = Session::new(tag, &secret, endpoints, stun, self.started.elapsed());
        Some((session, inbox, Place { driver: self, tag }))
    }

    /// Runs the session to its end.
    async fn converse<S>(
        &self,
        socket: &mut Socket<S>,
        session: &mut Session,
        inbox: &mut mpsc::Receiver<Datagram>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<(), Option<Refusal>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        loop {
            session.advance(self.started.elapsed());
            for transmit in session.transmits() {
                self.send(&transmit);
            }
            for message in session.told() {
                if !say(socket, &message).await {
                    return Err(None);
                }
            }
            if session.outcome().is_some() {
                return Ok(());
            }
            tokio::select! {
                datagram = inbox.recv() => {
                    let Some(Datagram { family, at, from, bytes, unheard }) = datagram else { return Err(None) };
                    let received = Received { family, at, from, bytes: &bytes, unheard };
                    session.datagram(received, self.started.elapsed());
                }
                message = hear(socket) => {
                    let message = message?;
                    let taken = session.message(message, self.started.elapsed());
                    taken.map_err(|_| Some(Refusal::BadMessage))?;
                }
                () = sleep_until(self.started + session.deadline(self.started.elapsed())) => {}
                _ = stop.wait_for(|stop| *stop) => return Err(Some(Refusal::Stopping)),
            }
        }
    }

    /// Reads one socket for ever.
    async fn read(self: Arc<Self>, family: usize, at: Endpoint) {
        let Some(socket) = &self.sockets[family][at.index()] else { return };
        let mut buffer = [0; MAX_DATAGRAM + 1];
        loop {
            // An error is one datagram's: an ICMP message about one that was sent before.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                tokio::task::yield_now().await;
                continue;
            };
            self.counters.received.fetch_add(1, Relaxed);
            if !self.hand_over(family, at, from, &buffer[..length]) {
                self.counters.dropped.fetch_add(1, Relaxed);
            }
        }
    }

    /// Gives a datagram to the session that it names, if there is one.
    fn hand_over(&self, family: usize, at: Endpoint, from: SocketAddr, bytes: &[u8]) -> bool {
        let current = self.shared.current();
        let topologies = [&current.page_topologies[family], &current.topologies[family]];
        // Whatever it is: it may have opened a filter.
        let unheard = self.shared.last_heard[family].note(from.ip(), at, self.shared.clock.now());
        if bytes.len() > MAX_DATAGRAM || topologies.into_iter().any(|t| screen_source(t, from).is_err()) {
            return false;
        }
        let Some(tag) = View::parse(bytes).ok().and_then(|view| Session::tag_of(&view)) else { return false };
        let Some(session) = self.lock().get(&tag).cloned() else { return false };
        session.try_send(Datagram { family, at, from, bytes: bytes.to_vec(), unheard }).is_ok()
    }

    /// Sends what the limits of its receiver and of the whole server allow.
    fn send(&self, Transmit { family, from, to, bytes }: &Transmit) {
        let Some(socket) = &self.sockets[*family][from.index()] else { return };
        let (limits, now) = (self.shared.current().limits, self.shared.clock.now());
        let may = self.shared.egress.is_open(&limits, now)
            && self.shared.buckets[*family].admit(&limits, *to, now).is_ok();
        if may && socket.try_send_to(bytes, *to).is_ok() {
            let headers = if to.is_ipv4() { 28 } else { 48 };
            self.shared.egress.charge(&limits, (bytes.len() + headers) as u64, now);
            self.counters.sent.fetch_add(1, Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, mpsc::Sender<Datagram>>> {
        // Nothing that holds the lock can panic.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session's place in the list, given back when it is dropped.
struct Place<'a> {
    driver: &'a Driver,
    tag: u32,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.driver.lock().remove(&self.tag);
    }
}

/// The next message of the page.
async fn hear<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
) -> Result<FromPage, Option<Refusal>> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => {
                return serde_json::from_str(&text).map_err(|_| Some(Refusal::BadMessage));
            }
            Some(Ok(Message::Binary(_))) => return Err(Some(Refusal::BadMessage)),
            // The library answers pings.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
            Some(Ok(Message::Close(_))) | None => return Err(None),
            Some(Err(_)) => return Err(socket.get_ref().limit().exceeded()),
        }
    }
}

/// Whether the page took it in time.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>, message: &ToPage) -> bool {
    let Ok(text) = serde_json::to_string(message) else { return false };
    matches!(timeout(PAGE_TIMEOUT, socket.send(Message::text(text))).await, Ok(Ok(())))
}

/// No session lasts longer than a connection may rest.
const _: () = assert!(LONGEST.as_secs() < 30);
