//! What was observed over TCP: every connection that was tried, and what came of it.

use std::{io, net::SocketAddr, time::Duration};

use super::{
    Purpose,
    call::{Call, ServerTrace, TestSessionState},
    idle::IdleConnection,
};

/// Everything that was observed over TCP in one run.
#[derive(Clone, Debug, Default)]
pub struct TcpLog {
    /// The connections that this host opened, in order.
    pub connections: Vec<Connection>,
    /// What the operating system refused.
    pub error: Option<String>,
    /// What the test session with the server came to.
    pub session: TestSessionState,
    /// External endpoints that the server has seen the session's token come from, with its numbers of the connections.
    pub proven: Vec<(u32, SocketAddr)>,
    /// When the server last answered a ping in the test session.
    pub last_pong: Option<Duration>,
    /// The longest idle time of a connection that is to be looked at; none = it is not asked for.
    pub longest_idle: Option<Duration>,
    /// Connections that were left idle.
    pub idle: Vec<IdleConnection>,
    /// The connections that the server was asked to open, in order.
    pub calls: Vec<Call>,
    /// The trace that it was asked for.
    pub trace: ServerTrace,
}

/// A connection that this host opened, or tried to.
#[derive(Clone, Debug)]
pub struct Connection {
    /// What it was opened for.
    pub purpose: Purpose,
    /// The local endpoint, where it is known.
    pub local: Option<SocketAddr>,
    /// The remote endpoint.
    pub to: SocketAddr,
    /// When the first SYN left, since the start of the run.
    pub begun: Duration,
    /// What came of it; none = nothing has come yet.
    pub outcome: Option<Outcome>,
    /// The server's answer to a Binding request in it.
    pub answer: Option<TcpAnswer>,
}

/// How trying to connect ended, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How.
    pub kind: OutcomeKind,
    /// When, since the start of the run.
    pub at: Duration,
}

/// How trying to connect ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutcomeKind {
    /// A SYN-ACK came.
    Connected,
    /// A reset came, or on many systems ICMP port unreachable.
    Refused,
    /// ICMP said that the way is closed.
    Unreachable,
    /// Nothing came until the system gave up.
    TimedOut,
    /// The operating system did not even try.
    NotTried,
}

/// An answer to a Binding request over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpAnswer {
    /// When it came, since the start of the run.
    pub at: Duration,
    /// The external endpoint that the server saw.
    pub mapped: SocketAddr,
    /// The alternate endpoint that the server named (OTHER-ADDRESS).
    pub other: Option<SocketAddr>,
}

impl TcpLog {
    /// Enters a connection that is about to be opened; gives its number.
    pub fn begin(
        &mut self,
        purpose: Purpose,
        local: Option<SocketAddr>,
        to: SocketAddr,
        begun: Duration,
    ) -> usize {
        self.connections.push(Connection { purpose, local, to, begun, outcome: None, answer: None });
        self.connections.len() - 1
    }

    /// The connections of exactly this purpose.
    pub fn of(&self, purpose: Purpose) -> impl Iterator<Item = &Connection> {
        self.connections.iter().filter(move |connection| connection.purpose == purpose)
    }

    /// The calls of exactly this purpose.
    pub fn calls_of(&self, purpose: Purpose) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(move |call| call.purpose == purpose)
    }

    /// Whether any connection to `server` came about.
    #[must_use]
    pub fn reached(&self, server: SocketAddr) -> bool {
        self.connections.iter().any(|c| c.to == server && c.handshake().is_some())
    }

    /// The shortest handshake with `server`.
    #[must_use]
    pub fn quickest(&self, server: SocketAddr) -> Option<Duration> {
        self.connections.iter().filter(|c| c.to == server).filter_map(Connection::handshake).min()
    }
}

impl Connection {
    /// How long the handshake took; none where there was none.
    #[must_use]
    pub fn handshake(&self) -> Option<Duration> {
        self.took(OutcomeKind::Connected)
    }

    /// How long it took to end in this way; none where it did not.
    #[must_use]
    pub fn took(&self, kind: OutcomeKind) -> Option<Duration> {
        let outcome = self.outcome.filter(|outcome| outcome.kind == kind)?;
        Some(outcome.at.saturating_sub(self.begun))
    }
}

impl OutcomeKind {
    /// What an error of connecting stands for.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => Self::Refused,
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => Self::Unreachable,
            io::ErrorKind::TimedOut => Self::TimedOut,
            _ => Self::NotTried,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quickest_handshake_is_that_with_the_server() {
        let (server, other) = ("198.51.100.10:3478".parse().unwrap(), "198.51.100.11:3478".parse().unwrap());
        let mut log = TcpLog::default();
        let ms = Duration::from_millis;
        for (to, took, kind) in [
            (server, 30, OutcomeKind::Connected),
            (server, 20, OutcomeKind::Connected),
            (server, 5, OutcomeKind::Refused),
            (other, 10, OutcomeKind::Connected),
        ] {
            let number = log.begin(Purpose::main("test"), None, to, ms(100));
            log.connections[number].outcome = Some(Outcome { kind, at: ms(100 + took) });
        }
        assert_eq!(log.quickest(server), Some(ms(20)));
        assert!(log.reached(server) && !log.reached("198.51.100.12:1".parse().unwrap()));
    }

    #[test]
    fn errors_are_told_apart() {
        let kind = |kind: io::ErrorKind| OutcomeKind::of(&kind.into());
        assert_eq!(kind(io::ErrorKind::ConnectionRefused), OutcomeKind::Refused);
        assert_eq!(kind(io::ErrorKind::HostUnreachable), OutcomeKind::Unreachable);
        assert_eq!(kind(io::ErrorKind::TimedOut), OutcomeKind::TimedOut);
        assert_eq!(kind(io::ErrorKind::AddrInUse), OutcomeKind::NotTried);
    }
}
