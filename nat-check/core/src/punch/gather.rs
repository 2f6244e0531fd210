//! What a side learns of itself before it is introduced: how its network behaves, where it can be found.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    nat::{Filtering, Mapping, NatType},
    rendezvous::{
        Technique,
        peer::{Behaviour, Nonce, Offer, TcpSide},
    },
};
use tokio::sync::watch;

use super::{
    PunchSetup,
    attempt::{Servers, is_decent},
    look,
    post::Post,
    technique,
};
use crate::{
    check::{ServerQuery, Setup, check},
    net::Net,
    progress::Progress,
    report::{Report, UdpReport},
    selection::{Families, Selection},
    target::Target,
};

/// What a check and a closer look told.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Over IPv4.
    pub(super) behaviour: Behaviour,
    /// Over IPv6; none where there is none, or it is not to be used.
    pub(super) ipv6: Option<Behaviour>,
    pub(super) remaps: Option<bool>,
    pub(super) opener_ttl: Option<u8>,
    pub(super) nat_type: Option<NatType>,
    pub(super) tcp: Option<TcpSide>,
    pub(super) servers: Servers,
}

/// The measurements that an attempt is planned by.
const TESTS: [&str; 6] =
    ["mapping", "filtering", "port-allocation", "hairpinning", "inbound-first", "distance"];
/// An answer takes so long where that was not measured.
const USUAL_RTT: Duration = Duration::from_millis(300);

/// Measures the own network, over those families that the techniques need.
pub(super) async fn measure(
    setup: &PunchSetup,
    net: &Arc<dyn Net>,
    target: &Target,
    progress: &dyn Progress,
) -> Known {
    let tests = TESTS.into_iter().filter(|name| crate::probe::REGISTRY.iter().any(|p| p.name == *name));
    let routed = |server: Option<SocketAddr>| server.is_some_and(|server| net.source_for(server).is_ok());
    let families = Families {
        v4: routed(target.v4) && setup.techniques.iter().any(|t| *t != Technique::Ipv6),
        v6: routed(target.v6) && setup.techniques.contains(&Technique::Ipv6),
    };
    let checking = Setup {
        families,
        bind: None,
        tests: Selection::Only(tests.map(String::from).collect()),
        timeout: setup.measuring,
        ..Setup::default()
    };
    // Nobody stops it: it ends by itself, soon.
    let (_never, stop) = watch::channel(false);
    let report =
        check(&checking, Arc::clone(net), &[ServerQuery::from(target.clone())], progress, stop).await;
    let servers = servers(&**net, target, families, &report);
    let tcp = match (servers.v4, setup.techniques.contains(&Technique::Tcp)) {
        (Some((server, local)), true) => {
            let mut rng = fastrand::Rng::with_seed(setup.seed ^ 1);
            // The other port of the same address will do, and the other address is better.
            let other = servers.other.unwrap_or(SocketAddr::new(
                server.ip(),
                server.port().checked_add(1).unwrap_or(u16::MAX - 1),
            ));
            technique::tcp_side(&**net, local, server, other, &mut rng).await
        }
        (None, _) | (_, false) => None,
    };
    let udp = report.ipv4.udp.as_ref();
    let mut known = Known {
        behaviour: behaviour(udp),
        ipv6: families.v6.then(|| behaviour(report.ipv6.udp.as_ref())),
        remaps: None,
        // One hop more than to the outermost filter.
        opener_ttl: udp.and_then(|udp| udp.distance.value).map(|hops| hops.saturating_add(1)),
        nat_type: udp.or(report.ipv6.udp.as_ref()).and_then(|udp| udp.nat_type.value),
        tcp,
        servers,
    };
    known.remaps = match known.behaviour.mapping {
        // Without translation nothing can be translated otherwise, and a port that changes anyway cannot be lost.
        Some(mapping) if mapping != Mapping::EndpointIndependent => Some(false),
        _ => udp.and_then(|udp| udp.inbound_first_remap.value),
    };
    look_closer(&mut known, Arc::clone(net), udp, setup.seed).await;
    known
}

/// What matters for a punch alone, where it can be found out.
async fn look_closer(known: &mut Known, net: Arc<dyn Net>, udp: Option<&UdpReport>, seed: u64) {
    let Some((server, local)) = known.servers.v4 else { return };
    let rtt = udp.and_then(|udp| udp.rtt_s).map_or(USUAL_RTT, Duration::from_secs_f64);
    let mut post = Post::new(net, seed ^ 2);
    if let Some(step) = known.behaviour.ports.as_ref().and_then(|ports| ports.delta)
        && let Some(rate) = look::cross_traffic(&mut post, local, server, step).await
    {
        known.behaviour.cross_traffic = Some(rate);
    }
    let differs = |other: &SocketAddr| other.ip() != server.ip() && other.port() != server.port();
    let Some(other) = known.servers.other.filter(differs) else { return };
    let place = look::ServerEndpoint { local, server, other, rtt };
    let moves =
        !matches!(known.behaviour.mapping, None | Some(Mapping::Direct | Mapping::EndpointIndependent));
    let filters = !matches!(known.behaviour.filtering, None | Some(Filtering::EndpointIndependent));
    if moves && filters {
        known.behaviour.shared_filter = look::shared_filter(&mut post, place).await;
    }
}

fn behaviour(udp: Option<&UdpReport>) -> Behaviour {
    let Some(udp) = udp.filter(|udp| udp.nat_type.value != Some(NatType::UdpBlocked)) else {
        return Behaviour::default();
    };
    let cross_traffic = udp.port_allocation.evidence.get("cross_traffic_per_s");
    Behaviour {
        udp: true,
        mapping: udp.mapping.value,
        filtering: udp.filtering.value,
        shared_filter: None,
        ports: udp.port_allocation.value.clone(),
        cross_traffic: cross_traffic.and_then(serde_json::Value::as_f64),
        hairpinning: udp.hairpinning.value,
    }
}

/// Opens the first socket and writes the offer. `rtt` is the round-trip time to the rendezvous.
pub(super) async fn offer(
    setup: &PunchSetup,
    known: &Known,
    rtt: Duration,
    post: &mut Post,
) -> (Offer, Option<usize>) {
    let mut offer = Offer {
        nonce: Nonce(setup.nonce),
        behaviour: known.behaviour.clone(),
        techniques: setup.techniques.clone(),
        lan: Vec::new(),
        external: Vec::new(),
        ipv6: known.ipv6.clone(),
        tcp: known.tcp,
        remaps: known.remaps,
        opener_ttl: known.opener_ttl,
        rtt_ms: u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX),
        hold_ms: u32::try_from(setup.hold.as_millis()).unwrap_or(u32::MAX),
    };
    let Some((server, ip)) = known.servers.v4 else { return (offer, None) };
    let seen = if offer.behaviour.udp { post.open_seen(ip, server).await } else { None };
    // Without an endpoint that anybody has seen, it still is one on the local network.
    let first = match seen {
        Some((socket, _)) => Some(socket),
        None => post.open(ip).await.ok(),
    };
    offer.lan.extend(first.and_then(|socket| post.local(socket)).map(|at| SocketAddr::new(ip, at.port())));
    let elsewhere = match (seen, known.servers.other) {
        (Some((socket, _)), Some(other)) => post.ask(socket, other).await,
        (None, _) | (_, None) => None,
    };
    for seen in [seen.map(|(_, at)| at), elsewhere].into_iter().flatten().filter(|seen| is_decent(*seen)) {
        if !offer.external.contains(&seen) {
            offer.external.push(seen);
        }
    }
    (offer, first)
}

fn servers(net: &dyn Net, target: &Target, families: Families, report: &Report) -> Servers {
    let from = |wanted: bool, server: Option<SocketAddr>| {
        let server = server.filter(|_| wanted)?;
        Some((server, net.source_for(server).ok()?))
    };
    Servers {
        v4: from(families.v4, target.v4),
        other: report.server.ipv4.as_ref().and_then(|addresses| addresses.alternate),
        v6: from(families.v6, target.v6),
    }
}
