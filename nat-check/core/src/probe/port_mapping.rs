//! Ports that the gateway opens (PCP, NAT-PMP, UPnP), tested from outside: that a gateway has granted a mapping does not mean
//! that anything comes through. Each protocol that is answered opens a port for UDP and one for TCP for two minutes; the probe
//! server tries them, and a port that nobody opened beside them; then they are closed again. It runs only when it is asked for.

mod chain;
mod conclude;
mod kept;
mod mappings;
mod outside;
#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use shared::port_mapping::{Protocol, Transport};
use tokio::task::JoinSet;

use crate::{
    observation::{
        Purpose, SocketId,
        port_mapping::{Attempt, Deletion, Link},
    },
    port_mapping::{Client, discover},
    probe::{Probe, Stage, Step},
    server_endpoints::ServerEndpoint,
    session::Session,
};

pub use conclude::conclude;
pub(super) use conclude::{datagram_counts, is_refused_or_silent};
pub(crate) use kept::{OutsideTest, test_from_outside};
pub(crate) use mappings::close_all;
use mappings::{close, open};
pub(super) use outside::{Datagrams, call};

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("port-mapping");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "ports that the gateway opens (PCP, NAT-PMP, UPnP), tested from outside",
    needs: &[],
    steps: &[Step { stage: Stage::PortMapping, run: |session| Box::pin(run(session)) }],
    udp: &[],
    tcp: &[],
    server: &[],
};

/// How long the measurement takes at the most: discovery, asking a gateway that answers late, and tests that hear nothing.
pub const LONGEST: std::time::Duration = std::time::Duration::from_secs(15);

/// How long opening both NATs of a double NAT takes beyond that at the most.
pub const LONGEST_CHAIN: std::time::Duration = std::time::Duration::from_secs(20);

/// What is sent for one protocol.
#[derive(Clone, Copy, Debug)]
struct Purposes {
    /// Datagrams to the mapped port.
    test: Purpose,
    /// Datagrams to a port that was not mapped.
    control: Purpose,
    /// What leaves from the mapped port.
    outbound: Purpose,
    /// Datagrams to the port once it is closed.
    after: Purpose,
    /// Connections to the mapped port.
    call: Purpose,
    /// Connections to the port once it is closed.
    call_after: Purpose,
}

impl Purposes {
    /// What goes through two routers that were opened one after the other.
    const CHAIN: Self = Self {
        test: PURPOSE.role("chain"),
        control: PURPOSE.role("chain-control"),
        outbound: PURPOSE.role("chain-outbound"),
        after: PURPOSE.role("chain-after"),
        call: PURPOSE.role("chain-call"),
        call_after: PURPOSE.role("chain-call-after"),
    };

    fn of_attempt(attempt: &Attempt) -> Self {
        match attempt.link {
            Link::Gateway => Self::of(attempt.protocol),
            Link::Inner | Link::Outer => Self::CHAIN,
        }
    }

    fn of(protocol: Protocol) -> Self {
        let [test, control, outbound, after, call, call_after] =
            ROLES.map(|of_purpose| PURPOSE.role(of_purpose[protocol as usize]));
        Self { test, control, outbound, after, call, call_after }
    }
}

/// The roles in the log: a line for each purpose, a column for each of [`Protocol::ALL`].
const ROLES: [[&str; Protocol::ALL.len()]; 6] = [
    ["pcp", "nat-pmp", "upnp"],
    ["pcp-control", "nat-pmp-control", "upnp-control"],
    ["pcp-outbound", "nat-pmp-outbound", "upnp-outbound"],
    ["pcp-after", "nat-pmp-after", "upnp-after"],
    ["pcp-call", "nat-pmp-call", "upnp-call"],
    ["pcp-call-after", "nat-pmp-call-after", "upnp-call-after"],
];

/// Connections to a port that was not mapped.
const CONTROL_CALL: Purpose = PURPOSE.role("control-call");

async fn run(session: Arc<Session>) {
    let local = session.local_ip();
    let gateway = session.net().gateway(local);
    session.note_port_mapping(|log| log.gateway = Some(gateway));
    let Some(gateway) = gateway else { return };
    let found = discover(session.net(), local, gateway).await;
    session.note_port_mapping(|log| log.is_discovered = true);
    let attempt = |protocol, gateway| Attempt {
        software: found.software.clone().filter(|_| protocol == Protocol::Upnp),
        external_address: found.external_address.filter(|_| protocol == Protocol::NatPmp),
        ..Attempt::new(protocol, gateway)
    };
    if let Some((at, why)) = &found.unusable {
        let unusable = Some(why.to_string());
        let attempt = Attempt { unusable, ..attempt(Protocol::Upnp, *at) };
        session.note_port_mapping(|log| log.attempts.push(attempt));
    }
    if found.clients.is_empty() {
        return;
    }
    let Ok(control) = session.open().await else { return };
    session.note_port_mapping(|log| log.control = Some(control.id));
    let mut attempts = JoinSet::new();
    for client in &found.clients {
        let attempt = attempt(client.protocol(), client.gateway());
        let number = session.note_port_mapping(|log| {
            log.attempts.push(attempt);
            log.attempts.len() - 1
        });
        attempts.spawn(Trial { session: session.clone(), client: client.clone(), number }.run(control.id));
    }
    attempts.spawn(outside::call_unmapped(session.clone()));
    while attempts.join_next().await.is_some() {}
    if session.read(|log| log.port_mapping.is_chain_asked) {
        chain::run(&session, &found.clients).await;
    }
}

/// One protocol, tried.
struct Trial {
    session: Arc<Session>,
    client: Client,
    /// Its number in the log.
    number: usize,
}

impl Trial {
    async fn run(self, control: SocketId) {
        let purposes = Purposes::of(self.client.protocol());
        tokio::join!(self.address(), self.over_udp(purposes, control), self.over_tcp(purposes));
        self.note_epochs();
    }

    fn note_epochs(&self) {
        let epochs = self.client.epochs();
        self.note(|attempt| (attempt.epochs, attempt.losses) = (epochs.told(), epochs.losses()));
    }

    /// The external address that the gateway names, where the protocol has a question for it.
    async fn address(&self) {
        if let Some(address) = self.client.external_address().await {
            self.note(|attempt| attempt.external_address = Some(address));
        }
    }

    async fn over_udp(&self, purposes: Purposes, control: SocketId) {
        let Self { session, .. } = self;
        let (Ok(mapped), Ok(asks)) = (session.open().await, session.open().await) else { return };
        let Some(control) = session.read(|log| log.local(control)).map(|local| local.port()) else { return };
        let Some(internal) = session.read(|log| log.local(mapped.id)).map(|local| local.port()) else {
            return;
        };
        let Some(opened) = open(self, Transport::Udp, internal, Some(mapped.id)).await else { return };
        let has_alternate = session.endpoints().get(ServerEndpoint::BOTH).is_some();
        let from = if has_alternate { ServerEndpoint::BOTH } else { ServerEndpoint::PRIMARY };
        let outside = outside::Datagrams { session, asks: &asks, mapped: mapped.id, port: opened.external };
        let is_reached = outside.reach(purposes.test, Some((purposes.control, control)), from).await;
        // Not before: what leaves from the port may open it.
        session.learn_external(&mapped, purposes.outbound, session.server(), 3).await;
        close(self, Transport::Udp).await;
        // The router remembers for a while who has come through, so somebody else has to knock now.
        if is_reached && has_alternate {
            outside.reach(purposes.after, None, ServerEndpoint::IP).await;
        }
    }

    async fn over_tcp(&self, purposes: Purposes) {
        let Self { session, .. } = self;
        let Ok(port) = session.new_tcp_port().await else { return };
        let (Ok(local), Ok(listener)) = (port.local_addr(), port.listen()) else { return };
        let Some(opened) = open(self, Transport::Tcp, local.port(), None).await else { return };
        let test = session.test_session().await;
        let is_reached = match &test {
            Some(test) => {
                session.accept_calls(test, listener);
                outside::call(session, test, purposes.call, opened.external, outside::CALLS).await
            }
            None => false,
        };
        close(self, Transport::Tcp).await;
        if let Some(test) = test.filter(|_| is_reached) {
            outside::call(session, &test, purposes.call_after, opened.external, outside::AFTER_CALLS).await;
        }
    }

    fn note<T>(&self, change: impl FnOnce(&mut Attempt) -> T) -> T {
        self.session.note_port_mapping(|log| change(&mut log.attempts[self.number]))
    }

    /// What came of ending the mapping of this transport.
    fn note_deletion(&self, transport: Transport, deletion: Deletion) {
        self.note(|attempt| {
            if let Some(mapping) = attempt.mappings.iter_mut().find(|it| it.transport == transport) {
                mapping.deletion = Some(deletion);
            }
        });
    }
}
