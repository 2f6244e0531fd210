//! What TCP gives where UDP is blocked on one side or both. Of the peer's TCP nothing is known: what holds for every peer is
//! promised, what holds for most is told.

use shared::nat::{Filtering, Mapping};

use super::{HERE, THERE};
use crate::{
    report::{PeerOutcome, PeerVerdict, TcpReport},
    technique::Technique,
    verdict::predict::{
        Budget, Ports, Prediction,
        tcp::{OverTcp, TcpBehaviour, predict},
    },
};

/// A row for a peer with whom there is no UDP, given what it would be without TCP.
pub(super) fn row(without: PeerVerdict, tcp: Option<&TcpReport>) -> PeerVerdict {
    let relay = PeerVerdict {
        outcome: PeerOutcome::Relay,
        technique: Some(Technique::Relay),
        probability: Some(0.0),
        at_least: false,
        ..without.clone()
    };
    let without = PeerVerdict {
        outcome: PeerOutcome::Unknown,
        technique: None,
        probability: None,
        at_least: false,
        why: "UDP is blocked, and whether TCP gets through this side's NAT or firewall is not known".into(),
        ..without
    };
    let Some(here) = tcp.map(this_side).filter(|here| here.mapping.is_some()) else { return without };
    let over = |peer: &TcpBehaviour| predict(&here, peer, &Budget::DEFAULT);
    let with_all: Option<Vec<Prediction>> = PEERS.iter().map(|peer| way(over(peer))).collect();
    let least = |all: Vec<Prediction>| all.into_iter().min_by(|a, b| chance(a).total_cmp(&chance(b)));
    if let Some(found) = with_all.and_then(least) {
        return PeerVerdict {
            outcome: PeerOutcome::Direct,
            technique: Some(Technique::Tcp),
            probability: Some(floor(chance(&found))),
            at_least: true,
            why: "UDP is blocked, but over TCP anybody can connect to this side".into(),
            ..without
        };
    }
    let [.., usual] = &PEERS;
    match over(usual) {
        OverTcp::Way(found) => PeerVerdict {
            outcome: PeerOutcome::Unknown,
            technique: None,
            probability: None,
            why: format!(
                "UDP is blocked; over TCP both can connect at the same moment, with a chance of {} if the peer's external port \
                 does not depend on the destination, and its gateway lets crossing connections in and drops others (RFC 5382 REQ-1, \
                 REQ-2, REQ-4)",
                floor(chance(&found))
            ),
            ..without
        },
        OverTcp::Unknown(..) => without,
        none @ OverTcp::NoWay(_) => {
            PeerVerdict { why: format!("UDP is blocked, and {}", none.why(HERE, THERE)), ..relay }
        }
    }
}

/// Peers by their TCP, the usual one last.
const PEERS: [TcpBehaviour; 2] = [
    TcpBehaviour {
        mapping: Some(Mapping::AddressAndPortDependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        ports: Some(Ports::ANYWHERE),
        simultaneous_open: Some(false),
        refuses: Some(true),
    },
    TcpBehaviour {
        mapping: Some(Mapping::EndpointIndependent),
        filtering: Some(Filtering::AddressAndPortDependent),
        ports: None,
        simultaneous_open: Some(true),
        refuses: Some(false),
    },
];

/// This side, as far as it is sure.
fn this_side(tcp: &TcpReport) -> TcpBehaviour {
    let is_intercepted = tcp.intercepted.value == Some(true);
    TcpBehaviour {
        mapping: tcp.mapping.sure().copied().filter(|_| !is_intercepted),
        filtering: tcp.filtering.sure().copied(),
        ports: None,
        simultaneous_open: tcp.simultaneous_open.sure().copied(),
        // The usual peer's gateway drops, so that this side can go first.
        refuses: None,
    }
}

fn way(over_tcp: OverTcp) -> Option<Prediction> {
    match over_tcp {
        OverTcp::Way(found) => Some(found),
        OverTcp::Unknown(..) | OverTcp::NoWay(_) => None,
    }
}

fn chance(found: &Prediction) -> f64 {
    found.probability.unwrap_or(0.0)
}

/// As the table has it: four digits, never more than it is.
fn floor(chance: f64) -> f64 {
    (chance * 10_000.0).floor() / 10_000.0
}
