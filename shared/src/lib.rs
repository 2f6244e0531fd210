//! What both ends speak: the STUN wire, the vocabulary of NAT behaviour, the introduction of two clients.
//!
//! - [`stun`]: messages as bytes. A borrowed parser and an allocation-free writer for both dialects
//!   (RFC 8489 with RFC 5780's attributes, and classic RFC 3489), and stun-rs as the strict reader (feature `strict`).
//! - [`nat`]: the terms of RFC 4787 as types. The client reports in them, and the laboratory configures NATs with them, so
//!   a test reads "a NAT of this behaviour is reported as this behaviour". A NAT as a state machine comes with the feature
//!   `model`, JSON Schema with the feature `schema`.
//! - [`rendezvous`]: what is said when two clients are introduced to each other, and who waits for whom.
//! - [`test_session`]: what is said when a client has a server connect back to it.
//! - [`loss_test`]: whether silence is a filter or loss, by the loss of the very run.
//! - [`port_mapping`]: PCP and NAT-PMP, by which a gateway is asked to open a port.
//! - [`ports`]: those that nobody should send to or from.
//! - [`log_writer`]: how both programs write their logs, so that no log can stop them.
//!
//! Besides that writer nothing here touches a clock, a socket, a log or a global: bytes, addresses and `now` come in as
//! arguments, values go out.

#[cfg(feature = "html")]
pub mod html;
pub mod log_writer;
pub mod loss_test;
pub mod nat;
pub mod port_mapping;
pub mod ports;
pub mod rendezvous;
pub mod stun;
pub mod test_session;
