//! The common case: a check that is put together step by step.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    check::{ServerQuery, Setup, check},
    net::{Net, os::OsNet, owned::OwnedSocket},
    progress::{Progress, Silent},
    report::Report,
    selection::{Families, Selection},
    target::Target,
};

/// A check of the network in front of this host.
///
/// ```
/// # #[cfg(feature = "sim")]
/// # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
/// use nat_check_core::{Check, nat::NatType, net::sim::simulate};
///
/// let simulated = simulate("port-restricted-cone", 1).unwrap();
/// let report = Check::with([simulated.server]).net(simulated.net).run().await;
/// let udp = report.ipv4.udp.unwrap();
/// assert_eq!(udp.nat_type.value, Some(NatType::PortRestrictedCone));
/// # });
/// ```
#[derive(Clone)]
#[must_use = "nothing is measured before `run`"]
pub struct Check {
    setup: Setup,
    servers: Vec<ServerQuery>,
    net: Arc<dyn Net>,
    owned: Option<OwnedSocket>,
    progress: Arc<dyn Progress>,
    stop: Option<watch::Receiver<bool>>,
}

impl Check {
    /// A check that asks probe servers at these addresses: any STUN server tells the external address, one with RFC 5780
    /// tells mapping and filtering, too.
    pub fn with(servers: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self::with_queries(servers.into_iter().map(|address| Target::at(address).into()))
    }

    /// A check that asks servers that were looked up, those included that were not found.
    pub fn with_queries(servers: impl IntoIterator<Item = ServerQuery>) -> Self {
        Self {
            setup: Setup::default(),
            servers: servers.into_iter().collect(),
            net: Arc::new(OsNet),
            owned: None,
            progress: Arc::new(Silent),
            stop: None,
        }
    }

    /// Measures the mapping of a socket that the program owns and keeps using; everything else is measured on further
    /// sockets. Its use ends with the check, also when the future of [`run`](Self::run) is dropped.
    pub fn owned_socket(mut self, socket: &OwnedSocket) -> Self {
        self.owned = Some(socket.clone());
        self.bind(socket.local())
    }

    /// Sends from this local address; a port other than 0 is used by the mapping test.
    pub fn bind(mut self, local: SocketAddr) -> Self {
        self.setup.bind = Some(local);
        self
    }

    /// Tests only these IP families.
    pub fn families(mut self, families: Families) -> Self {
        self.setup.families = families;
        self
    }

    /// Runs only these tests, see [`REGISTRY`](crate::probe::REGISTRY), and what they build on.
    pub fn only<N: Into<String>>(mut self, tests: impl IntoIterator<Item = N>) -> Self {
        self.setup.tests = Selection::Only(tests.into_iter().map(Into::into).collect());
        self
    }

    /// Ends with what is known after this time, 15 seconds if nothing is said.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.setup.timeout = timeout;
        self
    }

    /// Measures how long mappings live, up to this idle time. The measurement comes on top of the timeout, and takes
    /// little more than one lifetime, or little more than this time where mappings live longer.
    pub fn lifetime(mut self, longest: Duration) -> Self {
        self.setup.lifetime = Some(longest);
        self
    }

    /// Measures how long idle TCP connections live, up to this time. The measurement comes on top of the timeout.
    pub fn tcp_idle(mut self, longest: Duration) -> Self {
        self.setup.tcp_idle = Some(longest);
        self
    }

    /// Has the gateway open ports, tests them from outside, and closes them again. The measurement comes on top of the timeout.
    #[cfg(feature = "port-mapping")]
    pub fn port_mapping(mut self) -> Self {
        self.setup.port_mapping = true;
        self
    }

    /// The same at both NATs of the user's own double NAT, one after the other; what stands there has to be sure.
    #[cfg(feature = "port-mapping")]
    pub fn chain(mut self) -> Self {
        (self.setup.port_mapping, self.setup.chain) = (true, true);
        self
    }

    /// Holds the requirements of RFC 4787 and others against what is found: [`Report::checklist`]. No packet is sent for it.
    pub fn checklist(mut self) -> Self {
        self.setup.checklist = true;
        self
    }

    /// Tells this listener how far it is.
    pub fn progress(mut self, progress: Arc<dyn Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Ends early, with what is known by then, when this becomes true.
    pub fn stop_when(mut self, stop: watch::Receiver<bool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Measures in this network instead of the system's.
    pub fn net(mut self, net: Arc<dyn Net>) -> Self {
        self.net = net;
        self
    }

    /// Everything else that can be set.
    pub fn setup(&mut self) -> &mut Setup {
        &mut self.setup
    }

    /// Measures, and gives the report. What could not be measured is in it, with the reason.
    pub async fn run(self) -> Report {
        let net = match &self.owned {
            Some(owned) => owned.net(self.net),
            None => self.net,
        };
        // Tasks of a check that is dropped live on until the runtime gets round to them.
        let _end = EndOnDrop(self.owned);
        // Nobody ends a check early whose sender is gone.
        let stop = self.stop.unwrap_or_else(|| watch::channel(false).1);
        check(&self.setup, net, &self.servers, &*self.progress, stop).await
    }
}

struct EndOnDrop(Option<OwnedSocket>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        if let Some(owned) = &self.0 {
            owned.end();
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("setup", &self.setup)
            .field("servers", &self.servers)
            .field("owned", &self.owned)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::{Mapping, NatType};

    #[tokio::test(start_paused = true)]
    async fn a_check_can_be_spawned_and_says_what_it_measured() {
        let simulated = crate::net::sim::simulate("full-cone", 1).unwrap();
        let check = Check::with([simulated.server]).net(simulated.net).only(["mapping"]);
        let udp = tokio::spawn(check.run()).await.unwrap().ipv4.udp.unwrap();
        assert_eq!(
            (udp.mapping.value, udp.nat_type.value),
            (Some(Mapping::EndpointIndependent), None::<NatType>)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_is_dropped_lets_go_of_the_socket() {
        let simulated = crate::net::sim::simulate("full-cone", 1).unwrap();
        let local = "192.168.77.2:4000".parse().unwrap();
        let owned = OwnedSocket::new(local, Duration::from_secs(60), |_, _| Ok(()));
        let check = Check::with([simulated.server]).net(simulated.net).owned_socket(&owned);
        assert!(tokio::time::timeout(Duration::from_millis(10), check.run()).await.is_err());
        assert!(owned.has_ended());
    }
}
