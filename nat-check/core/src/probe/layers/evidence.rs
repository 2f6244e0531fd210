//! What a run has seen of the way out, as one value: what the conclusion is drawn from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use shared::{
    nat::{Filtering, Mapping},
    port_mapping::Protocol,
    test_session::Hop as ServersHop,
};

use crate::{
    contactable::is_global,
    net::InterfaceKind,
    observation::{
        ObservationLog, RequestKind,
        call::ServerTrace,
        layers::{TracePacket, Turned},
    },
    probe::{Found, mapping},
    report::{Finding, HopKind, LayersHop, LayersKind, PortMapping, Reason},
    server_position::nat_before_server,
};

/// What is known of the way out.
#[derive(Clone, Debug, Default)]
pub(super) struct Evidence {
    /// The address that packets leave this host with.
    pub(super) local: Option<IpAddr>,
    pub(super) interface: InterfaceKind,
    /// Whether packets to anywhere in the Internet leave with that address.
    pub(super) takes_all: bool,
    /// The addresses that the server sees.
    pub(super) external: Vec<IpAddr>,
    pub(super) mapping: Finding<Mapping>,
    pub(super) filtering: Finding<Filtering>,
    /// Routers up to the outermost that filters.
    pub(super) distance: Finding<u8>,
    /// Why what the server shows says nothing of this host's way to the Internet.
    pub(super) no_word_of_the_way: Option<Reason>,
    pub(super) gateway: Option<IpAddr>,
    /// The external addresses that the gateway names.
    pub(super) named: Vec<(Protocol, IpAddr)>,
    /// Whether a port that the gateway itself opened was reached from outside, and would not have been without.
    pub(super) is_opened: bool,
    /// The external addresses that the router behind the gateway names.
    pub(super) second_named: Vec<(Protocol, IpAddr)>,
    /// Whether the router behind the gateway sees this host with another address than its own (PCP, RFC 6887 section 8.2).
    pub(super) is_nat_before_second: bool,
    /// Who said that a packet to the server died there, by distance.
    pub(super) to_server: BTreeMap<u8, Hop>,
    /// The same of packets to this host's own external address.
    pub(super) to_external: BTreeMap<u8, Hop>,
    /// Packets to the server, and to the own external address, that were to die at the gateway; and those that did.
    pub(super) at_gateway: [Counted; 2],
    /// At which distance packets to the own external address were turned back.
    pub(super) turned_at: Option<u8>,
    /// Routers from the outermost NAT inwards, itself included, as far as they told the server of packets that died at them.
    pub(super) from_outermost: u8,
    /// Why there was no trace.
    pub(super) no_trace: Option<String>,
    /// What was seen of several external addresses.
    pub(super) several: Option<Finding<LayersKind>>,
}

/// A router that has told that a packet died at it, or could not be delivered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hop {
    pub(super) address: IpAddr,
    pub(super) is_expired: bool,
    pub(super) took: Duration,
}

/// Packets, and how many of them somebody told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) sent: usize,
    pub(super) reported: usize,
}

/// The addresses that the server sees this host at, without repeats.
pub(super) fn external(log: &ObservationLog) -> Vec<IpAddr> {
    let asked = log.transactions.iter().filter(|t| t.kind == RequestKind::Binding);
    let mut seen: Vec<IpAddr> = Vec::new();
    for ip in asked.filter_map(|t| Some(log.external(t.direct()?)?.ip().to_canonical())) {
        if !seen.contains(&ip) {
            seen.push(ip);
        }
    }
    seen
}

/// The router behind the gateway, where it has a private address: it may be the user's own.
pub(crate) fn second_router(log: &ObservationLog) -> Option<IpAddr> {
    let packets = log.layers.trace.iter().filter(|packet| packet.ttl == 2);
    let mut reports = packets.filter_map(|packet| packet.report);
    reports
        .find(|(report, _)| report.is_expired && is_private(report.from))
        .map(|(report, _)| report.from)
        .filter(|second| Some(*second) != log.layers.gateway)
}

impl Evidence {
    pub(super) fn of(
        log: &ObservationLog,
        found: &Found,
        port_mapping: Option<&PortMapping>,
        several: Option<Finding<LayersKind>>,
    ) -> Self {
        let seen = &log.layers;
        let external = external(log);
        let to = |is_external: bool| {
            seen.trace.iter().filter(move |packet| (packet.to != log.server) == is_external)
        };
        let counted = |is_external| {
            let at_gateway = || to(is_external).filter(|packet| packet.ttl == 1);
            let reported = at_gateway().filter(|packet| packet.report.is_some()).count();
            Counted { sent: at_gateway().count(), reported }
        };
        let socket = mapping::main_socket(log).or_else(|| log.transactions.first().map(|t| t.socket));
        let mut named = seen.named.clone();
        let protocols = port_mapping.into_iter().flat_map(PortMapping::protocols);
        let wire = [Protocol::Pcp, Protocol::NatPmp, Protocol::Upnp];
        let at_gateway = protocols.zip(wire).filter_map(|((_, _, it), protocol)| Some((protocol, it?)));
        let at_gateway = at_gateway.filter(|(_, it)| it.gateway == seen.gateway);
        for (protocol, it) in at_gateway.clone() {
            if let Some(address) = it.external_address
                && !named.contains(&(protocol, address))
            {
                named.push((protocol, address));
            }
        }
        let is_reached =
            |finding: &Finding<bool>| finding.sure() == Some(&true) && finding.reason_code.is_none();
        let mut answered = at_gateway.map(|(_, it)| it);
        let is_opened = answered.any(|it| is_reached(&it.reachable_udp) || is_reached(&it.reachable_tcp));
        let near = (!is_global(log.server.ip())).then(|| {
            let text =
                "the server is in a private network: what lies between that and the Internet is not seen";
            (crate::report::ReasonCode::ServerNotInInternet, text).into()
        });
        Self {
            local: socket.and_then(|socket| log.local(socket)).map(|local| local.ip().to_canonical()),
            interface: seen.interface,
            takes_all: seen.takes_all,
            external,
            mapping: found.udp.mapping.clone(),
            filtering: found.udp.filtering.clone(),
            distance: found.udp.distance.clone(),
            no_word_of_the_way: near.or_else(|| nat_before_server(log)),
            gateway: seen.gateway,
            named,
            is_opened,
            second_named: seen.second_named.clone(),
            is_nat_before_second: seen.nat_before_second,
            to_server: hops(to(false)),
            to_external: hops(to(true)),
            at_gateway: [counted(false), counted(true)],
            turned_at: turned_at(&seen.turned),
            from_outermost: from_outermost(&log.tcp.trace),
            no_trace: seen.no_trace.clone(),
            several,
        }
    }

    /// The routers for the report, nearest first.
    pub(super) fn hops(&self) -> Vec<LayersHop> {
        let kind = |hop: u8, address: IpAddr| match address {
            _ if hop == 1 && Some(address) == self.gateway => HopKind::Gateway,
            address if is_carriers(address) => HopKind::Carrier,
            address if is_private(address) => HopKind::Private,
            _ => HopKind::Public,
        };
        let seen = self.to_external.iter().chain(&self.to_server).collect::<BTreeMap<_, _>>();
        let seconds = |took: Duration| (took.as_secs_f64() * 1e6).round() / 1e6;
        seen.into_iter()
            .map(|(&hop, it)| LayersHop::new(hop, it.address, kind(hop, it.address), seconds(it.took)))
            .collect()
    }

    /// Whether the server sees another address than this host's own.
    pub(super) fn is_translated(&self) -> bool {
        self.no_word_of_the_way.is_none()
            && self.local.is_some_and(|local| !self.external.is_empty() && !self.external.contains(&local))
    }

    /// At which distance somebody answers for this host's own external address.
    pub(super) fn holder(&self) -> Option<u8> {
        self.to_external.iter().find(|(_, hop)| self.external.contains(&hop.address)).map(|(ttl, _)| *ttl)
    }

    /// The distance of the box that has this host's own external address, by whoever answers for it, or turns packets to it back.
    pub(super) fn outermost(&self) -> Option<u8> {
        self.holder().or(self.turned_at)
    }

    /// Whether different things show it at different distances.
    pub(super) fn has_two_outermost(&self) -> bool {
        let counted = [self.holder(), self.turned_at];
        let nearest = counted.into_iter().flatten().min();
        nearest.is_some_and(|at| self.from_outermost > at || counted.into_iter().flatten().any(|it| it != at))
    }

    /// Whether it is seen that this host's own external address belongs to a box farther away than this.
    pub(super) fn is_held_beyond(&self, hop: u8) -> bool {
        self.holder().max(self.turned_at) > Some(hop) || self.from_outermost > hop
    }

    /// Whether it is seen that it belongs to the gateway.
    pub(super) fn is_held_by_gateway(&self) -> bool {
        self.holder() == Some(1) || self.turned_at == Some(1)
    }

    /// Whether the router at this distance passes packets to this host's own external address on, so that it is not the
    /// outermost NAT.
    pub(super) fn passes_external_on(&self, hop: u8) -> bool {
        // What is turned back may be counted as passed before that is seen.
        let router = self.to_external.get(&hop).filter(|_| self.turned_at != Some(hop));
        router.is_some_and(|hop| hop.is_expired && !self.external.contains(&hop.address))
    }

    /// Whether packets show that the external address belongs to somebody behind the gateway.
    pub(super) fn is_beyond_gateway(&self) -> bool {
        self.passes_external_on(1) || self.is_held_beyond(1)
    }

    /// Whether the gateway drops packets to this host's own external address in silence, and no others: it may have it.
    pub(super) fn keeps_external(&self) -> bool {
        let [to_server, to_external] = self.at_gateway;
        to_server.reported > 1 && to_external.sent > 1 && to_external.reported == 0
    }

    /// Whether routers with an address of RFC 6598 pass packets to the own external address on; inside, whether that is sure,
    /// as somebody farther out answers for it, or filters: a gateway that knows nothing of that address sends them to the
    /// Internet.
    pub(super) fn carriers_before_outermost(&self) -> Option<bool> {
        let passing = self.to_external.range(2..).filter(|(_, hop)| hop.is_expired);
        let carriers = passing.filter(|(_, hop)| is_shared_address_space(hop.address));
        let nearest = carriers.map(|(&hop, _)| hop).next()?;
        Some(self.is_held_beyond(nearest) || self.sure_distance().is_some_and(|at| at >= nearest))
    }

    /// Whether a router with an address of RFC 6598 stands before the outermost NAT, or is that one, as others count the routers.
    pub(super) fn has_carriers_inside(&self) -> bool {
        let inside = 2..=self.turned_at.unwrap_or_default().max(self.from_outermost);
        let mut routers = self.to_server.iter().chain(&self.to_external);
        routers.any(|(ttl, hop)| inside.contains(ttl) && is_shared_address_space(hop.address))
    }

    /// The distance of the outermost filter, where that is sure.
    pub(super) fn sure_distance(&self) -> Option<u8> {
        self.distance.sure().copied()
    }
}

/// Who answered at each distance: of several the first, and the least time that any of them took.
fn hops<'a>(packets: impl Iterator<Item = &'a TracePacket>) -> BTreeMap<u8, Hop> {
    let mut hops = BTreeMap::new();
    for packet in packets {
        if let Some((report, at)) = packet.report {
            let hop = Hop {
                address: report.from.to_canonical(),
                is_expired: report.is_expired,
                took: at.saturating_sub(packet.sent),
            };
            let first = hops.entry(packet.ttl).or_insert(hop);
            first.took = first.took.min(hop.took);
        }
    }
    hops
}

/// Where packets were turned back, which is passed by as many routers on the way there as on the way back, and by the box that
/// turns them. A router that sets the TTL anew shows by packets that were sent with another one, and one that adds to it by an even
/// number.
fn turned_at(turned: &[Turned]) -> Option<u8> {
    let mut passed = turned.iter().filter(|it| it.is_external).map(|it| it.sent.checked_sub(it.arrived));
    let first = passed.next().flatten()?;
    let has_two_ttls = turned.iter().any(|it| it.is_external && it.sent != turned[0].sent);
    let is_sound = first % 2 == 1 && passed.all(|other| other == Some(first));
    (has_two_ttls && turned[0].is_external && is_sound).then_some(first / 2 + 1)
}

/// Each router answers for one TTL, and puts the external address over its own: nobody farther inside than the packets that
/// arrived here can.
fn from_outermost(trace: &ServerTrace) -> u8 {
    let Some(external) = trace.flow.map(|flow| flow.ip().to_canonical()) else { return 0 };
    let is_expired = |hop: &&ServersHop| (hop.icmp.kind, hop.icmp.code) == (11, 0);
    let inside = |hop: &&ServersHop| hop.icmp.from.to_canonical() == external;
    let hops = trace.hops.iter().flatten().filter(is_expired).filter(inside);
    let died: BTreeSet<u8> = hops.map(|hop| hop.ttl).collect();
    // A way that changes meanwhile counts routers twice.
    let is_sound = died.last() < trace.arrived.iter().min();
    if is_sound { u8::try_from(died.len()).unwrap_or_default() } else { 0 }
}

/// Whether everything goes through a tunnel to somebody else; carriers' tunnels (RFC 7335) are another matter.
pub(super) fn is_vpn(interface: InterfaceKind, takes_all: bool, local: Option<IpAddr>) -> bool {
    let is_tunnel =
        matches!(interface, InterfaceKind::WireGuard | InterfaceKind::Tunnel { is_carried: true });
    is_tunnel && takes_all && !local.is_some_and(is_through_ipv6)
}

/// An address of RFC 1918.
pub(super) fn is_private(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_private())
}

/// 100.64.0.0/10 (RFC 6598): between a customer and the carrier's NAT.
pub(super) fn is_shared_address_space(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
}

/// 192.0.0.0/29 (RFC 7335): between IPv4 and a way through IPv6.
pub(super) fn is_through_ipv6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if u32::from(v4) & !7 == u32::from(Ipv4Addr::new(192, 0, 0, 0)))
}

/// One that is set aside for carriers.
fn is_carriers(address: IpAddr) -> bool {
    is_shared_address_space(address) || is_through_ipv6(address)
}
