//! One room: its members, who is paired with whom, and what they say came of it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
    time::Duration,
};

use shared::rendezvous::{
    Code, Payload, Refusal, Role, ToClient,
    room::{MemberNews, PairResult, ResultNews, RoomName},
};

use super::{RoomLimits, RoomMember};

/// A member says something at least so often.
pub(super) const SILENCE: Duration = Duration::from_secs(60);
/// How long a member may take until it can be paired.
pub(super) const PREPARING: Duration = Duration::from_secs(120);
/// How long the first one of a pair may take to open a session.
pub(super) const INVITING: Duration = Duration::from_secs(30);
/// How long the two may take from then on.
pub(super) const TRYING: Duration = Duration::from_secs(120);
/// Members that a room has over all its time: each costs all others an attempt.
const MOST_EVER: u32 = 512;
/// News that fit into one message, in bytes.
const NEWS: usize = 3500;

/// A room. Everything in it has a number that counts up with each change, so that a member can be told what is new.
#[derive(Debug)]
pub(super) struct Room {
    /// Which of the server's it is, and where the client that made it came from.
    pub(super) number: u64,
    pub(super) maker: IpAddr,
    changes: u64,
    last_id: u32,
    members: BTreeMap<u32, Member>,
    /// By who says it, and of whom.
    results: BTreeMap<(u32, u32), Said>,
    /// Pairs that were tried or are being tried, the smaller number first.
    paired: BTreeSet<(u32, u32)>,
}

#[derive(Debug)]
struct Member {
    changed: u64,
    ready: Option<Payload>,
    /// None once it has left.
    seat: Option<Seat>,
}

#[derive(Debug)]
struct Said {
    changed: u64,
    result: Payload,
}

/// What there is of a member while it is here.
#[derive(Debug)]
pub(super) struct Seat {
    member: RoomMember,
    entered: Duration,
    until: Duration,
    pub(super) heard: Duration,
    pub(super) messages: u32,
    pub(super) bytes: usize,
    /// What it is to be told besides the news: at most an answer for each message of its own, and a pair.
    queue: VecDeque<ToClient>,
    /// All changes up to this one have been told.
    told: u64,
    busy: Option<Busy>,
}

/// The pair that a member belongs to just now.
#[derive(Clone, Copy, Debug)]
struct Busy {
    peer: u32,
    role: Role,
    since: Duration,
    /// The code of their session, once the first one has said it.
    code: Option<Code>,
}

impl Room {
    pub(super) fn new(number: u64, maker: IpAddr) -> Self {
        let (members, results, paired) = (BTreeMap::new(), BTreeMap::new(), BTreeSet::new());
        Self { number, maker, changes: 0, last_id: 0, members, results, paired }
    }

    /// Makes place for one more: those who left are forgotten, whoever left first, once all know that they have left.
    pub(super) fn make_place(&mut self, most: usize) -> Result<(), Refusal> {
        if self.last_id >= MOST_EVER {
            return Err(Refusal::RoomFull);
        }
        while self.members.len() >= most {
            let told = self.seats().map(|seat| seat.told).min().unwrap_or(u64::MAX);
            let has_left = |member: &Member| member.seat.is_none() && member.changed <= told;
            let gone = self.members.iter().filter(|(_, member)| has_left(member));
            let (&id, _) = gone.min_by_key(|(_, member)| member.changed).ok_or(Refusal::RoomFull)?;
            self.members.remove(&id);
            self.results.retain(|(from, to), _| *from != id && *to != id);
            self.paired.retain(|(a, b)| *a != id && *b != id);
        }
        Ok(())
    }

    /// Its number in the room.
    pub(super) fn enter(
        &mut self,
        member: RoomMember,
        name: &RoomName,
        now: Duration,
        limits: &RoomLimits,
    ) -> u32 {
        self.last_id += 1;
        let seconds = u32::try_from(limits.stay.as_secs()).unwrap_or(u32::MAX);
        let seat = Seat {
            member,
            entered: now,
            until: now + limits.stay,
            heard: now,
            messages: limits.messages,
            bytes: limits.bytes,
            queue: [ToClient::Entered { room: name.clone(), you: self.last_id, seconds }].into(),
            told: 0,
            busy: None,
        };
        self.forget();
        let changed = self.change();
        self.members.insert(self.last_id, Member { changed, ready: None, seat: Some(seat) });
        self.last_id
    }

    pub(super) fn leave(&mut self, id: u32) {
        let changed = self.change();
        let Some(member) = self.members.get_mut(&id) else { return };
        (member.seat, member.changed) = (None, changed);
        // Who was to be its guest does not know of it yet; who is its host, or with it already, will say how that ended.
        for seat in self.seats() {
            seat.busy.take_if(|busy| busy.waits_for(id));
        }
        self.forget();
    }

    /// It can be paired from now on; once.
    pub(super) fn available(&mut self, id: u32, ready: Payload) -> Result<(), Refusal> {
        let member = self.members.get_mut(&id).ok_or(Refusal::Expired)?;
        if member.ready.is_some() {
            return Err(Refusal::BadMessage);
        }
        self.changes += 1;
        (member.ready, member.changed) = (Some(ready), self.changes);
        Ok(())
    }

    /// The code goes to the second one of a pair. It may be late: then it goes nowhere. One of a session that is not the first
    /// one's own (`is_own`) goes nowhere either, and the second one is free.
    pub(super) fn invite(&mut self, id: u32, peer: u32, code: Code, is_own: bool, now: Duration) {
        let is_first = |busy: &Busy| busy.peer == peer && busy.role == Role::First && busy.code.is_none();
        let Some(seat) = self.seat(id).filter(|seat| seat.busy.as_ref().is_some_and(is_first)) else {
            return;
        };
        seat.busy = Some(Busy { peer, role: Role::First, since: now, code: Some(code) });
        if !is_own {
            return self.release(id, peer);
        }
        if let Some(seat) = self.seat(peer)
            && seat.busy.as_ref().is_some_and(|busy| busy.waits_for(id))
        {
            seat.busy = Some(Busy { peer: id, role: Role::Second, since: now, code: Some(code) });
            seat.tell(ToClient::Pair { peer: id, role: Role::Second, code: Some(code) });
        }
    }

    /// Whether somebody in it was told this code and has not said yet what came of it.
    pub(super) fn has_given(&self, code: Code) -> bool {
        let is_guest = |busy: &Busy| busy.role == Role::Second && busy.code == Some(code);
        let seats = self.members.values().filter_map(|member| member.seat.as_ref());
        seats.filter_map(|seat| seat.busy.as_ref()).any(is_guest)
    }

    /// What a member says came of the pair that it belongs to. It may be late: then it counts for nothing.
    pub(super) fn result(&mut self, id: u32, peer: u32, result: Payload) {
        let Some(seat) = self.seat(id) else { return };
        let Some(busy) = seat.busy.take_if(|busy| busy.peer == peer) else { return };
        self.say(id, peer, result);
        if busy.role == Role::First && busy.code.is_none() {
            self.release(id, peer);
        }
    }

    /// The second one of a pair is free without having been invited. It does not know that it was waited for, and never says
    /// anything of it; so that all can see that this pair is over, the empty result is told in its name.
    fn release(&mut self, first: u32, second: u32) {
        let freed = self.seat(second).and_then(|seat| seat.busy.take_if(|busy| busy.waits_for(first)));
        if freed.is_some()
            && let Ok(nothing) = Payload::write(&PairResult::default())
        {
            self.say(second, first, nothing);
        }
    }

    fn say(&mut self, from: u32, to: u32, result: Payload) {
        // Whoever has left may have been forgotten.
        if self.members.contains_key(&from) && self.members.contains_key(&to) {
            let changed = self.change();
            self.results.insert((from, to), Said { changed, result });
        }
    }

    /// Forgets what two who have both left have said of each other, once all who are here know it: so a room keeps results of
    /// no more pairs than those who are here have.
    fn forget(&mut self) {
        let told = self.seats().map(|seat| seat.told).min().unwrap_or(u64::MAX);
        let Self { members, results, .. } = self;
        let has_left = |id: &u32| members.get(id).is_none_or(|member| member.seat.is_none());
        results.retain(|(from, to), said| said.changed > told || !has_left(from) || !has_left(to));
    }

    /// Pairs those who are free, those who have been here longest first: who comes and goes keeps nobody from anybody else.
    pub(super) fn schedule(&mut self, now: Duration) {
        let mut free: Vec<u32> = Vec::new();
        let is_free = |member: &Member| {
            member.ready.is_some() && member.seat.as_ref().is_some_and(|seat| seat.busy.is_none())
        };
        for id in self.members.iter().filter(|(_, member)| is_free(member)).map(|(id, _)| *id) {
            free.push(id);
        }
        let mut taken = BTreeSet::new();
        for (&second, at) in free.iter().zip(0..) {
            for &first in &free[..at] {
                if taken.contains(&first) || taken.contains(&second) || !self.paired.insert((first, second)) {
                    continue;
                }
                taken.extend([first, second]);
                for (id, peer, role) in [(first, second, Role::First), (second, first, Role::Second)] {
                    let Some(seat) = self.seat(id) else { continue };
                    seat.busy = Some(Busy { peer, role, since: now, code: None });
                    if role == Role::First {
                        seat.tell(ToClient::Pair { peer, role, code: None });
                    }
                }
            }
        }
    }

    /// The next message for a member: what is for it alone, else what is new in the room.
    pub(super) fn next(&mut self, id: u32) -> Option<ToClient> {
        let seat = self.seat(id)?;
        if let Some(message) = seat.queue.pop_front() {
            return Some(message);
        }
        let told = seat.told;
        let mut changes: BTreeMap<u64, Change<'_>> = BTreeMap::new();
        let members = self.members.iter().filter(|(_, member)| member.changed > told);
        changes.extend(members.map(|(id, member)| (member.changed, Change::Member(*id, member))));
        let results = self.results.iter().filter(|(_, said)| said.changed > told);
        changes.extend(results.map(|(ids, said)| (said.changed, Change::Result(*ids, &said.result))));
        let (mut members, mut results, mut size, mut last) = (Vec::new(), Vec::new(), 0, told);
        for (changed, change) in changes {
            size += change.size();
            if size > NEWS {
                break;
            }
            last = changed;
            match change {
                Change::Member(id, Member { ready, seat, .. }) => {
                    members.push(MemberNews { id, here: seat.is_some(), ready: ready.clone() });
                }
                Change::Result((from, to), result) => {
                    results.push(ResultNews { from, to, result: result.clone() });
                }
            }
        }
        self.seat(id)?.told = last;
        (last > told).then_some(ToClient::Room { members, results })
    }

    /// The members whose time is over.
    pub(super) fn late(&self, now: Duration) -> impl Iterator<Item = RoomMember> {
        let seated = self.members.values().filter_map(|member| Some((member, member.seat.as_ref()?)));
        seated
            .filter(move |(member, seat)| seat.ends(member.ready.is_some()) <= now)
            .map(|(_, seat)| seat.member)
    }

    /// When that is, of the first one of them.
    pub(super) fn deadline(&self) -> Option<Duration> {
        let seated = self.members.values().filter_map(|member| Some((member, member.seat.as_ref()?)));
        seated.map(|(member, seat)| seat.ends(member.ready.is_some())).min()
    }

    /// How much there has been to be told: what is new in the room, and what waits for one member alone.
    pub(super) fn news(&self) -> (u64, usize) {
        let seats = self.members.values().filter_map(|member| member.seat.as_ref());
        (self.changes, seats.map(|seat| seat.queue.len()).sum())
    }

    /// Everybody in it.
    pub(super) fn here(&self) -> impl Iterator<Item = RoomMember> {
        self.members.values().filter_map(|member| Some(member.seat.as_ref()?.member))
    }

    pub(super) fn seat(&mut self, id: u32) -> Option<&mut Seat> {
        self.members.get_mut(&id)?.seat.as_mut()
    }

    fn seats(&mut self) -> impl Iterator<Item = &mut Seat> {
        self.members.values_mut().filter_map(|member| member.seat.as_mut())
    }

    fn change(&mut self) -> u64 {
        self.changes += 1;
        self.changes
    }
}

impl Seat {
    pub(super) fn tell(&mut self, message: ToClient) {
        self.queue.push_back(message);
    }

    /// When its time is over: it has stayed long enough, is silent, or keeps others waiting.
    fn ends(&self, is_ready: bool) -> Duration {
        let waited_for = match self.busy {
            Some(Busy { since, code: Some(_), .. }) => Some(since + TRYING),
            Some(Busy { since, role: Role::First, .. }) => Some(since + INVITING),
            // It does not know that it is waited for.
            Some(_) => None,
            None if is_ready => None,
            None => Some(self.entered + PREPARING),
        };
        let ends = self.until.min(self.heard + SILENCE);
        waited_for.map_or(ends, |waited_for| waited_for.min(ends))
    }
}

impl Busy {
    /// Whether it is the second one of a pair with this first one, not invited yet.
    fn waits_for(&self, first: u32) -> bool {
        self.peer == first && self.role == Role::Second && self.code.is_none()
    }
}

/// Something that is new.
enum Change<'a> {
    Member(u32, &'a Member),
    Result((u32, u32), &'a Payload),
}

impl Change<'_> {
    /// How much of a message it takes at the most, in bytes.
    fn size(&self) -> usize {
        const FIELDS: usize = 80;
        let payload = match self {
            Self::Member(_, member) => member.ready.as_ref(),
            Self::Result(_, result) => Some(*result),
        };
        FIELDS + payload.map_or(0, |payload| payload.as_text().len())
    }
}

#[cfg(test)]
impl Room {
    /// Whom a member is paired with just now, and as which of the two.
    pub(super) fn busy(&self, id: u32) -> Option<(u32, Role)> {
        let busy = self.members.get(&id)?.seat.as_ref()?.busy?;
        Some((busy.peer, busy.role))
    }
}
