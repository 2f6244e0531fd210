//! Both open their own gateway with packets that expire behind it, and only when both have, packets go all the way. Right
//! against routers that give the port to whoever sends first, and never wrong.

use shared::rendezvous::peer::RoundCandidates;

use super::{Method, cheap, simultaneous::has_udp};
use crate::{
    punch::{
        attempt::{Attempt, Ended},
        burst::{Burst, pairs},
        introducer::IntroError,
    },
    technique::Technique,
};

pub(super) const METHOD: Method = Method {
    technique: Technique::LowTtl,
    about: "both open their own gateway first, then send to each other",
    // Not needed where both are known not to remap.
    rounds: |pair| u32::from(has_udp(pair) && !pair.is_harmless()),
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    // A socket that the peer has never sent to.
    let (sockets, at): (Vec<_>, Vec<_>) = attempt.fresh().await.into_iter().unzip();
    let peer = attempt.meet(RoundCandidates { at, next: None }).await?;
    let targets = pairs(&sockets, &attempt.reachable(&peer.at));
    attempt.open_gateway(&targets).await?;
    Ok(attempt.burst(&Burst::short(targets)).await.into())
}
