//! The techniques, and the one list of them. To add one: a file, a line in [`MEANS`], a word in
//! [`shared::rendezvous::Technique`].

use shared::rendezvous::Technique;

use super::{
    attempt::{Attempt, Ended},
    forecast::Pair,
    introducer::IntroError,
};
use crate::net::Boxed;

mod birthday;
mod ipv6;
mod lan;
mod low_ttl;
mod prediction;
mod simultaneous;
mod tcp;

pub(super) use tcp::side as tcp_side;

/// A technique.
#[derive(Clone, Copy)]
pub(super) struct Means {
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

/// Every technique, in the order of [`Technique::ALL`]: what costs little comes first.
pub(super) const MEANS: &[Means] = &[
    lan::MEANS,
    simultaneous::MEANS,
    low_ttl::MEANS,
    ipv6::MEANS,
    prediction::MEANS,
    tcp::MEANS,
    birthday::MEANS,
];

/// What is to be tried, round by round: what is most promising comes first, unless it takes long. Both sides come to the
/// same list, since both know the same of each other.
pub(super) fn plan(pair: &Pair) -> Vec<&'static Means> {
    let promising = pair.forecast().technique.filter(|technique| *technique != Technique::Birthday);
    let mut means: Vec<&Means> = MEANS.iter().filter(|means| pair.agrees_on(means.technique)).collect();
    means.sort_by_key(|means| Some(means.technique) != promising);
    means.into_iter().flat_map(|means| (0..(means.rounds)(pair)).map(move |_| means)).collect()
}

fn cheap(_: &Pair) -> Option<String> {
    None
}
