//! What the two try before they predict, where nothing but trying shows it: whether their local network lets them talk to
//! each other, and how many mappings a NAT gives for ports that are to be guessed. Only if both offers say so, since both
//! take the same steps.

use std::{net::SocketAddr, ops::Range, time::Duration};

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
/// How long the answers may take.
const ANSWERED_BY: Duration = Duration::from_millis(1250);
/// So many in a row that are not answered have got no mapping, or none that lasted: loss hardly ever takes as many.
const FULL: usize = 4;
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
/// later one towards the server is answered, those before it had room, unless it drops old mappings for new ones.
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
    // Not asked again: that could be answered because an older mapping has expired meanwhile.
    attempt.sockets.hear(&mut probes, ANSWERED_BY).await;
    let answered: Vec<bool> = probes.iter().map(|probe| probe.at.is_some()).collect();
    let mut groups = had_room(&answered);
    if let Some(oldest) = oldest_kept(attempt, &probes[groups.clone()], server).await {
        // What is older than the oldest probe that is still there may be gone.
        groups.start += oldest + 1;
    }
    sockets.drain(groups.start * GROUP..groups.end.max(groups.start) * GROUP).collect()
}

/// The groups that have got mappings, by the answers to the probes that followed them. Where a NAT gives no more, nothing
/// is answered any more, save where an old mapping expires; where it drops old ones, the first answers come too late.
fn had_room(answered: &[bool]) -> Range<usize> {
    let mut best = 0..0;
    let (mut start, mut silent, mut heard, mut most) = (0, 0, 0, 0);
    for (at, &was_answered) in answered.iter().enumerate() {
        if was_answered {
            (silent, heard) = (0, heard + 1);
            if heard > most {
                (most, best) = (heard, start..at + 1);
            }
        } else {
            silent += 1;
            if silent >= FULL {
                (start, heard) = (at + 1, 0);
            }
        }
    }
    best
}

/// The oldest of these that still has the mapping that it had; none = nothing is dropped. A NAT that drops the oldest mapping
/// for a new one gives another one to whoever asks again; so the newest ones are asked first.
async fn oldest_kept(attempt: &mut Attempt, probes: &[Asked], server: SocketAddr) -> Option<usize> {
    let oldest = probes.iter().position(|probe| probe.at.is_some())?;
    if kept(attempt, &probes[oldest..=oldest], server).await == 1 {
        return None;
    }
    let mut left = probes.len();
    while left > 0 {
        let few = &probes[left.saturating_sub(FEW)..left];
        let same = kept(attempt, few, server).await;
        left -= same;
        if same < few.len() {
            break;
        }
    }
    Some(left)
}

/// How many of these, from the newest on, are seen at the same endpoint as before.
async fn kept(attempt: &mut Attempt, probes: &[Asked], server: SocketAddr) -> usize {
    let mut again = Vec::new();
    for probe in probes.iter().rev() {
        again.push(attempt.sockets.ask(probe.socket, server).await);
    }
    attempt.sockets.endpoints(&mut again, server, PASSES).await;
    let same =
        |(before, now): &(&Asked, &Asked)| before.at.is_none() || now.at.is_none() || before.at == now.at;
    probes.iter().rev().zip(&again).take_while(same).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_had_room_where_probes_were_answered() {
        let groups = |answered: &str| had_room(&answered.chars().map(|c| c == '+').collect::<Vec<_>>());
        assert_eq!(groups("++++++++"), 0..8);
        assert_eq!(groups("-++-+--+"), 0..8, "some are lost");
        assert_eq!(groups("--------"), 0..0);
        assert_eq!(groups("++-+----------+---"), 0..4, "an old mapping expired later on");
        assert_eq!(groups("-----------+++-+"), 11..16, "old ones are dropped");
    }
}
