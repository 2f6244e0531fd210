//! Measures one proxy: asks it for everything that its protocol has, and runs the UDP measurements through its relay.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use shared::nat::NatType;
use tokio::{sync::watch, time::Instant};

use super::{
    applications,
    associate::RelayAddress,
    client::Proxy,
    conclude::{self, DirectUdp, Through},
    environment::Found,
    net::{ProxyNet, Seen},
    url::ProxyUrl,
    wire::Destination,
};
use crate::{
    check::{ServerQuery, Setup, directly},
    net::Net,
    probe::{Probe, REGISTRY, distance},
    progress::{Event, Progress, Silent},
    randomness::RandomSource,
    report::{
        Confidence, FamilyReport, FamilyStatus, Finding, ProxyFoundBy, ProxyKind, ProxyReport, ReasonCode,
        Report, ServerReport, UdpReport,
    },
    selection::{Families, Selection},
    target::{FoundBy, Target},
};

/// A proxy that was looked up: where it is, or why it is nowhere.
#[derive(Clone, Debug)]
pub struct ProxyQuery {
    /// What was given.
    pub url: ProxyUrl,
    /// The variable of the environment that names it; none where it was given.
    pub variable: Option<&'static str>,
    /// Where it is, or why that is not known, in a sentence.
    pub at: Result<SocketAddr, String>,
}

/// What the report says of a proxy that was found in the environment and is not asked.
#[must_use]
pub fn not_asked_for(found: &Found) -> ProxyReport {
    ProxyReport {
        url: found.url.as_ref().map_or_else(|_| String::new(), ToString::to_string),
        found_by: ProxyFoundBy::Env,
        variable: Some(found.variable.to_owned()),
        kind: found.url.as_ref().ok().map(ProxyUrl::kind),
        error: found.url.as_ref().err().map(ToString::to_string),
        ..ProxyReport::default()
    }
}

/// Measures all proxies that were asked for, one after the other, into a report of the direct way.
pub(crate) async fn measure_all(
    report: &mut Report,
    setup: &Setup,
    net: &Arc<dyn Net>,
    servers: &[ServerQuery],
    progress: &dyn Progress,
    stop: watch::Receiver<bool>,
) {
    const TEST: &str = "proxy";
    let mut proxies = Vec::new();
    for query in &setup.proxies {
        let begun = Instant::now();
        progress.event(Event::Started { test: TEST, about: "what a proxy lets through" });
        let (proxy, warnings) = measure(query, setup, net, servers, report, stop.clone()).await;
        progress.event(Event::Finished { test: TEST, took: begun.elapsed() });
        report.warnings.extend(warnings);
        proxies.push(proxy);
    }
    report.proxy = Some(proxies);
}

/// Measures it, where `direct` is what was found without it. Gives the part of the report, and what a person should know
/// besides.
async fn measure(
    query: &ProxyQuery,
    setup: &Setup,
    net: &Arc<dyn Net>,
    servers: &[ServerQuery],
    direct: &Report,
    mut stop: watch::Receiver<bool>,
) -> (ProxyReport, Vec<String>) {
    let mut report = ProxyReport {
        url: query.url.to_string(),
        found_by: if query.variable.is_some() { ProxyFoundBy::Env } else { ProxyFoundBy::Flag },
        variable: query.variable.map(str::to_owned),
        kind: Some(query.url.kind()),
        tested: true,
        address: query.at.clone().ok(),
        ..ProxyReport::default()
    };
    let at = match &query.at {
        Ok(at) => *at,
        Err(why) => return (without(report, why), Vec::new()),
    };
    let Some(server) = Server::among(servers, setup.families, &direct.server) else {
        return (without(report, "no probe server to ask through it"), Vec::new());
    };
    let proxy = Proxy {
        kind: query.url.kind(),
        at,
        credentials: query.url.credentials().cloned(),
        local: setup.bind.map(|bind| bind.ip()).filter(|ip| !ip.is_unspecified()),
    };
    let trial = Trial { proxy, net, server, random: Mutex::new(setup.randomness.split(PART).source()) };
    let mut warnings = Vec::new();
    let passes = direct_udp(trial.server.family(direct));
    let to_server = trial.server.direct_udp(direct);
    let stopped = stop.clone();
    tokio::select! {
        biased;
        // An error means that nobody can stop the run any more: then it goes on.
        Ok(_) = stop.wait_for(|stopped| *stopped) => return (without(report, "the run was ended early"), warnings),
        () = trial.over_tcp(&mut report) => {}
    }
    // Who is not reached, or lets nobody in, relays nothing either.
    if report.error.is_none() && report.kind == Some(ProxyKind::Socks5) {
        warnings = trial.over_udp(&mut report, setup, to_server, stopped).await;
    }
    report.applications = applications::verdicts(&report, passes.map(|passes| passes.works));
    (report, warnings)
}

/// Part of the run's randomness: far from those of servers.
const PART: u64 = 1 << 32;

/// A report of a proxy that could not be asked.
fn without(report: ProxyReport, why: &str) -> ProxyReport {
    ProxyReport { error: Some(why.to_owned()), ..report }
}

/// What is known of UDP without the proxy, if anything is.
fn direct_udp(family: &FamilyReport) -> Option<DirectUdp> {
    let udp = family.udp.as_ref().filter(|_| family.status == FamilyStatus::Tested)?;
    let blocked = udp.nat_type.value == Some(NatType::UdpBlocked);
    if blocked && udp.nat_type.confidence <= Confidence::Weak {
        return None;
    }
    Some(DirectUdp { works: !blocked, loss: udp.loss.unwrap_or(0.0) })
}

/// The probe server that is asked through the proxy.
pub(super) struct Server {
    query: ServerQuery,
    pub(super) at: SocketAddr,
    pub(super) ipv6: Option<SocketAddr>,
    /// Its name, where it was found by that.
    pub(super) name: Option<Destination>,
}

impl Server {
    /// The one that answered without the proxy, in a family that it answered in. Where none did, the first that has an address
    /// of a family that is wanted. IPv4 if possible.
    fn among(servers: &[ServerQuery], families: Families, answered: &ServerReport) -> Option<Self> {
        let reached = Families {
            v4: families.v4 && answered.ipv4.is_some(),
            v6: families.v6 && answered.ipv6.is_some(),
        };
        let mut answering = servers.iter().filter(|query| query.query == answered.query);
        answering
            .find_map(|query| Self::of(query, reached))
            .or_else(|| servers.iter().find_map(|query| Self::of(query, families)))
    }

    fn of(query: &ServerQuery, families: Families) -> Option<Self> {
        let target = query.target.as_ref().ok()?;
        let at = target.v4.filter(|_| families.v4).or(target.v6.filter(|_| families.v6))?;
        let host = target.query.rsplit_once(':').map_or(target.query.as_str(), |(host, _)| host);
        let name = Destination::name(host, at.port()).filter(|_| target.found_by == FoundBy::Address);
        let (v4, v6) = if at.is_ipv4() { (Some(at), None) } else { (None, Some(at)) };
        let query = ServerQuery { target: Ok(Target { v4, v6, ..target.clone() }), ..query.clone() };
        Some(Self { query, at, ipv6: target.v6, name })
    }

    /// What was found in its family.
    fn family<'a>(&self, report: &'a Report) -> &'a FamilyReport {
        if self.at.is_ipv4() { &report.ipv4 } else { &report.ipv6 }
    }

    /// What is known of UDP to it without the proxy, if anything is: that another server answers says nothing about this one.
    fn direct_udp(&self, direct: &Report) -> Option<DirectUdp> {
        let known = direct_udp(self.family(direct))?;
        let it = &direct.server;
        let was_reached = if self.at.is_ipv4() { it.ipv4.is_some() } else { it.ipv6.is_some() };
        let over_udp = it.features.change_request.reason_code != Some(ReasonCode::UdpBlocked);
        let answers = it.query == self.query.query && was_reached && over_udp;
        Some(DirectUdp { works: known.works && answers, ..known })
    }
}

/// One proxy, tried.
pub(super) struct Trial<'a> {
    pub(super) proxy: Proxy,
    /// The network that the proxy is reached in.
    pub(super) net: &'a Arc<dyn Net>,
    pub(super) server: Server,
    pub(super) random: Mutex<RandomSource>,
}

impl Trial<'_> {
    /// The UDP measurements, unchanged, in the network behind the relay. Gives what a person should know besides.
    async fn over_udp(
        &self,
        report: &mut ProxyReport,
        setup: &Setup,
        direct: Option<DirectUdp>,
        stop: watch::Receiver<bool>,
    ) -> Vec<String> {
        let (mut seen, mut through) = self.through(setup, RelayAddress::AsNamed, &stop).await;
        if seen.is_dead() && seen.used.is_some_and(|used| used.ip() != self.proxy.at.ip()) {
            // A proxy in a container names an address that leads nowhere from here.
            let again = self.through(setup, RelayAddress::OfProxy, &stop).await;
            if again.0.received > 0 {
                (seen, through) = again;
            }
        }
        let family = self.server.family(&through);
        let udp = family.udp.as_ref().filter(|_| family.status == FamilyStatus::Tested);
        let about = Through {
            answered: udp.is_some_and(|udp| udp.nat_type.value != Some(NatType::UdpBlocked)),
            ended_early: through.partial,
            over_ipv6: self.server.at.is_ipv6(),
        };
        report.udp_associate = conclude::udp_associate(&seen, about, direct);
        if seen.granted > 0 && family.status == FamilyStatus::Tested {
            report.udp = family.udp.clone().map(|udp| UdpReport { distance: no_hops(), ..udp });
            report.hole_punching = family.hole_punching.clone();
        }
        through.warnings.into_iter().map(|warning| format!("through {}: {warning}", report.url)).collect()
    }

    async fn through(
        &self,
        setup: &Setup,
        relay: RelayAddress,
        stop: &watch::Receiver<bool>,
    ) -> (Seen, Report) {
        let net = Arc::new(ProxyNet::with_relay_address(self.proxy.clone(), self.net.clone(), relay));
        let setup = Setup {
            families: Families { v4: self.server.at.is_ipv4(), v6: self.server.at.is_ipv6() },
            tests: over_udp(&setup.tests),
            bind: None,
            lifetime: None,
            tcp_idle: None,
            port_mapping: false,
            proxies: Vec::new(),
            randomness: setup.randomness.split(PART + 1),
            ..setup.clone()
        };
        let servers = [self.server.query.clone()];
        let report = directly(&setup, net.clone(), &servers, &Silent, stop.clone()).await;
        (net.seen(), report)
    }
}

/// The measurements over UDP that were asked for and are possible: a relay counts no hops.
fn over_udp(wanted: &Selection) -> Selection {
    let possible =
        |probe: &&Probe| !probe.udp.is_empty() && !probe.on_request() && probe.name != distance::PROBE.name;
    let names = REGISTRY.iter().filter(possible).map(|probe| probe.name);
    Selection::Only(names.filter(|name| wanted.wants(name, true)).map(str::to_owned).collect())
}

fn no_hops() -> Finding<u8> {
    let why = "the relay of a proxy sends packets of its own, so hops cannot be counted through it";
    Finding::unknown((ReasonCode::NotThroughProxy, why), distance::METHOD)
}
