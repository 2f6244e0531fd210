//! The server under test too: which of its endpoints can be used, and what is wrong with it. Pure, from the ledger.

use std::net::{IpAddr, SocketAddr};

use crate::{
    ledger::{Answer, Ask, Ledger, Place, Trial},
    pace::RateLimit,
};

/// The server's four endpoints, as far as its first answer named a usable alternate address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    at: [Option<SocketAddr>; 4],
    fault: Option<AlternateFault>,
}

/// What is wrong with OTHER-ADDRESS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlternateFault {
    /// There is none: a server with a single address.
    Missing,
    /// It has the address that was asked: no second address.
    SameIp,
    /// It has the port that was asked: no second port.
    SamePort,
    /// It is of the other family, unspecified, multicast, or private where the server is public.
    Unusable(SocketAddr),
}

impl AlternateFault {
    /// The sentence for a person.
    #[must_use]
    pub fn sentence(self) -> String {
        match self {
            Self::Missing => "the server names no alternate address (OTHER-ADDRESS)".into(),
            Self::SameIp => "the server's alternate address has the same IP as its primary one".into(),
            Self::SamePort => "the server's alternate address has the same port as its primary one".into(),
            Self::Unusable(address) => {
                format!(
                    "the server names {address} as its alternate address, which cannot be reached from outside"
                )
            }
        }
    }
}

impl Places {
    /// Reads the alternate address from the answer that came first; later ones come from other endpoints, whose
    /// alternate is another.
    #[must_use]
    pub fn of(primary: SocketAddr, ledger: &Ledger) -> Self {
        let first = ledger
            .trials
            .iter()
            .filter(|t| t.to == primary)
            .flat_map(Trial::successes)
            .filter(|a| a.from == primary)
            .min_by_key(|a| a.at);
        let Some(answer) = first else {
            return Self { at: [Some(primary), None, None, None], fault: None };
        };
        Self::judge(primary, answer.other)
    }

    fn judge(primary: SocketAddr, other: Option<SocketAddr>) -> Self {
        let mut at = [Some(primary), None, None, None];
        let Some(other) = other else {
            return Self { at, fault: Some(AlternateFault::Missing) };
        };
        if other.is_ipv4() != primary.is_ipv4() || !reachable(other, primary) {
            return Self { at, fault: Some(AlternateFault::Unusable(other)) };
        }
        let (new_ip, new_port) = (other.ip() != primary.ip(), other.port() != primary.port());
        for place in Place::ALL {
            if (!place.other_ip || new_ip) && (!place.other_port || new_port) {
                let ip = if place.other_ip { other.ip() } else { primary.ip() };
                let port = if place.other_port { other.port() } else { primary.port() };
                at[index(place)] = Some(SocketAddr::new(ip, port));
            }
        }
        let fault = match (new_ip, new_port) {
            (true, true) => None,
            (false, _) => Some(AlternateFault::SameIp),
            (true, false) => Some(AlternateFault::SamePort),
        };
        Self { at, fault }
    }

    /// The address of an endpoint, if the server has it.
    #[must_use]
    pub fn get(&self, place: Place) -> Option<SocketAddr> {
        self.at[index(place)]
    }

    /// The endpoint at an address.
    #[must_use]
    pub fn place_of(&self, address: SocketAddr) -> Option<Place> {
        Place::ALL.into_iter().find(|&p| self.get(p) == Some(address))
    }

    /// What is wrong with the alternate address, if anything.
    #[must_use]
    pub fn fault(&self) -> Option<AlternateFault> {
        self.fault
    }
}

fn index(place: Place) -> usize {
    usize::from(place.other_ip) * 2 + usize::from(place.other_port)
}

/// Whether an address that a server at `server` names can be meant for those who reach that server.
fn reachable(named: SocketAddr, server: SocketAddr) -> bool {
    named.port() != 0
        && !named.ip().is_unspecified()
        && !named.ip().is_multicast()
        && (scope(named.ip()) == scope(server.ip()) || scope(server.ip()) != Scope::Global)
}

#[derive(PartialEq, Eq)]
enum Scope {
    Loopback,
    Private,
    Global,
}

fn scope(ip: IpAddr) -> Scope {
    let private = match ip {
        IpAddr::V4(v4) => {
            // 100.64/10 is the carriers' own realm (RFC 6598).
            v4.is_private()
                || v4.is_link_local()
                || v4.is_broadcast()
                || (v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local(),
    };
    match (ip.is_loopback(), private) {
        (true, _) => Scope::Loopback,
        (false, true) => Scope::Private,
        (false, false) => Scope::Global,
    }
}

/// What is wrong with the server, or with the way to it: each a sentence.
#[must_use]
pub fn faults(ledger: &Ledger) -> Vec<String> {
    let places = Places::of(ledger.server, ledger);
    let alive = ledger.trials.iter().any(|t| t.direct().is_some());
    FAULTS.iter().filter(|_| alive).flat_map(|find| find(ledger, &places)).collect()
}

/// One kind of fault: the sentences that it makes.
type FindFault = fn(&Ledger, &Places) -> Vec<String>;

const FAULTS: &[FindFault] = &[
    |_, places| places.fault().map(AlternateFault::sentence).into_iter().collect(),
    dead_endpoints,
    lying_origin,
    wrong_alternate,
    |ledger, _| {
        let ignored = ledger.trials.iter().any(|t| matches!(t.ask, Ask::From(_)) && t.direct().is_some());
        let sentence = "it ignores CHANGE-REQUEST: it answers from the address that was asked";
        ignored.then(|| sentence.to_owned()).into_iter().collect()
    },
    |ledger, _| {
        let only = ledger.dialect() == Some(shared::stun::Dialect::Classic);
        let sentence = "it answers classic requests (RFC 3489) only, not modern ones (RFC 8489)";
        only.then(|| sentence.to_owned()).into_iter().collect()
    },
    |ledger, _| {
        let sentence = |l: RateLimit| {
            format!(
                "it seems to limit the rate: of {} requests at once it answered the first {}",
                l.of, l.answered
            )
        };
        RateLimit::seen(ledger, ledger.ripe).map(sentence).into_iter().collect()
    },
    slow,
    |ledger, _| crate::probe::filtering::half_hearted(ledger).into_iter().collect(),
    |ledger, _| {
        let doubled = ledger
            .trials
            .iter()
            .filter(|t| t.ask == Ask::Plain && t.successes().filter(|a| a.from == t.to).count() > 1)
            .count();
        let sentence = || format!("{doubled} of its answers came more than once");
        (doubled > 1).then(sentence).into_iter().collect()
    },
    |ledger, _| {
        let garbage = ledger.strays.garbage;
        let sentence = || format!("{garbage} datagrams that are not STUN came in beside its answers");
        (garbage > 0).then(sentence).into_iter().collect()
    },
    |ledger, _| ledger.objection.iter().map(|o| format!("its answers are not sound STUN: {o}")).collect(),
];

/// A server that takes its time, told from a long way by the TCP handshake, which the system answers at once.
fn slow(ledger: &Ledger, _: &Places) -> Vec<String> {
    let (Some(quickest), Some(handshake)) = (ledger.quickest(), ledger.handshake) else { return Vec::new() };
    let sentence = || {
        let (answer, way) = (quickest.as_secs_f64(), handshake.as_secs_f64());
        format!("it is slow: an answer takes {answer:.2} s, though the way there and back takes {way:.2} s")
    };
    let slow = quickest > handshake * 3 + std::time::Duration::from_millis(100);
    slow.then(sentence).into_iter().collect()
}

fn dead_endpoints(ledger: &Ledger, places: &Places) -> Vec<String> {
    let asked = |endpoint: SocketAddr| {
        let ripe = |t: &&Trial| t.to == endpoint && t.ask == Ask::Plain && t.sent <= ledger.ripe;
        ledger.trials.iter().filter(ripe).count()
    };
    let lossless = ledger.controls(ledger.ripe).filter(|t| !t.returned()).count() == 0;
    // Loss may swallow a few requests, hardly more.
    let enough = if lossless { 2 } else { 6 };
    Place::ALL
        .into_iter()
        .filter_map(|place| places.get(place))
        .filter(|&endpoint| asked(endpoint) >= enough && !ledger.is_alive(endpoint))
        .map(|endpoint| format!("its endpoint {endpoint} does not answer from here"))
        .collect()
}

fn lying_origin(ledger: &Ledger, _: &Places) -> Vec<String> {
    let lie = ledger.trials.iter().flat_map(Trial::successes).find(|a| a.origin.is_some_and(|o| o != a.from));
    let sentence = |a: &Answer| {
        let origin = a.origin.map(|o| o.to_string()).unwrap_or_default();
        format!("it says that an answer came from {origin} (RESPONSE-ORIGIN), but it came from {}", a.from)
    };
    lie.map(sentence).into_iter().collect()
}

/// Each endpoint must name as its other the one that differs in both IP and port.
fn wrong_alternate(ledger: &Ledger, places: &Places) -> Vec<String> {
    if places.fault().is_some() {
        return Vec::new();
    }
    let wrong = |trial: &&Trial| {
        let other = trial.direct().and_then(|a| a.other);
        other.is_some_and(|o| o.ip() == trial.to.ip() || o.port() == trial.to.port())
    };
    let sentence = |t: &Trial| {
        let other = t.direct().and_then(|a| a.other).map(|o| o.to_string()).unwrap_or_default();
        format!(
            "asked at {}, it names {other} as its alternate address, which does not differ in both IP and port",
            t.to
        )
    };
    let plain = ledger.trials.iter().filter(|t| t.ask == Ask::Plain);
    plain.filter(|t| t.to != ledger.server).find(wrong).map(sentence).into_iter().collect()
}
