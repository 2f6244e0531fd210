//! The whole check, from servers to report: what a program that wants to know its NAT would call.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, SystemTime},
};

use shared::nat::{Filtering, NatType};
use tokio::{sync::watch, time::Instant};

use crate::{
    classify::{self, ServerSide},
    engine::{self, Observed, Settings},
    net::Net,
    probe::{Found, Merge, REGISTRY, lifetime, mapping, merge::Source},
    progress::Progress,
    randomness::Randomness,
    report::{
        FamilyReport, FamilyStatus, Finding, LayersKind, Reason, ReasonCode, Report, ServerFeatures,
        ServerReport, UdpReport,
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
}

impl From<Target> for ServerQuery {
    fn from(target: Target) -> Self {
        Self { query: target.query.clone(), target: Ok(target) }
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
    let begun = Instant::now();
    #[expect(clippy::disallowed_methods, reason = "the edge where the report gets its date")]
    let started_at = setup.started_at.unwrap_or_else(SystemTime::now);
    let ((ipv4, v4), (ipv6, v6)) = tokio::join!(
        family(setup, &net, servers, Family::V4, progress, stop.clone()),
        family(setup, &net, servers, Family::V6, progress, stop),
    );
    let [ipv4, ipv6] =
        [ipv4, ipv6].map(|family| FamilyReport { hole_punching: verdict::over(&family), ..family });
    let mut warnings = v4.warnings;
    for warning in v6.warnings {
        // A name that does not resolve does so for both families.
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
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
        started_at: humantime::format_rfc3339_seconds(started_at).to_string(),
        duration_s: (begun.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
        simulated,
        partial: v4.partial || v6.partial,
        server: first,
        more_servers: reports,
        layers: v4.layers.or(v6.layers).map(Into::into),
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

    /// The local address of this family: the wanted one, if it is of it. `[::]` with a port means that port in both.
    fn bind(self, wanted: Option<SocketAddr>) -> SocketAddr {
        match wanted {
            Some(wanted) if wanted.is_ipv4() == (self == Self::V4) => wanted,
            Some(SocketAddr::V6(wanted)) if wanted.ip().is_unspecified() => {
                SocketAddr::new(self.unspecified().ip(), wanted.port())
            }
            Some(_) | None => self.unspecified(),
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
struct FamilyNotes {
    /// One slot for each server that was asked for.
    servers: Vec<Option<ServerSide>>,
    warnings: Vec<String>,
    /// What kind of way to the Internet was seen.
    layers: Option<Finding<LayersKind>>,
    partial: bool,
}

async fn family(
    setup: &Setup,
    net: &Arc<dyn Net>,
    servers: &[ServerQuery],
    family: Family,
    progress: &dyn Progress,
    stop: watch::Receiver<bool>,
) -> (FamilyReport, FamilyNotes) {
    let mut aside = FamilyNotes { servers: vec![None; servers.len()], ..FamilyNotes::default() };
    if !family.wanted(setup.families) {
        return (absent(FamilyStatus::Skipped, (ReasonCode::NotAskedFor, "not asked for").into()), aside);
    }
    let bind = family.bind(setup.bind);
    let mut settings = Settings {
        tests: setup.tests.clone(),
        timeout: setup.timeout,
        lifetime: setup.lifetime,
        randomness: setup.randomness,
    };
    let mut results: Vec<(String, Observed, Found)> = Vec::new();
    let mut reasons: Vec<(FamilyStatus, Reason)> = Vec::new();
    // The timeout is that of the whole run.
    let mut left = setup.timeout;
    // One after another: what one server's test opens must not look like another's allocation.
    for (at, asked) in servers.iter().enumerate() {
        let target = match &asked.target {
            Ok(target) => target,
            Err(why) => {
                reasons.push((FamilyStatus::Unreachable, (ReasonCode::NameNotResolved, why.as_str()).into()));
                continue;
            }
        };
        let Some(address) = family.address(target) else {
            let why = format!("{} has no {} address", asked.query, family.name());
            reasons.push((FamilyStatus::Unavailable, (ReasonCode::ServerHasNoAddress, why).into()));
            continue;
        };
        if left.is_zero() {
            aside.partial = true;
            let why = format!("no time was left to ask {}", asked.query);
            reasons.push((FamilyStatus::Unreachable, (ReasonCode::NoTimeLeft, why).into()));
            continue;
        }
        settings.timeout = left;
        // What one server is shown must not tell what another one will be.
        settings.randomness = setup.randomness.split(2 * at as u64 + u64::from(family == Family::V6));
        match engine::examine(net.clone(), address, bind, &settings, progress, stop.clone()).await {
            Err(error) => {
                let why = format!("no way to {address} over {}: {error}", family.name());
                reasons.push((FamilyStatus::Unavailable, (ReasonCode::NoRoute, why).into()));
            }
            Ok(observed) => {
                left = left.saturating_sub(spent(&observed));
                aside.partial |= observed.partial;
                if observed.reached() {
                    let found = classify::found(&observed);
                    // One server that can measure it is enough.
                    if found.udp.lifetime.value.is_some() {
                        settings.lifetime = None;
                    }
                    aside.servers[at] = Some(classify::server(&observed, &found));
                    results.push((asked.query.clone(), observed, found));
                } else {
                    reasons.push((FamilyStatus::Unreachable, unreached(&observed)));
                }
            }
        }
    }
    if results.is_empty() {
        let worst = reasons.iter().any(|(status, _)| *status == FamilyStatus::Unreachable);
        let status = if worst { FamilyStatus::Unreachable } else { FamilyStatus::Unavailable };
        let mut why = reasons.into_iter().filter(|(s, _)| *s == status).map(|(_, why)| why);
        // Several servers, several sentences; the code is the first one's.
        let first = why.next().unwrap_or_else(|| (ReasonCode::NotAskedFor, "no server was given").into());
        let joined = why.fold(first, |all, next| all.map(|text| format!("{text}; {next}")));
        return (absent(status, joined), aside);
    }
    // That a server lacks this family is nothing to warn of.
    let silent = reasons.into_iter().filter(|(_, why)| why.code != ReasonCode::ServerHasNoAddress);
    aside.warnings.extend(silent.map(|(_, why)| why.text));
    for (_, observed, found) in &results {
        let open = found.udp.filtering.value == Some(Filtering::EndpointIndependent);
        aside.warnings.extend(mapping::leftover(&observed.log, open));
        if aside.layers.is_none() {
            aside.layers = mapping::spread::several_connections(&observed.log);
            aside.warnings.extend(mapping::spread::warning(&observed.log));
        }
    }
    let tcp = results.iter().find_map(|(_, observed, _)| observed.tcp.clone());
    let mut verdicts: Vec<(String, Found)> =
        results.into_iter().map(|(query, _, found)| (query, found)).collect();
    // A server that answers over UDP says more than one that does not.
    verdicts.sort_by_key(|(_, found)| is_blocked(found));
    let udp = agree(verdicts, &mut aside.warnings);
    (
        FamilyReport {
            status: FamilyStatus::Tested,
            reason: None,
            reason_code: None,
            udp,
            tcp: tcp.filter(|t| t.reachable),
            hole_punching: None,
        },
        aside,
    )
}

fn absent(status: FamilyStatus, reason: Reason) -> FamilyReport {
    let Reason { code, text } = reason;
    FamilyReport { status, reason: Some(text), reason_code: Some(code), ..FamilyReport::default() }
}

/// What an examination took of the timeout; the lifetime measurement comes on top.
fn spent(observed: &Observed) -> Duration {
    let log = &observed.log;
    match log.of_measurement(lifetime::PROBE.name).next() {
        None => log.ended,
        Some(_) => {
            let others = log.transactions.iter().filter(|t| t.purpose.measurement != lifetime::PROBE.name);
            others.map(|t| t.sent).max().unwrap_or_default()
        }
    }
}

/// What was tried, when nothing answered.
fn unreached(observed: &Observed) -> Reason {
    let log = &observed.log;
    let (sent, unsent) = (log.transactions.len(), log.transactions.iter().filter(|t| t.unsent).count());
    if sent > 0 && sent == unsent {
        let text = format!("the system refused to send anything to {}", log.server);
        return (ReasonCode::SystemRefused, text).into();
    }
    let refusal = log.transactions.iter().find_map(crate::observation::Transaction::error_code);
    match refusal {
        Some(code) => {
            let text = format!("{} answers every request with error {code}", log.server);
            (ReasonCode::ServerRefuses, text).into()
        }
        None => {
            let tcp = if observed.tcp.is_some() { ", nor over TCP" } else { "" };
            let text = format!("{} answered none of {sent} UDP requests{tcp}", log.server);
            (ReasonCode::ServerUnreachable, text).into()
        }
    }
}

/// One verdict from several servers: each finding is merged as its measurement says.
fn agree(verdicts: Vec<(String, Found)>, warnings: &mut Vec<String>) -> Option<UdpReport> {
    let mut all = verdicts.into_iter();
    let (query, mut merged) = all.next()?;
    if is_blocked(&merged) {
        // Those who answer over UDP come first: nobody does.
        return Some(merged.udp);
    }
    let slots = || REGISTRY.iter().flat_map(|probe| probe.udp);
    let mut sources: Vec<Source> = slots().map(|_| Source::of(&query)).collect();
    for (other_query, other) in all {
        if is_blocked(&other) {
            warnings.push(format!(
                "{other_query} answers over TCP only, {query} over UDP: it is not the network that blocks UDP"
            ));
            continue;
        }
        for (slot, source) in slots().zip(&mut sources) {
            let merge = Merge { key: slot.key, source, by: &other_query, warnings };
            slot.merge(merge, &mut merged, &other);
        }
    }
    let nat_type = classify::nat_type(&merged.udp.mapping, &merged.udp.filtering);
    Some(UdpReport { nat_type, ..merged.udp })
}

fn is_blocked(found: &Found) -> bool {
    found.udp.nat_type.value == Some(NatType::UdpBlocked)
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
        features: either.map_or_else(unknown_features, |side| side.features.clone()),
        faults,
    }
}

fn unknown_features() -> ServerFeatures {
    let mut found = Found::default();
    for slot in REGISTRY.iter().flat_map(|probe| probe.server) {
        let reason = (ReasonCode::ServerUnreachable, "the server was not reached over UDP");
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
        features: unknown_features(),
        faults: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use shared::nat::Mapping;

    use super::*;
    use crate::report::{Confidence, Finding};

    /// What a server says of the axes, with these confidences.
    fn says(
        query: &str,
        mapping: (Mapping, Confidence),
        filtering: (Filtering, Confidence),
    ) -> (String, Found) {
        let (mapping, filtering) =
            (Finding::known(mapping.0, mapping.1, "test"), Finding::known(filtering.0, filtering.1, "test"));
        let nat_type = classify::nat_type(&mapping, &filtering);
        let udp = UdpReport { nat_type, mapping, filtering, ..UdpReport::default() };
        (query.to_owned(), Found { udp, ..Found::default() })
    }

    #[test]
    fn a_local_address_is_used_in_its_own_family() {
        let at = |address: &str| address.parse().unwrap();
        let (v4, v6, both) = (at("192.0.2.1:4433"), at("[2001:db8::1]:4433"), at("[::]:4433"));
        for (wanted, as_v4, as_v6) in [
            (None, at("0.0.0.0:0"), at("[::]:0")),
            (Some(v4), v4, at("[::]:0")),
            (Some(v6), at("0.0.0.0:0"), v6),
            (Some(both), at("0.0.0.0:4433"), both),
        ] {
            assert_eq!((Family::V4.bind(wanted), Family::V6.bind(wanted)), (as_v4, as_v6), "{wanted:?}");
        }
    }

    const INDEPENDENT: Mapping = Mapping::EndpointIndependent;
    const SURE: Confidence = Confidence::Certain;

    #[test]
    fn the_name_follows_the_merged_axes() {
        // Each is sure of another axis, so neither one's own name is right.
        let mut warnings = Vec::new();
        let a = says("a", (INDEPENDENT, SURE), (Filtering::EndpointIndependent, Confidence::Weak));
        let b = says("b", (INDEPENDENT, Confidence::Weak), (Filtering::AddressDependent, Confidence::Strong));
        let udp = agree(vec![a, b], &mut warnings).unwrap();
        assert_eq!(udp.nat_type.value, Some(NatType::RestrictedCone));
        assert_eq!(udp.nat_type.confidence, Confidence::Strong);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn of_three_servers_the_right_ones_are_named() {
        let mut warnings = Vec::new();
        let open = Filtering::EndpointIndependent;
        let a = says("a", (INDEPENDENT, Confidence::Weak), (open, SURE));
        let b = says("b", (INDEPENDENT, SURE), (open, SURE));
        let c = says("c", (Mapping::AddressDependent, SURE), (open, SURE));
        let d = says("d", (INDEPENDENT, SURE), (open, SURE));
        let udp = agree(vec![a, b, c, d], &mut warnings).unwrap();
        assert_eq!(
            warnings,
            ["the servers disagree on mapping: b says endpoint-independent, c says address-dependent"]
        );
        assert_eq!(udp.mapping.confidence, Confidence::Weak, "a dispute is not settled by who comes later");
        assert_eq!(udp.mapping.reason.as_deref(), Some("c says otherwise"));
        assert_eq!(udp.nat_type.confidence, Confidence::Weak);
    }
}
