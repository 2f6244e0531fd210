//! Test sessions of a simulated server: `probe_server`'s own, whose connections go through the simulated network.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Weak},
    time::Duration,
};

use probe_server::test_session::{
    Attempt, Attempted, ByteStream, ConnectBack, HelperPorts, NoConnection, TestLimits, TestSessions,
};
use shared::test_session::{Icmp, SynOutcome};
use tokio::time::{Instant, timeout};

use super::{
    driver::Shared,
    listener::{Reply, call},
};

/// The port of a listener whose backlog is full, and one that nothing listens at.
pub(super) const PENDING: u16 = 40_001;
const CLOSED: u16 = 40_003;
/// How long each SYN waits for its answer.
const SYN_WAITS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(60)];

/// The test sessions of a server of this world, which never connect to its own ports.
pub(super) fn sessions(world: &Arc<Shared>, server: usize, own_ports: Vec<u16>) -> Arc<TestSessions> {
    let network = Arc::new(SimulatedConnects { world: Arc::downgrade(world), server });
    // The NATs of a simulation see handshakes, not what an open connection carries.
    let limits = TestLimits { hold: Duration::ZERO, ..TestLimits::default() };
    TestSessions::new(limits, own_ports, network)
}

struct SimulatedConnects {
    world: Weak<Shared>,
    server: usize,
}

impl ConnectBack for SimulatedConnects {
    fn connect(&self, attempt: Attempt) -> Pin<Box<dyn Future<Output = Attempted> + Send>> {
        Box::pin(connect(self.world.clone(), self.server, attempt))
    }

    fn helper_ports(&self, addresses: [Option<IpAddr>; 2]) -> [HelperPorts; 2] {
        addresses.map(|address| {
            let at = |port| address.map(|ip| SocketAddr::new(ip, port));
            HelperPorts { pending: at(PENDING), closed: at(CLOSED) }
        })
    }
}

async fn connect(world: Weak<Shared>, server: usize, attempt: Attempt) -> Attempted {
    let begun = Instant::now();
    let none = |outcome, icmp| Err(NoConnection { outcome, icmp });
    let Some(shared) = world.upgrade() else {
        return Attempted { from: None, after: Duration::ZERO, end: none(SynOutcome::Failed, None) };
    };
    let from = match attempt.from.port() {
        0 => {
            SocketAddr::new(attempt.from.ip(), shared.with(|fabric| fabric.servers[server].ephemeral_port()))
        }
        _ => attempt.from,
    };
    let calling = call(&shared, (server, from, attempt.to), &SYN_WAITS);
    let end = match timeout(attempt.wait, calling).await.ok().flatten() {
        Some((Reply::Accepted(_), Some(stream))) => Ok(Box::new(stream) as Box<dyn ByteStream>),
        Some((Reply::Accepted(_), None)) => none(SynOutcome::Timeout, None),
        Some((Reply::Reset, _)) => none(SynOutcome::Refused, None),
        Some((Reply::Unreachable, _)) => {
            let icmp = Icmp { kind: 3, code: 3, from: attempt.to.ip() };
            none(SynOutcome::Unreachable, Some(icmp))
        }
        None => none(SynOutcome::Timeout, None),
    };
    Attempted { from: Some(from), after: begun.elapsed(), end }
}
