//! Both NATs of one's own double NAT, opened by this host: the inner one leads to it, and the outer one to the inner one's port.
//! PCP and UPnP are told the inner NAT's address as that of the client; NAT-PMP takes the packet's source (RFC 6886 section 3.3).
//! Nobody else's NAT is asked: the second one has to be the user's own, and in a private network.

use std::{net::IpAddr, sync::Arc, time::Duration};

use shared::port_mapping::{Protocol, Transport};

use super::{
    Purposes, Trial,
    conclude::conclude_log,
    mappings::{close, open},
    outside,
};
use crate::{
    observation::{
        SocketId,
        port_mapping::{Attempt, Link},
    },
    port_mapping::{Client, Discovery, discover_alone},
    probe::layers,
    report::{LayersKind, Reason, ReasonCode},
    server_endpoints::ServerEndpoint,
    session::{Session, Socket},
};

/// How long the answers of routers are waited for: longer than the questions themselves take, with a router that is busy.
const PATIENCE: Duration = Duration::from_secs(10);

/// The server connects to one host once a second at length, and has done so often by then.
const CALLS_AGAIN: Duration = Duration::from_secs(3);

/// Opens a port at both NATs for each transport, has it tested, and closes it again. `clients` are the inner one's.
pub(super) async fn run(session: &Arc<Session>, clients: &[Client]) {
    let opened = match second_router(session).await {
        Ok(second) => through_both(session, clients, second).await,
        Err(reason) => Err(reason),
    };
    if let Err(reason) = opened {
        session.note_port_mapping(|log| log.no_chain = Some(reason));
    }
}

/// The second router, where it is surely the user's own.
async fn second_router(session: &Arc<Session>) -> Result<IpAddr, Reason> {
    session.until(session.now() + PATIENCE, |log| log.layers.questions == 0).await;
    session.read(|log| {
        if log.layers.gateway.is_none() {
            let text = "it was not looked at whose the NATs on the way are";
            return Err((ReasonCode::NotAskedFor, text).into());
        }
        let kind = layers::kind_so_far(log, &conclude_log(log, log.port_mapping.gateway.flatten()));
        match (kind.sure(), layers::second_router(log)) {
            (Some(LayersKind::OwnDouble), Some(second)) => Ok(second),
            (Some(LayersKind::CarrierGrade | LayersKind::DsLite | LayersKind::Xlat464), _) => {
                let text = "the second NAT is the carrier's, which is not asked to open ports";
                Err((ReasonCode::SecondNatNotOwn, text).into())
            }
            (Some(LayersKind::None | LayersKind::One | LayersKind::Vpn | LayersKind::MultiWan), _) => {
                Err((ReasonCode::SecondNatNotOwn, "there is no second NAT of your own").into())
            }
            (Some(LayersKind::OwnDouble) | None, _) => {
                let text =
                    "it is not sure that there is a second NAT and that it is your own, so it was not asked";
                Err((ReasonCode::SecondNatUnsure, text).into())
            }
        }
    })
}

async fn through_both(session: &Arc<Session>, clients: &[Client], second: IpAddr) -> Result<(), Reason> {
    let refused = || {
        let text = "the first router opened no port, so that no second one can lead to it";
        Reason::from((ReasonCode::MappingRefused, text))
    };
    let (inner, nat) = inner(session, clients).ok_or_else(refused)?;
    let found = discover_alone(session.net(), session.local_ip(), second).await;
    let candidates = outer(&found, nat);
    if candidates.is_empty() {
        let text = match (found.unusable, found.clients.is_empty()) {
            (Some((_, why)), _) => format!("the second router {second} answers, and {why}"),
            (None, true) => format!("the second router {second} answers neither PCP nor NAT-PMP nor UPnP"),
            (None, false) => {
                let text = "needs the first router's external address, which that one does not name";
                format!("what the second router {second} speaks {text}")
            }
        };
        return Err((ReasonCode::NoAnswer, text).into());
    }
    let inner = trial(session, inner, Link::Inner, None);
    let (Ok(mapped), Ok(asks)) = (session.open().await, session.open().await) else {
        return Err((ReasonCode::SystemRefused, "this system gives no more sockets").into());
    };
    let Some(internal) = session.read(|log| log.local(mapped.id)).map(|local| local.port()) else {
        return Err((ReasonCode::SystemRefused, "this system does not tell a socket's port").into());
    };
    // One protocol after the other, as it is a diagnosis of the way and not of each protocol.
    let between = open(&inner, Transport::Udp, internal, None).await.ok_or_else(refused)?;
    for client in candidates {
        let outer = trial(session, client, Link::Outer, found.software.as_ref());
        let chain = Chain { session, inner: &inner, outer: &outer };
        if let Some(opened) = open(&outer, Transport::Udp, between.external, Some(mapped.id)).await {
            tokio::join!(chain.over_udp(&mapped, &asks, opened.external), chain.over_tcp());
            outer.note_epochs();
            // Silence says nothing of the way where either router has restarted meanwhile.
            let inner_losses = inner.client.epochs().losses();
            outer.note(|attempt| attempt.losses += inner_losses);
            break;
        }
    }
    close(&inner, Transport::Udp).await;
    inner.note_epochs();
    Ok(())
}

/// The first protocol of the inner router that has opened a port before, and that router's own external address where it names
/// a private one.
fn inner(session: &Session, clients: &[Client]) -> Option<(Client, Option<IpAddr>)> {
    let is_private = |at: &IpAddr| matches!(at, IpAddr::V4(v4) if v4.is_private());
    session.read(|log| {
        let has_opened = |client: &&Client| {
            let of_it = |it: &&Attempt| it.protocol == client.protocol() && it.gateway == client.gateway();
            let attempt = log.port_mapping.attempts.iter().find(of_it);
            attempt.and_then(|it| it.mapping(Transport::Udp)?.opened()).is_some()
        };
        // Not a carrier's PCP server, which answers at an address of its own.
        let at_gateway = |client: &&Client| Some(client.gateway()) == log.layers.gateway;
        let client = clients.iter().filter(at_gateway).find(has_opened)?.clone();
        let named = log.port_mapping.attempts.iter().filter(|it| it.gateway == client.gateway());
        let named = named.filter_map(|it| it.external_address);
        let nat = named.chain(log.layers.named.iter().map(|(_, at)| *at)).find(is_private);
        Some((client, nat))
    })
}

/// The protocols of the outer router that can be used: all that are told the inner NAT's address, or NAT-PMP, which is not.
fn outer(found: &Discovery, nat: Option<IpAddr>) -> Vec<Client> {
    let usable = found.clients.iter().filter(|it| nat.is_some() || it.protocol() == Protocol::NatPmp);
    usable.map(|client| nat.map_or_else(|| client.clone(), |nat| client.clone().behind(nat))).collect()
}

fn trial(session: &Arc<Session>, client: Client, link: Link, software: Option<&String>) -> Trial {
    let software = software.filter(|_| client.protocol() == Protocol::Upnp).cloned();
    let attempt = Attempt { link, software, ..Attempt::new(client.protocol(), client.gateway()) };
    let number = session.note_port_mapping(|log| {
        log.attempts.push(attempt);
        log.attempts.len() - 1
    });
    Trial { session: Arc::clone(session), client, number }
}

/// Two routers in a row.
struct Chain<'a> {
    session: &'a Arc<Session>,
    inner: &'a Trial,
    outer: &'a Trial,
}

impl Chain<'_> {
    async fn over_udp(&self, mapped: &Socket, asks: &Socket, external: u16) {
        let Self { session, .. } = *self;
        self.outer.address().await;
        let has_alternate = session.endpoints().get(ServerEndpoint::BOTH).is_some();
        let from = if has_alternate { ServerEndpoint::BOTH } else { ServerEndpoint::PRIMARY };
        let datagrams = outside::Datagrams { session, asks, mapped: mapped.id, port: external };
        let control = self.unmapped().map(|port| (Purposes::CHAIN.control, port));
        let is_reached = datagrams.reach(Purposes::CHAIN.test, control, from).await;
        close(self.outer, Transport::Udp).await;
        // The inner one is open still, so that silence is the outer one's.
        if is_reached && has_alternate {
            datagrams.reach(Purposes::CHAIN.after, None, ServerEndpoint::IP).await;
        }
    }

    async fn over_tcp(&self) {
        let Self { session, inner, outer } = *self;
        let Ok(port) = session.new_tcp_port().await else { return };
        let (Ok(local), Ok(listener)) = (port.local_addr(), port.listen()) else { return };
        let Some(between) = open(inner, Transport::Tcp, local.port(), None).await else { return };
        let opened = open(outer, Transport::Tcp, between.external, None).await;
        if let Some((opened, test)) = opened.zip(session.test_session().await) {
            session.accept_calls(&test, listener);
            let Purposes { call, call_after, .. } = Purposes::CHAIN;
            let is_reached = outside::call(session, &test, call, opened.external, outside::CALLS).await;
            close(outer, Transport::Tcp).await;
            // The inner one is open still, here, too.
            if is_reached {
                session.until(session.now() + CALLS_AGAIN, |_| false).await;
                outside::call(session, &test, call_after, opened.external, outside::AFTER_CALLS).await;
            }
        }
        close(outer, Transport::Tcp).await;
        close(inner, Transport::Tcp).await;
    }

    /// The port of the run's control, which nothing was mapped for.
    fn unmapped(&self) -> Option<u16> {
        let control: Option<SocketId> = self.session.read(|log| log.port_mapping.control);
        self.session.read(|log| log.local(control?)).map(|local| local.port())
    }
}
