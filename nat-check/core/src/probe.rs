//! The measurements, and the one list of them.
//!
//! A measurement is one file here: what it sends ([`Probe::steps`], which write the log), and what it finds out
//! ([`Measured`]): the pure conclusion, the text for a person, how findings of several servers are merged, and what the
//! laboratory expects of it. To add one: a file, a line in [`REGISTRY`], a slot in the report.

use std::sync::Arc;

use crate::{net::Boxed, session::Session};
use measured::slot;
pub(crate) use measured::so_far;
pub use measured::{Found, Measured, Slot, conclude};
pub use merge::Merge;

pub mod alg;
pub mod contact;
pub mod dialect;
pub mod distance;
pub mod filtering;
pub mod hairpinning;
pub mod inbound_first;
#[cfg(feature = "port-mapping")]
pub mod ipv6;
#[cfg(feature = "port-mapping")]
pub mod layers;
pub mod lifetime;
pub mod mapping;
mod measured;
pub(crate) mod merge;
pub mod port_allocation;
#[cfg(feature = "port-mapping")]
pub mod port_mapping;
pub mod response_port;
mod tcp;
#[cfg(feature = "punch")]
mod tcp_calls;
#[cfg(feature = "punch")]
pub mod tcp_filtering;
#[cfg(feature = "punch")]
pub mod tcp_idle;
pub mod tcp_mapping;
#[cfg(feature = "punch")]
pub mod tcp_simultaneous_open;
#[cfg(feature = "punch")]
pub mod tcp_syn;

/// A measurement.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Probe {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it tells, in a line.
    pub about: &'static str,
    /// The measurements that it builds on.
    pub needs: &'static [&'static str],
    /// What it does, stage by stage.
    pub steps: &'static [Step],
    /// What it finds out about the network.
    pub udp: &'static [Slot],
    /// What it finds out about the network over TCP.
    pub tcp: &'static [Slot],
    /// What it finds out about the server.
    pub server: &'static [Slot],
}

impl Probe {
    /// Whether it runs only when it is asked for.
    #[must_use]
    pub fn on_request(&self) -> bool {
        let on_request = [Stage::Lifetime, Stage::PortMapping, Stage::TcpIdle];
        !self.steps.is_empty() && self.steps.iter().all(|step| on_request.contains(&step.stage))
    }
}

/// One part of a measurement.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Step {
    /// When it may run.
    pub stage: Stage,
    /// Sends, and waits for what comes of it.
    pub run: fn(Arc<Session>) -> Boxed<'static, ()>,
}

/// The stages of a run, in order: all steps of one run at the same time, and end before the next begins. What may
/// contaminate is kept apart by them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Packets to the primary endpoint alone. Some NATs keep one list of contacted addresses for a whole host, so
    /// nothing may be sent to the alternate ones before filtering is decided.
    Primary,
    /// Packets to all four endpoints.
    Alternate,
    /// What needs a socket that has already sent to all four.
    Confirm,
    /// What takes long, and therefore runs only when it is asked for.
    Lifetime,
    /// What asks the gateway to open ports, and therefore runs only when it is asked for.
    PortMapping,
    /// Over TCP, beside the others. These steps wait by themselves until packets may go to the alternate endpoints.
    Tcp,
    /// The same, where it takes long, and therefore runs only when it is asked for.
    TcpIdle,
}

impl Stage {
    /// Those that follow each other.
    pub const ALL: [Self; 5] =
        [Self::Primary, Self::Alternate, Self::Confirm, Self::Lifetime, Self::PortMapping];
}

/// Every measurement, in the order of the report.
pub const REGISTRY: &[Probe] = &[
    mapping::PROBE,
    filtering::PROBE,
    port_allocation::PROBE,
    hairpinning::PROBE,
    alg::PROBE,
    inbound_first::PROBE,
    distance::PROBE,
    #[cfg(feature = "port-mapping")]
    ipv6::PROBE,
    #[cfg(feature = "port-mapping")]
    layers::PROBE,
    lifetime::PROBE,
    #[cfg(feature = "port-mapping")]
    port_mapping::PROBE,
    response_port::PROBE,
    dialect::PROBE,
    tcp_mapping::PROBE,
    #[cfg(feature = "punch")]
    tcp_filtering::PROBE,
    #[cfg(feature = "punch")]
    tcp_syn::PROBE,
    #[cfg(feature = "punch")]
    tcp_simultaneous_open::PROBE,
    #[cfg(feature = "punch")]
    tcp_idle::PROBE,
];
