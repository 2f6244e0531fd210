//! The page for browsers: it measures the NAT in front of whoever opens it, filtering included. The server is the browser's
//! ICE peer (RFC 8445), from UDP sockets of its own, so that the sockets of STUN know nothing of it.
//!
//! - `session` is the measurement, pure; `filter_test` and `observed` hold what was seen and what follows from it.
//! - `report` and `prospects` put that into the form of nat-check's report.
//! - `document` is what the browser gets, `message` what both sides say, `driver` the sockets.

mod document;
mod driver;
mod filter_test;
mod message;
mod observed;
pub mod prospects;
mod report;
mod session;
#[cfg(test)]
mod tests;

pub use document::PAIRS;
pub(crate) use document::page;
pub use driver::PageCounts;
pub(crate) use driver::{Driver, Sockets, sockets};
