//! The facade over the drivers with real sockets: hosts, NATs, a server.

mod changes;
mod services;

use std::{
    path::Path,
    sync::Mutex,
    time::{Duration, SystemTime},
};

use shared::nat::model::Stack;

use crate::{
    LabError,
    address::{PORTS, SERVER4, SERVER6},
    binaries::binary,
    host::Host,
    kernel,
    netns::Namespace,
    network::{capture::Capture, summary::Summary},
    process::Running,
    topology::{Families, Topology, plan::Plan},
    tun::{self, Forwarder, TunSite},
};
pub use services::Services;

/// A laboratory. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    server: Host,
    routers: Vec<Namespace>,
    built: Option<Built>,
    families: Families,
}

/// What a laboratory with modelled NATs has besides.
#[derive(Debug)]
struct Built {
    forwarder: Forwarder,
    topology: Topology,
    plan: Mutex<Plan>,
    /// For each host the numbers of its devices.
    devices: Vec<Vec<usize>>,
}

/// How long a program may take until it is ready: generous, because the machine may be busy.
const START: Duration = Duration::from_secs(20);

impl Lab {
    /// One host behind each of these NATs, which are the kernel's own; a router hop; the server.
    ///
    /// # Errors
    /// When the system does not allow it, a tool is missing, or the kernel cannot do what a spec says.
    pub fn kernel(nats: &[Stack]) -> Result<Self, LabError> {
        Self::kernel_of(nats, 1)
    }

    /// The same with so many hosts behind each NAT, numbered site by site.
    ///
    /// # Errors
    /// As [`Self::kernel`].
    pub fn kernel_of(nats: &[Stack], hosts_per_site: u8) -> Result<Self, LabError> {
        let kernel::Kernel { hosts, server, routers } = kernel::build(nats, hosts_per_site)?;
        Ok(Self { hosts, server, routers, built: None, families: Families::DUAL })
    }

    /// Hosts behind modelled NATs, a router hop, the server, with packets carried by a thread of this process. The same
    /// seed gives the same ports and losses for the same packets.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn tun(sites: &[TunSite], seed: u64) -> Result<Self, LabError> {
        Self::build(&tun::sites(sites, seed))
    }

    /// A laboratory with modelled NATs as a topology describes it, with packets carried by a thread of this process. The
    /// same seed gives the same ports and losses for the same packets.
    ///
    /// # Errors
    /// When the topology has a mistake, or the system does not allow it.
    pub fn build(topology: &Topology) -> Result<Self, LabError> {
        let tun::Tun { hosts, server, forwarder, plan, devices } = tun::build(topology)?;
        let (topology, families) = (topology.clone(), topology.families);
        let built = Built { forwarder, topology, plan: Mutex::new(plan), devices };
        Ok(Self { hosts, server, routers: Vec::new(), built: Some(built), families })
    }

    /// Restarts all modelled NATs, so that they lose their state; the kernel's are left as they are.
    pub fn restart_nats(&self) {
        if let Some(built) = &self.built {
            // If the thread has ended, there are no NATs either.
            let _ = built.forwarder.run(|network, now| network.restart_nats(now));
        }
    }

    /// What every modelled NAT did so far, and who exchanged packets with whom.
    ///
    /// # Errors
    /// When there are no modelled NATs.
    pub fn summary(&self) -> Result<Summary, LabError> {
        let built = self.built()?;
        let mut names = built.topology.host_names();
        names.push("server".into());
        built.forwarder.run(move |network, now| network.summary(&names, now))
    }

    /// Captures the packets on both sides of every modelled NAT from now on: `ROUTER-inside.pcap` and
    /// `ROUTER-outside.pcap` in this folder.
    ///
    /// # Errors
    /// When a file cannot be created, or there are no modelled NATs.
    pub fn capture(&self, folder: &Path, started: SystemTime) -> Result<(), LabError> {
        let built = self.built()?;
        let count = built.plan.lock().unwrap_or_else(std::sync::PoisonError::into_inner).nodes.len();
        for node in 0..count {
            let name = built.forwarder.run(move |network, _| network.router(node).lan.name.clone())?;
            let create = |side: &str| {
                let file = folder.join(format!("{name}-{side}.pcap"));
                Capture::create(&file, started).map_err(LabError::io(format!("creating {}", file.display())))
            };
            let (inside, outside) = (create("inside")?, create("outside")?);
            built.forwarder.run(move |network, _| network.capture(node, inside, outside))?;
        }
        Ok(())
    }

    fn built(&self) -> Result<&Built, LabError> {
        self.built.as_ref().ok_or_else(|| LabError::Words("this laboratory has no modelled NATs".into()))
    }

    /// A host, from 0 in the order of the NATs.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// The host with this name.
    ///
    /// # Errors
    /// When there is none; the message names those that there are.
    pub fn find(&self, name: &str) -> Result<&Host, LabError> {
        Ok(self.number_of(name)?.map_or(&self.server, |number| &self.hosts[number]))
    }

    /// The number of the host with this name; none for `server`, which has no number.
    ///
    /// # Errors
    /// When there is no such host.
    pub fn number_of(&self, name: &str) -> Result<Option<usize>, LabError> {
        match name {
            "server" => Ok(None),
            name => self.built()?.topology.find_host(name).map(Some),
        }
    }

    /// The families that its hosts have.
    #[must_use]
    pub fn families(&self) -> Families {
        self.families
    }

    /// The host that servers run on; it has all of [`SERVER4`] and [`SERVER6`].
    #[must_use]
    pub fn server_host(&self) -> &Host {
        &self.server
    }

    /// The routers, the core first; none where the NAT is not the kernel's.
    #[must_use]
    pub fn routers(&self) -> &[Namespace] {
        &self.routers
    }

    /// Starts `probe-server` on all four endpoints of both families, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn server(&self) -> Result<Running, LabError> {
        let ips = |at: usize| [SERVER4[at].to_string(), SERVER6[at].to_string()];
        let mut command = self.server.command(binary("probe-server")?);
        for (flag, ip) in [("--primary", ips(0)), ("--alternate", ips(1))] {
            command = ip.iter().fold(command, |command, ip| command.args([flag, ip]));
        }
        let [port, alternate] = PORTS.map(|port| port.to_string());
        let mut server =
            command.args(["--unused-before", "--port", &port, "--alternate-port", &alternate]).start()?;
        // One line for each family; the last one is IPv6's.
        server.line(START, |line| line.starts_with("ready udp ["))?;
        Ok(server)
    }
}
