//! The ports that a modelled gateway has opened at request, and who has come in through them. What has come in through a port
//! stays known for a while after it is closed, as in the kernel's connection tracking.

use std::{net::SocketAddr, time::Duration};

use super::{packet::Protocol, spec::Timers, table::Map};

/// Ports that one gateway opens.
const MOST_PORTS: usize = 1024;
/// Sessions after which the oldest are forgotten.
const MOST_SESSIONS: usize = 4096;
/// How long a gateway has been up when a laboratory begins.
const UP_BEFORE: Duration = Duration::from_secs(86_400);

/// A port that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenedPort {
    pub(super) protocol: Protocol,
    pub(super) inside: SocketAddr,
    pub(super) outside: SocketAddr,
    /// Who knows it may change the mapping (RFC 6887 section 11.1); NAT-PMP has none.
    pub(super) nonce: [u8; 12],
    pub(super) until: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    outside: SocketAddr,
    until: Duration,
}

/// The ports, and the sessions through them.
#[derive(Debug, Default)]
pub(super) struct Opened {
    ports: Vec<OpenedPort>,
    /// By transport, internal and remote endpoint.
    sessions: Map<(Protocol, SocketAddr, SocketAddr), Session>,
    /// When the gateway last lost its ports; none = before the laboratory began.
    lost_at: Option<Duration>,
}

impl Opened {
    /// Those of a gateway that was switched on at this time.
    pub(super) fn since(now: Duration) -> Self {
        Self { lost_at: Some(now), ..Self::default() }
    }

    /// Seconds since the gateway lost its ports (RFC 6887 section 8.5).
    pub(super) fn epoch(&self, now: Duration) -> u32 {
        let age = self.lost_at.map_or(now + UP_BEFORE, |at| now.saturating_sub(at));
        u32::try_from(age.as_secs()).unwrap_or(u32::MAX)
    }

    /// Forgets what is over, and everything where the gateway restarts at this age.
    pub(super) fn advance(&mut self, restarts: Option<Duration>, now: Duration) {
        if let Some(at) = restarts.filter(|at| *at <= now && self.lost_at.is_none_or(|lost| lost < *at)) {
            *self = Self::since(at);
        }
        self.ports.retain(|port| now < port.until);
    }

    /// The port that is open for this internal endpoint.
    pub(super) fn of(&self, protocol: Protocol, inside: SocketAddr) -> Option<&OpenedPort> {
        self.ports.iter().find(|port| port.protocol == protocol && port.inside == inside)
    }

    /// The internal endpoint that an external one is open for.
    pub(super) fn at(&self, protocol: Protocol, outside: SocketAddr) -> Option<SocketAddr> {
        let found = self.ports.iter().find(|port| port.protocol == protocol && port.outside == outside);
        found.map(|port| port.inside)
    }

    /// Opens a port, or replaces the one for the same internal endpoint; false where there are too many.
    pub(super) fn open(&mut self, port: OpenedPort) -> bool {
        self.close(port.protocol, |inside| inside == port.inside);
        let has_room = self.ports.len() < MOST_PORTS;
        if has_room {
            self.ports.push(port);
        }
        has_room
    }

    /// Closes the ports of these internal endpoints.
    pub(super) fn close(&mut self, protocol: Protocol, of: impl Fn(SocketAddr) -> bool) {
        self.ports.retain(|port| port.protocol != protocol || !of(port.inside));
    }

    /// Who a packet from `remote` to this external endpoint is for, if a port is open there or was when `remote` last came in.
    pub(super) fn inward(
        &mut self,
        (protocol, outside, remote): (Protocol, SocketAddr, SocketAddr),
        timers: &Timers,
        now: Duration,
    ) -> Option<SocketAddr> {
        let is_session = |((of, _, with), session): &(&(Protocol, SocketAddr, SocketAddr), &Session)| {
            (*of, *with, session.outside) == (protocol, remote, outside) && now < session.until
        };
        let known = || self.sessions.iter().find(is_session).map(|((_, inside, _), _)| *inside);
        let inside = self.at(protocol, outside).or_else(known)?;
        if self.sessions.len() >= MOST_SESSIONS {
            self.sessions.clear();
        }
        let until = now + idle(protocol, timers);
        self.sessions.insert((protocol, inside, remote), Session { outside, until });
        Some(inside)
    }

    /// The external endpoint that a packet from this internal endpoint to `remote` leaves from because of an opened port: the
    /// one that `remote` came in through, or any where a port serves both directions (RFC 6886 section 3.9).
    pub(super) fn outward(
        &self,
        (protocol, inside, remote): (Protocol, SocketAddr, SocketAddr),
        both_directions: bool,
        now: Duration,
    ) -> Option<SocketAddr> {
        let session = self.sessions.get(&(protocol, inside, remote)).filter(|session| now < session.until);
        let opened = || self.of(protocol, inside).filter(|port| both_directions && now < port.until);
        session.map(|session| session.outside).or_else(|| opened().map(|port| port.outside))
    }
}

fn idle(protocol: Protocol, timers: &Timers) -> Duration {
    match protocol {
        Protocol::Udp => timers.replied,
        Protocol::Tcp => timers.tcp_established,
    }
}
