//! At which router packets die, and with which TTL others arrive, without privileges: ICMP errors from the error queue of Linux
//! (ip(7), IP_RECVERR), and IP_RECVTTL.

use std::{
    io::{self, IoSliceMut},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nix::{
    libc,
    sys::socket::{
        ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt,
        sockopt::{Ipv4RecvErr, Ipv4RecvTtl, Ipv6RecvErr, ReceiveTimestampns},
    },
};
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

use super::{Arrival, Boxed, IcmpReport, TraceSocket};

/// A UDP socket that keeps ICMP errors.
#[derive(Debug)]
pub(super) struct OsTraceSocket(UdpSocket);

impl OsTraceSocket {
    pub(super) fn open(local: SocketAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(local)?;
        socket.set_nonblocking(true)?;
        match local {
            SocketAddr::V4(_) => {
                setsockopt(&socket, Ipv4RecvErr, &true)?;
                setsockopt(&socket, Ipv4RecvTtl, &true)?;
            }
            SocketAddr::V6(_) => setsockopt(&socket, Ipv6RecvErr, &true)?,
        }
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        Ok(Self(UdpSocket::from_std(socket)?))
    }
}

impl TraceSocket for OsTraceSocket {
    fn send<'a>(&'a self, datagram: &'a [u8], to: SocketAddr, ttl: u8) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move {
            match to {
                SocketAddr::V4(_) => SockRef::from(&self.0).set_ttl_v4(ttl.into())?,
                SocketAddr::V6(_) => SockRef::from(&self.0).set_unicast_hops_v6(ttl.into())?,
            }
            // The system tells an ICMP error that came meanwhile instead of sending.
            match self.0.send_to(datagram, to).await {
                Ok(_) => Ok(()),
                Err(_) => self.0.send_to(datagram, to).await.map(|_| ()),
            }
        })
    }

    fn report(&self) -> Boxed<'_, io::Result<IcmpReport>> {
        Box::pin(async move {
            loop {
                self.0.ready(Interest::ERROR).await?;
                // Looking inside keeps an error that comes meanwhile from being forgotten with the readiness.
                let next = || take(&self.0).ok_or_else(|| io::ErrorKind::WouldBlock.into());
                if let Ok(report) = self.0.try_io(Interest::ERROR, next) {
                    return Ok(report);
                }
            }
        })
    }

    fn receive<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<Arrival>> {
        Box::pin(async move {
            loop {
                self.0.readable().await?;
                match self.0.try_io(Interest::READABLE, || arrival(&self.0, buffer)) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    received => return received,
                }
            }
        })
    }
}

/// The next datagram.
fn arrival(socket: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<Arrival> {
    // All that the socket was asked to tell comes with each datagram, in the system's order.
    let mut control = nix::cmsg_space!(libc::c_int, libc::timespec);
    let mut pieces = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags)?;
    let from = message.address.as_ref().and_then(socket_address).ok_or(io::ErrorKind::InvalidData)?;
    let ttl = message.cmsgs().ok().and_then(|mut all| {
        all.find_map(|control| match control {
            ControlMessageOwned::Ipv4Ttl(ttl) => u8::try_from(ttl).ok(),
            _ => None,
        })
    });
    Ok(Arrival { length: message.bytes, from, ttl })
}

/// The next ICMP error that was kept.
fn take(socket: &impl AsRawFd) -> Option<IcmpReport> {
    let mut control = nix::cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6, libc::timespec);
    let mut quoted = [0; 1];
    loop {
        let mut pieces = [IoSliceMut::new(&mut quoted)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let message =
            recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut pieces, Some(&mut control), flags).ok()?;
        let about = message.address.as_ref().and_then(socket_address);
        let error = message.cmsgs().ok().and_then(|mut all| all.find_map(icmp));
        let ago = message.cmsgs().ok().and_then(|mut all| all.find_map(since_arrival)).unwrap_or_default();
        // Anything else in the queue is about this host's own refusals.
        if let (Some((from, is_expired)), Some(about)) = (error, about) {
            return Some(IcmpReport { from, about, is_expired, ago });
        }
    }
}

/// Who sent the error, and whether it is "time exceeded in transit".
fn icmp(control: ControlMessageOwned) -> Option<(IpAddr, bool)> {
    match control {
        ControlMessageOwned::Ipv4RecvErr(error, from) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP => {
            let from = Ipv4Addr::from(from?.sin_addr.s_addr.to_ne_bytes());
            Some((from.into(), (error.ee_type, error.ee_code) == (11, 0)))
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) if error.ee_origin == libc::SO_EE_ORIGIN_ICMP6 => {
            let from = Ipv6Addr::from(from?.sin6_addr.s6_addr);
            Some((from.into(), (error.ee_type, error.ee_code) == (3, 0)))
        }
        _ => None,
    }
}

/// How long ago the system received it: a program on a busy host reads it later, by more than a router nearby is away.
#[expect(clippy::disallowed_methods, reason = "the system stamps packets with the time of day")]
fn since_arrival(control: ControlMessageOwned) -> Option<Duration> {
    let ControlMessageOwned::ScmTimestampns(at) = control else { return None };
    SystemTime::now().duration_since(UNIX_EPOCH + Duration::from(at)).ok()
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = || address.as_sockaddr_in().map(|it| SocketAddr::V4((*it).into()));
    let v6 = || address.as_sockaddr_in6().map(|it| SocketAddr::V6((*it).into()));
    v4().or_else(v6)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A port that nobody listens at tells so over loopback. The system limits such errors, and another program may take the
    /// port meanwhile: then another one is tried.
    #[tokio::test]
    async fn what_cannot_be_delivered_is_reported() {
        for _ in 0..30 {
            let closed = {
                let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.local_addr().unwrap()
            };
            let socket = OsTraceSocket::open("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.send(b"x", closed, 3).await.unwrap();
            if let Ok(report) = timeout(Duration::from_secs(1), socket.report()).await {
                let IcmpReport { from, about, is_expired, ago } = report.unwrap();
                assert_eq!((from, about, is_expired), (closed.ip(), closed, false));
                assert!(!ago.is_zero(), "the system stamps what arrives");
                return;
            }
        }
        panic!("no error was reported");
    }

    #[tokio::test]
    async fn datagrams_arrive_with_their_ttl() {
        let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let [a, b] = [OsTraceSocket::open(local).unwrap(), OsTraceSocket::open(local).unwrap()];
        let to = b.0.local_addr().unwrap();
        for (word, ttl) in [(&b"one"[..], 40), (b"three", 64)] {
            a.send(word, to, ttl).await.unwrap();
            let mut buffer = [0; 16];
            let arrival = b.receive(&mut buffer).await.unwrap();
            let wanted = Arrival { length: word.len(), from: a.0.local_addr().unwrap(), ttl: Some(ttl) };
            assert_eq!((arrival, &buffer[..arrival.length]), (wanted, word));
        }
    }
}
