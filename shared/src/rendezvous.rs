//! The rendezvous protocol, version 2: how a probe server brings two clients together that want to punch a hole. JSON
//! over a WebSocket; `PROTOCOL.md` describes all of it.
//!
//! One client opens a session and gets a [`Code`]; the other joins with it. From then on both go through the same
//! numbered steps: each says that it is [ready](ToServer::Ready), with a [`Payload`] for the other one, and when both
//! are, the server hands each the other's payload and tells when to [start](ToClient::Start), so that both start at the
//! same moment. The server does not read payloads: what clients tell each other ([`peer`]) may change without it.

mod code;
mod message;
mod payload;
pub mod peer;
pub mod room;
#[cfg(test)]
mod tests;
mod tls_offer;

pub use code::{BadCode, Code};
pub use message::{Malformed, Refusal, Role, ToClient, ToServer};
pub use payload::{Payload, PayloadError};
pub use tls_offer::{offered_tls, tls_offer};

/// Version of this protocol.
pub const VERSION: u32 = 2;
/// The path that the WebSocket is opened at.
pub const PATH: &str = "/punch";
/// Longest message, in bytes: with all that frames it, a record of TLS stays below 4 KiB.
pub const MAX_MESSAGE: usize = 4000;
/// Longest payload, in bytes: with the fields around it, a message stays below [`MAX_MESSAGE`] in both directions.
pub const MAX_PAYLOAD: usize = 3840;
