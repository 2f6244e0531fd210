//! The probe server: a STUN server with two addresses and two ports in each family, for NAT behaviour diagnosis
//! (RFC 8489, RFC 5780, RFC 3489).
//!
//! - [`topology`]: which endpoints exist, which is the alternate of which, what clients are told.
//! - [`respond`](mod@respond): the pure function from a datagram to its answers; a simulated network calls it just as the
//!   sockets do.
//! - [`guard`]: who gets no answer; [`drops`]: the names of all reasons.

pub mod drops;
pub mod guard;
pub mod respond;
pub mod topology;
