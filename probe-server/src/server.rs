//! A running server: sockets opened, threads started, and a handle to ask, reload and stop it.

use std::{io, net::SocketAddr, sync::Arc, thread::JoinHandle};

use shared::log_writer::LogWriter;

use crate::{
    bind::{self, BindError},
    check::{self, CheckError},
    config::Config,
    counters::Snapshot,
    rendezvous::Counts,
    settings::{Current, Shared},
    streams::{self, Services, StreamCounts, TlsError},
    topology::Topology,
    udp,
};

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

/// A server that runs until it is stopped or dropped.
pub struct Server {
    shared: Arc<Shared>,
    services: Option<streams::Running>,
    config: Config,
    admin: Option<SocketAddr>,
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
        let mut bound = config
            .families
            .iter()
            .map(|family| bind::bind(&config, *family))
            .collect::<Result<Vec<_>, _>>()?;
        let current = Current {
            topologies: bound.iter().map(|b| b.topology.clone()).collect(),
            tls: bound.iter().filter_map(|b| b.tls.as_ref().map(|(topology, _)| topology.clone())).collect(),
            limits: config.limits,
            streams: config.streams,
        };
        let shared = Arc::new(Shared::new(current, seed())?);
        let mut services = Services::default();
        for bound in &mut bound {
            services.tcp.push(std::mem::take(&mut bound.tcp));
            services.tls.extend(bound.tls.take().map(|(_, listeners)| listeners));
        }
        services.rendezvous = config.rendezvous;
        if let Some(tls) = &config.tls {
            services.identity = Some(streams::identity(tls)?);
        }
        let admin = match config.admin {
            Some(address) => {
                let listener = bind::listen("admin", address)?;
                let address = listener.local_addr()?;
                services.admin = Some(listener);
                Some(address)
            }
            None => None,
        };

        let mut server = Self {
            shared: Arc::clone(&shared),
            services: None,
            admin,
            workers: Vec::new(),
            beats: Vec::new(),
            config,
        };
        for (family, bound) in bound.into_iter().enumerate() {
            for sockets in bound.udp {
                server.workers.extend(udp::spawn(family, &shared, sockets, server.config.batch)?);
            }
        }
        server.services = Some(streams::start(services, Arc::clone(&shared), server.config.drain)?);
        if server.config.check {
            server.check()?;
        }
        Ok(server)
    }

    /// The endpoints over UDP and TCP, one topology a family.
    #[must_use]
    pub fn topologies(&self) -> Vec<Topology> {
        self.shared.current().topologies.clone()
    }

    /// What it serves and where: the words of the ready lines.
    #[must_use]
    pub fn services(&self) -> Vec<(&'static str, Vec<SocketAddr>)> {
        let bound = |t: &Topology| t.endpoints().filter_map(|e| t.bound(e)).collect::<Vec<_>>();
        let current = self.shared.current();
        let topologies = &current.topologies;
        let mut services: Vec<_> = topologies.iter().map(|t| ("udp", bound(t))).collect();
        if self.config.tcp {
            services.extend(topologies.iter().map(|t| ("tcp", bound(t))));
        }
        services.extend(current.tls.iter().map(|t| ("tls", bound(t))));
        services.extend(self.admin.map(|address| ("admin", vec![address])));
        services
    }

    /// Asks every endpoint everything over real sockets; the number of combinations that were asked. It blocks.
    ///
    /// # Errors
    /// The first wrong answer.
    pub fn check(&self) -> Result<usize, CheckError> {
        let mut rng = fastrand::Rng::with_seed(seed());
        self.topologies().iter().map(|topology| check::check(topology, &mut rng)).sum()
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
        let needs_restart = needs_restart(&self.config, &config);
        // Those in the file belong to the addresses in the file, which these sockets may not have.
        let advertised = if self.config.families == config.families {
            config.advertise
        } else {
            self.config.advertise.clone()
        };
        let advertise = |topology: &Topology| {
            advertised.iter().fold(topology.as_bound(), |t, one| t.advertise(one.local, one.public))
        };
        let old = self.shared.current();
        self.shared.replace(Current {
            topologies: old.topologies.iter().map(advertise).collect(),
            tls: old.tls.iter().map(advertise).collect(),
            limits: config.limits,
            streams: config.streams,
        });
        if let (Some(identity), Some(services)) = (identity, &self.services) {
            services.replace_identity(identity);
        }
        self.config.advertise = advertised;
        self.config.limits = config.limits;
        self.config.streams = config.streams;
        if let (Some(mine), Some(new)) = (&mut self.config.tls, config.tls) {
            (mine.certificate, mine.key) = (new.certificate, new.key);
        }
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

    fn end(&mut self) {
        self.shared.stop();
        if let Some(services) = self.services.take() {
            services.stop();
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

fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let primary = |config: &Config| config.families.iter().map(|f| f.primary).collect::<Vec<_>>();
    let alternate = |config: &Config| config.families.iter().map(|f| f.alternate).collect::<Vec<_>>();
    let tls = |config: &Config| config.tls.as_ref().map_or((0, 0), |tls| tls.ports);
    let (mine, its) = (old.rendezvous.unwrap_or_default(), new.rendezvous.unwrap_or_default());
    [
        ("primary", primary(old) != primary(new)),
        ("alternate", alternate(old) != alternate(new)),
        ("advertise", old.families != new.families && old.advertise != new.advertise),
        ("port", old.ports.0 != new.ports.0),
        ("alternate-port", old.ports.1 != new.ports.1),
        ("workers", old.workers != new.workers),
        ("batch", old.batch != new.batch),
        ("no-tcp", old.tcp != new.tcp),
        ("tls-port", tls(old).0 != tls(new).0),
        ("tls-alternate-port", tls(old).1 != tls(new).1),
        ("no-rendezvous", old.rendezvous.is_some() != new.rendezvous.is_some()),
        ("max-sessions", mine.sessions != its.sessions),
        ("max-sessions-per-host", mine.per_host != its.per_host),
        ("max-sessions-per-net", mine.per_net != its.per_net),
        ("check", old.check != new.check),
        ("admin", old.admin != new.admin),
        ("drain", old.drain != new.drain),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

/// A seed that strangers cannot guess.
fn seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}
