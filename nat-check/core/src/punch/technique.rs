//! The techniques of an attempt, and the one list of them. To add one: a file, a line in [`METHODS`], a word in
//! [`Technique`] and one on the wire in [`WireTechnique`].

use shared::rendezvous::peer::WireTechnique;

use super::{
    attempt::{Attempt, Ended},
    forecast::Pair,
    introducer::IntroError,
};
use crate::{net::Boxed, technique::Technique};

mod birthday;
mod browser;
mod ipv6;
mod lan;
mod low_ttl;
mod prediction;
mod simultaneous;
mod tcp;

pub(super) use birthday::opens as birthday_opens;
pub(super) use browser::obstacle as browser_obstacle;
pub(super) use tcp::external as tcp_external;

/// How a technique is carried out.
#[derive(Clone, Copy)]
pub(super) struct Method {
    pub(super) technique: Technique,
    /// What it does, in a line.
    pub(super) about: &'static str,
    /// How many rounds it is worth for a pair; none where it cannot help.
    pub(super) rounds: fn(&Pair) -> u32,
    /// What it costs, where that is much.
    pub(super) cost: fn(&Pair) -> Option<String>,
    /// One round of it.
    pub(super) run: for<'a> fn(&'a mut Attempt) -> Boxed<'a, Result<Ended, IntroError>>,
}

/// Every technique, in the order of [`Technique::ATTEMPTS`]: what costs little comes first.
pub(super) const METHODS: &[Method] = &[
    lan::METHOD,
    simultaneous::METHOD,
    low_ttl::METHOD,
    ipv6::METHOD,
    prediction::METHOD,
    tcp::METHOD,
    birthday::METHOD,
];

/// What is to be tried, round by round: what is most promising comes first, unless it takes long. Both sides come to the
/// same list, since both know the same of each other.
pub(super) fn plan(pair: &Pair) -> Vec<&'static Method> {
    if pair.has_browser() {
        return browser::plan(pair);
    }
    let promising = pair.forecast().technique.filter(|technique| *technique != Technique::Birthday);
    let mut methods: Vec<&Method> =
        METHODS.iter().filter(|method| pair.agrees_on(method.technique)).collect();
    methods.sort_by_key(|method| Some(method.technique) != promising);
    methods.into_iter().flat_map(|method| (0..(method.rounds)(pair)).map(move |_| method)).collect()
}

impl Technique {
    /// The word for it between two clients; none where there is nothing to agree on.
    pub(super) fn on_wire(self) -> Option<WireTechnique> {
        match self {
            Self::Lan => Some(WireTechnique::Lan),
            Self::Simultaneous => Some(WireTechnique::Simultaneous),
            Self::LowTtl => Some(WireTechnique::LowTtl),
            Self::Ipv6 => Some(WireTechnique::Ipv6),
            Self::Prediction => Some(WireTechnique::Prediction),
            Self::Tcp => Some(WireTechnique::Tcp),
            Self::Birthday => Some(WireTechnique::Birthday),
            Self::Direct | Self::Relay => None,
        }
    }

    /// The one of this word.
    pub(super) fn of_wire(word: WireTechnique) -> Option<Self> {
        Self::ATTEMPTS.into_iter().find(|technique| technique.on_wire() == Some(word))
    }
}

fn cheap(_: &Pair) -> Option<String> {
    None
}
