//! A UDP port that sends packets with a limited TTL: its own, so that no other packet of the server gets that TTL.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    time::Duration,
};

use shared::{
    stun::{View, attr},
    test_session::{Hop, Token},
};
use socket2::SockRef;
use tokio::{
    io::Interest,
    net::UdpSocket,
    time::{Instant, sleep, timeout_at},
};

use super::icmp;
use crate::test_session::TracePort;

/// A socket that keeps ICMP errors.
pub(super) struct SystemTracePort {
    socket: UdpSocket,
}

/// Between two packets.
const PACE: Duration = Duration::from_millis(5);
/// How long to wait for what comes back, after the last packet.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Longest datagram that is read: a request with a token.
const MAX_DATAGRAM: usize = 256;
/// The beginning of each packet; the last byte is its TTL.
const PAYLOAD: [u8; 7] = *b"trace\0\0";

impl SystemTracePort {
    pub(super) fn open(ip: IpAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0))?;
        socket.set_nonblocking(true)?;
        icmp::keep_errors(&socket, ip.is_ipv6())?;
        Ok(Self { socket: UdpSocket::from_std(socket)? })
    }

    async fn next_flow(&self, token: Token) -> SocketAddr {
        loop {
            let mut datagram = [0; MAX_DATAGRAM];
            match self.socket.recv_from(&mut datagram).await {
                Ok((length, from)) if token_in(&datagram[..length]) == Some(token) => return from,
                Ok(_) => {}
                // An ICMP error about a trace: it shows here, too.
                Err(_) => sleep(PACE).await,
            }
        }
    }

    async fn trace(&self, to: SocketAddr, ttls: (u8, u8)) -> Vec<Hop> {
        while icmp::take_error(&self.socket).is_some() {}
        let mut sent = Vec::new();
        for ttl in ttls.0..=ttls.1 {
            let limited = match to {
                SocketAddr::V4(_) => SockRef::from(&self.socket).set_ttl_v4(ttl.into()),
                SocketAddr::V6(_) => SockRef::from(&self.socket).set_unicast_hops_v6(ttl.into()),
            };
            let [a, b, c, d, e, f, g] = PAYLOAD;
            let packet = [a, b, c, d, e, f, g, ttl];
            sent.push((ttl, Instant::now()));
            // Never without its limit. The system tells an ICMP error that came meanwhile instead of sending.
            if limited.is_ok() && self.socket.send_to(&packet, to).await.is_err() {
                _ = self.socket.send_to(&packet, to).await;
            }
            sleep(PACE).await;
        }
        let mut hops: Vec<Hop> = Vec::new();
        let until = Instant::now() + PATIENCE;
        while hops.len() < sent.len() && timeout_at(until, self.socket.ready(Interest::ERROR)).await.is_ok() {
            while let Some((icmp, quoted)) = icmp::take_error(&self.socket) {
                let ttl = quoted.strip_prefix(&PAYLOAD[..]).and_then(|rest| rest.first().copied());
                let found = sent.iter().find(|(it, _)| Some(*it) == ttl);
                if let Some((ttl, at)) = found.filter(|(ttl, _)| hops.iter().all(|hop| hop.ttl != *ttl)) {
                    let after_us = u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX);
                    hops.push(Hop { ttl: *ttl, icmp, after_us });
                }
            }
            // There is nothing more: the next error makes it ready again.
            _ = self.socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
        }
        hops.sort_by_key(|hop| hop.ttl);
        hops
    }
}

impl TracePort for SystemTracePort {
    fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |local| local.port())
    }

    fn flow(&mut self, token: Token) -> Pin<Box<dyn Future<Output = SocketAddr> + Send + '_>> {
        Box::pin(self.next_flow(token))
    }

    fn trace(
        &mut self,
        to: SocketAddr,
        ttls: (u8, u8),
    ) -> Pin<Box<dyn Future<Output = Vec<Hop>> + Send + '_>> {
        Box::pin(Self::trace(self, to, ttls))
    }
}

/// The token of a test session in a request.
fn token_in(datagram: &[u8]) -> Option<Token> {
    View::parse(datagram).ok()?.find(attr::TOKEN)?.try_into().ok().map(Token)
}
