//! The facade over the drivers with real sockets: hosts, NATs, a server.

use std::time::Duration;

use shared::nat::model::Stack;

use crate::{
    LabError,
    address::{PORTS, SERVER4, SERVER6},
    binaries::binary,
    host::Host,
    kernel,
    netns::Namespace,
    process::Running,
    tun::{self, Forwarder, TunSite},
};

/// A laboratory. Dropping it removes everything.
#[derive(Debug)]
pub struct Lab {
    hosts: Vec<Host>,
    server: Host,
    routers: Vec<Namespace>,
    forwarder: Option<Forwarder>,
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
        Ok(Self { hosts, server, routers, forwarder: None })
    }

    /// Hosts behind modelled NATs, a router hop, the server, with packets carried by a thread of this process. The same
    /// seed gives the same ports and losses for the same packets.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn tun(sites: &[TunSite], seed: u64) -> Result<Self, LabError> {
        let tun::Tun { hosts, server, forwarder } = tun::build(sites, seed)?;
        Ok(Self { hosts, server, routers: Vec::new(), forwarder: Some(forwarder) })
    }

    /// Restarts all modelled NATs, so that they lose their state; the kernel's are left as they are.
    pub fn restart_nats(&self) {
        if let Some(forwarder) = &self.forwarder {
            forwarder.restart_nats();
        }
    }

    /// A host, from 0 in the order of the NATs.
    ///
    /// # Panics
    /// When there are fewer.
    #[must_use]
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
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
