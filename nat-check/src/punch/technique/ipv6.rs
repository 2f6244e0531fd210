//! Both send to each other's IPv6 address at the same moment: no port to guess, only firewalls to open.

use shared::rendezvous::{Hint, Technique};

use super::{Means, cheap};
use crate::punch::{
    attempt::{Attempt, Ended},
    introducer::IntroError,
    volley::Volley,
};

pub(super) const MEANS: Means = Means {
    technique: Technique::Ipv6,
    about: "both send to each other's IPv6 address at the same moment",
    rounds: |pair| u32::from(pair.mine.ipv6 && pair.peers.ipv6),
    cost: cheap,
    run: |attempt| Box::pin(run(attempt)),
};

async fn run(attempt: &mut Attempt) -> Result<Ended, IntroError> {
    let mut fresh = None;
    if let Some((server, ip)) = attempt.servers.v6
        && let Ok(socket) = attempt.post.open(ip).await
        && let Some(at) = attempt.post.ask(socket, server).await
    {
        fresh = Some((socket, at));
    }
    let hint = Hint { at: fresh.iter().map(|(_, at)| *at).collect(), next: None };
    let peer = attempt.meet(hint).await?;
    let targets: Vec<_> = attempt.targets(&peer.at).into_iter().filter(|to| to.is_ipv6()).collect();
    let shots = fresh.into_iter().flat_map(|(socket, _)| targets.iter().map(move |to| (socket, *to)));
    let volley = Volley::short(shots.collect());
    attempt.volley(&volley).await.map(Ended::from)
}
