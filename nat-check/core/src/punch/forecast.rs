//! What is to be expected of an attempt, said before it is made: [`verdict::predict`](crate::verdict::predict) for UDP
//! over IPv4, and what else the two have in common. Pure.

use std::{net::IpAddr, time::Duration};

use shared::rendezvous::{
    Role,
    peer::{self, Offer},
};

use super::{behaviour, technique::browser_obstacle};
use crate::{
    report::PeerOutcome,
    technique::Technique,
    verdict::predict::{
        Budget, Prediction, Who, predict,
        tcp::{self, Doubt, OverTcp, TcpBehaviour},
    },
};

/// What one side knows of both once they are introduced.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) role: Role,
    pub(super) mine: Offer,
    pub(super) peers: Offer,
    /// Where the server has seen this side.
    pub(super) you: IpAddr,
    /// Where it has seen the peer.
    pub(super) peer: IpAddr,
    /// Whether the server sees both at the same address: then they are behind the same NAT.
    pub(super) neighbours: bool,
    /// Whether packets were seen to pass between the two on their local network; none = not tried.
    pub(super) lan_passes: Option<bool>,
    /// Over UDP and IPv4; none where too little is known. A is the first side.
    pub(super) udp: Option<Prediction>,
    /// The same over IPv6; none where either side has none.
    pub(super) udp6: Option<Prediction>,
    /// Over TCP and IPv4; none where either side has none.
    pub(super) tcp: Option<OverTcp>,
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

/// Chance from which on sockets are guessed at that were opened before the prediction.
const WORTH_ONCE_OPEN: f64 = 0.1;

impl Pair {
    pub(super) fn new(role: Role, mine: Offer, peers: Offer, you: IpAddr, peer_ip: IpAddr) -> Self {
        let neighbours = you == peer_ip;
        let mut pair = Self {
            role,
            mine,
            peers,
            you,
            peer: peer_ip,
            neighbours,
            lan_passes: None,
            udp: None,
            udp6: None,
            tcp: None,
        };
        pair.limit_sockets(Budget::DEFAULT.sockets);
        pair.tcp = pair.predict_tcp();
        pair
    }

    fn predict_tcp(&self) -> Option<OverTcp> {
        let (mine, peers) = (self.mine.tcp.as_ref()?, self.peers.tcp.as_ref()?);
        if !(mine.nominates && peers.nominates) {
            return (mine.fixed && peers.fixed).then_some(OverTcp::unknown(Doubt::OldPeer));
        }
        if self.neighbours {
            return Some(OverTcp::unknown(Doubt::SameNat));
        }
        let (first, second) = match self.role {
            Role::First => (&self.mine, &self.peers),
            Role::Second => (&self.peers, &self.mine),
        };
        let gap_s = gap_s(&self.mine, &self.peers) * SAMPLE_OVER_TCP;
        let budget = Budget { gap_s, ..Budget::DEFAULT };
        let (first, second) = (behaviour::tcp_side(first)?, behaviour::tcp_side(second)?);
        Some(tcp::predict(&first, &second, &budget))
    }

    /// Expects no more of sockets that are opened for guesses: so many mappings were given.
    pub(super) fn limit_sockets(&mut self, sockets: u32) {
        let (first, second) = match self.role {
            Role::First => (&self.mine, &self.peers),
            Role::Second => (&self.peers, &self.mine),
        };
        let seen = match self.role {
            Role::First => [self.you, self.peer],
            Role::Second => [self.peer, self.you],
        };
        let sockets = sockets.min(Budget::DEFAULT.sockets);
        // What was counted is open already, and worth some guesses.
        let worth = if sockets < Budget::DEFAULT.sockets { WORTH_ONCE_OPEN } else { Budget::DEFAULT.worth };
        let gap_s = gap_s(&self.mine, &self.peers);
        let rounds = if self.has_browser() { 1 } else { Budget::DEFAULT.rounds };
        let budget = Budget { gap_s, sockets, worth, rounds, ..Budget::DEFAULT };
        let both = |a: Option<&peer::Behaviour>, b: Option<&peer::Behaviour>| {
            Some(predict(&behaviour::side(a?, seen[0])?, &behaviour::side(b?, seen[1])?, &budget))
        };
        let udp = both(Some(&first.behaviour), Some(&second.behaviour));
        let udp6 = both(first.ipv6.as_ref(), second.ipv6.as_ref());
        (self.udp, self.udp6) = (udp, udp6);
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

    /// Whether both routers are known not to remap.
    pub(super) fn is_harmless(&self) -> bool {
        self.mine.remaps == Some(false) && self.peers.remaps == Some(false)
    }

    /// How much later than the peer this side connects: where only the peer's gateway may answer a SYN that comes too early, the
    /// peer goes first, by more than the two may be out of step.
    pub(super) fn waits_over_tcp(&self) -> Duration {
        let may_refuse = |offer: &Offer| {
            let nominates = offer.tcp.as_ref().is_some_and(|tcp| tcp.nominates);
            nominates && behaviour::tcp_side(offer).is_some_and(TcpBehaviour::may_refuse)
        };
        match may_refuse(&self.peers) && !may_refuse(&self.mine) {
            true => Duration::from_secs_f64(gap_s(&self.mine, &self.peers) / 4.0).max(STEP),
            false => Duration::ZERO,
        }
    }

    /// Whether the two may be on one local network, and each knows where the other one is there.
    pub(super) fn may_share_network(&self) -> bool {
        self.neighbours && !self.mine.lan.is_empty() && !self.peers.lan.is_empty()
    }

    /// Whether one of the two is a browser.
    pub(super) fn has_browser(&self) -> bool {
        self.mine.is_browser() || self.peers.is_browser()
    }

    /// Whether both are willing.
    pub(super) fn agrees_on(&self, technique: Technique) -> bool {
        technique
            .on_wire()
            .is_some_and(|word| self.mine.techniques.contains(&word) && self.peers.techniques.contains(&word))
    }

    /// The prediction of the attempt: of all techniques that both would use, the most promising.
    pub(super) fn forecast(&self) -> Forecast {
        let lan = self.may_share_network() && self.agrees_on(Technique::Lan);
        let others = [self.over_ipv6(), self.over_tcp()];
        let willing = |f: &Forecast| f.technique.is_none_or(|technique| self.agrees_on(technique));
        let others = others.into_iter().flatten().filter(willing);
        let best =
            others.fold(self.first_choice(), |best, other| if other.beats(&best) { other } else { best });
        match self.lan_passes {
            Some(true) if lan => Forecast::lan_passes(),
            None if lan && best.direct != Some(true) => Forecast::lan(),
            Some(_) | None => best,
        }
    }

    /// Both send at once, where no port has to be guessed: nothing else is tried over IPv6.
    fn over_ipv6(&self) -> Option<Forecast> {
        let udp = self.udp6.as_ref()?;
        let (a, b) = self.names();
        (technique(udp) == Some(Technique::Simultaneous)).then(|| Forecast {
            direct: Some(true),
            probability: udp.probability,
            technique: Some(Technique::Ipv6),
            why: format!("over IPv6, {}", udp.why(a, b)),
        })
    }

    /// Both connect at once. Where that is neither promised nor excluded, it is tried.
    fn over_tcp(&self) -> Option<Forecast> {
        let over_tcp = self.tcp.as_ref()?;
        let (a, b) = self.names();
        let why = over_tcp.why(a, b);
        let none = Forecast { why, ..Forecast::unknown() };
        Some(match over_tcp {
            OverTcp::Way(found) => Forecast {
                direct: Some(true),
                probability: found.probability,
                technique: Some(Technique::Tcp),
                ..none
            },
            OverTcp::Unknown(..) => Forecast { technique: Some(Technique::Tcp), ..none },
            OverTcp::NoWay(_) => Forecast { direct: Some(false), probability: Some(0.0), ..none },
        })
    }

    /// What UDP promises; where it is blocked and TCP is no way out, that is told, too.
    fn first_choice(&self) -> Forecast {
        let over_udp = self.over_udp();
        let has_udp = self.mine.behaviour.udp && self.peers.behaviour.udp;
        match &self.tcp {
            Some(over_tcp @ OverTcp::NoWay(_)) if !has_udp && over_udp.direct == Some(false) => {
                let (a, b) = self.names();
                Forecast { why: format!("UDP is blocked, and {}", over_tcp.why(a, b)), ..over_udp }
            }
            _ => over_udp,
        }
    }

    /// What A and B of a prediction are called.
    fn names(&self) -> (&'static str, &'static str) {
        match self.role {
            Role::First => ("this side", "the peer"),
            Role::Second => ("the peer", "this side"),
        }
    }

    fn over_udp(&self) -> Forecast {
        let none =
            |why: String| Forecast { direct: Some(false), probability: Some(0.0), technique: None, why };
        for (offer, name) in [(&self.mine, "this side"), (&self.peers, "the peer")] {
            if !offer.has_ipv4() && offer.ipv6.is_some() {
                return none(format!("{name} has no IPv4"));
            }
        }
        let Some(udp) = &self.udp else { return Forecast::unknown() };
        if let Some(why) =
            Some(udp.strategy).filter(|_| self.has_browser()).and_then(|s| browser_obstacle(self, s))
        {
            return none(why.into());
        }
        let technique = technique(udp).map(|technique| match technique {
            // Where a router remaps, the gateways are opened first.
            Technique::Simultaneous if self.remaps() => Technique::LowTtl,
            other => other,
        });
        let willing = technique.is_none_or(|t| {
            self.agrees_on(t) || t == Technique::Simultaneous && self.agrees_on(Technique::LowTtl)
        });
        if !willing {
            return none("the technique that would work is disabled".into());
        }
        // Neighbours' packets to the common external address have to be turned back inside. That they are can be seen;
        // that they are not cannot, since a gateway may treat a host's packets to itself otherwise.
        let hairpins = |offer: &Offer| offer.behaviour.hairpinning == Some(true);
        if self.neighbours && technique.is_some() && !(hairpins(&self.mine) && hairpins(&self.peers)) {
            let isolated = if self.lan_passes == Some(false) {
                "no packet passed between them on their local network, "
            } else {
                ""
            };
            let why = format!(
                "both are behind the same NAT, {isolated}and nothing shows that it turns packets back"
            );
            return Forecast { why, ..Forecast::unknown() };
        }
        let (a, b) = self.names();
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
    /// Nothing but the attempt shows whether a network isolates its clients, or the common NAT is a carrier's with a network
    /// of its own for each.
    fn lan() -> Self {
        let why = "both are behind the same NAT, but whether they share a network that lets them talk to each other is not \
                   known";
        Self { technique: Some(Technique::Lan), why: why.into(), ..Self::unknown() }
    }

    fn lan_passes() -> Self {
        Self {
            direct: Some(true),
            probability: Some(1.0),
            technique: Some(Technique::Lan),
            why: "both are on one local network, and packets pass between them there".into(),
        }
    }

    /// Whether it promises more; what nobody knows more than what is excluded.
    fn beats(&self, other: &Self) -> bool {
        let worth = |forecast: &Self| (forecast.probability.unwrap_or(0.0), forecast.direct.is_none());
        worth(self) > worth(other)
    }

    pub(super) fn unknown() -> Self {
        let why = "too little is known of at least one side".into();
        Self { direct: None, probability: None, technique: None, why }
    }
}

/// Seconds from a sample of a port to its use: an answer of the server, the news to it and on to the peer. The slower side
/// decides.
fn gap_s(mine: &Offer, peers: &Offer) -> f64 {
    2.0 * f64::from(mine.rtt_ms.max(peers.rtt_ms).clamp(SHORTEST_MS, LONGEST_MS)) / 1000.0
}

/// So far apart two connect who are to do so one after the other, at least.
const STEP: Duration = Duration::from_millis(100);

/// A sample of a port over TCP is half a round trip of the whole gap older: the handshake comes before the request.
const SAMPLE_OVER_TCP: f64 = 1.5;

/// Round-trip times that are believed.
const SHORTEST_MS: u32 = 20;
const LONGEST_MS: u32 = 2000;

/// What an attempt does about a prediction, if anything. A TCP connection to a listener is nothing: nobody listens.
fn technique(prediction: &Prediction) -> Option<Technique> {
    match prediction.technique {
        Technique::Direct | Technique::Simultaneous => Some(Technique::Simultaneous),
        tried @ (Technique::Prediction | Technique::Birthday) => Some(tried),
        Technique::Lan | Technique::LowTtl | Technique::Ipv6 | Technique::Tcp | Technique::Relay => None,
    }
}
