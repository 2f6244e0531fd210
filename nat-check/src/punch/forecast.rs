//! What is to be expected of an attempt, said before it is made: [`verdict::predict`](crate::verdict::predict) for UDP
//! over IPv4, and what else the two have in common. Pure.

use shared::{
    nat::{PortAllocation, PortPolicy, model::spec::Keying},
    rendezvous::{Behaviour, Offer, Role, Technique},
};

use crate::{
    report::PeerOutcome,
    verdict::predict::{self, Budget, Next, Ports, Prediction, Side, Who, predict},
};

/// What one side knows of both once they are introduced.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) role: Role,
    pub(super) mine: Offer,
    pub(super) peers: Offer,
    /// Whether the server sees both at the same address: then they are behind the same NAT.
    pub(super) neighbours: bool,
    /// The address that the server vouches for.
    pub(super) peer_ip: std::net::IpAddr,
    /// Over UDP and IPv4; none where too little is known. A is the first side.
    pub(super) udp: Option<Prediction>,
}

/// What is expected.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Forecast {
    /// Whether a direct path is expected; `None` = not known.
    pub(super) direct: Option<bool>,
    pub(super) probability: Option<f64>,
    pub(super) technique: Option<Technique>,
    pub(super) why: String,
}

/// Chance that neighbours reach each other on their own network; it fails where a network isolates its clients, or the
/// common NAT is a carrier's.
const NEIGHBOURS: f64 = 0.9;
/// Chance over IPv6, where firewalls are stateful but whole networks may be closed to UDP.
const OVER_IPV6: f64 = 0.9;
/// Chance over TCP where both mappings stay the same; it fails where a gateway answers a SYN that comes too early.
const OVER_TCP: f64 = 0.99;

impl Pair {
    pub(super) fn new(
        role: Role,
        mine: Offer,
        peers: Offer,
        you: std::net::IpAddr,
        peer_ip: std::net::IpAddr,
    ) -> Self {
        let (first, second) = match role {
            Role::First => (&mine, &peers),
            Role::Second => (&peers, &mine),
        };
        let udp = match (side(&first.behaviour), side(&second.behaviour)) {
            (Some(a), Some(b)) => Some(predict(&a, &b, &Budget::DEFAULT)),
            _ => None,
        };
        let neighbours = you == peer_ip;
        Self { role, mine, peers, neighbours, peer_ip, udp }
    }

    /// Which side of the prediction is mine.
    pub(super) fn who(&self) -> Who {
        match self.role {
            Role::First => Who::A,
            Role::Second => Who::B,
        }
    }

    /// Whether either side's router is known to remap when the other's packet comes first.
    pub(super) fn remaps(&self) -> bool {
        self.mine.remaps == Some(true) || self.peers.remaps == Some(true)
    }

    /// Whether both are willing.
    pub(super) fn agrees_on(&self, technique: Technique) -> bool {
        self.mine.techniques.contains(&technique) && self.peers.techniques.contains(&technique)
    }

    /// The prediction of the attempt: of all means that both would use, the most promising.
    pub(super) fn forecast(&self) -> Forecast {
        let lan = self.neighbours && !self.mine.lan.is_empty() && !self.peers.lan.is_empty();
        let tcp = |offer: &Offer| offer.tcp.is_some_and(|tcp| tcp.fixed);
        let others = [
            (Technique::Lan, lan, NEIGHBOURS, "both are behind the same NAT and may share a network"),
            (
                Technique::Ipv6,
                self.mine.ipv6 && self.peers.ipv6,
                OVER_IPV6,
                "both have IPv6, which needs no translation",
            ),
            (
                Technique::Tcp,
                tcp(&self.mine) && tcp(&self.peers),
                OVER_TCP,
                "both TCP mappings stay the same, so both sides can connect at once",
            ),
        ];
        let others = others
            .into_iter()
            .filter(|(technique, there, ..)| *there && self.agrees_on(*technique))
            .map(|(technique, _, probability, why)| Forecast {
                direct: Some(true),
                probability: Some(probability),
                technique: Some(technique),
                why: why.into(),
            });
        let chance = |f: &Forecast| f.probability.unwrap_or(0.0);
        let best = std::iter::once(self.over_udp())
            .chain(others)
            .reduce(|a, b| if chance(&b) > chance(&a) { b } else { a });
        // There is always the one over UDP.
        best.unwrap_or_else(Forecast::unknown)
    }

    fn over_udp(&self) -> Forecast {
        let Some(udp) = &self.udp else { return Forecast::unknown() };
        let technique = technique(udp);
        let willing = technique.is_none_or(|t| {
            self.agrees_on(t) || t == Technique::Simultaneous && self.agrees_on(Technique::LowTtl)
        });
        // Neighbours' packets to the common external address have to be turned back inside.
        let hairpins =
            self.mine.behaviour.hairpinning == Some(true) && self.peers.behaviour.hairpinning == Some(true);
        if !willing || self.neighbours && !hairpins {
            let why = if willing {
                "both are behind the same NAT, which does not turn packets back"
            } else {
                "the means that would work is not to be used"
            };
            return Forecast {
                direct: Some(false),
                probability: Some(0.0),
                technique: None,
                why: why.into(),
            };
        }
        let (a, b) = match self.role {
            Role::First => ("this side", "the peer"),
            Role::Second => ("the peer", "this side"),
        };
        Forecast {
            direct: match udp.outcome {
                PeerOutcome::Direct if technique.is_some() => Some(true),
                PeerOutcome::Direct | PeerOutcome::Relay => Some(false),
                PeerOutcome::Unknown => None,
            },
            probability: udp.probability.map(|p| if technique.is_some() { p } else { 0.0 }),
            technique,
            why: udp.why(a, b),
        }
    }
}

impl Forecast {
    fn unknown() -> Self {
        let why = "too little is known of at least one side".into();
        Self { direct: None, probability: None, technique: None, why }
    }
}

/// The means of a prediction, if it is one that is tried. A TCP connection to a listener is none: nobody listens.
fn technique(prediction: &Prediction) -> Option<Technique> {
    match prediction.recipe {
        predict::Recipe::Dial(_) | predict::Recipe::Both => Some(Technique::Simultaneous),
        predict::Recipe::Window { .. } | predict::Recipe::Mutual(_) => Some(Technique::Prediction),
        predict::Recipe::Birthday { .. } | predict::Recipe::Crossed { .. } => Some(Technique::Birthday),
        predict::Recipe::Tcp(_) | predict::Recipe::Relay(_) => None,
    }
}

/// A measured behaviour in the words of the prediction. What a filter entry belongs to cannot be measured; by far most
/// NATs keep it with the mapping.
fn side(behaviour: &Behaviour) -> Option<Side> {
    if !behaviour.udp {
        return Some(Side::UdpBlocked);
    }
    let ports =
        behaviour.ports.as_ref().map_or(Ports::ANYWHERE, |measured| ports(measured, behaviour.cross_traffic));
    Some(Side::Udp(predict::Behaviour {
        mapping: behaviour.mapping?,
        filtering: behaviour.filtering?,
        keying: Keying::Mapping,
        ports,
    }))
}

fn ports(measured: &PortAllocation, cross_traffic: Option<f64>) -> Ports {
    let (low, high) = measured.range;
    let range = (u32::from(high.saturating_sub(low)) + 1) * measured.external_ips.clamp(1, 64);
    let next = match measured.policy {
        PortPolicy::Preserving => Next::Local,
        PortPolicy::Sequential => {
            Next::Step { cross_traffic: cross_traffic.filter(|rate| *rate >= 0.0).unwrap_or(0.0).min(1000.0) }
        }
        PortPolicy::Random | PortPolicy::Block => Next::Anywhere,
    };
    Ports { next, range }
}
