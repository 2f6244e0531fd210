//! The probe server inside this process, for laboratories that need one without a program of its own.

use std::time::Duration;

use probe_server::{
    Server,
    config::{Config, Family, PageSettings},
    limits::Limits,
};

use crate::{
    Lab, LabError,
    address::{PORTS, SERVER4, SERVER6},
    topology::Families,
};

impl Lab {
    /// Starts a probe server on the server host, in this process. It answers when this returns, without limits of
    /// rate, and ends when it is dropped.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn probe_server(&self) -> Result<Server, LabError> {
        let Families { v4, v6 } = self.families();
        let families = [(v4, SERVER4.map(Into::into)), (v6, SERVER6.map(Into::into))]
            .into_iter()
            .filter(|(has, _)| *has)
            .map(|(_, [primary, alternate])| Family { primary, alternate: Some(alternate) });
        let config = Config {
            limits: Limits::NONE,
            drain: Duration::ZERO,
            unused_before: true,
            page: Some(PageSettings { ports: (PORTS[1] + 1, PORTS[1] + 2), names: Vec::new() }),
            ..Config::new(families.collect(), PORTS.into())
        };
        self.server_host().run(|| Server::start(config)).map_err(|e| LabError::Setup {
            operation: "starting the probe server".into(),
            message: e.to_string(),
        })
    }
}
