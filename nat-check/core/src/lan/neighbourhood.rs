//! The hosts of one local network that run `nat-check lan`: takes their beacons, says what is to be sent. Pure: time is the number of
//! the round, sockets are somebody else's.
//!
//! Beacons are input. Who repeats this host's nonce is *proven*, and only such hosts are believed. A host that is not is sent at most
//! 16 short beacons, all of them together at most 160: nobody can have this host send to somebody who does not ask for it. Nothing is
//! sent in answer to a packet; everything goes out once a second.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use super::{
    beacon::{Beacon, Id, LEAVING, MOST_RECORDS, Nonce, REACHES_GATEWAY, Record, SETTLED},
    neighbour::Neighbour,
    way::Way,
};
use crate::contactable::{Scope, is_contactable};

/// Neighbours that are kept.
pub(crate) const MOST_NEIGHBOURS: usize = 32;
/// Of these at one address: several runs on one host.
const MOST_AT_ONE_ADDRESS: usize = 4;
/// Beacons that are read in a round, and of one address.
const MOST_READ: u32 = 1000;
const MOST_READ_OF_ONE: u32 = 40;
/// Packets to one host that is not proven, and to all of them.
const MOST_ASKED: u8 = 16;
pub(crate) const MOST_ASKED_OF_ALL: u16 = 160;

/// This host on this network.
#[derive(Clone, Debug)]
pub(crate) struct Us {
    pub(crate) id: Id,
    pub(crate) nonce: Nonce,
    pub(crate) at: SocketAddrV4,
    pub(crate) at6: Option<SocketAddrV6>,
    pub(crate) prefix: u8,
    /// All addresses of this host, those of other networks included.
    pub(crate) own: Vec<IpAddr>,
    /// Hosts that the user names, and the port at which they hear beacons.
    pub(crate) peers: Vec<SocketAddrV4>,
}

#[derive(Debug)]
pub(crate) struct Neighbourhood {
    pub(crate) us: Us,
    pub(crate) round: u16,
    /// Ways by which the system sends, and those that it has sockets to hear by.
    pub(crate) sends: u8,
    pub(crate) joined: u8,
    /// Ways by which this host heard itself.
    pub(crate) looped: u8,
    pub(crate) reaches_gateway: bool,
    pub(crate) is_leaving: bool,
    pub(crate) neighbours: Vec<Neighbour>,
    /// Beacons that were not believed.
    pub(crate) ignored: u64,
    read: u32,
    read_of: Vec<(IpAddr, u32)>,
    asked: u16,
}

/// A beacon to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) way: Way,
    /// None = to the group or the broadcast address of the way.
    pub(crate) to: Option<SocketAddr>,
    pub(crate) bytes: Vec<u8>,
}

impl Neighbourhood {
    /// `sends` are the ways by which it is known to send, `joined` those that it has sockets to hear by.
    pub(crate) fn new(us: Us, sends: u8, joined: u8) -> Self {
        Self {
            us,
            round: 0,
            sends,
            joined,
            looped: 0,
            reaches_gateway: false,
            is_leaving: false,
            neighbours: Vec::new(),
            ignored: 0,
            read: 0,
            read_of: Vec::new(),
            asked: 0,
        }
    }

    /// The ways by which this host hears what others send. Where it does not hear itself, silence of others says nothing.
    pub(crate) fn hears(&self) -> u8 {
        let deaf = Way::ALL
            .iter()
            .filter(|way| way.is_looped() && (self.sends & !self.looped) & way.bit() != 0)
            .fold(0, |bits, way| bits | way.bit());
        self.joined & !deaf
    }

    /// The ways to everybody.
    pub(crate) fn groups(&self) -> impl Iterator<Item = Way> + use<> {
        let has_ipv6 = self.us.at6.is_some();
        Way::ALL.into_iter().filter(move |way| way.is_group() && (has_ipv6 || !way.is_ipv6()))
    }

    /// The system has refused to send so, or has taken it.
    pub(crate) fn note_sent(&mut self, way: Way, is_taken: bool) {
        match is_taken {
            true => self.sends |= way.bit(),
            false => self.sends &= !way.bit(),
        }
    }

    /// Takes what has come.
    pub(crate) fn take(&mut self, from: SocketAddr, bytes: &[u8]) {
        if !self.may_read(from.ip()) || self.believe(from, bytes).is_none() {
            self.ignored += 1;
        }
    }

    /// What comes too often from one address takes nothing from the others.
    fn may_read(&mut self, from: IpAddr) -> bool {
        let index = self.read_of.iter().position(|(ip, _)| *ip == from);
        if index.is_some_and(|index| self.read_of[index].1 >= MOST_READ_OF_ONE) || self.read >= MOST_READ {
            return false;
        }
        self.read += 1;
        match index {
            Some(index) => self.read_of[index].1 += 1,
            None => self.read_of.push((from, 1)),
        }
        true
    }

    fn believe(&mut self, from: SocketAddr, bytes: &[u8]) -> Option<()> {
        let beacon = Beacon::read(bytes)?;
        if beacon.id == self.us.id {
            let is_ours = beacon.nonce == self.us.nonce && self.us.own.contains(&from.ip());
            self.looped |= if is_ours { beacon.way.bit() } else { 0 };
            return is_ours.then_some(());
        }
        let is_its_own = match from {
            SocketAddr::V4(from) => from == beacon.at && !beacon.way.is_ipv6(),
            SocketAddr::V6(from) => {
                let is_at = |at: SocketAddrV6| (at.ip(), at.port()) == (from.ip(), from.port());
                beacon.at6.is_some_and(is_at) && beacon.way.is_ipv6()
            }
        };
        if !is_its_own || !self.may_be_at(beacon.at) || self.us.own.contains(&from.ip()) {
            return None;
        }
        let of_us = beacon.records.iter().find(|it| it.from == self.us.id && it.to == beacon.id).copied();
        // Whoever says another nonce than ours has not heard us.
        let proves = match of_us {
            Some(record) if record.nonce == self.us.nonce => true,
            Some(record) if record.nonce != Nonce::default() => return None,
            Some(_) | None => false,
        };
        let index = self.find_or_add(&beacon, proves)?;
        let now = self.round;
        let neighbour = &mut self.neighbours[index];
        neighbour.hear(&beacon, now);
        neighbour.is_proven |= proves;
        neighbour.proven_at[usize::from(from.is_ipv6())] |= proves;
        if let Some(record) = of_us {
            neighbour.note_knows_us(beacon.round);
            if proves || neighbour.told.is_none_or(|told| !told.is_heard()) {
                neighbour.told = Some(record.tally);
            }
        }
        if neighbour.is_proven {
            for record in beacon.records {
                self.take_record(index, record, beacon.id);
            }
        }
        Some(())
    }

    /// Whether a host of this network can be there, and be spoken to.
    fn may_be_at(&self, at: SocketAddrV4) -> bool {
        let own = IpAddr::from(*self.us.at.ip());
        let scope = Scope::LocalNetwork { server: self.us.at.into(), own, prefix: self.us.prefix };
        is_contactable(IpAddr::from(*at.ip()), at.port(), scope)
    }

    fn find(&self, id: Id) -> Option<usize> {
        self.neighbours.iter().position(|it| it.id == id)
    }

    fn find_or_add(&mut self, beacon: &Beacon, proves: bool) -> Option<usize> {
        if let Some(index) = self.find(beacon.id) {
            let known = &self.neighbours[index];
            let is_it = known.nonce.is_none_or(|nonce| nonce == beacon.nonce && known.at == beacon.at);
            return is_it.then_some(index);
        }
        self.add(Neighbour::new(beacon.id, beacon.at, self.round), proves)
    }

    /// Makes room at the cost of those who are not proven, those who were met last first, as a flood is.
    fn add(&mut self, neighbour: Neighbour, is_proven: bool) -> Option<usize> {
        let ip = *neighbour.at.ip();
        let at_one = |it: &Neighbour| *it.at.ip() == ip;
        let at_it = self.neighbours.iter().filter(|it| at_one(it)).count();
        if at_it >= MOST_AT_ONE_ADDRESS || self.neighbours.len() >= MOST_NEIGHBOURS {
            let is_full_there = at_it >= MOST_AT_ONE_ADDRESS;
            let may_go = |it: &Neighbour| !it.is_proven && (!is_full_there || at_one(it));
            let last = self.neighbours.iter().rposition(may_go).filter(|_| is_proven)?;
            self.neighbours.remove(last);
        }
        self.neighbours.push(neighbour);
        Some(self.neighbours.len() - 1)
    }

    /// What somebody who is proven says of another host.
    fn take_record(&mut self, teller: usize, record: Record, said_by: Id) {
        if record.from == self.us.id {
            // What another one has heard of us, passed on.
            let is_ours = record.nonce == self.us.nonce || record.nonce == Nonce::default();
            let other = self.find(record.to).filter(|_| record.to != said_by && is_ours);
            if let Some(other) = other.map(|at| &mut self.neighbours[at]).filter(|other| !other.is_proven) {
                other.told = Some(record.tally);
            }
            return;
        }
        if record.to != said_by || record.to == self.us.id {
            return;
        }
        self.neighbours[teller].note(record);
        let is_heard_now = record.age <= 1 && record.nonce != Nonce::default();
        let is_ourselves = self.us.own.contains(&IpAddr::from(*record.at.ip()));
        if !is_heard_now || is_ourselves || !self.may_be_at(record.at) {
            return;
        }
        let round = self.round;
        let index =
            self.find(record.from).or_else(|| self.add(Neighbour::new(record.from, record.at, round), false));
        if let Some(other) = index.map(|at| &mut self.neighbours[at]) {
            other.is_confirmed |= other.nonce == Some(record.nonce);
            if other.vouched_at != Some(round) {
                (other.vouched, other.vouched_at) = (other.vouched.saturating_add(1), Some(round));
            }
        }
    }

    /// Whether more rounds would add nothing.
    pub(crate) fn is_settled(&self) -> bool {
        let hears = self.hears();
        self.neighbours.iter().all(|it| it.is_settled(hears, self.round))
    }

    /// Whether nobody waits for this host any more.
    pub(crate) fn are_others_through(&self) -> bool {
        self.neighbours.iter().filter(|it| it.is_proven).all(Neighbour::is_through)
    }

    /// Begins the next round: everything that is to be sent in it.
    pub(crate) fn next_round(&mut self) -> Vec<Outgoing> {
        self.round = self.round.saturating_add(1);
        (self.read, self.read_of) = (0, Vec::new());
        let mut out: Vec<Outgoing> = Vec::new();
        let records = self.records();
        for way in self.groups() {
            out.push(Outgoing { way, to: None, bytes: self.beacon(way, records.clone()) });
        }
        for index in 0..self.neighbours.len() {
            out.extend(self.to_neighbour(index));
        }
        let is_met = |ip: &Ipv4Addr| self.neighbours.iter().any(|it| it.is_proven && it.at.ip() == ip);
        for peer in self.us.peers.iter().filter(|peer| !is_met(peer.ip())) {
            let bytes = self.beacon(Way::Unicast, Vec::new());
            out.push(Outgoing { way: Way::Unicast, to: Some((*peer).into()), bytes });
        }
        out
    }

    /// What this host has heard of others, the next so many of them.
    fn records(&self) -> Vec<Record> {
        let count = self.neighbours.len().max(1);
        let begin = usize::from(self.round) * MOST_RECORDS % count;
        let hears = self.hears();
        let turned = self.neighbours.iter().cycle().skip(begin).take(self.neighbours.len());
        turned.take(MOST_RECORDS).map(|it| it.record(self.us.id, hears, self.round)).collect()
    }

    fn to_neighbour(&mut self, index: usize) -> Vec<Outgoing> {
        let neighbour = &self.neighbours[index];
        let own = neighbour.record(self.us.id, self.hears(), self.round);
        let mut ways = vec![(Way::Unicast, SocketAddr::from(neighbour.at))];
        if !neighbour.is_proven {
            if neighbour.asked >= MOST_ASKED || self.asked >= MOST_ASKED_OF_ALL || neighbour.has_left() {
                return Vec::new();
            }
            self.asked += 1;
            self.neighbours[index].asked += 1;
            return vec![self.outgoing(ways[0], vec![own])];
        }
        let at6 = neighbour.at6.filter(|_| self.us.at6.is_some());
        ways.extend(at6.map(|at| (Way::UnicastIpv6, at.into())));
        let [at_proven, at6_proven] = neighbour.proven_at;
        ways.retain(|(_, to)| {
            let is_proven = if to.is_ipv6() { at6_proven } else { at_proven };
            let asked = &mut self.neighbours[index].asked;
            let may_ask = *asked < MOST_ASKED && self.asked < MOST_ASKED_OF_ALL;
            if !is_proven && may_ask {
                self.asked += 1;
                *asked += 1;
            }
            is_proven || may_ask
        });
        let neighbour = &self.neighbours[index];
        // What others have heard of it comes before what this host has heard of others.
        let id = neighbour.id;
        let others = self.neighbours.iter().filter(|it| it.is_proven && it.id != id);
        let passed_on = others.filter_map(|it| it.records.iter().find(|record| record.from == id).copied());
        let rest = self.records().into_iter().filter(|record| record.from != id);
        let records: Vec<Record> =
            std::iter::once(own).chain(passed_on).chain(rest).take(MOST_RECORDS).collect();
        ways.into_iter().map(|way| self.outgoing(way, records.clone())).collect()
    }

    fn outgoing(&self, (way, to): (Way, SocketAddr), records: Vec<Record>) -> Outgoing {
        Outgoing { way, to: Some(to), bytes: self.beacon(way, records) }
    }

    fn beacon(&self, way: Way, records: Vec<Record>) -> Vec<u8> {
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        let is_settled = !self.neighbours.is_empty() && self.is_settled();
        let flags = flag(self.reaches_gateway, REACHES_GATEWAY)
            | flag(is_settled, SETTLED)
            | flag(self.is_leaving, LEAVING);
        Beacon {
            way,
            flags,
            ways: self.sends | way.bit(),
            round: self.round,
            id: self.us.id,
            nonce: self.us.nonce,
            at: self.us.at,
            at6: self.us.at6,
            records,
        }
        .write()
    }
}
