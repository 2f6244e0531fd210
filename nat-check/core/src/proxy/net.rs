//! The network as it is behind a proxy: connections by CONNECT, and where the proxy is one of SOCKS5, UDP sockets that are
//! associations. What measures or punches holes does so through a proxy unchanged.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    associate::{Association, RelayAddress, relay_address},
    client::{Proxy, ProxyError},
    wire::Destination,
};
use crate::net::{Boxed, Datagram, Net, Stream};

/// What a proxy lets through. Each UDP socket is an association of its own, with a connection to the proxy.
pub struct ProxyNet {
    proxy: Proxy,
    /// The network that the proxy is reached in.
    outer: Arc<dyn Net>,
    relay_address: RelayAddress,
    seen: Arc<Mutex<Seen>>,
}

/// What came of asking for associations.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// How many were granted.
    pub(super) granted: usize,
    /// Why the last one was not that was refused.
    pub(super) error: Option<ProxyError>,
    /// The relay as the proxy named it.
    pub(super) named: Option<SocketAddr>,
    /// The relay as it was used.
    pub(super) used: Option<SocketAddr>,
    /// Datagrams that were given to the relay, and that came from it.
    pub(super) sent: u64,
    pub(super) received: u64,
    /// How many the proxy ended by itself.
    pub(super) ended: usize,
}

impl Seen {
    /// Whether associations were granted, and nothing came through them.
    pub(super) fn is_dead(&self) -> bool {
        self.granted > 0 && self.received == 0
    }
}

impl ProxyNet {
    /// What this proxy lets through, which is reached in this network.
    #[must_use]
    pub fn new(proxy: Proxy, outer: Arc<dyn Net>) -> Self {
        Self::with_relay_address(proxy, outer, RelayAddress::AsNamed)
    }

    pub(super) fn with_relay_address(proxy: Proxy, outer: Arc<dyn Net>, relay_address: RelayAddress) -> Self {
        Self { proxy, outer, relay_address, seen: Arc::default() }
    }

    pub(super) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn associate(&self, local: SocketAddr) -> io::Result<Association> {
        let granted = self.proxy.associate(&*self.outer).await.inspect_err(|error| {
            self.lock().error = Some(error.clone());
        })?;
        let named = granted.bound.address();
        let relay = relay_address(granted.bound, self.proxy.at, self.relay_address);
        {
            let mut seen = self.lock();
            seen.granted += 1;
            (seen.named, seen.used) = (named, Some(relay));
        }
        let ip = match local.ip() {
            ip if ip.is_ipv4() == relay.is_ipv4() && !ip.is_unspecified() => ip,
            _ => self.outer.source_for(relay)?,
        };
        let socket = self.outer.bind(SocketAddr::new(ip, local.port())).await?;
        Ok(Association::new(granted.stream, socket, relay, self.seen.clone()))
    }
}

impl Net for ProxyNet {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        Box::pin(async move {
            self.associate(local).await.map(|association| Box::new(association) as Box<dyn Datagram>)
        })
    }

    fn source_for(&self, _: SocketAddr) -> io::Result<IpAddr> {
        match self.proxy.local {
            Some(local) if local.is_ipv4() == self.proxy.at.is_ipv4() => Ok(local),
            _ => self.outer.source_for(self.proxy.at),
        }
    }

    fn connect(&self, _: Option<SocketAddr>, remote: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let granted = self.proxy.connect(&*self.outer, &Destination::Address(remote)).await?;
            Ok(granted.stream)
        })
    }

    fn tracks_connections(&self) -> Option<bool> {
        self.outer.tracks_connections()
    }

    fn suspended(&self) -> Option<std::time::Duration> {
        self.outer.suspended()
    }
}

impl std::fmt::Debug for ProxyNet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyNet").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}
