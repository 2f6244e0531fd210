//! What was observed of the routers on the way: what the gateway names of itself, and at which router packets die.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::port_mapping::Protocol;

use crate::net::{IcmpReport, InterfaceKind};

/// Everything that was observed of the way out in one run.
#[derive(Clone, Debug, Default)]
pub struct LayersLog {
    /// Whether it was asked for by name, so that answers are waited for.
    pub is_asked_for: bool,
    /// The gateway; none = the system does not say.
    pub gateway: Option<IpAddr>,
    /// What kind of interface packets leave by.
    pub interface: InterfaceKind,
    /// Whether packets to anywhere in the Internet leave by it, as far as the routing table tells.
    pub takes_all: bool,
    /// The external addresses that the gateway names of itself.
    pub named: Vec<(Protocol, IpAddr)>,
    /// The same of the router behind it, where that has a private address.
    pub second_named: Vec<(Protocol, IpAddr)>,
    /// Whether that router's PCP server sees this host with another address, so that a NAT stands in between.
    pub nat_before_second: bool,
    /// Questions to them that are not answered or given up yet.
    pub questions: u32,
    /// Why no trace was possible.
    pub no_trace: Option<String>,
    /// Packets that were to die on the way, in order of sending.
    pub trace: Vec<TracePacket>,
    /// Packets of one socket of this host to another's external endpoint that came back.
    pub turned: Vec<Turned>,
}

/// A packet to an external endpoint of this host that was turned back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turned {
    /// The TTL that it was sent with.
    pub sent: u8,
    /// The TTL that it arrived with.
    pub arrived: u8,
    /// Whether it came from the external address of the socket that sent it.
    pub is_external: bool,
}

/// A packet that was to die on the way.
#[derive(Clone, Debug)]
pub struct TracePacket {
    /// Where to.
    pub to: SocketAddr,
    /// After how many routers.
    pub ttl: u8,
    /// When it was sent, since the start of the run.
    pub sent: Duration,
    /// What a router said of it, and when.
    pub report: Option<(IcmpReport, Duration)>,
}

impl LayersLog {
    /// Enters what a router said of packets to this destination that were to die so soon: the oldest that waits.
    pub fn reported(&mut self, ttl: u8, report: IcmpReport, at: Duration) {
        let waits = |packet: &&mut TracePacket| {
            packet.ttl == ttl && packet.to == report.about && packet.report.is_none()
        };
        if let Some(packet) = self.trace.iter_mut().find(waits) {
            packet.report = Some((report, at));
        }
    }
}
