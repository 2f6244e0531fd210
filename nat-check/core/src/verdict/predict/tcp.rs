//! The same over TCP (RFC 5382): both sides listen at the port that they connect from, so each SYN either meets the other
//! side's (RFC 9293 section 3.5) or is accepted. Which SYN finds which port is the question that it is over UDP; that a
//! gateway lets it in is one of its own.

use shared::nat::{Filtering, Keying, Mapping};

use super::{Behaviour, Budget, Ports, Prediction, Side, Strategy, needs};
use crate::{report::PeerOutcome, technique::Technique, verdict::odds};

/// How TCP of one side passes; what is not known is none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TcpBehaviour {
    /// RFC 5382 REQ-1.
    pub mapping: Option<Mapping>,
    /// RFC 5382 REQ-3.
    pub filtering: Option<Filtering>,
    /// Which port the next mapping gets; of no interest where the mapping stays the same.
    pub ports: Option<Ports>,
    /// Whether two SYNs that cross make a connection (RFC 5382 REQ-2).
    pub simultaneous_open: Option<bool>,
    /// Whether a SYN that nothing asked for is answered at once, by a reset or ICMP (RFC 5382 REQ-4). The routers that do so
    /// remember whose it was, and give their own side another port towards that peer.
    pub refuses: Option<bool>,
}

/// What is to be expected over TCP.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OverTcp {
    /// A direct path, with this chance.
    Way(Prediction),
    /// Something is not known that it depends on; it is tried like this.
    Unknown(Doubt, Strategy),
    /// None.
    NoWay(TcpObstacle),
}

/// What is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubt {
    /// Whether an external endpoint depends on the destination.
    Mapping,
    /// Whose connections a gateway lets in.
    Filtering,
    /// How a gateway chooses its ports.
    Ports,
    /// Whether any of the two gateways lets a SYN in that crosses one from inside.
    SimultaneousOpen,
    /// Whether both SYNs leave before the other one arrives: both gateways may answer those that come too early.
    EarlySyn,
    /// At which of several external addresses the next connection will be.
    Address,
    /// The peer is too old to tell.
    OldPeer,
    /// Whether the NAT that both are behind turns connections back.
    SameNat,
}

/// Why there is no way over TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpObstacle {
    /// More ports would have to be guessed than there may be connections.
    Ports,
    /// Neither gateway lets a SYN in that crosses one from inside.
    SimultaneousOpen,
}

/// Connections that a side opens in a round, at the most.
pub const CONNECTIONS: u32 = 64;

/// Rounds.
pub const ROUNDS: u32 = 3;

/// The chance that a round does not fail by lost segments. A SYN is sent at 0, 1 and 3 s of a round. Towards the server, for
/// the external port, it has to come through and back over this side's line, and one to or from the peer over both lines.
/// Where each line loses 10 % each way, `cargo bench -p natlab --bench punch -- tcp` prints how many rounds fail: fewer.
const ROUND: f64 = 0.95;

/// Predicts how two sides fare over TCP.
#[must_use]
pub fn predict(a: &TcpBehaviour, b: &TcpBehaviour, budget: &Budget) -> OverTcp {
    let (Some(one), Some(other)) = (a.as_over_udp(), b.as_over_udp()) else {
        return OverTcp::unknown(Doubt::Mapping);
    };
    // No port is guessed at random: that takes more connections than anybody should open. A round at a time.
    let budget = Budget { sockets: 0, packets: CONNECTIONS, rounds: 1, worth: LEAST, ..*budget };
    let found = super::predict(&Side::Udp(one), &Side::Udp(other), &budget);
    let moves = |side: Behaviour| !side.is_fixed() && side.ports.addresses.count > 1;
    if moves(one) || moves(other) {
        return OverTcp::unknown(Doubt::Address);
    }
    let is_direct = found.outcome == PeerOutcome::Direct && found.packets <= Some(CONNECTIONS);
    let Some(chance) = found.probability.filter(|_| is_direct) else {
        return match (a.filtering.and(b.filtering), a.knows_ports() && b.knows_ports()) {
            (None, _) => OverTcp::unknown(Doubt::Filtering),
            (Some(_), false) => OverTcp::unknown(Doubt::Ports),
            (Some(_), true) => OverTcp::NoWay(TcpObstacle::Ports),
        };
    };
    // Of SYNs that find the right port, one has to be let in.
    let is_possible = |from, to| found.strategy != Strategy::BothSend || needs(from, to) == (false, false);
    let to_b = is_possible(one, other).then(|| b.lets_in());
    let to_a = is_possible(other, one).then(|| a.lets_in());
    let let_in = [to_b, to_a];
    if !let_in.contains(&Some(Some(true))) {
        return match let_in.contains(&Some(None)) {
            true => OverTcp::Unknown(Doubt::SimultaneousOpen, found.strategy),
            false => OverTcp::NoWay(TcpObstacle::SimultaneousOpen),
        };
    }
    // Where one of the two may refuse, that side goes first.
    let needs_no_order = matches!(found.strategy, Strategy::OneSends(_));
    if a.may_refuse() && b.may_refuse() && !needs_no_order {
        return OverTcp::Unknown(Doubt::EarlySyn, found.strategy);
    }
    OverTcp::Way(Prediction {
        technique: Technique::Tcp,
        probability: Some(odds::once_in(ROUNDS, chance * ROUND)),
        seconds: None,
        ..found
    })
}

/// A prediction that is right less often in one round is not tried.
const LEAST: f64 = 0.25;

impl TcpBehaviour {
    /// The same as it would be told of UDP; none where it is not known where connections come from. What else is not known is
    /// taken to be the strictest.
    fn as_over_udp(self) -> Option<Behaviour> {
        let filtering = self.filtering.unwrap_or(Filtering::AddressAndPortDependent);
        let ports = self.ports.unwrap_or(Ports::ANYWHERE);
        Some(Behaviour { mapping: self.mapping?, filtering, keying: Keying::Mapping, ports })
    }

    fn knows_ports(self) -> bool {
        self.ports.is_some() || self.as_over_udp().is_some_and(Behaviour::is_fixed)
    }

    /// Whether its gateway may refuse a SYN that comes too early, and then give this side another port.
    #[must_use]
    pub fn may_refuse(self) -> bool {
        self.filtering != Some(Filtering::EndpointIndependent) && self.refuses != Some(false)
    }

    /// Whether a SYN of somebody whom this side connects to at the same moment gets in. Filters that let others in than those
    /// who were contacted have been seen to.
    fn lets_in(self) -> Option<bool> {
        match self.filtering {
            Some(Filtering::EndpointIndependent | Filtering::AddressDependent | Filtering::PortDependent) => {
                Some(true)
            }
            Some(Filtering::AddressAndPortDependent) | None => self.simultaneous_open,
        }
    }
}

impl OverTcp {
    /// Where this is not known, both connect to where the server has seen the other.
    #[must_use]
    pub fn unknown(doubt: Doubt) -> Self {
        Self::Unknown(doubt, Strategy::BothSend)
    }

    /// Why, in a part of a sentence, with names for the two sides.
    #[must_use]
    pub fn why(&self, a: &str, b: &str) -> String {
        match self {
            Self::Way(found) => match found.strategy {
                Strategy::OneSends(who) => {
                    let (from, to) = if who == super::Who::A { (a, b) } else { (b, a) };
                    format!("over TCP, anybody can connect to {to}, so {from} just does")
                }
                Strategy::BothSend => {
                    "over TCP, both connect at the same moment, and each side's SYN makes its own gateway let the other's in"
                        .into()
                }
                _ => format!("over TCP, {}", found.why(a, b)),
            },
            Self::Unknown(doubt, _) => format!("over TCP it is tried: {}", doubt.text()),
            Self::NoWay(TcpObstacle::Ports) => {
                "over TCP a port that changes with the destination would have to be guessed".into()
            }
            Self::NoWay(TcpObstacle::SimultaneousOpen) => {
                "over TCP neither gateway lets a connection in that crosses one from inside".into()
            }
        }
    }
}

impl Doubt {
    fn text(self) -> &'static str {
        match self {
            Self::Mapping => {
                "whether the external endpoint depends on the destination is not known of both sides"
            }
            Self::Filtering => "whose connections are let in is not known of both sides",
            Self::Ports => "how ports are chosen is not known of both sides",
            Self::SimultaneousOpen => {
                "whether connections that cross become one was not shown by either side"
            }
            Self::EarlySyn => {
                "both gateways may refuse a connection that comes too early, and then give their own side another port"
            }
            Self::Address => "which of several external addresses the peer will see is not known",
            Self::OldPeer => "the peer does not say what its gateway does with TCP",
            Self::SameNat => "both are behind the same NAT, and nothing shows that it turns connections back",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::predict::{Addresses, Next, Who};
    use Filtering as F;
    use Mapping as M;

    fn side(mapping: M, filtering: F, next: Next, simultaneous_open: Option<bool>) -> TcpBehaviour {
        let ports = Some(Ports { next, ..Ports::ANYWHERE });
        let refuses = Some(false);
        TcpBehaviour { mapping: Some(mapping), filtering: Some(filtering), ports, simultaneous_open, refuses }
    }

    fn home() -> TcpBehaviour {
        side(M::EndpointIndependent, F::AddressAndPortDependent, Next::Local, Some(true))
    }

    /// Its own simultaneous open cannot be measured.
    fn symmetric(next: Next) -> TcpBehaviour {
        side(M::AddressAndPortDependent, F::AddressAndPortDependent, next, None)
    }

    fn told(a: TcpBehaviour, b: TcpBehaviour) -> OverTcp {
        let found = predict(&a, &b, &Budget::DEFAULT);
        let chance = |over: OverTcp| match over {
            OverTcp::Way(found) => found.probability,
            OverTcp::Unknown(..) | OverTcp::NoWay(_) => None,
        };
        assert_eq!(chance(found), chance(predict(&b, &a, &Budget::DEFAULT)), "whoever is called a");
        found
    }

    fn way(a: TcpBehaviour, b: TcpBehaviour) -> (Strategy, f64) {
        match told(a, b) {
            OverTcp::Way(Prediction { strategy, probability: Some(chance), .. }) => (strategy, chance),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_usual_pairs() {
        assert_eq!(way(home(), home()).0, Strategy::BothSend);
        let open = side(M::EndpointIndependent, F::EndpointIndependent, Next::Local, None);
        assert_eq!(way(symmetric(Next::Anywhere), open).0, Strategy::OneSends(Who::A));
        let counted = symmetric(Next::Step { cross_traffic: 10.0 });
        assert!(matches!(way(counted, home()).0, Strategy::PredictOne { hard: Who::A, .. }));
        assert_eq!(told(symmetric(Next::Anywhere), home()), OverTcp::NoWay(TcpObstacle::Ports));
        let kept = symmetric(Next::Local);
        assert!(matches!(way(home(), kept).0, Strategy::PredictOne { hard: Who::B, ports: 1 }));
    }

    #[test]
    fn one_gateway_that_lets_crossing_connections_in_is_enough() {
        let unknown = TcpBehaviour { simultaneous_open: None, ..home() };
        let never = TcpBehaviour { simultaneous_open: Some(false), ..home() };
        assert_eq!(way(home(), never), way(home(), home()));
        assert_eq!(told(unknown, never), OverTcp::unknown(Doubt::SimultaneousOpen));
        assert_eq!(told(never, never), OverTcp::NoWay(TcpObstacle::SimultaneousOpen));
        let counted = symmetric(Next::Step { cross_traffic: 10.0 });
        let OverTcp::Unknown(Doubt::SimultaneousOpen, strategy) = told(counted, never) else {
            panic!("known")
        };
        assert!(matches!(strategy, Strategy::PredictOne { .. }), "and the port is predicted all the same");
    }

    #[test]
    fn one_gateway_that_refuses_is_opened_first_and_two_cannot_be() {
        let refuses = TcpBehaviour { refuses: Some(true), ..home() };
        let unknown = TcpBehaviour { refuses: None, ..home() };
        assert_eq!(way(refuses, home()), way(home(), home()));
        assert_eq!(told(refuses, unknown), OverTcp::unknown(Doubt::EarlySyn));
        let open = TcpBehaviour { filtering: Some(F::EndpointIndependent), ..unknown };
        assert_eq!(way(refuses, open), (Strategy::OneSends(Who::A), way(home(), home()).1), "it lets all in");
    }

    #[test]
    fn what_is_not_known_is_not_promised() {
        let unknown = TcpBehaviour { mapping: None, ..home() };
        assert_eq!(told(unknown, home()), OverTcp::unknown(Doubt::Mapping));
        let filter = TcpBehaviour { filtering: None, ..home() };
        assert_eq!(way(filter, home()), way(home(), home()), "where it does not matter");
        assert_eq!(told(filter, symmetric(Next::Anywhere)), OverTcp::unknown(Doubt::Filtering));
        let counted = symmetric(Next::Step { cross_traffic: 10.0 });
        let addresses = Addresses { count: 2, ..Addresses::ONE };
        let spread =
            TcpBehaviour { ports: counted.ports.map(|ports| Ports { addresses, ..ports }), ..counted };
        assert_eq!(told(spread, home()), OverTcp::unknown(Doubt::Address));
        let ports = TcpBehaviour { ports: None, ..counted };
        assert_eq!(told(ports, home()), OverTcp::unknown(Doubt::Ports));
    }

    #[test]
    fn no_more_connections_than_stated_are_planned_whatever_others_take() {
        for cross_traffic in [10.0, 100.0, 1000.0] {
            for gap_s in [0.06, 0.6, 6.0] {
                let budget = Budget { gap_s, ..Budget::DEFAULT };
                let counted = symmetric(Next::Step { cross_traffic });
                for other in [home(), counted] {
                    let OverTcp::Way(found) = predict(&counted, &other, &budget) else { continue };
                    assert!(found.packets <= Some(CONNECTIONS), "{found:?}");
                    assert!(found.probability.is_some_and(|p| p > 0.5 && p < 1.0), "{found:?}");
                }
            }
        }
    }
}
