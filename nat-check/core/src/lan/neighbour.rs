//! Another host of the local network that runs `nat-check lan`, and what is known of it. Pure.

use std::net::{SocketAddrV4, SocketAddrV6};

use super::{
    beacon::{Beacon, Id, LEAVING, Nonce, Record, SETTLED, Tally},
    conclude::LOCAL_SCOPE,
    way::Way,
};

/// Rounds that are remembered: an hour and a bit.
const MOST_ROUNDS: usize = 4096;
/// The latest rounds that a tally counts.
const WINDOW: usize = 200;
/// What it says of others that is kept.
const MOST_RECORDS: usize = 32;
/// Where a host has left, or so many rounds have passed, no more is waited for.
const LONGEST: usize = 20;

/// What was heard of a round, and which ways it was sent by.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    heard: u8,
    sent: u8,
}

#[derive(Clone, Debug)]
pub(crate) struct Neighbour {
    pub(crate) id: Id,
    pub(crate) at: SocketAddrV4,
    pub(crate) at6: Option<SocketAddrV6>,
    /// None = it is only known from others.
    pub(crate) nonce: Option<Nonce>,
    /// It has repeated our nonce.
    pub(crate) is_proven: bool,
    /// It has done so from this address, and from this one: nothing much is sent to an address that only its beacon names.
    pub(crate) proven_at: [bool; 2],
    /// Somebody who is proven has repeated its nonce.
    pub(crate) is_confirmed: bool,
    pub(crate) flags: u8,
    /// What it has heard of us, by its own word or another's.
    pub(crate) told: Option<Tally>,
    /// What it has heard of others.
    pub(crate) records: Vec<Record>,
    /// Our round when we came to know of it, and when we heard it last.
    pub(crate) met: u16,
    pub(crate) heard_at: Option<u16>,
    /// Our round when a group of local scope brought something of it last.
    pub(crate) group_at: Option<u16>,
    /// Our rounds in which somebody who is proven heard it.
    pub(crate) vouched: u16,
    pub(crate) vouched_at: Option<u16>,
    /// Packets that were sent to it before it was proven.
    pub(crate) asked: u8,
    first: u16,
    rounds: Vec<Round>,
    /// The first of the rounds in which it has sent us unicast.
    knows_us: Option<usize>,
}

impl Neighbour {
    pub(crate) fn new(id: Id, at: SocketAddrV4, met: u16) -> Self {
        Self {
            id,
            at,
            at6: None,
            nonce: None,
            is_proven: false,
            proven_at: [false; 2],
            is_confirmed: false,
            flags: 0,
            told: None,
            records: Vec::new(),
            met,
            heard_at: None,
            group_at: None,
            vouched: 0,
            vouched_at: None,
            asked: 0,
            first: 0,
            rounds: Vec::new(),
            knows_us: None,
        }
    }

    /// Takes a beacon of it, which came in our round `now`.
    pub(crate) fn hear(&mut self, beacon: &Beacon, now: u16) {
        if self.nonce.is_none() {
            (self.nonce, self.at, self.at6) = (Some(beacon.nonce), beacon.at, beacon.at6);
            self.first = beacon.round;
        }
        (self.flags, self.heard_at) = (beacon.flags, Some(now));
        if LOCAL_SCOPE.contains(&beacon.way) {
            self.group_at = Some(now);
        }
        let Some(index) = self.index(beacon.round) else { return };
        if index >= self.rounds.len() {
            self.rounds.resize(index + 1, Round::default());
        }
        let round = &mut self.rounds[index];
        round.heard |= beacon.way.bit();
        round.sent |= beacon.ways;
    }

    /// It has a record of us, in this round of its own: from the next one on it sends us unicast.
    pub(crate) fn note_knows_us(&mut self, round: u16) {
        if self.knows_us.is_none() {
            self.knows_us = self.index(round).map(|index| index + 1);
        }
    }

    /// Keeps what it says of another.
    pub(crate) fn note(&mut self, record: Record) {
        match self.records.iter().position(|known| known.from == record.from) {
            Some(index) => self.records[index] = record,
            None if self.records.len() < MOST_RECORDS => self.records.push(record),
            None => {}
        }
    }

    fn index(&self, round: u16) -> Option<usize> {
        let index = usize::from(round.wrapping_sub(self.first));
        (index < MOST_ROUNDS).then_some(index)
    }

    pub(crate) fn has_left(&self) -> bool {
        self.flags & LEAVING != 0
    }

    /// Rounds that are complete: of the latest one more may be under way.
    fn complete(&self) -> &[Round] {
        let under_way = usize::from(!self.has_left());
        &self.rounds[..self.rounds.len().saturating_sub(under_way)]
    }

    /// How many of its rounds have passed since it was heard first.
    pub(crate) fn age(&self) -> usize {
        self.complete().len()
    }

    /// What has arrived of it, by the ways that this host can hear. Of one that is only known from others nothing has, in the
    /// rounds in which they heard it.
    pub(crate) fn tally(&self, hears: u8) -> Tally {
        if self.nonce.is_none() {
            let rounds = self.vouched.min(WINDOW as u16) as u8;
            let is_tried = |way: Way| hears & way.bit() != 0 && !way.is_ipv6();
            return Tally { sent: Way::ALL.map(|way| if is_tried(way) { rounds } else { 0 }), heard: [0; 8] };
        }
        self.tally_since(self.complete().len().saturating_sub(WINDOW), hears)
    }

    fn tally_since(&self, begin: usize, hears: u8) -> Tally {
        let mut tally = Tally::default();
        let since = self.knows_us.unwrap_or(usize::MAX);
        for (index, round) in self.complete().iter().enumerate().skip(begin).rev().take(WINDOW) {
            // A round of which nothing arrived says nothing of one way.
            if round.heard == 0 {
                continue;
            }
            for way in Way::ALL {
                let is_heard = round.heard & way.bit() != 0;
                let is_due = round.sent & hears & way.bit() != 0 && (way.is_group() || index >= since);
                tally.sent[way.number()] += u8::from(is_heard || is_due);
                tally.heard[way.number()] += u8::from(is_heard);
            }
        }
        tally
    }

    /// The last complete round in which one of these ways was heard, and the tally of those after it.
    pub(crate) fn after_last(&self, ways: &[Way], hears: u8) -> Option<(usize, Tally)> {
        let bits = ways.iter().fold(0, |bits, way| bits | way.bit());
        let last = self.complete().iter().rposition(|round| round.heard & bits != 0)?;
        Some((last, self.tally_since(last + 1, hears)))
    }

    /// Whether more rounds would add nothing.
    pub(crate) fn is_settled(&self, hears: u8, now: u16) -> bool {
        let rounds = usize::from(now.saturating_sub(self.met));
        if self.has_left() || rounds >= LONGEST + 2 {
            return true;
        }
        let are_enough = |told: Tally| self.tally(hears).is_enough() && told.is_enough();
        self.age() >= usize::from(super::word::ENOUGH)
            && (self.age() >= LONGEST || self.told.is_some_and(are_enough))
    }

    /// Whether it waits for nothing more.
    pub(crate) fn is_through(&self) -> bool {
        self.flags & (SETTLED | LEAVING) != 0
    }

    /// What this host has heard of it, for a beacon.
    pub(crate) fn record(&self, us: Id, hears: u8, now: u16) -> Record {
        let age = self.heard_at.map_or(u8::MAX, |at| now.saturating_sub(at).min(254) as u8);
        let nonce = self.nonce.unwrap_or_default();
        Record { from: self.id, to: us, at: self.at, nonce, age, tally: self.tally(hears) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(192, 168, 77, 3), 5000);

    fn hear(it: &mut Neighbour, round: u16, way: Way) {
        let (flags, ways, records) = (0, 0xff, Vec::new());
        let beacon =
            Beacon { way, flags, ways, round, id: [1; 8], nonce: [1; 8], at: AT, at6: None, records };
        it.hear(&beacon, round);
    }

    #[test]
    fn a_tally_counts_complete_rounds_in_which_something_arrived() {
        let mut it = Neighbour::new([1; 8], AT, 0);
        for round in [10, 11, 13, 14] {
            hear(&mut it, round, Way::MdnsGroup);
        }
        hear(&mut it, 11, Way::Multicast);
        let tally = it.tally(0xff);
        assert_eq!((it.age(), tally.of(Way::MdnsGroup)), (4, (3, 3)), "12 is lost, 14 is under way");
        assert_eq!(tally.of(Way::Multicast), (3, 1));
        assert_eq!(tally.of(Way::Unicast), (0, 0), "it does not know us");
        assert_eq!(it.tally(Way::Multicast.bit()).of(Way::LimitedBroadcast), (0, 0), "we cannot hear that");
        it.flags = LEAVING;
        assert_eq!(it.tally(0xff).of(Way::MdnsGroup), (4, 4), "nothing more comes");
    }

    #[test]
    fn unicast_is_due_from_the_round_after_it_has_a_record_of_us() {
        let mut it = Neighbour::new([1; 8], AT, 0);
        (10..20).for_each(|round| hear(&mut it, round, Way::Multicast));
        it.note_knows_us(15);
        it.note_knows_us(18);
        // 16, 17 and 18.
        assert_eq!(it.tally(0xff).of(Way::Unicast), (3, 0));
        hear(&mut it, 12, Way::Unicast);
        assert_eq!(it.tally(0xff).of(Way::Unicast), (4, 1), "what arrives counts in any case");
    }

    #[test]
    fn no_round_makes_it_remember_without_end() {
        let mut it = Neighbour::new([1; 8], AT, 0);
        for round in [10, 9, 60_000, 5_000, 4_000] {
            hear(&mut it, round, Way::Multicast);
        }
        assert_eq!(it.age(), 3_990);
        let mut long = Neighbour::new([1; 8], AT, 0);
        (0..1000).for_each(|round| hear(&mut long, round, Way::Multicast));
        assert_eq!(long.tally(0xff).of(Way::Multicast), (200, 200));
        assert_eq!(long.after_last(&[Way::Multicast], 0xff).unwrap().0, 998);
    }
}
