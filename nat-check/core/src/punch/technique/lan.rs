//! To each other's address on the local network: for two behind the same NAT.

use std::time::Duration;

use super::{Method, cheap};
use crate::{
    punch::{
        attempt::{Attempt, Ended},
        burst::{Burst, pairs},
        introducer::IntroError,
    },
    technique::Technique,
};

pub(super) const METHOD: Method = Method {
    technique: Technique::Lan,
    about: "to each other's address on the local network",
    rounds: |pair| u32::from(pair.may_share_network()),
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

/// A local network answers soon or never.
const WINDOW: Duration = Duration::from_secs(1);

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let targets = pairs(attempt.first.as_slice(), &attempt.contactable(&attempt.pair.peers.lan));
    let burst = Burst { window: WINDOW, ..Burst::short(targets) };
    Ok(attempt.burst(&burst).await.into())
}
