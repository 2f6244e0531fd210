//! Both send to each other's external endpoint at the same moment: each gateway takes the other's packet for an answer.

use shared::rendezvous::Technique;

use super::{Means, cheap};
use crate::punch::{
    attempt::{Attempt, Ended},
    forecast::Pair,
    introducer::IntroError,
    volley::Volley,
};

pub(super) const MEANS: Means = Means {
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
    let targets = attempt.targets(&attempt.pair.peers.external);
    let shots = attempt.first.into_iter().flat_map(|socket| targets.iter().map(move |to| (socket, *to)));
    let volley = Volley::short(shots.collect());
    Ok(attempt.volley(&volley).await.into())
}
