//! The whole check, from servers to report: what a program that wants to know its NAT would call.

mod address_family;
mod agreement;
mod comparison;
mod family;
mod several;
mod survey;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use self::{address_family::Family, family::Run};
use crate::{
    classify::ServerSide,
    contactable::is_global,
    net::Net,
    probe::{Found, REGISTRY},
    progress::Progress,
    randomness::Randomness,
    report::{
        AddressKind, FamilyReport, FamilyStatus, OwnAddress, ReasonCode, Report, ServerFeatures, ServerReport,
    },
    selection::{Families, Selection},
    target::{FoundBy, Target},
    verdict,
};

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Which IP families are tested.
    pub families: Families,
    /// The local address to send from.
    pub bind: Option<SocketAddr>,
    /// Which tests run.
    pub tests: Selection,
    /// The time after which the run ends with what is known by then; the lifetime measurement comes on top.
    pub timeout: Duration,
    /// The longest idle time that the lifetime measurement looks at; none = it is not asked for.
    pub lifetime: Option<Duration>,
    /// The longest idle time of a TCP connection that is looked at; none = it is not asked for.
    pub tcp_idle: Option<Duration>,
    /// Whether the gateway is asked to open ports, and pinholes over IPv6, which are tested from outside and closed again.
    pub port_mapping: bool,
    /// Whether both NATs of the user's own double NAT are opened as well, one after the other.
    pub chain: bool,
    /// Whether the report holds the requirements of the RFCs against what was found; no packet is sent for it.
    pub checklist: bool,
    /// Proxies that are measured beside the direct way, one after the other; each takes as long as that, and comes on top.
    #[cfg(feature = "proxy")]
    pub proxies: Vec<crate::proxy::ProxyQuery>,
    /// Where transaction ids come from: seeded only in a simulation that is to be repeated.
    pub randomness: Randomness,
    /// When the run began, for the report; none = now.
    pub started_at: Option<SystemTime>,
}

impl Default for Setup {
    /// Everything, over both families, from any local address.
    fn default() -> Self {
        Self {
            families: Families { v4: true, v6: true },
            bind: None,
            tests: Selection::Default,
            timeout: Duration::from_secs(15),
            lifetime: None,
            tcp_idle: None,
            port_mapping: false,
            chain: false,
            checklist: false,
            #[cfg(feature = "proxy")]
            proxies: Vec::new(),
            randomness: Randomness::System,
            started_at: None,
        }
    }
}

/// A server that was looked up: where it is, or why it is nowhere.
#[derive(Clone, Debug)]
pub struct ServerQuery {
    /// What the user gave.
    pub query: String,
    /// Where it is, or why that is not known, in a sentence.
    pub target: Result<Target, String>,
    /// Whether it is a stranger's, who is sent a few packets only: one of several public servers.
    pub few_packets: bool,
}

impl ServerQuery {
    /// A server whose addresses were looked up, or that was not found.
    #[must_use]
    pub fn new(query: impl Into<String>, target: Result<Target, String>) -> Self {
        Self { query: query.into(), target, few_packets: false }
    }
}

impl From<Target> for ServerQuery {
    fn from(target: Target) -> Self {
        Self::new(target.query.clone(), Ok(target))
    }
}

/// Checks the network in front of this host by asking these servers. Ends early, with what is known by then, when
/// `stop` becomes true.
pub async fn check(
    setup: &Setup,
    net: Arc<dyn Net>,
    servers: &[ServerQuery],
    progress: &dyn Progress,
    stop: watch::Receiver<bool>,
) -> Report {
    #[cfg(feature = "proxy")]
    if !setup.proxies.is_empty() {
        let begun = Instant::now();
        let mut report = directly(setup, net.clone(), servers, progress, stop.clone()).await;
        crate::proxy::measure_all(&mut report, setup, &net, servers, progress, stop).await;
        report.duration_s = seconds(begun.elapsed());
        return report;
    }
    directly(setup, net, servers, progress, stop).await
}

/// Checks it without proxies.
pub(crate) async fn directly(
    setup: &Setup,
    net: Arc<dyn Net>,
    servers: &[ServerQuery],
    progress: &dyn Progress,
    stop: watch::Receiver<bool>,
) -> Report {
    let begun = Instant::now();
    #[expect(clippy::disallowed_methods, reason = "the edge where the report gets its date")]
    let started_at = setup.started_at.unwrap_or_else(SystemTime::now);
    let run = Run { setup, net: &net, servers, progress, stop };
    let ((ipv4, v4), (ipv6, v6)) =
        tokio::join!(family::test(&run, Family::V4), family::test(&run, Family::V6),);
    let addresses = if setup.families.v6 { own_ipv6(&*net) } else { Vec::new() };
    let ipv6 = FamilyReport { addresses, ..ipv6 };
    let [ipv4, ipv6] =
        [ipv4, ipv6].map(|family| FamilyReport { hole_punching: verdict::over(&family), ..family });
    let mut warnings = v4.warnings;
    for warning in v6.warnings {
        // A name that does not resolve does so for both families.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
    // One that was named twice was asked once.
    let is_new = |at: usize| {
        let address = |asked: &ServerQuery| asked.target.as_ref().ok().map(|target| (target.v4, target.v6));
        let address_here = address(&servers[at]);
        address_here.is_none() || servers[..at].iter().all(|earlier| address(earlier) != address_here)
    };
    let each: Vec<(usize, &ServerQuery)> = servers.iter().enumerate().filter(|(at, _)| is_new(*at)).collect();
    let asked: Vec<&ServerQuery> = each.iter().map(|(_, asked)| *asked).collect();
    let mut reports: Vec<ServerReport> =
        each.iter().map(|(at, asked)| server_report(asked, &v4.servers[*at], &v6.servers[*at])).collect();
    let is_v6_only = |asked: &ServerQuery| {
        setup.families.v4 && asked.target.as_ref().is_ok_and(|t| t.v4.is_none() && t.v6.is_some())
    };
    for (asked, report) in asked.iter().zip(&reports).filter(|(asked, _)| is_v6_only(asked)) {
        if report.ipv6.is_none() && ipv4.status == FamilyStatus::Tested {
            let why = ipv6.reason.as_ref().map_or(String::new(), |reason| format!(": {reason}"));
            warnings.push(format!("{} has no IPv4 address, and was not reached over IPv6{why}", asked.query));
        }
    }
    warnings.extend(reports.iter().filter_map(near_server));
    warnings.extend(broken_ipv6(&*net, &reports, &ipv6, &asked));
    // The first that answered; where nobody did, the first.
    let answered = |report: &ServerReport| report.ipv4.is_some() || report.ipv6.is_some();
    let first = reports.iter().position(answered).unwrap_or(0);
    let simulated =
        servers.iter().any(|asked| asked.target.as_ref().is_ok_and(|t| t.found_by == FoundBy::Simulated));
    let first = if reports.is_empty() { no_server() } else { reports.remove(first) };
    let report = Report {
        version: 1,
        tool: concat!("nat-check ", env!("CARGO_PKG_VERSION")).into(),
        started_at: humantime::format_rfc3339_seconds(started_at).to_string(),
        duration_s: seconds(begun.elapsed()),
        simulated,
        partial: v4.partial || v6.partial,
        server: first,
        more_servers: reports,
        layers: v4.layers.or(v6.layers),
        consoles: verdict::consoles::of(
            ipv4.udp.as_ref(),
            v4.port_mapping.as_ref(),
            net.tracks_connections(),
        ),
        port_mapping: crate::report::PortMapping::of_both(v4.port_mapping, v6.port_mapping),
        proxy: None,
        hole_punching: verdict::conclude(&ipv4, &ipv6),
        ipv4,
        ipv6,
        advice: Vec::new(),
        host_tracks_connections: net.tracks_connections(),
        checklist: None,
        warnings,
    };
    let checklist = setup.checklist.then(|| verdict::checklist::of(&report));
    Report { advice: verdict::advice::of(&report), checklist, ..report }
}

/// Seconds with three decimal places.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A server that is no host of the Internet tells of the way to it alone.
fn near_server(server: &ServerReport) -> Option<String> {
    let near = [&server.ipv4, &server.ipv6]
        .into_iter()
        .flatten()
        .map(|it| it.primary.ip())
        .find(|ip| !is_global(*ip))?;
    let where_it_is = if near.is_loopback() { "is on this host" } else { "has a private address" };
    Some(format!(
        "The server {} {where_it_is} ({near}): what is found is about the way to it, not about the Internet",
        server.query
    ))
}

/// What an address without a way costs: programs try IPv6 first.
fn broken_ipv6(
    net: &dyn Net,
    reports: &[ServerReport],
    ipv6: &FamilyReport,
    servers: &[&ServerQuery],
) -> Option<String> {
    let own = Family::V6.source(net).filter(|own| !address_family::is_private(*own))?;
    let has_both =
        |asked: &ServerQuery| asked.target.as_ref().is_ok_and(|t| t.v4.is_some() && t.v6.is_some());
    let silent: Vec<&str> = servers
        .iter()
        .zip(reports)
        .filter(|(asked, report)| has_both(asked) && report.ipv4.is_some() && report.ipv6.is_none())
        .map(|(asked, _)| asked.query.as_str())
        .collect();
    (ipv6.status == FamilyStatus::Unreachable && !silent.is_empty()).then(|| {
        let whose = match silent.len() {
            1 => "it is broken here or at the server",
            _ => "it is probably broken here",
        };
        format!(
            "IPv6: this host has an address ({own}) and a route, and {} answers over IPv4 alone: {whose}; where it is here, \
             programs that try IPv6 first lose 250 ms or more with every connection (RFC 8305 section 5)",
            silent.join(", ")
        )
    })
}

/// This host's IPv6 addresses, with the one that the system sends from.
fn own_ipv6(net: &dyn Net) -> Vec<OwnAddress> {
    let used = Family::V6.source(net);
    let mut addresses = net.ipv6_addresses();
    if let Some(used) = used.filter(|used| !addresses.iter().any(|own| own.address == *used)) {
        addresses.push(OwnAddress::new(used, AddressKind::Unknown));
    }
    addresses.iter_mut().for_each(|own| own.used = Some(own.address) == used);
    addresses
}

fn server_report(asked: &ServerQuery, v4: &Option<ServerSide>, v6: &Option<ServerSide>) -> ServerReport {
    let either = v4.as_ref().or(v6.as_ref());
    let mut faults: Vec<String> = Vec::new();
    for fault in [v4, v6].into_iter().flatten().flat_map(|side| &side.faults) {
        if !faults.contains(fault) {
            faults.push(fault.clone());
        }
    }
    ServerReport {
        query: asked.query.clone(),
        found_by: asked.target.as_ref().ok().map(|t| t.found_by.to_string()),
        software: either.and_then(|side| side.software.clone()),
        ipv4: v4.as_ref().map(|side| side.addresses.clone()),
        ipv6: v6.as_ref().map(|side| side.addresses.clone()),
        features: either.map_or_else(not_reached, |side| side.features.clone()),
        faults,
    }
}

fn not_reached() -> ServerFeatures {
    unknown_features((ReasonCode::ServerUnreachable, "the server was not reached over UDP"))
}

fn unknown_features(reason: (ReasonCode, &str)) -> ServerFeatures {
    let mut found = Found::default();
    for slot in REGISTRY.iter().flat_map(|probe| probe.server) {
        slot.set_unknown(&mut found, reason, "RFC 5780");
    }
    found.server
}

fn no_server() -> ServerReport {
    ServerReport {
        query: String::new(),
        found_by: None,
        software: None,
        ipv4: None,
        ipv6: None,
        features: not_reached(),
        faults: Vec::new(),
    }
}
