//! One port of this host that is kept open at the gateway, tried from outside by a probe server: over UDP with datagrams, over
//! TCP with connections, as the measurement does.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::{
    port_mapping::{Protocol, Transport},
    test_session::SynOutcome,
};

use super::{
    Purposes,
    conclude::{CALLS, OUTSIDE, reachable_tcp, reachable_udp, seen_at},
    outside,
};
use crate::{
    net::Net,
    observation::{
        ObservationLog,
        port_mapping::{AskedMapping, Attempt, Opened},
    },
    probe::contact,
    randomness::Randomness,
    report::{Confidence, Finding, ReasonCode},
    server_endpoints::ServerEndpoint,
    session::{Contact, Session},
};

/// How long the server is waited for.
const CONTACT: Duration = Duration::from_secs(5);

/// How long the server's word on a connection is waited for: it waits 2 s for the echo.
const SERVERS_WORD: Duration = Duration::from_secs(4);

/// A port that is open, and who is to try it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutsideTest {
    pub(crate) server: SocketAddr,
    pub(crate) protocol: Protocol,
    pub(crate) transport: Transport,
    /// This host's port.
    pub(crate) port: u16,
    /// The external port that leads to it.
    pub(crate) external: u16,
    /// The external address that the gateway names.
    pub(crate) external_address: Option<IpAddr>,
}

/// Whether the port is reached from outside, and at which address the server sees this host.
pub(crate) async fn test_from_outside(
    net: &Arc<dyn Net>,
    test: OutsideTest,
) -> (Finding<bool>, Option<IpAddr>) {
    let any: IpAddr =
        if test.server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let session = Session::new(Arc::clone(net), test.server, SocketAddr::new(any, 0), Randomness::System);
    let Ok(session) = session else {
        return (Finding::unknown((ReasonCode::NoRoute, "there is no route to the server"), OUTSIDE), None);
    };
    session.lift_budget();
    contact::establish(session.clone(), CONTACT).await;
    session.allow_others();
    session.tcp_filtering_is_over();
    if session.contact().await == Contact::None {
        let reason = (ReasonCode::ServerUnreachable, "the probe server does not answer over UDP");
        return (Finding::unknown(reason, OUTSIDE), None);
    }
    let opened = Opened { external: test.external, lifetime: Duration::ZERO };
    let mut mapping = AskedMapping {
        transport: test.transport,
        internal: test.port,
        socket: None,
        answer: Some(Ok(opened)),
        deletion: None,
    };
    let in_use = match test.transport {
        Transport::Udp => over_udp(&session, test, &mut mapping).await,
        Transport::Tcp => over_tcp(&session, test).await,
    };
    let attempt = Attempt {
        external_address: test.external_address,
        mappings: vec![mapping],
        ..Attempt::new(test.protocol, session.local_ip())
    };
    let log = session.finish();
    // Whoever reads that the port is reached may want to use it at once.
    session.shut_down().await;
    let seen = seen_at(&log).first().copied();
    let finding = match (test.transport, in_use) {
        (Transport::Udp, true) => Finding::unknown(
            (
                ReasonCode::SystemRefused,
                "a program of this host uses the port, so that what arrives there is not seen",
            ),
            OUTSIDE,
        ),
        (Transport::Udp, false) => reachable_udp(&log, &attempt),
        (Transport::Tcp, true) => answered(&log, test, &attempt),
        (Transport::Tcp, false) => reachable_tcp(&log, &attempt),
    };
    (finding, seen)
}

/// Tells whether somebody else uses the port.
async fn over_udp(session: &Arc<Session>, test: OutsideTest, mapping: &mut AskedMapping) -> bool {
    let Ok(mapped) = session.open_at(test.port).await else { return true };
    let (Ok(asks), Ok(control)) = (session.open().await, session.open().await) else { return true };
    mapping.socket = Some(mapped.id);
    session.note_port_mapping(|log| log.control = Some(control.id));
    let unmapped = session.read(|log| log.local(control.id)).map(|local| local.port());
    let has_alternate = session.endpoints().get(ServerEndpoint::BOTH).is_some();
    let from = if has_alternate { ServerEndpoint::BOTH } else { ServerEndpoint::PRIMARY };
    let purposes = Purposes::of(test.protocol);
    let datagrams = outside::Datagrams { session, asks: &asks, mapped: mapped.id, port: test.external };
    datagrams.reach(purposes.test, unmapped.map(|port| (purposes.control, port)), from).await;
    false
}

/// Tells whether somebody else uses the port.
async fn over_tcp(session: &Arc<Session>, test: OutsideTest) -> bool {
    let port = session.net().tcp_port(SocketAddr::new(session.local_ip(), test.port)).await;
    let listener = port.as_ref().ok().and_then(|port| port.listen().ok());
    let in_use = listener.is_none();
    let Some(with_server) = session.test_session().await else { return in_use };
    if let Some(listener) = listener {
        session.accept_calls(&with_server, listener);
    }
    let purpose = Purposes::of(test.protocol).call;
    // Beside it a port that nobody opened: what became of those calls tells silence from loss.
    tokio::join!(
        outside::call(session, &with_server, purpose, test.external, outside::CALLS),
        outside::call_unmapped(Arc::clone(session))
    );
    if in_use {
        // The server waits for an echo first, which nobody gives.
        let is_told = |log: &ObservationLog| log.tcp.calls_of(purpose).any(|call| call.outcome().is_some());
        session.until(session.now() + SERVERS_WORD, is_told).await;
    }
    in_use
}

/// What the server's word is worth where the connection arrives at another program.
fn answered(log: &ObservationLog, test: OutsideTest, attempt: &Attempt) -> Finding<bool> {
    let mut calls = log.tcp.calls_of(Purposes::of(test.protocol).call);
    let completes = |outcome| matches!(outcome, Some(SynOutcome::Connected | SynOutcome::Echoed));
    if calls.any(|call| completes(call.outcome())) {
        let text = "a program of this host uses the port; the server's connection was accepted by somebody";
        return Finding::known(true, Confidence::Weak, CALLS).because((ReasonCode::ServerNotProven, text));
    }
    reachable_tcp(log, attempt).at_most(Confidence::Weak)
}
