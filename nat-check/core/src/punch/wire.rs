//! The packets of an attempt: 48 bytes that only the two who were introduced can write and read.
//!
//! Each shows the receiver's nonce, which proves that the sender was introduced, and the sender's own. The first byte
//! is a letter, so nobody takes it for STUN.

use shared::rendezvous::peer::Nonce;

/// Length of every packet.
pub(super) const LENGTH: usize = 48;
const MAGIC: [u8; 4] = *b"NCP1";

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

/// A packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) kind: Kind,
    /// The round that it belongs to.
    pub(super) round: u8,
    /// The sender's clock in microseconds; an answer repeats the one that it answers.
    pub(super) stamp: u64,
}

/// The nonces of the two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Nonces {
    pub(super) mine: Nonce,
    pub(super) peer: Nonce,
}

impl Packet {
    pub(super) fn write(self, nonces: &Nonces) -> [u8; LENGTH] {
        let mut bytes = [0; LENGTH];
        bytes[..4].copy_from_slice(&MAGIC);
        // Few kinds: the position fits.
        bytes[4] = KINDS.iter().position(|k| *k == self.kind).unwrap_or(0) as u8;
        bytes[5] = self.round;
        bytes[8..16].copy_from_slice(&self.stamp.to_be_bytes());
        bytes[16..32].copy_from_slice(&nonces.peer.0);
        bytes[32..].copy_from_slice(&nonces.mine.0);
        bytes
    }

    /// Reads a packet of the peer; none if it is anything else.
    pub(super) fn read(bytes: &[u8], nonces: &Nonces) -> Option<Self> {
        let bytes: &[u8; LENGTH] = bytes.try_into().ok()?;
        let (head, rest) = bytes.split_at(16);
        if head[..4] != MAGIC || rest[..16] != nonces.mine.0 || rest[16..] != nonces.peer.0 {
            return None;
        }
        let kind = *KINDS.get(usize::from(head[4]))?;
        let stamp = u64::from_be_bytes(head[8..].try_into().ok()?);
        Some(Self { kind, round: head[5], stamp })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONCES: Nonces = Nonces { mine: Nonce([1; 16]), peer: Nonce([2; 16]) };
    const PEERS: Nonces = Nonces { mine: Nonce([2; 16]), peer: Nonce([1; 16]) };

    #[test]
    fn the_peer_reads_what_was_written() {
        for kind in KINDS {
            let packet = Packet { kind, round: 7, stamp: 1 << 40 };
            assert_eq!(Packet::read(&packet.write(&NONCES), &PEERS), Some(packet));
        }
    }

    #[test]
    fn whoever_was_not_introduced_is_not_heard() {
        let bytes = Packet { kind: Kind::Ping, round: 0, stamp: 0 }.write(&NONCES);
        assert_eq!(Packet::read(&bytes, &NONCES), None, "one's own packet, sent back");
        for at in (0..5).chain(16..LENGTH) {
            let mut wrong = bytes;
            wrong[at] ^= 0x40;
            assert_eq!(Packet::read(&wrong, &PEERS), None, "byte {at}");
        }
        assert_eq!(Packet::read(&bytes[..47], &PEERS), None);
        assert_eq!(Packet::read(&[], &PEERS), None);
    }
}
