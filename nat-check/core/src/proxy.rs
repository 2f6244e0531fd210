//! Proxies: SOCKS5 (RFC 1928), SOCKS4 and 4a, HTTP CONNECT (RFC 9110 section 9.3.6). Where they are found, what they let
//! through, and how UDP behaves through them: the relay of a SOCKS5 proxy has a mapping and a filter of its own, and is
//! measured like any NAT.

mod applications;
mod associate;
mod client;
mod conclude;
mod credentials;
mod environment;
mod http;
mod measure;
mod net;
mod over_tcp;
mod socks4;
mod socks5;
#[cfg(test)]
mod tests;
mod url;
mod wire;

pub use client::{Proxy, ProxyError, Refusal};
pub use credentials::Credentials;
pub use environment::{Environment, Found};
pub(crate) use measure::measure_all;
pub use measure::{ProxyQuery, not_asked_for};
pub use net::ProxyNet;
pub use url::{ProxyUrl, ProxyUrlError};
pub use wire::Destination;
