//! Load for servers: closed-loop clients that always keep a number of requests under way, floods that wait for
//! nothing, and the processor time and memory that a server spends on them.

use std::{
    fmt, fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use probe_server::batch::{Receiver, Sender};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};
use shared::stun::{Class, TransactionId, View, Writer};
use tokio::time::Instant;

/// Datagrams a system call.
const BATCH: usize = 64;
/// Silence after which requests count as lost and are replaced.
const LOST: Duration = Duration::from_millis(200);

/// What a closed loop brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Harvest {
    /// Requests sent.
    pub sent: u64,
    /// Success answers received.
    pub answered: u64,
    /// Requests given up.
    pub lost: u64,
}

/// Clients that ask one server endpoint.
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
    /// One client for each address, each with `window` requests under way. To be made in the network that it is to
    /// ask in.
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

    /// Asks for this long.
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
                // What was given up may still come.
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

/// A client that asks one thing after the other, as an honest one does, each with an id of its own and without
/// repeating anything.
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

    /// Asks once; whether anything came from the server in time.
    ///
    /// # Errors
    /// When the request cannot be sent.
    pub fn sees_anything(&mut self, patience: Duration) -> io::Result<bool> {
        self.socket.set_read_timeout(Some(patience))?;
        self.socket.send_to(&binding_request(1), self.server)?;
        Ok(self.socket.recv_from(&mut [0; 2048]).is_ok_and(|(_, from)| from == self.server))
    }

    /// Asks once; the time that the right answer took, or `None` if it did not come in time.
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

/// Clients that send and wait for nothing.
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
    /// A flood of these datagrams, in turn, from these addresses, in turn.
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

    /// Sends one batch from each address, and rests when that is more than `rate` datagrams a second allow.
    pub fn round(&mut self, rate: u64) {
        // Smaller batches where the rate is small, so that it is not sent in bursts.
        let batch = (rate / 1000 / self.sockets.len() as u64).clamp(1, BATCH as u64) as usize;
        for socket in &self.sockets {
            let turn = self.sent as usize;
            let next = |i: usize| self.datagrams[(turn + i) % self.datagrams.len()].as_slice();
            let failed = self.sender.send(socket, (0..batch).map(|i| (self.server, next(i))));
            self.sent += (batch - failed) as u64;
            let due = Duration::from_nanos(self.sent * 1_000_000_000 / rate);
            let early = due.saturating_sub(self.begun.elapsed());
            if early > Duration::from_millis(1) {
                thread::sleep(early);
            }
        }
    }

    /// Datagrams sent so far.
    #[must_use]
    pub const fn sent(&self) -> u64 {
        self.sent
    }
}

/// How a server stood mixed load.
#[derive(Clone, Debug, PartialEq)]
pub struct Endurance {
    /// How long.
    pub duration: Duration,
    /// Honest requests, each sent once.
    pub asked: u64,
    /// Those that were answered rightly.
    pub answered: u64,
    /// The longest that an answer took.
    pub slowest: Duration,
    /// Honest connections over TCP: opened, and served as they should.
    pub streams: (u64, u64),
    /// Hostile datagrams.
    pub hostile: u64,
    /// Hostile connections.
    pub hostile_streams: u64,
    /// Resident memory in KiB after a second, and at the end.
    pub resident: (u64, u64),
}

impl Endurance {
    /// Whether nothing honest was lost.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.asked > 0 && self.answered == self.asked && self.streams.0 == self.streams.1
    }
}

impl fmt::Display for Endurance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (open, served) = self.streams;
        write!(
            f,
            "{:.0} s: {} of {} honest requests answered (slowest {:.1} ms), {served} of {open} honest connections \
             served, beside {} hostile datagrams and {} hostile connections; memory {} KiB, at the end {} KiB",
            self.duration.as_secs_f64(),
            self.answered,
            self.asked,
            self.slowest.as_secs_f64() * 1000.0,
            self.hostile,
            self.hostile_streams,
            self.resident.0,
            self.resident.1,
        )
    }
}

/// Hostile datagrams a second in [`endure`].
const HOSTILE_RATE: u64 = 20_000;
/// How long an honest client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Puts a server under hostile load (these datagrams from 250 addresses of 10.0.0.0/8, and connections that send
/// rubbish or nothing) while honest clients in 192.0.2.0/24 ask. To be called in the server's network.
///
/// # Errors
/// When a socket cannot be had.
pub fn endure(
    pid: u32,
    server: SocketAddr,
    hostile: Vec<Vec<u8>>,
    duration: Duration,
) -> io::Result<Endurance> {
    let begun = Instant::now();
    let stop = AtomicBool::new(false);
    let hostile_streams = AtomicU64::new(0);
    // Three /24, and hosts all over the rest.
    let ip = |i: u8| {
        IpAddr::from(if i.is_multiple_of(2) { [10, 9, i % 3, i] } else { [10, i, i.wrapping_mul(7), i] })
    };
    let addresses: Vec<_> = (0..250).map(ip).collect();
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut flood = Flood::new(&addresses, server, hostile)?;
            while !stop.load(Relaxed) {
                flood.round(HOSTILE_RATE);
            }
            io::Result::Ok(flood.sent())
        });
        scope.spawn(|| {
            // Connections that say nothing, half a message, or something else, held for a while.
            let mut held = std::collections::VecDeque::new();
            while !stop.load(Relaxed) {
                let stream = TcpStream::connect_timeout(&server, PATIENCE);
                if let Ok(mut stream) = stream {
                    let n = hostile_streams.fetch_add(1, Relaxed);
                    let words: &[u8] = [&b""[..], &[0, 1, 0, 0], b"GET / HTTP/1.0\r\n\r\n"][n as usize % 3];
                    // The server may have closed it already.
                    _ = stream.write_all(words);
                    held.push_back(stream);
                }
                if held.len() > 10 {
                    held.pop_front();
                }
                thread::sleep(Duration::from_millis(50));
            }
        });
        let clients: Vec<_> = (1..=8_u8)
            .map(|i| {
                let stop = &stop;
                scope.spawn(move || honest_client(i, server, stop))
            })
            .collect();
        let streams = scope.spawn(|| honest_streams(server, &stop));
        let settle = Duration::from_secs(1).min(duration / 2);
        thread::sleep(settle);
        let early = resident_kib(pid);
        thread::sleep(duration.saturating_sub(settle));
        let late = resident_kib(pid);
        stop.store(true, Relaxed);
        let (mut asked, mut answered, mut slowest) = (0, 0, Duration::ZERO);
        for client in clients {
            let (his_asked, his_answered, his_slowest) = joined(client.join())??;
            asked += his_asked;
            answered += his_answered;
            slowest = slowest.max(his_slowest);
        }
        Ok(Endurance {
            asked,
            answered,
            slowest,
            streams: joined(streams.join())?,
            hostile: joined(flood.join())??,
            hostile_streams: hostile_streams.load(Relaxed),
            resident: (early?, late?),
            duration: begun.elapsed(),
        })
    })
}

fn honest_client(i: u8, server: SocketAddr, stop: &AtomicBool) -> io::Result<(u64, u64, Duration)> {
    let mut client = Honest::new(IpAddr::from([192, 0, 2, i]), server, u64::from(i))?;
    let (mut asked, mut answered, mut slowest) = (0, 0, Duration::ZERO);
    while !stop.load(Relaxed) {
        asked += 1;
        if let Some(time) = client.ask(PATIENCE)? {
            answered += 1;
            slowest = slowest.max(time);
        }
        // Eight clients in one /24 stay below its limit of 400 a second.
        thread::sleep(Duration::from_millis(25));
    }
    Ok((asked, answered, slowest))
}

/// Connections one after the other, with three requests each; how many there were and how many went well.
fn honest_streams(server: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    let (mut open, mut served) = (0, 0);
    let talk = || -> io::Result<()> {
        // From an address of its own: the hostile ones have used up their host's connections.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([192, 0, 2, 50], 0)).into())?;
        socket.connect_timeout(&server.into(), PATIENCE)?;
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        for seed in 0..3 {
            let request = binding_request(seed);
            stream.write_all(&request)?;
            let mut answer = [0; 68];
            stream.read_exact(&mut answer)?;
            if answer[..2] != [1, 1] || answer[4..20] != request[4..20] {
                return Err(io::Error::other("not the answer"));
            }
        }
        Ok(())
    };
    while !stop.load(Relaxed) {
        open += 1;
        served += u64::from(talk().is_ok());
        thread::sleep(Duration::from_millis(100));
    }
    (open, served)
}

fn joined<T>(result: thread::Result<T>) -> io::Result<T> {
    result.map_err(|_| io::Error::other("a thread of the load panicked"))
}

/// Datagrams from as many addresses as one likes, without waiting for answers. The network must route `first` and
/// what follows to itself (`ip route add local 10.0.0.0/8 dev lo`), so that a socket can have those addresses.
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

/// A bare Binding request.
#[must_use]
pub fn binding_request(seed: u64) -> Vec<u8> {
    let mut request = vec![0; 20];
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(seed));
    let length = Writer::new(&mut request, Class::Request, &id).len();
    request.truncate(length);
    request
}

/// The processor time that all threads of a process have used so far.
///
/// # Errors
/// When there is no such process.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().and_then(|n| n.parse::<u64>().ok()).unwrap_or_default();
    }
    Ok(Duration::from_nanos(sum))
}

/// The resident memory of a process in KiB.
///
/// # Errors
/// When there is no such process.
pub fn resident_kib(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse().ok());
    number.ok_or_else(|| io::Error::other("no VmRSS"))
}

/// Keeps the calling thread, and what it starts from now on, on one core.
///
/// # Errors
/// When there is no such core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Lets all threads of a process run on any core.
///
/// # Errors
/// When there is no such process.
pub fn unpin(pid: u32) -> io::Result<()> {
    let mut set = CpuSet::new();
    (0..thread::available_parallelism().map_or(1, usize::from)).for_each(|core| set.set(core));
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let tid = task?.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        sched_setaffinity(tid, &set)?;
    }
    Ok(())
}

/// The middle one; for an even number, the lower of the two in the middle.
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
