//! Introduces two clients that want to punch: the messages of [`shared::rendezvous`] over a WebSocket, on the very port
//! that STUN over TCP has.
//!
//! It speaks only on connections that clients opened, so the source addresses are proven, and sends nothing
//! to an address that somebody merely names. Sessions live in memory and are bounded in number, size and time.

mod room_member;
mod rooms;
mod store;
#[cfg(test)]
mod tests;
mod wrong_codes;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use shared::rendezvous::{PATH, Refusal, ToClient, ToServer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{
    Error, Message, Utf8Bytes,
    protocol::{CloseFrame, frame::coding::CloseCode},
};

use crate::http::{self, HttpOptions, Site, Socket};
pub use rooms::{Entrance, RoomLimits, RoomMember, Rooms};
pub use store::{Delivery, MemoryStore, Opened, Participant, SessionLimits, SessionStore};
use wrong_codes::WrongCodes;

/// The rendezvous of one server: its sessions, and the clients that are connected to it.
#[derive(Debug)]
pub struct Rendezvous {
    state: Mutex<State>,
    started: Instant,
}

struct State {
    sessions: Box<dyn SessionStore>,
    mailboxes: HashMap<Participant, mpsc::Sender<Box<ToClient>>>,
    counts: Counts,
    wrong_codes: WrongCodes,
    rooms: Rooms,
    /// How the members of rooms are told that there is something for them.
    stirs: HashMap<RoomMember, Arc<Notify>>,
    is_closing: bool,
}

/// What a first message has led to.
enum Place {
    Session(Participant),
    Room(RoomMember, Arc<Notify>),
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("sessions", &self.sessions.count()).finish_non_exhaustive()
    }
}

/// How a client's time in a session ended.
enum End {
    /// It left, or its peer did.
    Over,
    /// It did not take what was said to it.
    Stuck,
    Refused(Refusal),
}

impl From<Refusal> for End {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
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
    /// Rooms made.
    pub rooms_made: u64,
    /// Clients that have entered a room.
    pub entered: u64,
    /// Sessions there are now.
    pub sessions: u64,
    /// Rooms there are now.
    pub rooms: u64,
    /// Members in them.
    pub members: u64,
}

/// How long a client may take to say what it wants, or to take what is said to it.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Messages that may wait for a client; whoever says more than it takes is cut off.
const MAILBOX: usize = 8;

impl Rendezvous {
    /// A rendezvous without sessions. Its clock starts now.
    #[must_use]
    pub fn new(limits: SessionLimits) -> Arc<Self> {
        Self::over(Box::new(MemoryStore::new(limits)), limits.rooms)
    }

    /// The same with sessions that are kept elsewhere. Rooms are always this server's own.
    #[must_use]
    pub fn over(sessions: Box<dyn SessionStore>, rooms: RoomLimits) -> Arc<Self> {
        let state = State {
            sessions,
            mailboxes: HashMap::new(),
            counts: Counts::default(),
            wrong_codes: WrongCodes::default(),
            rooms: Rooms::new(rooms),
            stirs: HashMap::new(),
            is_closing: false,
        };
        Arc::new(Self { state: Mutex::new(state), started: Instant::now() })
    }

    /// Serves one connection, from the HTTP request that opens the WebSocket to the end, and gives why the client was
    /// refused, if it was. The client is told where the server answers STUN over UDP (`stun`), so that one that came by
    /// one family finds the other.
    pub async fn serve<S>(
        self: &Arc<Self>,
        stream: S,
        from: SocketAddr,
        stun: Vec<SocketAddr>,
    ) -> Option<Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let options = HttpOptions::default();
        let site = Site { options: &options, paths: &[PATH], page: None, tls_port: None };
        let opened = http::serve(Vec::new(), stream, from.ip(), &site).await?;
        let welcome = ToClient::Welcome { stun, page: false };
        self.introduce(opened.socket, opened.client, welcome, || {}).await
    }

    /// The same from the WebSocket on. `admitted` is called when the client has a place in a session: from then on its
    /// number is bounded here and no longer by the listener.
    pub(crate) async fn introduce<S>(
        self: &Arc<Self>,
        mut socket: Socket<S>,
        from: IpAddr,
        welcome: ToClient,
        admitted: impl FnOnce() + Send,
    ) -> Option<Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (outbox, mut inbox) = mpsc::channel(MAILBOX);
        let end = match self.admit(&mut socket, from.to_canonical(), outbox).await {
            Ok(Place::Room(member, stir)) => {
                admitted();
                self.be_member(&mut socket, member, &stir, &welcome).await
            }
            Ok(Place::Session(participant)) => {
                admitted();
                // Ends the session even if this task is stopped half-way.
                let _guard = Guard { rendezvous: Arc::clone(self), participant };
                match write(&mut socket, &welcome).await {
                    true => self.converse(&mut socket, participant, &mut inbox).await,
                    false => End::Stuck,
                }
            }
            Err(end) => end,
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

    /// Tells the client why, and closes the WebSocket.
    async fn close_socket<S>(&self, mut socket: Socket<S>, end: End) -> Option<Refusal>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let (refusal, code) = match end {
            End::Over => (None, CloseCode::Normal),
            // It has had its time, and would not take the refusal either.
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

    /// The server is about to end: clients whose peer has not come are told, and nobody new is let in. Pairs may go on.
    pub fn close(&self) {
        self.dismiss(|mailboxes, participant| !mailboxes.contains_key(&participant.peer()));
    }

    /// The server ends now: all clients are told.
    pub fn end(&self) {
        self.dismiss(|_, _| true);
    }

    fn dismiss(
        &self,
        whom: impl Fn(&HashMap<Participant, mpsc::Sender<Box<ToClient>>>, Participant) -> bool,
    ) {
        let mut state = self.lock();
        state.is_closing = true;
        let members = state.rooms.end(Refusal::Stopping);
        state.stir(members);
        let participants =
            state.mailboxes.keys().copied().filter(|participant| whom(&state.mailboxes, *participant));
        let message = ToClient::Refused { reason: Refusal::Stopping };
        let told =
            participants.map(|participant| Delivery { participant, message: message.clone() }).collect();
        // Who does not even read this is cut off in any case.
        _ = state.deliver(told);
    }

    /// What has happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let state = self.lock();
        let (rooms, members) = state.rooms.count();
        let sessions = state.sessions.count() as u64;
        Counts { sessions, rooms: rooms as u64, members: members as u64, ..state.counts }
    }

    /// The first message decides: a new session, one that waits, or a room. Whoever leaves without one has found what it wants
    /// over TLS.
    async fn admit<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: &mut Socket<S>,
        from: IpAddr,
        outbox: mpsc::Sender<Box<ToClient>>,
    ) -> Result<Place, End> {
        let heard = timeout(CLIENT_TIMEOUT, read(socket)).await.map_err(|_| Refusal::Expired)?;
        let text = heard.ok_or(End::Over)??;
        let message = ToServer::first(&text)?;
        let entropy = getrandom::u64().map_err(|_| Refusal::Full)?;
        let now = self.now();
        let mut state = self.lock();
        if state.is_closing {
            return Err(Refusal::Stopping.into());
        }
        match message {
            ToServer::Open { .. } => {
                let opened = state.sessions.open(from, entropy, now)?;
                state.counts.opened += 1;
                let seconds = u32::try_from(opened.wait.as_secs()).unwrap_or(u32::MAX);
                state.mailboxes.insert(opened.participant, outbox);
                let message = ToClient::Waiting { code: opened.code, seconds };
                let mut told = opened.deliveries;
                told.push(Delivery { participant: opened.participant, message });
                // Whose mailbox is full is cut off; that is not the doing of who has just come.
                _ = state.deliver(told);
                Ok(Place::Session(opened.participant))
            }
            ToServer::Join { code, .. } => {
                if !state.wrong_codes.may_try(from, now) {
                    return Err(Refusal::TooFast.into());
                }
                let joined = state.sessions.join(code, from, now);
                // A session that ended before its guest came is not the guest's fault.
                if joined == Err(Refusal::UnknownCode) && !state.rooms.has_given(code) {
                    state.wrong_codes.charge(from, now);
                }
                let (participant, told) = joined?;
                state.counts.paired += 1;
                state.mailboxes.insert(participant, outbox);
                _ = state.deliver(told);
                Ok(Place::Session(participant))
            }
            ToServer::Enter { room, .. } => state.enter(room, from, entropy, now),
            ToServer::Ping { .. }
            | ToServer::Ready { .. }
            | ToServer::Available { .. }
            | ToServer::Invite { .. }
            | ToServer::Result { .. }
            | ToServer::PeerPing { .. }
            | ToServer::PeerPong { .. } => Err(Refusal::BadMessage.into()),
        }
    }

    /// Passes messages in both directions until one side ends it, or says what it may not.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        socket: &mut Socket<S>,
        participant: Participant,
        inbox: &mut mpsc::Receiver<Box<ToClient>>,
    ) -> End {
        loop {
            let deadline = self.lock().sessions.deadline(participant);
            let until = deadline.map(|at| self.started + at);
            tokio::select! {
                biased;
                message = inbox.recv() => {
                    // A mailbox that overflowed is closed: whoever said too much has been cut off.
                    let message = message.unwrap_or(Box::new(ToClient::PeerLeft));
                    match *message {
                        ToClient::Refused { reason } => return End::Refused(reason),
                        ToClient::Paired { .. } => socket.get_mut().limit_mut().allow_payloads(),
                        _ => {}
                    }
                    if !write(socket, &message).await {
                        return End::Stuck;
                    }
                    if *message == ToClient::PeerLeft {
                        return End::Over;
                    }
                }
                text = read(socket) => {
                    let said = match text {
                        Some(text) => text.and_then(|text| self.say(participant, &text)),
                        None => return End::Over,
                    };
                    if let Err(refusal) = said {
                        return End::Refused(refusal);
                    }
                    // However much there is to be read, the peer takes what it was told before.
                    tokio::task::yield_now().await;
                }
                () = tokio::time::sleep_until(until.unwrap_or(self.started)), if until.is_some() => {
                    // It may have become later meanwhile.
                    if self.lock().sessions.deadline(participant).is_none_or(|at| at <= self.now()) {
                        return End::Refused(Refusal::Expired);
                    }
                }
            }
        }
    }

    fn say(&self, participant: Participant, text: &str) -> Result<(), Refusal> {
        let message = ToServer::parse(text).map_err(|_| Refusal::BadMessage)?;
        let now = self.now();
        let mut state = self.lock();
        let told = state.sessions.handle(participant, message, text.len(), now)?;
        state.deliver(told)
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
    /// Puts messages into mailboxes. One that is full is closed, and its client told so in the end.
    ///
    /// # Errors
    /// When one was full: whoever said this says more than is taken.
    fn deliver(&mut self, told: Vec<Delivery>) -> Result<(), Refusal> {
        let mut all = Ok(());
        for Delivery { participant, message } in told {
            let full =
                self.mailboxes.get(&participant).is_some_and(|m| m.try_send(Box::new(message)).is_err());
            if full {
                self.mailboxes.remove(&participant);
                all = Err(Refusal::TooMuch);
            }
        }
        all
    }
}

/// A client's place, given back when it is dropped.
struct Guard {
    rendezvous: Arc<Rendezvous>,
    participant: Participant,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.rendezvous.lock();
        let told = state.sessions.leave(self.participant);
        state.mailboxes.remove(&self.participant);
        _ = state.deliver(told);
    }
}

/// The next message; none when the connection has ended.
pub(crate) async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
) -> Option<Result<Utf8Bytes, Refusal>> {
    loop {
        return match socket.next().await {
            Some(Ok(Message::Text(text))) => Some(Ok(text)),
            Some(Ok(Message::Binary(_))) => Some(Err(Refusal::BadMessage)),
            // The library answers pings.
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
            Some(Ok(Message::Close(_))) => None,
            Some(Err(Error::Utf8(_))) => Some(Err(Refusal::BadMessage)),
            Some(Err(_)) | None => socket.get_ref().limit().exceeded().map(Err),
        };
    }
}

/// Whether the client took it in time.
pub(crate) async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
    message: &impl Serialize,
) -> bool {
    let Ok(text) = serde_json::to_string(message) else { return false };
    matches!(timeout(CLIENT_TIMEOUT, socket.send(Message::text(text))).await, Ok(Ok(())))
}
