//! The sessions: who waits under which code, who is ready for what. Pure: time and randomness are arguments.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use shared::rendezvous::{Code, Payload, Refusal, Role, ToClient, ToServer};

use super::RoomLimits;
use crate::admission::{AdmissionTable, Shares, nanoseconds};

#[cfg(test)]
mod tests;

/// Where sessions are kept. Several probe servers that share one such place could introduce clients of each other:
/// what is said goes in, what is to be delivered to whom comes out.
pub trait SessionStore: Send {
    /// Begins a session. `entropy` becomes its code, so it has to come from a source that nobody can predict. When there
    /// is no room, another session may have to end for it.
    ///
    /// # Errors
    /// When its host has too many, or there is no room.
    fn open(&mut self, from: IpAddr, entropy: u64, now: Duration) -> Result<Opened, Refusal>;

    /// Lets a second client into a session; the first one is told as well. Whoever knows the code of a session is never
    /// refused for what others did: its 48 random bits are what keeps strangers out.
    ///
    /// # Errors
    /// When no session waits under this code, or its host has too many.
    fn join(
        &mut self,
        code: Code,
        from: IpAddr,
        now: Duration,
    ) -> Result<(Participant, Vec<Delivery>), Refusal>;

    /// Takes what a client says, `size` bytes long, and gives what is to be delivered because of it.
    ///
    /// # Errors
    /// When it is out of place, or more than a session may say. The client is to be cut off then.
    fn handle(
        &mut self,
        participant: Participant,
        message: ToServer,
        size: usize,
        now: Duration,
    ) -> Result<Vec<Delivery>, Refusal>;

    /// A client is gone. Its session ends.
    fn leave(&mut self, participant: Participant) -> Vec<Delivery>;

    /// Where the session was opened from that waits under this code, if there is one.
    fn opened_from(&self, code: Code, now: Duration) -> Option<IpAddr>;

    /// When the session has to be over, if it exists.
    fn deadline(&self, participant: Participant) -> Option<Duration>;

    /// Number of sessions.
    fn count(&self) -> usize;
}

/// One client's place in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Participant {
    session: u64,
    /// Which of the two it is.
    pub role: Role,
}

impl Participant {
    /// The place of the other client.
    #[must_use]
    pub fn peer(self) -> Self {
        Self { role: self.role.other(), ..self }
    }
}

/// A session that was begun.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The place of who began it.
    pub participant: Participant,
    /// To be told to the other client.
    pub code: Code,
    /// How long it may wait.
    pub wait: Duration,
    /// To be told to those whose session had to end for it.
    pub deliveries: Vec<Delivery>,
}

/// A message for a client.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Whom it is for.
    pub participant: Participant,
    /// What is said.
    pub message: ToClient,
}

/// What is kept, for how long, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimits {
    /// Sessions in all.
    pub sessions: usize,
    /// Clients in all sessions.
    pub clients: usize,
    /// Sessions that one host (IPv4 address, IPv6 /56) takes part in.
    pub per_host: usize,
    /// Sessions that one network (IPv4 /24, IPv6 /48) takes part in; beyond that, it makes room within itself.
    pub per_net: usize,
    /// How long a session waits for its second client.
    pub wait: Duration,
    /// How long a session lasts after that.
    pub last: Duration,
    /// Messages of one client.
    pub messages: u32,
    /// Bytes of one client.
    pub bytes: usize,
    /// Longest time that one client is held back so that both go together.
    pub hold_back: Duration,
    /// What rooms may take.
    pub rooms: RoomLimits,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            sessions: 10_000,
            clients: 12_000,
            per_host: 20,
            per_net: 200,
            wait: Duration::from_secs(600),
            last: Duration::from_secs(300),
            messages: 200,
            bytes: 64 * 1024,
            hold_back: Duration::from_secs(1),
            rooms: RoomLimits::default(),
        }
    }
}

impl SessionLimits {
    /// With as many clients as sessions that wait, and a fifth more for their peers: these do not stay long.
    #[must_use]
    pub const fn with_clients(self) -> Self {
        Self { clients: self.sessions.saturating_add(self.sessions / 5), ..self }
    }
}

/// Sessions in the memory of one server.
#[derive(Debug)]
pub struct MemoryStore {
    limits: SessionLimits,
    numbered: u64,
    waiting: HashMap<Code, u64>,
    sessions: HashMap<u64, Session>,
    /// The clients, each under the number of its session.
    clients: AdmissionTable,
}

#[derive(Debug)]
struct Session {
    code: Code,
    until: Duration,
    first: Member,
    second: Option<Member>,
    /// The step that both are to be ready for next.
    step: u32,
}

#[derive(Debug)]
struct Member {
    ip: IpAddr,
    ready: Option<Box<Ready>>,
    messages: u32,
    bytes: usize,
}

#[derive(Debug)]
struct Ready {
    rtt_ms: u32,
    payload: Payload,
}

impl MemoryStore {
    /// No sessions yet.
    #[must_use]
    pub fn new(limits: SessionLimits) -> Self {
        Self {
            limits,
            numbered: 0,
            waiting: HashMap::new(),
            sessions: HashMap::new(),
            clients: AdmissionTable::default(),
        }
    }

    fn shares(&self) -> Shares {
        Shares { per_host: self.limits.per_host, per_network: self.limits.per_net }
    }

    /// The session that waits under this code, and where it was opened from.
    fn waits(&self, code: Code, now: Duration) -> Option<(u64, IpAddr)> {
        let id = *self.waiting.get(&code)?;
        Some((id, self.sessions.get(&id).filter(|session| now < session.until)?.first.ip))
    }

    /// Ends a session so that another one has room: those who are to be told.
    fn evict(&mut self, session: Option<u64>) -> Vec<Delivery> {
        let Some((session, ended)) = session.and_then(|id| Some((id, self.end(id)?))) else {
            return Vec::new();
        };
        let told = |role| Delivery {
            participant: Participant { session, role },
            message: ToClient::Refused { reason: Refusal::Full },
        };
        [Role::First, Role::Second].into_iter().take(ended.members().count()).map(told).collect()
    }

    fn end(&mut self, session: u64) -> Option<Session> {
        let ended = self.sessions.remove(&session)?;
        self.waiting.remove(&ended.code);
        for member in ended.members() {
            self.clients.remove(session, member.ip);
        }
        Some(ended)
    }
}

impl SessionStore for MemoryStore {
    fn open(&mut self, from: IpAddr, entropy: u64, now: Duration) -> Result<Opened, Refusal> {
        let code = Code::from_bits(entropy);
        if self.waiting.contains_key(&code) || self.limits.sessions == 0 {
            return Err(Refusal::Full);
        }
        let is_full =
            self.sessions.len() >= self.limits.sessions || self.clients.len() >= self.limits.clients;
        let shares = self.shares();
        let victim = self.clients.admit(from, shares, is_full, nanoseconds(now))?;
        let told = self.evict(victim);
        self.numbered += 1;
        let session = self.numbered;
        self.clients.insert(session, from, nanoseconds(now));
        let (first, wait) = (Member::new(from), self.limits.wait);
        self.sessions.insert(session, Session { code, until: now + wait, first, second: None, step: 0 });
        self.waiting.insert(code, session);
        Ok(Opened { participant: Participant { session, role: Role::First }, code, wait, deliveries: told })
    }

    fn join(
        &mut self,
        code: Code,
        from: IpAddr,
        now: Duration,
    ) -> Result<(Participant, Vec<Delivery>), Refusal> {
        let (session, first) = self.waits(code, now).ok_or(Refusal::UnknownCode)?;
        let is_full = self.clients.len() >= self.limits.clients;
        let shares = self.shares();
        let victim = self.clients.admit_invited(from, shares, is_full, (session, first))?;
        let mut told = self.evict(victim);
        self.clients.insert(session, from, nanoseconds(now));
        // A code is good for one guest: whoever comes later is told that it is unknown.
        self.waiting.remove(&code);
        if let Some(entry) = self.sessions.get_mut(&session) {
            entry.second = Some(Member::new(from));
            entry.until = now + self.limits.last;
        }
        let paired = |role, you, peer| Delivery {
            participant: Participant { session, role },
            message: ToClient::Paired { role, you, peer },
        };
        let participant = Participant { session, role: Role::Second };
        told.extend([paired(Role::First, first, from), paired(Role::Second, from, first)]);
        Ok((participant, told))
    }

    fn handle(
        &mut self,
        participant: Participant,
        message: ToServer,
        size: usize,
        now: Duration,
    ) -> Result<Vec<Delivery>, Refusal> {
        let limits = self.limits;
        let session = self.sessions.get_mut(&participant.session).ok_or(Refusal::Expired)?;
        if now >= session.until {
            return Err(Refusal::Expired);
        }
        let paired = session.second.is_some();
        let next = session.step;
        let speaker = session.member(participant.role).ok_or(Refusal::BadMessage)?;
        speaker.messages += 1;
        speaker.bytes += size;
        if speaker.messages > limits.messages || speaker.bytes > limits.bytes {
            return Err(Refusal::TooMuch);
        }
        let peer = participant.peer();
        let one = |participant, message| Ok(vec![Delivery { participant, message }]);
        match message {
            ToServer::Ping { id } => one(participant, ToClient::Pong { id }),
            ToServer::PeerPing { id } if paired => one(peer, ToClient::PeerPing { id }),
            ToServer::PeerPong { id } if paired => one(peer, ToClient::PeerPong { id }),
            ToServer::Ready { step, rtt_ms, payload } if paired => {
                if step != next || speaker.ready.is_some() {
                    return Err(Refusal::BadMessage);
                }
                speaker.ready = Some(Box::new(Ready { rtt_ms, payload }));
                Ok(session.start(participant.session, limits.hold_back))
            }
            ToServer::Open { .. }
            | ToServer::Join { .. }
            | ToServer::Enter { .. }
            | ToServer::Available { .. }
            | ToServer::Invite { .. }
            | ToServer::Result { .. }
            | ToServer::PeerPing { .. }
            | ToServer::PeerPong { .. }
            | ToServer::Ready { .. } => Err(Refusal::BadMessage),
        }
    }

    fn leave(&mut self, participant: Participant) -> Vec<Delivery> {
        let Some(ended) = self.end(participant.session) else { return Vec::new() };
        let peer = participant.peer();
        let has_peer = peer.role == Role::First || ended.second.is_some();
        has_peer.then_some(Delivery { participant: peer, message: ToClient::PeerLeft }).into_iter().collect()
    }

    fn opened_from(&self, code: Code, now: Duration) -> Option<IpAddr> {
        self.waits(code, now).map(|(_, from)| from)
    }

    fn deadline(&self, participant: Participant) -> Option<Duration> {
        self.sessions.get(&participant.session).map(|s| s.until)
    }

    fn count(&self) -> usize {
        self.sessions.len()
    }
}

impl Session {
    fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.first).chain(&self.second)
    }

    fn member(&mut self, role: Role) -> Option<&mut Member> {
        match role {
            Role::First => Some(&mut self.first),
            Role::Second => self.second.as_mut(),
        }
    }

    /// When both are ready: each gets the other's payload, and waits as long as the message takes longer to the other.
    fn start(&mut self, session: u64, hold_back: Duration) -> Vec<Delivery> {
        let Some(second) = &mut self.second else { return Vec::new() };
        if self.first.ready.is_none() || second.ready.is_none() {
            return Vec::new();
        }
        let (Some(a), Some(b)) = (self.first.ready.take(), second.ready.take()) else { return Vec::new() };
        let step = self.step;
        self.step += 1;
        let longest = u32::try_from(hold_back.as_millis()).unwrap_or(u32::MAX);
        let after = |mine: u32, other: u32| (other.saturating_sub(mine) / 2).min(longest);
        let start = |role, after_ms, payload| Delivery {
            participant: Participant { session, role },
            message: ToClient::Start { step, after_ms, payload },
        };
        let (for_a, for_b) = (after(a.rtt_ms, b.rtt_ms), after(b.rtt_ms, a.rtt_ms));
        vec![start(Role::First, for_a, b.payload), start(Role::Second, for_b, a.payload)]
    }
}

impl Member {
    fn new(ip: IpAddr) -> Self {
        Self { ip, ready: None, messages: 0, bytes: 0 }
    }
}
