//! Connections between two who connect and listen at the same time: there may be several, and both have to use the same.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Mutex,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    net::{Listener, Stream, TcpPort},
    punch::wire::{Keys, Kind, LENGTH, Packet},
    verdict::predict::tcp::CONNECTIONS,
};

/// How long the two try; a SYN that gets lost is sent again after a second, and after three.
const WINDOW: Duration = Duration::from_secs(6);
/// What has begun by then is brought to an end.
const GRACE: Duration = Duration::from_secs(2);
/// Connections to one endpoint that are tried when a gateway refuses one at once.
const TRIES: u32 = 25;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(40);
/// Between the first SYNs to several endpoints: NATs give ports in their order.
const SPACING: Duration = Duration::from_millis(2);

/// Two who are to meet.
pub(super) struct Meeting {
    pub(super) port: Arc<dyn TcpPort>,
    pub(super) keys: Keys,
    /// Where the server has seen the peer: others are not accepted.
    pub(super) peer: IpAddr,
    pub(super) nomination: Nomination,
}

/// How the two agree on one of several connections (RFC 8445 section 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nomination {
    /// This side says which.
    Controlling,
    /// The peer does.
    Controlled,
    /// There is one at a time: the peer knows nothing of nominations.
    OnlyOne,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Connected {
    pub(super) found: Option<Found>,
    pub(super) tries: u32,
    pub(super) refused: u32,
}

/// The connection that both use.
pub(super) struct Found {
    pub(super) stream: Box<dyn Stream>,
    pub(super) remote: SocketAddr,
    pub(super) rtt: Duration,
}

impl Meeting {
    /// Connects to all these endpoints and accepts connections, until the two have agreed on one or time is up.
    pub(super) async fn hold(self, targets: Vec<SocketAddr>) -> Connected {
        let listener = match self.nomination {
            Nomination::Controlling | Nomination::Controlled => self.port.listen().ok(),
            Nomination::OnlyOne => None,
        };
        let deadline = Instant::now() + WINDOW;
        // Tries for each: no more connections than stated are opened.
        let each = (CONNECTIONS / u32::try_from(targets.len()).unwrap_or(u32::MAX).max(1)).clamp(1, TRIES);
        let (meeting, counts) = (Arc::new(self), Arc::new(Counts::default()));
        let agreeing = Arc::new(Agreeing { meeting, turn: Mutex::new(()), deadline });
        let mut ways = JoinSet::new();
        for (number, target) in (0..).zip(targets) {
            let (agreeing, counts) = (Arc::clone(&agreeing), Arc::clone(&counts));
            ways.spawn(async move {
                sleep(SPACING * number).await;
                agreeing.connect(target, each, &counts).await
            });
        }
        if let Some(listener) = listener {
            ways.spawn(Arc::clone(&agreeing).accept(listener));
        }
        let first = async {
            while let Some(ended) = ways.join_next().await {
                // What panics is a defect of ours; the other ways are still good.
                if let Ok(Some(found)) = ended {
                    return Some(found);
                }
            }
            None
        };
        let found = timeout_at(deadline + GRACE, first).await.ok().flatten();
        let count = |counted: &AtomicU32| counted.load(Ordering::Relaxed);
        Connected { found, tries: count(&counts.tries), refused: count(&counts.refused) }
    }
}

#[derive(Default)]
struct Counts {
    tries: AtomicU32,
    refused: AtomicU32,
}

/// What connections of one meeting share.
struct Agreeing {
    meeting: Arc<Meeting>,
    /// One is nominated at a time.
    turn: Mutex<()>,
    deadline: Instant,
}

impl Agreeing {
    async fn connect(&self, remote: SocketAddr, tries: u32, counts: &Counts) -> Option<Found> {
        for _ in 0..tries {
            counts.tries.fetch_add(1, Ordering::Relaxed);
            match timeout_at(self.deadline, self.meeting.port.connect(remote)).await {
                Err(_) => return None,
                Ok(Err(error)) => {
                    tracing::debug!(%remote, %error, "no connection");
                    counts.refused.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
                Ok(Ok(stream)) => {
                    if let Some(found) = self.agree(stream, remote).await {
                        return Some(found);
                    }
                }
            }
            if Instant::now() >= self.deadline {
                return None;
            }
        }
        None
    }

    async fn accept(self: Arc<Self>, listener: Box<dyn Listener>) -> Option<Found> {
        let mut accepted = JoinSet::new();
        let mut left = CONNECTIONS;
        loop {
            tokio::select! {
                biased;
                Some(ended) = accepted.join_next() => {
                    if let Ok(Some(found)) = ended {
                        return Some(found);
                    }
                }
                came = listener.accept(), if left > 0 => {
                    // Where it can accept no more, the connections that it has are still good.
                    let Ok((stream, from)) = came else {
                        left = 0;
                        continue;
                    };
                    let from = SocketAddr::new(from.ip().to_canonical(), from.port());
                    if from.ip() == self.meeting.peer {
                        left -= 1;
                        let this = Arc::clone(&self);
                        accepted.spawn(async move { this.agree(stream, from).await });
                    }
                }
                else => return None,
            }
        }
    }

    /// Whether it is the peer who is at the other end, and whether it uses this connection, too.
    async fn agree(&self, mut stream: Box<dyn Stream>, remote: SocketAddr) -> Option<Found> {
        let sent = Instant::now();
        timeout_at(self.deadline, self.check(&mut *stream)).await.ok()?.ok()?;
        // Each side's second packet waited for the other's first.
        let rtt = sent.elapsed();
        timeout_at(self.deadline + GRACE, self.nominate(&mut *stream)).await.ok()?.ok()?;
        Some(Found { stream, remote, rtt })
    }

    /// A connectivity check in both directions.
    async fn check(&self, stream: &mut dyn Stream) -> io::Result<()> {
        for kind in [Kind::Ping, Kind::Pong] {
            self.say(stream, kind).await?;
            self.hear(stream, kind).await?;
        }
        Ok(())
    }

    async fn nominate(&self, stream: &mut dyn Stream) -> io::Result<()> {
        match self.meeting.nomination {
            Nomination::Controlling => {
                let _turn = self.turn.lock().await;
                self.say(stream, Kind::Nominate).await?;
                self.hear(stream, Kind::Nominated).await
            }
            Nomination::Controlled => {
                self.hear(stream, Kind::Nominate).await?;
                self.say(stream, Kind::Nominated).await
            }
            Nomination::OnlyOne => Ok(()),
        }
    }

    async fn say(&self, stream: &mut dyn Stream, kind: Kind) -> io::Result<()> {
        stream.write_all(&Packet { kind, round: 0, stamp: 0 }.write(&self.meeting.keys)).await?;
        stream.flush().await
    }

    async fn hear(&self, stream: &mut dyn Stream, kind: Kind) -> io::Result<()> {
        let mut received = [0; LENGTH];
        stream.read_exact(&mut received).await?;
        let packet = Packet::read(&received, &self.meeting.keys).filter(|packet| packet.kind == kind);
        packet.map(|_| ()).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}
