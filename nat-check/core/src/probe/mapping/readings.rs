//! What the server's endpoints saw of the sockets of the mapping test, and on what of the destination it depends.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use shared::nat::Mapping;

use crate::{
    observation::{ObservationLog, RequestKind, SocketId},
    probe::mapping::PURPOSE,
    report::Confidence,
    server_endpoints::{ServerEndpoint, ServerEndpoints},
};

/// What the server's endpoints saw of each socket of the mapping test, in the order of opening.
pub(super) fn all_readings(log: &ObservationLog, endpoints: &ServerEndpoints) -> Vec<(SocketId, Readings)> {
    let sockets: BTreeSet<SocketId> = log.of(PURPOSE).map(|t| t.socket).collect();
    sockets.into_iter().map(|socket| (socket, Readings::of(log, endpoints, socket))).collect()
}

/// What the server's endpoints saw of one socket.
#[derive(Clone, Debug, Default)]
pub(in crate::probe) struct Readings {
    pub(in crate::probe) seen: BTreeMap<ServerEndpoint, SocketAddr>,
    /// The first endpoint showed another external endpoint the second time.
    pub(in crate::probe) drifted: Option<SocketAddr>,
}

impl Readings {
    pub(super) fn of(log: &ObservationLog, endpoints: &ServerEndpoints, socket: SocketId) -> Self {
        let mut readings = Self::default();
        for transaction in log.of(PURPOSE).filter(|t| t.socket == socket && t.kind == RequestKind::Binding) {
            let (Some(endpoint), Some(mapped)) =
                (endpoints.endpoint_at(transaction.to), transaction.direct().and_then(|a| log.external(a)))
            else {
                continue;
            };
            let first = *readings.seen.entry(endpoint).or_insert(mapped);
            if first != mapped {
                readings.drifted = Some(mapped);
            }
        }
        readings
    }

    /// Whether no reading differs from the local endpoint.
    pub(in crate::probe) fn is_direct(&self, local: Option<SocketAddr>) -> bool {
        !self.seen.is_empty() && self.seen.values().all(|&seen| Some(seen) == local)
    }

    /// Pairs of readings by endpoints that differ in one thing only tell whether the mapping depends on it.
    pub(in crate::probe) fn axes(&self) -> Axes {
        let pairs = |concerns: fn(&ServerEndpoint, &ServerEndpoint) -> bool| {
            let all = self.seen.iter().flat_map(|a| self.seen.iter().map(move |b| (a, b)));
            let mut pairs = all.filter(|(a, b)| a.0 < b.0 && concerns(a.0, b.0)).peekable();
            pairs.peek()?;
            Some(pairs.any(|(a, b)| a.1 != b.1))
        };
        Axes {
            on_ip: pairs(|a, b| a.other_ip != b.other_ip && a.other_port == b.other_port),
            on_port: pairs(|a, b| a.other_ip == b.other_ip && a.other_port != b.other_port),
        }
    }

    /// Whether all readings show the same external endpoint.
    pub(in crate::probe) fn is_uniform(&self) -> bool {
        self.seen.values().collect::<BTreeSet<_>>().len() <= 1
    }
}

/// What of the destination the external endpoint depends on, as far as that is known. The strictness of mappings is a
/// partial order: dependence on the address and on the port are neither above the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::probe) struct Axes {
    pub(in crate::probe) on_ip: Option<bool>,
    pub(in crate::probe) on_port: Option<bool>,
}

impl Axes {
    /// Both taken together: what depends on a thing in one of them does so.
    pub(super) fn join(self, other: Self) -> Self {
        let either = |a: Option<bool>, b: Option<bool>| match (a, b) {
            (Some(a), Some(b)) => Some(a || b),
            (a, b) => a.or(b),
        };
        Self { on_ip: either(self.on_ip, other.on_ip), on_port: either(self.on_port, other.on_port) }
    }

    pub(super) fn contradicts(self, other: Self) -> bool {
        let differ = |a: Option<bool>, b: Option<bool>| a.zip(b).is_some_and(|(a, b)| a != b);
        differ(self.on_ip, other.on_ip) || differ(self.on_port, other.on_port)
    }

    /// The mapping, and how sure that is: `None` when too little is known.
    pub(in crate::probe) fn mapping(self) -> Option<(Mapping, Confidence)> {
        match (self.on_ip, self.on_port) {
            (Some(false), Some(false)) => Some((Mapping::EndpointIndependent, Confidence::Certain)),
            (Some(true), Some(false)) => Some((Mapping::AddressDependent, Confidence::Certain)),
            (Some(false), Some(true)) => Some((Mapping::PortDependent, Confidence::Certain)),
            (Some(true), Some(true)) => Some((Mapping::AddressAndPortDependent, Confidence::Certain)),
            // Depends on one thing, the other is not known: at least as strict as this.
            (Some(true), None) | (None, Some(true)) => {
                Some((Mapping::AddressAndPortDependent, Confidence::Weak))
            }
            (Some(false), None) | (None, Some(false) | None) => None,
        }
    }
}
