//! The connection to the rendezvous of a probe server: a WebSocket over whatever network there is, with TLS if wanted.

use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use shared::rendezvous::{Code, PATH, Refusal, Role, ToClient, ToServer, VERSION, peer::PeerMessage};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

use super::secure::{Secure, TlsFault};
use crate::{
    net::{Net, Stream},
    target::Target,
};

/// Two clients' way to talk to each other before they have a way of their own.
pub(super) struct Introducer {
    socket: WebSocketStream<Box<dyn Stream>>,
    rtt: Duration,
    step: u32,
    /// Where the server says that it answers STUN over UDP.
    stun: Vec<SocketAddr>,
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
    /// Nobody came.
    #[error("no peer came within {0} s")]
    NoPeer(u64),
    /// The connection broke.
    #[error("the connection to the rendezvous broke")]
    Broken,
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
/// How long the first of two addresses is tried alone.
const HEAD_START: Duration = Duration::from_millis(500);
/// How long the peer may be busy with a step.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(10);
/// A connection that waits says something so often, so that no gateway forgets it.
const STIR: Duration = Duration::from_secs(30);
/// Round trips that are timed.
const PINGS: u32 = 3;

impl Introducer {
    /// Connects to the server, or to the one for TLS.
    pub(super) async fn connect(
        net: &dyn Net,
        target: &Target,
        tls: Option<&Secure>,
    ) -> Result<Self, IntroError> {
        let at = tls.map_or(target, |tls| &tls.at);
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
            // The scheme only says how the library would have connected: that has been done.
            let url = format!("ws://{authority}{PATH}");
            let (socket, _) = client_async(url, stream).await.map_err(|e| no_rendezvous(server, &e, tls))?;
            Ok(Self { socket, rtt: Duration::ZERO, step: 0, stun: Vec::new() })
        };
        let late = |_| Err(IntroError::Unreachable { server: first, reason: "timed out".into() });
        timeout(CONNECTING, connecting).await.unwrap_or_else(late)
    }

    /// Begins a session.
    pub(super) async fn open(&mut self) -> Result<Code, IntroError> {
        self.say(ToServer::Open { version: VERSION }).await?;
        self.welcome().await?;
        match timeout(ANSWER, self.hear()).await.map_err(|_| IntroError::Broken)?? {
            ToClient::Waiting { code, .. } => Ok(code),
            _ => Err(IntroError::Broken),
        }
    }

    /// Asks to be let into a session.
    pub(super) async fn join(&mut self, code: Code) -> Result<(), IntroError> {
        self.say(ToServer::Join { version: VERSION, code }).await?;
        self.welcome().await
    }

    /// Where the server says that it answers STUN over UDP.
    pub(super) fn stun(&self) -> &[SocketAddr] {
        &self.stun
    }

    async fn welcome(&mut self) -> Result<(), IntroError> {
        match timeout(ANSWER, self.hear()).await.map_err(|_| IntroError::Broken)?? {
            ToClient::Welcome { stun } => {
                self.stun = stun;
                Ok(())
            }
            _ => Err(IntroError::Broken),
        }
    }

    /// Waits for the peer.
    pub(super) async fn paired(&mut self, wait: Duration) -> Result<Paired, IntroError> {
        let deadline = Instant::now() + wait;
        loop {
            let next = deadline.min(Instant::now() + STIR);
            match timeout_at(next, self.hear()).await {
                Ok(heard) => match heard? {
                    ToClient::Paired { role, you, peer } => {
                        let paired = Paired { role, you: you.to_canonical(), peer: peer.to_canonical() };
                        self.time_round_trip().await?;
                        return Ok(paired);
                    }
                    ToClient::Pong { .. } => {}
                    _ => return Err(IntroError::Broken),
                },
                Err(_) if next == deadline => return Err(IntroError::NoPeer(wait.as_secs())),
                Err(_) => self.say(ToServer::Ping { id: u32::MAX }).await?,
            }
        }
    }

    /// Exchanges messages with the peer; returns at the moment at which both go on.
    pub(super) async fn exchange(&mut self, message: PeerMessage) -> Result<PeerMessage, IntroError> {
        let rtt_ms = u32::try_from(self.rtt.as_millis()).unwrap_or(u32::MAX);
        let step = self.step;
        let payload = message.write().map_err(|_| IntroError::Broken)?;
        self.say(ToServer::Ready { step, rtt_ms, payload }).await?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let heard = timeout_at(deadline, self.hear()).await;
            match heard.map_err(|_| IntroError::Silent(PATIENCE.as_secs()))?? {
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
            let answered = async {
                loop {
                    match self.hear().await? {
                        ToClient::PeerPong { id: at } if at == id => return Ok(sent.elapsed()),
                        ToClient::PeerPong { .. } | ToClient::Pong { .. } => {}
                        _ => return Err(IntroError::Broken),
                    }
                }
            };
            match timeout(Duration::from_secs(2), answered).await {
                Ok(rtt) => best = Some(rtt?.min(best.unwrap_or(Duration::MAX))),
                Err(_) => break,
            }
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
                match timeout(ANSWER, self.hear()).await.map_err(|_| IntroError::Broken)?? {
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

    async fn say(&mut self, message: ToServer) -> Result<(), IntroError> {
        let text = serde_json::to_string(&message).map_err(|_| IntroError::Broken)?;
        self.socket.send(Message::text(text)).await.map_err(|_| IntroError::Broken)
    }

    /// The next message that is meant for the one who waits; pings of the peer are answered on the way.
    async fn hear(&mut self) -> Result<ToClient, IntroError> {
        loop {
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
    let reason = format!("it does not introduce clients ({error}){hint}");
    IntroError::Unreachable { server, reason }
}
