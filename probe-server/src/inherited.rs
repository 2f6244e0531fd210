//! Sockets that outlive the process: taken over from the service manager at start (LISTEN_FDS, sd_listen_fds(3)) and
//! given to it for the successor (FDSTORE, sd_notify(3)). What comes between two processes waits in their buffers, so
//! a restart loses no datagram and refuses no connection.

use std::{
    collections::HashSet,
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

use socket2::Socket;

/// The sockets that a predecessor left, and those that are to be left for a successor.
#[derive(Debug, Default)]
pub struct SocketPool {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    taken: HashSet<(Protocol, SocketAddr)>,
    keep: bool,
    opened: Vec<KeptSocket>,
}

/// A socket for the service manager to keep, under the name that it is known by there.
#[derive(Debug)]
pub struct KeptSocket {
    /// Protocol, address and port, joined by characters that a name may hold.
    pub name: String,
    /// A second handle to the socket.
    pub socket: Socket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Protocol {
    Udp,
    Tcp,
}

impl SocketPool {
    /// What the service manager passed to this process. To be called once, before there are threads.
    /// `keep` = it wants to keep the sockets for a successor.
    #[cfg(target_os = "linux")]
    #[must_use]
    pub fn from_environment(keep: bool) -> Self {
        let mut passed = listenfd::ListenFd::from_env();
        let mut pool = Self { keep, ..Self::default() };
        for i in 0..passed.len() {
            // Sockets of any other kind are left alone: nobody here asks for them.
            if let Ok(Some(socket)) = passed.take_udp_socket(i) {
                pool.udp.push(socket);
            } else if let Ok(Some(listener)) = passed.take_tcp_listener(i) {
                pool.tcp.push(listener);
            }
        }
        pool
    }

    /// How many sockets the predecessor left that nobody has taken yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.udp.len() + self.tcp.len()
    }

    /// Whether it left none, or all are taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The inherited sockets of this address: one for each worker of the predecessor.
    pub(crate) fn take_udp(&mut self, address: SocketAddr) -> Vec<UdpSocket> {
        let is_there = |socket: &mut UdpSocket| socket.local_addr().is_ok_and(|local| local == address);
        let found: Vec<_> = self.udp.extract_if(.., is_there).collect();
        self.note(Protocol::Udp, address, !found.is_empty());
        found
    }

    /// The inherited listener of this address.
    pub(crate) fn take_tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let is_there = |listener: &TcpListener| listener.local_addr().is_ok_and(|local| local == address);
        let found = self.tcp.iter().position(is_there).map(|i| self.tcp.swap_remove(i));
        self.note(Protocol::Tcp, address, found.is_some());
        found
    }

    /// Notes a UDP socket that serves from now on, so that a successor gets it.
    pub(crate) fn keep_udp(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.keep(Protocol::Udp, socket.local_addr()?, || socket.try_clone().map(Socket::from))
    }

    /// The same for a listener.
    pub(crate) fn keep_tcp(&mut self, listener: &TcpListener) -> io::Result<()> {
        self.keep(Protocol::Tcp, listener.local_addr()?, || listener.try_clone().map(Socket::from))
    }

    /// The sockets that the service manager does not have yet, and the names of those that it need not keep any more.
    pub(crate) fn finish(self) -> (Vec<KeptSocket>, Vec<String>) {
        let udp = self.udp.iter().filter_map(|s| s.local_addr().ok()).map(|at| name(Protocol::Udp, at));
        let tcp = self.tcp.iter().filter_map(|s| s.local_addr().ok()).map(|at| name(Protocol::Tcp, at));
        let unused = udp.chain(tcp).collect();
        (self.opened, unused)
    }

    fn note(&mut self, protocol: Protocol, address: SocketAddr, found: bool) {
        if found {
            self.taken.insert((protocol, address));
        }
    }

    fn keep(
        &mut self,
        protocol: Protocol,
        address: SocketAddr,
        clone: impl FnOnce() -> io::Result<Socket>,
    ) -> io::Result<()> {
        if self.keep && !self.taken.contains(&(protocol, address)) {
            self.opened.push(KeptSocket { name: name(protocol, address), socket: clone()? });
        }
        Ok(())
    }
}

/// A colon would end the name.
fn name(protocol: Protocol, address: SocketAddr) -> String {
    let protocol = match protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    };
    format!("{protocol}-{}-{}", address.ip().to_string().replace(':', "_"), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_found_by_their_address_and_the_rest_is_named() {
        let bind = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut pool = SocketPool {
            udp: vec![bind(), bind()],
            tcp: vec![TcpListener::bind("[::1]:0").unwrap()],
            keep: true,
            ..SocketPool::default()
        };
        let wanted = pool.udp[0].local_addr().unwrap();
        let (other, listener) = (pool.udp[1].local_addr().unwrap(), pool.tcp[0].local_addr().unwrap());
        let taken = pool.take_udp(wanted);
        assert_eq!((taken.len(), pool.len()), (1, 2));
        assert!(pool.take_udp(wanted).is_empty() && pool.take_tcp(wanted).is_none());
        pool.keep_udp(&taken[0]).unwrap();
        let new = bind();
        pool.keep_udp(&new).unwrap();
        let (opened, unused) = pool.finish();
        assert_eq!(opened.len(), 1, "the service manager has the inherited one already");
        assert_eq!(opened[0].name, format!("udp-127.0.0.1-{}", new.local_addr().unwrap().port()));
        let names = [format!("udp-127.0.0.1-{}", other.port()), format!("tcp-__1-{}", listener.port())];
        assert_eq!(unused, names);
    }
}
