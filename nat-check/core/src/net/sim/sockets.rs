//! A host's view of the simulated network: [`Net`] and its UDP sockets.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use shared::nat::model::Packet;

use super::{driver::Shared, host::Inbox, listener::SimTcpPort, tcp};
use crate::{
    net::{Boxed, Datagram, Net, Stream, TcpPort},
    report::{AddressKind, OwnAddress},
};

/// The network of one simulated host.
#[derive(Debug)]
pub struct SimNet {
    shared: Arc<Shared>,
    host: usize,
}

impl SimNet {
    pub(super) fn new(shared: Arc<Shared>, host: usize) -> Self {
        Self { shared, host }
    }

    fn open(&self, local: SocketAddr) -> io::Result<SimSocket> {
        self.shared.drive();
        self.shared.with(|fabric| {
            let host = &mut fabric.hosts[self.host];
            if host.ip_like(local.ip()).is_none()
                || !local.ip().is_unspecified() && !host.ips.contains(&local.ip())
            {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
            let (port, inbox) = host.open(local.is_ipv4(), local.port()).ok_or(io::ErrorKind::AddrInUse)?;
            Ok(SimSocket {
                shared: Arc::clone(&self.shared),
                host: self.host,
                local: SocketAddr::new(local.ip(), port),
                inbox,
                ttl: AtomicU8::new(64),
            })
        })
    }
}

impl Net for SimNet {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        Box::pin(async move { self.open(local).map(|socket| Box::new(socket) as Box<dyn Datagram>) })
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        let ip = self.shared.with(|fabric| fabric.hosts[self.host].ip_like(remote.ip()));
        ip.ok_or_else(|| io::ErrorKind::NetworkUnreachable.into())
    }

    fn ipv6_addresses(&self) -> Vec<OwnAddress> {
        let ips = self.shared.with(|fabric| fabric.hosts[self.host].ips.clone());
        ips.into_iter().filter(IpAddr::is_ipv6).map(|ip| OwnAddress::new(ip, AddressKind::Stable)).collect()
    }

    /// Every site has one local network.
    fn prefix_len(&self, own: IpAddr) -> Option<u8> {
        Some(if own.is_ipv4() { 24 } else { 64 })
    }

    fn tracks_connections(&self) -> Option<bool> {
        Some(false)
    }

    fn gateway(&self, own: IpAddr) -> Option<IpAddr> {
        self.shared.with(|fabric| fabric.gateway_of(self.host, own))
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = tcp::connect(&self.shared, self.host, local, remote).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn tcp_port(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn TcpPort>>> {
        Box::pin(async move {
            let port = SimTcpPort::take(&self.shared, self.host, local)?;
            Ok(Box::new(port) as Box<dyn TcpPort>)
        })
    }
}

struct SimSocket {
    shared: Arc<Shared>,
    host: usize,
    local: SocketAddr,
    inbox: Arc<Inbox>,
    ttl: AtomicU8,
}

impl Datagram for SimSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        Box::pin(async move {
            if to.is_ipv4() != self.local.is_ipv4() {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            self.shared.with(|fabric| {
                let source = match self.local.ip() {
                    ip if ip.is_unspecified() => fabric.hosts[self.host].ip_like(ip),
                    ip => Some(ip),
                };
                let source = source.ok_or(io::ErrorKind::NetworkUnreachable)?;
                let mut packet =
                    Packet::udp(SocketAddr::new(source, self.local.port()), to, datagram.to_vec());
                packet.ttl = self.ttl.load(Ordering::Relaxed);
                fabric.send(self.host, packet);
                Ok(())
            })
        })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        Box::pin(async move {
            let (source, datagram) = self.inbox.take().await;
            let length = datagram.len().min(buffer.len());
            buffer[..length].copy_from_slice(&datagram[..length]);
            Ok((length, source))
        })
    }

    fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        let ttl = u8::try_from(ttl).map_err(|_| io::ErrorKind::InvalidInput)?;
        self.ttl.store(ttl, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        let (v4, port) = (self.local.is_ipv4(), self.local.port());
        self.shared.with(|fabric| fabric.hosts[self.host].close(v4, port));
    }
}

impl fmt::Debug for SimSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "udp socket {} of simulated host {}", self.local, self.host)
    }
}
