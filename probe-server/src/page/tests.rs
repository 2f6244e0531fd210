//! A measurement against a browser that is simulated: every kind of mapping and filter, loss, forgery, in virtual time.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use shared::{
    nat::{Filtering, Mapping},
    stun::{
        Class, TransactionId, View, Writer, attr,
        ice::{self, Credentials},
    },
};

use super::{
    filter_test::Filter,
    message::{Base, FromPage, HairpinState, LocalType, Pair, ToPage},
    session::{Received, Session, Transmit},
};
use crate::{last_heard::Unheard, topology::Endpoint};

const MS: Duration = Duration::from_millis(1);
/// Each way.
const DELAY: Duration = Duration::from_millis(25);
/// A browser checks each of its pairs this often while nobody answers.
const CHECK_INTERVAL: Duration = Duration::from_millis(150);

fn endpoints() -> [Option<SocketAddr>; 4] {
    ["198.51.100.10:3480", "198.51.100.10:3481", "198.51.100.11:3480", "198.51.100.11:3481"]
        .map(|at| at.parse().ok())
}

/// The NAT in front of the browser.
#[derive(Clone, Copy, Debug)]
struct Nat {
    mapping: Mapping,
    filtering: Filtering,
    loss: f64,
}

/// One of the browser's connections: one socket.
#[derive(Default)]
struct Side {
    own: Option<Credentials>,
    server: Option<Credentials>,
    candidates: BTreeSet<usize>,
    next: Duration,
}

/// A browser, its NAT and the way to the server.
struct World {
    session: Session,
    nat: Nat,
    sides: Vec<Side>,
    /// External port by socket and what the mapping depends on.
    ports: BTreeMap<(usize, usize), u16>,
    /// Endpoints that each socket has sent to.
    contacted: BTreeSet<(usize, usize)>,
    /// On the way: to the server (socket, endpoint) or to the browser.
    up: Vec<(Duration, usize, usize, Vec<u8>)>,
    down: Vec<(Duration, Transmit)>,
    sent: usize,
    rng: fastrand::Rng,
    now: Duration,
}

impl World {
    fn new(nat: Nat, seed: u64) -> Self {
        let session = Session::new(7, &[seed as u8; 32], vec![endpoints()], Vec::new(), Duration::ZERO);
        let sides = (0..10).map(|_| Side::default()).collect();
        let rng = fastrand::Rng::with_seed(seed);
        let (up, down) = (Vec::new(), Vec::new());
        let (ports, contacted) = (BTreeMap::new(), BTreeSet::new());
        let mut world =
            Self { session, nat, sides, ports, contacted, up, down, sent: 0, rng, now: Duration::ZERO };
        world.offer();
        world
    }

    /// Everything that the page says of its own accord.
    fn offer(&mut self) {
        for number in 0..10 {
            let own =
                Credentials { ufrag: format!("brow{number}"), password: format!("{number}").repeat(24) };
            let offer = FromPage::Offer {
                connection: number,
                ufrag: own.ufrag.clone(),
                password: own.password.clone(),
            };
            self.sides[number].own = Some(own);
            self.session.message(offer, self.now).unwrap();
            let bases = vec![Base { priority: 0x7e00_1eff, port: 50_000 + number as u16 }];
            self.session.message(FromPage::Gathered { connection: number, bases }, self.now).unwrap();
        }
        let none = FromPage::Hairpin { state: HairpinState::NoAddress };
        self.session.message(none, self.now).unwrap();
    }

    /// Runs to the end; the time that it took.
    fn run(&mut self) -> Duration {
        while self.session.outcome().is_none() {
            assert!(self.now < Duration::from_secs(11), "it never ends");
            self.step();
            self.now += MS;
        }
        self.now
    }

    fn step(&mut self) {
        for message in self.session.told() {
            self.hear(message);
        }
        for transmit in self.session.transmits() {
            self.sent += 1;
            if self.rng.f64() >= self.nat.loss {
                self.down.push((self.now + DELAY, transmit));
            }
        }
        self.check();
        let due = |at: Duration, now: Duration| at <= now;
        let now = self.now;
        let (come, rest): (Vec<_>, Vec<_>) = self.down.drain(..).partition(|(at, _)| due(*at, now));
        self.down = rest;
        come.into_iter().for_each(|(_, transmit)| self.arrive_below(&transmit));
        let (come, rest): (Vec<_>, Vec<_>) = self.up.drain(..).partition(|(at, ..)| due(*at, now));
        self.up = rest;
        for (_, socket, end, bytes) in come {
            let from = self.external(socket, end);
            let at = Endpoint::ALL[end];
            let received = Received { family: 0, at, from, bytes: &bytes, unheard: Unheard(600) };
            self.session.datagram(received, now);
        }
        self.session.advance(now);
    }

    fn hear(&mut self, message: ToPage) {
        let place = |lines: &[String]| -> Vec<usize> {
            let ends = endpoints();
            let of = |line: &String| {
                let parts: Vec<_> = line.split(' ').collect();
                let at: SocketAddr = format!("{}:{}", parts[4], parts[5]).parse().unwrap();
                ends.iter().position(|end| *end == Some(at)).unwrap()
            };
            lines.iter().map(of).collect()
        };
        match message {
            ToPage::Answer { connection, ufrag, password, candidates, .. } => {
                self.sides[connection].server = Some(Credentials { ufrag, password });
                self.sides[connection].candidates.extend(place(&candidates));
                self.session.message(FromPage::Ready, self.now).unwrap();
            }
            ToPage::Candidates { connection, candidates } => {
                self.sides[connection].candidates.extend(place(&candidates));
            }
            _ => {}
        }
    }

    /// The browser checks all pairs that it knows.
    fn check(&mut self) {
        for socket in 0..self.sides.len() {
            let side = &mut self.sides[socket];
            let (Some(own), Some(server)) = (&side.own, &side.server) else { continue };
            if self.now < side.next {
                continue;
            }
            side.next = self.now + CHECK_INTERVAL;
            let id = TransactionId::modern(&mut self.rng);
            let mut buffer = [0; 256];
            let length = ice::write_check(&mut buffer, &id, &own.ufrag, server, 0x6e00_1eff, 1).unwrap();
            for end in side.candidates.clone() {
                self.send(socket, end, buffer[..length].to_vec());
            }
        }
    }

    fn send(&mut self, socket: usize, end: usize, bytes: Vec<u8>) {
        self.contacted.insert((socket, end));
        self.external(socket, end);
        if self.rng.f64() >= self.nat.loss {
            self.up.push((self.now + DELAY, socket, end, bytes));
        }
    }

    fn external(&mut self, socket: usize, end: usize) -> SocketAddr {
        let key = match self.nat.mapping {
            Mapping::Direct => return SocketAddr::from(([203, 0, 113, 1], 50_000 + socket as u16)),
            Mapping::EndpointIndependent => 0,
            Mapping::AddressDependent => end >> 1,
            Mapping::PortDependent => end & 1,
            Mapping::AddressAndPortDependent => end,
        };
        let next = 20_000 + self.rng.u16(..40_000);
        SocketAddr::from(([203, 0, 113, 1], *self.ports.entry((socket, key)).or_insert(next)))
    }

    /// A datagram of the server's at the NAT: the filter decides, the browser answers.
    fn arrive_below(&mut self, transmit: &Transmit) {
        let end = transmit.from.index();
        let Some(socket) =
            (0..10).find(|socket| (0..4).any(|e| self.external_if(*socket, e) == Some(transmit.to)))
        else {
            return;
        };
        let passes =
            (0..4).filter(|e| self.contacted.contains(&(socket, *e))).any(|e| match self.nat.filtering {
                Filtering::EndpointIndependent => true,
                Filtering::AddressDependent => e >> 1 == end >> 1,
                Filtering::PortDependent => e & 1 == end & 1,
                Filtering::AddressAndPortDependent => e == end,
            });
        let view = View::parse(&transmit.bytes).unwrap();
        if !passes {
            return;
        }
        if view.class() == Class::Success {
            let is_direct = self.nat.mapping == Mapping::Direct;
            let local = if is_direct { LocalType::Host } else { LocalType::Prflx };
            let pairs = vec![Pair { remote: "198.51.100.10".parse().unwrap(), local }];
            return self.session.message(FromPage::Pairs { pairs }, self.now).unwrap();
        }
        let own = self.sides[socket].own.clone().unwrap();
        assert!(ice::is_authentic(&view, &own.password), "the server's checks are authentic");
        let mut buffer = [0; 256];
        let length = ice::write_response(&mut buffer, &view.id(), transmit.to, &own.password).unwrap();
        self.send(socket, end, buffer[..length].to_vec());
    }

    fn external_if(&self, socket: usize, end: usize) -> Option<SocketAddr> {
        let key = match self.nat.mapping {
            Mapping::Direct => return Some(SocketAddr::from(([203, 0, 113, 1], 50_000 + socket as u16))),
            Mapping::EndpointIndependent => 0,
            Mapping::AddressDependent => end >> 1,
            Mapping::PortDependent => end & 1,
            Mapping::AddressAndPortDependent => end,
        };
        self.ports.get(&(socket, key)).map(|port| SocketAddr::from(([203, 0, 113, 1], *port)))
    }
}

const MAPPINGS: [Mapping; 5] = [
    Mapping::Direct,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
    Mapping::PortDependent,
];
const FILTERINGS: [Filtering; 4] = [
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
    Filtering::PortDependent,
];

#[test]
fn every_nat_is_found_to_be_what_it_is() {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            let mut world = World::new(Nat { mapping, filtering, loss: 0.0 }, 1);
            let took = world.run();
            let observed = world.session.outcome().unwrap();
            assert_eq!(observed.mapping(0), Ok(mapping), "{mapping} {filtering}");
            assert_eq!(observed.paths[0].found, Some(Filter::Known(filtering)), "{mapping} {filtering}");
            assert!(took < Duration::from_millis(1500), "{took:?}");
            assert!(world.sent <= 150, "{} datagrams", world.sent);
        }
    }
}

#[test]
fn loss_leaves_it_open_and_never_makes_it_wrong() {
    for loss in [0.1, 0.3] {
        let (mut known, mut all, mut most) = (0, 0, 0);
        for seed in 0..6 {
            for mapping in MAPPINGS {
                for filtering in FILTERINGS {
                    let mut world = World::new(Nat { mapping, filtering, loss }, seed);
                    world.run();
                    let observed = world.session.outcome().unwrap();
                    if let Ok(found) = observed.mapping(0) {
                        assert_eq!(found, mapping, "{filtering} seed {seed}");
                    }
                    if let Some(Filter::Known(found)) = observed.paths[0].found {
                        assert_eq!(found, filtering, "{mapping} seed {seed}");
                        known += 1;
                    }
                    all += 1;
                    most = most.max(world.sent);
                }
            }
        }
        println!(
            "loss {loss} each way: the filter is known in {known} of {all} runs; at most {most} datagrams"
        );
        assert!(most <= 150);
        assert!(loss > 0.1 || known * 10 >= all * 9, "{known} of {all}");
    }
}

/// Whoever did not answer from an address gets one datagram there for each that came, and no longer one.
#[test]
fn an_address_that_is_not_proven_gets_no_more_than_it_sent() {
    let mut session = Session::new(7, &[1; 32], vec![endpoints()], Vec::new(), Duration::ZERO);
    let own = Credentials { ufrag: "brow".into(), password: "p".repeat(24) };
    for connection in [0, 2] {
        let (ufrag, password) = (own.ufrag.clone(), own.password.clone());
        session.message(FromPage::Offer { connection, ufrag, password }, Duration::ZERO).unwrap();
    }
    let answers: Vec<Credentials> = session
        .told()
        .into_iter()
        .filter_map(|told| match told {
            ToPage::Answer { ufrag, password, .. } => Some(Credentials { ufrag, password }),
            _ => None,
        })
        .collect();
    let victim: SocketAddr = "192.0.2.66:4000".parse().unwrap();
    let (mut came, mut left) = (0, 0);
    let mut now = Duration::ZERO;
    for round in 0..2000 {
        now += 5 * MS;
        let server = &answers[round % 2];
        let mut buffer = [0; 256];
        let id = TransactionId::modern(&mut fastrand::Rng::with_seed(round as u64));
        let length = ice::write_check(&mut buffer, &id, &own.ufrag, server, 0x6e00_1eff, 1).unwrap();
        came += length;
        let at = Endpoint::ALL[round % 3];
        let bytes = &buffer[..length];
        session.datagram(Received { family: 0, at, from: victim, bytes, unheard: Unheard(600) }, now);
        session.advance(now);
        for transmit in session.transmits() {
            assert_eq!((transmit.to, transmit.from), (victim, Endpoint::Primary));
            left += transmit.bytes.len();
        }
    }
    println!("{came} bytes in the name of a victim, {left} bytes to it");
    assert!(left <= came && session.outcome().is_some());
}

/// Without both passwords there is nothing to be had: wrong ones, another session's, bare requests, replayed answers.
#[test]
fn what_is_not_authentic_gets_nothing() {
    let mut world = World::new(
        Nat { mapping: Mapping::EndpointIndependent, filtering: Filtering::EndpointIndependent, loss: 0.0 },
        1,
    );
    world.step();
    let server = world.sides[0].server.clone();
    world.session.transmits();
    let stranger: SocketAddr = "192.0.2.66:4000".parse().unwrap();
    let mut forged: Vec<Vec<u8>> = Vec::new();
    let id = TransactionId::modern_from([1; 12]);
    let mut write = |peer: &Credentials, own: &str| {
        let mut buffer = [0; 256];
        let length = ice::write_check(&mut buffer, &id, own, peer, 0x6e00_1eff, 1).unwrap();
        forged.push(buffer[..length].to_vec());
    };
    let ufrag = server.map_or("000000070".to_owned(), |server| server.ufrag);
    write(&Credentials { ufrag: ufrag.clone(), password: "wrong".repeat(6) }, "brow0");
    write(&Credentials { ufrag, password: "0".repeat(24) }, "else");
    let mut buffer = [0; 64];
    let length =
        Writer::new(&mut buffer, Class::Request, &id).u32(attr::PRIORITY, 1).fingerprint().finish().unwrap();
    forged.push(buffer[..length].to_vec());
    let mut buffer = [0; 256];
    let length = ice::write_response(&mut buffer, &id, stranger, &"0".repeat(24)).unwrap();
    forged.push(buffer[..length].to_vec());
    for bytes in &forged {
        for at in Endpoint::ALL {
            let received = Received { family: 0, at, from: stranger, bytes, unheard: Unheard(600) };
            world.session.datagram(received, world.now);
            world.session.advance(world.now);
            assert_eq!(world.session.transmits(), []);
        }
    }
}

#[test]
fn nonsense_of_the_page_is_refused() {
    let mut session = Session::new(7, &[1; 32], vec![endpoints()], Vec::new(), Duration::ZERO);
    let offer = |connection, ufrag: &str, password: String| FromPage::Offer {
        connection,
        ufrag: ufrag.into(),
        password,
    };
    assert!(
        session.message(offer(10, "brow", "p".repeat(24)), Duration::ZERO).is_err(),
        "no such connection"
    );
    assert!(session.message(offer(0, "b", "p".repeat(24)), Duration::ZERO).is_err(), "too short");
    assert!(
        session.message(offer(0, "brow:x", "p".repeat(24)), Duration::ZERO).is_err(),
        "no such character"
    );
    assert!(session.message(offer(0, "brow", "p".repeat(24)), Duration::ZERO).is_ok());
    assert!(session.message(offer(0, "brow", "p".repeat(24)), Duration::ZERO).is_err(), "twice");
    let pair = |remote: &str| Pair { remote: remote.parse().unwrap(), local: LocalType::Host };
    assert!(session.message(FromPage::Pairs { pairs: vec![pair("192.0.2.1")] }, Duration::ZERO).is_err());
}

#[test]
fn a_browser_that_never_comes_is_not_waited_for() {
    let mut session = Session::new(7, &[1; 32], vec![endpoints()], Vec::new(), Duration::ZERO);
    let mut now = Duration::ZERO;
    while session.outcome().is_none() {
        now = session.deadline(now);
        session.advance(now);
    }
    assert!(now <= Duration::from_secs(10));
}
