//! Straight to each other's address on the local network: for two behind the same NAT.

use std::time::Duration;

use shared::rendezvous::Technique;

use super::{Means, cheap};
use crate::punch::{
    attempt::{Attempt, Ended},
    introducer::IntroError,
    volley::Volley,
};

pub(super) const MEANS: Means = Means {
    technique: Technique::Lan,
    about: "to each other's address on the local network",
    rounds: |pair| u32::from(pair.neighbours && !pair.mine.lan.is_empty() && !pair.peers.lan.is_empty()),
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

/// A local network answers soon or never.
const WINDOW: Duration = Duration::from_secs(1);

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let targets = attempt.targets(&attempt.pair.peers.lan);
    let shots = attempt.first.into_iter().flat_map(|socket| targets.iter().map(move |to| (socket, *to)));
    let volley = Volley { window: WINDOW, ..Volley::short(shots.collect()) };
    Ok(attempt.volley(&volley).await.into())
}
