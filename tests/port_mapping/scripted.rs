//! Gateways that are less honest than miniupnpd: each answers as a test wants, on a router's addresses.

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::time::Instant;

use natlab::{LabError, netns::Namespace};
use shared::port_mapping::{
    nat_pmp,
    pcp::{self, Operation},
};

use super::home::GATEWAY;

/// How soon a thread sees that it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// What runs on a router; dropping it ends it.
pub(crate) struct Scripted {
    ended: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A gateway that says this to whoever asks for a mapping by PCP or NAT-PMP, and does nothing.
pub(crate) fn over_datagrams(router: &Namespace, result: u8) -> Result<Scripted, LabError> {
    named(router, result, [5, 5, 5, 1], |_, external| external)
}

/// A gateway that names this external address, and grants the external port that equals the internal one.
pub(crate) fn of_equal_ports(router: &Namespace, address: [u8; 4]) -> Result<Scripted, LabError> {
    named(router, 0, address, |internal, _| internal)
}

fn named(
    router: &Namespace,
    result: u8,
    address: [u8; 4],
    granted: fn(u16, u16) -> u16,
) -> Result<Scripted, LabError> {
    let socket = udp(router, 5351)?;
    let started = Instant::now();
    let epoch = move || u32::try_from(77 + started.elapsed().as_secs()).unwrap_or(u32::MAX);
    serve_udp(socket, move |message| match (pcp::Request::read(message), nat_pmp::Request::read(message)) {
        (Some(request), _) => {
            let operation = match request.operation {
                Operation::Map(map) => {
                    let external_address = IpAddr::from(address);
                    let external = granted(map.internal, map.external);
                    Operation::Map(pcp::Map { external, external_address, ..map })
                }
                Operation::Announce => Operation::Announce,
            };
            let result = if operation == Operation::Announce { 0 } else { result };
            Some(pcp::Response { result, lifetime: request.lifetime, epoch: epoch(), operation }.write())
        }
        (None, Some(request)) => {
            let (body, result) = match request {
                nat_pmp::Request::ExternalAddress => (nat_pmp::Body::ExternalAddress(address.into()), 0),
                nat_pmp::Request::Map { transport, internal, external, lifetime } => {
                    let external = granted(internal, external);
                    (nat_pmp::Body::Map { transport, internal, external, lifetime }, result)
                }
            };
            Some(nat_pmp::Response { result: result.into(), epoch: epoch(), body }.write())
        }
        (None, None) => None,
    })
}

/// A UPnP device: where it says that its description is, and what it answers to every request over HTTP, byte by byte or at
/// once.
pub(crate) struct Device {
    pub(crate) location: &'static str,
    pub(crate) answer: Vec<u8>,
    pub(crate) pause: Duration,
}

impl Device {
    /// Starts it.
    pub(crate) fn start(self, router: &Namespace) -> Result<Scripted, LabError> {
        let search = udp(router, 1900)?;
        let location = self.location;
        let found = move |message: &[u8]| {
            let text = String::from_utf8_lossy(message);
            let target = text.lines().find_map(|line| line.strip_prefix("ST: "))?.to_owned();
            Some(
                format!(
                    "HTTP/1.1 200 OK\r\nST: {target}\r\nSERVER: scripted\r\nLOCATION: {location}\r\n\r\n"
                )
                .into(),
            )
        };
        let mut scripted = serve_udp(search, found)?;
        let listener = router
            .run(|| TcpListener::bind((GATEWAY, 5000)))
            .map_err(LabError::io("listening on the router"))?;
        listener.set_nonblocking(true).map_err(LabError::io("listening on the router"))?;
        let ended = Arc::clone(&scripted.ended);
        scripted.threads.push(thread::spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => self.answer(stream, &ended),
                    Err(_) => thread::sleep(LOOK),
                }
            }
        }));
        Ok(scripted)
    }

    /// Whoever asked may have left: then nothing is to be done.
    fn answer(&self, mut stream: TcpStream, ended: &AtomicBool) {
        let mut request = [0; 4096];
        _ = stream.set_nonblocking(false);
        _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
        _ = stream.read(&mut request);
        if self.pause.is_zero() {
            _ = stream.write_all(&self.answer);
            return;
        }
        for byte in &self.answer {
            if ended.load(Ordering::Relaxed) || stream.write_all(&[*byte]).is_err() {
                return;
            }
            thread::sleep(self.pause);
        }
    }
}

fn udp(router: &Namespace, port: u16) -> Result<UdpSocket, LabError> {
    // Any address, since searches go to a group.
    let socket =
        router.run(move || UdpSocket::bind(("0.0.0.0", port))).map_err(LabError::io("opening a socket"))?;
    socket.set_read_timeout(Some(LOOK)).map_err(LabError::io("opening a socket"))?;
    Ok(socket)
}

fn serve_udp(
    socket: UdpSocket,
    answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static,
) -> Result<Scripted, LabError> {
    let ended = Arc::new(AtomicBool::new(false));
    let is_over = Arc::clone(&ended);
    let serving = thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !is_over.load(Ordering::Relaxed) {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    if let Some(answer) = answer(&buffer[..length]) {
                        _ = socket.send_to(&answer, from);
                    }
                }
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return,
            }
        }
    });
    Ok(Scripted { ended, threads: vec![serving] })
}
