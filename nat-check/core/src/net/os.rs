//! The operating system's network.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdp},
    time::Duration,
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::{Boxed, Datagram, Net, Stream};

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
        Box::pin(self.0.recv_from(buffer))
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
}
