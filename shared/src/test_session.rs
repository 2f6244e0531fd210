//! The test session, version 2: how a client has a probe server connect back to it, hold a connection, or send packets with
//! a limited TTL, so that it can measure what RFC 5382 asks of TCP. JSON over a WebSocket; `TEST-SESSION.md` describes it.
//!
//! The server sends only to the address that the session's own connection comes from, and to few ports of it. Its word
//! alone proves nothing: the client judges by the [`Nonce`] that arrives, or does not arrive, at its own socket.

mod message;
mod outcome;
mod secret;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use message::{Decline, ServerAddress, Source, SourceAddress, ToClient, ToServer, Welcome};
pub use outcome::{HoldOutcome, Hop, Icmp, SynOutcome};
pub use secret::{Nonce, Token};

pub use crate::rendezvous::{Malformed, Refusal};

/// Version of this protocol.
pub const VERSION: u32 = 2;
/// The path that the WebSocket is opened at.
pub const PATH: &str = "/probe";
/// Longest message of a client, in bytes.
pub const MAX_MESSAGE: usize = 1024;
/// Ports of 1024 and above that a client may name in one session without having proven them.
pub const NAMED_PORTS: usize = 8;
/// The same for one host in an hour, over all of its sessions.
pub const NAMED_PORTS_PER_HOUR: usize = 16;
/// Connects of one client that may follow each other at once; after them it may have one a second.
pub const CONNECTS_AT_ONCE: u32 = 16;
/// Connects of one client that may wait or be under way.
pub const CONNECTS_IN_FLIGHT: usize = 20;
/// Connections that a client may have held at a time.
pub const HELD_CONNECTIONS: usize = 16;
/// Ports that may be proven in one session.
pub const PROVEN_PORTS: usize = 64;
/// Highest number of a connect. What the server writes on a connection follows from it, and is not to be the client's choice.
pub const MAX_CONNECT_ID: u32 = 1023;
/// Longest time for which a client may put off a connect: its own SYN is to pass its gateways first.
pub const MAX_CONNECT_DELAY: Duration = Duration::from_secs(2);
/// Longest time for which a client may have the server wait for an answer: an RST may come after 6 s (RFC 5382 REQ-4).
pub const MAX_CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long the server waits for the echo of the nonce that it wrote on a new connection.
pub const ECHO_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the server waits for the echo of the nonce that it wrote on a held connection.
pub const HOLD_ECHO_TIMEOUT: Duration = Duration::from_secs(30);
/// Largest TTL in a trace, and so the most packets of one.
pub const MAX_TTL: u8 = 32;
