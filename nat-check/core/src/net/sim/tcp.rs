//! TCP in the simulated network: the handshake as packets through the NATs, with retransmission and simultaneous open;
//! the bytes of an open connection as a delayed stream without loss.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use shared::{
    nat::model::{Packet, TcpFlags},
    stun::{HEADER, View, attr},
    test_session::Token,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, split},
    sync::{mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    driver::Shared,
    fabric::Fabric,
    listener::{Accepting, Listening, accept, join},
    trace::{Fate, Place},
};

/// Longest request line that is read.
const LONGEST_LINE: usize = 200;
/// Bytes that may be under way in one direction.
pub(super) const WINDOW: usize = 64 * 1024;
/// How long each SYN waits for its answer.
const SYN_WAITS: [Duration; 6] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(8),
    Duration::from_secs(16),
    Duration::from_secs(32),
];

/// One end of a connection: host, local and remote address.
pub(super) type End = (usize, SocketAddr, SocketAddr);

#[derive(Debug, Default)]
pub(super) struct Tcp {
    numbered: u64,
    waiting: BTreeMap<End, Waiting>,
    pub(super) open: BTreeMap<End, u64>,
    pub(super) listening: Listening,
    /// Connections that a server accepted: server, its address, the client's as it saw it.
    accepted: BTreeMap<u64, (usize, SocketAddr, SocketAddr)>,
    /// Hosts' ends that wait for the other side's.
    pub(super) loose: BTreeMap<u64, DuplexStream>,
    /// Wires whose two ends are known and that a task has yet to be started for.
    joined: Vec<Joined>,
}

#[derive(Debug)]
struct Waiting {
    number: u64,
    done: oneshot::Sender<io::Result<DuplexStream>>,
}

#[derive(Debug)]
enum Joined {
    WithServer { wire: DuplexStream, server: usize, at: SocketAddr, from: SocketAddr, delay: Duration },
    Peers { wires: [DuplexStream; 2], delay: Duration },
    WithListener { wire: DuplexStream, end: End, accepting: Accepting, delay: Duration },
}

/// Connects, as [`crate::net::Net::connect`] does.
pub(super) async fn connect(
    shared: &Arc<Shared>,
    host: usize,
    local: Option<SocketAddr>,
    remote: SocketAddr,
) -> io::Result<SimStream> {
    shared.drive();
    let (end, mut answer) = shared.with(|fabric| fabric.tcp_begin(host, local, remote))?;
    // Made before it is open, so that whoever gives up waiting leaves nothing behind.
    let mut stream = SimStream { shared: Arc::clone(shared), end, inner: None };
    for wait in SYN_WAITS {
        shared.with(|fabric| fabric.tcp_syn(end));
        if let Ok(result) = timeout(wait, &mut answer).await {
            stream.inner = Some(result.map_err(|_| io::Error::from(io::ErrorKind::ConnectionAborted))??);
            let joined = shared.with(|fabric| std::mem::take(&mut fabric.tcp.joined));
            joined.into_iter().for_each(|j| start(shared, j));
            return Ok(stream);
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn start(shared: &Arc<Shared>, joined: Joined) {
    match joined {
        Joined::WithServer { wire, server, at, from, delay } => {
            tokio::spawn(serve(Arc::downgrade(shared), wire, server, at, from, delay));
        }
        Joined::Peers { wires: [a, b], delay } => join(a, b, delay),
        Joined::WithListener { wire, end, accepting, delay } => accept(wire, end, accepting, delay),
    }
}

/// The server's side of a connection: STUN, or the rendezvous, as the first byte says.
async fn serve(
    world: std::sync::Weak<Shared>,
    mut wire: DuplexStream,
    server: usize,
    at: SocketAddr,
    from: SocketAddr,
    delay: Duration,
) -> io::Result<()> {
    let first = wire.read_u8().await?;
    if !first.is_ascii_alphabetic() {
        return serve_stun(world, wire, first, server, at, from, delay).await;
    }
    // The request line says what the client wants.
    let mut line = vec![first];
    while !line.ends_with(b"\n") && line.len() < LONGEST_LINE {
        line.push(wire.read_u8().await?);
    }
    let (inside, mut outside) = tokio::io::duplex(WINDOW);
    outside.write_all(&line).await?;
    let [(wire_read, wire_write), (out_read, out_write)] = [split(wire), split(outside)];
    tokio::spawn(pass_on(wire_read, out_write, delay));
    tokio::spawn(pass_on(out_read, wire_write, delay));
    let Some(shared) = world.upgrade() else { return Ok(()) };
    if line.starts_with(format!("GET {} ", shared::test_session::PATH).as_bytes()) {
        let (sessions, side) = shared.with(|fabric| {
            (fabric.servers[server].sessions(&shared, server), fabric.servers[server].side(at))
        });
        drop(shared);
        if let Some(side) = side {
            sessions.serve(inside, from, side).await;
        }
        return Ok(());
    }
    let (rendezvous, stun) = shared.with(|fabric| {
        let server = &fabric.servers[server];
        (Arc::clone(&server.rendezvous), server.primaries())
    });
    drop(shared);
    rendezvous.serve(inside, from, stun).await;
    Ok(())
}

/// Reads messages, answers each after a round trip.
async fn serve_stun(
    world: std::sync::Weak<Shared>,
    mut wire: DuplexStream,
    first: u8,
    server: usize,
    at: SocketAddr,
    from: SocketAddr,
    delay: Duration,
) -> io::Result<()> {
    let mut first = Some(first);
    let mut proof = None;
    loop {
        let mut message = vec![0; HEADER];
        message[0] = match first.take() {
            Some(first) => first,
            None => wire.read_u8().await?,
        };
        wire.read_exact(&mut message[1..]).await?;
        let length = usize::from(u16::from_be_bytes([message[2], message[3]]));
        message.resize(HEADER + length, 0);
        wire.read_exact(&mut message[HEADER..]).await?;
        sleep(2 * delay).await;
        let Some(shared) = world.upgrade() else { return Ok(()) };
        let answer = shared.with(|fabric| {
            let server = &mut fabric.servers[server];
            if let Some((sessions, token)) = server.test_sessions.0.as_ref().zip(token_of(&message)) {
                // Held connections are not simulated.
                proof = sessions.prove(&token, from, at).or(proof.take());
            }
            server.message(at, from, &message)
        });
        drop(shared);
        // A server ends a connection that does not speak its language.
        let Some(answer) = answer else { return Ok(()) };
        wire.write_all(&answer).await?;
    }
}

/// The token of a test session in a request.
fn token_of(message: &[u8]) -> Option<Token> {
    View::parse(message).ok()?.find(attr::TOKEN)?.try_into().ok().map(Token)
}

pub(super) async fn pass_on(
    mut from: tokio::io::ReadHalf<DuplexStream>,
    mut to: tokio::io::WriteHalf<DuplexStream>,
    delay: Duration,
) -> io::Result<()> {
    // Reading goes on while what was read is on its way: a line delays, it does not slow down.
    let (sent, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = async move {
        let mut buffer = vec![0; 4096];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            if sent.send((Instant::now() + delay, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    };
    let writing = async move {
        while let Some((at, bytes)) = under_way.recv().await {
            sleep_until(at).await;
            to.write_all(&bytes).await?;
        }
        to.shutdown().await
    };
    tokio::join!(reading, writing).1
}

impl Fabric {
    fn tcp_begin(
        &mut self,
        host: usize,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> io::Result<(End, oneshot::Receiver<io::Result<DuplexStream>>)> {
        let here = &mut self.hosts[host];
        let ip = here.ip_like(remote.ip()).ok_or(io::ErrorKind::NetworkUnreachable)?;
        if local.is_some_and(|l| !l.ip().is_unspecified() && !here.ips.contains(&l.ip())) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let port = match local.map_or(0, |l| l.port()) {
            0 => here.rng.u16(32768..=60999),
            port => port,
        };
        let end = (host, SocketAddr::new(ip, port), remote);
        if self.tcp.waiting.contains_key(&end) || self.tcp.open.contains_key(&end) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (done, answer) = oneshot::channel();
        let number = self.tcp.number();
        self.tcp.waiting.insert(end, Waiting { number, done });
        Ok((end, answer))
    }

    fn tcp_syn(&mut self, end: End) {
        let Some(waiting) = self.tcp.waiting.get(&end) else { return };
        let packet = Packet::tcp(end.1, end.2, TcpFlags::SYN, waiting.number.to_be_bytes().to_vec());
        self.send(end.0, packet);
    }

    /// A segment reaches a host.
    pub(super) fn tcp_at_host(&mut self, host: usize, packet: &Packet) {
        let end: End = (host, packet.destination, packet.source);
        let known = self.tcp.waiting.contains_key(&end) || self.tcp.open.contains_key(&end);
        let fate = if known { Fate::Received } else { Fate::Unreachable };
        self.note(Place::Host(host), fate, packet);
        if packet.tcp.rst {
            if let Some(waiting) = self.tcp.waiting.remove(&end) {
                // Whoever waited may have gone: then nobody needs to know.
                let _ = waiting.done.send(Err(io::ErrorKind::ConnectionRefused.into()));
            }
            return;
        }
        let first = packet.tcp.syn && !packet.tcp.ack;
        if !known {
            if first && !self.tcp_call_at_host(end, packet) {
                self.send(host, Packet::tcp(packet.destination, packet.source, TcpFlags::RST, Vec::new()));
            }
            return;
        }
        let Some(theirs) = number_of(packet) else { return };
        let ours = match self.tcp.waiting.remove(&end) {
            Some(waiting) => {
                let (mine, wire) = tokio::io::duplex(WINDOW);
                self.tcp.open.insert(end, waiting.number);
                self.tcp_join(host, waiting.number, theirs, wire);
                let _ = waiting.done.send(Ok(mine));
                waiting.number
            }
            None => self.tcp.open[&end],
        };
        if first {
            let reply = ours.to_be_bytes().to_vec();
            self.send(host, Packet::tcp(packet.destination, packet.source, TcpFlags::SYN_ACK, reply));
        }
    }

    /// A segment reaches a server.
    pub(super) fn tcp_at_server(&mut self, server: usize, packet: &Packet) {
        let swallowed = self.servers[server].swallows(packet.destination);
        if self.tcp_reply_at_server(server, packet) || swallowed || !packet.tcp.syn || packet.tcp.ack {
            return;
        }
        let (here, there) = (packet.destination, packet.source);
        let reply = if self.servers[server].accepts(here) {
            let number = self.tcp.number();
            self.tcp.accepted.insert(number, (server, here, there));
            Packet::tcp(here, there, TcpFlags::SYN_ACK, number.to_be_bytes().to_vec())
        } else {
            Packet::tcp(here, there, TcpFlags::RST, Vec::new())
        };
        self.answer_from(server, Duration::ZERO, reply);
    }

    fn tcp_join(&mut self, host: usize, ours: u64, theirs: u64, wire: DuplexStream) {
        let delay = self.delay_of(host);
        if let Some((server, at, from)) = self.tcp.accepted.remove(&theirs) {
            self.tcp.joined.push(Joined::WithServer { wire, server, at, from, delay });
        } else if let Some(other) = self.tcp.loose.remove(&theirs) {
            self.tcp.joined.push(Joined::Peers { wires: [wire, other], delay: 2 * delay });
        } else if let Some((end, accepting)) = self.tcp.listening.answered(theirs) {
            let delay = delay + self.delay_of(end.0);
            self.tcp.joined.push(Joined::WithListener { wire, end, accepting, delay });
        } else {
            self.tcp.loose.insert(ours, wire);
        }
    }
}

impl Tcp {
    pub(super) fn number(&mut self) -> u64 {
        self.numbered += 1;
        self.numbered
    }

    fn forget(&mut self, end: End) {
        self.waiting.remove(&end);
        if let Some(number) = self.open.remove(&end) {
            self.loose.remove(&number);
            self.listening.forget(number);
        }
    }
}

pub(super) fn number_of(packet: &Packet) -> Option<u64> {
    packet.payload.as_slice().try_into().ok().map(u64::from_be_bytes)
}

/// A host's end of a connection.
pub(super) struct SimStream {
    shared: Arc<Shared>,
    end: End,
    inner: Option<DuplexStream>,
}

impl SimStream {
    /// The end of a connection that is open.
    pub(super) fn open(shared: &Arc<Shared>, end: End, wire: DuplexStream) -> Self {
        Self { shared: Arc::clone(shared), end, inner: Some(wire) }
    }

    fn wire(self: Pin<&mut Self>) -> io::Result<Pin<&mut DuplexStream>> {
        let inner = self.get_mut().inner.as_mut();
        inner.map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for SimStream {
    fn drop(&mut self) {
        self.shared.with(|fabric| fabric.tcp.forget(self.end));
    }
}

impl crate::net::Stream for SimStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.end.1)
    }

    /// Simulated connections leave nothing behind in any case.
    fn reset_on_drop(&self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.wire()?.poll_read(cx, buffer)
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.wire()?.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire()?.poll_shutdown(cx)
    }
}
