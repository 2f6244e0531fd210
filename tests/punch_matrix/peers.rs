//! Two peers behind modelled NATs, who do what a strategy says. Packets arrive at once and none is lost: what is tested are
//! the rules and the chances, not the patience.

use std::{
    collections::{HashSet, VecDeque},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use nat_check_core::verdict::predict::{Behaviour, Budget, Mutual, Next, Ports, Strategy, Tries, Who};
use shared::nat::{
    Filtering, Mapping, PortPolicy,
    model::{
        Nat, NatSpec, Packet, Verdict,
        spec::{Keying, Rules},
    },
};

const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)), 3478);
const CROSS_TRAFFIC: f64 = 10.0;
const RANGE: (u16, u16) = (1024, 65535);
const BLOCK: u16 = 512;

/// One side of a cell: the NAT, and what the prediction is told of it.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) spec: NatSpec,
    pub(super) side: Behaviour,
    policy: PortPolicy,
}

impl Class {
    pub(super) fn new(mapping: Mapping, filtering: Filtering, keying: Keying, policy: PortPolicy) -> Self {
        let udp = Rules { blocked: false, mapping, filtering };
        let mut spec = NatSpec { udp, keyed: keying, ..NatSpec::default() };
        spec.ports.policy = policy;
        spec.ports.range = RANGE;
        spec.ports.block = BLOCK;
        spec.ports.cross_traffic = CROSS_TRAFFIC;
        let all = u32::from(RANGE.1 - RANGE.0) + 1;
        let ports = match policy {
            PortPolicy::Preserving => Ports { next: Next::Local, range: all, ..Ports::ANYWHERE },
            PortPolicy::Sequential => {
                Ports { next: Next::Step { cross_traffic: CROSS_TRAFFIC }, range: all, ..Ports::ANYWHERE }
            }
            PortPolicy::Random => Ports { next: Next::Anywhere, range: all, ..Ports::ANYWHERE },
            PortPolicy::Block => Ports { next: Next::Anywhere, range: u32::from(BLOCK), ..Ports::ANYWHERE },
        };
        Self { spec, side: Behaviour { mapping, filtering, keying, ports }, policy }
    }

    fn spends_ports(&self) -> bool {
        matches!(self.side.mapping, Mapping::AddressAndPortDependent | Mapping::PortDependent)
    }
}

/// A peer behind its NAT.
struct Peer {
    class: Class,
    nat: Nat,
    host: IpAddr,
    outside: IpAddr,
    used: HashSet<u16>,
}

/// Two peers, and the wire between them.
pub(super) struct Pair {
    peers: [Peer; 2],
    now: Duration,
    rng: fastrand::Rng,
    /// Whether an answer came back to who had sent first.
    met: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Probe,
    Answer,
}

impl Pair {
    pub(super) fn new(a: &Class, b: &Class, seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut peer = |class: &Class, n: u8| {
            let outside = IpAddr::V4(Ipv4Addr::new(203, 0, 113, n));
            let translated = class.side.mapping != Mapping::Direct;
            let host = if translated { IpAddr::V4(Ipv4Addr::new(192, 168, n, 2)) } else { outside };
            let external: &[IpAddr] = if translated { &[outside] } else { &[] };
            let nat = Nat::new(class.spec.clone(), external, rng.u64(..));
            Peer { class: class.clone(), nat, host, outside, used: HashSet::new() }
        };
        let peers = [peer(a, 1), peer(b, 2)];
        Self { peers, now: Duration::ZERO, rng, met: false }
    }

    fn peer(&mut self, who: Who) -> &mut Peer {
        &mut self.peers[who as usize]
    }

    fn class(&self, who: Who) -> &Class {
        &self.peers[who as usize].class
    }

    /// A fresh socket, by its local port.
    fn socket(&mut self, who: Who) -> u16 {
        loop {
            let port = self.rng.u16(20_000..60_000);
            if self.peer(who).used.insert(port) {
                return port;
            }
        }
    }

    /// The endpoint that the server sees.
    fn sample(&mut self, who: Who, socket: u16) -> SocketAddr {
        let now = self.now;
        let peer = self.peer(who);
        let packet = Packet::udp(SocketAddr::new(peer.host, socket), SERVER, Vec::new());
        match peer.nat.outbound(packet, now) {
            Verdict::Forward(packet) => packet.source,
            other => panic!("no way to the server: {other:?}"),
        }
    }

    /// Sends, and lets everybody answer what comes in, once.
    fn send(&mut self, who: Who, socket: u16, to: SocketAddr) {
        let mut wire = VecDeque::from([(who, socket, to, Kind::Probe)]);
        while let Some((who, socket, to, kind)) = wire.pop_front() {
            let now = self.now;
            let peer = self.peer(who);
            let packet = Packet::udp(SocketAddr::new(peer.host, socket), to, Vec::new());
            let Verdict::Forward(packet) = peer.nat.outbound(packet, now) else { continue };
            let other = self.peer(who.other());
            if packet.destination.ip() != other.outside {
                continue;
            }
            let Verdict::Forward(packet) = other.nat.inbound(packet, now) else { continue };
            let at = packet.destination.port();
            if !other.used.contains(&at) {
                continue;
            }
            match kind {
                Kind::Probe => wire.push_back((who.other(), at, packet.source, Kind::Answer)),
                Kind::Answer => self.met = true,
            }
        }
    }

    fn outside(&mut self, who: Who, port: u16) -> SocketAddr {
        SocketAddr::new(self.peer(who).outside, port)
    }

    /// Does what the strategy says; whether the two met.
    pub(super) fn follow(&mut self, strategy: Strategy, budget: &Budget) -> bool {
        match strategy {
            Strategy::OneSends(who) => self.plain(&[who]),
            Strategy::BothSend => {
                let order = if self.rng.bool() { [Who::A, Who::B] } else { [Who::B, Who::A] };
                self.plain(&order);
            }
            Strategy::PredictOne { hard, ports } => {
                self.rounds(budget, |pair| pair.window(hard, ports, budget))
            }
            Strategy::Birthday { hard, sockets, guesses } => self.birthday(hard, sockets, guesses),
            Strategy::PredictBoth(order) => self.rounds(budget, |pair| pair.mutual(order, budget)),
            Strategy::GuessBoth { a, b } => self.crossed(a, b, budget),
            Strategy::Tcp(_) | Strategy::Relay(_) => {}
        }
        self.met
    }

    fn rounds(&mut self, budget: &Budget, mut round: impl FnMut(&mut Self)) {
        for _ in 0..budget.rounds {
            if !self.met {
                round(self);
            }
        }
    }

    /// Each of these sends to the other's known endpoint, a few times.
    fn plain(&mut self, senders: &[Who]) {
        let sockets = [self.socket(Who::A), self.socket(Who::B)];
        let known = [self.sample(Who::A, sockets[0]), self.sample(Who::B, sockets[1])];
        for _ in 0..3 {
            for &who in senders {
                self.send(who, sockets[who as usize], known[who.other() as usize]);
            }
        }
    }

    fn window(&mut self, hard: Who, ports: u32, budget: &Budget) {
        let guesser = hard.other();
        let (easy_socket, hard_socket) = (self.socket(guesser), self.socket(hard));
        let known = self.sample(guesser, easy_socket);
        let next = self.forecast(hard, &[hard_socket], budget);
        self.send(hard, hard_socket, known);
        for n in 0..ports {
            let to = self.outside(hard, next.port(n));
            self.send(guesser, easy_socket, to);
        }
        self.send(hard, hard_socket, known);
    }

    fn birthday(&mut self, hard: Who, sockets: u32, guesses: u32) {
        let guesser = hard.other();
        let easy_socket = self.socket(guesser);
        let known = self.sample(guesser, easy_socket);
        let range = self.range(hard);
        let open: Vec<u16> = (0..sockets).map(|_| self.socket(hard)).collect();
        let guesses = self.rng.choose_multiple(range.0..=range.1, guesses as usize);
        open.iter().for_each(|&socket| self.send(hard, socket, known));
        for port in guesses {
            let to = self.outside(hard, port);
            self.send(guesser, easy_socket, to);
        }
        open.iter().for_each(|&socket| self.send(hard, socket, known));
    }

    fn mutual(&mut self, order: Mutual, budget: &Budget) {
        let count = |pair: &Self, who, packets: u32| match pair.class(who).policy {
            // The first packet of a socket only goes where it was promised to.
            PortPolicy::Preserving if pair.class(who).spends_ports() => packets,
            _ => 1,
        };
        let of_a = count(self, Who::A, order.a.max(order.b));
        let of_b = count(self, Who::B, order.b.max(order.a * order.stride));
        let sockets_a: Vec<u16> = (0..of_a).map(|_| self.socket(Who::A)).collect();
        let sockets_b: Vec<u16> = (0..of_b).map(|_| self.socket(Who::B)).collect();
        let samples = (self.last_port(Who::A, &sockets_a), self.last_port(Who::B, &sockets_b));
        self.now += Duration::from_secs_f64(budget.gap_s);
        let next_a = Forecast::new(samples.0, &sockets_a);
        let next_b = Forecast::new(samples.1, &sockets_b);
        let from_a = |pair: &mut Self| {
            for n in 0..order.a {
                let to = pair.outside(Who::B, next_b.port(n * order.stride));
                pair.send(Who::A, sockets_a[n as usize % sockets_a.len()], to);
            }
        };
        let from_b = |pair: &mut Self| {
            for n in 0..order.b {
                let to = pair.outside(Who::A, next_a.port(n));
                pair.send(Who::B, sockets_b[n as usize % sockets_b.len()], to);
            }
        };
        if self.rng.bool() {
            from_a(self);
            from_b(self);
        } else {
            from_b(self);
            from_a(self);
        }
    }

    fn crossed(&mut self, a: Tries, b: Tries, budget: &Budget) {
        let sockets_a: Vec<u16> = (0..a.sockets).map(|_| self.socket(Who::A)).collect();
        let sockets_b: Vec<u16> = (0..b.sockets).map(|_| self.socket(Who::B)).collect();
        let ranges = (self.range(Who::A), self.range(Who::B));
        let next_a = self.is_predictable(Who::A).then(|| self.forecast(Who::A, &sockets_a, budget));
        let next_b = self.is_predictable(Who::B).then(|| self.forecast(Who::B, &sockets_b, budget));
        let mut targets = |next: Option<Forecast>, range: (u16, u16), tries: Tries| -> Vec<u16> {
            match next {
                Some(next) => (0..tries.ports).map(|n| next.port(n)).collect(),
                None => self.rng.choose_multiple(range.0..=range.1, tries.ports as usize),
            }
        };
        let at_b = targets(next_b, ranges.1, a);
        let at_a = targets(next_a, ranges.0, b);
        let sends = |who: Who, sockets: &[u16], ports: &[u16]| -> Vec<(Who, u16, u16)> {
            sockets.iter().flat_map(|&s| ports.iter().map(move |&port| (who, s, port))).collect()
        };
        let (mut first, mut second) = (sends(Who::A, &sockets_a, &at_b), sends(Who::B, &sockets_b, &at_a));
        if self.rng.bool() {
            std::mem::swap(&mut first, &mut second);
        }
        for (who, socket, port) in first.into_iter().chain(second) {
            let to = self.outside(who.other(), port);
            self.send(who, socket, to);
        }
    }

    fn is_predictable(&self, who: Who) -> bool {
        matches!(self.class(who).policy, PortPolicy::Preserving | PortPolicy::Sequential)
    }

    /// Samples, and lets the time pass that telling the other side takes.
    fn forecast(&mut self, who: Who, sockets: &[u16], budget: &Budget) -> Forecast {
        let last = self.last_port(who, sockets);
        self.now += Duration::from_secs_f64(budget.gap_s);
        Forecast::new(last, sockets)
    }

    /// The external port of a sequential NAT as of now; a preserving one needs no sample, and would be spoilt by it.
    fn last_port(&mut self, who: Who, sockets: &[u16]) -> Option<u16> {
        let sequential = self.class(who).policy == PortPolicy::Sequential;
        sequential.then(|| self.sample(who, sockets[0]).port())
    }

    /// Where the random ports of a NAT are: everywhere, or in the block that a sample shows.
    fn range(&mut self, who: Who) -> (u16, u16) {
        if self.class(who).policy != PortPolicy::Block {
            return RANGE;
        }
        let socket = self.socket(who);
        let port = self.sample(who, socket).port();
        let first = RANGE.0 + (port - RANGE.0) / BLOCK * BLOCK;
        (first, first + (BLOCK - 1))
    }
}

/// The ports that come next.
enum Forecast {
    After(u16),
    Own(Vec<u16>),
}

impl Forecast {
    fn new(last: Option<u16>, sockets: &[u16]) -> Self {
        last.map_or_else(|| Self::Own(sockets.to_vec()), Self::After)
    }

    fn port(&self, n: u32) -> u16 {
        match self {
            Self::After(last) => {
                let count = u32::from(RANGE.1 - RANGE.0) + 1;
                let offset = (u32::from(last - RANGE.0) + 1 + n) % count;
                RANGE.0 + u16::try_from(offset).expect("within the range")
            }
            Self::Own(sockets) => sockets[n as usize % sockets.len()],
        }
    }
}
