//! The packets of an attempt: 48 bytes that only the two who were introduced can write.
//!
//! Each ends with a code (HMAC-SHA256, RFC 2104) under a key that both nonces make, one key for each direction. The
//! nonces themselves are in no packet: where ports are guessed, most packets arrive at somebody else's host behind the
//! same address, who must not be able to pose as either. The first byte is a letter, so nobody takes it for STUN.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ring::hmac;
use shared::rendezvous::peer::Nonce;
use tokio::time::Instant;

/// Length of every packet.
pub(super) const LENGTH: usize = HEAD + 32;
/// What is signed: magic, kind, round, two bytes of nothing, stamp.
const HEAD: usize = 16;
const MAGIC: [u8; 4] = *b"NCP2";

/// What a packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A connectivity check (RFC 8445 section 2.2).
    Ping,
    /// The answer to a ping. Whoever gets this knows that both directions work.
    Pong,
    /// The answer to a pong: now its receiver knows it, too.
    Ack,
    /// Let this be the path (RFC 8445 section 2.3).
    Nominate,
    /// It is.
    Nominated,
    /// Keeps the path, and measures it.
    Heartbeat,
    /// The answer to a heartbeat.
    HeartbeatReply,
}

const KINDS: [Kind; 7] = [
    Kind::Ping,
    Kind::Pong,
    Kind::Ack,
    Kind::Nominate,
    Kind::Nominated,
    Kind::Heartbeat,
    Kind::HeartbeatReply,
];

#[cfg(feature = "sim")]
impl Kind {
    /// The kind with this number on the wire.
    pub(super) fn of(number: u8) -> Option<Self> {
        KINDS.get(usize::from(number)).copied()
    }
}

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    /// The round that it belongs to.
    pub(super) round: u8,
    /// The sender's [stamp](Stamps); an answer repeats the one that it answers.
    pub(super) stamp: u64,
}

/// What packets of this side are signed with, and those of the peer.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    mine: hmac::Key,
    peers: hmac::Key,
}

impl Keys {
    pub(super) fn new(mine: Nonce, peers: Nonce) -> Self {
        // The sender's nonce comes first, so a packet that is sent back is not taken for the peer's.
        let key = |sender: Nonce, receiver: Nonce| {
            hmac::Key::new(hmac::HMAC_SHA256, &[sender.0, receiver.0].concat())
        };
        Self { mine: key(mine, peers), peers: key(peers, mine) }
    }
}

impl Packet {
    pub(super) fn write(self, keys: &Keys) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        // Few kinds: the position fits.
        bytes[4] = KINDS.iter().position(|k| *k == self.kind).unwrap_or(0) as u8;
        bytes[5] = self.round;
        bytes[8..HEAD].copy_from_slice(&self.stamp.to_be_bytes());
        let code = hmac::sign(&keys.mine, &bytes[..HEAD]);
        bytes[HEAD..].copy_from_slice(code.as_ref());
        bytes
    }

    /// Reads a packet of the peer; none if it is anything else.
    pub(super) fn read(bytes: &[u8], keys: &Keys) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let (head, code) = bytes.split_at(HEAD);
        if head[..4] != MAGIC || hmac::verify(&keys.peers, head, code).is_err() {
            return None;
        }
        let kind = *KINDS.get(usize::from(head[4]))?;
        let stamp = u64::from_be_bytes(head[8..].try_into().ok()?);
        Some(Self { kind, round: head[5], stamp })
    }
}

/// Makes and reads stamps: the time in microseconds, and a tag that only whoever received the packet at the address that
/// it was sent to can repeat. So an answer with a right tag shows that the peer really is there (RFC 7675).
#[derive(Debug)]
pub(super) struct Stamps {
    epoch: Instant,
    secret: hmac::Key,
}

/// Bits of a stamp that are its tag; those above hold twelve days.
const TAG_BITS: u32 = 24;

impl Stamps {
    pub(super) fn new(epoch: Instant, secret: [u8; 16]) -> Self {
        Self { epoch, secret: hmac::Key::new(hmac::HMAC_SHA256, &secret) }
    }

    /// For a packet that leaves now for this address.
    pub(super) fn stamp(&self, to: SocketAddr) -> u64 {
        let micros = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(0);
        micros << TAG_BITS | self.tag(micros, to.ip())
    }

    /// How long ago that was.
    pub(super) fn age(&self, stamp: u64) -> Duration {
        self.epoch.elapsed().saturating_sub(Duration::from_micros(stamp >> TAG_BITS))
    }

    /// Whether it was made for a packet to the address that its answer came from.
    pub(super) fn is_from(&self, stamp: u64, from: SocketAddr) -> bool {
        let tag = stamp & ((1 << TAG_BITS) - 1);
        tag == self.tag(stamp >> TAG_BITS, from.ip())
    }

    fn tag(&self, micros: u64, address: IpAddr) -> u64 {
        let IpAddr::V6(address) = to_v6(address) else { return 0 };
        let code = hmac::sign(&self.secret, &[&micros.to_be_bytes()[..], &address.octets()].concat());
        code.as_ref().iter().take(TAG_BITS as usize / 8).fold(0, |tag, byte| tag << 8 | u64::from(*byte))
    }
}

fn to_v6(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 @ IpAddr::V6(_) => v6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> [Keys; 2] {
        let (a, b) = (Nonce([1; 16]), Nonce([2; 16]));
        [Keys::new(a, b), Keys::new(b, a)]
    }

    #[test]
    fn the_peer_reads_what_was_written() {
        let [mine, peers] = keys();
        for kind in KINDS {
            let packet = Packet { kind, round: 7, stamp: 1 << 40 };
            assert_eq!(Packet::read(&packet.write(&mine), &peers), Some(packet));
        }
    }

    #[test]
    fn whoever_was_not_introduced_is_not_heard() {
        let [mine, peers] = keys();
        let bytes = Packet { kind: Kind::Ping, round: 0, stamp: 0 }.write(&mine);
        assert_eq!(Packet::read(&bytes, &mine), None, "one's own packet, sent back");
        for at in 0..LENGTH {
            let mut wrong = bytes;
            wrong[at] ^= 0x40;
            assert_eq!(Packet::read(&wrong, &peers), None, "byte {at}");
        }
        assert_eq!(Packet::read(&bytes[..47], &peers), None);
        assert_eq!(Packet::read(&[], &peers), None);
    }

    #[test]
    fn a_packet_tells_nobody_how_to_write_another() {
        let [mine, peers] = keys();
        let bytes = Packet { kind: Kind::Ping, round: 0, stamp: 0 }.write(&mine);
        for nonce in [[1; 16], [2; 16]] {
            assert!(!bytes.windows(16).any(|window| window == nonce), "a nonce in the clear");
        }
        // A ping at a wrong host, which makes a pong of it.
        let mut forged = bytes;
        forged[4] = KINDS.iter().position(|kind| *kind == Kind::Pong).unwrap() as u8;
        assert_eq!(Packet::read(&forged, &peers), None);
        assert_eq!(Packet::read(&forged, &mine), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stamp_shows_how_long_ago_and_to_whom() {
        let stamps = Stamps::new(Instant::now(), [3; 16]);
        tokio::time::advance(Duration::from_secs(100)).await;
        let (to, port, other): (SocketAddr, SocketAddr, SocketAddr) = (
            "203.0.113.1:5000".parse().unwrap(),
            "203.0.113.1:6000".parse().unwrap(),
            "203.0.113.2:5000".parse().unwrap(),
        );
        let stamp = stamps.stamp(to);
        tokio::time::advance(Duration::from_millis(30)).await;
        assert_eq!(stamps.age(stamp), Duration::from_millis(30));
        assert!(
            stamps.is_from(stamp, to) && stamps.is_from(stamp, port),
            "a NAT may answer from another port"
        );
        assert!(!stamps.is_from(stamp, other) && !stamps.is_from(stamp + 1, to));
        assert!(stamps.age(u64::MAX) == Duration::ZERO);
    }
}
