//! A UDP socket that the program owns and keeps using while its NAT is measured, for example a QUIC socket.
//!
//! The measurement sends its STUN requests through a function that the owner gives. The owner goes on receiving, and
//! [offers](OwnedSocket::offer) every datagram: answers to requests of the measurement are taken, everything else is
//! left to the owner. Give the mapping test this socket by binding to its address
//! ([`Setup::bind`](crate::check::Setup::bind)) in the network that [`OwnedSocket::net`] makes.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! use std::{sync::Arc, time::Duration};
//! use nat_check_core::net::{os::OsNet, owned::OwnedSocket};
//! use tokio::net::UdpSocket;
//!
//! let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
//! let owned = OwnedSocket::from_tokio(&socket, Duration::from_secs(20))?;
//! let net = owned.net(Arc::new(OsNet));
//! // The owner's receive loop:
//! # socket.send_to(b"own", socket.local_addr()?).await?;
//! let mut buffer = [0; 2048];
//! let (length, from) = socket.recv_from(&mut buffer).await?;
//! if !owned.offer(&buffer[..length], from) {
//!     assert_eq!(&buffer[..length], b"own");
//! }
//! # drop(net);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use shared::stun::{BINDING, Class, TransactionId, View};
use socket2::SockRef;
use tokio::{
    net::UdpSocket,
    sync::{Mutex as AsyncMutex, mpsc},
    time::Instant,
};

use super::{Boxed, Datagram, InterfaceKind, Net, Stream, TcpPort, TraceSocket};
use crate::report::OwnAddress;

/// A socket that the program owns. Clones stand for the same socket.
///
/// The use of the socket ends at a time limit, with [`OwnedSocket::end`], or when the network that
/// [`OwnedSocket::net`] made is dropped, whichever comes first. From then on nothing is sent through it, the sending
/// function is dropped, and every datagram is the owner's again.
#[derive(Clone)]
pub struct OwnedSocket {
    local: SocketAddr,
    dual_stack: bool,
    shared: Arc<Shared>,
}

struct Shared {
    deadline: Instant,
    /// None once the use of the socket has ended. Locked for reading while a datagram is sent, so that none leaves
    /// after the end.
    send: RwLock<Option<Box<SendDatagram>>>,
    /// What was asked through the socket, and who waits for the answers.
    outstanding: Mutex<HashMap<TransactionId, mpsc::Sender<Arrival>>>,
}

type SendDatagram = dyn Fn(&[u8], SocketAddr) -> io::Result<()> + Send + Sync;
type Arrival = (Vec<u8>, SocketAddr);

/// Answers that may wait; a flood is cut off here.
const QUEUE: usize = 256;

impl OwnedSocket {
    /// A socket bound to `local` that `send` sends through, used for `limit` at the longest.
    ///
    /// `send` must not block: it is called from asynchronous code. Where it fails, the request counts as not sent.
    pub fn new(
        local: SocketAddr,
        limit: Duration,
        send: impl Fn(&[u8], SocketAddr) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let send: Box<SendDatagram> = Box::new(send);
        let shared = Shared {
            deadline: Instant::now() + limit,
            send: RwLock::new(Some(send)),
            outstanding: Mutex::default(),
        };
        Self { local, dual_stack: false, shared: Arc::new(shared) }
    }

    /// A tokio socket whose owner keeps receiving, used for `limit` at the longest. It is not kept open: when the
    /// owner drops it, sending fails.
    ///
    /// # Errors
    /// When the socket's own address cannot be read.
    pub fn from_tokio(socket: &Arc<UdpSocket>, limit: Duration) -> io::Result<Self> {
        let local = socket.local_addr()?;
        let dual_stack = local.is_ipv6() && !SockRef::from(&**socket).only_v6()?;
        let weak = Arc::downgrade(socket);
        let send = move |datagram: &[u8], to: SocketAddr| {
            let socket = weak.upgrade().ok_or(io::ErrorKind::NotConnected)?;
            // Past tokio's bookkeeping, which calls a new socket not ready before its first turn.
            SockRef::from(&*socket).send_to(datagram, &to.into()).map(drop)
        };
        Ok(Self { dual_stack, ..Self::new(local, limit, send) })
    }

    /// Says that this IPv6 socket carries IPv4, too, as IPv4-mapped addresses (RFC 4291 section 2.5.5.2).
    #[must_use]
    pub fn dual_stack(self) -> Self {
        Self { dual_stack: true, ..self }
    }

    /// The address and port that the socket is bound to.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// A network in which whoever binds to this socket's port gets this socket, and everything else comes from
    /// `others`. The use of the socket ends when nobody holds it any more, which a measurement's tasks may do a moment longer
    /// than the measurement; [`Check::owned_socket`](crate::Check::owned_socket) ends it with the measurement.
    #[must_use]
    pub fn net(&self, others: Arc<dyn Net>) -> Arc<dyn Net> {
        Arc::new(OwnedNet { owned: self.clone(), others })
    }

    /// Offers a datagram that the socket has received. True: it answers a request of the measurement and is taken.
    /// False: it is the owner's.
    #[must_use = "what is not taken is the owner's to handle"]
    pub fn offer(&self, datagram: &[u8], from: SocketAddr) -> bool {
        let Some(id) = answered_transaction(datagram) else { return false };
        if self.has_ended() {
            return false;
        }
        let Some(queue) = self.outstanding().get(&id).cloned() else { return false };
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        // What does not fit is lost, as in the queue of any socket.
        _ = queue.try_send((datagram.to_vec(), from));
        true
    }

    /// Ends the use of the socket. When this returns, nothing more is sent through it.
    pub fn end(&self) {
        let send = self.shared.send.write().unwrap_or_else(PoisonError::into_inner).take();
        self.outstanding().clear();
        // What the owner's function holds is dropped last, when nothing is locked.
        drop(send);
    }

    /// Whether the use of the socket has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        if Instant::now() >= self.shared.deadline {
            self.end();
        }
        self.shared.send.read().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Whether a socket that is bound to `wanted` would be this one.
    fn is(&self, wanted: SocketAddr) -> bool {
        let family = wanted.is_ipv4() == self.local.is_ipv4() || (self.dual_stack && wanted.is_ipv4());
        family && wanted.port() == self.local.port()
    }

    fn send(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        if self.has_ended() {
            return Err(ended());
        }
        let to = match (to.ip(), self.local.ip()) {
            (IpAddr::V4(ip), IpAddr::V6(_)) => SocketAddr::new(ip.to_ipv6_mapped().into(), to.port()),
            _ => to,
        };
        let send = self.shared.send.read().unwrap_or_else(PoisonError::into_inner);
        send.as_ref().ok_or_else(ended)?(datagram, to)
    }

    fn outstanding(&self) -> MutexGuard<'_, HashMap<TransactionId, mpsc::Sender<Arrival>>> {
        self.shared.outstanding.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for OwnedSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedSocket")
            .field("local", &self.local)
            .field("dual_stack", &self.dual_stack)
            .finish()
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the use of the program's own socket has ended")
}

/// The transaction that a datagram answers, if it is a well-formed STUN answer (RFC 8489 section 6.3). Its 96 random bits
/// (128 in the classic dialect) must be known besides.
fn answered_transaction(datagram: &[u8]) -> Option<TransactionId> {
    let view = View::parse(datagram).ok()?;
    let answers = matches!(view.class(), Class::Success | Class::Error) && view.method() == BINDING;
    answers.then(|| view.id())
}

struct OwnedNet {
    owned: OwnedSocket,
    others: Arc<dyn Net>,
}

impl Net for OwnedNet {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        if !self.owned.is(local) {
            return self.others.bind(local);
        }
        Box::pin(async {
            if self.owned.has_ended() {
                return Err(ended());
            }
            let (arriving, arrived) = mpsc::channel(QUEUE);
            let arrived = AsyncMutex::new(arrived);
            Ok(Box::new(OwnedDatagram { owned: self.owned.clone(), arriving, arrived }) as Box<dyn Datagram>)
        })
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        self.others.source_for(remote)
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        self.others.connect(local, remote)
    }

    fn tcp_port(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn TcpPort>>> {
        self.others.tcp_port(local)
    }

    fn ipv6_addresses(&self) -> Vec<OwnAddress> {
        self.others.ipv6_addresses()
    }

    fn prefix_len(&self, own: IpAddr) -> Option<u8> {
        self.others.prefix_len(own)
    }

    fn gateway(&self, own: IpAddr) -> Option<IpAddr> {
        self.others.gateway(own)
    }

    fn scope_id(&self, own: IpAddr) -> u32 {
        self.others.scope_id(own)
    }

    fn interface(&self, own: IpAddr) -> InterfaceKind {
        self.others.interface(own)
    }

    fn trace_socket(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn TraceSocket>>> {
        self.others.trace_socket(local)
    }

    fn tracks_connections(&self) -> Option<bool> {
        self.others.tracks_connections()
    }

    fn suspended(&self) -> Option<Duration> {
        self.others.suspended()
    }
}

impl Drop for OwnedNet {
    fn drop(&mut self) {
        self.owned.end();
    }
}

/// The socket as the measurement sees it.
struct OwnedDatagram {
    owned: OwnedSocket,
    arriving: mpsc::Sender<Arrival>,
    arrived: AsyncMutex<mpsc::Receiver<Arrival>>,
}

impl Datagram for OwnedDatagram {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.owned.local)
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move {
            let request =
                View::parse(datagram).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
            self.owned.outstanding().insert(request.id(), self.arriving.clone());
            self.owned.send(datagram, to)
        })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let (datagram, from) = self.arrived.lock().await.recv().await.ok_or_else(ended)?;
            let length = datagram.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram[..length]);
            Ok((length, from))
        })
    }

    /// Refused: the owner's packets would carry it, too.
    fn set_ttl(&self, _ttl: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl Drop for OwnedDatagram {
    fn drop(&mut self) {
        self.owned.outstanding().retain(|_, queue| !queue.same_channel(&self.arriving));
    }
}

impl fmt::Debug for OwnedDatagram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the program's own udp socket {}", self.owned.local)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use shared::stun::{Writer, attr};
    use tokio::time::advance;

    use super::*;
    use crate::net::os::OsNet;

    const SERVER: &str = "198.51.100.10:3478";

    fn server() -> SocketAddr {
        SERVER.parse().unwrap()
    }

    fn message(class: Class, seed: u64) -> Vec<u8> {
        let id = TransactionId::modern(&mut fastrand::Rng::with_seed(seed));
        let mut buffer = vec![0; 64];
        let mut writer = Writer::new(&mut buffer, class, &id);
        if class == Class::Success {
            writer.xor_address(attr::XOR_MAPPED_ADDRESS, server());
        }
        let length = writer.finish().unwrap();
        buffer.truncate(length);
        buffer
    }

    /// A socket whose packets are only counted.
    fn counted(local: &str) -> (OwnedSocket, Arc<AtomicUsize>) {
        let sent = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&sent);
        let send = move |_: &[u8], _| {
            count.fetch_add(1, Ordering::Relaxed);
            Ok(())
        };
        (OwnedSocket::new(local.parse().unwrap(), Duration::from_secs(10), send), sent)
    }

    #[tokio::test(start_paused = true)]
    async fn only_answers_to_what_was_asked_are_taken() {
        let (owned, _) = counted("192.0.2.1:4433");
        let net = owned.net(Arc::new(OsNet));
        let lent = net.bind(owned.local()).await.unwrap();
        let answer = message(Class::Success, 1);
        assert!(!owned.offer(&answer, server()), "nothing was asked yet");
        lent.send_to(&message(Class::Request, 1), server()).await.unwrap();

        let mut changed = answer.clone();
        changed[10] ^= 1;
        let longer = [answer.as_slice(), &[0]].concat();
        for foreign in
            [&b"QUIC"[..], &[], &answer[..answer.len() - 1], &changed, &longer, &message(Class::Request, 1)]
        {
            assert!(!owned.offer(foreign, server()), "{foreign:02x?}");
        }
        assert!(owned.offer(&answer, server()));
        let mut buffer = [0; 100];
        let (length, from) = lent.recv_from(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..length], from), (answer.as_slice(), server()));
        assert!(owned.offer(&answer, server()), "a copy of it is not the owner's either");

        drop(lent);
        assert!(!owned.offer(&answer, server()), "nobody waits for it any more");
        assert!(!owned.has_ended(), "another measurement may follow");
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_limit_nothing_is_sent_or_taken() {
        let held = Arc::new(());
        let watched = Arc::downgrade(&held);
        let send = move |_: &[u8], _| {
            let _held = &held;
            Ok(())
        };
        let owned = OwnedSocket::new("192.0.2.1:4433".parse().unwrap(), Duration::from_secs(10), send);
        let net = owned.net(Arc::new(OsNet));
        let lent = net.bind(owned.local()).await.unwrap();
        lent.send_to(&message(Class::Request, 1), server()).await.unwrap();
        advance(Duration::from_secs(10)).await;
        assert!(!owned.offer(&message(Class::Success, 1), server()));
        assert!(lent.send_to(&message(Class::Request, 2), server()).await.is_err());
        assert!(watched.upgrade().is_none(), "what the owner's function held is free");
        assert!(net.bind(owned.local()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_network_is_the_end_of_the_use() {
        let (owned, sent) = counted("192.0.2.1:4433");
        let net = owned.net(Arc::new(OsNet));
        let lent = net.bind(owned.local()).await.unwrap();
        lent.send_to(&message(Class::Request, 1), server()).await.unwrap();
        drop(net);
        assert!(owned.has_ended() && !owned.offer(&message(Class::Success, 1), server()));
        assert!(lent.send_to(&message(Class::Request, 1), server()).await.is_err());
        assert_eq!(sent.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_of_both_families_is_sent_mapped_addresses() {
        let last = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&last);
        let send = move |_: &[u8], to| {
            *seen.lock().unwrap() = Some(to);
            Ok(())
        };
        let local = "[::]:4433".parse().unwrap();
        let owned = OwnedSocket::new(local, Duration::from_secs(10), send).dual_stack();
        let net = owned.net(Arc::new(OsNet));
        let lent = net.bind("192.0.2.1:4433".parse().unwrap()).await.unwrap();
        lent.send_to(&message(Class::Request, 1), server()).await.unwrap();
        let mapped: SocketAddr = "[::ffff:198.51.100.10]:3478".parse().unwrap();
        assert_eq!(*last.lock().unwrap(), Some(mapped));
        assert!(owned.offer(&message(Class::Success, 1), mapped));
        let (_, from) = lent.recv_from(&mut [0; 100]).await.unwrap();
        assert_eq!(from, server());
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_to_live_of_the_owners_packets_stays() {
        let (owned, _) = counted("192.0.2.1:4433");
        let lent = owned.net(Arc::new(OsNet)).bind(owned.local()).await.unwrap();
        assert_eq!(lent.set_ttl(1).unwrap_err().kind(), io::ErrorKind::Unsupported);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_answers_is_cut_off() {
        let (owned, _) = counted("192.0.2.1:4433");
        let net = owned.net(Arc::new(OsNet));
        let lent = net.bind(owned.local()).await.unwrap();
        lent.send_to(&message(Class::Request, 1), server()).await.unwrap();
        for _ in 0..QUEUE * 2 {
            assert!(owned.offer(&message(Class::Success, 1), server()));
        }
        let mut taken = 0;
        while tokio::time::timeout(Duration::from_millis(1), lent.recv_from(&mut [0; 100])).await.is_ok() {
            taken += 1;
        }
        assert_eq!(taken, QUEUE);
    }
}
