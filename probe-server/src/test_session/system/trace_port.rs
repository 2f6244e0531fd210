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
    net::UdpSocket,
    sync::Mutex,
    time::{Instant, sleep},
};

use super::icmp;
use crate::test_session::TracePort;

/// A socket that keeps ICMP errors.
pub(super) struct SystemTracePort {
    socket: UdpSocket,
    /// Held by the one trace that may set the socket's TTL.
    tracing: Mutex<()>,
}

/// Between two packets.
const PACE: Duration = Duration::from_millis(2);
/// Longest datagram that is read: a request with a token.
const MAX_DATAGRAM: usize = 256;
/// The beginning of each packet; the last byte is its TTL.
const PAYLOAD: [u8; 7] = *b"trace\0\0";

impl SystemTracePort {
    pub(super) fn open(ip: IpAddr) -> io::Result<Self> {
        let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0))?;
        socket.set_nonblocking(true)?;
        icmp::keep_errors(&socket, ip.is_ipv6())?;
        Ok(Self { socket: UdpSocket::from_std(socket)?, tracing: Mutex::new(()) })
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

    async fn trace(&self, to: SocketAddr, ttls: (u8, u8), wait: Duration) -> Vec<Hop> {
        let _tracing = self.tracing.lock().await;
        while icmp::take_error(&self.socket).is_some() {}
        let (mut sent, mut hops) = (Vec::new(), Vec::new());
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
            self.collect(&sent, &mut hops);
        }
        let until = Instant::now() + wait;
        // Looked at again and again, as whoever waits for the flow is woken by the errors, too.
        while hops.len() < sent.len() && Instant::now() < until {
            sleep(PACE).await;
            self.collect(&sent, &mut hops);
        }
        hops.sort_by_key(|hop| hop.ttl);
        hops
    }

    /// Enters the ICMP errors that have come: of several about one packet the first.
    fn collect(&self, sent: &[(u8, Instant)], hops: &mut Vec<Hop>) {
        while let Some((icmp, quoted)) = icmp::take_error(&self.socket) {
            let ttl = quoted.strip_prefix(&PAYLOAD[..]).and_then(|rest| rest.first().copied());
            let found = sent.iter().find(|(it, _)| Some(*it) == ttl);
            if let Some((ttl, at)) = found.filter(|(ttl, _)| hops.iter().all(|hop| hop.ttl != *ttl)) {
                let after_us = u32::try_from(at.elapsed().as_micros()).unwrap_or(u32::MAX);
                hops.push(Hop { ttl: *ttl, icmp, after_us });
            }
        }
    }
}

impl TracePort for SystemTracePort {
    fn port(&self) -> u16 {
        self.socket.local_addr().map_or(0, |local| local.port())
    }

    fn flow(&self, token: Token) -> Pin<Box<dyn Future<Output = SocketAddr> + Send + '_>> {
        Box::pin(self.next_flow(token))
    }

    fn trace(
        &self,
        to: SocketAddr,
        ttls: (u8, u8),
        wait: Duration,
    ) -> Pin<Box<dyn Future<Output = Vec<Hop>> + Send + '_>> {
        Box::pin(Self::trace(self, to, ttls, wait))
    }
}

/// The token of a test session in a request.
fn token_in(datagram: &[u8]) -> Option<Token> {
    View::parse(datagram).ok()?.find(attr::TOKEN)?.try_into().ok().map(Token)
}
