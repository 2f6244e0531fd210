//! The operating system's network.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdp},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

use super::{Boxed, Datagram, Listener, Net, Stream, TcpPort};
#[cfg(all(not(target_os = "linux"), feature = "punch"))]
use crate::report::AddressKind;
#[cfg(any(target_os = "linux", feature = "punch"))]
use crate::report::OwnAddress;

/// Sockets of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsNet;

impl Net for OsNet {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        Box::pin(async move {
            let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
            if local.is_ipv6() {
                // Each family is tested by itself.
                socket.set_only_v6(true)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&local.into())?;
            let socket = UdpSocket::from_std(socket.into())?;
            Ok(Box::new(OsDatagram(socket)) as Box<dyn Datagram>)
        })
    }

    #[cfg(feature = "punch")]
    fn prefix_len(&self, own: IpAddr) -> Option<u8> {
        let interfaces = if_addrs::get_if_addrs().ok()?;
        interfaces.into_iter().find(|interface| interface.ip() == own).map(|interface| match interface.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        })
    }

    #[cfg(all(target_os = "linux", feature = "port-mapping"))]
    fn gateway(&self, own: IpAddr) -> Option<IpAddr> {
        let interfaces = if_addrs::get_if_addrs().ok()?;
        let interface = interfaces.into_iter().find(|interface| interface.ip() == own)?;
        super::routes::default_gateway(&interface.name, own)
    }

    #[cfg(feature = "port-mapping")]
    fn scope_id(&self, own: IpAddr) -> u32 {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let interface = interfaces.into_iter().find(|interface| interface.ip() == own);
        interface.and_then(|interface| interface.index).unwrap_or(0)
    }

    #[cfg(all(target_os = "linux", feature = "port-mapping"))]
    fn interface(&self, own: IpAddr) -> super::InterfaceKind {
        super::interfaces::kind(own)
    }

    #[cfg(all(target_os = "linux", feature = "port-mapping"))]
    fn trace_socket(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn super::TraceSocket>>> {
        Box::pin(async move {
            Ok(Box::new(super::icmp::OsTraceSocket::open(local)?) as Box<dyn super::TraceSocket>)
        })
    }

    #[cfg(target_os = "linux")]
    fn ipv6_addresses(&self) -> Vec<OwnAddress> {
        super::if_inet6::read()
    }

    #[cfg(all(not(target_os = "linux"), feature = "punch"))]
    fn ipv6_addresses(&self) -> Vec<OwnAddress> {
        let is_local = |ip: &IpAddr| match ip {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unicast_link_local(),
        };
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let addresses = interfaces.into_iter().map(|interface| interface.ip());
        addresses.filter(|ip| !is_local(ip)).map(|ip| OwnAddress::new(ip, AddressKind::Unknown)).collect()
    }

    #[cfg(target_os = "linux")]
    fn tracks_connections(&self) -> Option<bool> {
        let read = |path: &str| std::fs::read_to_string(path).ok();
        match read("/proc/sys/net/netfilter/nf_conntrack_count") {
            Some(count) => Some(count.trim().parse::<u64>().ok()? > 0),
            // Where it is missing there is no connection tracking; but a container's own users are not shown it.
            None => {
                let users = read("/proc/self/uid_map")?;
                users.split_whitespace().eq(["0", "0", "4294967295"]).then_some(false)
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn suspended(&self) -> Option<Duration> {
        use rustix::time::{ClockId, clock_gettime};
        // One of the two clocks stands still while the machine is suspended.
        let [all, awake] = [ClockId::Boottime, ClockId::Monotonic].map(|clock| {
            let time = clock_gettime(clock);
            Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
        });
        // They are read one after the other, so the last digits mean nothing.
        Some(Duration::from_millis(all.saturating_sub(awake).as_millis() as u64 / 100 * 100))
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        let any: IpAddr =
            if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        // Connecting a UDP socket sends nothing; it makes the system choose a route and with it an address.
        let socket = StdUdp::bind(SocketAddr::new(any, 0))?;
        socket.connect(remote)?;
        Ok(socket.local_addr()?.ip())
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let socket = if remote.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
            if let Some(local) = local {
                socket.set_reuseaddr(true)?;
                socket.bind(local)?;
            }
            let stream = socket.connect(remote).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn tcp_port(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn TcpPort>>> {
        Box::pin(async move {
            let reserved = shared_socket(local)?;
            let local = reserved.local_addr()?;
            Ok(Box::new(OsTcpPort { local, _reserved: reserved }) as Box<dyn TcpPort>)
        })
    }
}

/// A TCP port, kept by a socket that is bound to it and never used.
#[derive(Debug)]
struct OsTcpPort {
    local: SocketAddr,
    _reserved: TcpSocket,
}

impl TcpPort for OsTcpPort {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn connect(&self, remote: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = shared_socket(self.local)?.connect(remote).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn listen(&self) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(shared_socket(self.local)?.listen(BACKLOG)?))
    }
}

impl Listener for TcpListener {
    fn accept(&self) -> Boxed<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = Self::accept(self).await?;
            Ok((Box::new(stream) as Box<dyn Stream>, from))
        })
    }
}

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 32;

/// A TCP socket whose port others of this program may share. SO_REUSEADDR is enough for connections to several remote
/// endpoints, and on Windows for a listener beside them; elsewhere that takes SO_REUSEPORT, too.
fn shared_socket(local: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if local.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuseport(true)?;
    socket.bind(local)?;
    Ok(socket)
}

#[derive(Debug)]
struct OsDatagram(UdpSocket);

impl Datagram for OsDatagram {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move { self.0.send_to(datagram, to).await.map(|_| ()) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            loop {
                self.0.readable().await?;
                match past_icmp_reports(|| self.0.try_recv_from(buffer)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return received,
                }
            }
        })
    }

    fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        if self.0.local_addr()?.is_ipv4() {
            self.0.set_ttl(ttl)
        } else {
            SockRef::from(&self.0).set_unicast_hops_v6(ttl)
        }
    }
}

impl Stream for TcpStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    fn reset_on_drop(&self) -> io::Result<()> {
        SockRef::from(self).set_linger(Some(Duration::ZERO))
    }
}

/// Receives, past the reports of ICMP messages that Windows puts between the datagrams of a UDP socket: one for each
/// datagram sent to a closed port (WSAECONNRESET) or stopped by its time to live (WSAENETRESET). They say nothing of
/// this socket, and unconnected sockets of other systems do not tell them either.
fn past_icmp_reports<T>(mut receive: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match receive() {
            Err(error) if is_icmp_report(&error) => tracing::trace!(%error, "an ICMP message came back"),
            received => return received,
        }
    }
}

fn is_icmp_report(error: &io::Error) -> bool {
    /// WSAENETRESET, which the standard library has no name for.
    const NET_RESET: i32 = 10_052;
    error.kind() == io::ErrorKind::ConnectionReset
        || (cfg!(windows) && error.raw_os_error() == Some(NET_RESET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn icmp_reports_are_no_failures_of_the_socket() {
        // As after a burst to 2,000 ports of which most are closed.
        let mut queue = (0..2000).map(|_| Err(io::ErrorKind::ConnectionReset.into())).chain([Ok(7)]);
        let received: io::Result<i32> = past_icmp_reports(|| queue.next().unwrap());
        assert_eq!(received.unwrap(), 7);
    }

    #[test]
    fn other_failures_are_told() {
        for kind in [io::ErrorKind::WouldBlock, io::ErrorKind::PermissionDenied] {
            let received: io::Result<i32> = past_icmp_reports(|| Err(kind.into()));
            assert_eq!(received.unwrap_err().kind(), kind);
        }
    }

    #[tokio::test]
    async fn one_port_has_several_connections_and_a_listener() {
        let loopback: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let servers =
            [TcpListener::bind(loopback).await.unwrap(), TcpListener::bind(loopback).await.unwrap()];
        let port = OsNet.tcp_port(loopback).await.unwrap();
        let here = port.local_addr().unwrap();
        let listener = port.listen().unwrap();
        for server in &servers {
            let stream = port.connect(server.local_addr().unwrap()).await.unwrap();
            stream.reset_on_drop().unwrap();
            assert_eq!(server.accept().await.unwrap().1, here);
        }
        let caller = OsNet.connect(None, here).await.unwrap();
        let (_, from) = listener.accept().await.unwrap();
        assert_eq!(from, caller.local_addr().unwrap());
        let closed = OsNet.tcp_port(loopback).await.unwrap().local_addr().unwrap();
        let refused = port.connect(closed).await.err().map(|error| error.kind());
        assert_eq!(refused, Some(io::ErrorKind::ConnectionRefused));
    }

    #[tokio::test]
    async fn a_socket_receives_what_is_sent_to_it() {
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let (a, b) = (OsNet.bind(local).await.unwrap(), OsNet.bind(local).await.unwrap());
        let (to, mut buffer) = (b.local_addr().unwrap(), [0; 10]);
        for word in [&b"one"[..], b"two"] {
            a.send_to(word, to).await.unwrap();
            let (length, from) = b.recv_from(&mut buffer).await.unwrap();
            assert_eq!((&buffer[..length], from), (word, a.local_addr().unwrap()));
        }
    }
}
