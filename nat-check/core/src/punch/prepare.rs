//! What the two try before they predict, where nothing but trying shows it: whether their local network lets them talk to
//! each other, and how many mappings a NAT gives for ports that are to be guessed. Only if both offers say so, since both
//! take the same steps.

use std::{net::SocketAddr, time::Duration};

use shared::rendezvous::peer::{PeerMessage, Prepared, RoundCandidates};

use super::{
    Audience, Note,
    attempt::Attempt,
    burst::{Burst, SEND_INTERVAL, pairs},
    introducer::IntroError,
    sockets::Asked,
    technique::birthday_opens,
};
use crate::{technique::Technique, verdict::predict::Who};

/// How long neighbours ping each other: four times.
const LAN_WINDOW: Duration = Duration::from_millis(300);
/// So many sockets are opened towards the peer, then one towards the server, which shows whether there still are mappings.
const GROUP: usize = 8;
/// Passes in which those that were not answered are asked again.
const PASSES: usize = 3;
/// Sockets that are looked at together for what the NAT has dropped.
const FEW: usize = 4;

/// Takes those steps that can change the prediction.
pub(super) async fn run(attempt: &mut Attempt, audience: &dyn Audience) -> Result<(), IntroError> {
    if !(attempt.pair.mine.prepares && attempt.pair.peers.prepares) {
        return Ok(());
    }
    if attempt.pair.may_share_network() && attempt.pair.agrees_on(Technique::Lan) {
        let targets = pairs(attempt.first.as_slice(), &attempt.contactable(&attempt.pair.peers.lan));
        let burst = Burst { window: LAN_WINDOW, ..Burst::short(targets) };
        let lan = attempt.burst(&burst).await.report.through;
        let theirs = tell(attempt, Prepared { lan, mappings: None }).await?;
        attempt.pair.lan_passes = Some(lan || theirs.lan);
    }
    let is_expected = attempt.pair.forecast().technique == Some(Technique::Birthday);
    match birthday_opens(&attempt.pair).filter(|_| is_expected) {
        Some((opener, sockets)) => {
            let told =
                format!("{}: up to {sockets} mappings are opened before the prediction", Technique::Birthday);
            audience.note(Note::Warning(&told));
            open(attempt, opener, sockets).await
        }
        None => Ok(()),
    }
}

async fn tell(attempt: &mut Attempt, mine: Prepared) -> Result<Prepared, IntroError> {
    match attempt.introducer.exchange(PeerMessage::Prepared(mine)).await? {
        PeerMessage::Prepared(theirs) => Ok(theirs),
        _ => Err(IntroError::BadPeerMessage),
    }
}

/// Opens the sockets that are to be hit, and expects no more of them than have got a mapping.
async fn open(attempt: &mut Attempt, opener: Who, sockets: usize) -> Result<(), IntroError> {
    let fresh = attempt.fresh().await;
    let at = fresh.iter().map(|(_, at)| *at).collect();
    attempt.opened.extend(fresh.map(|(socket, _)| socket));
    let peer = attempt.meet(RoundCandidates { at, next: None }).await?;
    let is_opener = attempt.pair.who() == opener;
    let mut mapped = 0;
    if is_opener && let Some(target) = attempt.vouched(&peer.at) {
        attempt.opened = mapped_sockets(attempt, target, sockets).await;
        mapped = attempt.opened.len();
    }
    let mappings = is_opener.then(|| u32::try_from(mapped).unwrap_or(u32::MAX));
    let theirs = tell(attempt, Prepared { lan: false, mappings }).await?;
    attempt.pair.limit_sockets(mappings.or(theirs.mappings).unwrap_or(0));
    Ok(())
}

/// Sockets with a mapping towards the peer. A NAT cannot be asked which it has given, but gives them in order: where a
/// later one towards the server is answered, all those before it had room.
async fn mapped_sockets(attempt: &mut Attempt, target: SocketAddr, wanted: usize) -> Vec<usize> {
    let Some((server, ip)) = attempt.servers.v4 else { return Vec::new() };
    let ttl = attempt.opener_ttl();
    let mut sockets = std::mem::take(&mut attempt.opened);
    let mut probes: Vec<Asked> = Vec::new();
    let mut opened = 0;
    while opened < wanted {
        while sockets.len() < opened + GROUP {
            let Ok(socket) = attempt.sockets.open(ip).await else { break };
            sockets.push(socket);
        }
        let group = &sockets[opened..(opened + GROUP).min(sockets.len())];
        let Ok(probe) = attempt.sockets.open(ip).await else { break };
        if group.len() < GROUP {
            break;
        }
        attempt.send_all(&pairs(group, &[target]), ttl, SEND_INTERVAL).await;
        opened += GROUP;
        probes.push(attempt.sockets.ask(probe, server).await);
        tokio::time::sleep(SEND_INTERVAL).await;
    }
    attempt.sockets.endpoints(&mut probes, server, PASSES).await;
    let Some(last) = probes.iter().rposition(|probe| probe.at.is_some()) else { return Vec::new() };
    let first = first_kept(attempt, &probes[..=last], server).await;
    sockets.drain(first * GROUP..(last + 1) * GROUP).collect()
}

/// The first of these that still has the mapping that it had. A NAT that drops the oldest mapping for a new one gives
/// another one to whoever asks again; so the newest ones are asked first.
async fn first_kept(attempt: &mut Attempt, probes: &[Asked], server: SocketAddr) -> usize {
    let mut few = probes.len();
    let oldest = probes.iter().position(|probe| probe.at.is_some()).unwrap_or(few);
    if is_kept(attempt, &probes[oldest..few.min(oldest + 1)], server).await {
        return 0;
    }
    while few > 0 {
        let next = few.saturating_sub(FEW);
        if !is_kept(attempt, &probes[next..few], server).await {
            break;
        }
        few = next;
    }
    few
}

/// Whether none of these is seen at another endpoint than before.
async fn is_kept(attempt: &mut Attempt, probes: &[Asked], server: SocketAddr) -> bool {
    let mut again = Vec::new();
    for probe in probes.iter().rev() {
        again.push(attempt.sockets.ask(probe.socket, server).await);
    }
    attempt.sockets.endpoints(&mut again, server, PASSES).await;
    let same =
        |(before, now): (&Asked, &Asked)| before.at.is_none() || now.at.is_none() || before.at == now.at;
    probes.iter().rev().zip(&again).all(same)
}
