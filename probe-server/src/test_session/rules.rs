//! Who may have what sent where, and how often. Pure: time and randomness are arguments, and what is to be done comes out.
//!
//! A session belongs to the address that its own connection came from. No message names an address; so however messages
//! follow each other, nothing is sent anywhere else.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use shared::test_session::{
    Decline, MAX_CONNECT_DELAY, MAX_CONNECT_ID, MAX_CONNECT_WAIT, MAX_TTL, NAMED_PORTS, Nonce, PROVEN_PORTS,
    Refusal, Source, SourceAddress, ToClient, ToServer, Token,
};

use super::{hosts::Hosts, under_way::UnderWay};
use crate::admission::{AdmissionTable, Shares, nanoseconds};

/// What is kept, for how long, for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestLimits {
    /// Sessions in all.
    pub sessions: usize,
    /// Sessions of one host (IPv4 address, IPv6 /56).
    pub per_host: usize,
    /// Sessions of one network (IPv4 /24, IPv6 /48); beyond that, it makes room within itself.
    pub per_net: usize,
    /// Connects and traces of all clients that may wait or be under way; one network may have a twentieth, one provider a tenth.
    pub connects: usize,
    /// Connections of all clients that may be held; the same for them.
    pub held: usize,
    /// How long at most a connection is held; zero = not at all.
    pub hold: Duration,
    /// How long a session lasts, and after what it asked for last.
    pub last: Duration,
    /// Messages of one client.
    pub messages: u32,
}

impl Default for TestLimits {
    fn default() -> Self {
        Self {
            sessions: 2000,
            per_host: 20,
            per_net: 200,
            connects: 1000,
            held: 2000,
            hold: Duration::from_secs(900),
            last: Duration::from_secs(300),
            messages: 200,
        }
    }
}

/// What the server has to offer to a session: where it has no address or port, nothing can be sent from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Whether there is an alternate address.
    pub alternate: bool,
    /// Whether the primary and the alternate address have a listener whose backlog is full.
    pub pending: [bool; 2],
}

/// What is to be done for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Tell it this.
    Tell(ToClient),
    /// Connect to it; [`SessionTable::end_connect`] is to follow.
    Connect(Connect),
    /// Hold one of its connections; [`SessionTable::end_hold`] is to follow.
    Hold(Hold),
    /// Open a trace port for it, and tell it with this number.
    TracePort(u32),
    /// Send packets with a limited TTL; [`SessionTable::end_connect`] is to follow.
    Trace(Trace),
}

/// A connect that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// From the request.
    pub id: u32,
    /// The session's own address, and a port that it may have.
    pub to: SocketAddr,
    /// Which address of the server.
    pub from: SourceAddress,
    /// Which port of the server.
    pub source: Source,
    /// To be written, and to come back.
    pub nonce: Nonce,
    /// When.
    pub after: Duration,
    /// How long to wait for an answer.
    pub wait: Duration,
}

/// A connection that is to be held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// From the request.
    pub id: u32,
    /// Which one.
    pub connection: u32,
    /// To be written, and to come back.
    pub nonce: Nonce,
    /// When.
    pub after: Duration,
}

/// A trace that is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// From the request.
    pub id: u32,
    /// The source of the session's flow: at the session's own address.
    pub to: SocketAddr,
    /// The first and the last TTL.
    pub ttls: (u8, u8),
    /// How long to wait for what comes back.
    pub wait: Duration,
}

/// The sessions of one server.
#[derive(Debug)]
pub struct SessionTable {
    limits: TestLimits,
    /// Ports that nothing is ever sent to.
    own_ports: Vec<u16>,
    numbered: u64,
    sessions: HashMap<u64, Session>,
    tokens: HashMap<Token, u64>,
    clients: AdmissionTable,
    hosts: Hosts,
    connects: UnderWay,
    held: UnderWay,
}

#[derive(Debug)]
struct Session {
    ip: IpAddr,
    token: Token,
    /// The first of the nonces of its connects.
    nonces: Nonce,
    offer: Offer,
    until: Duration,
    messages: u32,
    named: Vec<u16>,
    /// Each connection, with its external port where that is at the session's address. Those that have ended are here, too.
    proven: Vec<Proven>,
    has_trace_port: bool,
    flow: Option<u16>,
}

#[derive(Debug)]
struct Proven {
    port: Option<u16>,
    may_be_held: bool,
}

/// The longest wait for what comes of a trace.
pub(super) const MAX_TRACE_WAIT: Duration = Duration::from_millis(1500);

/// What a trace costs, in connects.
const TRACE_COST: u32 = 4;

impl SessionTable {
    /// No sessions yet. Nothing is ever sent to `own_ports`: those that the server itself speaks STUN at.
    #[must_use]
    pub fn new(limits: TestLimits, own_ports: Vec<u16>) -> Self {
        Self {
            limits,
            own_ports,
            numbered: 0,
            sessions: HashMap::new(),
            tokens: HashMap::new(),
            clients: AdmissionTable::default(),
            hosts: Hosts::default(),
            connects: UnderWay::new(limits.connects),
            held: UnderWay::new(limits.held),
        }
    }

    /// Begins a session of a client at this address. Its token and the first nonce of its connects have to come from a source
    /// that nobody can predict. Where another session has to end for it, that is given, too.
    ///
    /// # Errors
    /// When its host has too many, or there is no room.
    pub fn open(
        &mut self,
        from: IpAddr,
        offer: Offer,
        (token, nonces): (Token, Nonce),
        now: Duration,
    ) -> Result<(u64, Option<u64>), Refusal> {
        let ip = from.to_canonical();
        if self.limits.sessions == 0 || self.tokens.contains_key(&token) {
            return Err(Refusal::Full);
        }
        let shares = Shares { per_host: self.limits.per_host, per_network: self.limits.per_net };
        let is_full = self.sessions.len() >= self.limits.sessions;
        let victim = self.clients.admit(ip, shares, is_full, nanoseconds(now))?;
        victim.iter().for_each(|victim| self.close(*victim));
        self.numbered += 1;
        let session = self.numbered;
        self.clients.insert(session, ip, nanoseconds(now));
        self.tokens.insert(token, session);
        let entry = Session {
            ip,
            token,
            nonces,
            offer,
            until: now + self.limits.last,
            messages: 0,
            named: Vec::new(),
            proven: Vec::new(),
            has_trace_port: false,
            flow: None,
        };
        self.sessions.insert(session, entry);
        Ok((session, victim))
    }

    /// Takes what a client says.
    ///
    /// # Errors
    /// When it is out of place, or more than a session may say. The client is to be cut off then.
    pub fn handle(&mut self, session: u64, message: &ToServer, now: Duration) -> Result<Order, Refusal> {
        let limits = self.limits;
        let entry = self.sessions.get_mut(&session).filter(|it| now < it.until).ok_or(Refusal::Expired)?;
        entry.messages += 1;
        if entry.messages > limits.messages {
            return Err(Refusal::TooMuch);
        }
        // Where there is no room, the longest idle one goes.
        self.clients.touch(session, entry.ip, nanoseconds(now));
        let (id, order) = match message {
            ToServer::Open { .. } => return Err(Refusal::BadMessage),
            ToServer::Ping { id } => (*id, Ok(Order::Tell(ToClient::Pong { id: *id }))),
            ToServer::Syn { id, .. } => (*id, self.connect(session, message, now)),
            ToServer::Hold { id, connection, nonce, after_ms } => {
                let after = Duration::from_millis((*after_ms).into());
                let hold = Hold { id: *id, connection: *connection, nonce: *nonce, after };
                (*id, self.hold(session, hold, now))
            }
            ToServer::TracePort { id } if std::mem::replace(&mut entry.has_trace_port, true) => {
                (*id, Err(Decline::Busy))
            }
            ToServer::TracePort { id } => (*id, Ok(Order::TracePort(*id))),
            ToServer::Trace { id, ttl_from, ttl_to, wait_ms } => {
                let wait = Duration::from_millis((*wait_ms).into());
                (*id, self.trace(session, *id, (*ttl_from, *ttl_to), wait, now))
            }
        };
        Ok(order.unwrap_or_else(|reason| Order::Tell(ToClient::Declined { id, reason })))
    }

    /// A request with this token has come over a connection from `at`: the session that it belongs to, and the number of
    /// the connection in it.
    pub fn prove(&mut self, token: &Token, at: SocketAddr, now: Duration) -> Option<(u64, u32)> {
        let session = *self.tokens.get(token)?;
        let entry = self.sessions.get_mut(&session).filter(|it| now < it.until)?;
        if entry.proven.len() >= PROVEN_PORTS {
            return None;
        }
        let port = (at.ip().to_canonical() == entry.ip).then_some(at.port());
        entry.proven.push(Proven { port, may_be_held: true });
        Some((session, u32::try_from(entry.proven.len()).ok()?))
    }

    /// A datagram with the session's token has come to its trace port from `at`: whether that is news, and a source that may
    /// be traced to.
    pub fn prove_flow(&mut self, session: u64, at: SocketAddr) -> bool {
        let Some(entry) = self.sessions.get_mut(&session) else { return false };
        let is_own = self.own_ports.contains(&at.port());
        let is_allowed = !is_own && at.ip().to_canonical() == entry.ip;
        is_allowed && entry.flow.replace(at.port()) != Some(at.port())
    }

    /// A connect or a trace for a client at this address is over, or will not be.
    pub fn end_connect(&mut self, ip: IpAddr) {
        self.connects.end(ip);
        self.hosts.end_connect(ip);
    }

    /// A connection of a client at this address is not held any longer.
    pub fn end_hold(&mut self, ip: IpAddr) {
        self.held.end(ip);
        self.hosts.end_hold(ip);
    }

    /// A session is over. What it has under way ends by itself.
    pub fn close(&mut self, session: u64) {
        if let Some(entry) = self.sessions.remove(&session) {
            self.tokens.remove(&entry.token);
            self.clients.remove(session, entry.ip);
        }
    }

    /// When the session has to be over, if it exists.
    #[must_use]
    pub fn deadline(&self, session: u64) -> Option<Duration> {
        self.sessions.get(&session).map(|it| it.until)
    }

    /// The address of the session's client.
    #[must_use]
    pub fn address(&self, session: u64) -> Option<IpAddr> {
        self.sessions.get(&session).map(|it| it.ip)
    }

    /// Number of sessions.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    fn connect(&mut self, session: u64, message: &ToServer, now: Duration) -> Result<Order, Decline> {
        let &ToServer::Syn { id, port, from, source, after_ms, wait_ms } = message else {
            return Err(Decline::NotOffered);
        };
        let entry = self.sessions.get_mut(&session).ok_or(Decline::Busy)?;
        let is_there = match (from, source) {
            (SourceAddress::Primary, Source::Ephemeral) => true,
            (SourceAddress::Alternate, Source::Ephemeral) => entry.offer.alternate,
            (_, Source::Pending) => entry.offer.pending[usize::from(from == SourceAddress::Alternate)],
        };
        let (after, wait) = (Duration::from_millis(after_ms.into()), Duration::from_millis(wait_ms.into()));
        let is_proven = entry.proven.iter().any(|it| it.port == Some(port));
        let is_named = entry.named.contains(&port);
        if !is_there {
            return Err(Decline::NotOffered);
        }
        if after > MAX_CONNECT_DELAY || wait > MAX_CONNECT_WAIT {
            return Err(Decline::TooLong);
        }
        if id > MAX_CONNECT_ID {
            return Err(Decline::HighId);
        }
        if self.own_ports.contains(&port) {
            return Err(Decline::OwnPort);
        }
        if port < 1024 && !is_proven {
            return Err(Decline::LowPort);
        }
        if !is_proven && !is_named && entry.named.len() >= NAMED_PORTS {
            return Err(Decline::TooManyPorts);
        }
        self.connects.check(entry.ip)?;
        let host = self.hosts.get(entry.ip, now)?;
        host.check_connects(1, now)?;
        if !is_proven {
            host.check_port(port, now)?;
            host.name_port(port, now);
            if !is_named {
                entry.named.push(port);
            }
        }
        host.begin_connect(1, now);
        self.connects.begin(entry.ip);
        entry.until = entry.until.max(now + after + self.limits.last);
        let (to, nonce) = (SocketAddr::new(entry.ip, port), entry.nonces.of_connect(id));
        Ok(Order::Connect(Connect { id, to, from, source, nonce, after, wait }))
    }

    fn hold(&mut self, session: u64, hold: Hold, now: Duration) -> Result<Order, Decline> {
        if self.limits.hold.is_zero() {
            return Err(Decline::NotOffered);
        }
        if hold.after > self.limits.hold {
            return Err(Decline::TooLong);
        }
        let entry = self.sessions.get_mut(&session).ok_or(Decline::Busy)?;
        let position = (hold.connection as usize).checked_sub(1).ok_or(Decline::NoConnection)?;
        let proven = entry.proven.get_mut(position).filter(|it| it.may_be_held);
        let proven = proven.ok_or(Decline::NoConnection)?;
        self.held.check(entry.ip)?;
        self.hosts.get(entry.ip, now)?.begin_hold()?;
        proven.may_be_held = false;
        self.held.begin(entry.ip);
        entry.until = entry.until.max(now + hold.after + self.limits.last);
        Ok(Order::Hold(hold))
    }

    fn trace(
        &mut self,
        session: u64,
        id: u32,
        ttls: (u8, u8),
        wait: Duration,
        now: Duration,
    ) -> Result<Order, Decline> {
        let entry = self.sessions.get_mut(&session).ok_or(Decline::Busy)?;
        if ttls.0 == 0 || ttls.0 > ttls.1 || ttls.1 > MAX_TTL || wait > MAX_TRACE_WAIT {
            return Err(Decline::TooLong);
        }
        let port = entry.flow.ok_or(Decline::NoFlow)?;
        self.connects.check(entry.ip)?;
        let host = self.hosts.get(entry.ip, now)?;
        host.check_connects(TRACE_COST, now)?;
        host.begin_connect(TRACE_COST, now);
        self.connects.begin(entry.ip);
        Ok(Order::Trace(Trace { id, to: SocketAddr::new(entry.ip, port), ttls, wait }))
    }
}
