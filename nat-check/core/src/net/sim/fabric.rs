//! The wiring of a simulated world: who is connected to whom, what is on its way, and what happens when it arrives.
//!
//! Everything is one value behind one lock. Whatever happens is an event with a time; events are worked off in the order
//! of their times before anybody looks at the world or sends, so that a NAT never sees time go back.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::{
    nat::{
        Mapping,
        model::{Nat, Packet, Protocol, Refused, TcpFlags, Verdict, spec::Serves},
    },
    port_mapping::{PCP_ANYCAST, PORT},
};

use super::{
    host::Host,
    line::{Line, Way},
    server::Server,
    tcp::Tcp,
    trace::{Entry, Fate, Place},
};

/// A NAT and what is above it.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) nat: Nat,
    /// Its own addresses on its inside.
    pub(super) lan: Vec<IpAddr>,
    /// The NAT above; none = the Internet.
    pub(super) parent: Option<usize>,
    /// The line to the Internet; none below another NAT.
    pub(super) line: Option<Line>,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Host(usize),
    Gate(usize),
    Server(usize),
    Echo,
}

/// A packet on its way.
#[derive(Debug)]
enum Leg {
    /// Arrives in the middle of the Internet.
    Core,
    /// Arrives from the Internet at this outermost NAT.
    Down(usize),
    /// Leaves this server.
    FromServer(usize),
    /// Is a NAT's own answer to the outside.
    FromGate(usize),
}

#[derive(Debug)]
struct Event {
    at: Duration,
    number: u64,
    leg: Leg,
    packet: Packet,
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Event {}

/// Everything there is.
#[derive(Debug)]
pub(super) struct Fabric {
    pub(super) now: Duration,
    events: BinaryHeap<Reverse<Event>>,
    numbered: u64,
    gates: Vec<Gate>,
    pub(super) hosts: Vec<Host>,
    pub(super) servers: Vec<Server>,
    /// Who has an address on the inside of a NAT, or on the Internet.
    places: BTreeMap<(Option<usize>, IpAddr), Target>,
    pub(super) tcp: Tcp,
    pub(super) datagrams: u64,
    tracing: bool,
    pub(super) trace: Vec<Entry>,
}

impl Fabric {
    pub(super) fn new(tracing: bool) -> Self {
        Self {
            now: Duration::ZERO,
            events: BinaryHeap::new(),
            numbered: 0,
            gates: Vec::new(),
            hosts: Vec::new(),
            servers: Vec::new(),
            places: BTreeMap::new(),
            tcp: Tcp::default(),
            datagrams: 0,
            tracing,
            trace: Vec::new(),
        }
    }

    pub(super) fn add_gate(&mut self, gate: Gate) -> usize {
        let number = self.gates.len();
        let (external, parent) = (gate.nat.external().to_vec(), gate.parent);
        self.gates.push(gate);
        for ip in external {
            self.announce(parent, ip, Target::Gate(number));
        }
        number
    }

    pub(super) fn add_host(&mut self, host: Host) -> usize {
        let number = self.hosts.len();
        for ip in host.ips.clone() {
            self.announce(Some(host.gate()), ip, Target::Host(number));
        }
        self.hosts.push(host);
        number
    }

    pub(super) fn add_server(&mut self, server: Server) {
        let number = self.servers.len();
        for ip in server.ips() {
            self.announce(None, ip, Target::Server(number));
        }
        self.servers.push(server);
    }

    pub(super) fn add_echo(&mut self, at: SocketAddr) {
        self.announce(None, at.ip(), Target::Echo);
    }

    /// Makes an address known in a realm, and above it through every NAT that does not translate it.
    fn announce(&mut self, realm: Option<usize>, ip: IpAddr, target: Target) {
        self.places.insert((realm, ip), target);
        let Some(gate) = realm else { return };
        let translates = self.gates[gate].nat.external().iter().any(|e| e.is_ipv4() == ip.is_ipv4());
        if !translates {
            self.announce(self.gates[gate].parent, ip, Target::Gate(gate));
        }
    }

    /// A NAT forgets everything, and may get another external address in place of all it had.
    pub(super) fn restart(&mut self, gate: usize, external: Option<IpAddr>, seed: u64) {
        let (old, parent) = (self.gates[gate].nat.external().to_vec(), self.gates[gate].parent);
        let new = external.map_or_else(|| old.clone(), |ip| vec![ip]);
        self.places.retain(|(realm, ip), _| *realm != parent || !old.contains(ip));
        self.gates[gate].nat = Nat::restarted(self.gates[gate].nat.spec().clone(), &new, seed, self.now);
        for ip in new {
            self.announce(parent, ip, Target::Gate(gate));
        }
    }

    /// Gives a NAT its own addresses on its inside.
    pub(super) fn set_lan(&mut self, gate: usize, lan: Vec<IpAddr>) {
        self.gates[gate].lan = lan;
    }

    /// The address that a host leaves its local network by, in the family of `like`.
    pub(super) fn gateway_of(&self, host: usize, like: IpAddr) -> Option<IpAddr> {
        let lan = &self.gates[self.hosts[host].gate()].lan;
        lan.iter().copied().find(|ip| ip.is_ipv4() == like.is_ipv4())
    }

    /// Whether IPv4 is translated anywhere above hosts of this NAT.
    pub(super) fn translated(&self, gate: usize) -> bool {
        let gate = &self.gates[gate];
        gate.nat.spec().udp.mapping != Mapping::Direct || gate.parent.is_some_and(|g| self.translated(g))
    }

    /// The one-way delay from a host to the middle of the Internet.
    pub(super) fn delay_of(&self, host: usize) -> Duration {
        let mut gate = self.hosts[host].gate();
        while let Some(above) = self.gates[gate].parent {
            gate = above;
        }
        self.gates[gate].line.as_ref().map_or(Duration::ZERO, Line::delay)
    }

    pub(super) fn next_event(&self) -> Option<Duration> {
        self.events.peek().map(|Reverse(event)| event.at)
    }

    /// Works off everything that is due.
    pub(super) fn pump(&mut self, now: Duration) {
        while self.next_event().is_some_and(|at| at <= now)
            && let Some(Reverse(event)) = self.events.pop()
        {
            self.now = self.now.max(event.at);
            let packet = event.packet;
            match event.leg {
                Leg::Core => self.arrive_in_core(packet),
                Leg::Down(gate) => self.descend(Target::Gate(gate), packet),
                Leg::FromServer(server) => {
                    self.note(Place::Server(server), Fate::Sent, &packet);
                    self.arrive_in_core(packet);
                }
                Leg::FromGate(gate) => self.leave(gate, packet),
            }
        }
        self.now = self.now.max(now);
    }

    /// A host sends.
    pub(super) fn send(&mut self, host: usize, packet: Packet) {
        self.datagrams += u64::from(packet.protocol == Protocol::Udp);
        self.note(Place::Host(host), Fate::Sent, &packet);
        if self.hosts[host].ips.contains(&packet.destination.ip()) {
            return self.deliver(host, packet);
        }
        self.climb(self.hosts[host].gate(), packet);
    }

    /// A packet on the inside of a NAT: to a neighbour, or out.
    fn climb(&mut self, gate: usize, mut packet: Packet) {
        if let Some(target) = self.places.get(&(Some(gate), packet.destination.ip())).copied() {
            return self.descend(target, packet);
        }
        // The first PCP server on the way is the carrier's, whoever that is.
        let Gate { nat, lan, .. } = &self.gates[gate];
        let is_anycast =
            packet.destination.ip() == PCP_ANYCAST && nat.spec().port_mapping.serves != Serves::Nothing;
        if is_anycast || lan.contains(&packet.destination.ip()) {
            return self.at_gateway(gate, packet);
        }
        // Nobody routes multicast, and nobody on these networks listens to it.
        if packet.destination.ip().is_multicast() {
            return self.note(Place::Gate(gate), Fate::Unreachable, &packet);
        }
        packet.ttl = self.gates[gate].nat.spec().hops.after(packet.ttl);
        if packet.ttl == 0 {
            return self.note(Place::Gate(gate), Fate::Expired, &packet);
        }
        let about = self.tracing.then(|| Entry::new(self.now, Place::Gate(gate), Fate::Outbound, &packet));
        match self.gates[gate].nat.outbound(packet, self.now) {
            Verdict::Forward(packet) => {
                self.note(Place::Gate(gate), Fate::Outbound, &packet);
                self.leave(gate, packet);
            }
            Verdict::Hairpin(packet) => {
                self.note(Place::Gate(gate), Fate::Hairpinned, &packet);
                match self.places.get(&(Some(gate), packet.destination.ip())).copied() {
                    Some(target) => self.descend(target, packet),
                    None => self.note(Place::Gate(gate), Fate::Unreachable, &packet),
                }
            }
            Verdict::Answer { answer, .. } => self.note(Place::Gate(gate), Fate::Refused, &answer.about),
            Verdict::Drop(reason) => {
                self.trace.extend(about.map(|e| Entry { fate: Fate::Dropped(reason), ..e }))
            }
        }
    }

    /// A packet for a NAT itself, from its inside: it may be asked to open a port.
    fn at_gateway(&mut self, gate: usize, packet: Packet) {
        let is_request = packet.protocol == Protocol::Udp && packet.destination.port() == PORT;
        let served = is_request.then(|| self.gates[gate].nat.serve(packet.source, &packet.payload, self.now));
        let Some(answer) = served.flatten() else {
            return self.note(Place::Gate(gate), Fate::Unreachable, &packet);
        };
        self.note(Place::Gate(gate), Fate::Received, &packet);
        let answer = Packet::udp(packet.destination, packet.source, answer);
        if let Some(target) = self.places.get(&(Some(gate), answer.destination.ip())).copied() {
            self.descend(target, answer);
        }
    }

    /// A packet on the outside of a NAT: into the realm above, or onto the line.
    fn leave(&mut self, gate: usize, mut packet: Packet) {
        if let Some(above) = self.gates[gate].parent {
            return self.climb(above, packet);
        }
        let Some(line) = &mut self.gates[gate].line else { return };
        if !count_down(&mut packet, line.hops()) {
            return self.note(Place::Line(gate), Fate::Expired, &packet);
        }
        if !line.lets_out(packet.destination.port()) {
            return self.note(Place::Line(gate), Fate::Lost, &packet);
        }
        self.carry(gate, Way::Up, packet);
    }

    fn carry(&mut self, gate: usize, way: Way, packet: Packet) {
        let Some(line) = &mut self.gates[gate].line else { return };
        // With the headers of IPv4 and UDP.
        let arrivals = line.carry(way, packet.payload.len() + 28, self.now);
        if arrivals == [None, None] {
            return self.note(Place::Line(gate), Fate::Lost, &packet);
        }
        for after in arrivals.into_iter().flatten() {
            let goal = match way {
                Way::Up => Leg::Core,
                Way::Down => Leg::Down(gate),
            };
            self.schedule(after, goal, packet.clone());
        }
    }

    fn arrive_in_core(&mut self, mut packet: Packet) {
        match self.places.get(&(None, packet.destination.ip())).copied() {
            None | Some(Target::Host(_)) => self.note(Place::Core, Fate::Unreachable, &packet),
            Some(Target::Server(server)) => self.serve(server, &packet),
            Some(Target::Echo) => {
                std::mem::swap(&mut packet.source, &mut packet.destination);
                packet.ttl = 64;
                if packet.protocol == Protocol::Udp {
                    self.arrive_in_core(packet);
                }
            }
            Some(Target::Gate(gate)) => {
                let hops = self.gates[gate].line.as_ref().map_or(0, Line::hops);
                if count_down(&mut packet, hops) {
                    self.carry(gate, Way::Down, packet);
                } else {
                    self.note(Place::Line(gate), Fate::Expired, &packet);
                }
            }
        }
    }

    /// A packet on its way in.
    fn descend(&mut self, target: Target, mut packet: Packet) {
        let gate = match target {
            Target::Gate(gate) => gate,
            Target::Host(host) => return self.deliver(host, packet),
            // Servers are on the Internet only.
            Target::Server(_) | Target::Echo => return,
        };
        packet.ttl = self.gates[gate].nat.spec().hops.after(packet.ttl);
        if packet.ttl == 0 {
            return self.note(Place::Gate(gate), Fate::Expired, &packet);
        }
        let about = self.tracing.then(|| Entry::new(self.now, Place::Gate(gate), Fate::Inbound, &packet));
        match self.gates[gate].nat.inbound(packet, self.now) {
            Verdict::Forward(packet) | Verdict::Hairpin(packet) => {
                self.note(Place::Gate(gate), Fate::Inbound, &packet);
                match self.places.get(&(Some(gate), packet.destination.ip())).copied() {
                    Some(target) => self.descend(target, packet),
                    None => self.note(Place::Gate(gate), Fate::Unreachable, &packet),
                }
            }
            Verdict::Drop(reason) => {
                self.trace.extend(about.map(|e| Entry { fate: Fate::Dropped(reason), ..e }))
            }
            Verdict::Answer { answer, after } => {
                self.note(Place::Gate(gate), Fate::Refused, &answer.about);
                let said: &[u8] = match answer.refused {
                    Refused::Reset => b"",
                    Refused::Unreachable => b"port unreachable",
                };
                let reply =
                    Packet::tcp(answer.about.destination, answer.about.source, TcpFlags::RST, said.to_vec());
                self.schedule(after, Leg::FromGate(gate), reply);
            }
        }
    }

    fn deliver(&mut self, host: usize, packet: Packet) {
        if packet.protocol == Protocol::Tcp {
            return self.tcp_at_host(host, &packet);
        }
        let v4 = packet.destination.is_ipv4();
        let Some(inbox) = self.hosts[host].socket(v4, packet.destination.port()) else {
            return self.note(Place::Host(host), Fate::Unreachable, &packet);
        };
        self.note(Place::Host(host), Fate::Received, &packet);
        inbox.put(packet.source, packet.payload);
    }

    fn serve(&mut self, number: usize, packet: &Packet) {
        if packet.protocol == Protocol::Tcp {
            return self.tcp_at_server(number, packet);
        }
        let server = &mut self.servers[number];
        match server.datagram(packet.destination, packet.source, &packet.payload, self.now) {
            Err(why) => self.note(Place::Server(number), Fate::Unanswered(why), packet),
            Ok(answers) => {
                for answer in answers {
                    let reply = Packet::udp(answer.from, answer.to, answer.bytes);
                    self.answer_from(number, answer.after, reply);
                }
            }
        }
    }

    pub(super) fn answer_from(&mut self, number: usize, after: Duration, packet: Packet) {
        self.schedule(after, Leg::FromServer(number), packet);
    }

    fn schedule(&mut self, after: Duration, leg: Leg, packet: Packet) {
        self.numbered += 1;
        self.events.push(Reverse(Event { at: self.now + after, number: self.numbered, leg, packet }));
    }

    pub(super) fn note(&mut self, place: Place, fate: Fate, packet: &Packet) {
        if self.tracing {
            self.trace.push(Entry::new(self.now, place, fate, packet));
        }
    }
}

/// Counts hops off the time to live; false when it does not reach so far.
fn count_down(packet: &mut Packet, hops: u8) -> bool {
    packet.ttl = packet.ttl.saturating_sub(hops);
    packet.ttl > 0
}
