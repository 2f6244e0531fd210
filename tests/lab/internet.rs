//! The network between the hosts of the user-space laboratory: access lines, modelled NATs (RFC 4787), one router hop.
//! Pure: packets and `now` go in, packets and the device that they are for come out.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Duration,
};

use nat_check_core::net::sim::{Line, PathSpec, Way};
use shared::nat::{
    Mapping,
    model::{Nat, Packet, Refused, Stack, Verdict},
};

use crate::{
    address::{CORE4, CORE6, SERVER4, SERVER6, Site},
    ip::{Carries, Datagram, IcmpReason},
};

/// A network interface of the laboratory, where packets enter and leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Port {
    /// The server host.
    Server,
    /// A host of a site.
    Host {
        /// Which site.
        site: usize,
        /// Which host of it.
        host: u8,
    },
}

/// A LAN, its NATs and its access line.
#[derive(Debug)]
struct Customer {
    site: Site,
    hosts: u8,
    /// The innermost first.
    nats: Vec<Nat>,
    line: Line,
    /// Senders of echo requests: from (NAT, identifier, remote address) to internal address.
    pings: HashMap<(usize, u16, IpAddr), IpAddr>,
}

/// A packet in transit, with the ports that later fragments do not carry.
#[derive(Clone, Debug)]
struct Moving {
    datagram: Datagram,
    ports: (u16, u16),
}

/// Where a packet arrives next.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// At a NAT, from its inside.
    Outward { site: usize, nat: usize },
    /// At a NAT, from its outside.
    Inward { site: usize, nat: usize },
    /// At the router hop.
    Core,
    /// At a device.
    Port(Port),
}

/// All sites, and the packets between them.
#[derive(Debug)]
pub(crate) struct Internet {
    customers: Vec<Customer>,
    /// Packets in transit, by time of arrival and order of departure.
    moving: BTreeMap<(Duration, u64), (Place, Moving)>,
    departed: u64,
    /// Ports of fragmented packets, by source, destination and identification.
    fragments: HashMap<(IpAddr, IpAddr, u32), (u16, u16)>,
    rng: fastrand::Rng,
}

/// Entries after which the tables of past fragments and pings are emptied.
const MEMORY: usize = 4096;

impl Internet {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            customers: Vec::new(),
            moving: BTreeMap::new(),
            departed: 0,
            fragments: HashMap::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Adds a site with this many hosts; returns its addresses.
    pub(crate) fn add(&mut self, stack: &Stack, hosts: u8, path: PathSpec) -> Site {
        let number = u8::try_from(self.customers.len()).unwrap_or(u8::MAX);
        let translates = |at: usize| stack.0[at].udp.mapping != Mapping::Direct;
        let site = Site { number, translated: (0..stack.0.len()).any(translates) };
        let nats = stack.0.iter().enumerate().map(|(level, spec)| {
            // Public addresses belong to the outermost NAT that translates.
            let public = !(level + 1..stack.0.len()).any(translates);
            let external: Vec<IpAddr> = match translates(level) {
                true => (0..spec.pool.ips).map(|n| site.external4(public, level, n).into()).collect(),
                false => Vec::new(),
            };
            Nat::new(spec.clone(), &external, self.rng.u64(..))
        });
        let nats = nats.collect();
        self.customers.push(Customer {
            site,
            hosts,
            nats,
            line: Line::new(path, self.rng.u64(..)),
            pings: HashMap::new(),
        });
        site
    }

    /// All NATs lose their state.
    pub(crate) fn restart_nats(&mut self) {
        for nat in self.customers.iter_mut().flat_map(|customer| &mut customer.nats) {
            *nat = Nat::new(nat.spec().clone(), nat.external(), self.rng.u64(..));
        }
    }

    /// A packet comes in from a device.
    pub(crate) fn enter(&mut self, from: Port, bytes: Vec<u8>, now: Duration) {
        let Some(datagram) = Datagram::parse(bytes) else { return };
        let Some(ports) = self.ports_of(&datagram) else { return };
        let moving = Moving { datagram, ports };
        let place = match from {
            Port::Server => Place::Core,
            Port::Host { site, .. } => match self.customers[site].neighbour(moving.datagram.destination()) {
                Some(host) => Place::Port(Port::Host { site, host }),
                None => self.outward(site, 0),
            },
        };
        self.schedule(now, place, moving);
    }

    /// When the next packet arrives somewhere.
    pub(crate) fn due(&self) -> Option<Duration> {
        self.moving.first_key_value().map(|((due, _), _)| *due)
    }

    /// Processes everything that is due, up to the next packet for a device, and returns that.
    pub(crate) fn leave(&mut self, now: Duration) -> Option<(Port, Vec<u8>)> {
        while self.due()? <= now {
            let ((due, _), (place, moving)) = self.moving.pop_first()?;
            match place {
                Place::Port(port) => return Some((port, moving.datagram.bytes().to_vec())),
                Place::Core => self.at_core(moving, due),
                Place::Outward { site, nat } => self.out_through(site, nat, moving, due),
                Place::Inward { site, nat } => self.in_through(site, nat, moving, due),
            }
        }
        None
    }

    fn schedule(&mut self, at: Duration, place: Place, moving: Moving) {
        self.departed += 1;
        self.moving.insert((at, self.departed), (place, moving));
    }

    /// Sends a packet over a site's access line, on which it may be lost, delayed or duplicated.
    fn carry(&mut self, site: usize, way: Way, place: Place, moving: Moving, now: Duration) {
        let bytes = moving.datagram.bytes().len();
        for time in self.customers[site].line.carry(way, bytes, now).into_iter().flatten() {
            self.schedule(now + time, place, moving.clone());
        }
    }

    fn at_core(&mut self, mut moving: Moving, now: Duration) {
        let core: IpAddr = if moving.datagram.is_v6() { CORE6.into() } else { CORE4.into() };
        if !moving.datagram.hop() {
            return self.report(&moving.datagram, core, IcmpReason::Expired, Place::Core, now);
        }
        let to = moving.datagram.destination();
        if SERVER4.iter().any(|ip| *ip == to) || SERVER6.iter().any(|ip| *ip == to) {
            return self.schedule(now, Place::Port(Port::Server), moving);
        }
        match self.customers.iter().position(|customer| customer.owns(to)) {
            Some(site) => {
                let place = self.inward(site, self.customers[site].nats.len(), to);
                self.carry(site, Way::Down, place, moving, now);
            }
            None => self.report(&moving.datagram, core, IcmpReason::NoRoute, Place::Core, now),
        }
    }

    /// The next node for an outbound packet that has passed `nat` NATs.
    fn outward(&self, site: usize, nat: usize) -> Place {
        if nat < self.customers[site].nats.len() { Place::Outward { site, nat } } else { Place::Core }
    }

    /// The next node for an inbound packet that has `nat` NATs left to pass.
    fn inward(&self, site: usize, nat: usize, to: IpAddr) -> Place {
        match nat.checked_sub(1) {
            Some(nat) => Place::Inward { site, nat },
            // An address that no host has: like a host that is switched off.
            None => {
                Place::Port(Port::Host { site, host: self.customers[site].neighbour(to).unwrap_or(u8::MAX) })
            }
        }
    }

    fn out_through(&mut self, site: usize, nat: usize, mut moving: Moving, now: Duration) {
        let customer = &mut self.customers[site];
        if !moving.datagram.pass(customer.nats[nat].spec().hops) {
            let router = customer.router(moving.datagram.is_v6());
            let back = self.inward(site, nat, moving.datagram.source());
            return self.report(&moving.datagram, router, IcmpReason::Expired, back, now);
        }
        match moving.datagram.carries() {
            Carries::Flow(_) => {
                let Some(packet) = moving.datagram.model(moving.ports) else { return };
                match customer.nats[nat].outbound(packet, now) {
                    Verdict::Forward(packet) => {
                        moving.becomes(&packet);
                        match self.outward(site, nat + 1) {
                            Place::Core => self.carry(site, Way::Up, Place::Core, moving, now),
                            place => self.schedule(now, place, moving),
                        }
                    }
                    Verdict::Hairpin(packet) => {
                        moving.becomes(&packet);
                        let place = self.inward(site, nat, packet.destination.ip());
                        self.schedule(now, place, moving);
                    }
                    Verdict::Answer { answer, after } => {
                        let back = self.inward(site, nat, moving.datagram.source());
                        self.refuse(&moving.datagram, answer.refused, back, now + after);
                    }
                    Verdict::Drop(_) => {}
                }
            }
            Carries::Echo(id) => {
                customer.ping(nat, id, &mut moving.datagram);
                match self.outward(site, nat + 1) {
                    Place::Core => self.carry(site, Way::Up, Place::Core, moving, now),
                    place => self.schedule(now, place, moving),
                }
            }
            // ICMP errors from inside would need their quoted packet translated; nothing here needs them.
            Carries::IcmpError | Carries::Other => {}
        }
    }

    fn in_through(&mut self, site: usize, nat: usize, mut moving: Moving, now: Duration) {
        let customer = &mut self.customers[site];
        if !moving.datagram.pass(customer.nats[nat].spec().hops) {
            let router = customer.outside(moving.datagram.is_v6());
            let back = match self.outward(site, nat + 1) {
                Place::Core => Place::Core,
                // Errors between two NATs of one customer reach no host.
                _ => return,
            };
            return self.report(&moving.datagram, router, IcmpReason::Expired, back, now);
        }
        match moving.datagram.carries() {
            Carries::Flow(_) => {
                let Some(packet) = moving.datagram.model(moving.ports) else { return };
                match customer.nats[nat].inbound(packet, now) {
                    Verdict::Forward(packet) | Verdict::Hairpin(packet) => {
                        moving.becomes(&packet);
                        let place = self.inward(site, nat, packet.destination.ip());
                        self.schedule(now, place, moving);
                    }
                    Verdict::Answer { answer, after } => {
                        let back = self.outward(site, nat + 1);
                        self.refuse(&moving.datagram, answer.refused, back, now + after);
                    }
                    Verdict::Drop(_) => {}
                }
            }
            Carries::Echo(id) => {
                if customer.pong(nat, id, &mut moving.datagram) {
                    let place = self.inward(site, nat, moving.datagram.destination());
                    self.schedule(now, place, moving);
                }
            }
            Carries::IcmpError => {
                let Some((protocol, outside, remote)) = moving.datagram.quoted() else { return };
                if let Some(inside) = customer.nats[nat].inside_of(protocol, outside, remote, now) {
                    moving.datagram.redirect_error(inside);
                    let place = self.inward(site, nat, inside.ip());
                    self.schedule(now, place, moving);
                }
            }
            Carries::Other => {}
        }
    }

    /// Sends an ICMP error about a packet back to its sender.
    fn report(&mut self, about: &Datagram, router: IpAddr, reason: IcmpReason, back: Place, now: Duration) {
        self.answer(about.icmp(router, reason), back, now);
    }

    /// Refuses a TCP connection in the name of its destination.
    fn refuse(&mut self, about: &Datagram, refused: Refused, back: Place, at: Duration) {
        let bytes = match refused {
            Refused::Reset => about.reset(),
            Refused::Unreachable => about.icmp(about.destination(), IcmpReason::PortUnreachable),
        };
        self.answer(bytes, back, at);
    }

    fn answer(&mut self, bytes: Option<Vec<u8>>, back: Place, at: Duration) {
        if let Some(datagram) = bytes.and_then(Datagram::parse) {
            let ports = datagram.ports().unwrap_or_default();
            self.schedule(at, back, Moving { datagram, ports });
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

impl Customer {
    /// The host of the LAN that has this address.
    fn neighbour(&self, ip: IpAddr) -> Option<u8> {
        (0..self.hosts).find(|host| ip == self.site.host4(*host) || ip == self.site.host6(*host))
    }

    /// Whether packets for this address are routed to this site.
    fn owns(&self, ip: IpAddr) -> bool {
        let external = || self.nats.iter().any(|nat| nat.external().contains(&ip));
        match ip {
            IpAddr::V4(ip4) => {
                external() && !Site::is_carrier_realm(ip4)
                    || !self.site.translated && self.site.lan4().contains(ip)
            }
            IpAddr::V6(_) => self.site.lan6().contains(ip),
        }
    }

    /// The router's address on the LAN.
    fn router(&self, v6: bool) -> IpAddr {
        if v6 { self.site.router6().into() } else { self.site.router4().into() }
    }

    /// The router's address on the Internet.
    fn outside(&self, v6: bool) -> IpAddr {
        if v6 { self.site.wan6().into() } else { self.site.wan4().into() }
    }

    /// Translates an echo request; identifiers are kept, which is enough for a few hosts.
    fn ping(&mut self, nat: usize, id: u16, datagram: &mut Datagram) {
        let (inside, remote) = (datagram.source(), datagram.destination());
        if self.pings.len() >= MEMORY {
            self.pings.clear();
        }
        self.pings.insert((nat, id, remote), inside);
        if let Some(external) =
            self.nats[nat].external().first().filter(|ip| ip.is_ipv4() == inside.is_ipv4())
        {
            datagram.readdress(true, *external);
        }
    }

    /// Translates an echo reply; `false` when no internal host sent the request.
    fn pong(&mut self, nat: usize, id: u16, datagram: &mut Datagram) -> bool {
        let Some(inside) = self.pings.get(&(nat, id, datagram.source())) else { return false };
        datagram.readdress(false, *inside);
        true
    }
}
