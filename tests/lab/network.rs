//! The network between the hosts of the user-space laboratory: LANs, routers with modelled NATs (RFC 4787), access lines,
//! one router in the middle of the Internet. Pure: packets and `now` go in, packets and the device that they are for come out.

pub(crate) mod capture;
mod router;
pub(crate) mod shaper;
pub mod summary;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use nat_check_core::net::sim::Way;
use shared::nat::model::{Nat, NatSpec, Packet};

use crate::{
    address::{CORE4, CORE6},
    ip::{Carries, Datagram, IcmpReason},
};
use capture::Capture;
pub(crate) use router::{Router, RouterLan};
use shaper::{Fate, Link, LinkSpec};
use summary::{Count, Flow, Summary};

/// Where a device, or the outside of a router, is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Point {
    /// The Internet itself.
    Internet,
    /// The LAN of a router.
    Lan(usize),
}

/// A network interface of a host.
#[derive(Clone, Debug)]
pub(crate) struct Device {
    /// Number of its host.
    pub(crate) host: usize,
    /// Where it is attached; nowhere while it roams or its link is down.
    pub(crate) at: Option<Point>,
    pub(crate) ips: Vec<IpAddr>,
}

/// A packet in transit, with the ports that later fragments do not carry.
#[derive(Clone, Debug)]
struct Moving {
    datagram: Datagram,
    ports: (u16, u16),
    /// The host that sent it; none for what routers send.
    from: Option<usize>,
}

/// Where a packet arrives next.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// On a LAN, from a host or a router there.
    Lan(usize),
    /// On a LAN, from the router: it is for a host or router there.
    Down(usize),
    /// At a router's NAT, from its outside.
    Inward(usize),
    /// At the router in the middle of the Internet.
    Core,
    /// At a device.
    Device(usize),
}

/// All routers and devices, and the packets between them.
#[derive(Debug)]
pub(crate) struct Network {
    routers: Vec<Router>,
    devices: Vec<Device>,
    /// Packets in transit, by time of arrival and order of departure.
    moving: BTreeMap<(Duration, u64), (Place, Moving)>,
    departed: u64,
    /// Ports of fragmented packets, by source, destination and identification.
    fragments: HashMap<(IpAddr, IpAddr, u32), (u16, u16)>,
    flows: BTreeMap<Flow, Count>,
    rng: fastrand::Rng,
}

/// Entries after which the tables of past fragments and pings are emptied.
const MEMORY: usize = 4096;

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            routers: Vec::new(),
            devices: Vec::new(),
            moving: BTreeMap::new(),
            departed: 0,
            fragments: HashMap::new(),
            flows: BTreeMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Adds a router whose outside is at `up`, with the external addresses of its NAT; returns its number.
    pub(crate) fn add_router(
        &mut self,
        lan: RouterLan,
        nat: NatSpec,
        external: &[IpAddr],
        up: Point,
        line: LinkSpec,
    ) -> usize {
        let nat = Nat::new(nat, external, self.rng.u64(..));
        let link = Link::new(line, self.rng.u64(..));
        self.routers.push(Router::new(lan, nat, up, link));
        self.routers.len() - 1
    }

    /// Adds a device; returns its number.
    pub(crate) fn add_device(&mut self, device: Device) -> usize {
        self.devices.push(device);
        self.devices.len() - 1
    }

    pub(crate) fn router(&self, router: usize) -> &Router {
        &self.routers[router]
    }

    /// Attaches a device elsewhere, with other addresses.
    pub(crate) fn move_device(&mut self, device: usize, at: Option<Point>, ips: Vec<IpAddr>) {
        let device = &mut self.devices[device];
        (device.at, device.ips) = (at, ips);
    }

    /// A NAT loses its state, and with a new spec or new addresses becomes another one.
    pub(crate) fn restart_nat(
        &mut self,
        router: usize,
        spec: Option<NatSpec>,
        external: Option<Vec<IpAddr>>,
        now: Duration,
    ) {
        let nat = &mut self.routers[router].nat;
        let spec = spec.unwrap_or_else(|| nat.spec().clone());
        let external = external.unwrap_or_else(|| nat.external().to_vec());
        self.routers[router].replace_nat(Nat::restarted(spec, &external, self.rng.u64(..), now));
    }

    /// All NATs lose their state.
    pub(crate) fn restart_nats(&mut self, now: Duration) {
        (0..self.routers.len()).for_each(|router| self.restart_nat(router, None, None, now));
    }

    /// A router's NAT gets this external address in place of its others, and loses its state.
    pub(crate) fn readdress(&mut self, router: usize, address: IpAddr, now: Duration) {
        if let IpAddr::V4(address) = address {
            self.routers[router].lan.outside4 = address;
        }
        self.restart_nat(router, None, Some(vec![address]), now);
    }

    /// Whether a host or router has this address.
    pub(crate) fn is_taken(&self, ip: IpAddr) -> bool {
        let has = |router: &Router| router.nat.external().contains(&ip) || router.lan.is_router(ip);
        self.devices.iter().any(|device| device.ips.contains(&ip))
            || self.routers.iter().any(has)
            || ip == CORE4
    }

    /// A router's line as it is.
    pub(crate) fn line(&self, router: usize) -> LinkSpec {
        self.routers[router].link.spec()
    }

    /// A router's line becomes another one.
    pub(crate) fn set_line(&mut self, router: usize, line: LinkSpec) {
        self.routers[router].link = Link::new(line, self.rng.u64(..));
    }

    /// A router's line is cut, or mended.
    pub(crate) fn set_link(&mut self, router: usize, up: bool) {
        self.routers[router].link_up = up;
    }

    /// Writes what passes a router from now on into files, one for each side.
    pub(crate) fn capture(&mut self, router: usize, inside: Capture, outside: Capture) {
        self.routers[router].captures = Some([inside, outside]);
    }

    /// What every NAT did, and who exchanged packets with whom.
    pub(crate) fn summary(&self, hosts: &[String], now: Duration) -> Summary {
        let name = |host: usize| hosts.get(host).cloned().unwrap_or_default();
        Summary {
            nats: self.routers.iter().map(|router| router.summary(now)).collect(),
            flows: self.flows.iter().map(|(flow, count)| flow.named(&name, *count)).collect(),
        }
    }

    /// A packet comes in from a device.
    pub(crate) fn enter(&mut self, device: usize, bytes: Vec<u8>, now: Duration) {
        let Some(datagram) = Datagram::parse(bytes) else { return };
        let Some(ports) = self.ports_of(&datagram) else { return };
        let Device { host, at, .. } = self.devices[device];
        let moving = Moving { datagram, ports, from: Some(host) };
        match at {
            Some(Point::Lan(lan)) if moving.datagram.destination().is_multicast() => {
                self.multicast(lan, device, &moving, now);
            }
            Some(Point::Lan(lan)) => self.schedule(now, Place::Lan(lan), moving),
            Some(Point::Internet) => self.schedule(now, Place::Core, moving),
            None => {}
        }
    }

    /// When the next packet arrives somewhere.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.moving.first_key_value().map(|((due, _), _)| *due)
    }

    /// Processes everything that is due, up to the next packet for a device, and returns that.
    pub(crate) fn leave(&mut self, now: Duration) -> Option<(usize, Vec<u8>)> {
        while self.due()? <= now {
            let ((due, _), (place, moving)) = self.moving.pop_first()?;
            match place {
                Place::Device(device) => {
                    self.count(device, &moving);
                    return Some((device, moving.datagram.into_bytes()));
                }
                Place::Core => self.at_core(moving, due),
                Place::Lan(lan) => self.on_lan(lan, moving, due),
                Place::Down(lan) => self.deliver(lan, moving, due),
                Place::Inward(router) => self.in_through(router, moving, due),
            }
        }
        None
    }

    fn schedule(&mut self, at: Duration, place: Place, moving: Moving) {
        self.departed += 1;
        self.moving.insert((at, self.departed), (place, moving));
    }

    /// Sends a packet over a router's line, on which it may be lost, delayed or duplicated.
    fn carry(&mut self, router: usize, way: Way, place: Place, moving: Moving, now: Duration) {
        let bytes = moving.datagram.bytes().len();
        let router = &mut self.routers[router];
        let fate = if router.link_up { router.link.carry(way, bytes, now) } else { Fate::LinkDown };
        match fate {
            Fate::Arrives(times) => {
                let mut times = times.into_iter().flatten();
                let first = times.next();
                for time in times {
                    self.schedule(now + time, place, moving.clone());
                }
                if let Some(time) = first {
                    self.schedule(now + time, place, moving);
                }
            }
            Fate::Lost | Fate::QueueFull | Fate::LinkDown => router.count_lost(way, fate.reason()),
        }
    }

    fn at_core(&mut self, mut moving: Moving, now: Duration) {
        let core: IpAddr = if moving.datagram.is_v6() { CORE6.into() } else { CORE4.into() };
        if !moving.datagram.hop() {
            return self.report(&moving.datagram, core, IcmpReason::Expired, Place::Core, now);
        }
        let to = moving.datagram.destination();
        if to == core {
            return self.answer_itself(moving, Place::Core, now);
        }
        if let Some(device) = self.device_at(Point::Internet, to) {
            return self.schedule(now, Place::Device(device), moving);
        }
        match self.router_for(Point::Internet, to) {
            Some(router) => self.carry(router, Way::Down, Place::Inward(router), moving, now),
            None => self.report(&moving.datagram, core, IcmpReason::NoRoute, Place::Core, now),
        }
    }

    /// A packet on a LAN, sent by a host or a router there.
    fn on_lan(&mut self, lan: usize, moving: Moving, now: Duration) {
        let to = moving.datagram.destination();
        if self.routers[lan].lan.is_router(to) {
            return match self.routers[lan].opens_port(&moving, now) {
                Some(answer) => self.answer(Some(answer), Place::Down(lan), now),
                None => self.answer_itself(moving, Place::Down(lan), now),
            };
        }
        match self.neighbour(lan, to) {
            Some(_) => self.deliver(lan, moving, now),
            None => self.out_through(lan, moving, now),
        }
    }

    /// A packet for a host or router of a LAN. An address that none has: like a host that is switched off.
    fn deliver(&mut self, lan: usize, moving: Moving, now: Duration) {
        match self.neighbour(lan, moving.datagram.destination()) {
            Some(Place::Inward(router)) => {
                self.carry(router, Way::Down, Place::Inward(router), moving, now);
            }
            Some(place) => self.schedule(now, place, moving),
            None => {}
        }
    }

    /// Multicast stays on the LAN (RFC 4541 without snooping).
    fn multicast(&mut self, lan: usize, from: usize, moving: &Moving, now: Duration) {
        for device in 0..self.devices.len() {
            if device != from && self.devices[device].at == Some(Point::Lan(lan)) {
                self.schedule(now, Place::Device(device), moving.clone());
            }
        }
    }

    /// Who on a LAN has this address, or the way to it.
    fn neighbour(&self, lan: usize, to: IpAddr) -> Option<Place> {
        let device = self.device_at(Point::Lan(lan), to).map(Place::Device);
        device.or_else(|| self.router_for(Point::Lan(lan), to).map(Place::Inward))
    }

    fn device_at(&self, at: Point, to: IpAddr) -> Option<usize> {
        self.devices.iter().position(|device| device.at == Some(at) && device.ips.contains(&to))
    }

    /// The router whose outside is attached here and that packets for this address are routed to.
    fn router_for(&self, up: Point, to: IpAddr) -> Option<usize> {
        (0..self.routers.len()).find(|router| self.routers[*router].up == up && self.leads_to(*router, to))
    }

    fn leads_to(&self, router: usize, to: IpAddr) -> bool {
        let Router { nat, lan, .. } = &self.routers[router];
        if nat.external().contains(&to) || lan.is_outside(to) {
            return true;
        }
        let translated = nat.external().iter().any(|ip| ip.is_ipv4() == to.is_ipv4());
        !translated && (lan.contains(to) || self.router_for(Point::Lan(router), to).is_some())
    }

    /// Answers a packet for a router itself: pings are answered, nothing else is served here.
    fn answer_itself(&mut self, moving: Moving, back: Place, now: Duration) {
        let datagram = moving.datagram;
        let bytes = match datagram.carries() {
            Carries::Echo(_) if datagram.is_echo_request() => Some(datagram.into_echo_reply().into_bytes()),
            Carries::Flow(shared::nat::model::Protocol::Udp) => {
                datagram.icmp(datagram.destination(), IcmpReason::PortUnreachable)
            }
            Carries::Flow(shared::nat::model::Protocol::Tcp) => datagram.reset(),
            Carries::Echo(_) | Carries::IcmpError | Carries::Other => None,
        };
        self.answer(bytes, back, now);
    }

    /// Sends an ICMP error about a packet back to its sender.
    fn report(&mut self, about: &Datagram, router: IpAddr, reason: IcmpReason, back: Place, now: Duration) {
        self.answer(about.icmp(router, reason), back, now);
    }

    fn answer(&mut self, bytes: Option<Vec<u8>>, back: Place, at: Duration) {
        if let Some(datagram) = bytes.and_then(Datagram::parse) {
            let ports = datagram.ports().unwrap_or_default();
            self.schedule(at, back, Moving { datagram, ports, from: None });
        }
    }

    /// Notes that a host received a packet of another one.
    fn count(&mut self, device: usize, moving: &Moving) {
        if let Some(from) = moving.from {
            let flow = Flow { from, to: self.devices[device].host, v6: moving.datagram.is_v6() };
            self.flows.entry(flow).or_default().add(moving.datagram.bytes().len());
        }
    }

    /// The ports of a packet, also of a later fragment whose first one was seen.
    fn ports_of(&mut self, datagram: &Datagram) -> Option<(u16, u16)> {
        let Some(fragment) = datagram.fragment else { return Some(datagram.ports().unwrap_or_default()) };
        let key = (datagram.source(), datagram.destination(), fragment.id);
        if !fragment.first {
            // Hosts send the first fragment first: one without it is not theirs.
            return self.fragments.get(&key).copied();
        }
        let ports = datagram.ports()?;
        if self.fragments.len() >= MEMORY {
            self.fragments.clear();
        }
        self.fragments.insert(key, ports);
        Some(ports)
    }
}

impl Moving {
    fn becomes(&mut self, packet: &Packet) {
        self.datagram.apply(packet);
        self.ports = (packet.source.port(), packet.destination.port());
    }
}
