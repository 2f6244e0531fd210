//! A UDP association of SOCKS5 (RFC 1928 section 7) as a UDP socket: what is sent goes to the relay with a header that names
//! where to, what the relay sends back names where from.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{io::AsyncReadExt, sync::Notify, task::JoinSet};

use super::{net::Seen, socks5, wire::Bound};
use crate::net::{Boxed, Datagram, Stream};

/// Which address of the relay is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelayAddress {
    /// The one that the proxy names, where it can be the relay's.
    AsNamed,
    /// The proxy's own, with the port that it names.
    OfProxy,
}

/// Where the relay is. A proxy that names no address, or no port, means its own; one behind a NAT or in a container names an
/// address that nobody outside can reach.
pub(super) fn relay_address(named: Bound, proxy: SocketAddr, choice: RelayAddress) -> SocketAddr {
    let port = if named.port == 0 { proxy.port() } else { named.port };
    let own = proxy.ip();
    let is_reachable = |ip: IpAddr| match choice {
        RelayAddress::OfProxy => false,
        RelayAddress::AsNamed => {
            ip == own
                || !(ip.is_unspecified()
                    || ip.is_multicast()
                    || (ip.is_loopback() && !own.is_loopback())
                    || (is_private(ip) && !is_private(own) && !own.is_loopback()))
        }
    };
    SocketAddr::new(named.ip.filter(|ip| is_reachable(*ip)).unwrap_or(own), port)
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

/// A UDP socket behind a relay. It ends with its connection to the proxy, and the other way round.
pub(super) struct Association {
    socket: Box<dyn Datagram>,
    relay: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    control: Arc<Control>,
    /// Watches the connection; it is closed when this is dropped.
    _watching: JoinSet<()>,
}

/// Whether the proxy has hung up.
#[derive(Default)]
struct Control {
    ended: AtomicBool,
    changed: Notify,
}

/// Bytes that a proxy may send over the connection of an association, which nobody needs.
const MOST_IDLE_BYTES: usize = 64 * 1024;

impl Association {
    pub(super) fn new(
        mut stream: Box<dyn Stream>,
        socket: Box<dyn Datagram>,
        relay: SocketAddr,
        seen: Arc<Mutex<Seen>>,
    ) -> Self {
        let control = Arc::new(Control::default());
        let mut watching = JoinSet::new();
        let (told, counted) = (control.clone(), seen.clone());
        watching.spawn(async move {
            let (mut buffer, mut left) = ([0; 512], MOST_IDLE_BYTES);
            while let Ok(read @ 1..) = stream.read(&mut buffer).await {
                left = left.saturating_sub(read);
                if left == 0 {
                    break;
                }
            }
            told.ended.store(true, Ordering::Relaxed);
            counted.lock().unwrap_or_else(PoisonError::into_inner).ended += 1;
            told.changed.notify_waiters();
        });
        Self { socket, relay, seen, control, _watching: watching }
    }

    fn count(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn has_ended(&self) -> bool {
        self.control.ended.load(Ordering::Relaxed)
    }

    /// Until the proxy hangs up.
    async fn end(&self) {
        let changed = self.control.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !self.has_ended() {
            changed.await;
        }
    }
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the proxy has ended the association")
}

impl Datagram for Association {
    /// That of the socket towards the relay.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move {
            if self.has_ended() {
                return Err(ended());
            }
            self.socket.send_to(&socks5::wrap(to, datagram), self.relay).await?;
            self.count(|seen| seen.sent += 1);
            Ok(())
        })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let mut wrapped = vec![0; buffer.len() + socks5::LONGEST_HEADER];
            loop {
                let (length, sender) = tokio::select! {
                    biased;
                    received = self.socket.recv_from(&mut wrapped) => received?,
                    () = self.end() => return Err(ended()),
                };
                if sender != self.relay {
                    continue;
                }
                let Some((from, payload)) = socks5::unwrap(&wrapped[..length]) else { continue };
                self.count(|seen| seen.received += 1);
                let length = payload.len().min(buffer.len());
                buffer[..length].copy_from_slice(&payload[..length]);
                return Ok((length, from));
            }
        })
    }

    /// Refused: the relay sends packets of its own.
    fn set_ttl(&self, _: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

impl fmt::Debug for Association {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a udp association at the relay {}", self.relay)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::Read, *};

    #[test]
    fn an_address_that_cannot_be_the_relays_stands_for_the_proxys_own() {
        let at = |address: &str| address.parse::<SocketAddr>().unwrap();
        for (named, proxy, used) in [
            ("0.0.0.0:4000", "203.0.113.1:1080", "203.0.113.1:4000"),
            ("[::]:4000", "[2001:db8::1]:1080", "[2001:db8::1]:4000"),
            ("192.168.1.5:4000", "203.0.113.1:1080", "203.0.113.1:4000"),
            ("127.0.0.1:4000", "192.168.1.5:1080", "192.168.1.5:4000"),
            ("203.0.113.2:4000", "203.0.113.1:1080", "203.0.113.2:4000"),
            ("172.17.0.2:4000", "192.168.1.5:1080", "172.17.0.2:4000"),
            ("127.0.0.1:4000", "127.0.0.1:1080", "127.0.0.1:4000"),
            ("203.0.113.2:0", "203.0.113.1:1080", "203.0.113.2:1080"),
            ("0.0.0.0:0", "203.0.113.1:1080", "203.0.113.1:1080"),
        ] {
            assert_eq!(
                relay_address(at(named).into(), at(proxy), RelayAddress::AsNamed),
                at(used),
                "{named}"
            );
        }
        let of_proxy =
            relay_address(at("172.17.0.2:4000").into(), at("192.168.1.5:1"), RelayAddress::OfProxy);
        assert_eq!(of_proxy, at("192.168.1.5:4000"));
    }

    #[test]
    fn a_relay_that_has_a_name_keeps_its_port() {
        let reply = b"\x05\x00\x00\x03\x07relay.x\x0f\xa0";
        let Ok(Read::Whole(reply)) = socks5::parse_reply(reply) else { panic!("no reply") };
        let proxy = SocketAddr::from(([203, 0, 113, 1], 1080));
        let relay = relay_address(reply.bound, proxy, RelayAddress::AsNamed);
        assert_eq!(relay, SocketAddr::new(proxy.ip(), 4000));
    }
}
