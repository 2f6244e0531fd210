//! Ports and listeners of simulated hosts, and connections that a server opens to them.

use std::{collections::BTreeMap, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use shared::nat::model::{Packet, TcpFlags};
use tokio::{
    io::{DuplexStream, split},
    sync::{Mutex, mpsc, oneshot},
    time::{sleep, timeout},
};

use super::{
    driver::Shared,
    fabric::Fabric,
    tcp::{self, End, SimStream, WINDOW, number_of, pass_on},
};
use crate::net::{Boxed, Listener, Stream, TcpPort};

/// A TCP port of a simulated host.
pub(super) struct SimTcpPort {
    shared: Arc<Shared>,
    host: usize,
    local: SocketAddr,
}

impl SimTcpPort {
    pub(super) fn take(shared: &Arc<Shared>, host: usize, local: SocketAddr) -> io::Result<Self> {
        shared.drive();
        let local = shared.with(|fabric| {
            let here = &mut fabric.hosts[host];
            let ip = here.ip_like(local.ip()).ok_or(io::ErrorKind::AddrNotAvailable)?;
            if !local.ip().is_unspecified() && !here.ips.contains(&local.ip()) {
                return Err(io::Error::from(io::ErrorKind::AddrNotAvailable));
            }
            let port = if local.port() == 0 { here.rng.u16(32768..=60999) } else { local.port() };
            Ok(SocketAddr::new(ip, port))
        })?;
        Ok(Self { shared: Arc::clone(shared), host, local })
    }
}

impl TcpPort for SimTcpPort {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn connect(&self, remote: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = tcp::connect(&self.shared, self.host, Some(self.local), remote).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen(&self) -> io::Result<Box<dyn Listener>> {
        let (accepted, accepting) = mpsc::unbounded_channel();
        self.shared.with(|fabric| fabric.tcp.listening.ports.insert((self.host, self.local), accepted));
        let (shared, at) = (Arc::clone(&self.shared), (self.host, self.local));
        Ok(Box::new(SimListener { shared, at, accepting: Mutex::new(accepting) }))
    }
}

impl fmt::Debug for SimTcpPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp port {} of simulated host {}", self.local, self.host)
    }
}

struct SimListener {
    shared: Arc<Shared>,
    at: (usize, SocketAddr),
    accepting: Mutex<mpsc::UnboundedReceiver<Accepted>>,
}

impl Listener for SimListener {
    fn accept(&self) -> Boxed<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let accepted = self.accepting.lock().await.recv().await;
            let (end, wire) = accepted.ok_or(io::ErrorKind::NotConnected)?;
            Ok((Box::new(SimStream::open(&self.shared, end, wire)) as Box<dyn Stream>, end.2))
        })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.shared.with(|fabric| fabric.tcp.listening.ports.remove(&self.at));
    }
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listener {} of simulated host {}", self.at.1, self.at.0)
    }
}

/// A connection that a listener has accepted.
type Accepted = (End, DuplexStream);

/// Takes what is accepted.
pub(super) type Accepting = mpsc::UnboundedSender<Accepted>;

/// One end of a connection that a server opens: server, local and remote address.
type ServerEnd = (usize, SocketAddr, SocketAddr);

/// Who listens, and who is being called.
#[derive(Debug, Default)]
pub(super) struct Listening {
    ports: BTreeMap<(usize, SocketAddr), Accepting>,
    /// Hosts' ends that have answered a SYN, by their number.
    half_open: BTreeMap<u64, End>,
    calling: BTreeMap<ServerEnd, oneshot::Sender<Reply>>,
}

impl Listening {
    /// The end of a listening host that has answered a SYN with this number, and who accepts there.
    pub(super) fn answered(&mut self, number: u64) -> Option<(End, Accepting)> {
        let end = self.half_open.remove(&number)?;
        Some((end, self.ports.get(&(end.0, end.1))?.clone()))
    }

    pub(super) fn forget(&mut self, number: u64) {
        self.half_open.remove(&number);
    }
}

/// What comes back to a server that connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A SYN-ACK of this number.
    Accepted(u64),
    /// A reset.
    Reset,
    /// ICMP port unreachable.
    Unreachable,
}

/// A server connects to an address of a host, one SYN after each of these waits begins; none where nothing came back.
pub(super) async fn call(
    shared: &Arc<Shared>,
    from: ServerEnd,
    waits: &[Duration],
) -> Option<(Reply, Option<DuplexStream>)> {
    let (replied, mut reply) = oneshot::channel();
    let number = shared.with(|fabric| {
        fabric.tcp.listening.calling.insert(from, replied);
        fabric.tcp.number()
    });
    let _over = CallOver { shared, from };
    for &wait in waits {
        let syn = Packet::tcp(from.1, from.2, TcpFlags::SYN, number.to_be_bytes().to_vec());
        shared.with(|fabric| {
            if fabric.servers[from.0].sends_from(from.1) {
                fabric.answer_from(from.0, Duration::ZERO, syn);
            }
        });
        let Ok(replied) = timeout(wait, &mut reply).await else { continue };
        // Another call between the same endpoints has taken the place of this one.
        let Ok(reply) = replied else { return None };
        let stream = match reply {
            Reply::Accepted(host_number) => open(shared, host_number),
            Reply::Reset | Reply::Unreachable => None,
        };
        return Some((reply, stream));
    }
    None
}

/// Joins the two ends; the server's is given. The host's is accepted when the last segment of the handshake is there; where
/// that is lost, what the server says next makes up for it.
fn open(shared: &Arc<Shared>, host_number: u64) -> Option<DuplexStream> {
    let (mine, near) = tokio::io::duplex(WINDOW);
    // A host that was connecting itself has the other end already: a simultaneous open.
    let crossed = shared.with(|fabric| {
        let end = fabric.tcp.open.iter().find(|(_, number)| **number == host_number).map(|(end, _)| *end)?;
        Some((fabric.tcp.loose.remove(&host_number)?, fabric.delay_of(end.0)))
    });
    if let Some((far, delay)) = crossed {
        join(near, far, delay);
        return Some(mine);
    }
    let (end, accepting, delay) = shared.with(|fabric| {
        let (end, accepting) = fabric.tcp.listening.answered(host_number)?;
        Some((end, accepting, fabric.delay_of(end.0)))
    })?;
    accept(near, end, accepting, delay);
    Some(mine)
}

/// The listening host accepts a connection, whose other end is given, when the last segment of the handshake is there.
pub(super) fn accept(near: DuplexStream, end: End, accepting: Accepting, delay: Duration) {
    let (theirs, far) = tokio::io::duplex(WINDOW);
    join(near, far, delay);
    tokio::spawn(async move {
        sleep(delay).await;
        // Whoever has stopped listening accepts nothing.
        let _ = accepting.send((end, theirs));
    });
}

pub(super) fn join(near: DuplexStream, far: DuplexStream, delay: Duration) {
    let [(near_read, near_write), (far_read, far_write)] = [split(near), split(far)];
    tokio::spawn(pass_on(near_read, far_write, delay));
    tokio::spawn(pass_on(far_read, near_write, delay));
}

/// Forgets a call when it is over, also when the caller gives up.
struct CallOver<'a> {
    shared: &'a Arc<Shared>,
    from: ServerEnd,
}

impl Drop for CallOver<'_> {
    fn drop(&mut self) {
        self.shared.with(|fabric| fabric.tcp.listening.calling.remove(&self.from));
    }
}

impl Fabric {
    /// A SYN for no connection that the host knows: answered where it listens. Tells whether it does.
    pub(super) fn tcp_call_at_host(&mut self, end: End, packet: &Packet) -> bool {
        if !self.tcp.listening.ports.contains_key(&(end.0, end.1)) {
            return false;
        }
        let number = self.tcp.number();
        self.tcp.open.insert(end, number);
        self.tcp.listening.half_open.insert(number, end);
        let reply = number.to_be_bytes().to_vec();
        self.send(end.0, Packet::tcp(packet.destination, packet.source, TcpFlags::SYN_ACK, reply));
        true
    }

    /// A segment for a connection that the server opens. Tells whether there is one.
    pub(super) fn tcp_reply_at_server(&mut self, server: usize, packet: &Packet) -> bool {
        let from = (server, packet.destination, packet.source);
        let reply = match (packet.tcp.rst, number_of(packet)) {
            (true, _) if packet.payload.is_empty() => Reply::Reset,
            (true, _) => Reply::Unreachable,
            (false, Some(number)) if packet.tcp.syn && packet.tcp.ack => Reply::Accepted(number),
            (false, _) => return false,
        };
        let Some(replied) = self.tcp.listening.calling.remove(&from) else { return false };
        // Whoever gave up meanwhile needs no reply.
        let _ = replied.send(reply);
        true
    }
}
