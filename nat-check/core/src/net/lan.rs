//! The local networks of this host, and the sockets by which its neighbours are spoken to: through one interface each, never through
//! the default route, which may lead into a VPN.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
};

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::UdpSocket;

use super::{InterfaceKind, Net, os::OsNet};
use crate::lan::way::{GROUP, GROUP6, MDNS, Way};

/// A network with private addresses (RFC 1918).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LanNetwork {
    pub(crate) interface: String,
    pub(crate) index: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix_len: u8,
    pub(crate) broadcast: Ipv4Addr,
    /// This host's link-local address there.
    pub(crate) ipv6: Option<Ipv6Addr>,
}

/// Networks that are looked at.
const MOST_NETWORKS: usize = 8;
/// The longest prefix with room for two hosts and a broadcast address.
const LONGEST_PREFIX: u8 = 30;

/// The networks of this host, tunnels left out, and all its addresses.
pub(crate) fn networks() -> io::Result<(Vec<LanNetwork>, Vec<IpAddr>)> {
    let interfaces = if_addrs::get_if_addrs()?;
    let mut own: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    let network = |it: &if_addrs::Interface| {
        let if_addrs::IfAddr::V4(v4) = &it.addr else { return None };
        let is_wire =
            matches!(OsNet.interface(v4.ip.into()), InterfaceKind::Ordinary | InterfaceKind::Unknown);
        let is_down = it.oper_status == if_addrs::IfOperStatus::Down;
        let is_shared = !it.is_p2p && !is_down && is_wire && v4.prefixlen <= LONGEST_PREFIX;
        let hosts = u32::MAX.checked_shr(v4.prefixlen.into()).unwrap_or(0);
        (is_shared && v4.ip.is_private()).then(|| LanNetwork {
            interface: it.name.clone(),
            index: it.index.unwrap_or(0),
            address: v4.ip,
            prefix_len: v4.prefixlen,
            broadcast: Ipv4Addr::from(u32::from(v4.ip) | hosts),
            ipv6: link_local(&it.name),
        })
    };
    let all: Vec<LanNetwork> = interfaces.iter().filter_map(network).collect();
    // A program's network is a VPN, unless there is no other: some containers have nothing else.
    let wires: Vec<LanNetwork> = all.iter().filter(|it| !is_of_a_program(&it.interface)).cloned().collect();
    let networks = if wires.is_empty() { all } else { wires };
    let networks: Vec<LanNetwork> = networks.into_iter().take(MOST_NETWORKS).collect();
    own.extend(networks.iter().filter_map(|it| it.ipv6).map(IpAddr::from));
    Ok((networks, own))
}

/// Whether the interface is a program's (TAP), as those of some VPNs are. Linux tells.
fn is_of_a_program(interface: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(interface).join("tun_flags").exists()
}

/// The library leaves link-local addresses out.
#[cfg(target_os = "linux")]
fn link_local(interface: &str) -> Option<Ipv6Addr> {
    super::if_inet6::link_local(interface)
}

#[cfg(not(target_os = "linux"))]
fn link_local(_: &str) -> Option<Ipv6Addr> {
    None
}

/// The sockets of one network.
#[derive(Debug)]
pub(crate) struct LanSockets {
    /// Everything is sent from these, and unicast comes back to them.
    own: UdpSocket,
    own6: Option<UdpSocket>,
    /// What is sent to all comes to these. None = another program has the port, or the system has no such group.
    group: Option<UdpSocket>,
    group6: Option<UdpSocket>,
    /// Ways by which something can be heard, a bit each.
    pub(crate) hears: u8,
    port: u16,
    broadcast: Ipv4Addr,
    index: u32,
}

impl LanSockets {
    /// Opens them; groups are heard at this port.
    pub(crate) fn open(network: &LanNetwork, port: u16) -> io::Result<Self> {
        let own = own_socket(network)?;
        let own6 = network.ipv6.and_then(|ip| own_socket6(network, ip).ok());
        let mut hears = Way::Unicast.bit();
        let group = group_socket(network, port);
        let mut join = |socket: &Socket, ways: &[Way], joined: io::Result<()>| {
            if joined.is_ok() {
                hears |= ways.iter().fold(0, |bits, way| bits | way.bit());
            }
            socket.set_nonblocking(true)
        };
        if let Ok(socket) = &group {
            join(socket, &[Way::SubnetBroadcast, Way::LimitedBroadcast], Ok(()))?;
            let local = [Way::Multicast, Way::MulticastTtl4];
            join(socket, &local, socket.join_multicast_v4(&GROUP, &network.address))?;
            join(socket, &[Way::MdnsGroup], socket.join_multicast_v4(&MDNS, &network.address))?;
        }
        let group6 = own6.as_ref().and_then(|_| group_socket6(network, port).ok());
        if let Some(socket) = &group6 {
            join(socket, &[Way::MulticastIpv6], socket.join_multicast_v6(&GROUP6, network.index))?;
        }
        hears |= if own6.is_some() { Way::UnicastIpv6.bit() } else { 0 };
        let asynchronous = |socket: Socket| UdpSocket::from_std(socket.into());
        Ok(Self {
            own: asynchronous(own)?,
            own6: own6.map(asynchronous).transpose()?,
            group: group.ok().map(asynchronous).transpose()?,
            group6: group6.map(asynchronous).transpose()?,
            hears,
            port,
            broadcast: network.broadcast,
            index: network.index,
        })
    }

    /// Where unicast to this host goes.
    pub(crate) fn endpoints(&self) -> io::Result<(u16, Option<u16>)> {
        let port6 = self.own6.as_ref().map(UdpSocket::local_addr).transpose()?;
        Ok((self.own.local_addr()?.port(), port6.map(|at| at.port())))
    }

    /// Sends by this way, to a single host or to all.
    pub(crate) async fn send(&self, way: Way, to: Option<SocketAddr>, bytes: &[u8]) -> io::Result<()> {
        let v4 = |ip: Ipv4Addr| SocketAddr::V4(SocketAddrV4::new(ip, self.port));
        let to = match (way, to) {
            (_, Some(SocketAddr::V6(to))) => SocketAddrV6::new(*to.ip(), to.port(), 0, self.index).into(),
            (_, Some(to)) => to,
            (Way::MdnsGroup, None) => v4(MDNS),
            (Way::SubnetBroadcast, None) => v4(self.broadcast),
            (Way::LimitedBroadcast, None) => v4(Ipv4Addr::BROADCAST),
            (Way::MulticastIpv6 | Way::UnicastIpv6, None) => {
                SocketAddrV6::new(GROUP6, self.port, 0, self.index).into()
            }
            (Way::Multicast | Way::MulticastTtl4 | Way::Unicast, None) => v4(GROUP),
        };
        let socket = match to {
            SocketAddr::V4(_) => Some(&self.own),
            SocketAddr::V6(_) => self.own6.as_ref(),
        };
        let socket = socket.ok_or(io::ErrorKind::Unsupported)?;
        if way.is_group() && !way.is_ipv6() {
            self.own.set_multicast_ttl_v4(if way == Way::MulticastTtl4 { 4 } else { 1 })?;
        }
        socket.send_to(bytes, to).await.map(|_| ())
    }

    /// The next packet, and who sent it.
    pub(crate) async fn receive(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let ready = tokio::select! {
                ready = readable(Some(&self.own)) => ready,
                ready = readable(self.own6.as_ref()) => ready,
                ready = readable(self.group.as_ref()) => ready,
                ready = readable(self.group6.as_ref()) => ready,
            }?;
            match ready.try_recv_from(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }
}

async fn readable(socket: Option<&UdpSocket>) -> io::Result<&UdpSocket> {
    match socket {
        Some(socket) => socket.readable().await.map(|()| socket),
        None => std::future::pending().await,
    }
}

fn datagram(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A socket of this network alone: what it sends leaves by its interface.
pub(crate) fn own_socket(network: &LanNetwork) -> io::Result<Socket> {
    let socket = datagram(Domain::IPV4)?;
    stay_at(&socket, network);
    socket.set_broadcast(true)?;
    socket.set_multicast_if_v4(&network.address)?;
    socket.set_multicast_loop_v4(true)?;
    socket.bind(&SocketAddrV4::new(network.address, 0).into())?;
    Ok(socket)
}

fn own_socket6(network: &LanNetwork, ip: Ipv6Addr) -> io::Result<Socket> {
    let socket = datagram(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    stay_at(&socket, network);
    socket.set_multicast_if_v6(network.index)?;
    socket.set_multicast_hops_v6(1)?;
    socket.set_multicast_loop_v6(true)?;
    socket.bind(&SocketAddrV6::new(ip, 0, 0, network.index).into())?;
    Ok(socket)
}

/// On Windows a socket at the interface's own address hears its groups and broadcasts; elsewhere that takes one at none.
fn group_socket(network: &LanNetwork, port: u16) -> io::Result<Socket> {
    let socket = datagram(Domain::IPV4)?;
    socket.set_reuse_address(true)?;
    stay_at(&socket, network);
    let at = if cfg!(windows) { network.address } else { Ipv4Addr::UNSPECIFIED };
    socket.bind(&SocketAddrV4::new(at, port).into())?;
    Ok(socket)
}

fn group_socket6(network: &LanNetwork, port: u16) -> io::Result<Socket> {
    let socket = datagram(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    socket.set_reuse_address(true)?;
    stay_at(&socket, network);
    socket.bind(&SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0).into())?;
    Ok(socket)
}

/// A socket that hears what is sent to the mDNS group, and sends from its port (RFC 6762 section 5.2). It is bound to the group, so
/// that no unicast comes to it that a responder on this host waits for; on Windows that cannot be.
pub(crate) fn mdns_socket(network: &LanNetwork) -> io::Result<UdpSocket> {
    if cfg!(windows) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let socket = datagram(Domain::IPV4)?;
    socket.set_reuse_address(true)?;
    #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
    socket.set_reuse_port(true)?;
    stay_at(&socket, network);
    socket.bind(&SocketAddrV4::new(MDNS, MDNS_PORT).into())?;
    socket.join_multicast_v4(&MDNS, &network.address)?;
    socket.set_multicast_if_v4(&network.address)?;
    socket.set_multicast_ttl_v4(255)?;
    UdpSocket::from_std(socket.into())
}

/// The port of mDNS.
pub(crate) const MDNS_PORT: u16 = 5353;

/// A socket for questions whose answers come to it alone.
pub(crate) fn question_socket(network: &LanNetwork) -> io::Result<UdpSocket> {
    let socket = own_socket(network)?;
    SockRef::from(&socket).set_multicast_ttl_v4(4)?;
    UdpSocket::from_std(socket.into())
}

/// Keeps a socket to one interface, where the system lets it; groups go out there in any case.
fn stay_at(socket: &Socket, network: &LanNetwork) {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = socket.bind_device(Some(network.interface.as_bytes())) {
        tracing::debug!(%error, interface = network.interface, "no socket for one interface");
    }
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = (socket, network);
}
