//! This host's own addresses: part of the report.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// An address of this host that leads to the Internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct OwnAddress {
    /// The address.
    pub address: IpAddr,
    /// What it is for.
    pub kind: AddressKind,
    /// Whether the system sends from it where an application does not choose (RFC 6724). It is the one that was tested,
    /// unless another was asked for.
    pub used: bool,
}

impl OwnAddress {
    /// One that is not used so far.
    #[must_use]
    pub fn new(address: IpAddr, kind: AddressKind) -> Self {
        Self { address, kind, used: false }
    }
}

/// What an IPv6 address is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum AddressKind {
    /// It stays: configured, leased, or derived in a stable way (RFC 7217).
    Stable,
    /// It is replaced by another after some hours or days (RFC 8981).
    Temporary,
    /// It is still valid, but nothing new should be sent from it.
    Deprecated,
    /// It leads to the Internet only where something translates it (RFC 4193).
    UniqueLocal,
    /// This system does not say.
    #[default]
    #[serde(other)]
    Unknown,
}
