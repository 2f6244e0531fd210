//! Both send to each other's IPv6 address at the same moment: no port to guess, only firewalls to open.

use shared::rendezvous::{
    Technique,
    peer::{Offer, RoundCandidates},
};

use super::{Means, cheap};
use crate::punch::{
    attempt::{Attempt, Ended},
    introducer::IntroError,
    volley::Volley,
};

pub(super) const MEANS: Means = Means {
    technique: Technique::Ipv6,
    about: "both send to each other's IPv6 address at the same moment",
    rounds: |pair| {
        let passes = |offer: &Offer| offer.ipv6.as_ref().is_some_and(|behaviour| behaviour.udp);
        u32::from(passes(&pair.mine) && passes(&pair.peers))
    },
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let fresh = match attempt.servers.v6 {
        Some((server, ip)) => attempt.post.open_seen(ip, server).await,
        None => None,
    };
    let candidates = RoundCandidates { at: fresh.iter().map(|(_, at)| *at).collect(), next: None };
    let peer = attempt.meet(candidates).await?;
    let targets: Vec<_> = attempt.targets(&peer.at).into_iter().filter(|to| to.is_ipv6()).collect();
    let shots = fresh.into_iter().flat_map(|(socket, _)| targets.iter().map(move |to| (socket, *to)));
    // No gateway in between translates, so none can remap.
    Ok(attempt.volley(&Volley::short(shots.collect())).await.into())
}
