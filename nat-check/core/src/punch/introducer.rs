//! The connection to the rendezvous of a probe server: a WebSocket over whatever network there is, with TLS where the
//! user wants it or the server offers it (RFC 7838, as opportunistic security in RFC 8164).
//! Whatever the server does, each step here ends in time and within bounds.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use shared::rendezvous::{
    Code, MAX_MESSAGE, PATH, Refusal, Role, ToClient, ToServer, VERSION, offered_tls, peer::PeerMessage,
    room::RoomName,
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, http::header::ALT_SVC, protocol::WebSocketConfig},
};

use super::secure::{Secure, TlsFault, Trust, UseTls};
use crate::{
    net::{Net, Stream},
    printable::printable,
    randomness::NoRandomness,
    target::Target,
};

/// How two clients talk to each other before they have a path of their own.
pub(super) struct Introducer {
    socket: WebSocketStream<Box<dyn Stream>>,
    server: SocketAddr,
    rtt: Duration,
    step: u32,
    /// Frames that may still come in.
    frames: u32,
    /// Where the server says that it answers STUN over UDP.
    stun: Vec<SocketAddr>,
    /// Scheme, name and port of the server, as a browser finds it.
    origin: String,
    /// Whether a browser can join there.
    has_page: bool,
    /// Why the connection is not encrypted, where the server offers that it is.
    unencrypted: Option<String>,
}

/// Both are here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paired {
    pub(super) role: Role,
    pub(super) you: std::net::IpAddr,
    pub(super) peer: std::net::IpAddr,
}

/// What ends an introduction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IntroError {
    /// No connection.
    #[error("no connection to the rendezvous at {server}: {reason}")]
    Unreachable {
        /// Where it was tried.
        server: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// A connection, but no TLS on it.
    #[error("the rendezvous at {server}: {fault}")]
    Tls {
        /// Where it was tried.
        server: SocketAddr,
        /// What is wrong.
        fault: TlsFault,
    },
    /// The server said no.
    #[error("the rendezvous refuses: {0}")]
    Refused(Refusal),
    /// It has no rooms.
    #[error("the rendezvous has no rooms: it is older than this program, or its operator does not want them")]
    NoRooms,
    /// Nobody came.
    #[error("no peer came within {0} s")]
    NoPeer(u64),
    /// The system gives no randomness for this side's secrets.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The connection broke.
    #[error("the connection to the rendezvous broke")]
    Broken,
    /// The server floods.
    #[error("the rendezvous sends more than any attempt needs")]
    Flood,
    /// The server, or the way to it, has stopped.
    #[error("the rendezvous has not answered for {0} s")]
    Stalled(u64),
    /// All of it took too long.
    #[error("the attempt took longer than {0} s")]
    TooLong(u64),
    /// The peer left.
    #[error("the peer has left")]
    Gone,
    /// The peer speaks in a way that this version does not understand.
    #[error("the peer sent a message that is not understood")]
    BadPeerMessage,
    /// The peer does not do its part.
    #[error("the peer has said nothing for {0} s")]
    Silent(u64),
}

/// How long a connection to the server may take: five SYNs may get lost.
const CONNECTING: Duration = Duration::from_secs(30);
/// How long TLS that the server offers may take beside the round trips: one SYN may get lost, and the server be busy.
const HANDSHAKE: Duration = Duration::from_secs(3);
/// How long the first of two addresses is tried alone.
const HEAD_START: Duration = Duration::from_millis(500);
/// How long the peer may be busy with a step.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection that waits says something so often, so that no gateway forgets it.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(30);
/// Round trips that are timed.
const PINGS: u32 = 3;
/// How long a round trip through the server may take.
const THROUGH_SERVER: Duration = Duration::from_secs(2);
/// Frames of the server that are read in all: several times what the longest attempt needs.
const MAX_FRAMES: u32 = 2000;
/// The same in a room, for the longest stay with as many others as may come in that time.
const MAX_ROOM_FRAMES: u32 = 20_000;
/// Longest message that is read, in bytes; ours and the server's are shorter than [`MAX_MESSAGE`].
const LONGEST_MESSAGE: usize = 4 * MAX_MESSAGE;
/// What may wait for a server that does not read, in bytes.
const MAX_UNSENT: usize = 16 * MAX_MESSAGE;

impl Introducer {
    /// Connects to the server, or to the one for TLS.
    pub(super) async fn connect(net: &dyn Net, target: &Target, tls: &UseTls) -> Result<Self, IntroError> {
        let host = match tls {
            UseTls::Always(secure) => {
                return Self::over(net, &secure.at, Some(secure), CONNECTING).await.map(|(it, _)| it);
            }
            UseTls::Never => None,
            UseTls::IfOffered(host) => Some(host),
        };
        let begun = Instant::now();
        let (plain, offered) = Self::over(net, target, None, CONNECTING).await?;
        let Some((host, port)) = host.zip(offered) else { return Ok(plain) };
        let server = SocketAddr::new(plain.server.ip(), port);
        // The server waits only so long for a first message; on a long way that would end the attempt over TLS.
        plain.leave().await;
        match Self::as_offered(net, server, host, begun.elapsed()).await {
            Ok(introducer) => Ok(introducer),
            Err(reason) => {
                let (mut plain, _) = Self::over(net, target, None, CONNECTING).await?;
                plain.unencrypted = Some(format!(
                    "the connection to the rendezvous is not encrypted, although the server offers TLS at {server}: {reason}"
                ));
                Ok(plain)
            }
        }
    }

    /// Why the connection is not encrypted, where the server offers that it is.
    pub(super) fn unencrypted(&self) -> Option<&String> {
        self.unencrypted.as_ref()
    }

    /// Over TLS where the server has offered it. Connecting without TLS took `plain`.
    async fn as_offered(
        net: &dyn Net,
        server: SocketAddr,
        host: &str,
        plain: Duration,
    ) -> Result<Self, String> {
        let trust = Trust::system().map_err(|error| error.to_string())?;
        let secure = Secure::new(host, Target::at(server), trust).map_err(|error| error.to_string())?;
        // TLS 1.3 takes one round trip more than what was done without it; a firewall may let one port out only.
        let within = HANDSHAKE + 2 * plain;
        match Self::over(net, &secure.at, Some(&secure), within).await {
            Ok((introducer, _)) => Ok(introducer),
            Err(IntroError::Tls { fault, .. }) => Err(fault.to_string()),
            Err(IntroError::Unreachable { reason, .. }) => Err(reason),
            Err(other) => Err(other.to_string()),
        }
    }

    /// One connection, and the port at which the server offers TLS.
    async fn over(
        net: &dyn Net,
        at: &Target,
        tls: Option<&Secure>,
        within: Duration,
    ) -> Result<(Self, Option<u16>), IntroError> {
        let servers = [at.v4, at.v6].into_iter().flatten().collect::<Vec<_>>();
        // A target always has an address.
        let first = *servers.first().ok_or(IntroError::Broken)?;
        let connecting = async {
            let (server, stream) = dial(net, &servers).await?;
            let (stream, authority) = match tls {
                Some(tls) => {
                    let secured = tls.greet(stream).await;
                    (secured.map_err(|fault| IntroError::Tls { server, fault })?, tls.authority(server))
                }
                None => (stream, server.to_string()),
            };
            let origin = format!("{}://{authority}", if tls.is_some() { "https" } else { "http" });
            // The scheme only says how the library would have connected: that has been done.
            let url = format!("ws://{authority}{PATH}");
            let connected = client_async_with_config(url, stream, Some(limits())).await;
            let (socket, response) = connected.map_err(|e| no_rendezvous(server, &e, tls))?;
            let offered = response.headers().get(ALT_SVC).and_then(|value| offered_tls(value.to_str().ok()?));
            let introducer = Self {
                socket,
                server,
                rtt: Duration::ZERO,
                step: 0,
                frames: MAX_FRAMES,
                stun: Vec::new(),
                origin,
                has_page: false,
                unencrypted: None,
            };
            Ok((introducer, offered))
        };
        let late = |_| Err(IntroError::Unreachable { server: first, reason: "timed out".into() });
        timeout(within, connecting).await.unwrap_or_else(late)
    }

    /// Closes the connection before anything was said.
    async fn leave(mut self) {
        // Whether the server takes it does not matter.
        _ = timeout(HEAD_START, self.socket.close(None)).await;
    }

    /// Begins a session.
    pub(super) async fn open(&mut self) -> Result<Code, IntroError> {
        self.say(ToServer::Open { version: VERSION }).await?;
        self.welcome().await?;
        match self.answer().await? {
            ToClient::Waiting { code, .. } => Ok(code),
            _ => Err(IntroError::Broken),
        }
    }

    /// Asks to be let into a session.
    pub(super) async fn join(&mut self, code: Code) -> Result<(), IntroError> {
        self.say(ToServer::Join { version: VERSION, code }).await?;
        self.welcome().await
    }

    /// Enters a room: its name, and this side's number in it.
    pub(super) async fn enter(&mut self, room: Option<RoomName>) -> Result<(RoomName, u32), IntroError> {
        self.say(ToServer::Enter { version: VERSION, room }).await?;
        self.welcome().await.map_err(|error| match error {
            // What it does not understand is what there are rooms with.
            IntroError::Refused(Refusal::BadMessage) => IntroError::NoRooms,
            other => other,
        })?;
        self.frames = MAX_ROOM_FRAMES;
        match self.answer().await? {
            ToClient::Entered { room, you, .. } => Ok((room, you)),
            _ => Err(IntroError::Broken),
        }
    }

    /// The endpoint that the connection goes to.
    pub(super) fn server(&self) -> SocketAddr {
        self.server
    }

    /// Where the server says that it answers STUN over UDP.
    pub(super) fn stun(&self) -> &[SocketAddr] {
        &self.stun
    }

    /// Where a browser joins the session with this code, if the server has a page for that.
    pub(super) fn link(&self, code: Code) -> Option<String> {
        self.has_page.then(|| format!("{}/p/{code}", self.origin))
    }

    async fn welcome(&mut self) -> Result<(), IntroError> {
        match self.answer().await? {
            ToClient::Welcome { mut stun, page } => {
                stun.truncate(MOST_ENDPOINTS);
                self.stun = stun;
                self.has_page = page;
                Ok(())
            }
            _ => Err(IntroError::Broken),
        }
    }

    /// Waits for the peer.
    pub(super) async fn paired(&mut self, wait: Duration) -> Result<Paired, IntroError> {
        let deadline = Instant::now() + wait;
        while Instant::now() < deadline {
            let next = deadline.min(Instant::now() + KEEPALIVE);
            match self.hear_until(next).await? {
                Some(ToClient::Paired { role, you, peer }) => {
                    let paired = Paired { role, you: you.to_canonical(), peer: peer.to_canonical() };
                    self.time_round_trip().await?;
                    return Ok(paired);
                }
                Some(ToClient::Pong { .. }) => {}
                Some(_) => return Err(IntroError::Broken),
                None if next < deadline => self.say(ToServer::Ping { id: u32::MAX }).await?,
                None => {}
            }
        }
        Err(IntroError::NoPeer(wait.as_secs()))
    }

    /// Exchanges messages with the peer; returns at the moment at which both go on.
    pub(super) async fn exchange(&mut self, message: PeerMessage) -> Result<PeerMessage, IntroError> {
        let rtt_ms = u32::try_from(self.rtt.as_millis()).unwrap_or(u32::MAX);
        let step = self.step;
        let payload = message.write().map_err(|_| IntroError::Broken)?;
        self.say(ToServer::Ready { step, rtt_ms, payload }).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let heard = self.hear_until(deadline).await?;
            match heard.ok_or(IntroError::Silent(PATIENCE.as_secs()))? {
                ToClient::Start { step: at, after_ms, payload } if at == step => {
                    self.step += 1;
                    let after = Duration::from_millis(after_ms.into()).min(Duration::from_secs(1));
                    sleep_until(Instant::now() + after).await;
                    return PeerMessage::read(&payload).map_err(|_| IntroError::BadPeerMessage);
                }
                // An answer that came late.
                ToClient::PeerPong { .. } | ToClient::Pong { .. } => {}
                _ => return Err(IntroError::Broken),
            }
        }
    }

    /// The round-trip time to the peer through the server. Both sides have to ask at the same time.
    pub(super) async fn rtt_through_server(&mut self) -> Result<Option<Duration>, IntroError> {
        let mut best: Option<Duration> = None;
        for id in 0..PINGS {
            let sent = Instant::now();
            self.say(ToServer::PeerPing { id }).await?;
            loop {
                match self.hear_until(sent + THROUGH_SERVER).await? {
                    Some(ToClient::PeerPong { id: at }) if at == id => break,
                    Some(ToClient::PeerPong { .. } | ToClient::Pong { .. }) => {}
                    Some(_) => return Err(IntroError::Broken),
                    None => return Ok(best),
                }
            }
            best = Some(sent.elapsed().min(best.unwrap_or(Duration::MAX)));
        }
        Ok(best)
    }

    /// The round-trip time to the server.
    pub(super) fn rtt(&self) -> Duration {
        self.rtt
    }

    async fn time_round_trip(&mut self) -> Result<(), IntroError> {
        let mut best = Duration::MAX;
        for id in 0..PINGS {
            let sent = Instant::now();
            self.say(ToServer::Ping { id }).await?;
            loop {
                match self.hear_until(sent + ANSWER).await?.ok_or(STALLED)? {
                    ToClient::Pong { id: at } if at == id => break,
                    ToClient::Pong { .. } => {}
                    _ => return Err(IntroError::Broken),
                }
            }
            best = best.min(sent.elapsed());
        }
        self.rtt = best;
        Ok(())
    }

    pub(super) async fn say(&mut self, message: ToServer) -> Result<(), IntroError> {
        let text = serde_json::to_string(&message).map_err(|_| IntroError::Broken)?;
        // A server that does not read must not stop this side.
        let sent = timeout(ANSWER, self.socket.send(Message::text(text))).await;
        sent.map_err(|_| STALLED)?.map_err(|_| IntroError::Broken)
    }

    /// The answer to what was said just now.
    async fn answer(&mut self) -> Result<ToClient, IntroError> {
        self.hear_until(Instant::now() + ANSWER).await?.ok_or(STALLED)
    }

    /// The next message until then. A server that never stops talking does not stop the clock.
    pub(super) async fn hear_until(&mut self, deadline: Instant) -> Result<Option<ToClient>, IntroError> {
        if Instant::now() >= deadline {
            return Ok(None);
        }
        timeout_at(deadline, self.hear()).await.map_or(Ok(None), |heard| heard.map(Some))
    }

    /// The next message that is meant for the one who waits; pings of the peer are answered on the way.
    async fn hear(&mut self) -> Result<ToClient, IntroError> {
        loop {
            self.frames = self.frames.checked_sub(1).ok_or(IntroError::Flood)?;
            let message = self.socket.next().await.and_then(Result::ok).ok_or(IntroError::Broken)?;
            let text = match message {
                Message::Text(text) => text,
                Message::Close(_) | Message::Binary(_) => return Err(IntroError::Broken),
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            match ToClient::parse(&text).map_err(|_| IntroError::Broken)? {
                Some(ToClient::Refused { reason }) => return Err(IntroError::Refused(reason)),
                Some(ToClient::PeerLeft) => return Err(IntroError::Gone),
                Some(ToClient::PeerPing { id }) => self.say(ToServer::PeerPong { id }).await?,
                Some(message) => return Ok(message),
                // A later server may say more than this client knows.
                None => {}
            }
        }
    }
}

const STALLED: IntroError = IntroError::Stalled(ANSWER.as_secs());
/// Endpoints that a server may have: one a family.
const MOST_ENDPOINTS: usize = 2;

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(LONGEST_MESSAGE))
        .max_frame_size(Some(LONGEST_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(MAX_UNSENT)
}

/// Connects to whichever address answers first; the second one gets its chance when the first has failed, or has
/// said nothing for a while (RFC 8305 section 5).
async fn dial(net: &dyn Net, servers: &[SocketAddr]) -> Result<(SocketAddr, Box<dyn Stream>), IntroError> {
    let connect = async |server: SocketAddr| {
        let unreachable = |e: std::io::Error| IntroError::Unreachable { server, reason: e.to_string() };
        net.connect(None, server).await.map(|stream| (server, stream)).map_err(unreachable)
    };
    let (first, second) = match *servers {
        [first, second, ..] => (connect(first), connect(second)),
        [only] => return connect(only).await,
        [] => return Err(IntroError::Broken),
    };
    tokio::pin!(first, second);
    match timeout(HEAD_START, &mut first).await {
        Ok(Ok(connected)) => return Ok(connected),
        // What was tried first is what the user is told of.
        Ok(Err(failed)) => return second.await.map_err(|_| failed),
        Err(_) => {}
    }
    tokio::select! {
        biased;
        connected = &mut first => match connected {
            Ok(connected) => Ok(connected),
            Err(failed) => second.await.map_err(|_| failed),
        },
        connected = &mut second => match connected {
            Ok(connected) => Ok(connected),
            Err(_) => first.await,
        },
    }
}

fn no_rendezvous(
    server: SocketAddr,
    error: &tokio_tungstenite::tungstenite::Error,
    tls: Option<&Secure>,
) -> IntroError {
    use tokio_tungstenite::tungstenite::Error;
    // An HTTP server says so in HTTP; whatever is no HTTP at all may be TLS.
    let hint = match (tls, error) {
        (Some(_), _) | (None, Error::Http(_)) => "",
        (None, _) => "; if it wants TLS, give --tls",
    };
    let reason = format!("it does not introduce clients ({}){hint}", printable(&error.to_string()));
    IntroError::Unreachable { server, reason }
}
