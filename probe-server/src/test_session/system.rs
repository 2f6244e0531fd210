//! Connects with the sockets of Linux: two SYNs at the most, and what comes of them, to the microsecond.

mod helper_ports;
mod icmp;
mod trace_port;

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use nix::{
    ifaddrs::getifaddrs,
    setsockopt_impl, sockopt_impl,
    sys::socket::{SockaddrStorage, setsockopt, sockopt::DontRoute},
};
use shared::test_session::SynOutcome;
use socket2::Socket;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{Instant, sleep_until},
};

use super::{Attempt, Attempted, ByteStream, ConnectBack, HelperPorts, NoConnection, TracePort};
use helper_ports::{HelperSockets, share_port, socket};
use trace_port::SystemTracePort;

/// The operating system's sockets.
#[derive(Default)]
pub(crate) struct SystemSockets {
    /// By the addresses of a family: opened when the first session needs them.
    helpers: Mutex<HashMap<[Option<IpAddr>; 2], HelperSockets>>,
}

/// When the second SYN has left, after 1 s, and a third one has not: that comes after 2 s since Linux 6.5, after 3 s before.
const AFTER_SECOND_SYN: Duration = Duration::from_millis(1200);
/// Repeated SYNs that the system is asked for: with so many it waits for an answer for longer than clients may ask for.
const REPEATED: u32 = 3;
/// A type of service that the socket does not have yet: setting it makes the system look for the route again.
const OTHER_TYPE_OF_SERVICE: u32 = 0x10;

sockopt_impl!(SynCount, SetOnly, libc::IPPROTO_TCP, libc::TCP_SYNCNT, u32);

impl ConnectBack for SystemSockets {
    fn connect(&self, attempt: Attempt) -> Pin<Box<dyn Future<Output = Attempted> + Send>> {
        Box::pin(connect(attempt))
    }

    fn helper_ports(&self, addresses: [Option<IpAddr>; 2]) -> [HelperPorts; 2] {
        let mut helpers = self.helpers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sockets) = helpers.get(&addresses) {
            return sockets.ports();
        }
        // An address that is missing now may be there for the next client.
        let Ok(sockets) = HelperSockets::open(addresses) else { return Default::default() };
        helpers.entry(addresses).or_insert(sockets).ports()
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        // Where the system does not tell, the addresses that the server is bound to have been looked at.
        let Ok(mut addresses) = getifaddrs() else { return false };
        addresses.any(|it| it.address.as_ref().and_then(ip_of) == Some(ip)) && !ip.is_loopback()
    }

    fn trace_port(&self, ip: IpAddr) -> Option<Arc<dyn TracePort>> {
        Some(Arc::new(SystemTracePort::open(ip).ok()?))
    }
}

fn ip_of(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|it| it.ip().into());
    v4.or_else(|| address.as_sockaddr_in6().map(|it| it.ip().into()))
}

async fn connect(attempt: Attempt) -> Attempted {
    let started = Instant::now();
    let failed = NoConnection { outcome: SynOutcome::Failed, icmp: None };
    let Ok((connecting, socket)) = Connecting::prepare(&attempt) else {
        return Attempted { from: None, after: Duration::ZERO, end: Err(failed) };
    };
    let end = connecting.wait(socket.connect(attempt.to), started, attempt.wait).await;
    Attempted { from: connecting.from, after: started.elapsed(), end }
}

/// A second hold on a socket that connects: what the system has to say of it, and what it is to be told meanwhile.
struct Connecting {
    socket: Socket,
    from: Option<SocketAddr>,
}

impl Connecting {
    fn prepare(attempt: &Attempt) -> io::Result<(Self, TcpSocket)> {
        let socket = socket(attempt.from.ip())?;
        if attempt.from.port() != 0 {
            share_port(&socket)?;
        }
        icmp::keep_errors(&socket, attempt.from.is_ipv6())?;
        setsockopt(&socket, SynCount, &REPEATED)?;
        socket.bind(&attempt.from.into())?;
        let from = socket.local_addr()?.as_socket();
        let connects = TcpSocket::from_std_stream(socket.try_clone()?.into());
        Ok((Self { socket, from }, connects))
    }

    /// Waits for the end of the handshake, or until the time is over.
    async fn wait(
        &self,
        handshake: impl Future<Output = io::Result<TcpStream>>,
        started: Instant,
        wait: Duration,
    ) -> Result<Box<dyn ByteStream>, NoConnection> {
        tokio::pin!(handshake);
        let mut is_held_back = false;
        loop {
            tokio::select! {
                end = &mut handshake => {
                    self.let_go();
                    let stream = end.map_err(|error| self.no_connection(&error))?;
                    return Ok(Box::new(stream));
                }
                () = sleep_until(started + AFTER_SECOND_SYN), if !is_held_back => {
                    is_held_back = true;
                    self.hold_back_syns();
                }
                () = sleep_until(started + wait) => {
                    return Err(NoConnection { outcome: SynOutcome::Timeout, icmp: None });
                }
            }
        }
    }

    fn no_connection(&self, error: &io::Error) -> NoConnection {
        let icmp = icmp::take_error(&self.socket).map(|(icmp, _)| icmp);
        NoConnection { outcome: outcome(error, icmp.is_some()), icmp }
    }

    /// Keeps the system from repeating the SYN further, without giving up waiting for the answer: from now on it has no route
    /// but to its own links. Where the client is there, or over IPv6, SYNs go on.
    fn hold_back_syns(&self) {
        // What fails costs a few SYNs more.
        _ = setsockopt(&self.socket, DontRoute, &true);
        self.look_for_route_again(OTHER_TYPE_OF_SERVICE);
    }

    fn let_go(&self) {
        _ = setsockopt(&self.socket, DontRoute, &false);
        self.look_for_route_again(0);
    }

    fn look_for_route_again(&self, type_of_service: u32) {
        if self.from.is_some_and(|from| from.is_ipv4()) {
            _ = self.socket.set_tos_v4(type_of_service);
        }
    }
}

/// A system without a route has stopped waiting just as one whose time is over.
fn outcome(error: &io::Error, is_icmp: bool) -> SynOutcome {
    match error.raw_os_error() {
        _ if is_icmp => SynOutcome::Unreachable,
        Some(libc::ECONNREFUSED) => SynOutcome::Refused,
        Some(libc::ETIMEDOUT | libc::ENETUNREACH | libc::EHOSTUNREACH) => SynOutcome::Timeout,
        _ => SynOutcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn a_connect_ends_with_a_stream_a_reset_or_silence_over_both_families() {
        for ip in ["127.0.0.1", "::1"] {
            let any = SocketAddr::new(ip.parse().unwrap(), 0);
            let listener = TcpListener::bind(any).await.unwrap();
            let network = SystemSockets::default();
            let [helpers, _] = network.helper_ports([Some(any.ip()), None]);
            let wait = Duration::from_secs(60);
            let attempt = |to: SocketAddr| connect(Attempt { from: any, to, wait });
            let to = listener.local_addr().unwrap();
            let attempted = attempt(to).await;
            let (mut accepted, from) = listener.accept().await.unwrap();
            assert_eq!(attempted.from, Some(from));
            let Ok(mut stream) = attempted.end else { panic!("no connection to {to}") };
            stream.write_all(b"x").await.unwrap();
            assert_eq!(accepted.read_u8().await.unwrap(), b'x');
            let refused = attempt(helpers.closed.unwrap()).await.end.err().map(|none| none.outcome);
            assert_eq!(refused, Some(SynOutcome::Refused));
        }
    }

    #[test]
    fn an_icmp_error_is_no_reset_and_a_missing_route_no_answer() {
        let error = io::Error::from_raw_os_error;
        assert_eq!(outcome(&error(libc::ECONNREFUSED), true), SynOutcome::Unreachable);
        assert_eq!(outcome(&error(libc::ECONNREFUSED), false), SynOutcome::Refused);
        assert_eq!(outcome(&error(libc::ENETUNREACH), false), SynOutcome::Timeout);
        assert_eq!(outcome(&error(libc::EADDRNOTAVAIL), false), SynOutcome::Failed);
    }
}
