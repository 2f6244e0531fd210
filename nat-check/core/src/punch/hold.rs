//! Holding a path: heartbeats over it, and what they tell of loss, round-trip time and jitter.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    post::Post,
    volley::Way,
    wire::{Kind, LENGTH, Nonces, Packet},
};
use crate::net::Stream;

/// What the heartbeats told.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Held {
    /// From the first to the last sign of life.
    pub(super) held: Duration,
    pub(super) beats: u32,
    pub(super) echoes: u32,
    pub(super) rtts: Vec<Duration>,
}

impl Held {
    /// Share of heartbeats without an echo.
    pub(super) fn loss(&self) -> Option<f64> {
        (self.beats > 0).then(|| 1.0 - f64::from(self.echoes.min(self.beats)) / f64::from(self.beats))
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
}

/// The interval of heartbeats: enough of them for a figure, but never a burden.
fn interval(hold: Duration) -> Duration {
    (hold / 25).clamp(Duration::from_millis(100), Duration::from_secs(1))
}

/// How long the last echo may take.
const LAST: Duration = Duration::from_secs(1);
/// Echoes for a peer that floods, as many as an honest one could ask for.
const MAX_ECHOES: u32 = 4000;

/// Over UDP. The peer's address may change on the way, as after a gateway has restarted: the way follows it.
pub(super) async fn over_udp(
    post: &mut Post,
    nonces: &Nonces,
    way: &mut Way,
    hold: Duration,
    rtt: Duration,
) -> Held {
    let begun = Instant::now();
    let (every, end) = (interval(hold), begun + hold);
    let mut held = Held::default();
    let mut next = begun;
    let mut echoed = 0;
    // The last beat gets its time, and the peer's last one its echo.
    let close = end + (rtt * 2).min(LAST);
    loop {
        let now = Instant::now();
        if now >= next && next < end {
            let stamp = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
            let beat = Packet { kind: Kind::Heartbeat, round: 0, stamp }.write(nonces);
            post.send(way.socket, &beat, way.remote).await;
            held.beats += 1;
            next += every;
        }
        if now >= close {
            return held;
        }
        let until = if next < end { next } else { close };
        let arrival = tokio::select! {
            biased;
            arrival = post.receive() => arrival,
            () = sleep_until(until) => continue,
        };
        let Some(packet) = Packet::read(&arrival.bytes, nonces) else { continue };
        let from = Way { socket: arrival.socket, remote: arrival.from };
        match packet.kind {
            Kind::HeartbeatReply => {
                let took = arrival.at.saturating_duration_since(begun + Duration::from_micros(packet.stamp));
                held.echoes += 1;
                held.held = arrival.at - begun;
                if held.rtts.len() < MAX_ECHOES as usize {
                    held.rtts.push(took);
                }
                *way = from;
            }
            answered @ (Kind::Heartbeat | Kind::Nominate | Kind::Ping) if echoed < MAX_ECHOES => {
                echoed += 1;
                let kind = match answered {
                    Kind::Nominate => Kind::Nominated,
                    Kind::Ping => Kind::Pong,
                    _ => Kind::HeartbeatReply,
                };
                let echo = Packet { kind, round: packet.round, stamp: packet.stamp }.write(nonces);
                post.send(from.socket, &echo, from.remote).await;
            }
            _ => {}
        }
    }
}

/// Over TCP, where nothing gets lost: heartbeats one after another.
pub(super) async fn over_tcp(stream: &mut dyn Stream, nonces: &Nonces, hold: Duration) -> Held {
    let begun = Instant::now();
    let end = begun + hold;
    let every = interval(hold);
    let mut held = Held::default();
    let (mut next, mut waiting) = (begun, false);
    let mut buffer = Vec::with_capacity(LENGTH);
    loop {
        let now = Instant::now();
        if now >= end + LAST || now >= end && !waiting {
            return held;
        }
        if !waiting && now >= next && next < end {
            let stamp = u64::try_from((now - begun).as_micros()).unwrap_or(u64::MAX);
            let beat = Packet { kind: Kind::Heartbeat, round: 0, stamp }.write(nonces);
            if stream.write_all(&beat).await.is_err() || stream.flush().await.is_err() {
                return held;
            }
            held.beats += 1;
            waiting = true;
            next += every;
        }
        let until = if waiting || next >= end { end + LAST } else { next };
        let mut piece = [0; LENGTH];
        let wanted = LENGTH - buffer.len();
        let read = match timeout_at(until, stream.read(&mut piece[..wanted])).await {
            Err(_) => continue,
            Ok(Ok(0) | Err(_)) => return held,
            Ok(Ok(read)) => read,
        };
        buffer.extend_from_slice(&piece[..read]);
        if buffer.len() < LENGTH {
            continue;
        }
        let packet = Packet::read(&buffer, nonces);
        buffer.clear();
        match packet {
            Some(Packet { kind: Kind::Heartbeat, stamp, round }) => {
                let echo = Packet { kind: Kind::HeartbeatReply, round, stamp }.write(nonces);
                if stream.write_all(&echo).await.is_err() || stream.flush().await.is_err() {
                    return held;
                }
            }
            Some(Packet { kind: Kind::HeartbeatReply, stamp, .. }) => {
                waiting = false;
                held.echoes += 1;
                held.held = begun.elapsed();
                held.rtts.push(held.held.saturating_sub(Duration::from_micros(stamp)));
            }
            Some(_) => {}
            // On a stream there is nothing but the peer's packets: this is something else.
            None => return held,
        }
    }
}
