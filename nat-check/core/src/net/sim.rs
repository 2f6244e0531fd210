//! The simulated network: hosts behind modelled NATs, lines that lose, delay, reorder and duplicate, and probe servers
//! that answer with `probe_server`'s own pure function.
//!
//! Time is tokio's: with the paused clock hours pass in milliseconds, without it everything takes as long as it says.
//! Randomness follows from one seed, so a run on a single-threaded runtime leaves the same [`trace`](World::trace)
//! every time.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! use nat_check_core::net::{Net, sim::{PathSpec, World}};
//!
//! let world = World::builder(1).nat("symmetric".parse().unwrap()).path(PathSpec::default()).build();
//! let socket = world.client().bind("0.0.0.0:0".parse().unwrap()).await.unwrap();
//! socket.send_to(b"no STUN, so no answer", world.server()).await.unwrap();
//! # });
//! ```

mod driver;
mod fabric;
mod faults;
mod host;
mod line;
mod listener;
mod rate;
mod server;
mod sockets;
mod tcp;
mod test_sessions;
#[cfg(test)]
mod tests;
mod trace;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use shared::nat::{
    Mapping,
    model::{Nat, NatSpec, SpecError, Stack},
};

pub use faults::Fault;
pub use line::{Arrivals, Line, Loss, POLICED_BURST, PathSpec, Way};
pub use rate::UPLINK_QUEUE;
pub use server::ServerSpec;
pub use sockets::SimNet;
pub use trace::{Entry, Fate, Place};

use driver::Shared;
use fabric::{Fabric, Gate};
use host::Host;
use server::Server;

/// A simulated Internet. Cheap to clone; all clones are the same world.
#[derive(Clone, Debug)]
pub struct World {
    shared: Arc<Shared>,
    sites: Vec<Vec<usize>>,
    servers: Vec<ServerSpec>,
}

/// Where hosts are: the NATs above them, the line to the Internet, how many they are.
#[derive(Clone, Debug)]
pub struct SiteSpec {
    /// The NATs, innermost first; none means an open host.
    pub nat: Stack,
    /// The line from the outermost NAT to the Internet; not used by a site behind another.
    pub path: PathSpec,
    /// How many hosts share the innermost NAT.
    pub hosts: u8,
    /// Number of an earlier site; this one's outermost NAT is a customer of that one's innermost.
    pub behind: Option<usize>,
}

impl Default for SiteSpec {
    /// One open host on a perfect line.
    fn default() -> Self {
        Self { nat: Stack(Vec::new()), path: PathSpec::default(), hosts: 1, behind: None }
    }
}

/// Puts a [`World`] together.
#[derive(Clone, Debug)]
pub struct Builder {
    seed: u64,
    first: SiteSpec,
    more: Vec<SiteSpec>,
    servers: Vec<ServerSpec>,
    ipv6: bool,
    trace: bool,
}

impl Builder {
    /// The NATs of the client's site, innermost first.
    #[must_use]
    pub fn nat(mut self, nat: Stack) -> Self {
        self.first.nat = nat;
        self
    }

    /// The line of the client's site.
    #[must_use]
    pub fn path(mut self, path: PathSpec) -> Self {
        self.first.path = path;
        self
    }

    /// How many hosts there are at the client's site.
    #[must_use]
    pub fn hosts(mut self, hosts: u8) -> Self {
        self.first.hosts = hosts;
        self
    }

    /// A further site.
    #[must_use]
    pub fn site(mut self, site: SiteSpec) -> Self {
        self.more.push(site);
        self
    }

    /// A probe server; without any there is one without faults.
    #[must_use]
    pub fn server(mut self, server: ServerSpec) -> Self {
        self.servers.push(server);
        self
    }

    /// Whether hosts and servers have IPv6 addresses, too. NATs do not translate those, but filter them.
    #[must_use]
    pub fn ipv6(mut self, ipv6: bool) -> Self {
        self.ipv6 = ipv6;
        self
    }

    /// Whether the world keeps a trace of every packet.
    #[must_use]
    pub fn trace(mut self, trace: bool) -> Self {
        self.trace = trace;
        self
    }

    /// The world. Its clock starts now, so this needs a tokio runtime.
    #[must_use]
    pub fn build(self) -> World {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut fabric = Fabric::new(self.trace);
        let mut sites: Vec<Vec<usize>> = Vec::new();
        let mut innermost: Vec<usize> = Vec::new();
        for (number, site) in std::iter::once(&self.first).chain(&self.more).enumerate() {
            let above = site.behind.and_then(|n| innermost.get(n).copied());
            let gate = build_gates(&mut fabric, number as u8, site, above, &mut rng);
            innermost.push(gate);
            sites.push(build_hosts(&mut fabric, number as u8, site, gate, self.ipv6, &mut rng));
        }
        let servers = if self.servers.is_empty() { vec![ServerSpec::default()] } else { self.servers };
        let servers: Vec<ServerSpec> =
            servers.into_iter().enumerate().map(|(n, spec)| spec.placed(n as u8, self.ipv6)).collect();
        for spec in &servers {
            fabric.add_server(Server::new(spec.clone(), rng.u64(..)));
        }
        fabric.add_echo(ECHO);
        World { shared: Shared::new(fabric), sites, servers }
    }
}

/// Where the echo service listens: it sends each datagram back.
const ECHO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 200)), 7);

impl World {
    /// A world that follows from `seed`: one open host and one server, until something else is asked for.
    #[must_use]
    pub fn builder(seed: u64) -> Builder {
        let first = SiteSpec::default();
        Builder { seed, first, more: Vec::new(), servers: Vec::new(), ipv6: false, trace: false }
    }

    /// The network as the first host of the first site sees it.
    #[must_use]
    pub fn client(&self) -> Arc<SimNet> {
        self.host(0, 0)
    }

    /// The network as a host sees it.
    ///
    /// # Panics
    /// When there is no such host.
    #[must_use]
    pub fn host(&self, site: usize, host: usize) -> Arc<SimNet> {
        Arc::new(SimNet::new(Arc::clone(&self.shared), self.sites[site][host]))
    }

    /// The primary IPv4 endpoint of the first server.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        SocketAddr::new(self.servers[0].primary, self.servers[0].ports.0)
    }

    /// All servers, with the addresses that they were given.
    #[must_use]
    pub fn servers(&self) -> &[ServerSpec] {
        &self.servers
    }

    /// The outermost NAT of the client's site is switched off and on: it forgets everything, and may get another external
    /// address from its provider.
    pub fn restart(&self, external: Option<IpAddr>, seed: u64) {
        self.shared.with(|fabric| fabric.restart(0, external, seed));
    }

    /// Where the echo service listens.
    #[must_use]
    pub fn echo(&self) -> SocketAddr {
        ECHO
    }

    /// What happened to every packet so far, if the world was told to keep a trace.
    #[must_use]
    pub fn trace(&self) -> Vec<Entry> {
        self.shared.with(|fabric| fabric.trace.clone())
    }

    /// Number of UDP datagrams that hosts have sent so far.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.shared.with(|fabric| fabric.datagrams)
    }
}

/// What `--simulate` needs: the network of a host behind a NAT, and where the probe server is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Simulated {
    /// The network.
    pub net: Arc<SimNet>,
    /// The primary endpoint of the probe server.
    pub server: SocketAddr,
    /// The world around, for its trace.
    pub world: World,
}

/// A host behind the NAT (or NATs, joined by `+`) that `nat` describes, 20 ms away from a probe server without faults.
///
/// # Errors
/// When `nat` describes none; the message lists what is known.
pub fn simulate(nat: &str, seed: u64) -> Result<Simulated, SpecError> {
    let world = World::builder(seed).nat(nat.parse()?).path(PathSpec::with_delay_ms(20)).build();
    Ok(Simulated { net: world.client(), server: world.server(), world })
}

fn build_gates(
    fabric: &mut Fabric,
    site: u8,
    spec: &SiteSpec,
    above: Option<usize>,
    rng: &mut fastrand::Rng,
) -> usize {
    let mut parent = above;
    let open = Stack::from(NatSpec::open());
    let stack = if spec.nat.0.is_empty() { &open } else { &spec.nat };
    let mut public = above.is_none();
    for (depth, nat) in stack.0.iter().rev().enumerate() {
        let translates = nat.udp.mapping != Mapping::Direct;
        let external: Vec<IpAddr> = match translates {
            false => Vec::new(),
            // The outermost that translates has public addresses, what is below it those of the carrier's realm.
            true if public => (0..nat.pool.ips).map(|n| public_ip(site, 1 + n)).collect(),
            true => {
                (0..nat.pool.ips).map(|n| Ipv4Addr::new(100, 64 + site, depth as u8, 2 + n).into()).collect()
            }
        };
        public &= !translates;
        let line = parent.is_none().then(|| Line::new(spec.path, rng.u64(..)));
        // The innermost gets those of the hosts' network instead.
        let lan = vec![Ipv4Addr::new(100, 64 + site, depth as u8 + 1, 1).into()];
        let gate = Gate { nat: Nat::new(nat.clone(), &external, rng.u64(..)), lan, parent, line };
        parent = Some(fabric.add_gate(gate));
    }
    parent.unwrap_or_default()
}

fn build_hosts(
    fabric: &mut Fabric,
    site: u8,
    spec: &SiteSpec,
    gate: usize,
    ipv6: bool,
    rng: &mut fastrand::Rng,
) -> Vec<usize> {
    let private = fabric.translated(gate);
    let v4 = if private { Ipv4Addr::new(192, 168, 77 + site, 1).into() } else { public_ip(site, 15) };
    let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x77 + u16::from(site), 0, 0, 0, 0, 1);
    fabric.set_lan(gate, if ipv6 { vec![v4, IpAddr::V6(v6)] } else { vec![v4] });
    let host = |n: u8| {
        let v4 =
            if private { Ipv4Addr::new(192, 168, 77 + site, 2 + n).into() } else { public_ip(site, 1 + n) };
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 0x77 + u16::from(site), 0, 0, 0, 0, 2 + u16::from(n));
        let ips = if ipv6 { vec![v4, IpAddr::V6(v6)] } else { vec![v4] };
        fabric.add_host(Host::new(ips, gate, rng.u64(..)))
    };
    (0..spec.hosts).map(host).collect()
}

/// Each site has sixteen public addresses.
fn public_ip(site: u8, n: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, site.wrapping_mul(16).wrapping_add(n)).into()
}
