//! The simulated driver: the client's engine and the server's `respond` in one process and in virtual time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use nat_check_core::{
    check::{ServerQuery, Setup, check},
    net::{
        Net,
        sim::{PathSpec, ServerSpec, World},
    },
    progress::Silent,
    randomness::Randomness,
    report::Report,
    selection::{Families, Selection},
    target::{FoundBy, Target},
};
use shared::nat::model::Stack;
use tokio::sync::watch;

use crate::scenario::Scenario;

/// What came out of a simulated run.
#[derive(Debug)]
pub struct Run {
    /// What the client reports.
    pub report: Report,
    /// What became of every packet, if that was asked for: one line each.
    pub trace: Vec<String>,
    /// Number of UDP datagrams that the client sent.
    pub datagrams: u64,
}

/// A simulated run, described.
#[derive(Clone, Debug)]
pub struct Sim {
    /// The NATs, innermost first.
    pub nat: Stack,
    /// The line.
    pub path: PathSpec,
    /// The server.
    pub server: ServerSpec,
    /// Whether there is IPv6.
    pub ipv6: bool,
    /// What the network's and the client's choices follow from.
    pub seed: u64,
    /// Whether a trace is kept.
    pub trace: bool,
    /// The longest idle time that the lifetime measurement looks at; none = it is not asked for.
    pub lifetime: Option<Duration>,
    /// Whether ports are opened at the gateway and tested.
    pub port_mapping: bool,
    /// Which tests run.
    pub tests: Selection,
}

impl Sim {
    /// A client behind a NAT, on a perfect line to a server without faults.
    #[must_use]
    pub fn new(nat: Stack, seed: u64) -> Self {
        let (path, server) = (PathSpec::default(), ServerSpec::default());
        let tests = Selection::Default;
        Self {
            nat,
            path,
            server,
            ipv6: false,
            seed,
            trace: false,
            lifetime: None,
            port_mapping: false,
            tests,
        }
    }

    /// What a scenario describes.
    #[must_use]
    pub fn of(scenario: &Scenario, seed: u64) -> Self {
        Self {
            path: scenario.network.path(),
            server: ServerSpec::with_faults(scenario.server.faults.iter().copied()),
            ipv6: scenario.network.ipv6,
            port_mapping: scenario.client.port_mapping,
            ..Self::new(scenario.nat.clone(), seed)
        }
    }

    /// Runs the client once, on a runtime of its own whose clock is paused.
    ///
    /// # Panics
    /// When the system has no resources for a runtime.
    #[must_use]
    pub fn run(self) -> Run {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread");
        runtime.block_on(self.in_this_runtime())
    }

    async fn in_this_runtime(self) -> Run {
        let world = World::builder(self.seed)
            .nat(self.nat)
            .path(self.path)
            .server(self.server)
            .ipv6(self.ipv6)
            .trace(self.trace)
            .build();
        let server = &world.servers()[0];
        let target = Target {
            query: "simulated".to_owned(),
            found_by: FoundBy::Simulated,
            v4: Some(world.server()),
            v6: server.v6.map(|(ip, _)| (ip, server.ports.0).into()),
        };
        let setup = Setup {
            families: Families { v4: true, v6: self.ipv6 },
            randomness: Randomness::Seeded(self.seed),
            lifetime: self.lifetime,
            port_mapping: self.port_mapping,
            tests: self.tests,
            started_at: Some(SystemTime::UNIX_EPOCH),
            ..Setup::default()
        };
        let net: Arc<dyn Net> = world.client();
        let (_never, stop) = watch::channel(false);
        let report = check(&setup, net, &[ServerQuery::from(target)], &Silent, stop).await;
        let trace = world.trace().iter().map(ToString::to_string).collect();
        Run { report, trace, datagrams: world.datagrams() }
    }
}
