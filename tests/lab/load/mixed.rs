//! Mixed load: all kinds of hostile traffic at once, and honest clients that have to be served all the same.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};

use shared::stun::{Class, TransactionId, Writer, attr};
use tokio::time::Instant;

use super::{Flood, Honest, binding_request, spent};

/// Results of mixed load.
#[derive(Clone, Debug, PartialEq)]
pub struct Endurance {
    /// How long.
    pub duration: Duration,
    /// Honest requests, each sent once.
    pub asked: u64,
    /// Those that were answered correctly.
    pub answered: u64,
    /// The longest time until a response.
    pub slowest: Duration,
    /// Honest TCP connections: opened, and served correctly.
    pub streams: (u64, u64),
    /// Hostile datagrams.
    pub hostile: u64,
    /// Hostile connections.
    pub hostile_streams: u64,
    /// Resident memory in KiB after a second, and at the end.
    pub resident: (u64, u64),
}

impl Endurance {
    /// Whether no honest request was lost, and memory grew by no more than a megabyte.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.is_clean_despite(0)
    }

    /// The same for a server that was restarted: each restart may close the one honest connection that is open.
    #[must_use]
    pub const fn is_clean_despite(&self, restarts: u64) -> bool {
        let served = self.answered == self.asked && self.streams.0 <= self.streams.1 + restarts;
        self.asked > 0 && served && self.resident.1 <= self.resident.0 + 1024
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
/// How long an honest client waits for a response.
const PATIENCE: Duration = Duration::from_secs(2);

/// Puts a server under hostile load ([`hostile_packets`] from 250 addresses of 10.0.0.0/8, and connections that
/// send garbage or nothing) while honest clients in 192.0.2.0/24 send requests. Call it in the server's network.
///
/// # Errors
/// When a socket cannot be had.
pub fn endure(pid: &AtomicU32, server: SocketAddr, duration: Duration) -> io::Result<Endurance> {
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
            let packets = hostile_packets().into_iter().map(|(_, packet)| packet).collect();
            let mut flood = Flood::new(&addresses, server, packets)?;
            while !stop.load(Relaxed) {
                flood.round(HOSTILE_RATE);
            }
            io::Result::Ok(flood.sent())
        });
        scope.spawn(|| {
            // Connections that send nothing, half a message or garbage, and stay open for a while.
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
                // More than one host may have, so that some are always refused.
                if held.len() > 30 {
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
        let early = spent::resident_kib(pid.load(Relaxed));
        thread::sleep(duration.saturating_sub(settle));
        let late = spent::resident_kib(pid.load(Relaxed));
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

/// Connections one after another, with three requests each; returns how many there were and how many succeeded.
fn honest_streams(server: SocketAddr, stop: &AtomicBool) -> (u64, u64) {
    let (mut open, mut served) = (0, 0);
    let talk = || -> io::Result<()> {
        // From an address of its own, as an honest client would be.
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

/// A modern request with these attributes.
pub fn with(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let mut writer =
        Writer::new(&mut buffer, Class::Request, &TransactionId::modern(&mut fastrand::Rng::with_seed(2)));
    fill(&mut writer);
    let length = writer.len();
    buffer[..length].to_vec()
}

/// Hostile packets: valid ones that cost the server as much as possible, and garbage.
#[must_use]
pub fn hostile_packets() -> Vec<(&'static str, Vec<u8>)> {
    let mut rng = fastrand::Rng::with_seed(3);
    let mut rubbish = vec![0; 1472];
    rng.fill(&mut rubbish);
    rubbish[0] = 0;
    vec![
        ("16 unknown attributes", with(|w| (0..16).for_each(|i| _ = w.bytes(0x7000 + i, &[])))),
        ("363 empty attributes", with(|w| (0..363).for_each(|_| _ = w.bytes(attr::SOFTWARE, &[])))),
        ("1,400 bytes of PADDING and FINGERPRINT", with(|w| _ = w.zeros(attr::PADDING, 1400).fingerprint())),
        ("1,400 bytes and a wrong FINGERPRINT", {
            let mut bytes = with(|w| _ = w.zeros(attr::FILLER, 1400).fingerprint());
            bytes[30] ^= 1;
            bytes
        }),
        (
            "REALM and NONCE of 720 bytes",
            with(|w| _ = w.bytes(attr::REALM, &[b'a'; 720]).bytes(attr::NONCE, &[b'b'; 720])),
        ),
        (
            "a receipt for a changed answer",
            with(|w| _ = w.u32(attr::CHANGE_REQUEST, 6).zeros(attr::RECEIPT, 200)),
        ),
        ("1,472 random bytes", rubbish),
        ("an empty datagram", Vec::new()),
    ]
}
