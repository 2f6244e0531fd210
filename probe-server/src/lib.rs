//! The probe server: a STUN server with two addresses and two ports in each family, for NAT behaviour diagnosis
//! (RFC 8489, RFC 5780, RFC 3489).
//!
//! - [`topology`]: which endpoints exist, which is the alternate of which, what clients are told.
//! - [`respond`](mod@respond): the pure function from a datagram to its answers; a simulated network calls it just as the
//!   sockets do.
//! - [`guard`] and [`limits`]: who gets no answer; [`drops`]: the names of all reasons.
//! - [`rendezvous`]: introduces two clients that want to punch, over connections that they opened themselves.
//! - [`Server`]: sockets and threads around it, from a checked [`config::Config`]; the program and tests start it
//!   alike. UDP workers are plain threads; TCP, TLS and the operators' HTTP share one thread with a runtime.
//!
//! No Binding path keeps state per client. The limits live in fixed memory.

mod admin;
mod admission;
#[cfg(target_os = "linux")]
pub mod batch;
mod bind;
mod certificate;
mod check;
pub mod config;
mod counters;
pub mod drops;
pub mod guard;
mod health;
mod inherited;
pub mod limits;
mod metrics;
mod prefix;
pub mod rendezvous;
pub mod respond;
mod self_check;
mod server;
mod settings;
mod streams;
pub mod topology;
mod udp;

pub use bind::BindError;
pub use check::CheckError;
pub use counters::Snapshot;
pub use inherited::{KeptSocket, SocketPool};
pub use server::{AddressChange, Server, Service, StartError};
pub use streams::{StreamCounts, TlsError};
