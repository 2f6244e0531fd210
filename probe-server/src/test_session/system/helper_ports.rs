//! Ports that only test sessions need: one whose backlog is full, and one that nothing listens at.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use socket2::{Domain, Protocol, Socket, Type};

use super::HelperPorts;

/// The sockets of both addresses of a family; they are there as long as the server.
pub(super) struct HelperSockets {
    addresses: [Option<AddressSockets>; 2],
}

/// Those of one address.
struct AddressSockets {
    pending: FullListener,
    closed: Socket,
}

/// A listener that takes no more connections: SYNs to it are dropped in silence, while sockets of the server can connect from
/// its port.
struct FullListener {
    listener: Socket,
    /// They fill the queue.
    _queue: [Socket; 2],
}

/// How often a port is tried that has to be free at both addresses.
const TRIES: usize = 16;

impl HelperSockets {
    /// Opens them on ports that the system picks; the full listener has the same one at both addresses.
    pub(super) fn open(addresses: [Option<IpAddr>; 2]) -> io::Result<Self> {
        let mut failure = io::ErrorKind::AddrNotAvailable.into();
        for _ in 0..TRIES {
            match Self::try_open(addresses) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    pub(super) fn ports(&self) -> [HelperPorts; 2] {
        self.addresses
            .each_ref()
            .map(|address| address.as_ref().map(AddressSockets::ports).unwrap_or_default())
    }

    fn try_open(addresses: [Option<IpAddr>; 2]) -> io::Result<Self> {
        let mut port = 0;
        let mut open = |ip: Option<IpAddr>| {
            let Some(ip) = ip else { return Ok(None) };
            let sockets = AddressSockets::open(ip, port)?;
            port = sockets.ports().pending.map_or(0, |pending| pending.port());
            Ok::<_, io::Error>(Some(sockets))
        };
        let [primary, alternate] = addresses;
        Ok(Self { addresses: [open(primary)?, open(alternate)?] })
    }
}

impl AddressSockets {
    fn open(ip: IpAddr, port: u16) -> io::Result<Self> {
        let closed = socket(ip)?;
        closed.bind(&SocketAddr::new(ip, 0).into())?;
        Ok(Self { pending: FullListener::open(SocketAddr::new(ip, port))?, closed })
    }

    fn ports(&self) -> HelperPorts {
        let at = |socket: &Socket| socket.local_addr().ok()?.as_socket();
        HelperPorts { pending: at(&self.pending.listener), closed: at(&self.closed) }
    }
}

impl FullListener {
    fn open(at: SocketAddr) -> io::Result<Self> {
        let listener = socket(at.ip())?;
        share_port(&listener)?;
        listener.bind(&at.into())?;
        // There is room for one more than this says. The second one waits, and gives up in the end.
        listener.listen(0)?;
        let bound = listener.local_addr()?;
        let connect = || {
            let client = socket(at.ip())?;
            match client.connect(&bound) {
                Err(error) if !is_in_progress(&error) => Err(error),
                Ok(()) | Err(_) => Ok(client),
            }
        };
        Ok(Self { listener, _queue: [connect()?, connect()?] })
    }
}

/// Lets a socket have a port that another one of this server has.
pub(super) fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)
}

/// A TCP socket that waits for nothing.
pub(super) fn socket(ip: IpAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(SocketAddr::new(ip, 0)), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether a connect has begun.
fn is_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

#[cfg(test)]
mod tests {
    use std::{net::TcpStream, time::Duration};

    use super::*;

    const TIME: Duration = Duration::from_millis(300);

    #[test]
    fn a_full_listener_swallows_and_a_closed_port_refuses() {
        let connect = |at: Option<SocketAddr>| TcpStream::connect_timeout(&at.unwrap(), TIME);
        let ip = |text: &str| Some(text.parse().unwrap());
        for addresses in [[ip("127.0.0.1"), ip("127.0.0.2")], [ip("::1"), None]] {
            let sockets = HelperSockets::open(addresses).unwrap();
            let ports = sockets.ports();
            for (ports, _) in ports.iter().zip(addresses).filter(|(_, address)| address.is_some()) {
                assert_eq!(connect(ports.pending).unwrap_err().kind(), io::ErrorKind::TimedOut);
                assert_eq!(connect(ports.closed).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
            }
            if let [Some(one), Some(other)] = ports.map(|ports| ports.pending) {
                assert_eq!(one.port(), other.port());
            }
        }
    }
}
