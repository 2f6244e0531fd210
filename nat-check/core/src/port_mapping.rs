//! Opening ports at the gateway of this host's network: PCP (RFC 6887), NAT-PMP (RFC 6886) and UPnP IGD (WANIPConnection:1
//! and :2). What a gateway says is input: bounded in size and time, and it never decides where else packets go.

mod client;
#[cfg(test)]
mod client_tests;
mod datagrams;
#[cfg(test)]
mod datagrams_tests;
mod description;
mod discovery;
mod epochs;
mod http;
pub mod keep;
mod soap;
mod ssdp;
#[cfg(test)]
mod tests;

pub(crate) use client::is_conflict;
pub use client::{Client, Granted, Wish};
pub use discovery::{Discovery, discover};
pub(crate) use discovery::{discover_alone, nat_pmp_address, pcp_sees_nat, upnp_address};
pub use epochs::Epochs;
pub use shared::port_mapping::{Protocol, Transport};

/// Why a gateway did not do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// It says so, with its protocol's name for the reason.
    #[error("{0}")]
    Refused(String),
    /// It does not answer.
    #[error("no answer in time")]
    NoAnswer,
    /// What it answers is not what the protocol allows.
    #[error("{0}")]
    Nonsense(String),
    /// The operating system did not send the request.
    #[error("the request could not be sent: {0}")]
    NotSent(String),
}
