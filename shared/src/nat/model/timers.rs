//! The timer of a mapping, a flow or a filter entry (RFC 4787 section 4.3; the rule by which Linux makes a UDP flow a
//! stream).

use std::time::Duration;

use super::{
    packet::{Packet, Protocol},
    spec::{NatSpec, Timers},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    Outbound,
    Inbound,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began: Duration,
    deadline: Duration,
    extra: Duration,
    replied: bool,
    closed: bool,
}

impl Clock {
    pub(super) fn new(now: Duration, extra: Duration) -> Self {
        Self { began: now, deadline: now, extra, replied: false, closed: false }
    }

    #[cfg(test)]
    pub(super) fn began(&self) -> Duration {
        self.began
    }

    pub(super) fn alive(&self, now: Duration, timers: &Timers) -> bool {
        now < self.ends(timers)
    }

    /// When it expires: a NAT that sweeps removes state only at multiples of its interval.
    pub(super) fn ends(&self, timers: &Timers) -> Duration {
        let sweep = timers.sweep.as_nanos();
        if sweep == 0 {
            return self.deadline;
        }
        let nanos = self.deadline.as_nanos().div_ceil(sweep) * sweep;
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    pub(super) fn touch(&mut self, direction: Direction, packet: &Packet, spec: &NatSpec, now: Duration) {
        let timers = &spec.timers;
        // As in Linux, the packet that is the first response does not make a stream yet.
        let stream = self.replied && now >= self.began + timers.stream_after;
        self.replied |= direction == Direction::Inbound;
        self.closed |= packet.tcp.fin || packet.tcp.rst;
        let refreshes = match direction {
            Direction::Outbound => spec.refresh.outbound || self.deadline == self.began,
            Direction::Inbound => spec.refresh.inbound,
        };
        if !refreshes {
            return;
        }
        let idle = match packet.protocol {
            Protocol::Tcp if self.replied && !self.closed => timers.tcp_established,
            Protocol::Tcp => timers.tcp_transitory,
            Protocol::Udp if stream => timers.stream,
            Protocol::Udp if self.replied => timers.replied,
            Protocol::Udp => timers.unreplied,
        };
        self.deadline = now + idle + self.extra;
    }
}
