//! A host of the laboratory: a namespace and its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netns::Namespace;

/// A host, on which programs run. It derefs to its [`Namespace`].
#[derive(Debug)]
pub struct Host {
    namespace: Namespace,
    ip4: Ipv4Addr,
    ip6: Ipv6Addr,
}

impl Host {
    pub(crate) fn new(namespace: Namespace, ip4: Ipv4Addr, ip6: Ipv6Addr) -> Self {
        Self { namespace, ip4, ip6 }
    }

    /// Its address in a family.
    #[must_use]
    pub fn ip(&self, v6: bool) -> IpAddr {
        if v6 { self.ip6.into() } else { self.ip4.into() }
    }
}

impl std::ops::Deref for Host {
    type Target = Namespace;

    fn deref(&self) -> &Namespace {
        &self.namespace
    }
}
