//! The server as one session sees it: its addresses of one family, from the one that the session's connection came to.

use std::net::{IpAddr, SocketAddr};

use shared::test_session::SourceAddress;

use crate::topology::{Endpoint, Topology};

/// Where a session's connection came to, and what else there is in its family.
#[derive(Clone, Debug)]
pub struct ServerSide {
    /// All endpoints of the family.
    pub topology: Topology,
    /// The one that the connection came to.
    pub at: Endpoint,
    /// Whether they are endpoints of STUN over TCP, too.
    pub serves_tcp: bool,
}

/// The server's addresses, in the order in which they are kept.
pub(super) const SOURCES: [SourceAddress; 2] = [SourceAddress::Primary, SourceAddress::Alternate];

impl ServerSide {
    /// An address of the server: as it is bound, and as clients see it.
    pub(super) fn address(&self, which: SourceAddress) -> Option<(IpAddr, IpAddr)> {
        let at = self.at.change(which == SourceAddress::Alternate, false);
        Some((self.topology.bound(at)?.ip(), self.topology.advertised(at)?.ip()))
    }

    /// Where it speaks STUN over TCP at this address: the primary port first.
    pub(super) fn stun(&self, which: SourceAddress) -> Vec<SocketAddr> {
        let at = self.at.change(which == SourceAddress::Alternate, false);
        let endpoints =
            Endpoint::ALL.into_iter().filter(|it| self.serves_tcp && it.address() == at.address());
        endpoints.filter_map(|endpoint| self.topology.advertised(endpoint)).collect()
    }
}
