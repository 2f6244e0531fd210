//! Both connect to each other over TCP at the same moment: two SYNs cross (RFC 9293 section 3.5), each gateway takes
//! the other's for an answer (RFC 5382 REQ-2).

use std::{io, net::SocketAddr, time::Duration};

use shared::{
    rendezvous::{
        Technique,
        peer::{RoundCandidates, TcpSide},
    },
    stun::{Class, HEADER, TransactionId, View, Writer},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{Means, cheap};
use crate::{
    net::{Net, Stream},
    punch::{
        attempt::{Attempt, Ended},
        introducer::IntroError,
        volley::{Outcome, Way},
        wire::{Kind, LENGTH, Nonces, Packet},
    },
};

pub(super) const MEANS: Means = Means {
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
    let mut rng = attempt.post.rng().fork();
    let known = match attempt.servers.v4 {
        Some((server, ip)) => learn(&*attempt.net, SocketAddr::new(ip, 0), server, &mut rng).await.ok(),
        None => None,
    };
    let candidates = RoundCandidates { at: known.iter().map(|(_, _, at)| *at).collect(), next: None };
    let peer = attempt.meet(candidates).await?;
    let mut outcome = Outcome::default();
    let mut stream = None;
    // The connection to the server stays open: with it the mapping.
    if let (Some((_kept, local, _)), Some(target)) = (known, attempt.targets(&peer.at).first().copied()) {
        outcome.report.to.push(target);
        let (found, tries, refused) = connect(&*attempt.net, local, target, &attempt.nonces).await;
        (outcome.report.sent, outcome.report.refused) = (tries, refused);
        if let Some((found, rtt)) = found {
            outcome.report.through = true;
            outcome.report.heard = 1;
            outcome.first_heard = Some(Instant::now());
            outcome.rtt = Some(rtt);
            outcome.way = Some(Way { socket: 0, remote: target });
            stream = Some(found);
        }
    }
    Ok(Ended { outcome, stream })
}

/// Whether two destinations see the same external endpoint of one local port.
pub(in crate::punch) async fn side(
    net: &dyn Net,
    local: std::net::IpAddr,
    server: SocketAddr,
    other: SocketAddr,
    rng: &mut fastrand::Rng,
) -> Option<TcpSide> {
    let both = async {
        let (_kept, local, first) = learn(net, SocketAddr::new(local, 0), server, rng).await.ok()?;
        let (_, _, second) = learn(net, local, other, rng).await.ok()?;
        Some(TcpSide { fixed: first == second })
    };
    timeout(ANSWER * 2, both).await.ok().flatten()
}

/// A connection to the server, its local end, and how the server sees that.
async fn learn(
    net: &dyn Net,
    local: SocketAddr,
    server: SocketAddr,
    rng: &mut fastrand::Rng,
) -> io::Result<(Box<dyn Stream>, SocketAddr, SocketAddr)> {
    let asking = async {
        let mut stream = net.connect(Some(local), server).await?;
        let id = TransactionId::modern(rng);
        let mut request = [0; 64];
        let length = Writer::new(&mut request, Class::Request, &id).finish().map_err(io::Error::other)?;
        stream.write_all(&request[..length]).await?;
        let mut answer = vec![0; HEADER];
        stream.read_exact(&mut answer).await?;
        let rest = usize::from(u16::from_be_bytes([answer[2], answer[3]])).min(1024);
        answer.resize(HEADER + rest, 0);
        stream.read_exact(&mut answer[HEADER..]).await?;
        let mapped = View::parse(&answer).ok().and_then(|view| view.mapped());
        let mapped = mapped.ok_or(io::ErrorKind::InvalidData)?;
        let port = stream.local_addr()?.port();
        Ok((stream, SocketAddr::new(local.ip(), port), mapped))
    };
    timeout(ANSWER, asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// A connection to the peer with its round-trip time, the connections tried, and how many were refused.
async fn connect(
    net: &dyn Net,
    local: SocketAddr,
    target: SocketAddr,
    nonces: &Nonces,
) -> (Option<(Box<dyn Stream>, Duration)>, u32, u32) {
    let deadline = Instant::now() + WINDOW;
    let (mut tries, mut refused) = (0, 0);
    while tries < TRIES && Instant::now() < deadline {
        tries += 1;
        match timeout_at(deadline, net.connect(Some(local), target)).await {
            Err(_) => break,
            Ok(Err(error)) => {
                tracing::debug!(%target, %error, "no connection");
                refused += 1;
                sleep(PAUSE).await;
            }
            Ok(Ok(mut stream)) => {
                if let Ok(Some(rtt)) = timeout_at(deadline, greet(&mut *stream, nonces)).await {
                    return (Some((stream, rtt)), tries, refused);
                }
            }
        }
    }
    (None, tries, refused)
}

/// Proves to each other that it is the peer who is at the other end; the round-trip time.
async fn greet(stream: &mut dyn Stream, nonces: &Nonces) -> Option<Duration> {
    let sent = Instant::now();
    for kind in [Kind::Ping, Kind::Pong] {
        stream.write_all(&Packet { kind, round: 0, stamp: 0 }.write(nonces)).await.ok()?;
        stream.flush().await.ok()?;
        let mut heard = [0; LENGTH];
        stream.read_exact(&mut heard).await.ok()?;
        Packet::read(&heard, nonces).filter(|packet| packet.kind == kind)?;
    }
    // Each side's second packet waited for the other's first.
    Some(sent.elapsed())
}
