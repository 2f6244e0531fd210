//! nat-check: what kind of NAT or firewall stands in front of this host, and will hole punching work?
pub mod net;
pub mod report;
