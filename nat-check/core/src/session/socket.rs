//! The sockets of a session, and what is known of the way to the server.

use std::sync::Arc;

use shared::stun::Dialect;

use crate::{net::Datagram, observation::SocketId};

/// What is known of the way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// Nothing yet.
    Pending,
    /// It answers over UDP, in this dialect.
    Udp(Dialect),
    /// It does not answer over UDP.
    None,
}

/// A UDP socket of this run. Clones share it.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its number in the log.
    pub id: SocketId,
    pub(super) datagram: Arc<dyn Datagram>,
}

/// The sockets that one measurement leaves for a later one.
#[derive(Clone, Debug, Default)]
pub struct RetainedSockets {
    /// The first socket of all.
    pub contact: Option<Socket>,
    /// The socket of the filtering test: it has asked for answers from all four endpoints, sent to one.
    pub filtering: Option<Socket>,
    /// Those of the test of RESPONSE-PORT: the one that asks, and the one that is to be answered.
    pub response_port: Option<[Socket; 2]>,
    /// The socket of the mapping test: it has sent to all four endpoints.
    pub mapping: Option<Socket>,
}
