//! What was observed of the gateway: who opens ports, what was asked for, and what came of it.

use std::{net::IpAddr, time::Duration};

use shared::port_mapping::{Protocol, Transport, epoch::Epoch};

use super::SocketId;
use crate::report::Reason;

/// Everything that was observed of port mapping in one run.
#[derive(Clone, Debug, Default)]
pub struct PortMappingLog {
    /// Whether the gateway was looked for, and where it is; none inside = the system does not say.
    pub gateway: Option<Option<IpAddr>>,
    /// Whether all that may answer have had their time.
    pub is_discovered: bool,
    /// The protocols that were answered, one entry each.
    pub attempts: Vec<Attempt>,
    /// A socket that nothing was mapped for: what reaches it, reaches every port.
    pub control: Option<SocketId>,
    /// Whether both NATs of a double NAT were to be opened.
    pub is_chain_asked: bool,
    /// Why they were not.
    pub no_chain: Option<Reason>,
}

/// What came of one protocol.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Which.
    pub protocol: Protocol,
    /// At which router.
    pub link: Link,
    /// Who answered.
    pub gateway: IpAddr,
    /// What it says that it runs.
    pub software: Option<String>,
    /// The external address that it names.
    pub external_address: Option<IpAddr>,
    /// Why it cannot be used at all.
    pub unusable: Option<String>,
    /// The first and the last epoch that it told: seconds since it lost its mappings.
    pub epochs: Option<(Epoch, Epoch)>,
    /// How often it lost them between two answers.
    pub losses: u32,
    /// The mappings that were asked for.
    pub mappings: Vec<AskedMapping>,
}

/// At which router a protocol was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// The gateway, by itself.
    Gateway,
    /// The gateway, as the inner one of two.
    Inner,
    /// The router behind it.
    Outer,
}

/// A mapping that was asked for.
#[derive(Clone, Debug)]
pub struct AskedMapping {
    /// Of which transport.
    pub transport: Transport,
    /// The port of this host.
    pub internal: u16,
    /// The socket behind it; none for TCP.
    pub socket: Option<SocketId>,
    /// What the gateway said; none = nothing so far.
    pub answer: Option<Result<Opened, String>>,
    /// What came of its end; none = nothing so far.
    pub deletion: Option<Deletion>,
}

/// A mapping that the gateway says it has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The external port.
    pub external: u16,
    /// For how long; zero = without end.
    pub lifetime: Duration,
}

/// What came of ending a mapping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The gateway says that it is gone; inside, whether it still lists it, where the protocol can tell.
    Confirmed {
        /// Whether it is still listed.
        listed: Option<bool>,
    },
    /// The gateway did not confirm, for this reason.
    Failed(String),
}

impl Attempt {
    /// A protocol that the gateway answers, before anything was asked for.
    #[must_use]
    pub fn new(protocol: Protocol, gateway: IpAddr) -> Self {
        Self {
            protocol,
            link: Link::Gateway,
            gateway,
            software: None,
            external_address: None,
            unusable: None,
            epochs: None,
            losses: 0,
            mappings: Vec::new(),
        }
    }

    /// The mapping of this transport.
    #[must_use]
    pub fn mapping(&self, transport: Transport) -> Option<&AskedMapping> {
        self.mappings.iter().find(|mapping| mapping.transport == transport)
    }
}

impl AskedMapping {
    /// What the gateway has granted.
    #[must_use]
    pub fn opened(&self) -> Option<Opened> {
        self.answer.as_ref()?.as_ref().ok().copied()
    }

    /// Why the gateway has not.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        self.answer.as_ref()?.as_ref().err().map(String::as_str)
    }
}
