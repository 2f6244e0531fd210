//! A running server: sockets opened, threads started, and a handle to ask, reload and stop it.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    thread::JoinHandle,
};

use shared::log_writer::LogWriter;

use crate::{
    admin,
    bind::{self, BindError},
    certificate,
    check::{self, CheckError},
    config::Config,
    counters::Snapshot,
    http::Page,
    inherited::{KeptSocket, SocketPool},
    page::{self, PageCounts},
    rendezvous::Counts,
    shared_state::{Current, Shared},
    streams::{self, Services, StreamCounts, TlsError},
    test_session::{TestCounts, TestSessions},
    topology::{Endpoint, Topology},
    udp,
};

mod restart;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket was refused.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A thread, a pipe or the like was refused.
    #[error("cannot start: {0}")]
    System(#[from] io::Error),
    /// It started, but did not answer itself as it should.
    #[error(transparent)]
    Check(#[from] CheckError),
}

/// What is served over one transport in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `udp`, `tcp`, `tls`, `page` or `admin`: the word of the ready line.
    pub transport: &'static str,
    /// Position in [`Config::families`]; none for `admin`.
    pub family: Option<usize>,
    /// Where.
    pub addresses: Vec<SocketAddr>,
}

/// A configured address that this host has lost or got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressChange {
    /// The address.
    pub ip: IpAddr,
    /// Whether it is there now.
    pub is_present: bool,
}

/// A server that runs until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    /// One a family, as if no address were missing.
    topologies: Vec<Topology>,
    tls: Vec<Topology>,
    page_topologies: Vec<Topology>,
    kept: Vec<KeptSocket>,
    unused: Vec<String>,
    services: Option<streams::Running>,
    config: Config,
    admin: Option<SocketAddr>,
    operators: Option<admin::Running>,
    workers: Vec<JoinHandle<()>>,
    /// Signs of life when they were last looked at.
    beats: Vec<u64>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("topologies", &self.topologies()).finish_non_exhaustive()
    }
}

impl Server {
    /// Opens all sockets, starts all threads and, if the configuration says so, asks itself everything. When it
    /// returns, the server answers. It blocks for a few milliseconds.
    ///
    /// # Errors
    /// When the operating system refuses something or the self-check fails; nothing is left behind then.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_from(config, SocketPool::default())
    }

    /// The same with sockets that a predecessor left: those that are configured are taken over, others are closed.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start_from(config: Config, mut pool: SocketPool) -> Result<Self, StartError> {
        let missing = bind::missing_addresses(&config.families);
        let is_missing = |ip: &IpAddr| missing.contains(ip);
        if let Some(family) = config.families.first()
            && config.families.iter().all(|f| is_missing(&f.primary) && f.alternate.iter().all(is_missing))
        {
            return Err(bind::not_available(family, config.ports).into());
        }
        let mut bound = config
            .families
            .iter()
            .map(|family| bind::bind(&config, *family, &mut pool))
            .collect::<Result<Vec<_>, _>>()?;
        let topologies: Vec<_> = bound.iter().map(|b| b.topology.clone()).collect();
        let tls: Vec<_> = bound.iter().filter_map(|b| b.tls.as_ref().map(|(t, _)| t.clone())).collect();
        let page_sockets = config.page.as_ref().map(|page| bind::page(&config, page)).transpose()?;
        let (page_topologies, page_sockets) = page_sockets.unzip();
        let page_topologies: Vec<Topology> = page_topologies.unwrap_or_default();
        let current = Current {
            topologies: without(&topologies, &missing),
            tls: without(&tls, &missing),
            limits: config.limits,
            streams: config.streams,
            http: Arc::new(config.http.clone()),
            page_topologies: without(&page_topologies, &missing),
            page: page(&config, &topologies),
        };
        let shared = Arc::new(Shared::new(current, seed(), config.unused_before)?);
        shared.set_serves_tcp(config.tcp);
        shared.set_missing(missing);
        let mut services = Services::default();
        for bound in &mut bound {
            services.tcp.push(std::mem::take(&mut bound.tcp));
            services.tls.extend(bound.tls.take().map(|(_, listeners)| listeners));
        }
        services.rendezvous = config.rendezvous;
        services.test_sessions = test_sessions(&config, &topologies, &tls);
        services.page = page_sockets;
        if let Some(tls) = &config.tls {
            services.identity = Some(streams::identity(tls)?);
            shared.set_certificate_end(certificate::end(&tls.certificate).unwrap_or(0));
        }
        let admin = match config.admin {
            Some(address) => {
                let listener = bind::listen("admin", address, &mut pool)?;
                pool.keep_tcp(&listener)?;
                Some((listener.local_addr()?, listener))
            }
            None => None,
        };
        let (kept, unused) = pool.finish();
        let mut server = Self {
            shared: Arc::clone(&shared),
            topologies,
            tls,
            page_topologies,
            kept,
            unused,
            services: None,
            admin: admin.as_ref().map(|(address, _)| *address),
            operators: None,
            workers: Vec::new(),
            beats: Vec::new(),
            config,
        };
        for (family, bound) in bound.into_iter().enumerate() {
            for sockets in bound.udp {
                server.workers.extend(udp::spawn(family, &shared, sockets, server.config.batch)?);
            }
        }
        let services = streams::start(services, Arc::clone(&shared), server.config.drain)?;
        let observed = services.observed();
        server.services = Some(services);
        if let Some((_, listener)) = admin {
            server.operators = Some(admin::start(listener, shared, observed)?);
        }
        if server.config.check {
            server.check()?;
        }
        Ok(server)
    }

    /// The endpoints over UDP and TCP, one topology a family.
    #[must_use]
    pub fn topologies(&self) -> Vec<Topology> {
        self.topologies.clone()
    }

    /// What it serves and where: the words of the ready lines.
    #[must_use]
    pub fn services(&self) -> Vec<Service> {
        let services = |transport, topologies: &[Topology]| {
            let service = |(family, t): (usize, &Topology)| Service {
                transport,
                family: Some(family),
                addresses: t.endpoints().filter_map(|e| t.bound(e)).collect(),
            };
            topologies.iter().enumerate().map(service).collect::<Vec<_>>()
        };
        let tcp = if self.config.tcp { &self.topologies[..] } else { &[] };
        let admin =
            self.admin.map(|address| Service { transport: "admin", family: None, addresses: vec![address] });
        [
            services("udp", &self.topologies),
            services("tcp", tcp),
            services("tls", &self.tls),
            services("page", &self.page_topologies),
            Vec::from_iter(admin),
        ]
        .concat()
    }

    /// The configured addresses that this host does not have now. A family that lacks one serves what is left: one
    /// address honestly, or nothing.
    #[must_use]
    pub fn missing_addresses(&self) -> Vec<IpAddr> {
        self.shared.missing()
    }

    /// Whether no address of this family (its position in the configuration) is missing.
    #[must_use]
    pub fn is_complete(&self, family: usize) -> bool {
        let missing = self.shared.missing();
        let is_there = |ip: &IpAddr| !missing.contains(ip);
        self.config
            .families
            .get(family)
            .is_some_and(|f| is_there(&f.primary) && f.alternate.iter().all(is_there))
    }

    /// Looks which addresses this host has and adapts what is served; what has changed. To be called every second or
    /// so.
    pub fn look_for_addresses(&mut self) -> Vec<AddressChange> {
        let (before, now) = (self.shared.missing(), bind::missing_addresses(&self.config.families));
        if before == now {
            return Vec::new();
        }
        let lost =
            now.iter().filter(|ip| !before.contains(ip)).map(|&ip| AddressChange { ip, is_present: false });
        let got =
            before.iter().filter(|ip| !now.contains(ip)).map(|&ip| AddressChange { ip, is_present: true });
        let changes = lost.chain(got).collect();
        self.forget_what_was_heard_at(&before, &now);
        self.shared.set_missing(now);
        self.publish();
        changes
    }

    /// While an address was missing, what clients sent to it did not come here.
    fn forget_what_was_heard_at(&self, missing_before: &[IpAddr], missing_now: &[IpAddr]) {
        let is_back = |ip: &IpAddr| missing_before.contains(ip) && !missing_now.contains(ip);
        for (topology, last_heard) in self.topologies.iter().zip(&self.shared.last_heard) {
            for at in [Endpoint::Primary, Endpoint::Alternate] {
                if topology.bound(at).is_some_and(|address| is_back(&address.ip())) {
                    last_heard.forget(at, self.shared.clock.now());
                }
            }
        }
    }

    /// The sockets that were opened anew, for the service manager to keep for a successor; each once.
    pub fn take_sockets_to_keep(&mut self) -> Vec<KeptSocket> {
        std::mem::take(&mut self.kept)
    }

    /// The names of inherited sockets that the configuration has no use for.
    #[must_use]
    pub fn unused_sockets(&self) -> &[String] {
        &self.unused
    }

    /// Seconds until the certificate ends; `None` without TLS.
    #[must_use]
    pub fn certificate_seconds(&self) -> Option<i64> {
        self.shared.certificate_seconds()
    }

    /// Asks every endpoint everything over real sockets; the number of combinations that were asked. It blocks.
    ///
    /// # Errors
    /// The first wrong answer.
    pub fn check(&self) -> Result<usize, CheckError> {
        let mut rng = fastrand::Rng::with_seed(seed());
        let turn = self.shared.self_check.begin();
        let deadline = check::Deadline::begin();
        let current = self.shared.current();
        current.topologies.iter().map(|topology| check::check(topology, &mut rng, &turn, &deadline)).sum()
    }

    /// What has happened so far over UDP.
    #[must_use]
    pub fn counters(&self) -> Snapshot {
        self.shared.count()
    }

    /// What has happened so far over TCP and TLS.
    #[must_use]
    pub fn stream_counts(&self) -> StreamCounts {
        self.services.as_ref().map(streams::Running::counts).unwrap_or_default()
    }

    /// Lines that this log loses from now on are among the metrics.
    pub fn observe_log(&self, log: &LogWriter) {
        self.shared.observe_log(log.lost());
    }

    /// What has happened so far between clients that wanted to meet; none if they cannot.
    #[must_use]
    pub fn introductions(&self) -> Option<Counts> {
        self.services.as_ref().and_then(streams::Running::introductions)
    }

    /// What has happened so far in test sessions; none if there are none.
    #[must_use]
    pub fn test_sessions(&self) -> Option<TestCounts> {
        self.services.as_ref().and_then(streams::Running::test_sessions)
    }

    /// What has happened so far to the page for browsers; none without it.
    #[must_use]
    pub fn page(&self) -> Option<PageCounts> {
        self.services.as_ref().and_then(streams::Running::page)
    }

    /// Takes over limits, advertised addresses, bounds on connections and the certificate from another configuration,
    /// while every socket stays open. The names of the keys that need a restart to change are returned.
    ///
    /// # Errors
    /// When the certificate or key cannot be used; nothing has changed then.
    pub fn reload(&mut self, config: Config) -> Result<Vec<&'static str>, TlsError> {
        let identity = match (&self.config.tls, &config.tls) {
            (Some(_), Some(tls)) => Some(streams::identity(tls)?),
            _ => None,
        };
        let needs_restart = restart::needed_for(&self.config, &config);
        // Those in the file belong to the addresses in the file, which these sockets may not have.
        let advertised = if self.config.families == config.families {
            config.advertise
        } else {
            self.config.advertise.clone()
        };
        let advertise = |topology: &Topology| {
            advertised.iter().fold(topology.as_bound(), |t, one| t.advertise(one.local, one.public))
        };
        self.topologies = self.topologies.iter().map(advertise).collect();
        self.tls = self.tls.iter().map(advertise).collect();
        self.page_topologies = self.page_topologies.iter().map(advertise).collect();
        if let (Some(identity), Some(services)) = (identity, &self.services) {
            services.replace_identity(identity);
        }
        self.config.advertise = advertised;
        self.config.limits = config.limits;
        self.config.streams = config.streams;
        self.config.http = config.http;
        if let (Some(mine), Some(new)) = (&mut self.config.page, config.page) {
            mine.names = new.names;
        }
        if let (Some(mine), Some(new)) = (&mut self.config.tls, config.tls) {
            (mine.certificate, mine.key) = (new.certificate, new.key);
            self.shared.set_certificate_end(certificate::end(&mine.certificate).unwrap_or(0));
        }
        self.publish();
        Ok(needs_restart)
    }

    /// Whether any of its threads has ended although nobody asked for it.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.workers.iter().any(JoinHandle::is_finished)
            || self.services.as_ref().is_some_and(streams::Running::is_finished)
    }

    /// Whether any of its threads has shown no sign of life since this was last asked, which should be half a second
    /// ago or more.
    pub fn is_stuck(&mut self) -> bool {
        let before = std::mem::replace(&mut self.beats, self.shared.beats());
        before.iter().zip(&self.beats).any(|(before, now)| before == now)
    }

    /// Stops: no new connections, what has come is answered, open connections get the time that the configuration
    /// says. It blocks until all threads have ended.
    pub fn stop(mut self) {
        self.end();
    }

    /// Puts what is configured, less what is missing, where all threads look.
    fn publish(&self) {
        let missing = self.shared.missing();
        self.shared.replace(Current {
            topologies: without(&self.topologies, &missing),
            tls: without(&self.tls, &missing),
            limits: self.config.limits,
            streams: self.config.streams,
            http: Arc::new(self.config.http.clone()),
            page_topologies: without(&self.page_topologies, &missing),
            page: page(&self.config, &self.topologies),
        });
    }

    /// Datagrams are answered until the last connection has ended.
    fn end(&mut self) {
        if let Some(services) = self.services.take() {
            services.stop();
        }
        self.shared.stop();
        if let Some(operators) = self.operators.take() {
            operators.stop();
        }
        for worker in self.workers.drain(..) {
            // A worker that panicked has said so on standard error.
            _ = worker.join();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
    }
}

/// The test sessions, if there are to be any.
#[cfg(target_os = "linux")]
fn test_sessions(config: &Config, topologies: &[Topology], tls: &[Topology]) -> Option<Arc<TestSessions>> {
    let own = topologies.iter().chain(tls).flat_map(|it| it.endpoints().filter_map(|at| it.bound(at)));
    let own_ports = own.map(|address| address.port()).collect();
    let network = Arc::new(crate::test_session::SystemSockets::default());
    config.test_sessions.map(|limits| TestSessions::new(limits, own_ports, network))
}

/// Elsewhere it is not known how to keep a system from sending more SYNs than may be.
#[cfg(not(target_os = "linux"))]
fn test_sessions(_: &Config, _: &[Topology], _: &[Topology]) -> Option<Arc<TestSessions>> {
    None
}

fn without(topologies: &[Topology], missing: &[IpAddr]) -> Vec<Topology> {
    topologies.iter().map(|topology| topology.without(missing)).collect()
}

/// The page for browsers under all names of this server: those that are configured, those of the certificate, and its
/// addresses.
fn page(config: &Config, topologies: &[Topology]) -> Option<Arc<Page>> {
    let ips = topologies.iter().flat_map(|topology| {
        let of = |at: Endpoint| [topology.bound(at), topology.advertised(at)];
        Endpoint::ALL.into_iter().flat_map(of).flatten().map(|at| at.ip())
    });
    let mut names: Vec<String> = ips.map(|ip| ip.to_string()).collect();
    if names.iter().any(|name| name == "127.0.0.1") {
        names.push("localhost".into());
    }
    names.extend(config.tls.iter().flat_map(|tls| certificate::names(&tls.certificate)));
    names.extend(config.page.as_ref()?.names.iter().cloned());
    names.sort();
    names.dedup();
    Some(Arc::new(page::page(names)))
}

/// A seed that strangers cannot guess.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}
