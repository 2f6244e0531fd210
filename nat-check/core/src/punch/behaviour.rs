//! How a network behaves, from the report to what the peer is told, and from what the peer tells to the prediction. Both
//! sides predict from what is told, so that they come to the same plan. Pure.

use std::net::{IpAddr, SocketAddr};

use shared::{
    nat::{Keying, Mapping, NatType},
    rendezvous::peer::{self, MAX_ADDRESSES, Offer, TcpSide},
};

use crate::{
    report::{SynAnswer, TcpReport, UdpReport},
    verdict::predict::{Behaviour, Ports, Side, tcp::TcpBehaviour},
};

/// What a check found, as the peer is told.
pub(super) fn of_report(udp: Option<&UdpReport>) -> peer::Behaviour {
    let Some(udp) = udp.filter(|udp| udp.nat_type.value != Some(NatType::UdpBlocked)) else {
        return peer::Behaviour::default();
    };
    let ports = udp.port_allocation.value.clone();
    peer::Behaviour {
        udp: true,
        mapping: udp.mapping.value,
        filtering: udp.filtering.value,
        shared_filter: None,
        cross_traffic: ports.as_ref().and_then(|ports| ports.cross_traffic_per_s).map(f64::from),
        ports,
        hairpinning: udp.hairpinning.value,
        addresses: distinct(udp.external.iter().map(SocketAddr::ip)),
    }
}

/// The same of TCP. What something on the way answers in the server's place tells nothing of the own gateway.
pub(super) fn of_tcp_report(tcp: &TcpReport) -> TcpSide {
    if tcp.intercepted.value == Some(true) {
        return TcpSide::default();
    }
    let mapping = tcp.mapping.value;
    TcpSide {
        fixed: is_fixed(mapping),
        mapping,
        filtering: tcp.filtering.value,
        simultaneous_open: tcp.simultaneous_open.value,
        refuses: tcp.unsolicited_syn.value.map(|syn| syn.answer != SynAnswer::Drop && syn.after_s < EARLY_S),
        ..TcpSide::default()
    }
}

/// An answer within this time comes before the host behind the gateway has connected itself.
const EARLY_S: f64 = 3.0;

fn is_fixed(mapping: Option<Mapping>) -> bool {
    matches!(mapping, Some(Mapping::Direct | Mapping::EndpointIndependent))
}

/// Each address once, as many as may be told.
pub(super) fn distinct(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut list: Vec<IpAddr> = Vec::new();
    for address in addresses {
        if list.len() < MAX_ADDRESSES && !list.contains(&address) {
            list.push(address);
        }
    }
    list
}

/// What is told, as the prediction wants it; none where too little is known. Where it could not be measured what a filter
/// entry belongs to, it is taken to be the mapping: that is usual, and promises less. `seen` is where the server that
/// introduces the two has seen this side: nothing but a few packets goes to any other address.
pub(super) fn side(told: &peer::Behaviour, seen: IpAddr) -> Option<Side> {
    if !told.udp {
        return Some(Side::UdpBlocked);
    }
    let mut ports =
        told.ports.as_ref().map_or(Ports::ANYWHERE, |measured| Ports::of(measured, told.cross_traffic));
    ports.addresses.is_vouched = told.addresses.is_empty() || told.addresses.contains(&seen);
    Some(Side::Udp(Behaviour {
        mapping: told.mapping?,
        filtering: told.filtering?,
        keying: if told.shared_filter == Some(true) { Keying::Endpoint } else { Keying::Mapping },
        ports,
    }))
}

/// What is told of TCP, as the prediction wants it; none where it is not told. A router that remaps after a datagram that comes too
/// early does so after a SYN, too.
pub(super) fn tcp_side(offer: &Offer) -> Option<TcpBehaviour> {
    let told = offer.tcp.as_ref()?;
    Some(TcpBehaviour {
        mapping: told.mapping,
        filtering: told.filtering,
        ports: told.ports.as_ref().map(|measured| Ports::of(measured, told.cross_traffic)),
        simultaneous_open: told.simultaneous_open,
        refuses: if offer.remaps == Some(true) { Some(true) } else { told.refuses },
    })
}

/// The classic name of what is told.
pub(super) fn nat_type(told: &peer::Behaviour) -> Option<NatType> {
    match (told.udp, told.mapping, told.filtering) {
        (true, Some(mapping), Some(filtering)) => Some(NatType::derive(mapping, filtering)),
        (true, ..) => None,
        (false, ..) => Some(NatType::UdpBlocked),
    }
}
