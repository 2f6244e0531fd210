//! The self-check: every endpoint is asked every CHANGE-REQUEST over real sockets, and the answers must come from
//! where they should and say what they should (RFC 5780 table 1).

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use shared::stun::{Class, TransactionId, View, Writer, attr};

use crate::{
    self_check::Turn,
    shared_state::Clock,
    source_filter,
    topology::{Endpoint, Topology},
};

/// How long one datagram may take; the path is inside this host.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(500);
/// An answer may be lost to a full buffer; only the third silence is a failure.
const TRIES: u32 = 3;
/// How long one connection may take with its answer: nothing is lost there, but a busy host may be late.
const STREAM_TIMEOUT: Duration = RESPONSE_TIMEOUT.saturating_mul(TRIES);
/// Ports that are tried for one that the server talks to; nearly all are.
const PORTS: usize = 32;
/// How long all of it may take, so that whoever asked hears of it.
const WHOLE: Duration = Duration::from_secs(4);

/// When a check of everything has to be over.
pub(crate) struct Deadline(Clock);

impl Deadline {
    pub(crate) fn begin() -> Self {
        Self(Clock::new())
    }

    fn left(&self) -> Duration {
        WHOLE.saturating_sub(Duration::from_nanos(self.0.now()))
    }

    /// How long a connection may take from now on; none when the time is up.
    pub(crate) fn of_stream(&self) -> Option<Duration> {
        Some(self.left().min(STREAM_TIMEOUT)).filter(|left| !left.is_zero())
    }
}

/// What was asked and what was wrong with the answer.
#[derive(Debug, thiserror::Error)]
#[error("self-check: {asked}, change ip {ip}, change port {port}: {what}")]
pub struct CheckError {
    asked: SocketAddr,
    ip: bool,
    port: bool,
    what: Wrong,
}

#[derive(Debug, thiserror::Error)]
enum Wrong {
    #[error("{0}")]
    Io(io::Error),
    #[error("no answer")]
    Silence,
    #[error("the answers before took too long")]
    Slow,
    #[error("the answer came from {got}, not from {wanted}")]
    Source { got: SocketAddr, wanted: SocketAddr },
    #[error("not a success response")]
    Class,
    #[error("{name} is {got:?}, not {wanted:?}")]
    Content { name: &'static str, got: Option<SocketAddr>, wanted: Option<SocketAddr> },
    #[error("CHANGE-REQUEST was not refused, though there is no alternate address")]
    NotRefused,
}

/// Asks all combinations that there are: 16 with four endpoints; with one, that it answers and refuses changes.
///
/// # Errors
/// The first combination with a wrong answer or none.
pub(crate) fn check(
    topology: &Topology,
    rng: &mut fastrand::Rng,
    turn: &Turn<'_>,
    deadline: &Deadline,
) -> Result<usize, CheckError> {
    let mut asked = 0;
    for at in topology.endpoints() {
        for (ip, port) in [(false, false), (false, true), (true, false), (true, true)] {
            let Some(address) = topology.bound(at) else { continue };
            let in_time = || if deadline.left().is_zero() { Err(Wrong::Slow) } else { Ok(()) };
            in_time()
                .and_then(|()| ask(topology, at, address, (ip, port), rng, turn))
                .map_err(|what| CheckError { asked: address, ip, port, what })?;
            asked += 1;
        }
    }
    Ok(asked)
}

fn ask(
    topology: &Topology,
    at: Endpoint,
    address: SocketAddr,
    (ip, port): (bool, bool),
    rng: &mut fastrand::Rng,
    turn: &Turn<'_>,
) -> Result<(), Wrong> {
    let id = TransactionId::modern(rng);
    let mut buffer = [0; 64];
    let mut writer = Writer::new(&mut buffer, Class::Request, &id);
    if ip || port {
        writer
            .u32(attr::CHANGE_REQUEST, u32::from(ip) * attr::CHANGE_IP + u32::from(port) * attr::CHANGE_PORT);
    }
    let length = writer.len();
    let mut answer = [0; 512];
    for _ in 0..TRIES {
        // A new socket each time: with more than one worker, the tries reach different ones.
        let (socket, local) = socket(topology, address.ip()).map_err(Wrong::Io)?;
        let _registered = turn.register(local);
        socket.send_to(&buffer[..length], address).map_err(Wrong::Io)?;
        while let Ok((length, from)) = socket.recv_from(&mut answer) {
            let Ok(view) = View::parse(&answer[..length]) else { continue };
            if view.id() == id {
                return judge(topology, at, (ip, port), local, from, &view);
            }
        }
    }
    Err(Wrong::Silence)
}

/// A socket on a port that the server talks to.
fn socket(topology: &Topology, ip: IpAddr) -> io::Result<(UdpSocket, SocketAddr)> {
    for _ in 0..PORTS {
        let socket = UdpSocket::bind(SocketAddr::new(ip, 0))?;
        let local = socket.local_addr()?;
        if source_filter::screen_source(topology, local).is_ok() {
            socket.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
            return Ok((socket, local));
        }
    }
    Err(io::Error::other("no usable local port found"))
}

fn judge(
    topology: &Topology,
    at: Endpoint,
    (ip, port): (bool, bool),
    local: SocketAddr,
    from: SocketAddr,
    view: &View<'_>,
) -> Result<(), Wrong> {
    if !topology.has_alternate() && (ip || port) {
        return if view.error().is_some_and(|e| e.0 == 420) { Ok(()) } else { Err(Wrong::NotRefused) };
    }
    let leaves = at.change(ip, port);
    if topology.bound(leaves) != Some(from) {
        return Err(Wrong::Source { got: from, wanted: topology.bound(leaves).unwrap_or(from) });
    }
    if view.class() != Class::Success {
        return Err(Wrong::Class);
    }
    let contents = [
        ("MAPPED-ADDRESS", view.address(attr::MAPPED_ADDRESS), Some(local)),
        ("XOR-MAPPED-ADDRESS", view.xor_address(attr::XOR_MAPPED_ADDRESS), Some(local)),
        ("RESPONSE-ORIGIN", view.address(attr::RESPONSE_ORIGIN), topology.advertised(leaves)),
        ("OTHER-ADDRESS", view.address(attr::OTHER_ADDRESS), topology.advertised(at.other())),
    ];
    match contents.into_iter().find(|(_, got, wanted)| got != wanted) {
        Some((name, got, wanted)) => Err(Wrong::Content { name, got, wanted }),
        None => Ok(()),
    }
}
