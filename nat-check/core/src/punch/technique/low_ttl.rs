//! Both open their own gateway with packets that die behind it, and only when both have, packets go all the way. Right
//! against routers that take whoever knocks first for the owner of the port, and never wrong.

use shared::rendezvous::{Technique, peer::RoundCandidates};

use super::{Means, cheap, simultaneous::has_udp};
use crate::punch::{
    attempt::{Attempt, Ended},
    introducer::IntroError,
    volley::Volley,
};

pub(super) const MEANS: Means = Means {
    technique: Technique::LowTtl,
    about: "both open their own gateway first, then send to each other",
    // Not needed where both are known not to remap.
    rounds: |pair| u32::from(has_udp(pair) && !pair.is_harmless()),
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    // A socket that the peer has never sent to.
    let fresh = attempt.fresh().await;
    let candidates = RoundCandidates { at: fresh.iter().map(|(_, at)| *at).collect(), next: None };
    let peer = attempt.meet(candidates).await?;
    let targets = attempt.targets(&peer.at);
    let shots: Vec<_> =
        fresh.into_iter().flat_map(|(socket, _)| targets.iter().map(move |to| (socket, *to))).collect();
    attempt.open_gateway(&shots).await?;
    Ok(attempt.volley(&Volley::short(shots)).await.into())
}
