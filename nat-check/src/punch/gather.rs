//! What a side learns of itself before it is introduced: how its network behaves, where it can be found.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use shared::{
    nat::{Mapping, NatType},
    rendezvous::{Behaviour, Nonce, Offer, TcpSide, Technique},
};
use tokio::sync::watch;

use super::{
    PunchSetup,
    attempt::{Servers, is_decent},
    post::Post,
    technique,
};
use crate::{
    check::{Asked, Setup, check},
    net::Net,
    plan::{Families, Selection},
    progress::Progress,
    report::Report,
    resolve::Target,
};

/// What a check and a look at TCP told.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) behaviour: Behaviour,
    pub(super) remaps: Option<bool>,
    pub(super) nat_type: Option<NatType>,
    pub(super) tcp: Option<TcpSide>,
    pub(super) servers: Servers,
}

/// The measurements that an attempt is planned by.
const TESTS: [&str; 5] = ["mapping", "filtering", "port-allocation", "hairpinning", "inbound-first"];

/// Measures the own network.
pub(super) async fn measure(
    setup: &PunchSetup,
    net: &Arc<dyn Net>,
    target: &Target,
    progress: &dyn Progress,
) -> Known {
    let tests = TESTS.into_iter().filter(|name| crate::probe::REGISTRY.iter().any(|p| p.name == *name));
    let checking = Setup {
        families: Families { v4: target.v4.is_some(), v6: target.v4.is_none() },
        bind: None,
        tests: Selection::Only(tests.map(String::from).collect()),
        timeout: setup.measuring,
        seed: setup.seed,
        started_at: SystemTime::UNIX_EPOCH,
        ..Setup::default()
    };
    // Nobody stops it: it ends by itself, soon.
    let (_never, stop) = watch::channel(false);
    let report = check(&checking, Arc::clone(net), &[Asked::from(target.clone())], progress, stop).await;
    let servers = servers(&**net, target, &report);
    let tcp = match (servers.v4, setup.techniques.contains(&Technique::Tcp)) {
        (Some((server, local)), true) => {
            let mut rng = fastrand::Rng::with_seed(setup.seed ^ 1);
            // The other port of the same address will do, and the other address is better.
            let other = servers.other.unwrap_or(SocketAddr::new(server.ip(), server.port() + 1));
            technique::tcp_side(&**net, local, server, other, &mut rng).await
        }
        (None, _) | (_, false) => None,
    };
    let udp = report.ipv4.udp.as_ref().or(report.ipv6.udp.as_ref());
    let nat_type = udp.and_then(|udp| udp.nat_type.value);
    let behaviour = match udp {
        Some(udp) if nat_type != Some(NatType::UdpBlocked) => Behaviour {
            udp: true,
            mapping: udp.mapping.value,
            filtering: udp.filtering.value,
            ports: udp.port_allocation.value.clone(),
            cross_traffic: udp
                .port_allocation
                .evidence
                .get("cross_traffic_per_s")
                .and_then(serde_json::Value::as_f64),
            hairpinning: udp.hairpinning.value,
        },
        Some(_) | None => Behaviour::default(),
    };
    let remaps = match behaviour.mapping {
        // Without translation nothing can be translated otherwise, and a port that changes anyway cannot be lost.
        Some(mapping) if mapping != Mapping::EndpointIndependent => Some(false),
        _ => udp.and_then(|udp| udp.inbound_first_remap.value),
    };
    Known { behaviour, remaps, nat_type, tcp, servers }
}

/// Opens the first socket and writes the offer.
pub(super) async fn offer(
    setup: &PunchSetup,
    known: &Known,
    nonce: Nonce,
    post: &mut Post,
) -> (Offer, Option<usize>) {
    let mut offer = Offer {
        nonce,
        behaviour: known.behaviour.clone(),
        techniques: setup.techniques.clone(),
        lan: Vec::new(),
        external: Vec::new(),
        ipv6: known.servers.v6.is_some_and(|(_, ip)| !ip.is_loopback()),
        tcp: known.tcp,
        remaps: known.remaps,
        hold_ms: u32::try_from(setup.hold.as_millis()).unwrap_or(u32::MAX),
    };
    let mut first = None;
    if let Some((server, ip)) = known.servers.v4
        && let Ok(socket) = post.open(ip).await
    {
        if let Some(local) = post.local(socket) {
            offer.lan.push(SocketAddr::new(ip, local.port()));
        }
        first = Some(socket);
        if offer.behaviour.udp {
            for endpoint in [Some(server), known.servers.other].into_iter().flatten() {
                let seen = post.ask(socket, endpoint).await.filter(|seen| is_decent(*seen));
                if let Some(seen) = seen
                    && !offer.external.contains(&seen)
                {
                    offer.external.push(seen);
                }
            }
        }
    }
    (offer, first)
}

fn servers(net: &dyn Net, target: &Target, report: &Report) -> Servers {
    let from = |server: Option<SocketAddr>| {
        let server = server?;
        Some((server, net.source_for(server).ok()?))
    };
    Servers {
        v4: from(target.v4),
        other: report.server.ipv4.as_ref().and_then(|addresses| addresses.alternate),
        v6: from(target.v6),
    }
}
