//! What all techniques share: sockets, the introducer, what is known of both sides, and the steps that rounds are
//! made of.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::rendezvous::peer::{NextPort, PeerMessage, RoundCandidates};

use super::{
    burst::{Burst, FIRST_PASS_INTERVAL, Path},
    checks::{self, Outcome, RoundContext},
    forecast::Pair,
    ice::Ice,
    introducer::{IntroError, Introducer},
    sockets::Sockets,
    wire::{Keys, Stamps},
};
use crate::{
    contactable::LOWEST_PORT,
    net::{Net, Stream},
    verdict::predict::ADDRESSES_TRIED,
};

/// An attempt under way.
pub(super) struct Attempt {
    pub(super) net: Arc<dyn Net>,
    pub(super) sockets: Sockets,
    pub(super) introducer: Introducer,
    pub(super) pair: Pair,
    pub(super) keys: Keys,
    /// How a browser is met; none where the peer is none.
    pub(super) ice: Option<Ice>,
    pub(super) stamps: Stamps,
    /// Whom to ask for one's own external endpoint.
    pub(super) servers: Servers,
    /// The socket that the offer tells of.
    pub(super) first: Option<usize>,
    /// Sockets for guesses that were opened before the prediction.
    pub(super) opened: Vec<usize>,
    pub(super) round: u8,
    /// Where the server has seen the sockets of this round.
    pub(super) seen: Seen,
}

/// Where the server has seen the sockets of both.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) mine: Vec<SocketAddr>,
    pub(super) peers: Vec<SocketAddr>,
}

/// The server's endpoints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Servers {
    /// Over IPv4, and the address that packets to it leave from.
    pub(super) v4: Option<(SocketAddr, IpAddr)>,
    /// Its other endpoint.
    pub(super) other: Option<SocketAddr>,
    /// Over IPv6, and the address that packets to it leave from.
    pub(super) v6: Option<(SocketAddr, IpAddr)>,
}

impl Servers {
    /// All of them.
    pub(super) fn endpoints(&self) -> Vec<SocketAddr> {
        let own = [self.v4, self.v6].into_iter().flatten().map(|(server, _)| server);
        own.chain(self.other).collect()
    }
}

/// What came of a round over any transport.
pub(super) struct Ended {
    pub(super) outcome: Outcome,
    /// The connection, where it is one.
    pub(super) stream: Option<Box<dyn Stream>>,
}

impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, stream: None }
    }
}

/// Times to live of packets that are to open the own gateways only, where it was not measured how far those are: one
/// after the other, so that the nearest router is opened before the next one is reached. Two gateways in a row are usual,
/// and the way to a peer is hardly shorter than this.
const LIKELY_TTLS: [u8; 4] = [2, 3, 4, 5];
/// The one that is most likely right, for so many packets that they are sent once only.
const LIKELIEST_TTL: u8 = 3;
/// Each opener is sent so often: it may get lost before the gateway.
const OPENERS: usize = 2;
pub(super) const USUAL_TTL: u32 = 64;
/// Answers to the last packets of a round are waited for no longer than this.
const LONGEST_GRACE: Duration = Duration::from_secs(1);
/// Endpoints of one list that are tried.
const FEW: usize = ADDRESSES_TRIED as usize;
/// Sockets that are opened for one at the right one of several external addresses, for each of these: among two the
/// right one is missed once in 256 times, among four once in 100.
const SOCKETS_AN_ADDRESS: usize = 4;
const MOST_SOCKETS: usize = 16;

impl Attempt {
    /// A fresh IPv4 socket and its external endpoint: behind several external addresses one at the address that the
    /// server vouches for, where chance gives one, since the peer may send but little to others.
    pub(super) async fn fresh(&mut self) -> Option<(usize, SocketAddr)> {
        let (server, ip) = self.servers.v4?;
        let several = self.pair.mine.behaviour.addresses.len();
        let mut fresh = self.sockets.open_seen(ip, server).await?;
        for _ in 1..(several * SOCKETS_AN_ADDRESS).min(MOST_SOCKETS) {
            if several < 2 || fresh.1.ip() == self.pair.you {
                break;
            }
            fresh = self.sockets.open_seen(ip, server).await?;
        }
        Some(fresh)
    }

    /// A socket whose next mapping gets a port that can be predicted, by how this side's NAT chooses them. The two have to begin
    /// with it at the same moment: others take ports while one waits for the other.
    pub(super) async fn predictable(&mut self) -> Option<(usize, RoundCandidates)> {
        let ports = self.pair.mine.behaviour.ports.clone()?;
        let (main, at) = self.fresh().await?;
        match ports.delta {
            // The sample is the last thing that happens before both go.
            Some(step) => {
                let port = at_step(at.port(), step, 1);
                Some((main, RoundCandidates { at: vec![at], next: Some(NextPort { port, step }) }))
            }
            None => {
                let spare = self.sockets.open(self.servers.v4?.1).await.ok()?;
                let port = self.sockets.local(spare)?.port();
                Some((spare, RoundCandidates { at: vec![at], next: Some(NextPort { port, step: 1 }) }))
            }
        }
    }

    /// Tells the peer where this side will be, and learns the same of it; both go on at the same moment.
    pub(super) async fn meet(&mut self, candidates: RoundCandidates) -> Result<RoundCandidates, IntroError> {
        if !candidates.at.is_empty() {
            self.seen.mine.clone_from(&candidates.at);
        }
        match self.introducer.exchange(PeerMessage::RoundCandidates(candidates)).await? {
            PeerMessage::RoundCandidates(candidates) => {
                if !candidates.at.is_empty() {
                    self.seen.peers.clone_from(&candidates.at);
                }
                Ok(candidates)
            }
            _ => Err(IntroError::BadPeerMessage),
        }
    }

    /// Sends and listens.
    pub(super) async fn burst(&mut self, burst: &Burst) -> Outcome {
        checks::run(&mut self.context(), burst).await
    }

    /// Opens the own gateways for these targets, and waits until the peer has opened its own.
    pub(super) async fn open_gateway(&mut self, targets: &[Path]) -> Result<(), IntroError> {
        let (mine, peers) = (opener_ttls(self.pair.mine.opener_ttl), opener_ttls(self.pair.peers.opener_ttl));
        for step in 0..mine.len().max(peers.len()) {
            if let Some(ttl) = mine.get(step) {
                // Many are not sent twice, and quickly: others must not take the ports in between.
                for _ in 0..if targets.len() > FEW { 1 } else { OPENERS } {
                    self.send_all(targets, (*ttl).into(), FIRST_PASS_INTERVAL).await;
                }
            }
            // No packet that gets further may leave before the other side has opened this far.
            self.meet(RoundCandidates::default()).await?;
        }
        Ok(())
    }

    /// Sends one ping to every target with this time to live, so far apart.
    pub(super) async fn send_all(&mut self, targets: &[Path], ttl: u32, apart: Duration) {
        let mut sockets: Vec<usize> = targets.iter().map(|target| target.socket).collect();
        sockets.dedup();
        sockets.iter().for_each(|socket| self.sockets.set_ttl(*socket, ttl));
        checks::send_all(&mut self.context(), targets, apart).await;
        sockets.iter().for_each(|socket| self.sockets.set_ttl(*socket, USUAL_TTL));
    }

    /// Time to live of packets that open ports: they need not arrive, and must not where the peer's router may remap.
    pub(super) fn opener_ttl(&self) -> u32 {
        if self.pair.is_harmless() {
            USUAL_TTL
        } else {
            self.pair.mine.opener_ttl.unwrap_or(LIKELIEST_TTL).into()
        }
    }

    /// The endpoints of those that the peer named, and the same port at its other external addresses, where its packets
    /// may come from. Every address comes first once, since only a few are tried.
    pub(super) fn reachable(&self, named: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut each: Vec<SocketAddr> = Vec::new();
        for at in named.iter().copied().chain(named.first().into_iter().flat_map(|at| self.elsewhere(*at))) {
            if !each.iter().any(|other| other.ip() == at.ip()) {
                each.push(at);
            }
        }
        self.contactable(&[&each, named].concat())
    }

    /// The endpoints of those that the peer named which packets may go to: it may have named somebody who wants none.
    pub(super) fn contactable(&self, named: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut few: Vec<SocketAddr> = Vec::new();
        for endpoint in named.iter().copied() {
            if few.len() < FEW && !few.contains(&endpoint) && self.sockets.contacts().is_contactable(endpoint)
            {
                few.push(endpoint);
            }
        }
        few
    }

    /// The same port at the external addresses that the peer has measured besides: where its packets may come from.
    pub(super) fn elsewhere(&self, at: SocketAddr) -> Vec<SocketAddr> {
        let others = self.pair.peers.behaviour.addresses.iter().filter(|ip| **ip != at.ip());
        others.map(|ip| SocketAddr::new(*ip, at.port())).collect()
    }

    /// This port at the address where the server has seen the peer.
    pub(super) fn vouched_at(&self, port: u16) -> Option<SocketAddr> {
        let at = SocketAddr::new(self.sockets.contacts().peer(), port);
        self.sockets.contacts().is_vouched(at).then_some(at)
    }

    /// The endpoint that many packets, or a connection, may go to: only one at which the server has seen the peer.
    pub(super) fn vouched(&self, named: &[SocketAddr]) -> Option<SocketAddr> {
        named.iter().copied().find(|endpoint| self.sockets.contacts().is_vouched(*endpoint))
    }

    pub(super) fn context(&mut self) -> RoundContext<'_> {
        RoundContext {
            sockets: &mut self.sockets,
            keys: &self.keys,
            stamps: &self.stamps,
            role: self.pair.role,
            round: self.round,
            grace: Duration::from_millis(self.pair.mine.rtt_ms.max(self.pair.peers.rtt_ms).into())
                .min(LONGEST_GRACE),
        }
    }
}

/// The steps of an opener: the one that was measured, or all that are likely.
pub(super) fn opener_ttls(measured: Option<u8>) -> Vec<u8> {
    measured.map_or(LIKELY_TTLS.to_vec(), |ttl| vec![ttl])
}

/// The port so many steps on, within the ports that NATs use.
pub(super) fn at_step(port: u16, step: i32, count: u32) -> u16 {
    let low = i64::from(LOWEST_PORT);
    let there = i64::from(port) + i64::from(step) * i64::from(count) - low;
    u16::try_from(there.rem_euclid(65536 - low) + low).unwrap_or(port)
}
