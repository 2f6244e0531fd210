//! Opens the sockets of one family: every endpoint over UDP once a worker, over TCP, and over TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    config::{Config, Family},
    topology::Topology,
    udp::Sockets,
};

/// How often free ports are tried when they may be chosen: each must be free on both addresses, for UDP and TCP.
const TRIES: usize = 64;
/// Asked for; the system grants what it allows.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A socket that the operating system refused.
#[derive(Debug, thiserror::Error)]
#[error("{transport} {address}: {}", reason(.source))]
pub struct BindError {
    /// `udp`, `tcp`, `tls` or `admin`.
    pub transport: &'static str,
    /// The address that was to be bound.
    pub address: SocketAddr,
    /// The operating system's words.
    pub source: io::Error,
}

/// The sockets of one family and where they are.
pub(crate) struct Bound {
    pub topology: Topology,
    /// One set a worker.
    pub udp: Vec<Sockets>,
    /// By endpoint; empty if TCP is off.
    pub tcp: Vec<TcpListener>,
    /// By endpoint; empty if TLS is off.
    pub tls: Option<(Topology, Vec<TcpListener>)>,
}

/// Opens everything for one family.
pub(crate) fn bind(config: &Config, family: Family) -> Result<Bound, BindError> {
    let (topology, (udp, tcp)) = with_ports(family, config.ports, |topology| {
        let udp = (0..config.workers)
            .map(|worker| udp_sockets(topology, worker, config.workers > 1))
            .collect::<Result<Vec<_>, _>>()?;
        let tcp = if config.tcp { listeners("tcp", topology)? } else { Vec::new() };
        Ok((udp, tcp))
    })?;
    let tls = match &config.tls {
        Some(tls) => Some(with_ports(family, tls.ports, |topology| listeners("tls", topology))?),
        None => None,
    };
    let advertise = |topology: Topology| {
        config.advertise.iter().fold(topology, |topology, one| topology.advertise(one.local, one.public))
    };
    Ok(Bound {
        topology: advertise(topology),
        udp,
        tcp,
        tls: tls.map(|(topology, list)| (advertise(topology), list)),
    })
}

/// One listening socket.
pub(crate) fn listen(transport: &'static str, address: SocketAddr) -> Result<TcpListener, BindError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        v6_only(&socket, address)?;
        // On Unix it lets a restart follow at once; elsewhere it would let another program share the port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(1024)?;
        socket.set_nonblocking(true)?;
        Ok(TcpListener::from(socket))
    };
    open().map_err(|source| BindError { transport, address, source })
}

/// Tries ports until all of `open` succeeds on them; only ports that may be chosen are tried anew.
fn with_ports<T>(
    family: Family,
    ports: (u16, u16),
    open: impl Fn(&Topology) -> Result<T, BindError>,
) -> Result<(Topology, T), BindError> {
    let mut tries = 0;
    loop {
        tries += 1;
        let first = free_port(family.primary, ports.0)?;
        let second = match family.alternate {
            Some(_) => free_port(family.primary, ports.1)?,
            None => ports.1,
        };
        if first == second && family.alternate.is_some() {
            continue;
        }
        let topology = Topology::new(family.primary, family.alternate, (first, second));
        match open(&topology) {
            Ok(opened) => return Ok((topology, opened)),
            Err(error) => {
                let chosen = error.address.port() != ports.0 && error.address.port() != ports.1;
                if !(chosen && error.source.kind() == io::ErrorKind::AddrInUse && tries < TRIES) {
                    return Err(error);
                }
            }
        }
    }
}

/// `port`, or a free one in its place if it is 0.
fn free_port(ip: IpAddr, port: u16) -> Result<u16, BindError> {
    if port != 0 {
        return Ok(port);
    }
    let address = SocketAddr::new(ip, 0);
    let choose = || std::net::UdpSocket::bind(address)?.local_addr();
    choose().map(|chosen| chosen.port()).map_err(|source| BindError { transport: "udp", address, source })
}

fn udp_sockets(topology: &Topology, worker: usize, shared: bool) -> Result<Sockets, BindError> {
    let mut sockets: Sockets = [None, None, None, None];
    for endpoint in topology.endpoints() {
        let Some(address) = topology.bound(endpoint) else { continue };
        let open = || {
            if shared && worker == 0 {
                // Workers share their ports with each other, but not with another program: what does not share
                // must be able to bind first.
                udp_socket(address, false)?;
            }
            udp_socket(address, shared)
        };
        let socket = open().map_err(|source| BindError { transport: "udp", address, source })?;
        sockets[endpoint.index()] = Some(socket);
    }
    Ok(sockets)
}

fn udp_socket(address: SocketAddr, shared: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    v6_only(&socket, address)?;
    #[cfg(target_os = "linux")]
    socket.set_reuse_port(shared)?;
    _ = shared;
    // With the privilege to exceed the system's limit, all of it; otherwise less, which is no failure.
    #[cfg(target_os = "linux")]
    let granted = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, RECEIVE_BUFFER).is_ok();
    #[cfg(not(target_os = "linux"))]
    let granted = false;
    if !granted {
        _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

fn listeners(transport: &'static str, topology: &Topology) -> Result<Vec<TcpListener>, BindError> {
    topology.endpoints().filter_map(|e| topology.bound(e)).map(|address| listen(transport, address)).collect()
}

fn v6_only(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use".into(),
        io::ErrorKind::AddrNotAvailable => "not an address of this host".into(),
        io::ErrorKind::PermissionDenied => "not permitted (ports below 1024 need a privilege)".into(),
        _ => error.to_string(),
    }
}
