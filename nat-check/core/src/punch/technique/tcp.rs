//! Both connect to each other over TCP at the same moment: two SYNs cross (RFC 9293 section 3.5), each gateway takes
//! the other's for an answer (RFC 5382 REQ-2).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::{
    rendezvous::peer::{RoundCandidates, TcpSide},
    stun::{Dialect, TransactionId},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Method, cheap};
use crate::{
    net::{Net, Stream},
    punch::{
        attempt::{Attempt, Ended},
        burst::Path,
        checks::Outcome,
        introducer::IntroError,
        wire::{Keys, Kind, LENGTH, Packet},
    },
    randomness::RandomSource,
    stun_over_tcp,
    technique::Technique,
};

pub(super) const METHOD: Method = Method {
    technique: Technique::Tcp,
    about: "both connect over TCP at the same moment",
    rounds: |pair| {
        let fixed = |tcp: Option<TcpSide>| tcp.is_some_and(|tcp| tcp.fixed);
        u32::from(fixed(pair.mine.tcp) && fixed(pair.peers.tcp))
    },
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

/// How long the two try; a SYN that gets lost is sent again after a second, and after three.
const WINDOW: Duration = Duration::from_secs(6);
/// Connections that are tried when a gateway refuses one at once.
const TRIES: u32 = 25;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(40);
/// How long the server may take: a SYN that gets lost is sent again after a second, and after three.
const ANSWER: Duration = Duration::from_secs(5);

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let known = match attempt.servers.v4.zip(attempt.sockets.transaction_id()) {
        Some(((server, ip), id)) => {
            External::learn(&*attempt.net, SocketAddr::new(ip, 0), server, id).await.ok()
        }
        None => None,
    };
    let at = known.iter().map(|known| known.external).collect();
    let peer = attempt.meet(RoundCandidates { at, next: None }).await?;
    let mut outcome = Outcome::default();
    let mut stream = None;
    // The connection to the server stays open: with it the mapping.
    if let (Some(known), Some(target)) = (known, attempt.vouched(&peer.at)) {
        let connected = connect(&*attempt.net, known.local, target, &attempt.keys).await;
        (outcome.sent, outcome.refused) = (connected.tries, connected.refused);
        outcome.report.to.push(target);
        // How many connections it took shows whether they were refused, which is not the peer's to know.
        outcome.report.sent = 1;
        if let Some((found, rtt)) = connected.found {
            outcome.report.through = true;
            outcome.report.heard = 1;
            outcome.first_heard = Some(Instant::now());
            outcome.rtt = Some(rtt);
            outcome.path = Some(Path { socket: 0, remote: target });
            stream = Some(found);
        }
    }
    Ok(Ended { outcome, stream })
}

/// Whether two destinations see the same external endpoint of one local port.
pub(in crate::punch) async fn side(
    net: &dyn Net,
    local: IpAddr,
    server: SocketAddr,
    other: SocketAddr,
    random: &mut RandomSource,
) -> Option<TcpSide> {
    let [first_id, second_id] = [(); 2].map(|()| random.transaction_id(Dialect::Modern).ok());
    let both = async {
        // Both connections at once: the second one must not get a mapping that the first one has left.
        let first = External::learn(net, SocketAddr::new(local, 0), server, first_id?).await.ok()?;
        let second = External::learn(net, first.local, other, second_id?).await.ok()?;
        Some(TcpSide { fixed: first.external == second.external })
    };
    timeout(ANSWER * 2, both).await.ok().flatten()
}

/// A connection to the server, its local end, and how the server sees that.
struct External {
    _kept: Box<dyn Stream>,
    local: SocketAddr,
    external: SocketAddr,
}

impl External {
    async fn learn(
        net: &dyn Net,
        local: SocketAddr,
        server: SocketAddr,
        id: TransactionId,
    ) -> io::Result<Self> {
        let asking = async {
            let mut stream = net.connect(Some(local), server).await?;
            let external = stun_over_tcp::binding(&mut *stream, id).await?;
            let port = stream.local_addr()?.port();
            Ok(Self { _kept: stream, local: SocketAddr::new(local.ip(), port), external })
        };
        timeout(ANSWER, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// What came of connecting to the peer.
#[derive(Default)]
struct Connected {
    /// The connection, with its round-trip time.
    found: Option<(Box<dyn Stream>, Duration)>,
    tries: u32,
    refused: u32,
}

async fn connect(net: &dyn Net, local: SocketAddr, target: SocketAddr, keys: &Keys) -> Connected {
    let deadline = Instant::now() + WINDOW;
    let mut connected = Connected::default();
    while connected.tries < TRIES && Instant::now() < deadline {
        connected.tries += 1;
        match timeout_at(deadline, net.connect(Some(local), target)).await {
            Err(_) => break,
            Ok(Err(error)) => {
                tracing::debug!(%target, %error, "no connection");
                connected.refused += 1;
                sleep(PAUSE).await;
            }
            Ok(Ok(mut stream)) => {
                if let Ok(Some(rtt)) = timeout_at(deadline, check(&mut *stream, keys)).await {
                    connected.found = Some((stream, rtt));
                    break;
                }
            }
        }
    }
    connected
}

/// A connectivity check in both directions: proves to each other that it is the peer who is at the other end. The
/// round-trip time.
async fn check(stream: &mut dyn Stream, keys: &Keys) -> Option<Duration> {
    let sent = Instant::now();
    for kind in [Kind::Ping, Kind::Pong] {
        stream.write_all(&Packet { kind, round: 0, stamp: 0 }.write(keys)).await.ok()?;
        stream.flush().await.ok()?;
        let mut received = [0; LENGTH];
        stream.read_exact(&mut received).await.ok()?;
        Packet::read(&received, keys).filter(|packet| packet.kind == kind)?;
    }
    // Each side's second packet waited for the other's first.
    Some(sent.elapsed())
}
