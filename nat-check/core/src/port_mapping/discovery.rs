//! Who opens ports here: PCP, NAT-PMP and UPnP are looked for at the same time (RFC 6887 section 8.1, RFC 6886 section 3.2, UPnP
//! Device Architecture 2.0 section 1.3), in one round of 600 ms, or twice that where somebody answers. Nothing is changed by it.

use std::{
    net::{IpAddr, SocketAddr, SocketAddrV6},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use shared::port_mapping::{
    PCP_ANYCAST, PORT,
    nat_pmp::{self, Body},
    pcp::{self, Operation},
};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::{Client, MappingError, Protocol, Wish, description, http, ssdp};
use crate::{
    contactable::is_global,
    net::{Datagram, Net},
};

/// After this time nobody is waited for: devices answer a search within a second (MX), ...
const ROUND: Duration = Duration::from_millis(1100);
/// ... unless somebody has answered by then: a gateway that opens ports is slow to answer in another protocol while it is busy.
const LONGER: Duration = Duration::from_secs(2);
/// When questions are sent again within it.
const DATAGRAMS_AT: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_millis(500)];
const SEARCHES_AT: [Duration; 2] = [Duration::ZERO, Duration::from_millis(200)];
/// Once the gateway has answered a search, others are waited for so long.
const OTHERS: Duration = Duration::from_millis(50);
/// How long reading a description may take.
const DESCRIPTION: Duration = Duration::from_secs(3);
/// How long asking its services may take, which of them is connected.
const STATUS: Duration = Duration::from_secs(1);
/// Descriptions that are read.
const MOST_DEVICES: usize = 3;
/// Answers to a search that are kept.
const MOST_ANSWERS: usize = 16;

/// Who answers, by protocol.
#[derive(Clone, Debug, Default)]
pub struct Discovery {
    /// Those that can be asked for a mapping.
    pub clients: Vec<Client>,
    /// The external address that NAT-PMP names.
    pub external_address: Option<IpAddr>,
    /// What the UPnP device says that it runs.
    pub software: Option<String>,
    /// A UPnP device that answered and cannot be used, and why.
    pub unusable: Option<(IpAddr, MappingError)>,
}

/// The external address that the router at this address names by NAT-PMP. Nothing is changed by the question.
pub(crate) async fn nat_pmp_address(net: &Arc<dyn Net>, local: IpAddr, router: IpAddr) -> Option<IpAddr> {
    Client::over_datagrams(net, local, router, Protocol::NatPmp)?.external_address().await
}

/// The same by UPnP. Only that router is asked, not the whole local network.
pub(crate) async fn upnp_address(net: &Arc<dyn Net>, local: IpAddr, router: IpAddr) -> Option<IpAddr> {
    let answers = search(&**net, local, router, &[router], &AtomicBool::new(false)).await;
    let (at, answer) = answers.into_iter().find(|(at, _)| *at == router)?;
    let client = describe(net, local, SocketAddr::new(at, answer.port), &answer.path).await.ok()?;
    client.external_address().await
}

/// Whether the PCP server at this router says that a NAT stands between it and this host (RFC 6887 section 8.2). It is asked to
/// end a mapping that there is not: announcements are answered without a look at the address by some.
pub(crate) async fn pcp_sees_nat(net: &Arc<dyn Net>, local: IpAddr, router: IpAddr, nothing: Wish) -> bool {
    let Some(client) = Client::over_datagrams(net, local, router, Protocol::Pcp) else { return false };
    client.unmap(&nothing).await == Err(MappingError::Refused(pcp::result_name(pcp::ADDRESS_MISMATCH)))
}

/// Asks the gateway, and the local network, who opens ports.
pub async fn discover(net: &Arc<dyn Net>, local: IpAddr, gateway: IpAddr) -> Discovery {
    let anycast = local.is_ipv4().then_some(PCP_ANYCAST.into());
    // Asking the gateway itself first teaches firewalls of this host to let its answer in; some devices answer the group only.
    let group = if local.is_ipv4() { ssdp::GROUP.into() } else { ssdp::GROUP6.into() };
    asked(net, local, gateway, anycast, &[gateway, group]).await
}

/// The same of one router, which may stand behind the gateway; nobody else is asked.
pub(crate) async fn discover_alone(net: &Arc<dyn Net>, local: IpAddr, router: IpAddr) -> Discovery {
    asked(net, local, router, None, &[router]).await
}

async fn asked(
    net: &Arc<dyn Net>,
    local: IpAddr,
    gateway: IpAddr,
    anycast: Option<IpAddr>,
    searched: &[IpAddr],
) -> Discovery {
    let heard = AtomicBool::new(false);
    let (datagrams, upnp) = tokio::join!(
        over_datagrams(&**net, local, gateway, anycast, &heard),
        over_ssdp(net, local, gateway, searched, &heard)
    );
    let mut found = Discovery { external_address: datagrams.external_address, ..Discovery::default() };
    // Of two PCP servers the one of this network's gateway is asked.
    let pcp = datagrams.pcp.iter().find(|(at, _)| *at == gateway).or(datagrams.pcp.first());
    let answered = [pcp.map(|it| (Protocol::Pcp, *it)), datagrams.nat_pmp.map(|it| (Protocol::NatPmp, it))];
    for (protocol, (at, Told { epoch, heard })) in answered.into_iter().flatten() {
        let client = Client::over_datagrams(net, local, at, protocol);
        found.clients.extend(client.inspect(|client| client.note_epoch(epoch, heard)));
    }
    let Some(Device { at, software, client }) = upnp else { return found };
    found.software = software;
    match client {
        Ok(client) => found.clients.push(client),
        Err(why) => found.unusable = Some((at, why)),
    }
    found
}

#[derive(Default)]
struct OverDatagrams {
    /// Who answers.
    pcp: Vec<(IpAddr, Told)>,
    nat_pmp: Option<(IpAddr, Told)>,
    external_address: Option<IpAddr>,
}

/// The epoch that an answer told, and when the answer came: others are waited for after it.
#[derive(Clone, Copy)]
struct Told {
    epoch: u32,
    heard: Instant,
}

/// PCP and NAT-PMP share a port, so one socket asks for both.
async fn over_datagrams(
    net: &dyn Net,
    local: IpAddr,
    gateway: IpAddr,
    anycast: Option<IpAddr>,
    heard: &AtomicBool,
) -> OverDatagrams {
    let mut found = OverDatagrams::default();
    let Ok(socket) = net.bind(SocketAddr::new(local, 0)).await else { return found };
    let announce = pcp::Request { lifetime: 0, client: local, operation: Operation::Announce }.write();
    let address = nat_pmp::Request::ExternalAddress.write();
    let anycast = anycast.map(|at| SocketAddr::new(at, PORT));
    let gateway = endpoint(net, local, gateway, PORT);
    let begun = Instant::now();
    let mut questions = vec![(announce.clone(), gateway)];
    // NAT-PMP is a protocol of IPv4.
    questions.extend(local.is_ipv4().then_some((address, gateway)));
    questions.extend(anycast.map(|anycast| (announce, anycast)));
    let sending = repeat(&*socket, begun, &DATAGRAMS_AT, questions);
    let receiving = async {
        let mut buffer = [0; pcp::LONGEST + 1];
        let is_complete = |found: &OverDatagrams| {
            found.pcp.iter().any(|(at, _)| *at == gateway.ip())
                && (found.nat_pmp.is_some() || local.is_ipv6())
        };
        while !is_complete(&found) {
            // An error is a report by ICMP of what was sent before.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                tokio::time::sleep(OTHERS).await;
                continue;
            };
            if from != gateway && Some(from) != anycast {
                continue;
            }
            let message = &buffer[..length];
            let told = |epoch| Told { epoch, heard: Instant::now() };
            if let Some(response) = pcp::Response::read(message) {
                heard.store(true, Ordering::Relaxed);
                // A gateway may allow no announcements and still be one.
                let is_known = found.pcp.iter().any(|(at, _)| *at == from.ip());
                if response.result != pcp::UNSUPP_VERSION && !is_known {
                    found.pcp.push((from.ip(), told(response.epoch)));
                }
            } else if from == gateway
                && let Some(response) = nat_pmp::Response::read(message)
                && let Body::ExternalAddress(address) = response.body
            {
                heard.store(true, Ordering::Relaxed);
                found.nat_pmp = Some((from.ip(), told(response.epoch)));
                let named = response.result == 0 && !address.is_unspecified();
                found.external_address = named.then_some(address.into());
            }
        }
    };
    tokio::select! {
        () = receiving => {}
        () = async { sending.await; round(begun, heard).await } => {}
    }
    found
}

/// Until nobody is waited for any more.
async fn round(begun: Instant, heard: &AtomicBool) {
    sleep_until(begun + ROUND).await;
    if heard.load(Ordering::Relaxed) {
        sleep_until(begun + LONGER).await;
    }
}

/// Sends these again and again; what the system refuses is as good as lost.
async fn repeat(
    socket: &dyn Datagram,
    begun: Instant,
    times: &[Duration],
    messages: Vec<(Vec<u8>, SocketAddr)>,
) {
    for at in times {
        sleep_until(begun + *at).await;
        for (message, to) in &messages {
            _ = socket.send_to(message, *to).await;
        }
    }
}

/// A UPnP device that has answered.
struct Device {
    at: IpAddr,
    software: Option<String>,
    client: Result<Client, MappingError>,
}

/// The one at the gateway is asked for its description, or else the first on this network.
async fn over_ssdp(
    net: &Arc<dyn Net>,
    local: IpAddr,
    gateway: IpAddr,
    searched: &[IpAddr],
    heard: &AtomicBool,
) -> Option<Device> {
    let answers = search(&**net, local, gateway, searched, heard).await;
    let mut unusable = None;
    for (at, answer) in answers.into_iter().take(MOST_DEVICES) {
        let client = describe(net, local, endpoint(&**net, local, at, answer.port), &answer.path).await;
        let device = Device { at, software: answer.software, client };
        if device.client.is_ok() {
            return Some(device);
        }
        unusable.get_or_insert(device);
    }
    unusable
}

/// The answers to a search, those of the gateway first, each description once.
async fn search(
    net: &dyn Net,
    local: IpAddr,
    gateway: IpAddr,
    to: &[IpAddr],
    heard: &AtomicBool,
) -> Vec<(IpAddr, ssdp::Answer)> {
    let Ok(socket) = net.bind(SocketAddr::new(local, 0)).await else { return Vec::new() };
    let prefix = net.prefix_len(local);
    let targets = ssdp::targets(local.is_ipv6());
    let messages = to.iter().map(|to| endpoint(net, local, *to, ssdp::PORT)).flat_map(|to| {
        targets.iter().map(move |target| (ssdp::search(target, to.is_ipv6()).into_bytes(), to))
    });
    let messages: Vec<_> = messages.collect();
    let begun = Instant::now();
    let mut answers: Vec<(IpAddr, ssdp::Answer)> = Vec::new();
    let receiving = async {
        let mut buffer = [0; 1500];
        let mut until = begun + ROUND;
        while answers.len() < MOST_ANSWERS {
            match timeout_at(until, socket.recv_from(&mut buffer)).await {
                Err(_) if answers.is_empty() && until < begun + LONGER && heard.load(Ordering::Relaxed) => {
                    until = begun + LONGER;
                }
                Err(_) => return,
                Ok(Err(_)) => tokio::time::sleep(OTHERS).await,
                Ok(Ok((length, from))) => {
                    let from = from.ip().to_canonical();
                    let Some(answer) = ssdp::read(&buffer[..length]) else { continue };
                    let known = answers
                        .iter()
                        .any(|(at, it)| *at == from && (it.port, &it.path) == (answer.port, &answer.path));
                    let is_asked = to.contains(&from) || to.iter().any(IpAddr::is_multicast);
                    if !known && is_asked && is_of_this_network(from, local, gateway, prefix) {
                        heard.store(true, Ordering::Relaxed);
                        answers.push((from, answer));
                        // Others than the gateway may be quicker.
                        if from == gateway {
                            until = until.min(Instant::now() + OTHERS);
                        }
                    }
                }
            }
        }
    };
    let sending = async {
        repeat(&*socket, begun, &SEARCHES_AT, messages).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = receiving => {}
        () = sending => {}
    }
    answers.sort_by_key(|(at, _)| *at != gateway);
    answers
}

/// An address of the local network with a port; link-local ones with the interface that leads there.
pub(super) fn endpoint(net: &dyn Net, local: IpAddr, ip: IpAddr, port: u16) -> SocketAddr {
    match ip {
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast() => {
            SocketAddrV6::new(v6, port, 0, net.scope_id(local)).into()
        }
        ip => SocketAddr::new(ip, port),
    }
}

/// Whether a device may be asked for its description: it is the gateway, or has a private address on this host's network.
pub(super) fn is_of_this_network(at: IpAddr, local: IpAddr, gateway: IpAddr, prefix: Option<u8>) -> bool {
    if at == local || at.is_loopback() {
        return false;
    }
    let (IpAddr::V4(at4), IpAddr::V4(local4)) = (at, local) else { return at == gateway };
    let shift = 32 - u32::from(prefix.unwrap_or(32).min(32));
    let network = |ip: std::net::Ipv4Addr| u32::from(ip).checked_shr(shift).unwrap_or(0);
    at == gateway || (at4.is_private() && network(at4) == network(local4))
}

/// Reads a description and picks the service that opens ports: of several one that says that it is connected, at best with a
/// public address.
async fn describe(
    net: &Arc<dyn Net>,
    local: IpAddr,
    at: SocketAddr,
    path: &str,
) -> Result<Client, MappingError> {
    let nonsense = |what: String| MappingError::Nonsense(format!("its description cannot be used: {what}"));
    let request = http::Request { at, path, action: None, within: DESCRIPTION };
    let response = http::ask(&**net, local, request).await.map_err(|error| nonsense(error.to_string()))?;
    if response.status != 200 {
        return Err(nonsense(format!("HTTP {}", response.status)));
    }
    let text = String::from_utf8_lossy(&response.body);
    let services =
        description::services(&text, local.is_ipv6()).map_err(|_| nonsense("no sound XML".into()))?;
    let clients: Vec<Client> =
        services.into_iter().map(|service| Client::upnp(net, local, at, service)).collect();
    if let [_, _, ..] = clients.as_slice() {
        let mut best = None;
        let connected = async {
            for client in &clients {
                if client.is_connected().await {
                    // One with a public address is the way to the Internet.
                    if client.external_address().await.is_some_and(is_global) {
                        best = Some(client.clone());
                        return;
                    }
                    best.get_or_insert(client.clone());
                }
            }
        };
        _ = timeout(STATUS, connected).await;
        if let Some(client) = best {
            return Ok(client);
        }
    }
    clients.into_iter().next().ok_or_else(|| nonsense("no service that opens ports".into()))
}
