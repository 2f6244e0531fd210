//! Sends and hears beacons on the networks of this host, once a second, until enough is known.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use super::{
    LanError, LanNote, LanSetup,
    conclude::{self, Beside, Findings},
    devices,
    neighbourhood::{Neighbourhood, Us},
    pairs,
    report::{DeviceReport, GatewayReport, LanDocument, LanReport, NetworkReport},
    way::Way,
};
use crate::{
    net::{
        Net,
        lan::{LanNetwork, LanSockets, networks},
        os::OsNet,
    },
    port_mapping::nat_pmp_address,
    randomness::Randomness,
};

/// Between two rounds: no way is used more often.
const ROUND: Duration = Duration::from_secs(1);
/// Who is through waits for others no longer than so many rounds.
const GRACE: u16 = 16;
/// After the time that was asked for it ends in so many rounds, whoever comes.
const LONGEST_AFTER: u16 = 60;
/// How long the gateway is waited for.
const GATEWAY: Duration = Duration::from_millis(1500);
/// Port at which gateways are asked for mappings: who closes it refuses connections, which is an answer.
const GATEWAY_PORT: u16 = shared::port_mapping::PORT;
/// No beacon is as long; what is longer is cut off.
const LONGEST_PACKET: usize = 2048;
/// After an error of a socket.
const PAUSE: Duration = Duration::from_millis(20);

/// What is known when it ends.
struct Outcome {
    network: LanNetwork,
    neighbourhood: Neighbourhood,
    devices: Vec<DeviceReport>,
    gateway: Option<GatewayReport>,
    seconds: f64,
}

/// Measures the local networks of this host. `stop` becomes true when it shall end.
///
/// # Errors
/// When there is no network with private addresses, a peer is in none of them, or the system has no random numbers or sockets.
pub async fn lan(
    setup: &LanSetup,
    tell: &(dyn Fn(LanNote) + Sync),
    stop: watch::Receiver<bool>,
) -> Result<LanDocument, LanError> {
    let (networks, own) = networks()?;
    if networks.is_empty() {
        return Err(LanError::NoNetwork);
    }
    let is_in = |ip: Ipv4Addr, it: &LanNetwork| {
        let hosts = u32::MAX.checked_shr(it.prefix_len.into()).unwrap_or(0);
        u32::from(ip) & !hosts == u32::from(it.address) & !hosts
    };
    // Neither the whole network nor this host is a peer.
    let is_host = |ip: Ipv4Addr, it: &LanNetwork| {
        let hosts = u32::MAX.checked_shr(it.prefix_len.into()).unwrap_or(0);
        let host = u32::from(ip) & hosts;
        hosts <= 1 || host != 0 && host != hosts
    };
    let may_be =
        |ip: Ipv4Addr, it: &LanNetwork| is_in(ip, it) && is_host(ip, it) && !own.contains(&ip.into());
    if let Some(peer) = setup.peers.iter().find(|peer| !networks.iter().any(|it| may_be(**peer, it))) {
        return Err(LanError::PeerElsewhere(*peer));
    }
    let is_done = AtomicBool::new(false);
    let runs = networks.iter().map(|network| {
        let peers = setup.peers.iter().copied().filter(|peer| is_in(*peer, network)).collect();
        let around = Around { setup, peers, own: &own, is_done: &is_done, tell, stop: stop.clone() };
        run(network, around)
    });
    let outcomes: Result<Vec<Outcome>, LanError> = join_all(runs).await.into_iter().collect();
    let partial = *stop.borrow();
    let mut reports: Vec<NetworkReport> = outcomes?.into_iter().map(|it| report(it, partial)).collect();
    // The first one of those that are alike stays the first.
    reports.sort_by_key(|it| (usize::MAX - it.neighbours.len(), it.gateway.is_none()));
    let network = reports.remove(0);
    Ok(LanDocument {
        version: 1,
        tool: super::TOOL.into(),
        partial,
        lan: LanReport { network, more_networks: reports },
    })
}

struct Around<'a> {
    setup: &'a LanSetup,
    peers: Vec<Ipv4Addr>,
    own: &'a [IpAddr],
    /// Another network is through, neighbours included.
    is_done: &'a AtomicBool,
    tell: &'a (dyn Fn(LanNote) + Sync),
    stop: watch::Receiver<bool>,
}

async fn run(network: &LanNetwork, around: Around<'_>) -> Result<Outcome, LanError> {
    let sockets = LanSockets::open(network, around.setup.port)?;
    let mut neighbourhood = Neighbourhood::new(us(network, &sockets, &around)?, 0, sockets.hears);
    let begun = Instant::now();
    let (mut devices, mut gateway, reached) = (Vec::new(), None, AtomicBool::new(false));
    let until_stopped = async {
        // Without anybody who could stop it it is not stopped.
        if around.stop.clone().wait_for(|stopped| *stopped).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = until_stopped => {}
        () = rounds(&mut neighbourhood, &sockets, &around, &reached) => {}
        ((), ()) = async {
            tokio::join!(
                devices::search(network, around.own, &mut devices),
                async {
                    gateway = ask_gateway(network).await;
                    reached.store(gateway.is_some_and(|it| it.answers == Some(true)), Relaxed);
                }
            )
        } => {}
    }
    let seconds = (begun.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let answered =
        |it: &DeviceReport| gateway.is_some_and(|gateway: GatewayReport| gateway.address == it.address);
    if devices.iter().any(answered) {
        gateway = gateway.map(|gateway| GatewayReport { answers: Some(true), ..gateway });
    }
    Ok(Outcome { network: network.clone(), neighbourhood, devices, gateway, seconds })
}

fn us(network: &LanNetwork, sockets: &LanSockets, around: &Around<'_>) -> Result<Us, LanError> {
    let (port, port6) = sockets.endpoints()?;
    let mut random = Randomness::System.source();
    let peers = around.peers.iter().map(|ip| SocketAddrV4::new(*ip, around.setup.port)).collect();
    Ok(Us {
        id: random.bytes()?,
        nonce: random.bytes()?,
        at: SocketAddrV4::new(network.address, port),
        at6: network.ipv6.zip(port6).map(|(ip, port)| SocketAddrV6::new(ip, port, 0, 0)),
        prefix: network.prefix_len,
        own: around.own.to_vec(),
        peers,
    })
}

/// Sends and hears until enough is known.
async fn rounds(
    neighbourhood: &mut Neighbourhood,
    sockets: &LanSockets,
    around: &Around<'_>,
    reaches_gateway: &AtomicBool,
) {
    let mut tick = interval(ROUND);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut buffer = [0; LONGEST_PACKET];
    let mut settled_at = None;
    let mut told = Vec::new();
    loop {
        tokio::select! {
            biased;
            _ = tick.tick() => {
                let end = next_step(neighbourhood, around, &mut settled_at);
                if end == Step::End {
                    return;
                }
                neighbourhood.is_leaving |= end == Step::Leave;
                neighbourhood.reaches_gateway = reaches_gateway.load(Relaxed);
                for out in neighbourhood.next_round() {
                    let sent = sockets.send(out.way, out.to, &out.bytes).await;
                    if let Err(error) = &sent {
                        tracing::debug!(way = ?out.way, %error, "not sent");
                    }
                    if out.to.is_none() {
                        neighbourhood.note_sent(out.way, sent.is_ok());
                    }
                }
                if !neighbourhood.neighbours.is_empty() {
                    for way in [Way::Unicast, Way::UnicastIpv6] {
                        neighbourhood.note_sent(way, sockets.hears & way.bit() != 0);
                    }
                }
            }
            received = sockets.receive(&mut buffer) => match received {
                Ok((length, from)) => neighbourhood.take(canonical(from), &buffer[..length]),
                // An error is a report by ICMP of what was sent before.
                Err(_) => tokio::time::sleep(PAUSE).await,
            },
        }
        for neighbour in neighbourhood.neighbours.iter().filter(|it| it.is_proven) {
            if !told.contains(&neighbour.id) {
                told.push(neighbour.id);
                (around.tell)(LanNote::Neighbour(*neighbour.at.ip()));
            }
        }
    }
}

/// What is to be done at the beginning of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    GoOn,
    /// One more round, which says that this host leaves.
    Leave,
    End,
}

fn next_step(it: &Neighbourhood, around: &Around<'_>, settled_at: &mut Option<u16>) -> Step {
    let rounds = |time: Duration| u16::try_from(time.as_secs_f64().ceil() as u64).unwrap_or(u16::MAX);
    let (wait, hold) = (rounds(around.setup.wait), rounds(around.setup.hold));
    let now = it.round;
    if it.is_leaving {
        return Step::End;
    }
    if now >= wait.max(hold).saturating_add(LONGEST_AFTER) {
        return Step::Leave;
    }
    if now < hold.max(LEAST) {
        return Step::GoOn;
    }
    if it.neighbours.is_empty() {
        let is_done = now >= wait || around.is_done.load(Relaxed);
        return if is_done { Step::End } else { Step::GoOn };
    }
    if !it.is_settled() {
        *settled_at = None;
        return Step::GoOn;
    }
    let since = *settled_at.get_or_insert(now);
    if it.are_others_through() || now >= since + GRACE {
        around.is_done.store(true, Relaxed);
        return Step::Leave;
    }
    Step::GoOn
}

/// Searches are waited for so long.
const LEAST: u16 = 2;

fn canonical(from: SocketAddr) -> SocketAddr {
    SocketAddr::new(from.ip().to_canonical(), from.port())
}

/// Whether the gateway answers: a connection that it takes or refuses, or what it says of its external address (RFC 6886
/// section 3.2).
async fn ask_gateway(network: &LanNetwork) -> Option<GatewayReport> {
    let local = IpAddr::from(network.address);
    let IpAddr::V4(address) = OsNet.gateway(local)? else { return None };
    let net: Arc<dyn Net> = Arc::new(OsNet);
    let at = SocketAddr::new(address.into(), GATEWAY_PORT);
    let connect = async {
        match timeout(GATEWAY, OsNet.connect(Some(SocketAddr::new(local, 0)), at)).await {
            Ok(Ok(stream)) => stream.reset_on_drop().is_ok(),
            Ok(Err(error)) => error.kind() == io::ErrorKind::ConnectionRefused,
            Err(_) => false,
        }
    };
    let named = timeout(GATEWAY, nat_pmp_address(&net, local, address.into()));
    let (is_refused, named) = tokio::join!(connect, named);
    let answers = (is_refused || matches!(named, Ok(Some(_)))).then_some(true);
    Some(GatewayReport { address, answers })
}

fn report(outcome: Outcome, ended_early: bool) -> NetworkReport {
    let Outcome { network, neighbourhood: hood, devices, gateway, seconds } = outcome;
    let beside = Beside { gateway, devices: &devices, ended_early };
    let Findings { multicast, ipv6_multicast, broadcast, isolation, one_way, lasts } =
        conclude::conclude(&hood, beside);
    let has = |set: u8| Way::ALL.into_iter().filter(move |way| set & way.bit() != 0);
    NetworkReport {
        interface: network.interface,
        address: network.address,
        prefix_len: network.prefix_len,
        ipv6_address: network.ipv6,
        gateway,
        listened_s: seconds,
        multicast,
        ipv6_multicast,
        broadcast,
        isolation,
        one_way,
        lasts,
        hears_itself: has(hood.looped).collect(),
        refused: hood.groups().filter(|way| hood.sends & way.bit() == 0).collect(),
        neighbours: conclude::neighbours(&hood),
        matrix: pairs::matrix(&hood),
        devices,
        ignored: hood.ignored,
    }
}
