//! Opens the sockets of one family: every endpoint over UDP once a worker, over TCP, and over TLS. On Linux an address
//! may be bound before the host has it (IP_FREEBIND): the endpoint begins to serve when the address appears, and goes
//! on when one that vanished returns.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    config::{Config, Family, PageSettings},
    inherited::SocketPool,
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
    /// `udp`, `tcp`, `tls`, `page` or `admin`.
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

/// Opens everything for one family, or takes it over from the predecessor.
pub(crate) fn bind(config: &Config, family: Family, pool: &mut SocketPool) -> Result<Bound, BindError> {
    let (topology, (udp, tcp)) = with_ports(family, config.ports, |topology| {
        let udp = udp_sockets(topology, config.workers, pool)?;
        let tcp = if config.tcp { listeners("tcp", topology, pool)? } else { Vec::new() };
        Ok((udp, tcp))
    })?;
    let tls = match &config.tls {
        Some(tls) => Some(with_ports(family, tls.ports, |topology| listeners("tls", topology, pool))?),
        None => None,
    };
    let keep = |pool: &mut SocketPool| {
        udp.iter().flatten().flatten().try_for_each(|socket| pool.keep_udp(socket))?;
        let listeners = tcp.iter().chain(tls.iter().flat_map(|(_, listeners)| listeners));
        listeners.into_iter().try_for_each(|listener| pool.keep_tcp(listener))
    };
    let address = SocketAddr::new(family.primary, config.ports.0);
    keep(pool).map_err(|source| BindError { transport: "udp", address, source })?;
    let advertise = |topology: Topology| {
        let topology = topology.drop_bogons(config.drops_bogons(&family));
        config.advertise.iter().fold(topology, |topology, one| topology.advertise(one.local, one.public))
    };
    Ok(Bound {
        topology: advertise(topology),
        udp,
        tcp,
        tls: tls.map(|(topology, list)| (advertise(topology), list)),
    })
}

/// Opens the sockets of the page for browsers: where they are in each family, and themselves.
pub(crate) fn page(config: &Config, page: &PageSettings) -> Result<(Vec<Topology>, Vec<Sockets>), BindError> {
    let open = |family: &Family| {
        let (topology, sockets) = with_ports(*family, page.ports, |topology| {
            crate::page::sockets(topology, |address| udp_socket(address, false))
                .map_err(|(address, source)| BindError { transport: "page", address, source })
        })?;
        let topology = topology.drop_bogons(config.drops_bogons(family));
        let advertised =
            config.advertise.iter().fold(topology, |topology, one| topology.advertise(one.local, one.public));
        Ok((advertised, sockets))
    };
    Ok(config.families.iter().map(open).collect::<Result<Vec<_>, _>>()?.into_iter().unzip())
}

/// The addresses of these families that this host does not have now: not configured, or not yet usable (IPv6's
/// duplicate address detection).
pub(crate) fn missing_addresses(families: &[Family]) -> Vec<IpAddr> {
    let addresses = families.iter().flat_map(|family| [Some(family.primary), family.alternate]).flatten();
    let is_missing = |ip: &IpAddr| {
        let tried = std::net::UdpSocket::bind(SocketAddr::new(*ip, 0));
        tried.is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    };
    addresses.filter(is_missing).collect()
}

/// The same words as if the socket had been refused.
pub(crate) fn not_available(family: &Family, ports: (u16, u16)) -> BindError {
    BindError {
        transport: "udp",
        address: SocketAddr::new(family.primary, ports.0),
        source: io::ErrorKind::AddrNotAvailable.into(),
    }
}

/// One listening socket.
pub(crate) fn listen(
    transport: &'static str,
    address: SocketAddr,
    pool: &mut SocketPool,
) -> Result<TcpListener, BindError> {
    let inherited = pool.take_tcp(address);
    let open = || {
        if let Some(listener) = inherited {
            listener.set_nonblocking(true)?;
            return Ok(listener);
        }
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        before_bind(&socket, address)?;
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
    mut open: impl FnMut(&Topology) -> Result<T, BindError>,
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
    let choose = || udp_socket(address, false)?.local_addr();
    choose().map(|chosen| chosen.port()).map_err(|source| BindError { transport: "udp", address, source })
}

/// One set a worker. Those of the predecessor are taken over as they are, with as many workers as it had: a socket that
/// shares its port gets packets of its own, so none may be left without a reader.
fn udp_sockets(
    topology: &Topology,
    workers: usize,
    pool: &mut SocketPool,
) -> Result<Vec<Sockets>, BindError> {
    let mut sets: Vec<Sockets> = Vec::new();
    for endpoint in topology.endpoints() {
        let Some(address) = topology.bound(endpoint) else { continue };
        let open = |pool: &mut SocketPool| {
            let inherited = pool.take_udp(address);
            if !inherited.is_empty() {
                return Ok(inherited);
            }
            if workers > 1 {
                // Workers share their ports with each other, but not with another program: what does not share
                // must be able to bind first.
                udp_socket(address, false)?;
            }
            (0..workers).map(|_| udp_socket(address, workers > 1)).collect()
        };
        let sockets = open(pool).map_err(|source| BindError { transport: "udp", address, source })?;
        for (worker, socket) in sockets.into_iter().enumerate() {
            if worker == sets.len() {
                sets.push([const { None }; 4]);
            }
            sets[worker][endpoint.index()] = Some(socket);
        }
    }
    Ok(sets)
}

fn udp_socket(address: SocketAddr, shared: bool) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    before_bind(&socket, address)?;
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

fn listeners(
    transport: &'static str,
    topology: &Topology,
    pool: &mut SocketPool,
) -> Result<Vec<TcpListener>, BindError> {
    let addresses = topology.endpoints().filter_map(|e| topology.bound(e));
    addresses.map(|address| listen(transport, address, pool)).collect()
}

fn before_bind(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V4(_) => {
            #[cfg(target_os = "linux")]
            socket.set_freebind_v4(true)?;
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            #[cfg(target_os = "linux")]
            socket.set_freebind_v6(true)?;
        }
    }
    Ok(())
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use".into(),
        io::ErrorKind::AddrNotAvailable => "not an address of this host".into(),
        io::ErrorKind::PermissionDenied => "not permitted (ports below 1024 need a privilege)".into(),
        _ => error.to_string(),
    }
}
