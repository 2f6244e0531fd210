//! Introduces two clients that want to punch: the messages of [`shared::rendezvous`] over a WebSocket, on the very port
//! that STUN over TCP has.
//!
//! It speaks only on connections that clients opened, so the way back is proven before a word is said, and sends nothing
//! to an address that somebody merely names. Sessions live in memory and are bounded in number, size and time.

mod prefixed;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use shared::rendezvous::{
    Delivery, Limits, MAX_MESSAGE, Memory, PATH, Refusal, Seat, Sessions, ToClient, ToServer, VERSION,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async_with_config,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
        protocol::WebSocketConfig,
    },
};

pub(crate) use prefixed::Prefixed;

/// The meeting place of one server.
#[derive(Debug)]
pub struct Rendezvous {
    state: Mutex<State>,
    started: Instant,
}

struct State {
    sessions: Box<dyn Sessions>,
    mailboxes: HashMap<Seat, mpsc::Sender<Box<ToClient>>>,
    counts: Counts,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("sessions", &self.sessions.count()).finish_non_exhaustive()
    }
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sessions begun.
    pub opened: u64,
    /// Sessions that a second client joined.
    pub paired: u64,
    /// Clients refused, for whatever reason.
    pub refused: u64,
    /// Sessions there are now.
    pub sessions: u64,
}

/// How long a client may take to say what it wants, or to take what is said to it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages that may wait for a client; one that takes them slower is cut off.
const MAILBOX: usize = 8;
/// Sessions are many and their messages small: the library's own sizes would cost a quarter of a megabyte each.
const BUFFER: usize = 512;

impl Rendezvous {
    /// A meeting place with nobody in it. Its clock starts now.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Self::over(Box::new(Memory::new(limits)))
    }

    /// The same with sessions that are kept elsewhere.
    #[must_use]
    pub fn over(sessions: Box<dyn Sessions>) -> Arc<Self> {
        let state = State { sessions, mailboxes: HashMap::new(), counts: Counts::default() };
        Arc::new(Self { state: Mutex::new(state), started: Instant::now() })
    }

    /// Serves one connection, from the HTTP request that begins the WebSocket to the end. The client is told where the
    /// server answers STUN over UDP (`stun`), so that one that came by one family finds the other. `seated` is called when
    /// it has a place in a session: from then on its number is bounded here and no longer by the listener.
    pub async fn serve<S>(
        self: &Arc<Self>,
        stream: S,
        from: SocketAddr,
        stun: Vec<SocketAddr>,
        seated: impl FnOnce() + Send,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let Some(mut socket) = greet(stream).await else { return };
        let (outbox, mut inbox) = mpsc::channel(MAILBOX);
        let seat = match self.admit(&mut socket, from.ip().to_canonical(), outbox).await {
            Ok(seat) => seat,
            Err(refusal) => return self.refuse(&mut socket, refusal).await,
        };
        seated();
        // Ends the session even if this task is stopped half-way.
        let _guard = Guard { rendezvous: Arc::clone(self), seat };
        if !write(&mut socket, &ToClient::Here { stun }).await {
            return;
        }
        if let Some(refusal) = self.converse(&mut socket, seat, &mut inbox).await {
            self.refuse(&mut socket, refusal).await;
        }
        _ = timeout(PATIENCE, socket.close(None)).await;
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        Counts { sessions: state.sessions.count() as u64, ..state.counts }
    }

    /// The first message decides: a new session, or one that waits. No message at all: none.
    async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: &mut WebSocketStream<S>,
        from: IpAddr,
        outbox: mpsc::Sender<Box<ToClient>>,
    ) -> Result<Seat, Refusal> {
        let message = timeout(PATIENCE, read(socket)).await.ok().flatten();
        let Some((message, _)) = message.transpose()? else { return Err(Refusal::Expired) };
        let entropy = getrandom::u64().map_err(|_| Refusal::Full)?;
        let now = self.now();
        let mut state = self.lock();
        match message {
            ToServer::Open { version } | ToServer::Join { version, .. } if version != VERSION => {
                Err(Refusal::Version)
            }
            ToServer::Open { .. } => {
                let opened = state.sessions.open(from, entropy, now)?;
                state.counts.opened += 1;
                let seconds = u32::try_from(opened.wait.as_secs()).unwrap_or(u32::MAX);
                state.mailboxes.insert(opened.seat, outbox);
                let message = ToClient::Waiting { code: opened.code, seconds };
                state.deliver(vec![Delivery { seat: opened.seat, message }]);
                Ok(opened.seat)
            }
            ToServer::Join { code, .. } => {
                let (seat, told) = state.sessions.join(code, from, now)?;
                state.counts.paired += 1;
                state.mailboxes.insert(seat, outbox);
                state.deliver(told);
                Ok(seat)
            }
            ToServer::Ping { .. }
            | ToServer::Ready { .. }
            | ToServer::Probe { .. }
            | ToServer::Answer { .. } => Err(Refusal::Misplaced),
        }
    }

    /// Passes messages in both directions until one side ends it, or says what it may not.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: &mut WebSocketStream<S>,
        seat: Seat,
        inbox: &mut mpsc::Receiver<Box<ToClient>>,
    ) -> Option<Refusal> {
        loop {
            let deadline = self.lock().sessions.deadline(seat);
            let until = deadline.map(|at| self.started + at);
            tokio::select! {
                biased;
                message = inbox.recv() => {
                    // Without a sender the client took its messages too slowly.
                    let message = message?;
                    let last = matches!(*message, ToClient::Gone);
                    if !write(socket, &message).await || last {
                        return None;
                    }
                }
                message = read(socket) => {
                    let (message, size) = match message? {
                        Ok(message) => message,
                        Err(refusal) => return Some(refusal),
                    };
                    let now = self.now();
                    let mut state = self.lock();
                    match state.sessions.say(seat, message, size, now) {
                        Ok(told) => state.deliver(told),
                        Err(refusal) => return Some(refusal),
                    }
                }
                () = tokio::time::sleep_until(until.unwrap_or(self.started)), if until.is_some() => {
                    // It may have become later meanwhile.
                    if self.lock().sessions.deadline(seat).is_none_or(|at| at <= self.now()) {
                        return Some(Refusal::Expired);
                    }
                }
            }
        }
    }

    async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: &mut WebSocketStream<S>,
        reason: Refusal,
    ) {
        self.lock().counts.refused += 1;
        write(socket, &ToClient::Refused { reason }).await;
        _ = timeout(PATIENCE, socket.close(None)).await;
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn deliver(&mut self, told: Vec<Delivery>) {
        for Delivery { seat, message } in told {
            let full = self.mailboxes.get(&seat).is_some_and(|m| m.try_send(Box::new(message)).is_err());
            if full {
                self.mailboxes.remove(&seat);
            }
        }
    }
}

/// A client's place, given back when it is dropped.
struct Guard {
    rendezvous: Arc<Rendezvous>,
    seat: Seat,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.rendezvous.lock();
        let told = state.sessions.leave(self.seat);
        state.mailboxes.remove(&self.seat);
        state.deliver(told);
    }
}

/// The HTTP part.
async fn greet<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> Option<WebSocketStream<S>> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(MAILBOX * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    #[expect(clippy::result_large_err, reason = "the library asks for it")]
    let at_path = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        if request.uri().path() == PATH {
            return Ok(response);
        }
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        Err(refusal)
    };
    // Boxed, because its state is large and would stay with the connection for as long as that lasts.
    let greeting = Box::pin(accept_hdr_async_with_config(stream, at_path, Some(config)));
    timeout(PATIENCE, greeting).await.ok()?.ok()
}

/// The next message and its size; none when the connection has ended.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
) -> Option<Result<(ToServer, usize), Refusal>> {
    loop {
        return match socket.next().await?.ok()? {
            Message::Text(text) => {
                let message = serde_json::from_str(&text).map_err(|_| Refusal::Misplaced);
                Some(message.map(|message| (message, text.len())))
            }
            Message::Binary(_) => Some(Err(Refusal::Misplaced)),
            Message::Close(_) => None,
            // The library answers pings.
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
    }
}

/// Whether the client took it in time.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut WebSocketStream<S>,
    message: &ToClient,
) -> bool {
    let Ok(text) = serde_json::to_string(message) else { return false };
    matches!(timeout(PATIENCE, socket.send(Message::text(text))).await, Ok(Ok(())))
}
