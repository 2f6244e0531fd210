//! Load generators: closed-loop clients that always keep a number of requests outstanding, honest clients that send one
//! request after another, and floods that do not wait for responses.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use probe_server::batch::{Receiver, Sender};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shared::stun::{Class, TransactionId, View, Writer};
use tokio::time::Instant;

use crate::{LabError, netns::Namespace};

pub mod mixed;
pub mod spent;

/// The server's two addresses in [`network`].
pub const SERVER: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 51, 100, 10), Ipv4Addr::new(198, 51, 100, 11)];

/// Datagrams per system call.
const BATCH: usize = 64;
/// Silence after which requests count as lost and are replaced.
const LOST: Duration = Duration::from_millis(200);

/// A network with the server's two addresses, 192.0.2.0/24 for clients and 10.0.0.0/8 for hostile ones, all on its
/// loopback device. None is a loopback address, so that a server applies its limits to them.
///
/// # Errors
/// When the system does not allow it.
pub fn network() -> Result<Namespace, LabError> {
    let network = Namespace::new("load")?;
    let [primary, alternate] = SERVER;
    network.ip(&format!("addr add {primary}/32 dev lo\naddr add {alternate}/32 dev lo"))?;
    network.ip("route add local 192.0.2.0/24 dev lo\nroute add local 10.0.0.0/8 dev lo")?;
    Ok(network)
}

/// Results of closed-loop clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harvest {
    /// Requests sent.
    pub sent: u64,
    /// Success answers received.
    pub answered: u64,
    /// Requests that were not answered in time.
    pub lost: u64,
}

/// Closed-loop clients of one server endpoint.
#[derive(Debug)]
pub struct Loop {
    sockets: Vec<UdpSocket>,
    server: SocketAddr,
    window: usize,
    request: Vec<u8>,
    receiver: Receiver,
    sender: Sender,
}

impl Loop {
    /// One client for each address, each with `window` requests outstanding. Call it in the network that they are to send
    /// in.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub fn new(clients: &[IpAddr], server: SocketAddr, window: usize) -> io::Result<Self> {
        let sockets = clients.iter().map(|ip| {
            let socket = UdpSocket::bind(SocketAddr::new(*ip, 0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        });
        Ok(Self {
            sockets: sockets.collect::<io::Result<_>>()?,
            server,
            window,
            request: binding_request(1),
            receiver: Receiver::new(BATCH, 2048),
            sender: Sender::new(BATCH),
        })
    }

    /// Sends for this long.
    pub fn run(&mut self, duration: Duration) -> Harvest {
        let mut harvest = Harvest::default();
        let end = Instant::now() + duration;
        let mut under_way = vec![0; self.sockets.len()];
        while Instant::now() < end {
            for (i, flying) in under_way.iter_mut().enumerate() {
                *flying += self.ask(i, self.window - *flying, &mut harvest);
            }
            if !readable(&self.sockets, LOST) {
                harvest.lost += under_way.iter().sum::<usize>() as u64;
                under_way.fill(0);
                continue;
            }
            for (i, flying) in under_way.iter_mut().enumerate() {
                let got = self.collect(i, &mut harvest);
                // A late response to a request that was given up.
                *flying = flying.saturating_sub(got);
            }
        }
        harvest
    }

    fn ask(&mut self, client: usize, mut times: usize, harvest: &mut Harvest) -> usize {
        let mut sent = 0;
        while times > 0 {
            let n = times.min(BATCH);
            let one = (self.server, self.request.as_slice());
            let failed = self.sender.send(&self.sockets[client], std::iter::repeat_n(one, n));
            sent += n - failed;
            times -= n;
        }
        harvest.sent += sent as u64;
        sent
    }

    fn collect(&mut self, client: usize, harvest: &mut Harvest) -> usize {
        let mut got = 0;
        while let Ok(n) = self.receiver.receive(&self.sockets[client]) {
            got += n;
            let is_success =
                |(from, bytes): (SocketAddr, &[u8])| from == self.server && bytes.starts_with(&[1, 1]);
            harvest.answered +=
                (0..n).filter(|i| self.receiver.get(*i).is_some_and(is_success)).count() as u64;
            if n < BATCH {
                break;
            }
        }
        got
    }
}

/// A client that sends one request after another, as an honest one does, each with a new transaction id and without
/// retransmission.
#[derive(Debug)]
pub struct Honest {
    socket: UdpSocket,
    server: SocketAddr,
    rng: fastrand::Rng,
}

impl Honest {
    /// A client at this address.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub fn new(client: IpAddr, server: SocketAddr, seed: u64) -> io::Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(client, 0))?;
        Ok(Self { socket, server, rng: fastrand::Rng::with_seed(seed) })
    }

    /// Sends one request; returns whether anything came from the server in time.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn sees_anything(&mut self, patience: Duration) -> io::Result<bool> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.send_to(&binding_request(1), self.server)?;
        Ok(self.socket.recv_from(&mut [0; 2048]).is_ok_and(|(_, from)| from == self.server))
    }

    /// Sends one request; returns the time until the right response, or `None` if it did not come in time.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn ask(&mut self, patience: Duration) -> io::Result<Option<Duration>> {
        let id = TransactionId::modern(&mut self.rng);
        let mut request = [0; 20];
        let length = Writer::new(&mut request, Class::Request, &id).len();
        let begun = Instant::now();
        self.socket.send_to(&request[..length], self.server)?;
        let mut answer = [0; 2048];
        loop {
            let rest = patience.saturating_sub(begun.elapsed());
            if rest.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(rest))?;
            let Ok((length, from)) = self.socket.recv_from(&mut answer) else { continue };
            let is_right = from == self.server
                && View::parse(&answer[..length]).is_ok_and(|view| {
                    view.id() == id
                        && view.class() == Class::Success
                        && view.mapped() == self.socket.local_addr().ok()
                });
            if is_right {
                return Ok(Some(begun.elapsed()));
            }
        }
    }
}

/// How much of what it is late with a flood sends at once.
const MOST_ARREARS: Duration = Duration::from_millis(20);

/// Clients that send without waiting for responses.
#[derive(Debug)]
pub struct Flood {
    sockets: Vec<UdpSocket>,
    server: SocketAddr,
    datagrams: Vec<Vec<u8>>,
    sender: Sender,
    begun: Instant,
    sent: u64,
}

impl Flood {
    /// A flood of these datagrams, taken in turn, from these addresses, taken in turn.
    ///
    /// # Errors
    /// When a socket cannot be had.
    pub fn new(clients: &[IpAddr], server: SocketAddr, datagrams: Vec<Vec<u8>>) -> io::Result<Self> {
        let open = |ip: &IpAddr| {
            let socket = UdpSocket::bind(SocketAddr::new(*ip, 0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let sockets = clients.iter().map(open).collect::<io::Result<_>>()?;
        Ok(Self { sockets, server, datagrams, sender: Sender::new(BATCH), begun: Instant::now(), sent: 0 })
    }

    /// Sends one batch from each address, then sleeps as long as `rate` datagrams a second require.
    pub fn round(&mut self, rate: u64) {
        // Smaller batches where the rate is small, so that it is not sent in bursts.
        let batch = (rate / 1000 / self.sockets.len() as u64).clamp(1, BATCH as u64) as usize;
        for socket in &self.sockets {
            let turn = self.sent as usize;
            let next = |i: usize| self.datagrams[(turn + i) % self.datagrams.len()].as_slice();
            let failed = self.sender.send(socket, (0..batch).map(|i| (self.server, next(i))));
            self.sent += (batch - failed) as u64;
            let due = self.begun + Duration::from_nanos(self.sent * 1_000_000_000 / rate);
            let now = Instant::now();
            let early = due.saturating_duration_since(now);
            if early > Duration::from_millis(1) {
                thread::sleep(early);
            }
            // What a busy machine kept from being sent is not made up for at once.
            self.begun += now.saturating_duration_since(due).saturating_sub(MOST_ARREARS);
        }
    }

    /// Datagrams sent so far.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }
}

/// Datagrams from any number of addresses, without waiting for responses. The network must route `first` and the
/// addresses that follow to itself (`ip route add local 10.0.0.0/8 dev lo`), so that a socket can have those addresses.
///
/// # Errors
/// When a socket cannot be had.
pub fn from_many_sources(
    first: Ipv4Addr,
    sources: u32,
    server: SocketAddr,
    mut datagram: impl FnMut(u32) -> Vec<u8>,
) -> io::Result<u64> {
    let mut sent = 0;
    for i in 0..sources {
        let ip = Ipv4Addr::from_bits(first.to_bits() + i);
        let socket = UdpSocket::bind((ip, 0))?;
        sent += u64::from(socket.send_to(&datagram(i), server).is_ok());
    }
    Ok(sent)
}

/// The value of a counter in a server's `/metrics`, summed over its labels.
///
/// # Errors
/// When there is no response.
pub fn counted(admin: SocketAddr, counter: &str) -> io::Result<u64> {
    let mut stream = TcpStream::connect(admin)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let rows = text.lines().filter(|line| line.starts_with(counter));
    Ok(rows.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum())
}

/// A Binding request without attributes.
#[must_use]
pub fn binding_request(seed: u64) -> Vec<u8> {
    let mut request = vec![0; 20];
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(seed));
    let length = Writer::new(&mut request, Class::Request, &id).len();
    request.truncate(length);
    request
}

/// The median; of an even number, the lower one of the middle two.
#[must_use]
pub fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// Waits until one of the sockets can be read.
fn readable(sockets: &[UdpSocket], patience: Duration) -> bool {
    let mut fds: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: patience.as_nanos() as _ };
    poll(&mut fds, Some(&timeout)).is_ok_and(|n| n > 0)
}
