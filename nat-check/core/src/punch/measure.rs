//! What a side learns of itself before it is introduced: how its network behaves, where it can be found.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::{
    nat::{Filtering, Mapping, NatType},
    rendezvous::peer::{self, Nonce, Offer, TcpSide},
    stun::Dialect,
};
use tokio::sync::watch;

use super::{
    PunchSetup, attempt::Servers, behaviour, extra_probes, ice, sockets::Sockets, tcp_ports, unless_stopped,
};
use crate::{
    check::{ServerQuery, Setup, check},
    contactable::{Scope, is_contactable},
    net::Net,
    probe::REGISTRY,
    progress::{Progress, Silent},
    randomness::Randomness,
    report::{Finding, ReasonCode, Report, TcpReport},
    selection::{Families, Selection},
    session::{Contact, Session},
    target::Target,
    technique::Technique,
};

/// What a check and the further measurements told.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// Over IPv4.
    pub(super) behaviour: peer::Behaviour,
    /// Over IPv6; none where there is none, or it is not to be used.
    pub(super) ipv6: Option<peer::Behaviour>,
    pub(super) remaps: Option<bool>,
    pub(super) opener_ttl: Option<u8>,
    pub(super) nat_type: Option<NatType>,
    pub(super) tcp: Option<TcpSide>,
    pub(super) servers: Servers,
}

/// What the rendezvous says of itself.
pub(super) struct Named {
    /// Where it really is.
    pub(super) server: SocketAddr,
    /// Where it says that it answers STUN over UDP.
    pub(super) endpoints: Vec<SocketAddr>,
}

/// The measurements that an attempt is planned by.
const TESTS: [&str; 6] =
    ["mapping", "filtering", "port-allocation", "hairpinning", "inbound-first", "distance"];
/// Those over TCP. They run beside the others, and have as much time as they have in any check.
const TCP_TESTS: [&str; 4] = ["tcp-mapping", "tcp-filtering", "tcp-syn", "tcp-simultaneous-open"];
/// How long they may take where they are repeated with patience, since something was left open.
const AGAIN: Duration = Duration::from_secs(8);

/// Measures the own network, over those families that the techniques need.
pub(super) async fn measure(
    setup: &PunchSetup,
    net: &Arc<dyn Net>,
    target: &Target,
    named: Named,
    progress: &dyn Progress,
    stop: watch::Receiver<bool>,
) -> Known {
    let completing = completed(setup.randomness, net, target, &named);
    let target = unless_stopped(&stop, completing).await.unwrap_or_else(|| target.clone());
    let randomness = setup.randomness;
    let over_tcp = setup.techniques.contains(&Technique::Tcp);
    let tests = selection(over_tcp);
    let routed = |server: Option<SocketAddr>| server.is_some_and(|server| net.source_for(server).is_ok());
    let families = Families {
        v4: routed(target.v4) && setup.techniques.iter().any(|t| *t != Technique::Ipv6),
        v6: routed(target.v6) && setup.techniques.contains(&Technique::Ipv6),
    };
    let checking =
        Setup { families, bind: None, tests, timeout: setup.measuring, randomness, ..Setup::default() };
    let asked = [ServerQuery::from(target.clone())];
    let report = check(&checking, Arc::clone(net), &asked, progress, stop.clone()).await;
    let servers = servers(&**net, &target, families, &report);
    let over_tcp = report.ipv4.tcp.as_ref().filter(|_| over_tcp);
    let mut tcp = over_tcp.map(|tcp| TcpSide { nominates: true, ..behaviour::of_tcp_report(tcp) });
    if let (Some(tcp), Some(report)) = (&mut tcp, over_tcp) {
        let again = Setup { timeout: setup.measuring.min(AGAIN), ..checking };
        let further = async {
            if is_left_open(report) {
                measure_tcp_again(tcp, &again, net, &asked, stop.clone()).await;
            }
            measure_tcp_ports(tcp, &**net, servers, randomness.split(1)).await;
        };
        unless_stopped(&stop, further).await;
    }
    let udp = report.ipv4.udp.as_ref();
    let mut known = Known {
        behaviour: behaviour::of_report(udp),
        ipv6: families.v6.then(|| behaviour::of_report(report.ipv6.udp.as_ref())),
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
    // What it has told until it is stopped counts.
    unless_stopped(&stop, measure_further(&mut known, Arc::clone(net), randomness.split(2))).await;
    known
}

/// All that are wanted and what they build on, none of them by its name: that would have those over TCP take their time.
fn selection(over_tcp: bool) -> Selection {
    let is_wanted = |name: &str| TESTS.contains(&name) || over_tcp && TCP_TESTS.contains(&name);
    let needed =
        |name: &str| REGISTRY.iter().any(|probe| is_wanted(probe.name) && probe.needs.contains(&name));
    let others = REGISTRY.iter().map(|probe| probe.name).filter(|name| !is_wanted(name) && !needed(name));
    Selection::Except(others.map(String::from).collect())
}

/// The same server with the family that the user did not name, where it says that it has one and answers there. Until
/// then the address may be anybody's.
async fn completed(randomness: Randomness, net: &Arc<dyn Net>, target: &Target, named: &Named) -> Target {
    let mut target = target.clone();
    for endpoint in named.endpoints.iter().copied() {
        let known = if endpoint.is_ipv4() { &mut target.v4 } else { &mut target.v6 };
        if known.is_none()
            && is_contactable(endpoint.ip(), endpoint.port(), Scope::Server(named.server))
            && extra_probes::answers(net, endpoint, randomness.split(4)).await
        {
            *known = Some(endpoint);
        }
    }
    target
}

/// Whether lost segments, or the time that a check has for TCP, have left open what patience may show.
fn is_left_open(tcp: &TcpReport) -> bool {
    fn is_open<T>(finding: &Finding<T>) -> bool {
        use ReasonCode as R;
        let codes = [R::EndedEarly, R::LossLeavesDoubt, R::TooMuchLoss, R::NoAnswer, R::ServerEndpointSilent];
        finding.value.is_none() && finding.reason_code.is_some_and(|code| codes.contains(&code))
    }
    is_open(&tcp.mapping)
        || is_open(&tcp.filtering)
        || is_open(&tcp.unsolicited_syn)
        || is_open(&tcp.simultaneous_open)
}

/// What was left open, with patience.
async fn measure_tcp_again(
    tcp: &mut TcpSide,
    checking: &Setup,
    net: &Arc<dyn Net>,
    server: &[ServerQuery],
    stop: watch::Receiver<bool>,
) {
    let tests = Selection::Only(TCP_TESTS.map(String::from).into());
    let families = Families { v6: false, ..checking.families };
    let again = Setup { families, tests, randomness: checking.randomness.split(5), ..checking.clone() };
    let report = check(&again, Arc::clone(net), server, &Silent, stop).await;
    if let Some(found) = report.ipv4.tcp.as_ref().map(behaviour::of_tcp_report) {
        tcp.mapping = tcp.mapping.or(found.mapping);
        tcp.fixed |= found.fixed;
        tcp.filtering = tcp.filtering.or(found.filtering);
        tcp.simultaneous_open = tcp.simultaneous_open.or(found.simultaneous_open);
        tcp.refuses = tcp.refuses.or(found.refuses);
    }
}

/// How ports are chosen, where that matters.
async fn measure_tcp_ports(tcp: &mut TcpSide, net: &dyn Net, servers: Servers, randomness: Randomness) {
    let moves = tcp.mapping.is_some() && !tcp.fixed;
    let Some((server, local)) = servers.v4.filter(|_| moves) else { return };
    if let Some(found) = tcp_ports::measure(net, local, server, &mut randomness.source()).await {
        (tcp.ports, tcp.cross_traffic) = (Some(found.allocation), found.cross_traffic);
    }
}

/// What matters for a punch alone, where it can be found out.
async fn measure_further(known: &mut Known, net: Arc<dyn Net>, randomness: Randomness) {
    let Some((server, local)) = known.servers.v4.filter(|_| known.behaviour.udp) else { return };
    let Ok(session) = Session::new(net, server, SocketAddr::new(local, 0), randomness) else { return };
    // The check has shown it.
    session.declare(Contact::Udp(Dialect::Modern));
    if let Some(step) = known.behaviour.ports.as_ref().and_then(|ports| ports.delta)
        && let Some(rate) = extra_probes::cross_traffic(&session, step).await
    {
        known.behaviour.cross_traffic = Some(rate);
    }
    if known.behaviour.ports.as_ref().is_some_and(|ports| ports.external_ips > 1) {
        let seen = extra_probes::external_addresses(&session, known.behaviour.ports.as_ref()).await;
        let all = known.behaviour.addresses.iter().copied().chain(seen);
        known.behaviour.addresses = behaviour::distinct(all);
    }
    let differs = |other: &SocketAddr| other.ip() != server.ip() && other.port() != server.port();
    let Some(other) = known.servers.other.filter(differs) else { return };
    let moves =
        !matches!(known.behaviour.mapping, None | Some(Mapping::Direct | Mapping::EndpointIndependent));
    let filters = !matches!(known.behaviour.filtering, None | Some(Filtering::EndpointIndependent));
    if moves && filters {
        known.behaviour.shared_filter = extra_probes::shared_filter(&session, other).await;
    }
}

/// Opens the first socket and writes the offer. `rtt` is the round-trip time to the rendezvous.
pub(super) async fn offer(
    setup: &PunchSetup,
    nonce: [u8; 16],
    known: &Known,
    rtt: Duration,
    sockets: &mut Sockets,
) -> (Offer, Option<usize>) {
    let mut offer = Offer {
        nonce: Nonce(nonce),
        behaviour: known.behaviour.clone(),
        techniques: setup.techniques.iter().filter_map(|technique| technique.on_wire()).collect(),
        lan: Vec::new(),
        external: Vec::new(),
        ipv6: known.ipv6.clone(),
        tcp: known.tcp.clone(),
        remaps: known.remaps,
        opener_ttl: known.opener_ttl,
        rtt_ms: u32::try_from(rtt.as_millis()).unwrap_or(u32::MAX),
        prepares: true,
        ice: Some(ice::own(Nonce(nonce))),
        hold_ms: u32::try_from(setup.hold.as_millis()).unwrap_or(u32::MAX),
    };
    let Some((server, ip)) = known.servers.v4 else { return (offer, None) };
    let seen = if offer.behaviour.udp { sockets.open_seen(ip, server).await } else { None };
    // Without an endpoint that anybody has seen, it still is one on the local network.
    let first = match seen {
        Some((socket, _)) => Some(socket),
        None => sockets.open(ip).await.ok(),
    };
    offer.lan.extend(first.and_then(|socket| sockets.local(socket)).map(|at| SocketAddr::new(ip, at.port())));
    let elsewhere = match (seen, known.servers.other) {
        (Some((socket, _)), Some(other)) => sockets.external(socket, other).await,
        (None, _) | (_, None) => None,
    };
    // The server may name what it likes.
    let may_be_ours = |at: &SocketAddr| is_contactable(at.ip(), at.port(), Scope::Server(server));
    for seen in [seen.map(|(_, at)| at), elsewhere].into_iter().flatten().filter(may_be_ours) {
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
    let alternate = report.server.ipv4.as_ref().and_then(|addresses| addresses.alternate);
    let is_usable = |other: &SocketAddr| {
        target.v4.is_some_and(|server| is_contactable(other.ip(), other.port(), Scope::Server(server)))
    };
    Servers {
        v4: from(families.v4, target.v4),
        other: alternate.filter(is_usable),
        v6: from(families.v6, target.v6),
    }
}
