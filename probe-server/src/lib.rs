//! The probe server: a STUN server with two addresses and two ports in each family, for NAT behaviour diagnosis
//! (RFC 8489, RFC 5780, RFC 3489).
//!
//! Always there, and pure (no clock, socket or log):
//! - [`topology`]: which endpoints exist, which is the alternate of which, what clients are told.
//! - [`respond`](mod@respond): the pure function from a datagram to its answers; a simulated network calls it just as the
//!   sockets do.
//! - [`last_heard`]: for how long a source has not been heard at the other address.
//! - [`source_filter`] and [`limits`]: who gets no answer; [`drop_reason`]: the names of all reasons.
//!
//! With the feature `rendezvous`:
//! - `rendezvous`: introduces two clients that want to punch, over connections that they opened themselves.
//! - `test_session`: connects back to clients that want to know what their NATs do with connections from outside.
//! - `http`: what is served over HTTP, and how the WebSocket of the rendezvous is opened.
//!
//! With the feature `net`:
//! - `page`: the page that measures the NAT in front of a browser.
//! - `Server`: sockets and threads around it, from a checked `config::Config`; the program and tests start it
//!   alike. UDP workers are plain threads; TCP and TLS share one thread with a runtime, and operators have one.
//!
//! With the feature `cli` (default): the program, and `config::Settings` as flags and as a file.
//!
//! No datagram makes memory grow. The limits, and when sources were last heard, live in tables of fixed size.
#![cfg_attr(
    not(feature = "net"),
    allow(dead_code, unused_imports, reason = "parts of what is shared serve sockets only")
)]

#[cfg(feature = "net")]
mod admin;
#[cfg(feature = "rendezvous")]
mod admission;
#[cfg(all(feature = "net", target_os = "linux"))]
pub mod batch;
#[cfg(feature = "net")]
mod bind;
#[cfg(feature = "net")]
mod certificate;
#[cfg(feature = "net")]
mod check;
#[cfg(feature = "net")]
pub mod config;
#[cfg(feature = "net")]
mod counters;
pub mod drop_reason;
#[cfg(feature = "net")]
mod health;
#[cfg(feature = "rendezvous")]
pub mod http;
#[cfg(feature = "net")]
mod inherited;
pub mod last_heard;
#[cfg(feature = "rendezvous")]
mod limited_stream;
pub mod limits;
#[cfg(feature = "net")]
mod metrics;
#[cfg(feature = "net")]
pub mod page;
mod prefix;
#[cfg(feature = "rendezvous")]
pub mod rendezvous;
pub mod respond;
#[cfg(feature = "net")]
mod self_check;
#[cfg(feature = "net")]
mod server;
#[cfg(feature = "net")]
mod shared_state;
pub mod source_filter;
#[cfg(feature = "net")]
mod streams;
#[cfg(feature = "rendezvous")]
pub mod test_session;
pub mod topology;
#[cfg(feature = "net")]
mod udp;

#[cfg(feature = "net")]
pub use bind::BindError;
#[cfg(feature = "net")]
pub use check::CheckError;
#[cfg(feature = "net")]
pub use counters::Snapshot;
#[cfg(feature = "net")]
pub use inherited::{KeptSocket, SocketPool};
#[cfg(feature = "net")]
pub use page::PageCounts;
#[cfg(feature = "net")]
pub use server::{AddressChange, Server, Service, StartError};
#[cfg(feature = "net")]
pub use streams::{StreamCounts, TlsError};
