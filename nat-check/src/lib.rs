//! nat-check: what kind of NAT or firewall stands in front of this host, and will hole punching work?
pub mod args;
pub mod net;
pub mod plan;
pub mod progress;
pub mod render;
pub mod report;
pub mod require;
pub mod resolve;
pub mod schema;
pub mod verdict;
