//! IPv6 beside the usual: whether addresses are translated on the way (NPTv6, RFC 6296, or NAT66), and whether strangers reach
//! ports of this host that have sent nothing, which a firewall of a home gateway prevents (RFC 6092).
//!
//! A second address of the same interface tells prefix translation from a NAT: it asks from a session of its own, as answers to
//! it would look like another way out in this one. Where strangers come in at ports that have sent something, one that has not
//! is tried; where they do not, they come in nowhere.

mod conclude;

use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};

use shared::{nat::Filtering, test_session::SourceAddress};

use super::{
    Probe, Stage, Step, contact,
    port_mapping::{Datagrams, call},
    so_far, tcp_filtering,
};
use crate::{
    observation::Purpose,
    randomness::Randomness,
    report::AddressKind,
    server_endpoints::ServerEndpoint,
    session::{Contact, Session},
};
pub use conclude::conclude;

/// What its requests are sent for, in the log.
const PURPOSE: Purpose = Purpose::main("ipv6");
/// Datagrams to a port that has sent nothing.
const SILENT: Purpose = PURPOSE.role("silent");
/// Connections to a port that has sent nothing.
const CALL: Purpose = PURPOSE.role("call");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "over IPv6: whether addresses are translated, and whether strangers reach ports that have sent nothing",
    needs: &["mapping", "filtering", "tcp-mapping", "tcp-filtering"],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(from_second_address(session)) },
        Step { stage: Stage::Confirm, run: |session| Box::pin(to_silent_port(session)) },
        Step { stage: Stage::Tcp, run: |session| Box::pin(to_silent_listener(session)) },
    ],
    udp: &[],
    tcp: &[],
    server: &[],
};

/// How long the server is asked from the second address.
const PATIENCE: Duration = Duration::from_secs(1);
/// Packets that are left for others.
const SPARE: usize = 40;
/// Calls to a port that has sent nothing, at the most.
const CALLS: usize = 5;

/// Nobody waits for it: it may lead nowhere.
async fn from_second_address(session: Arc<Session>) {
    let Some(ip) = second_address(&session) else { return };
    let (net, server) = (Arc::clone(session.net()), session.server());
    let Ok(second) = Session::new(net, server, SocketAddr::new(ip, 0), Randomness::System) else { return };
    let weak = Arc::downgrade(&session);
    session.spawn(async move {
        contact::establish(Arc::clone(&second), PATIENCE).await;
        let log = second.finish();
        second.shut_down().await;
        let answered = log.transactions.iter().find_map(|t| Some((t.socket, t.direct()?.mapped()?)));
        let seen = answered.and_then(|(socket, seen)| Some((log.local(socket)?, seen)));
        if let Some(session) = weak.upgrade() {
            session.note_ipv6(|log| log.second = seen);
        }
    });
}

/// Another address of the interface that packets leave by, which leads as far.
fn second_address(session: &Session) -> Option<IpAddr> {
    let (net, local) = (session.net(), session.local_ip());
    if local.is_ipv4() || !session.is_address_free() {
        return None;
    }
    let is_local = |ip: IpAddr| matches!(ip, IpAddr::V6(v6) if v6.is_unique_local());
    let is_like = |ip: IpAddr| {
        ip != local && is_local(ip) == is_local(local) && net.scope_id(ip) == net.scope_id(local)
    };
    let mut own = net.ipv6_addresses().into_iter();
    own.find(|own| own.kind != AddressKind::Deprecated && is_like(own.address)).map(|own| own.address)
}

async fn to_silent_port(session: Arc<Session>) {
    let is_open = |filtering| filtering == Some(Filtering::EndpointIndependent);
    let found = |session: &Session| session.read(|log| so_far(log, &["mapping", "filtering"]));
    if session.server().is_ipv4()
        || session.contact().await == Contact::None
        || session.budget() < SPARE
        || !is_open(found(&session).udp.filtering.value)
    {
        return;
    }
    let (Ok(silent), Ok(asks)) = (session.open().await, session.open().await) else { return };
    let Some(local) = session.read(|log| log.local(silent.id)) else { return };
    session.note_ipv6(|log| log.silent = Some(silent.id));
    let has_alternate = session.endpoints().get(ServerEndpoint::BOTH).is_some();
    let from = if has_alternate { ServerEndpoint::BOTH } else { ServerEndpoint::PRIMARY };
    let datagrams = Datagrams { session: &session, asks: &asks, mapped: silent.id, port: local.port() };
    datagrams.reach(SILENT, None, from).await;
}

async fn to_silent_listener(session: Arc<Session>) {
    if session.server().is_ipv4() {
        return;
    }
    session.tcp_filtering_over().await;
    if !session.read(|log| tcp_filtering::came(log, SourceAddress::Alternate)) {
        return;
    }
    let Ok(port) = session.new_tcp_port().await else { return };
    let (Ok(local), Ok(listener)) = (port.local_addr(), port.listen()) else { return };
    let Some(test) = session.test_session().await else { return };
    session.accept_calls(&test, listener);
    call(&session, &test, CALL, local.port(), CALLS).await;
}
