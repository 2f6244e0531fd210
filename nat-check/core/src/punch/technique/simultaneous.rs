//! Both send to each other's external endpoint at the same moment: each gateway takes the other's packet for an answer.

use super::{Method, cheap};
use crate::{
    punch::{
        attempt::{Attempt, Ended},
        burst::{Burst, pairs},
        forecast::Pair,
        introducer::IntroError,
    },
    technique::Technique,
};

pub(super) const METHOD: Method = Method {
    technique: Technique::Simultaneous,
    about: "both send to each other's external endpoint at the same moment",
    rounds: |pair| u32::from(has_udp(pair) && !pair.remaps()),
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

/// Whether both have an external endpoint to send to.
pub(super) fn has_udp(pair: &Pair) -> bool {
    !pair.mine.external.is_empty() && !pair.peers.external.is_empty()
}

/// The offers told where both are, so nothing has to be said before.
async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let targets = pairs(attempt.first.as_slice(), &attempt.reachable(&attempt.pair.peers.external));
    Ok(attempt.burst(&Burst::short(targets)).await.into())
}
