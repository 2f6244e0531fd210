//! A router with a modelled NAT: its addresses, and the way of a packet through it in both directions, ICMP included
//! (RFC 4787, RFC 5508).

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use nat_check_core::net::sim::Way;
use shared::{
    nat::model::{Nat, Protocol, Refused, Verdict},
    port_mapping::PORT,
};

use super::{
    Capture, MEMORY, Moving, Network, Place, Point,
    shaper::Link,
    summary::{Count, NatSummary},
};
use crate::{
    address::Subnet,
    ip::{Carries, Datagram, IcmpReason, Quoted},
};

/// The addresses on both sides of a router, apart from the external ones of its NAT.
#[derive(Clone, Debug)]
pub(crate) struct RouterLan {
    /// The router's name.
    pub(crate) name: String,
    pub(crate) lan4: Subnet,
    pub(crate) lan6: Subnet,
    pub(crate) router4: Ipv4Addr,
    pub(crate) router6: Ipv6Addr,
    /// On the outside: what its ICMP errors come from.
    pub(crate) outside4: Ipv4Addr,
    pub(crate) outside6: Ipv6Addr,
}

impl RouterLan {
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        self.lan4.contains(ip) || self.lan6.contains(ip)
    }

    pub(super) fn is_router(&self, ip: IpAddr) -> bool {
        ip == self.router4 || ip == self.router6
    }

    pub(super) fn is_outside(&self, ip: IpAddr) -> bool {
        ip == self.outside4 || ip == self.outside6
    }

    fn inner(&self, v6: bool) -> IpAddr {
        if v6 { self.router6.into() } else { self.router4.into() }
    }

    fn outer(&self, v6: bool) -> IpAddr {
        if v6 { self.outside6.into() } else { self.outside4.into() }
    }
}

/// A router at work.
#[derive(Debug)]
pub(crate) struct Router {
    pub(crate) lan: RouterLan,
    pub(crate) nat: Nat,
    pub(super) up: Point,
    pub(super) link: Link,
    pub(super) link_up: bool,
    /// What passes on its inside and on its outside.
    pub(super) captures: Option<[Capture; 2]>,
    /// Senders of echo requests: from identifier and remote address to internal address.
    pings: HashMap<(u16, IpAddr), IpAddr>,
    sent: Count,
    received: Count,
    dropped: BTreeMap<(&'static str, String), u64>,
    /// Mappings that NATs before the last restart made.
    made_before: u64,
}

/// The sides of a router.
const INSIDE: usize = 0;
const OUTSIDE: usize = 1;

impl Router {
    pub(super) fn new(lan: RouterLan, nat: Nat, up: Point, link: Link) -> Self {
        Self {
            lan,
            nat,
            up,
            link,
            link_up: true,
            captures: None,
            pings: HashMap::new(),
            sent: Count::default(),
            received: Count::default(),
            dropped: BTreeMap::new(),
            made_before: 0,
        }
    }

    pub(super) fn replace_nat(&mut self, nat: Nat) {
        self.made_before += self.nat.made();
        self.nat = nat;
        self.pings.clear();
    }

    pub(super) fn count_lost(&mut self, way: Way, reason: &str) {
        self.count_drop(if way == Way::Up { "out" } else { "in" }, reason);
    }

    pub(super) fn summary(&self, now: Duration) -> NatSummary {
        let dropped = |way: &str| {
            let of_way = self.dropped.iter().filter(|((direction, _), _)| *direction == way);
            of_way.map(|((_, reason), count)| (reason.clone(), *count)).collect()
        };
        NatSummary {
            router: self.lan.name.clone(),
            nat: self.nat.spec().to_string(),
            external: self.nat.external().to_vec(),
            mappings_made: self.made_before + self.nat.made(),
            mappings: self.nat.mappings(now),
            sent: self.sent,
            received: self.received,
            dropped_out: dropped("out"),
            dropped_in: dropped("in"),
        }
    }

    fn count_drop(&mut self, direction: &'static str, reason: &str) {
        *self.dropped.entry((direction, reason.to_owned())).or_default() += 1;
    }

    fn record(&mut self, side: usize, datagram: &Datagram, now: Duration) {
        if let Some(captures) = &mut self.captures {
            captures[side].packet(datagram.bytes(), now);
        }
    }

    /// Translates an echo request; identifiers are kept, which is enough for a few hosts.
    fn ping(&mut self, id: u16, datagram: &mut Datagram) {
        let (inside, remote) = (datagram.source(), datagram.destination());
        if self.pings.len() >= MEMORY {
            self.pings.clear();
        }
        self.pings.insert((id, remote), inside);
        if let Some(external) = self.external(inside) {
            datagram.readdress(true, external);
        }
    }

    /// Translates an echo reply; `false` when no internal host sent the request.
    fn pong(&mut self, id: u16, datagram: &mut Datagram) -> bool {
        let Some(inside) = self.pings.get(&(id, datagram.source())) else { return false };
        datagram.readdress(false, *inside);
        true
    }

    /// Translates an ICMP error from outside; `false` when it is about no packet from inside.
    fn error_inward(&mut self, datagram: &mut Datagram, now: Duration) -> bool {
        let to = match datagram.quoted() {
            Some(Quoted::Flow { protocol, source, destination }) => {
                self.nat.inside_of(protocol, source, destination, now).map(|to| (to.ip(), Some(to.port())))
            }
            Some(Quoted::Echo { id, destination, .. }) => {
                self.pings.get(&(id, destination)).map(|inside| (*inside, None))
            }
            None => None,
        };
        to.map(|(ip, port)| datagram.redirect_error(ip, port)).is_some()
    }

    /// Translates an ICMP error from inside; `false` when it is about no packet from outside.
    fn error_outward(&mut self, datagram: &mut Datagram, now: Duration) -> bool {
        let Some(Quoted::Flow { protocol, source, destination }) = datagram.quoted() else { return false };
        let outside = self.nat.outside_of(protocol, destination, source, now);
        outside.map(|outside| datagram.disguise_error(outside.ip(), Some(outside.port()))).is_some()
    }

    /// The answer to a request to open a port (PCP, NAT-PMP); none where the packet is none, or the NAT opens none.
    pub(super) fn opens_port(&mut self, moving: &Moving, now: Duration) -> Option<Vec<u8>> {
        let is_udp = moving.datagram.carries() == Carries::Flow(Protocol::Udp);
        let request = moving.datagram.model(moving.ports).filter(|_| is_udp && moving.ports.1 == PORT)?;
        moving.datagram.reply(&self.nat.serve(request.source, &request.payload, now)?)
    }

    fn external(&self, inside: IpAddr) -> Option<IpAddr> {
        self.nat.external().iter().find(|ip| ip.is_ipv4() == inside.is_ipv4()).copied()
    }
}

impl Network {
    /// A packet from the LAN to elsewhere.
    pub(super) fn out_through(&mut self, number: usize, mut moving: Moving, now: Duration) {
        let router = &mut self.routers[number];
        router.record(INSIDE, &moving.datagram, now);
        if !moving.datagram.pass(router.nat.spec().hops) {
            let address = router.lan.inner(moving.datagram.is_v6());
            return self.report(&moving.datagram, address, IcmpReason::Expired, Place::Down(number), now);
        }
        let forwarded = match moving.datagram.carries() {
            Carries::Flow(_) => {
                let Some(packet) = moving.datagram.model(moving.ports) else { return };
                match router.nat.outbound(packet, now) {
                    Verdict::Forward(packet) => {
                        moving.becomes(&packet);
                        true
                    }
                    Verdict::Hairpin(packet) => {
                        moving.becomes(&packet);
                        return self.schedule(now, Place::Down(number), moving);
                    }
                    Verdict::Answer { answer, after } => {
                        return self.refuse(
                            &moving.datagram,
                            answer.refused,
                            Place::Down(number),
                            now + after,
                        );
                    }
                    Verdict::Drop(reason) => {
                        router.count_drop("out", &reason.to_string());
                        false
                    }
                }
            }
            Carries::Echo(id) => {
                router.ping(id, &mut moving.datagram);
                true
            }
            Carries::IcmpError => router.error_outward(&mut moving.datagram, now),
            Carries::Other => false,
        };
        if forwarded {
            router.sent.add(moving.datagram.bytes().len());
            router.record(OUTSIDE, &moving.datagram, now);
            let place = router.beyond();
            self.carry(number, Way::Up, place, moving, now);
        }
    }

    /// A packet from outside.
    pub(super) fn in_through(&mut self, number: usize, mut moving: Moving, now: Duration) {
        let router = &mut self.routers[number];
        router.record(OUTSIDE, &moving.datagram, now);
        let v6 = moving.datagram.is_v6();
        if moving.datagram.is_echo_request() && router.is_own(moving.datagram.destination()) {
            let place = router.beyond();
            return self.answer_itself(moving, place, now);
        }
        if !moving.datagram.pass(router.nat.spec().hops) {
            let (address, place) = (router.lan.outer(v6), router.beyond());
            return self.report(&moving.datagram, address, IcmpReason::Expired, place, now);
        }
        let forwarded = match moving.datagram.carries() {
            Carries::Flow(_) => {
                let Some(packet) = moving.datagram.model(moving.ports) else { return };
                match router.nat.inbound(packet, now) {
                    Verdict::Forward(packet) | Verdict::Hairpin(packet) => {
                        moving.becomes(&packet);
                        true
                    }
                    Verdict::Answer { answer, after } => {
                        let place = router.beyond();
                        return self.refuse(&moving.datagram, answer.refused, place, now + after);
                    }
                    Verdict::Drop(reason) => {
                        router.count_drop("in", &reason.to_string());
                        false
                    }
                }
            }
            Carries::Echo(id) => router.pong(id, &mut moving.datagram),
            Carries::IcmpError => router.error_inward(&mut moving.datagram, now),
            Carries::Other => false,
        };
        if forwarded {
            router.received.add(moving.datagram.bytes().len());
            router.record(INSIDE, &moving.datagram, now);
            self.deliver(number, moving, now);
        }
    }

    /// Refuses a TCP connection in the name of its destination.
    fn refuse(&mut self, about: &Datagram, refused: Refused, back: Place, at: Duration) {
        let bytes = match refused {
            Refused::Reset => about.reset(),
            Refused::Unreachable => about.icmp(about.destination(), IcmpReason::PortUnreachable),
        };
        self.answer(bytes, back, at);
    }
}

impl Router {
    /// Where packets go that leave by the outside.
    fn beyond(&self) -> Place {
        match self.up {
            Point::Internet => Place::Core,
            Point::Lan(lan) => Place::Lan(lan),
        }
    }

    fn is_own(&self, ip: IpAddr) -> bool {
        self.nat.external().contains(&ip) || self.lan.is_outside(ip)
    }
}
