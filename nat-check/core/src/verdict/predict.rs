//! Can two sides punch, by which technique, and with what chance? For any pair of mapping, filtering, what a filter
//! entry belongs to, and port allocation (RFC 5128 section 3.3, and beyond it).
//!
//! Each side has a *known* endpoint: the one that a server saw. A packet from X to Y gets through if it names an
//! endpoint of Y that is open, and comes from one that Y's filter accepts. So each direction asks for up to two
//! guesses: of the port that Y has open towards X (when Y's mapping moves with the destination and its filter
//! belongs to the mapping), and of the port that X sends from (when X's mapping moves and Y's filter looks at
//! ports). No guess in one direction: plain punching works, since an answer to what came in takes the way back.
//! One guess: one side opens ports, the other guesses. Two: both guess at once.

mod ports;
pub mod tcp;
#[cfg(test)]
mod tests;
mod why;

use shared::nat::{Filtering, Keying, Mapping};

pub use ports::{Addresses, CROSS_TRAFFIC, Next, Ports, ports_to_try};

use super::odds;
use crate::report::{PeerOutcome, Technique};

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Side {
    /// No UDP; TCP at best.
    UdpBlocked,
    /// UDP passes.
    Udp(Behaviour),
}

/// How UDP passes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Behaviour {
    /// RFC 4787 section 4.1.
    pub mapping: Mapping,
    /// RFC 4787 section 5.
    pub filtering: Filtering,
    /// What a filter entry belongs to.
    pub keying: Keying,
    /// Which port the next mapping gets.
    pub ports: Ports,
}

impl Side {
    /// Its external addresses, where it has UDP.
    #[must_use]
    pub fn addresses(self) -> Option<Addresses> {
        match self {
            Self::Udp(behaviour) => Some(behaviour.ports.addresses),
            Self::UdpBlocked => None,
        }
    }
}

impl Behaviour {
    /// Whether every destination sees the same external endpoint.
    fn is_fixed(self) -> bool {
        matches!(self.mapping, Mapping::Direct | Mapping::EndpointIndependent)
    }

    /// Whether each port that is sent to costs a mapping of its own.
    fn spends_ports(self) -> bool {
        matches!(self.mapping, Mapping::AddressAndPortDependent | Mapping::PortDependent)
    }

    /// Whether the filter looks at the port that a packet comes from.
    fn looks_at_ports(self) -> bool {
        matches!(self.filtering, Filtering::AddressAndPortDependent | Filtering::PortDependent)
    }

    /// Whether its packets to a peer may come from an external address that the peer has sent nothing to: one that
    /// the destination decides, or one of more than the peer tries.
    fn surprises(self) -> bool {
        let Addresses { count, by_destination, .. } = self.ports.addresses;
        !self.is_fixed() && (count > 1 && by_destination || count > ADDRESSES_TRIED)
    }

    /// Whether the endpoint that a server saw accepts nothing from the peer, whatever was sent to it.
    fn hides(self) -> bool {
        !self.is_fixed() && self.filtering != Filtering::EndpointIndependent && self.keying == Keying::Mapping
    }

    /// Mappings that may be opened without exhausting the NAT.
    fn spare(self) -> u32 {
        self.ports.range / 2
    }
}

/// What an attempt may cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Budget {
    /// Sockets that one side opens.
    pub sockets: u32,
    /// Packets that one side sends.
    pub packets: u32,
    /// Packets a second, a pace that no network takes for an attack.
    pub pace: f64,
    /// Time from a sample of a port to its use, in seconds: an exchange through the introducer.
    pub gap_s: f64,
    /// Attempts at a prediction.
    pub rounds: u32,
    /// Chance that is aimed at.
    pub aim: f64,
    /// Chance below which an attempt is not worth its packets.
    pub worth: f64,
}

impl Budget {
    /// 20 seconds at 100 packets a second, 256 sockets, three rounds.
    pub const DEFAULT: Self =
        Self { sockets: 256, packets: 2000, pace: 100.0, gap_s: 0.15, rounds: 3, aim: 0.99, worth: 0.5 };
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The first one.
    A,
    /// The second one.
    B,
}

/// What the two do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// This side sends to the known endpoint of the other.
    OneSends(Who),
    /// Both send to each other's known endpoint.
    BothSend,
    /// One side samples its next port and sends to the other's known endpoint from there; then the other sends from
    /// its own known endpoint to that port and those after it; then the first one sends again. Which of the three
    /// gets through depends on which of the two filters is the stricter one.
    PredictOne {
        /// The side whose port is guessed.
        hard: Who,
        /// Ports that are tried.
        ports: u32,
    },
    /// One side sends to the other's known endpoint from many sockets; then the other sends from its own known
    /// endpoint to many ports at random; then the first one sends again.
    Birthday {
        /// The side whose ports are guessed.
        hard: Who,
        /// Its sockets.
        sockets: u32,
        /// Ports that are tried.
        guesses: u32,
    },
    /// Both sample their next ports and send from them to the ones predicted for the other, see [`Mutual`].
    PredictBoth(Mutual),
    /// Each side sends from so many sockets to so many ports of the other: both have to hit at once.
    GuessBoth {
        /// What A tries.
        a: Tries,
        /// What B tries.
        b: Tries,
    },
    /// One connects to the other over TCP.
    Tcp(Who),
    /// A relay passes everything on.
    Relay(Obstacle),
}

/// Why only a relay is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// UDP is blocked, and nobody can be connected to over TCP for certain.
    NoUdp,
    /// A port, or two at once, would have to be guessed, and that is not worth its packets.
    Ports,
}

/// Sockets, and how many ports of the other side each of them tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tries {
    /// Sockets.
    pub sockets: u32,
    /// Ports for each socket.
    pub ports: u32,
}

/// The order of packets when both predict. Others may have opened kA and kB mappings since the samples; packet i of
/// A meets packet j of B when each names the port that the other leaves from. A mapping for each destination address
/// keeps its port whatever is tried, one for each port moves on with every packet. If both move, A tries every second
/// port: then they meet at i = kA + kB, j = 2 kA + kB, so one window on the sum covers all pairs of errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutual {
    /// Packets of A.
    pub a: u32,
    /// Packets of B.
    pub b: u32,
    /// Packet i of A goes to the port that B's packet i times this is predicted to leave from.
    pub stride: u32,
}

/// What is to be expected of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prediction {
    /// What comes of it.
    pub outcome: PeerOutcome,
    /// By which technique.
    pub technique: Technique,
    /// The chance of a direct connection.
    pub probability: Option<f64>,
    /// Packets of the side that sends more of them.
    pub packets: Option<u32>,
    /// How long they take at the pace of the budget.
    pub seconds: Option<f64>,
    /// What the two do.
    pub strategy: Strategy,
}

/// Predicts how two sides fare.
#[must_use]
pub fn predict(a: &Side, b: &Side, budget: &Budget) -> Prediction {
    let (a, b) = match (a, b) {
        (Side::Udp(a), Side::Udp(b)) => (*a, *b),
        (Side::Udp(open), Side::UdpBlocked) => return without_udp(Some(*open), Who::B),
        (Side::UdpBlocked, Side::Udp(open)) => return without_udp(Some(*open), Who::A),
        (Side::UdpBlocked, Side::UdpBlocked) => return without_udp(None, Who::A),
    };
    if let Some(plain) = plain(a, b) {
        return plain;
    }
    let best = [one_guess(a, b, Who::A, budget), one_guess(b, a, Who::B, budget), two_guesses(a, b, budget)]
        .into_iter()
        .flatten()
        .filter(|found| found.probability >= Some(budget.worth))
        .max_by(|x, y| {
            let cost = |p: &Prediction| p.packets.unwrap_or(0);
            let chance = |p: &Prediction| p.probability.unwrap_or(0.0);
            chance(x).total_cmp(&chance(y)).then(cost(y).cmp(&cost(x)))
        });
    let best = best.unwrap_or(relay(Obstacle::Ports));
    let is_chance = match best.strategy {
        Strategy::PredictOne { hard, .. } | Strategy::Birthday { hard, .. } => match hard {
            Who::A => a.ports.addresses.by_destination,
            Who::B => b.ports.addresses.by_destination,
        },
        Strategy::PredictBoth(_) | Strategy::GuessBoth { .. } => {
            a.ports.addresses.by_destination || b.ports.addresses.by_destination
        }
        Strategy::OneSends(_) | Strategy::BothSend | Strategy::Tcp(_) | Strategy::Relay(_) => false,
    };
    // It may be tried, but which address the peer's own brings up cannot be known before.
    if is_chance { Prediction { outcome: PeerOutcome::Unknown, probability: None, ..best } } else { best }
}

fn relay(obstacle: Obstacle) -> Prediction {
    Prediction {
        outcome: PeerOutcome::Relay,
        technique: Technique::Relay,
        probability: Some(0.0),
        packets: None,
        seconds: None,
        strategy: Strategy::Relay(obstacle),
    }
}

/// One side, or both, can use TCP only. Whether TCP gets through a NAT is another measurement; who has neither NAT
/// nor filter can be connected to.
fn without_udp(other: Option<Behaviour>, blocked: Who) -> Prediction {
    let reachable = other.is_some_and(|other| {
        other.mapping == Mapping::Direct && other.filtering == Filtering::EndpointIndependent
    });
    if !reachable {
        return relay(Obstacle::NoUdp);
    }
    Prediction {
        outcome: PeerOutcome::Direct,
        technique: Technique::Tcp,
        probability: Some(1.0),
        packets: None,
        seconds: None,
        strategy: Strategy::Tcp(blocked),
    }
}

/// What a packet from `from` to `to` has to guess: the endpoint that `to` has open, the one that `from` sends from.
fn needs(from: Behaviour, to: Behaviour) -> (bool, bool) {
    let is_refused = to.filtering != Filtering::EndpointIndependent && from.surprises();
    (to.hides(), to.looks_at_ports() && !from.is_fixed() || is_refused)
}

/// External addresses of the other side that plain punching sends to.
pub const ADDRESSES_TRIED: u32 = 4;

fn plain(a: Behaviour, b: Behaviour) -> Option<Prediction> {
    let free = |from, to| needs(from, to) == (false, false);
    let (technique, strategy) = if b.filtering == Filtering::EndpointIndependent {
        (Technique::Direct, Strategy::OneSends(Who::A))
    } else if a.filtering == Filtering::EndpointIndependent {
        (Technique::Direct, Strategy::OneSends(Who::B))
    } else if free(a, b) || free(b, a) {
        (Technique::Simultaneous, Strategy::BothSend)
    } else {
        return None;
    };
    let (outcome, probability) = (PeerOutcome::Direct, Some(1.0));
    Some(Prediction { outcome, technique, probability, packets: Some(PLAIN), seconds: None, strategy })
}

/// A first packet that may be refused, and one that gets through.
const PLAIN: u32 = 2;

/// A packet from `from` (called `who`) to `to` that needs one guess: the side whose port is to be guessed opens
/// ports, the other one guesses.
fn one_guess(from: Behaviour, to: Behaviour, who: Who, budget: &Budget) -> Option<Prediction> {
    let (hard, guesser, hard_is) = match needs(from, to) {
        (true, false) => (to, from, who.other()),
        (false, true) => (from, to, who),
        (true, true) | (false, false) => return None,
    };
    // Every guess costs the guesser a mapping, if it has one for each port.
    let limit = if guesser.spends_ports() { budget.packets.min(guesser.spare()) } else { budget.packets };
    if let Some(mean) = hard.ports.passed_over(budget.gap_s) {
        let ports = odds::window_for(SURE, mean, MAX_WINDOW).min(limit);
        let round = hard.ports.addresses.round(ports, |ports| odds::fewer_than(ports, mean));
        let chance = odds::once_in(budget.rounds, round);
        // Where others take too many ports meanwhile, the next one is as good as random.
        if chance >= budget.worth {
            let strategy = Strategy::PredictOne { hard: hard_is, ports };
            return Some(found(Technique::Prediction, chance, ports, strategy, budget));
        }
    }
    // Many packets go to an address that the server vouches for, or to none.
    if !hard.ports.addresses.is_vouched || !guesser.ports.addresses.is_vouched {
        return None;
    }
    let range = hard.ports.range;
    let sockets = budget.sockets.min(hard.spare());
    let guesses = guesses(sockets, range, limit.min(hard.ports.of_one_address()), budget);
    let strategy = Strategy::Birthday { hard: hard_is, sockets, guesses };
    Some(found(Technique::Birthday, odds::hit(sockets, guesses, range), guesses, strategy, budget))
}

/// Both ports have to be guessed at once.
fn two_guesses(a: Behaviour, b: Behaviour, budget: &Budget) -> Option<Prediction> {
    let addresses = [a, b].map(|side| side.ports.addresses);
    if needs(a, b) != (true, true)
        || needs(b, a) != (true, true)
        || addresses.iter().any(|addresses| !addresses.is_vouched)
    {
        return None;
    }
    let crossed = |chance, a: Tries, b: Tries| {
        let packets = (a.sockets * a.ports).max(b.sockets * b.ports);
        Some(found(Technique::Birthday, chance, packets, Strategy::GuessBoth { a, b }, budget))
    };
    match (a.ports.passed_over(budget.gap_s), b.ports.passed_over(budget.gap_s)) {
        (Some(mean_a), Some(mean_b)) => Some(mutual(a, b, mean_a, mean_b, budget)),
        (Some(mean), None) if !a.spends_ports() => {
            let (known, random, chance) = known_against_random(b, mean, budget);
            crossed(chance * a.ports.addresses.vouched(), known, random)
        }
        (None, Some(mean)) if !b.spends_ports() => {
            let (known, random, chance) = known_against_random(a, mean, budget);
            crossed(chance * b.ports.addresses.vouched(), random, known)
        }
        (None, None) if !a.spends_ports() && !b.spends_ports() => {
            // One port on each side: each tries all that the other may have.
            let all = |of: Ports| Tries { sockets: 1, ports: of.of_one_address().min(budget.packets) };
            let (by_a, by_b) = (all(b.ports), all(a.ports));
            let share = |tries: Tries, range: u32| f64::from(tries.ports) / f64::from(range);
            crossed(share(by_a, b.ports.range) * share(by_b, a.ports.range), by_a, by_b)
        }
        (Some(_) | None, None) | (None, Some(_)) => None,
    }
}

fn mutual(a: Behaviour, b: Behaviour, mean_a: f64, mean_b: f64, budget: &Budget) -> Prediction {
    let window = odds::window_for(SURE, mean_a + mean_b, MAX_WINDOW);
    let plan = match (a.spends_ports(), b.spends_ports()) {
        (true, true) => Mutual { a: window, b: 2 * window, stride: 2 },
        (true, false) | (false, true) | (false, false) => Mutual { a: window, b: window, stride: 1 },
    };
    let met = if a.spends_ports() || b.spends_ports() {
        odds::fewer_than(window, mean_a + mean_b)
    } else {
        odds::fewer_than(window, mean_a) * odds::fewer_than(window, mean_b)
    };
    let here = a.ports.addresses.vouched() * b.ports.addresses.vouched();
    let chance = odds::once_in(budget.rounds, met * here);
    found(Technique::Prediction, chance, plan.b, Strategy::PredictBoth(plan), budget)
}

/// What the side with one port that can be predicted tries, what the side with random ones tries, and the chance.
fn known_against_random(random: Behaviour, mean: f64, budget: &Budget) -> (Tries, Tries, f64) {
    let ports = odds::window_for(SURE, mean, MAX_WINDOW);
    let mappings = if random.spends_ports() { random.spare() / ports } else { random.spare() };
    let sockets = budget.sockets.min(mappings).min(budget.packets / ports);
    let guesses =
        guesses(sockets, random.ports.range, budget.packets.min(random.ports.of_one_address()), budget);
    let chance = odds::fewer_than(ports, mean) * odds::hit(sockets, guesses, random.ports.range);
    (Tries { sockets: 1, ports: guesses }, Tries { sockets, ports }, chance)
}

/// Guesses for the chance that is aimed at, or for next to certainty where that costs little.
fn guesses(open: u32, range: u32, limit: u32, budget: &Budget) -> u32 {
    let certain = odds::guesses_for(CERTAIN, open, range, limit.min(CHEAP));
    if odds::hit(open, certain, range) >= CERTAIN {
        return certain;
    }
    odds::guesses_for(budget.aim, open, range, limit)
}

const CERTAIN: f64 = 0.9999;
/// As many packets as two seconds of speech.
const CHEAP: u32 = 100;
/// A window misses the port once in a thousand rounds; wider than this it is no prediction.
const SURE: f64 = 0.999;
const MAX_WINDOW: u32 = 64;

fn found(technique: Technique, chance: f64, packets: u32, strategy: Strategy, budget: &Budget) -> Prediction {
    Prediction {
        outcome: PeerOutcome::Direct,
        technique,
        probability: Some(chance),
        packets: Some(packets),
        seconds: Some(f64::from(packets) / budget.pace),
        strategy,
    }
}

impl Who {
    /// The other one.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}
