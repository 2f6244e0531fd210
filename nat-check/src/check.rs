//! The whole check, from servers to report: what a program that wants to know its NAT would call.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, time::Instant};

use crate::{
    classify::{self, ServerSide},
    engine::{self, Observed, Settings},
    net::Net,
    plan::{Families, Plan, Selection},
    probe::lifetime,
    progress::Progress,
    report::{
        Confidence, FamilyReport, FamilyStatus, Finding, Report, ServerFeatures, ServerReport, UdpReport,
    },
    resolve::{FoundBy, Target},
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
    /// What every random choice follows from.
    pub seed: u64,
    /// When the run began, for the report.
    pub started_at: SystemTime,
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
            seed: 0,
            started_at: SystemTime::UNIX_EPOCH,
        }
    }
}

impl Setup {
    /// What a plan says of it.
    #[must_use]
    pub fn of(plan: &Plan, started_at: SystemTime) -> Self {
        Self {
            families: plan.families,
            bind: plan.bind,
            tests: plan.tests.clone(),
            timeout: plan.timeout,
            lifetime: plan.lifetime,
            seed: plan.seed,
            started_at,
        }
    }
}

/// A server that was looked up: where it is, or why it is nowhere.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What the user gave.
    pub query: String,
    /// Where it is, or why that is not known, in a sentence.
    pub target: Result<Target, String>,
}

impl From<Target> for Asked {
    fn from(target: Target) -> Self {
        Self { query: target.query.clone(), target: Ok(target) }
    }
}

/// Checks the network in front of this host by asking these servers. Ends early, with what is known by then, when
/// `stop` becomes true.
pub async fn check(
    setup: &Setup,
    net: Arc<dyn Net>,
    servers: &[Asked],
    progress: &dyn Progress,
    stop: watch::Receiver<bool>,
) -> Report {
    let begun = Instant::now();
    let ((ipv4, v4), (ipv6, v6)) = tokio::join!(
        family(setup, &net, servers, Family::V4, progress, stop.clone()),
        family(setup, &net, servers, Family::V6, progress, stop),
    );
    let mut warnings = v4.warnings;
    warnings.extend(v6.warnings);
    let mut reports: Vec<ServerReport> = servers
        .iter()
        .enumerate()
        .map(|(at, asked)| server_report(asked, &v4.servers[at], &v6.servers[at]))
        .collect();
    let simulated =
        servers.iter().any(|asked| asked.target.as_ref().is_ok_and(|t| t.found_by == FoundBy::Simulated));
    let first = if reports.is_empty() { no_server() } else { reports.remove(0) };
    Report {
        version: 1,
        tool: concat!("nat-check ", env!("CARGO_PKG_VERSION")).into(),
        started_at: humantime::format_rfc3339_seconds(setup.started_at).to_string(),
        duration_s: (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        simulated,
        partial: v4.partial || v6.partial,
        server: first,
        more_servers: reports,
        hole_punching: verdict::conclude(&ipv4, &ipv6),
        ipv4,
        ipv6,
        warnings,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    fn wanted(self, families: Families) -> bool {
        match self {
            Self::V4 => families.v4,
            Self::V6 => families.v6,
        }
    }

    fn address(self, target: &Target) -> Option<SocketAddr> {
        match self {
            Self::V4 => target.v4,
            Self::V6 => target.v6,
        }
    }

    fn unspecified(self) -> SocketAddr {
        let ip = match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Self::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        SocketAddr::new(ip, 0)
    }
}

/// What else is known after a family was tested.
#[derive(Default)]
struct Aside {
    /// One slot for each server that was asked for.
    servers: Vec<Option<ServerSide>>,
    warnings: Vec<String>,
    partial: bool,
}

async fn family(
    setup: &Setup,
    net: &Arc<dyn Net>,
    servers: &[Asked],
    family: Family,
    progress: &dyn Progress,
    stop: watch::Receiver<bool>,
) -> (FamilyReport, Aside) {
    let mut aside = Aside { servers: vec![None; servers.len()], ..Aside::default() };
    if !family.wanted(setup.families) {
        return (absent(FamilyStatus::Skipped, "not asked for"), aside);
    }
    let bind = setup.bind.unwrap_or(family.unspecified());
    let mut settings = Settings {
        tests: setup.tests.clone(),
        timeout: setup.timeout,
        lifetime: setup.lifetime,
        seed: setup.seed,
    };
    let mut results: Vec<(String, Observed)> = Vec::new();
    let mut reasons = Vec::new();
    // One after another: what one server's test opens must not look like another's allocation.
    for (at, asked) in servers.iter().enumerate() {
        let target = match &asked.target {
            Ok(target) => target,
            Err(why) => {
                reasons.push((FamilyStatus::Unreachable, why.clone()));
                continue;
            }
        };
        let Some(address) = family.address(target) else {
            let why = format!("{} has no {} address", asked.query, family.name());
            reasons.push((FamilyStatus::Unavailable, why));
            continue;
        };
        match engine::examine(net.clone(), address, bind, &settings, progress, stop.clone()).await {
            Err(error) => {
                let why = format!("no way to {address} over {}: {error}", family.name());
                reasons.push((FamilyStatus::Unavailable, why));
            }
            Ok(observed) => {
                aside.partial |= observed.partial;
                if observed.reached() {
                    // One server that can measure it is enough.
                    if lifetime::conclude(&observed.ledger).value.is_some() {
                        settings.lifetime = None;
                    }
                    aside.servers[at] = Some(classify::server(&observed));
                    results.push((asked.query.clone(), observed));
                } else {
                    reasons.push((FamilyStatus::Unreachable, unreached(&observed)));
                }
            }
        }
    }
    if results.is_empty() {
        let worst = reasons.iter().any(|(status, _)| *status == FamilyStatus::Unreachable);
        let status = if worst { FamilyStatus::Unreachable } else { FamilyStatus::Unavailable };
        let why: Vec<_> = reasons.into_iter().filter(|(s, _)| *s == status).map(|(_, why)| why).collect();
        return (absent(status, &why.join("; ")), aside);
    }
    for (_, observed) in &results {
        let open = crate::probe::filtering::conclude(&observed.ledger).value
            == Some(shared::nat::Filtering::EndpointIndependent);
        aside.warnings.extend(crate::probe::mapping::leftover(&observed.ledger, open));
    }
    let tcp = results.iter().find_map(|(_, observed)| observed.tcp.clone());
    let mut verdicts: Vec<(String, UdpReport)> =
        results.iter().map(|(query, observed)| (query.clone(), classify::udp(observed))).collect();
    // A server that answers over UDP says more than one that does not.
    verdicts.sort_by_key(|(_, udp)| udp.nat_type.value == Some(shared::nat::NatType::UdpBlocked));
    let udp = agree(verdicts, &mut aside.warnings);
    (
        FamilyReport { status: FamilyStatus::Tested, reason: None, udp, tcp: tcp.filter(|t| t.reachable) },
        aside,
    )
}

fn absent(status: FamilyStatus, reason: &str) -> FamilyReport {
    FamilyReport { status, reason: Some(reason.to_owned()), udp: None, tcp: None }
}

/// What was tried, when nothing answered.
fn unreached(observed: &Observed) -> String {
    let ledger = &observed.ledger;
    let (sent, unsent) = (ledger.trials.len(), ledger.trials.iter().filter(|t| t.unsent).count());
    if sent > 0 && sent == unsent {
        return format!("the system refused to send anything to {}", ledger.server);
    }
    let refusal = ledger.trials.iter().find_map(crate::ledger::Trial::refused);
    match refusal {
        Some(code) => format!("{} answers every request with error {code}", ledger.server),
        None => {
            let tcp = if observed.tcp.is_some() { ", nor over TCP" } else { "" };
            format!("{} answered none of {sent} UDP requests{tcp}", ledger.server)
        }
    }
}

/// One verdict from several servers: the surest finding of each kind, and a warning where they disagree.
fn agree(verdicts: Vec<(String, UdpReport)>, warnings: &mut Vec<String>) -> Option<UdpReport> {
    let mut all = verdicts.into_iter();
    let (query, mut udp) = all.next()?;
    for (other_query, other) in all {
        if other.nat_type.value == Some(shared::nat::NatType::UdpBlocked)
            && udp.nat_type.value != other.nat_type.value
        {
            warnings.push(format!(
                "{other_query} answers over TCP only, {query} over UDP: it is not the network that blocks UDP"
            ));
            continue;
        }
        let who = (query.as_str(), other_query.as_str());
        merge("mapping", &mut udp.mapping, other.mapping, who, warnings);
        merge("filtering", &mut udp.filtering, other.filtering, who, warnings);
        merge("nat_type", &mut udp.nat_type, other.nat_type, who, warnings);
        merge("hairpinning", &mut udp.hairpinning, other.hairpinning, who, warnings);
        merge("alg", &mut udp.alg, other.alg, who, warnings);
        merge("inbound_first_remap", &mut udp.inbound_first_remap, other.inbound_first_remap, who, warnings);
        if other.port_allocation.confidence > udp.port_allocation.confidence {
            udp.port_allocation = other.port_allocation;
        }
        if other.lifetime.confidence > udp.lifetime.confidence {
            udp.lifetime = other.lifetime;
        }
    }
    Some(udp)
}

fn merge<T: PartialEq + std::fmt::Display>(
    what: &str,
    mine: &mut Finding<T>,
    other: Finding<T>,
    (query, other_query): (&str, &str),
    warnings: &mut Vec<String>,
) {
    if let (Some(a), Some(b)) = (&mine.value, &other.value)
        && a != b
    {
        warnings.push(format!("the servers disagree on {what}: {query} says {a}, {other_query} says {b}"));
        let sure = mine.confidence.max(other.confidence);
        if other.confidence > mine.confidence {
            *mine = other;
        } else if mine.confidence == other.confidence && sure > Confidence::Weak {
            mine.confidence = Confidence::Weak;
            mine.reason = Some(format!("{other_query} says otherwise"));
        }
    } else if other.confidence > mine.confidence {
        *mine = other;
    }
}

fn server_report(asked: &Asked, v4: &Option<ServerSide>, v6: &Option<ServerSide>) -> ServerReport {
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
        features: either.map_or_else(unknown_features, |side| side.features.clone()),
        faults,
    }
}

fn unknown_features() -> ServerFeatures {
    let unknown = || Finding::unknown("the server was not reached over UDP", "RFC 5780");
    ServerFeatures { change_request: unknown(), response_port: unknown(), classic: unknown() }
}

fn no_server() -> ServerReport {
    ServerReport {
        query: String::new(),
        found_by: None,
        software: None,
        ipv4: None,
        ipv6: None,
        features: unknown_features(),
        faults: Vec::new(),
    }
}
