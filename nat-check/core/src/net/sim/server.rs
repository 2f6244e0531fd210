//! A probe server of the simulated network: `probe_server::respond` on a topology, with the faults it was given.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use probe_server::{
    last_heard::{UNUSED_BEFORE, Unheard, source},
    rendezvous::{Rendezvous, SessionLimits},
    respond::{Answers, respond, respond_stream},
    test_session::{ServerSide, TestSessions},
    topology::{Endpoint, Topology},
};
use shared::stun::{Class, Dialect, View, Writer, attr};

use super::{
    driver::Shared,
    faults::{Edit, Fault, rewritten},
    rate::Policer,
    test_sessions::{self, PENDING},
};

/// A probe server. `Default` is one without faults, at 198.51.100.10 and .11.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSpec {
    /// Its first IPv4 address.
    pub primary: IpAddr,
    /// Its second one.
    pub alternate: IpAddr,
    /// Its IPv6 addresses, if the world has such.
    pub v6: Option<(IpAddr, IpAddr)>,
    /// Its two ports.
    pub ports: (u16, u16),
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

impl Default for ServerSpec {
    fn default() -> Self {
        Self {
            primary: Ipv4Addr::UNSPECIFIED.into(),
            alternate: Ipv4Addr::UNSPECIFIED.into(),
            v6: None,
            ports: (3478, 3479),
            faults: Vec::new(),
        }
    }
}

impl ServerSpec {
    /// A server with these faults.
    #[must_use]
    pub fn with_faults(faults: impl IntoIterator<Item = Fault>) -> Self {
        Self { faults: faults.into_iter().collect(), ..Self::default() }
    }

    /// Gives the `n`th server of a world its addresses, where it has none yet.
    pub(super) fn placed(mut self, n: u8, ipv6: bool) -> Self {
        if self.primary.is_unspecified() {
            self.primary = Ipv4Addr::new(198, 51, 100, 10 + 10 * n).into();
        }
        if self.alternate.is_unspecified() {
            self.alternate = Ipv4Addr::new(198, 51, 100, 11 + 10 * n).into();
        }
        if ipv6 && self.v6.is_none() {
            let ip = |last| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x10, u16::from(n), 0, 0, 0, last));
            self.v6 = Some((ip(0x10), ip(0x11)));
        }
        self
    }

    fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}

/// How long a server that locks clients out does so.
const LOCKOUT: Duration = Duration::from_secs(10);
/// Requests that wait for a server that serves one after another.
const MOST_WAITING: u32 = 256;
/// What the server sees of all clients where it stands behind a NAT of its own.
const PROXY: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 17, 0, 1));

/// One datagram that the server sends.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) after: Duration,
    pub(super) bytes: Vec<u8>,
}

/// The test sessions of a server, if anybody has asked for one.
pub(super) struct Sessions(pub(super) Option<Arc<TestSessions>>);

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "test sessions" } else { "no test session yet" })
    }
}

#[derive(Debug)]
pub(super) struct Server {
    spec: ServerSpec,
    topologies: Vec<Topology>,
    answers: Box<Answers>,
    /// What limits each source address.
    policers: BTreeMap<IpAddr, Policer>,
    /// Since when, and how many answers each source address got; see [`Fault::Lockout`].
    served: BTreeMap<IpAddr, (Duration, u32)>,
    /// When a server that serves one request after another is through with all that wait.
    free_at: Duration,
    /// When each source was last heard at each address of its family: what the real server keeps in a table.
    last_heard: BTreeMap<(bool, u64, usize), Duration>,
    rng: fastrand::Rng,
    /// Where clients that want to punch meet.
    pub(super) rendezvous: Arc<Rendezvous>,
    /// What connects back to clients; made when the first one asks.
    pub(super) test_sessions: Sessions,
}

impl Server {
    pub(super) fn new(spec: ServerSpec, seed: u64) -> Self {
        let single = spec.has(Fault::SingleAddress);
        let topology =
            |(primary, alternate)| Topology::new(primary, (!single).then_some(alternate), spec.ports);
        let topologies =
            std::iter::once((spec.primary, spec.alternate)).chain(spec.v6).map(topology).collect();
        let rng = fastrand::Rng::with_seed(seed);
        let rendezvous = Rendezvous::new(SessionLimits::default());
        let (policers, served) = (BTreeMap::new(), BTreeMap::new());
        Self {
            spec,
            topologies,
            answers: Box::default(),
            policers,
            served,
            free_at: Duration::ZERO,
            last_heard: BTreeMap::new(),
            rng,
            rendezvous,
            test_sessions: Sessions(None),
        }
    }

    /// The addresses at which it can be reached.
    pub(super) fn ips(&self) -> Vec<IpAddr> {
        let mut ips: Vec<IpAddr> = self
            .topologies
            .iter()
            .flat_map(|t| Endpoint::ALL.into_iter().filter_map(|e| t.bound(e)).map(|a| a.ip()))
            .collect();
        ips.dedup();
        ips
    }

    /// Its first endpoint of each family.
    pub(super) fn primaries(&self) -> Vec<SocketAddr> {
        self.topologies.iter().filter_map(|t| t.bound(Endpoint::Primary)).collect()
    }

    /// Its test sessions; `number` is its own in its world.
    pub(super) fn sessions(&mut self, world: &Arc<Shared>, number: usize) -> Arc<TestSessions> {
        let own_ports = self.own_ports();
        let make = || test_sessions::sessions(world, number, own_ports);
        Arc::clone(self.test_sessions.0.get_or_insert_with(make))
    }

    /// A port for a connection of its own.
    pub(super) fn ephemeral_port(&mut self) -> u16 {
        self.rng.u16(50_000..=60_999)
    }

    /// The ports that it speaks STUN at.
    pub(super) fn own_ports(&self) -> Vec<u16> {
        vec![self.spec.ports.0, self.spec.ports.1]
    }

    /// Where a connection to `at` comes to, for a test session.
    pub(super) fn side(&self, at: SocketAddr) -> Option<ServerSide> {
        let (topology, at) = self.place(at)?;
        Some(ServerSide { topology: topology.clone(), at, serves_tcp: true })
    }

    /// Whether what comes to `at` over TCP gets no answer at all: at a dead address, or at the listener whose backlog is full.
    pub(super) fn swallows(&self, at: SocketAddr) -> bool {
        at.port() == PENDING || self.place(at).is_some() && self.is_dead(at)
    }

    /// Whether its own connections from here leave it.
    pub(super) fn sends_from(&self, from: SocketAddr) -> bool {
        !self.is_dead(from)
    }

    /// Whether a TCP connection to `at` is accepted.
    pub(super) fn accepts(&self, at: SocketAddr) -> bool {
        !self.spec.has(Fault::TcpClosed) && self.place(at).is_some() && !self.is_dead(at)
    }

    /// What it sends because of a datagram that came to `at`, or why nothing.
    pub(super) fn datagram(
        &mut self,
        at: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        now: Duration,
    ) -> Result<Vec<Outgoing>, &'static str> {
        let Some((topology, endpoint)) = self.place(at) else { return Err("nobody listens") };
        let topology = topology.clone();
        let unheard = self.note(from, endpoint, now);
        if self.spec.has(Fault::UdpDead) || self.is_dead(at) {
            return Err("dead");
        }
        if self.is_rate_limited(from.ip(), now) {
            return Err("rate limited");
        }
        if self.is_locked_out(from.ip(), now) {
            return Err("locked out");
        }
        let Some(after) = self.takes(now) else { return Err("queue full") };
        let Ok(view) = View::parse(datagram) else { return Err("not STUN") };
        self.reads(view.dialect())?;
        if let Some(bytes) = self.refusal(&view) {
            return Ok(vec![Outgoing { from: at, to: from, after, bytes }]);
        }
        let request = self.edited_request(datagram);
        let behind_nat = self.spec.has(Fault::BehindNat);
        let seen = if behind_nat { SocketAddr::new(PROXY, from.port()) } else { from };
        respond(&topology, endpoint, seen, unheard, &request, &mut self.answers)
            .map_err(|reason| reason.name())?;

        let changes = view.u32(attr::CHANGE_REQUEST).unwrap_or(0);
        if self.drops_change(changes) {
            return Err("change dropped");
        }
        let wanted = endpoint.change(changes & attr::CHANGE_IP != 0, changes & attr::CHANGE_PORT != 0);
        let wanted = topology.advertised(wanted).unwrap_or(at);
        let mut sent = Vec::new();
        for (endpoint, to, bytes) in self.answers.iter() {
            let stuck = self.spec.has(Fault::ChangeIpIgnored) && changes & attr::CHANGE_IP != 0;
            let endpoint = if stuck { endpoint.change(true, false) } else { endpoint };
            let Some(source) = topology.bound(endpoint).filter(|a| !self.is_dead(*a)) else { continue };
            if behind_nat && (source, to) != (at, seen) {
                continue;
            }
            let to = if behind_nat { from } else { to };
            let bytes = self.edited_answer(bytes, at, wanted);
            sent.push(Outgoing { from: source, to, after, bytes });
        }
        Ok(self.disturbed(sent))
    }

    /// The answer to one message of a TCP connection.
    pub(super) fn message(&mut self, at: SocketAddr, from: SocketAddr, message: &[u8]) -> Option<Vec<u8>> {
        let (topology, endpoint) = self.place(at)?;
        let topology = topology.clone();
        self.reads(View::parse(message).ok()?.dialect()).ok()?;
        let request = self.edited_request(message);
        respond_stream(&topology, endpoint, from, &request, &mut self.answers).ok()?;
        let answer = self.answers.iter().next().map(|(_, _, bytes)| bytes.to_vec())?;
        Some(self.edited_answer(&answer, at, at))
    }

    /// Notes that a datagram has come from here; for how long none has come to the other address. Before the simulation
    /// began, nobody had sent anything.
    fn note(&mut self, from: SocketAddr, at: Endpoint, now: Duration) -> Unheard {
        let key = |at: Endpoint| (from.is_ipv6(), source(from.ip()), at.address());
        let unheard = match self.last_heard.get(&key(at.other())) {
            Some(heard) => now.saturating_sub(*heard),
            None => now + Duration::from_secs(UNUSED_BEFORE.into()),
        };
        self.last_heard.insert(key(at), now);
        Unheard(unheard.as_secs() as u32)
    }

    fn drops_change(&self, changes: u32) -> bool {
        const BOTH: u32 = attr::CHANGE_IP | attr::CHANGE_PORT;
        self.spec.faults.iter().any(|fault| match fault {
            Fault::ChangeDropped => changes & BOTH != 0,
            Fault::ChangeIpDropped => changes & attr::CHANGE_IP != 0,
            Fault::ChangeBothDropped => changes & BOTH == BOTH,
            _ => false,
        })
    }

    fn place(&self, at: SocketAddr) -> Option<(&Topology, Endpoint)> {
        self.topologies.iter().find_map(|t| t.endpoint_of(at).map(|e| (t, e)))
    }

    fn is_dead(&self, at: SocketAddr) -> bool {
        let alternate = at.ip() == self.spec.alternate || self.spec.v6.is_some_and(|(_, ip)| ip == at.ip());
        alternate && self.spec.has(Fault::AlternateDead)
            || at.port() == self.spec.ports.1 && self.spec.has(Fault::AlternatePortDead)
    }

    fn reads(&self, dialect: Dialect) -> Result<(), &'static str> {
        let fault = match dialect {
            Dialect::Modern => Fault::ClassicOnly,
            Dialect::Classic => Fault::ModernOnly,
        };
        if self.spec.has(fault) { Err("another dialect") } else { Ok(()) }
    }

    fn is_rate_limited(&mut self, from: IpAddr, now: Duration) -> bool {
        let limit = self.spec.faults.iter().find_map(|f| match f {
            Fault::RateLimit(rate) => Some(*rate),
            _ => None,
        });
        let Some(rate) = limit else { return false };
        !self.policers.entry(from).or_insert_with(|| Policer::new(rate, rate.max(1.0))).passes(now)
    }

    fn is_locked_out(&mut self, from: IpAddr, now: Duration) -> bool {
        let limit = self.spec.faults.iter().find_map(|f| match f {
            Fault::Lockout(answers) => Some(*answers),
            _ => None,
        });
        let Some(most) = limit else { return false };
        let (since, answers) = self.served.entry(from).or_insert((now, 0));
        if now - *since >= LOCKOUT {
            (*since, *answers) = (now, 0);
        }
        *answers += 1;
        *answers > most
    }

    /// After how long the answer to a request that arrives now leaves; none when too many wait already.
    fn takes(&mut self, now: Duration) -> Option<Duration> {
        let mut after = Duration::ZERO;
        for fault in &self.spec.faults {
            match *fault {
                Fault::Slow(seconds) => after += Duration::from_secs_f64(seconds),
                Fault::OneByOne(seconds) => {
                    let each = Duration::from_secs_f64(seconds);
                    let begins = self.free_at.max(now);
                    if begins - now > each * MOST_WAITING {
                        return None;
                    }
                    self.free_at = begins + each;
                    after += self.free_at - now;
                }
                _ => {}
            }
        }
        Some(after)
    }

    fn refusal(&self, request: &View<'_>) -> Option<Vec<u8>> {
        if request.class() != Class::Request {
            return None;
        }
        let (code, unknown) = self.spec.faults.iter().find_map(|f| f.refuses(request))?;
        let mut buffer = vec![0; 64];
        let mut writer = Writer::new(&mut buffer, Class::Error, &request.id());
        writer.error(code);
        if let Some(number) = unknown {
            writer.unknown_attributes(&[number]);
        }
        let length = writer.finish().ok()?;
        buffer.truncate(length);
        Some(buffer)
    }

    fn edited_request(&self, request: &[u8]) -> Vec<u8> {
        let edit = |number| self.spec.faults.iter().map(move |f| f.on_request(number));
        self.edited(request, |number| edit(number).find(|e| !matches!(e, Edit::Keep)).unwrap_or(Edit::Keep))
    }

    fn edited_answer(&self, answer: &[u8], asked: SocketAddr, wanted: SocketAddr) -> Vec<u8> {
        let classic = View::parse(answer).is_ok_and(|view| view.dialect() == Dialect::Classic);
        let edit = |number| self.spec.faults.iter().map(move |f| f.on_answer(number, asked, wanted, classic));
        self.edited(answer, |number| edit(number).find(|e| !matches!(e, Edit::Keep)).unwrap_or(Edit::Keep))
    }

    fn edited(&self, message: &[u8], edit: impl Fn(u16) -> Edit) -> Vec<u8> {
        if self.spec.faults.is_empty() {
            return message.to_vec();
        }
        rewritten(message, |attribute| edit(attribute.number)).unwrap_or_else(|| message.to_vec())
    }

    /// Adds what disturbs an honest client: copies, and datagrams that are no answers.
    fn alternate_loss(&self) -> f64 {
        let loss = |fault: &Fault| if let Fault::AlternateLossy(share) = fault { *share } else { 0.0 };
        self.spec.faults.iter().map(loss).sum()
    }

    fn disturbed(&mut self, sent: Vec<Outgoing>) -> Vec<Outgoing> {
        let mut all = Vec::with_capacity(sent.len());
        for outgoing in sent {
            let Outgoing { from, to, after, ref bytes } = outgoing;
            if from.ip() == self.spec.alternate && self.rng.f64() < self.alternate_loss() {
                continue;
            }
            if self.spec.has(Fault::Garbage) {
                let noise = (0..40).map(|_| self.rng.u8(..)).collect();
                all.push(Outgoing { from, to, after, bytes: noise });
                let mut foreign = bytes.clone();
                foreign[8..20].fill_with(|| self.rng.u8(..));
                all.push(Outgoing { from, to, after, bytes: foreign });
            }
            let copy =
                self.spec.has(Fault::Duplicate).then(|| Outgoing { from, to, after, bytes: bytes.clone() });
            all.push(outgoing);
            all.extend(copy);
        }
        all
    }
}
