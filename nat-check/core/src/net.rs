//! The network as the probes see it: datagram sockets, byte streams, local addresses. One trait, two worlds: the
//! operating system's and the simulated one.

#[cfg(all(target_os = "linux", feature = "port-mapping"))]
mod icmp;
#[cfg(target_os = "linux")]
mod if_inet6;
#[cfg(all(target_os = "linux", feature = "port-mapping"))]
mod interfaces;
pub mod os;
pub mod owned;
#[cfg(all(target_os = "linux", feature = "port-mapping"))]
mod routes;
#[cfg(any(test, feature = "sim"))]
pub mod sim;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::report::OwnAddress;

/// A future that can be kept in a trait object.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Opens sockets. Whoever holds one can measure; nothing else of the client touches a network.
pub trait Net: Send + Sync {
    /// Opens a UDP socket of `local`'s family. An unspecified address means any; port 0 means a random free port.
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>>;

    /// The local address that packets to `remote` leave from, or an error where there is no route.
    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr>;

    /// Connects over TCP, from `local` where it is given.
    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>>;

    /// Takes a TCP port of `local`'s address (port 0 means a random free one), from which several connections and a listener
    /// can share one mapping. A network that has none says so.
    fn tcp_port(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn TcpPort>>> {
        let _ = local;
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    /// This host's IPv6 addresses that lead beyond its link; none where that cannot be told.
    fn ipv6_addresses(&self) -> Vec<OwnAddress> {
        Vec::new()
    }

    /// Length in bits of the prefix of the local network that this own address belongs to; none where that cannot be told.
    fn prefix_len(&self, own: IpAddr) -> Option<u8> {
        let _ = own;
        None
    }

    /// The gateway that packets from this own address leave the local network by; none where there is none, or where that
    /// cannot be told.
    fn gateway(&self, own: IpAddr) -> Option<IpAddr> {
        let _ = own;
        None
    }

    /// The number of the interface that has this own address, without which a link-local address means nothing (RFC 4007); 0
    /// where that cannot be told.
    fn scope_id(&self, own: IpAddr) -> u32 {
        let _ = own;
        0
    }

    /// What kind of interface has this own address.
    fn interface(&self, own: IpAddr) -> InterfaceKind {
        let _ = own;
        InterfaceKind::Unknown
    }

    /// A UDP socket that hears at which router its packets die. A system that does not tell says so.
    fn trace_socket(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn TraceSocket>>> {
        let _ = local;
        Box::pin(async { Err(io::ErrorKind::Unsupported.into()) })
    }

    /// Whether this host tracks the connections that it has now, which a stateful firewall of its own has to; none where that cannot
    /// be told.
    fn tracks_connections(&self) -> Option<bool> {
        None
    }

    /// How long the machine has been suspended since it was started; none where that cannot be told. Timers of a NAT
    /// go on while those of this machine stand still.
    fn suspended(&self) -> Option<Duration> {
        None
    }
}

/// One UDP socket.
pub trait Datagram: Send + Sync + fmt::Debug {
    /// Address and port that it is bound to; the address may be the unspecified one.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Sends one datagram. Errors that ICMP brings back (refused, unreachable) may surface here or in `recv_from`.
    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>>;

    /// Receives one datagram and tells who sent it.
    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>>;

    /// Sets the time to live of packets that are sent from now on.
    fn set_ttl(&self, ttl: u32) -> io::Result<()>;
}

/// A UDP socket that hears at which router its packets die, and with which TTL others arrive.
pub trait TraceSocket: Send + Sync + fmt::Debug {
    /// Sends a datagram that dies after so many routers.
    fn send<'a>(&'a self, datagram: &'a [u8], to: SocketAddr, ttl: u8) -> Boxed<'a, io::Result<()>>;

    /// The next ICMP error about a datagram that was sent.
    fn report(&self) -> Boxed<'_, io::Result<IcmpReport>>;

    /// The next datagram that comes in.
    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<Arrival>>;
}

/// An ICMP error about a datagram (RFC 792, RFC 4443).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpReport {
    /// Who sent it.
    pub from: IpAddr,
    /// Where the datagram was going.
    pub about: SocketAddr,
    /// Whether the datagram had passed as many routers as it might; otherwise it could not be delivered.
    pub is_expired: bool,
    /// How long ago it arrived; zero where the system does not say.
    pub ago: Duration,
}

/// A datagram that has come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Bytes of it that fit into the buffer.
    pub length: usize,
    /// Who sent it.
    pub from: SocketAddr,
    /// The time to live that it arrived with, where the system tells.
    pub ttl: Option<u8>,
}

/// What kind of interface it is, as far as that tells of the way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InterfaceKind {
    /// The system does not say.
    #[default]
    Unknown,
    /// A network card, or whatever acts as one.
    Ordinary,
    /// A tunnel of WireGuard.
    WireGuard,
    /// A tunnel of some program (TUN), and whether this host has another interface that can carry it.
    Tunnel {
        /// Whether it has.
        is_carried: bool,
    },
    /// A tunnel in IPv6 (RFC 2473).
    InIpv6,
}

/// A TCP connection.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// The local end.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Has the connection reset when it is dropped, so that its port is free at once and no TIME-WAIT state stays behind
    /// (RFC 9293 section 3.6.1).
    fn reset_on_drop(&self) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A local TCP port that connections to several remote endpoints and a listener share. It stays taken until this is dropped.
pub trait TcpPort: Send + Sync + fmt::Debug {
    /// The local endpoint.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Connects from this port. The error tells what came back: `ConnectionRefused`, `HostUnreachable`,
    /// `NetworkUnreachable` or `TimedOut`. Whoever drops the future gives up.
    fn connect(&self, remote: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>>;

    /// Listens at this port.
    fn listen(&self) -> io::Result<Box<dyn Listener>>;
}

/// Accepts TCP connections.
pub trait Listener: Send + Sync + fmt::Debug {
    /// The next connection, and who opened it.
    fn accept(&self) -> Boxed<'_, io::Result<(Box<dyn Stream>, SocketAddr)>>;
}
