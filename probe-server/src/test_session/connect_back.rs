//! What a test session needs of the network: the operating system's sockets are one such thing, a simulated network another.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use shared::test_session::{Hop, Icmp, SynOutcome, Token};
use tokio::io::{AsyncRead, AsyncWrite};

/// Connects to clients, and has the ports that only test sessions need.
pub trait ConnectBack: Send + Sync {
    /// Connects once, with two SYNs at the most.
    fn connect(&self, attempt: Attempt) -> Pin<Box<dyn Future<Output = Attempted> + Send>>;

    /// The ports of the server's addresses in one family, the primary one first; none where there is no such address, or it
    /// cannot have them now.
    fn helper_ports(&self, addresses: [Option<IpAddr>; 2]) -> [HelperPorts; 2];

    /// Whether this is an address of the machine that the server runs on, other than a loopback address.
    fn is_own(&self, ip: IpAddr) -> bool {
        let _ = ip;
        false
    }

    /// A UDP port of this address for the traces of one session, where there can be one.
    fn trace_port(&self, ip: IpAddr) -> Option<Arc<dyn TracePort>> {
        let _ = ip;
        None
    }
}

/// Sends packets with a limited TTL to whoever has sent to it.
pub trait TracePort: Send + Sync {
    /// Its number.
    fn port(&self) -> u16;

    /// Waits for a datagram with this token; where it came from.
    fn flow(&self, token: Token) -> Pin<Box<dyn Future<Output = SocketAddr> + Send + '_>>;

    /// Sends one packet with each TTL from the first to the last, and waits for so long; what came back, in the order of the TTL.
    /// One trace waits for the other.
    fn trace(
        &self,
        to: SocketAddr,
        ttls: (u8, u8),
        wait: Duration,
    ) -> Pin<Box<dyn Future<Output = Vec<Hop>> + Send + '_>>;
}

/// A connect that is to be tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where from; port 0 = any that nothing was sent to.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// How long to wait for an answer.
    pub wait: Duration,
}

/// What came of it.
pub struct Attempted {
    /// Where it left from.
    pub from: Option<SocketAddr>,
    /// How long after the first SYN.
    pub after: Duration,
    /// The connection, or why there is none.
    pub end: Result<Box<dyn ByteStream>, NoConnection>,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoConnection {
    /// In a word.
    pub outcome: SynOutcome,
    /// The ICMP error that said so.
    pub icmp: Option<Icmp>,
}

/// The ports of one address that only test sessions need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HelperPorts {
    /// A listener whose backlog is full.
    pub pending: Option<SocketAddr>,
    /// One that nothing listens at.
    pub closed: Option<SocketAddr>,
}

/// A connection.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}
