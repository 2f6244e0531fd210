//! The rooms: who is in which, who is paired with whom, what they say came of it. Pure: time and randomness are arguments.
//!
//! What a member has to be told follows from what has changed in its room since it was told last. So nothing is queued for
//! those who read slowly, and nobody can fill anybody's queue.

mod limits;
mod room;
#[cfg(test)]
mod tests;

use std::{collections::HashMap, net::IpAddr, time::Duration};

use shared::rendezvous::{
    Code, Refusal, ToClient, ToServer,
    room::{MAX_ROOM_PAYLOAD, RoomName},
};

use crate::{
    admission::{AdmissionTable, Shares, nanoseconds},
    prefix::Prefix,
};
pub use limits::RoomLimits;
use room::{Room, Seat};

/// A client's place in a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RoomMember(u64);

/// A client has come in.
#[derive(Clone, Debug)]
pub struct Entrance {
    /// Its place.
    pub member: RoomMember,
    /// Whether the room was made for it.
    pub is_new: bool,
    /// Those who have to be told something now.
    pub stirred: Vec<RoomMember>,
}

/// The rooms of one server.
#[derive(Debug)]
pub struct Rooms {
    limits: RoomLimits,
    numbered: u64,
    rooms: HashMap<RoomName, Room>,
    /// The rooms by number, each counted where the client that made it came from.
    makers: AdmissionTable,
    places: HashMap<RoomMember, Place>,
    members: AdmissionTable,
}

/// Where a member is; none of a room where it had to go, and why.
#[derive(Debug)]
enum Place {
    In { room: RoomName, id: u32, from: IpAddr },
    Dismissed(Refusal),
}

impl Rooms {
    /// No rooms yet.
    #[must_use]
    pub fn new(limits: RoomLimits) -> Self {
        Self {
            limits,
            numbered: 0,
            rooms: HashMap::new(),
            makers: AdmissionTable::default(),
            places: HashMap::new(),
            members: AdmissionTable::default(),
        }
    }

    /// Whether there is a room of this name.
    #[must_use]
    pub fn exists(&self, room: &RoomName) -> bool {
        self.rooms.contains_key(room)
    }

    /// Lets a client into a room. Without a name it is made, and `entropy` becomes its name; a word of the user's makes one where
    /// there is none.
    ///
    /// # Errors
    /// When nobody is in the room of this code, when it is full, or there is no place for the client.
    pub fn enter(
        &mut self,
        room: Option<RoomName>,
        from: IpAddr,
        entropy: u64,
        now: Duration,
    ) -> Result<Entrance, Refusal> {
        let is_named = room.is_some();
        let name = room.unwrap_or_else(|| Code::from_bits(entropy).into());
        let is_new = !self.exists(&name);
        let at = nanoseconds(now);
        match self.rooms.get_mut(&name) {
            // As a server that knows no rooms.
            _ if self.limits.rooms == 0 => return Err(Refusal::BadMessage),
            Some(room) if is_named => room.make_place(self.limits.per_room)?,
            Some(_) => return Err(Refusal::Full),
            None if is_named && name.is_code() => return Err(Refusal::UnknownRoom),
            None => {}
        }
        // Nobody has to go for one that does not come in after all.
        let mut room_to_go = None;
        if is_new {
            let is_full = self.rooms.len() >= self.limits.rooms;
            let shares =
                Shares { per_host: self.limits.rooms_per_host, per_network: self.limits.rooms_per_net };
            room_to_go = self.makers.admit(from, shares, is_full, at)?;
        }
        let leaving = room_to_go.map_or_else(Vec::new, |number| self.members_of(number));
        let is_full = self.members.len() - leaving.len() >= self.limits.members;
        let shares = Shares { per_host: self.limits.per_host, per_network: self.limits.per_net };
        let victim = self.members.admit(from, shares, is_full, at)?;
        let mut stirred = Vec::new();
        for member in leaving.into_iter().chain(victim.map(RoomMember)) {
            stirred.extend(self.dismiss(member, Refusal::Full, now));
        }
        self.numbered += 1;
        let member = RoomMember(self.numbered);
        self.members.insert(member.0, from, at);
        // Whoever had to go may have been the last one in it.
        let room = self.rooms.entry(name.clone()).or_insert_with(|| {
            self.makers.insert(self.numbered, from, at);
            Room::new(self.numbered, from)
        });
        let id = room.enter(member, &name, now, &self.limits);
        stirred.extend(room.here());
        self.places.insert(member, Place::In { room: name, id, from });
        Ok(Entrance { member, is_new, stirred })
    }

    /// Takes what a member says, `size` bytes long, and gives whom there is to be told something now. `opened_from`: where the
    /// session was opened that waits under the code of an invite. Only one of the member's own host is passed on: a guest pays
    /// for a wrong code, and takes whoever is in the session for the member.
    ///
    /// # Errors
    /// When it is out of place, or more than a member may say. The client is to be cut off then.
    pub fn handle(
        &mut self,
        member: RoomMember,
        message: ToServer,
        size: usize,
        opened_from: Option<IpAddr>,
        now: Duration,
    ) -> Result<Vec<RoomMember>, Refusal> {
        let is_own = opened_from.map(Prefix::host) == self.address_of(member).map(Prefix::host);
        let (room, id) = self.room_of(member)?;
        let before = room.news();
        let seat = room.seat(id).ok_or(Refusal::Expired)?;
        seat.charge(size, now)?;
        match message {
            ToServer::Ping { id: ping } => {
                seat.tell(ToClient::Pong { id: ping });
                return Ok(vec![member]);
            }
            ToServer::Available { payload } if payload.as_text().len() <= MAX_ROOM_PAYLOAD => {
                room.available(id, payload)?;
            }
            ToServer::Invite { peer, code } => room.invite(id, peer, code, is_own, now),
            ToServer::Result { peer, payload } if payload.as_text().len() <= MAX_ROOM_PAYLOAD => {
                room.result(id, peer, payload);
            }
            ToServer::Available { .. } | ToServer::Result { .. } => return Err(Refusal::TooMuch),
            ToServer::Open { .. }
            | ToServer::Join { .. }
            | ToServer::Enter { .. }
            | ToServer::Ready { .. }
            | ToServer::PeerPing { .. }
            | ToServer::PeerPong { .. } => return Err(Refusal::BadMessage),
        }
        room.schedule(now);
        // What changes nothing wakes nobody.
        if room.news() == before { Ok(Vec::new()) } else { Ok(room.here().collect()) }
    }

    /// What this member has to be told next: a message, or why it has to go.
    pub fn next(&mut self, member: RoomMember) -> Option<Result<ToClient, Refusal>> {
        match self.room_of(member) {
            Ok((room, id)) => room.next(id).map(Ok),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    /// A client is gone.
    pub fn leave(&mut self, member: RoomMember, now: Duration) -> Vec<RoomMember> {
        let stirred = self.dismiss(member, Refusal::Expired, now);
        self.places.remove(&member);
        stirred
    }

    /// Sends away those of this member's room whose time is over.
    pub fn expire(&mut self, member: RoomMember, now: Duration) -> Vec<RoomMember> {
        let late: Vec<RoomMember> = match self.room_of(member) {
            Ok((room, _)) => room.late(now).collect(),
            Err(_) => return vec![member],
        };
        late.into_iter().flat_map(|member| self.dismiss(member, Refusal::Expired, now)).collect()
    }

    /// When somebody's time in this member's room is over next.
    #[must_use]
    pub fn deadline(&self, member: RoomMember) -> Option<Duration> {
        match self.places.get(&member)? {
            Place::In { room, .. } => self.rooms.get(room)?.deadline(),
            Place::Dismissed(_) => None,
        }
    }

    /// Sends everybody away.
    pub fn end(&mut self, reason: Refusal) -> Vec<RoomMember> {
        self.rooms.clear();
        (self.members, self.makers) = (AdmissionTable::default(), AdmissionTable::default());
        for place in self.places.values_mut() {
            *place = Place::Dismissed(reason);
        }
        self.places.keys().copied().collect()
    }

    /// Numbers of rooms, and of members in them.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.rooms.len(), self.members.len())
    }

    /// Whether some member was told this code to join with, and is still at it: trying it is no guess.
    #[must_use]
    pub fn has_given(&self, code: Code) -> bool {
        self.rooms.values().any(|room| room.has_given(code))
    }

    fn address_of(&self, member: RoomMember) -> Option<IpAddr> {
        match self.places.get(&member)? {
            Place::In { from, .. } => Some(*from),
            Place::Dismissed(_) => None,
        }
    }

    fn room_of(&mut self, member: RoomMember) -> Result<(&mut Room, u32), Refusal> {
        match self.places.get(&member).ok_or(Refusal::Expired)? {
            Place::In { room, id, .. } => Ok((self.rooms.get_mut(room).ok_or(Refusal::Expired)?, *id)),
            Place::Dismissed(refusal) => Err(*refusal),
        }
    }

    /// Those in the room of this number.
    fn members_of(&self, number: u64) -> Vec<RoomMember> {
        let room = self.rooms.values().find(|room| room.number == number);
        room.into_iter().flat_map(Room::here).collect()
    }

    /// Takes a member out of its room, for this reason; it and the others there have to be told.
    fn dismiss(&mut self, member: RoomMember, reason: Refusal, now: Duration) -> Vec<RoomMember> {
        let Some(place) = self.places.get_mut(&member) else { return Vec::new() };
        let Place::In { room: name, id, from } = std::mem::replace(place, Place::Dismissed(reason)) else {
            return Vec::new();
        };
        self.members.remove(member.0, from);
        let mut stirred = vec![member];
        if let Some(room) = self.rooms.get_mut(&name) {
            room.leave(id);
            room.schedule(now);
            stirred.extend(room.here());
            if stirred.len() == 1
                && let Some(room) = self.rooms.remove(&name)
            {
                self.makers.remove(room.number, room.maker);
            }
        }
        stirred
    }
}

impl Seat {
    fn charge(&mut self, size: usize, now: Duration) -> Result<(), Refusal> {
        self.heard = now;
        self.messages = self.messages.checked_sub(1).ok_or(Refusal::TooMuch)?;
        self.bytes = self.bytes.checked_sub(size).ok_or(Refusal::TooMuch)?;
        Ok(())
    }
}
