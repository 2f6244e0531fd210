//! Layers of NAT: how many boxes stand between this host and the Internet, and whose they are. No RFC has a test for it; RFC
//! 6598 and RFC 7335 set addresses aside for carriers, and RFC 792 makes routers tell at which of them a packet has died.
//!
//! Once filtering is decided, a few packets die on the way to the server, and others on the way to this host's own external
//! address: whoever answers for that one is the outermost NAT. Others go from one socket here to another's external endpoint: what
//! is left of their TTL tells where they were turned back. The server sends some that die on the way here. Then the gateway is asked which external address it has
//! (NAT-PMP, UPnP; nothing is changed by it). Not before: routers send few ICMP errors a second to one host, and a closed port
//! takes some of them.

mod conclude;
mod evidence;
mod from_outside;
#[cfg(test)]
mod tests;
mod trace;
mod turned_back;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::port_mapping::{Protocol, Transport};

use crate::{
    contactable::is_global,
    observation::{ObservationLog, Purpose, layers::LayersLog},
    port_mapping::{Wish, nat_pmp_address, pcp_sees_nat, upnp_address},
    probe::{Found, Probe, Stage, Step, mapping, so_far},
    report::{Finding, Layers, LayersKind, PortMapping},
    session::{Contact, Session},
};
use evidence::Evidence;
pub(crate) use evidence::second_router;

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("layers");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "how many NATs there are, and whether one is the carrier's",
    needs: &["mapping"],
    steps: &[Step { stage: Stage::Confirm, run: |session| Box::pin(follow_the_way(session)) }],
    udp: &[],
    tcp: &[],
    server: &[],
};

/// Somewhere in the Internet, as far as the routing table goes (TEST-NET-1, RFC 5737); nothing is sent there.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
/// Ports that programs of this host seldom use.
const UNUSED_PORTS: std::ops::Range<u16> = 20_000..30_000;
/// How long routers are waited for where this was asked for by name.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long for where the second router is to be asked to open a port, which takes being sure of it: nobody else's may be asked.
const PATIENCE_FOR_SECOND: Duration = Duration::from_secs(6);

/// What the run says of the way out; none where that was not asked for. `several` is what was seen of several external
/// addresses.
#[must_use]
pub(crate) fn conclude(
    log: &ObservationLog,
    found: &Found,
    port_mapping: Option<&PortMapping>,
    several: Option<Finding<LayersKind>>,
) -> Option<Layers> {
    let asked = log.tests.contains(&PROBE.name);
    asked.then(|| conclude::conclude(&Evidence::of(log, found, port_mapping, several)))
}

type Named = Vec<(Protocol, IpAddr)>;

/// Protocols that have a question for the external address.
const NAMING: [Protocol; 2] = [Protocol::NatPmp, Protocol::Upnp];

/// Which kind of way it is, as far as this run has seen by now.
pub(crate) fn kind_so_far(log: &ObservationLog, port_mapping: &PortMapping) -> Finding<LayersKind> {
    let found = so_far(log, &["mapping", "filtering", "distance"]);
    let several = mapping::spread::several_connections(log);
    conclude::conclude(&Evidence::of(log, &found, Some(port_mapping), several)).kind
}

/// Asks a router for its external address, by all ways at the same time.
fn ask(session: &Arc<Session>, router: IpAddr, slot: fn(&mut LayersLog) -> &mut Named) {
    let local = session.local_ip();
    for protocol in NAMING {
        session.note_layers(|log| log.questions += 1);
        let (weak, net) = (Arc::downgrade(session), Arc::clone(session.net()));
        session.spawn(async move {
            let named = match protocol {
                Protocol::NatPmp => nat_pmp_address(&net, local, router).await,
                Protocol::Pcp | Protocol::Upnp => upnp_address(&net, local, router).await,
            };
            let Some(session) = weak.upgrade() else { return };
            session.note_layers(|log| {
                log.questions -= 1;
                slot(log).extend(named.map(|address| (protocol, address)));
            });
        });
    }
}

/// Asks the second router's PCP server whether it sees this host behind a NAT.
fn ask_for_nat_before(session: &Arc<Session>, second: IpAddr) {
    let Some(nonce) = session.nonce() else { return };
    // Nobody has opened this port; with a nonce that nobody knows, nothing of anybody's can be ended.
    let port = session.choice(UNUSED_PORTS);
    let lifetime = Duration::ZERO;
    let nothing = Wish { transport: Transport::Udp, internal: port, external: 0, lifetime, nonce };
    session.note_layers(|log| log.questions += 1);
    let (weak, net, local) = (Arc::downgrade(session), Arc::clone(session.net()), session.local_ip());
    session.spawn(async move {
        let is_there = pcp_sees_nat(&net, local, second, nothing).await;
        let Some(session) = weak.upgrade() else { return };
        session.note_layers(|log| {
            log.questions -= 1;
            log.nat_before_second |= is_there;
        });
    });
}

/// Does this beside everything else, as one more question.
fn beside<F>(session: &Arc<Session>, work: impl FnOnce(Arc<Session>) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    session.note_layers(|log| log.questions += 1);
    let (weak, work) = (Arc::downgrade(session), work(Arc::clone(session)));
    session.spawn(async move {
        work.await;
        if let Some(session) = weak.upgrade() {
            session.note_layers(|log| log.questions -= 1);
        }
    });
}

/// Has packets die on the way, then asks the gateway, and the second router, too, where it may be the user's own. In a run
/// that did not ask for this by name nobody waits for their answers: those that come before the run ends count.
async fn follow_the_way(session: Arc<Session>) {
    let (begun, own) = (session.now(), session.local_ip());
    if session.local_ip().is_ipv6() || session.contact().await == Contact::None {
        return;
    }
    let external = session.read(|log| evidence::external(log).into_iter().find(|ip| is_global(*ip)));
    let beyond = external.filter(|external| *external != own);
    let (gateway, interface) = (session.net().gateway(own), session.net().interface(own));
    let takes_all = session.net().source_for(ANYWHERE).is_ok_and(|source| source == own);
    session.note_layers(|log| {
        (log.gateway, log.interface, log.takes_all) = (gateway, interface, takes_all);
    });
    // What stands at the other end of a VPN is nobody's gateway here.
    if evidence::is_vpn(interface, takes_all, Some(own)) {
        return;
    }
    let is_patient = session.read(|log| log.layers.is_asked_for);
    let is_sent = trace::send(&session, beyond).await;
    if beyond.is_some() {
        beside(&session, |session| async move { _ = turned_back::send(&session).await });
        // The server's packets are charged like connections, which others need, and a run that is not patient seldom sees them.
        if is_patient {
            beside(&session, |session| async move { _ = from_outside::ask(&session).await });
        }
    }
    // Where nothing translates there is nothing to ask for, and a router in a public network is somebody else's.
    if let Some(gateway) = gateway.filter(|at| beyond.is_some() && !is_global(*at)) {
        ask(&session, gateway, |log| &mut log.named);
    }
    let wait = if is_patient { PATIENCE } else { session.response_timeout().min(PATIENCE) };
    let is_heard =
        |log: &ObservationLog| !is_sent || log.layers.trace.iter().all(|packet| packet.report.is_some());
    let needs_second = beyond.is_some() && session.read(|log| log.port_mapping.is_chain_asked);
    let for_second = if needs_second { PATIENCE_FOR_SECOND } else { wait };
    let tells_second = |log: &ObservationLog| match needs_second {
        // Whoever stands there may say so of packets to the external address alone, or late.
        true => log.layers.trace.iter().any(|packet| packet.ttl == 2 && packet.report.is_some()),
        false => second_router(log).is_some(),
    };
    session.until(begun + for_second, |log| is_heard(log) || tells_second(log)).await;
    let second = session.read(second_router);
    // Who gives the gateway's own address may be asked; whoever stands in a public network is somebody else's.
    if let Some(second) = second.filter(|_| beyond.is_some()) {
        ask(&session, second, |log| &mut log.second_named);
        ask_for_nat_before(&session, second);
    }
    let is_done = |log: &ObservationLog| is_heard(log) && (!is_patient || log.layers.questions == 0);
    session.until(begun + wait, is_done).await;
}
