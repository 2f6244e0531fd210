//! Both send to each other's IPv6 address at the same moment: no port to guess, only firewalls to open.

use shared::rendezvous::peer::{Offer, RoundCandidates};

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
        Some((server, ip)) => attempt.sockets.open_seen(ip, server).await,
        None => None,
    };
    let (sockets, at): (Vec<_>, Vec<_>) = fresh.into_iter().unzip();
    let peer = attempt.meet(RoundCandidates { at, next: None }).await?;
    let v6: Vec<_> = peer.at.into_iter().filter(|at| at.is_ipv6()).collect();
    // No gateway in between translates, so none can remap.
    let targets = pairs(&sockets, &attempt.contactable(&v6));
    Ok(attempt.burst(&Burst::short(targets)).await.into())
}
