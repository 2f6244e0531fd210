//! What was observed of IPv6 beside the usual: how a second address of this host looks from outside, and a port that has sent
//! nothing.

use std::net::SocketAddr;

use super::SocketId;

/// Everything of it in one run.
#[derive(Clone, Debug, Default)]
pub struct Ipv6Log {
    /// A socket on another address of the same interface, and where the server saw it.
    pub second: Option<(SocketAddr, SocketAddr)>,
    /// The socket that has sent nothing.
    pub silent: Option<SocketId>,
}
