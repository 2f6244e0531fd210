//! The test session with the server (`shared::test_session`): opened once, when the first measurement needs it. What the
//! server says goes into the log; whoever waits for it looks there.

mod greetings;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use shared::test_session::{
    MAX_MESSAGE, Nonce, PATH, Source, SourceAddress, ToClient, ToServer, VERSION, Welcome,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::Session;
use crate::{
    net::{Listener, Stream},
    observation::{
        Purpose,
        call::{Call, CallResult, TestSessionState},
    },
    printable::printable,
};

/// An open test session.
#[derive(Debug)]
pub(crate) struct TestSession {
    /// What the server offers.
    pub(crate) welcome: Welcome,
    to_server: mpsc::UnboundedSender<ToServer>,
    /// The calls, by their nonces: their numbers in the log.
    nonces: Mutex<HashMap<[u8; 16], usize>>,
}

/// A connection that the server is to open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallRequest {
    /// What for.
    pub(crate) purpose: Purpose,
    /// From which address of the server.
    pub(crate) from: SourceAddress,
    /// From which of its ports.
    pub(crate) source: Source,
    /// To which external endpoint of this host.
    pub(crate) to: SocketAddr,
    /// How much later the server begins.
    pub(crate) put_off: Duration,
    /// How long it waits for an answer.
    pub(crate) wait: Duration,
}

/// How long the server may take for each step of opening the session: a segment that gets lost is sent again after a second
/// and after three.
const ANSWER: Duration = Duration::from_secs(5);
/// How long somebody who has connected may take to say the nonce.
const GREETING: Duration = Duration::from_secs(3);
/// Messages of the server that are read: several times what the longest run needs.
const MAX_MESSAGES: usize = 1000;
/// Numbers of held connections begin here: those of calls are lower.
const FIRST_HOLD: u32 = 1_000_000;
/// The number of the trace, which neither calls nor holds have.
const TRACE: u32 = 2_000_000;
/// Ports that are kept as proven.
const MAX_PROVEN: usize = 64;

impl Session {
    /// The test session, if the server offers one; the log says why not.
    pub(crate) async fn test_session(self: &Arc<Self>) -> Option<Arc<TestSession>> {
        let cell = Arc::clone(&self.lock().tcp.test_session);
        let opened = cell.get_or_init(|| async {
            let opened = timeout(ANSWER * 2, open(self)).await;
            let opened = opened.unwrap_or_else(|_| Err("the server does not answer in time".into()));
            let state = match &opened {
                Ok(_) => TestSessionState::Open,
                Err(why) => TestSessionState::Absent(why.clone()),
            };
            self.note_tcp(|log| log.session = state);
            let (test, socket, orders) = opened.ok()?;
            self.spawn(converse(Arc::downgrade(self), socket, orders));
            Some(test)
        });
        opened.await.clone()
    }

    /// Accepts what the server connects to, until the run ends.
    pub(crate) fn accept_calls(self: &Arc<Self>, test: &Arc<TestSession>, listener: Box<dyn Listener>) {
        let (session, test) = (Arc::downgrade(self), Arc::clone(test));
        self.spawn(async move {
            greetings::take_each(&*listener, |stream| greet(session.clone(), Arc::clone(&test), stream))
                .await;
        });
    }

    /// Waits for the nonce on a connection that the server has opened, or opened together with this host.
    pub(crate) fn await_nonce(self: &Arc<Self>, test: &Arc<TestSession>, stream: Box<dyn Stream>) {
        self.spawn(greet(Arc::downgrade(self), Arc::clone(test), stream));
    }
}

impl TestSession {
    /// The address of this host that the server connects to.
    pub(crate) fn seen_at(&self) -> IpAddr {
        self.welcome.you.ip().to_canonical()
    }

    /// Asks for a connection; gives its number in the log.
    pub(crate) fn call(&self, session: &Session, request: CallRequest) -> Option<usize> {
        let CallRequest { purpose, from, source, to, put_off, wait } = request;
        let asked = session.now();
        let number = session.note_tcp(|log| {
            let (left, arrived, result, icmp, declined) = (None, None, None, None, None);
            log.calls.push(Call {
                purpose,
                from,
                source,
                to,
                asked,
                put_off,
                wait,
                left,
                arrived,
                result,
                icmp,
                declined,
            });
            log.calls.len() - 1
        });
        let ms = |time: Duration| u32::try_from(time.as_millis()).ok();
        let (id, after_ms, wait_ms) = (u32::try_from(number).ok()?, ms(put_off)?, ms(wait)?);
        let nonce = self.welcome.nonce(id);
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).insert(nonce.0, number);
        let syn = ToServer::Syn { id, port: to.port(), from, source, after_ms, wait_ms };
        self.to_server.send(syn).ok()?;
        Some(number)
    }

    /// Has the server hold a connection of this number, and speak after this time; gives what it says then.
    pub(crate) fn hold(&self, session: &Session, connection: u32, idle: Duration) -> Option<[u8; 16]> {
        let nonce = session.lock().random.bytes().ok()?;
        let after_ms = u32::try_from(idle.as_millis()).ok()?;
        let id = FIRST_HOLD.checked_add(connection)?;
        self.to_server.send(ToServer::Hold { id, connection, nonce: Nonce(nonce), after_ms }).ok()?;
        Some(nonce)
    }

    /// Has the server open a port for a trace.
    #[cfg(feature = "port-mapping")]
    pub(crate) fn open_trace_port(&self) -> Option<()> {
        self.to_server.send(ToServer::TracePort { id: TRACE }).ok()
    }

    /// Has the server send packets with these TTLs to whoever has sent to that port, and wait for so long.
    #[cfg(feature = "port-mapping")]
    pub(crate) fn trace(&self, ttls: std::ops::RangeInclusive<u8>, wait: Duration) -> Option<()> {
        let wait_ms = u32::try_from(wait.as_millis()).ok()?.min(self.welcome.trace_ms);
        let (ttl_from, ttl_to) = ttls.into_inner();
        self.to_server.send(ToServer::Trace { id: TRACE, ttl_from, ttl_to, wait_ms }).ok()
    }

    /// Has the server answer in the session.
    pub(crate) fn ping(&self) {
        // Where the session is over, nobody answers, and that is seen.
        _ = self.to_server.send(ToServer::Ping { id: 0 });
    }

    fn number_of(&self, nonce: &[u8; 16]) -> Option<usize> {
        self.nonces.lock().unwrap_or_else(PoisonError::into_inner).remove(nonce)
    }
}

type Socket = WebSocketStream<Box<dyn Stream>>;
type Opened = (Arc<TestSession>, Socket, mpsc::UnboundedReceiver<ToServer>);

async fn open(session: &Arc<Session>) -> Result<Opened, String> {
    let server = session.server();
    let local = SocketAddr::new(session.local_ip(), 0);
    let stream = session.net().connect(Some(local), server).await;
    let stream = stream.map_err(|error| format!("no connection for a test session: {error}"))?;
    begin(stream, server).await
}

/// Begins a test session with the server, over a connection with it.
async fn begin(stream: Box<dyn Stream>, server: SocketAddr) -> Result<Opened, String> {
    // The scheme only says how the library would have connected: that has been done.
    let url = format!("ws://{server}{PATH}");
    let upgraded = timeout(ANSWER, client_async_with_config(url, stream, Some(limits()))).await;
    let (mut socket, _) = upgraded
        .map_err(|_| "the server does not answer in HTTP".to_owned())?
        .map_err(|error| format!("the server has no test sessions ({})", printable(&error.to_string())))?;
    say(&mut socket, &ToServer::Open { version: VERSION }).await.ok_or("the server went away")?;
    for _ in 0..MAX_PROVEN {
        match hear(&mut socket).await.ok_or("the server ended the test session")? {
            Some(ToClient::Welcome(welcome)) => {
                let (to_server, orders) = mpsc::unbounded_channel();
                let welcome = at_the_server(*welcome, server.ip());
                let test = TestSession { welcome, to_server, nonces: Mutex::default() };
                return Ok((Arc::new(test), socket, orders));
            }
            Some(ToClient::Refused { reason }) => {
                return Err(format!("the server refuses a test session: {reason}"));
            }
            Some(_) | None => {}
        }
    }
    Err("the server opens no test session".into())
}

/// What the server offers, with no address in it but the one at which this host has reached the server. Others that it names
/// may be anybody's: of those only the ports are kept.
fn at_the_server(mut welcome: Welcome, server: IpAddr) -> Welcome {
    for address in std::iter::once(&mut welcome.primary).chain(&mut welcome.alternate) {
        let ports = address.stun.iter_mut().chain(&mut address.pending).chain(&mut address.closed);
        ports.for_each(|port| port.set_ip(server));
    }
    welcome
}

/// Says what is to be said and enters what is heard, until either side ends it.
async fn converse(session: Weak<Session>, mut socket: Socket, mut orders: mpsc::UnboundedReceiver<ToServer>) {
    for _ in 0..MAX_MESSAGES {
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some(order) = order else { return };
                if say(&mut socket, &order).await.is_none() {
                    return;
                }
            }
            heard = hear(&mut socket) => {
                let (Some(heard), Some(session)) = (heard, session.upgrade()) else { return };
                if let Some(message) = heard {
                    enter(&session, message);
                }
            }
        }
    }
}

fn enter(session: &Session, message: ToClient) {
    let (id, result, icmp, declined) = match message {
        ToClient::Pong { .. } => {
            let now = session.now();
            return session.note_tcp(|log| log.last_pong = Some(now));
        }
        ToClient::Proven { connection, at, .. } => {
            let at = SocketAddr::new(at.ip().to_canonical(), at.port());
            return session.note_tcp(|log| {
                if log.proven.len() < MAX_PROVEN {
                    log.proven.push((connection, at));
                }
            });
        }
        ToClient::TracePort { at, .. } => return session.note_tcp(|log| log.trace.port = Some(at)),
        ToClient::Flow { at } => return session.note_tcp(|log| log.trace.flow = Some(at)),
        ToClient::TraceResult { hops, .. } => {
            return session.note_tcp(|log| log.trace.hops = Some(hops));
        }
        ToClient::Declined { id: TRACE, .. } => {
            return session.note_tcp(|log| log.trace.is_declined = true);
        }
        ToClient::SynSent { id } => {
            let now = session.now();
            return session.note_tcp(|log| {
                if let Some(call) = usize::try_from(id).ok().and_then(|number| log.calls.get_mut(number)) {
                    call.left.get_or_insert(now);
                }
            });
        }
        ToClient::SynResult { id, outcome, after_us, icmp, .. } => {
            let after = Duration::from_micros(after_us.into());
            (id, CallResult::Tried { outcome, after }, icmp, None)
        }
        ToClient::Declined { id, reason } => {
            tracing::debug!(id, %reason, "the server declines to connect");
            (id, CallResult::Declined, None, Some(reason))
        }
        _ => return,
    };
    session.note_tcp(|log| {
        let call = usize::try_from(id).ok().and_then(|number| log.calls.get_mut(number));
        if let Some(call) = call.filter(|call| call.result.is_none()) {
            (call.result, call.icmp, call.declined) = (Some(result), icmp, declined);
        }
    });
}

/// Reads the nonce and sends it back. Whoever connects without one is a stranger, proves nothing, and is let go.
async fn greet(session: Weak<Session>, test: Arc<TestSession>, mut stream: Box<dyn Stream>) {
    let mut nonce = [0; 16];
    let read = timeout(GREETING, stream.read_exact(&mut nonce)).await;
    let (Ok(Ok(_)), Some(session)) = (read, session.upgrade()) else { return };
    let Some(number) = test.number_of(&nonce) else { return };
    let now = session.now();
    session.note_tcp(|log| _ = log.calls[number].arrived.get_or_insert(now));
    // The echo is for the server's result only.
    _ = stream.write_all(&nonce).await;
    _ = stream.flush().await;
    session.keep_open(stream);
}

async fn say(socket: &mut Socket, message: &ToServer) -> Option<()> {
    let text = serde_json::to_string(message).ok()?;
    timeout(ANSWER, socket.send(Message::text(text))).await.ok()?.ok()
}

/// The next message: none = the session is over, none inside = one to be skipped.
async fn hear(socket: &mut Socket) -> Option<Option<ToClient>> {
    match socket.next().await?.ok()? {
        Message::Text(text) => Some(serde_json::from_str(&text).ok()),
        Message::Close(_) | Message::Binary(_) => None,
        Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Some(None),
    }
}

fn limits() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(16 * MAX_MESSAGE))
        .max_frame_size(Some(16 * MAX_MESSAGE))
        .write_buffer_size(0)
        .max_write_buffer_size(16 * MAX_MESSAGE)
}
