//! What runs on the server host: the probe server (STUN with two addresses) and the echo service; and what a program on a
//! host has to know of it.

use std::net::{IpAddr, SocketAddr};

use super::Lab;
use crate::{
    LabError,
    address::{SERVER4, SERVER6, server_endpoint},
    echo::{self, Echo},
};

/// The services at work. They end when this is dropped.
#[derive(Debug)]
pub struct Services {
    _echo: Echo,
    _probe: probe_server::Server,
}

impl Lab {
    /// Starts both services; they answer when this returns.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn services(&self) -> Result<Services, LabError> {
        let echo = self.families().all().map(|v6| server_ip(v6, 0)).collect();
        Ok(Services { _probe: self.probe_server()?, _echo: Echo::start(self.server_host(), echo)? })
    }

    /// The environment of a program on a host: where the services are, and what the host is.
    #[must_use]
    pub fn environment(&self, host: usize) -> Vec<(&'static str, String)> {
        let families: Vec<bool> = self.families().all().collect();
        let first = families.first().copied().unwrap_or_default();
        let mut variables = vec![
            ("NATLAB_SERVER", server_endpoint(first, 0, 0).to_string()),
            ("NATLAB_SERVER_ALTERNATE", server_endpoint(first, 1, 1).to_string()),
            ("NAT_CHECK_SERVER", server_endpoint(first, 0, 0).to_string()),
            ("NATLAB_ECHO", SocketAddr::new(server_ip(first, 0), echo::PORT).to_string()),
            ("NATLAB_ADDRESS", self.host(host).ip(first).to_string()),
        ];
        if families.contains(&true) {
            variables.push(("NATLAB_SERVER6", server_endpoint(true, 0, 0).to_string()));
            variables.push(("NATLAB_ECHO6", SocketAddr::new(server_ip(true, 0), echo::PORT).to_string()));
        }
        if let Some(built) = &self.built {
            let of = &built.topology.hosts[host];
            variables.push(("NATLAB_HOST", of.name.clone()));
            let router = of.on.first().and_then(|on| on.router.as_deref());
            let router = router.and_then(|name| built.topology.find_router(name).ok());
            let nat = router.map(|router| built.topology.routers[router].nat.to_string());
            variables.push(("NATLAB_NAT", nat.unwrap_or_else(|| "none".into())));
        }
        variables
    }

    /// A program on a host, with its environment.
    ///
    /// # Errors
    /// When there are no words.
    pub fn command(
        &self,
        host: usize,
        words: &[String],
    ) -> Result<crate::process::HostCommand<'_>, LabError> {
        let Some((program, arguments)) = words.split_first() else {
            return Err(LabError::Words("no command was given".into()));
        };
        let command = self.host(host).command(program).args(arguments);
        Ok(self
            .environment(host)
            .into_iter()
            .fold(command, |command, (name, value)| command.env(name, value)))
    }
}

fn server_ip(v6: bool, at: usize) -> IpAddr {
    if v6 { SERVER6[at].into() } else { SERVER4[at].into() }
}
