//! Holding a path: heartbeats over it, and what they tell of loss, round-trip time and jitter.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    burst::Path,
    sockets::Sockets,
    wire::{Keys, Kind, LENGTH, Packet, Stamps},
};
use crate::net::Stream;

/// What the heartbeats told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    /// From the first to the last sign of life.
    pub(super) held: Duration,
    pub(super) heartbeats: u32,
    pub(super) replies: u32,
    /// At most one for each heartbeat.
    pub(super) rtts: Vec<Duration>,
}

impl Held {
    /// When a path that was held until then is let go of: the last heartbeat gets its time, and the peer's last one its reply.
    pub(super) fn close(&self, end: Instant, rtt: Duration) -> Instant {
        let least = if self.replies < self.heartbeats { LATE_REPLY } else { Duration::ZERO };
        end + (rtt * 2).min(LAST_REPLY).max(least)
    }

    /// Share of heartbeats without a reply.
    pub(super) fn loss(&self) -> Option<f64> {
        let replies = f64::from(self.replies.min(self.heartbeats));
        (self.heartbeats > 0).then(|| 1.0 - replies / f64::from(self.heartbeats))
    }

    /// Median round-trip time.
    pub(super) fn rtt(&self) -> Option<Duration> {
        let mut sorted = self.rtts.clone();
        sorted.sort_unstable();
        sorted.get(sorted.len() / 2).copied()
    }

    /// Mean difference between one round-trip time and the next.
    pub(super) fn jitter(&self) -> Option<Duration> {
        let steps: Vec<Duration> = self.rtts.windows(2).map(|w| w[0].abs_diff(w[1])).collect();
        let count = u32::try_from(steps.len()).ok().filter(|n| *n > 0)?;
        Some(steps.iter().sum::<Duration>() / count)
    }

    /// Notes a reply; further ones than there were heartbeats are somebody's flood.
    pub(super) fn replied(&mut self, rtt: Duration, since_begin: Duration) {
        if self.replies < self.heartbeats {
            self.replies += 1;
            self.rtts.push(rtt);
        }
        self.held = since_begin;
    }
}

/// The interval of heartbeats: enough of them for a figure, but never a burden.
pub(super) fn interval(hold: Duration) -> Duration {
    (hold / 25).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

/// How long the last reply may take.
const LAST_REPLY: Duration = Duration::from_secs(1);
/// How long replies are waited for as long as some are missing: a peer that is busy is no loss.
const LATE_REPLY: Duration = Duration::from_millis(500);
/// Replies to a peer that floods, as many as an honest one could ask for.
pub(super) const MAX_REPLIES: u32 = 4000;

/// How long a path is held, and its round-trip time as far as it is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) hold: Duration,
    pub(super) rtt: Duration,
}

/// Over UDP. The peer's address may change meanwhile, as after a gateway has restarted: the path follows it.
pub(super) async fn over_udp(
    sockets: &mut Sockets,
    keys: &Keys,
    stamps: &Stamps,
    path: &mut Path,
    Terms { hold, rtt }: Terms,
    held: &mut Held,
) {
    let begun = Instant::now();
    let (every, end) = (interval(hold), begun + hold);
    let mut next = begun;
    let mut replied = 0;
    loop {
        let now = Instant::now();
        if now >= next && next < end {
            let stamp = stamps.stamp(path.remote);
            let heartbeat = Packet { kind: Kind::Heartbeat, round: 0, stamp }.write(keys);
            sockets.send(path.socket, &heartbeat, path.remote).await;
            held.heartbeats += 1;
            next += every;
        }
        let close = held.close(end, rtt);
        if now >= close {
            return;
        }
        let until = if next < end { next } else { close };
        let arrival = tokio::select! {
            biased;
            arrival = sockets.receive() => arrival,
            () = sleep_until(until) => continue,
        };
        let Some(packet) = Packet::read(&arrival.bytes, keys) else { continue };
        let from = Path { socket: arrival.socket, remote: arrival.from };
        let reply = match packet.kind {
            Kind::HeartbeatReply => {
                held.replied(stamps.age(packet.stamp), arrival.at.saturating_duration_since(begun));
                if stamps.is_from(packet.stamp, from.remote) {
                    sockets.answered(from.remote.ip());
                }
                *path = from;
                continue;
            }
            Kind::Heartbeat => Kind::HeartbeatReply,
            // The peer has missed what ended the round.
            Kind::Nominate => Kind::Nominated,
            Kind::Ping => Kind::Pong,
            Kind::Pong | Kind::Ack | Kind::Nominated => continue,
        };
        if replied < MAX_REPLIES {
            replied += 1;
            let reply = Packet { kind: reply, round: packet.round, stamp: packet.stamp }.write(keys);
            sockets.send(from.socket, &reply, from.remote).await;
        }
    }
}

/// Over TCP, where nothing gets lost: heartbeats one after another. Ends in time even if the peer reads nothing, so that
/// nothing can be written any more.
pub(super) async fn over_tcp(stream: &mut dyn Stream, keys: &Keys, hold: Duration, held: &mut Held) {
    let begun = Instant::now();
    // However the exchange ended, what it told until then counts.
    let _ = timeout_at(begun + hold + LAST_REPLY, exchange(stream, keys, begun, hold, held)).await;
}

async fn exchange(
    stream: &mut dyn Stream,
    keys: &Keys,
    begun: Instant,
    hold: Duration,
    held: &mut Held,
) -> io::Result<()> {
    let (every, end) = (interval(hold), begun + hold);
    let (mut next, mut is_waiting) = (begun, false);
    let mut replied = 0;
    let mut buffer = Vec::with_capacity(LENGTH);
    while is_waiting || Instant::now() < end {
        let now = Instant::now();
        if !is_waiting && now >= next && next < end {
            let stamp = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
            write(stream, Packet { kind: Kind::Heartbeat, round: 0, stamp }, keys).await?;
            held.heartbeats += 1;
            is_waiting = true;
            next += every;
        }
        let until = if is_waiting || next >= end { end + LAST_REPLY } else { next };
        let mut piece = [0; LENGTH];
        let wanted = LENGTH - buffer.len();
        let Ok(read) = timeout_at(until, stream.read(&mut piece[..wanted])).await else { continue };
        match read? {
            0 => return Ok(()),
            length => buffer.extend_from_slice(&piece[..length]),
        }
        if buffer.len() < LENGTH {
            continue;
        }
        // On a stream there is nothing but the peer's packets: this is something else.
        let Some(packet) = Packet::read(&buffer, keys) else { return Ok(()) };
        buffer.clear();
        match packet.kind {
            Kind::Heartbeat => {
                replied += 1;
                if replied > MAX_REPLIES {
                    return Ok(());
                }
                write(stream, Packet { kind: Kind::HeartbeatReply, ..packet }, keys).await?;
            }
            Kind::HeartbeatReply if is_waiting => {
                is_waiting = false;
                let since = begun.elapsed();
                held.replied(since.saturating_sub(Duration::from_micros(packet.stamp)), since);
            }
            Kind::HeartbeatReply | Kind::Ping | Kind::Pong | Kind::Ack | Kind::Nominate | Kind::Nominated => {
            }
        }
    }
    Ok(())
}

async fn write(stream: &mut dyn Stream, packet: Packet, keys: &Keys) -> io::Result<()> {
    stream.write_all(&packet.write(keys)).await?;
    stream.flush().await
}
