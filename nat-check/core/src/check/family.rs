//! One IP family of a check: which servers are asked, in which order, and what comes of it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::nat::Filtering;
use tokio::sync::watch;

use super::{
    ServerQuery, Setup,
    address_family::{Family, is_private},
    agreement::{self, Verdict},
};
#[cfg(feature = "port-mapping")]
use crate::probe::{ipv6, layers, port_mapping};
use crate::{
    classify::{self, ServerSide},
    engine::{self, Observed, Settings},
    net::Net,
    observation::Transaction,
    probe::{lifetime, mapping},
    progress::Progress,
    report::{
        FamilyReport, FamilyStatus, Finding, Ipv6Findings, Layers, LayersKind, PortMapping, Reason,
        ReasonCode,
    },
    selection::Selection,
};

/// A check that is under way.
pub(super) struct Run<'a> {
    pub(super) setup: &'a Setup,
    pub(super) net: &'a Arc<dyn Net>,
    pub(super) servers: &'a [ServerQuery],
    pub(super) progress: &'a dyn Progress,
    pub(super) stop: watch::Receiver<bool>,
}

/// What else is known after a family was tested.
#[derive(Default)]
pub(super) struct FamilyNotes {
    /// One slot for each server that was asked for.
    pub(super) servers: Vec<Option<ServerSide>>,
    pub(super) warnings: Vec<String>,
    /// What was seen of several external addresses.
    pub(super) several: Option<Finding<LayersKind>>,
    /// What stands between this host and the Internet.
    pub(super) layers: Option<Layers>,
    /// What came of asking the gateway to open ports.
    pub(super) port_mapping: Option<PortMapping>,
    pub(super) partial: bool,
}

/// Tests one family.
pub(super) async fn test(run: &Run<'_>, family: Family) -> (FamilyReport, FamilyNotes) {
    let mut test = FamilyTest {
        run,
        family,
        bind: family.bind(run.setup.bind),
        left: run.setup.timeout,
        lifetime: run.setup.lifetime,
        tcp_idle: run.setup.tcp_idle,
        port_mapping: run.setup.port_mapping,
        notes: FamilyNotes { servers: vec![None; run.servers.len()], ..FamilyNotes::default() },
        examined: Vec::new(),
        together: None,
        failures: Vec::new(),
    };
    if !family.wanted(run.setup.families) {
        let reason = (ReasonCode::NotAskedFor, "not asked for").into();
        return (absent(FamilyStatus::Skipped, reason), test.notes);
    }
    let candidates = test.candidates();
    match candidates.as_slice() {
        [] => {}
        [only] => test.examine(only).await,
        _ => test.ask_together(candidates).await,
    }
    test.report()
}

/// A server that can be asked over this family.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Its number among all servers.
    pub(super) at: usize,
    pub(super) query: String,
    pub(super) address: SocketAddr,
    pub(super) few_packets: bool,
}

pub(super) struct FamilyTest<'a> {
    pub(super) run: &'a Run<'a>,
    pub(super) family: Family,
    pub(super) bind: SocketAddr,
    /// What is left of the timeout, which is that of the whole run.
    pub(super) left: Duration,
    /// The lifetime measurement that is still to be made.
    pub(super) lifetime: Option<Duration>,
    /// The longest idle time of a TCP connection that is still to be looked at.
    tcp_idle: Option<Duration>,
    /// Whether the gateway is still to be asked to open ports.
    port_mapping: bool,
    pub(super) notes: FamilyNotes,
    pub(super) examined: Vec<(Observed, Verdict)>,
    /// What all servers say together.
    pub(super) together: Option<Verdict>,
    pub(super) failures: Vec<(FamilyStatus, Reason)>,
}

/// Measurements that need few packets, or none of their own: what strangers' servers are asked for.
const FEW_PACKETS: [&str; 4] = ["mapping", "filtering", "hairpinning", "alg"];

impl FamilyTest<'_> {
    /// The servers that have an address here, each once.
    fn candidates(&mut self) -> Vec<Candidate> {
        let mut candidates: Vec<Candidate> = Vec::new();
        for (at, asked) in self.run.servers.iter().enumerate() {
            let target = match &asked.target {
                Ok(target) => target,
                Err(why) => {
                    self.fail(FamilyStatus::Unreachable, (ReasonCode::NameNotResolved, why.as_str()));
                    continue;
                }
            };
            let Some(address) = self.family.address(target) else {
                let why = format!("{} has no {} address", asked.query, self.family.name());
                self.fail(FamilyStatus::Unavailable, (ReasonCode::ServerHasNoAddress, why));
                continue;
            };
            if let Some(same) = candidates.iter().find(|c| c.address == address) {
                self.notes.warnings.push(format!("{} is the same server as {}", asked.query, same.query));
                continue;
            }
            let (query, few_packets) = (asked.query.clone(), asked.few_packets);
            candidates.push(Candidate { at, query, address, few_packets });
        }
        candidates
    }

    pub(super) fn fail(&mut self, status: FamilyStatus, reason: impl Into<Reason>) {
        self.failures.push((status, reason.into()));
    }

    /// Examines one server, with all measurements that were asked for.
    pub(super) async fn examine(&mut self, candidate: &Candidate) {
        if self.left.is_zero() {
            self.notes.partial = true;
            let why = format!("no time was left to ask {}", candidate.query);
            return self.fail(FamilyStatus::Unreachable, (ReasonCode::NoTimeLeft, why));
        }
        let wanted = &self.run.setup.tests;
        let tests = match candidate.few_packets {
            false => wanted.clone(),
            true => {
                let names = FEW_PACKETS.into_iter().filter(|name| wanted.wants(name, true));
                Selection::Only(names.map(str::to_owned).collect())
            }
        };
        let settings = self.settings(candidate, tests);
        let (net, stop) = (self.run.net.clone(), self.run.stop.clone());
        let (address, bind) = (candidate.address, self.bind);
        match engine::examine(net, address, bind, &settings, self.run.progress, stop).await {
            Err(error) => self.no_way_to(address, &error),
            Ok(observed) => {
                self.left = self.left.saturating_sub(spent(&observed));
                self.keep(candidate, observed);
            }
        }
    }

    pub(super) fn settings(&self, candidate: &Candidate, tests: Selection) -> Settings {
        // What one server is shown must not tell what another one will be.
        let part = 2 * candidate.at as u64 + u64::from(self.family == Family::V6);
        Settings {
            tests,
            timeout: self.left,
            lifetime: self.lifetime,
            tcp_idle: self.tcp_idle,
            port_mapping: self.port_mapping,
            chain: self.port_mapping && self.run.setup.chain && self.family == Family::V4,
            randomness: self.run.setup.randomness.split(part),
        }
    }

    pub(super) fn no_way_to(&mut self, address: SocketAddr, error: &std::io::Error) {
        let why = format!("no way to {address} over {}: {error}", self.family.name());
        self.fail(FamilyStatus::Unavailable, (ReasonCode::NoRoute, why));
    }

    pub(super) fn keep(&mut self, candidate: &Candidate, observed: Observed) {
        self.notes.partial |= observed.partial;
        if !observed.reached() {
            return self.fail(FamilyStatus::Unreachable, unreached(&observed));
        }
        #[cfg(feature = "port-mapping")]
        if let Some(port_mapping) = port_mapping::conclude(&observed.log) {
            self.port_mapping &= port_mapping.reason.is_some();
            self.notes.port_mapping = Some(port_mapping);
        }
        let found = classify::found(&observed);
        // One server that can measure it is enough.
        if found.udp.lifetime.value.is_some() {
            self.lifetime = None;
        }
        if found.tcp.idle.value.is_some() {
            self.tcp_idle = None;
        }
        let side = classify::server(&observed, &found);
        let addresses = std::iter::once(side.addresses.primary).chain(side.addresses.alternate);
        let ips = addresses.map(|at| at.ip()).collect();
        self.notes.servers[candidate.at] = Some(side);
        self.examined.push((observed, Verdict { by: candidate.query.clone(), ips, found }));
    }

    /// That the servers have no address of this family must not read as if this host had none.
    fn own_address(&self) -> String {
        match self.family.source(&**self.run.net) {
            Some(own) if is_private(own) => format!("this host has a private one only, {own}"),
            Some(own) => format!("this host has one, {own}"),
            None => "this host has none either".into(),
        }
    }

    fn report(self) -> (FamilyReport, FamilyNotes) {
        let own = self.own_address();
        let Self { mut notes, examined, together, failures, .. } = self;
        if examined.is_empty() && together.is_none() {
            let worst = failures.iter().any(|(status, _)| *status == FamilyStatus::Unreachable);
            let status = if worst { FamilyStatus::Unreachable } else { FamilyStatus::Unavailable };
            let mut why = failures.into_iter().filter(|(s, _)| *s == status).map(|(_, why)| why);
            // Several servers, several sentences; the code is the first one's.
            let first = why.next().unwrap_or_else(|| (ReasonCode::NotAskedFor, "no server was given").into());
            let mut joined = why.fold(first, |all, next| all.map(|text| format!("{text}; {next}")));
            if joined.code == ReasonCode::ServerHasNoAddress {
                joined = joined.map(|text| format!("{text}; {own}"));
            }
            return (absent(status, joined), notes);
        }
        // That a server lacks this family is nothing to warn of.
        let silent = failures.into_iter().filter(|(_, why)| why.code != ReasonCode::ServerHasNoAddress);
        notes.warnings.extend(silent.map(|(_, why)| why.text));
        let mut by_one = None;
        for (observed, verdict) in &examined {
            let open = verdict.found.udp.filtering.value == Some(Filtering::EndpointIndependent);
            notes.warnings.extend(mapping::leftover(&observed.log, open));
            if by_one.is_none() {
                by_one = mapping::spread::several_connections(&observed.log);
                notes.warnings.extend(mapping::spread::warning(&observed.log));
            }
        }
        // What one server has shown says more than what several contradict each other in.
        let several = by_one.or(notes.several.take());
        notes.layers = layers(&examined, notes.port_mapping.as_ref(), several.clone())
            .or_else(|| several.map(Into::into));
        let ipv6 = ipv6(&examined);
        let verdicts = examined.into_iter().map(|(_, verdict)| verdict).collect();
        let found = agreement::merge(verdicts, together, &mut notes.warnings);
        let tcp = found.as_ref().filter(|found| found.tcp_tried).map(|found| found.tcp.clone());
        let udp = found.map(|found| found.udp);
        let (translation, inbound) = ipv6.map(|it| (it.translation, it.inbound)).unzip();
        let status = FamilyStatus::Tested;
        let report = FamilyReport { status, udp, tcp, translation, inbound, ..FamilyReport::default() };
        (report, notes)
    }
}

/// What the first server that was asked for it tells of the way out.
#[cfg(feature = "port-mapping")]
fn layers(
    examined: &[(Observed, Verdict)],
    port_mapping: Option<&PortMapping>,
    several: Option<Finding<LayersKind>>,
) -> Option<Layers> {
    examined.iter().find_map(|(observed, verdict)| {
        layers::conclude(&observed.log, &verdict.found, port_mapping, several.clone())
    })
}

/// What the first server that was asked for it tells of IPv6 beside the usual.
#[cfg(feature = "port-mapping")]
fn ipv6(examined: &[(Observed, Verdict)]) -> Option<Ipv6Findings> {
    examined.iter().find_map(|(observed, verdict)| ipv6::conclude(&observed.log, &verdict.found))
}

#[cfg(not(feature = "port-mapping"))]
fn ipv6(_: &[(Observed, Verdict)]) -> Option<Ipv6Findings> {
    None
}

#[cfg(not(feature = "port-mapping"))]
fn layers(
    _: &[(Observed, Verdict)],
    _: Option<&PortMapping>,
    _: Option<Finding<LayersKind>>,
) -> Option<Layers> {
    None
}

fn absent(status: FamilyStatus, reason: Reason) -> FamilyReport {
    let Reason { code, text } = reason;
    FamilyReport { status, reason: Some(text), reason_code: Some(code), ..FamilyReport::default() }
}

/// What an examination took of the timeout; what comes on top is left out.
fn spent(observed: &Observed) -> Duration {
    let log = &observed.log;
    let on_top = |t: &&Transaction| ON_TOP.contains(&t.purpose.measurement);
    match log.transactions.iter().find(on_top) {
        None => log.ended,
        Some(_) => {
            let others = log.transactions.iter().filter(|t| !on_top(t));
            others.map(|t| t.sent).max().unwrap_or_default()
        }
    }
}

/// Measurements that the timeout does not count.
const ON_TOP: [&str; 2] = [lifetime::PROBE.name, "port-mapping"];

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
            let tried_tcp = observed.tcp.is_some() || !log.tcp.connections.is_empty();
            if log.connected.is_some() || log.tcp.reached(log.server) {
                let text = format!(
                    "{} accepts TCP connections and answers no STUN request there, nor any of {sent} over UDP: it is no STUN server, \
                     or something on the way answers in its place",
                    log.server
                );
                return (ReasonCode::ServerUnreachable, text).into();
            }
            let tcp = if tried_tcp { ", nor over TCP" } else { "" };
            let text = format!(
                "{} answered none of {sent} UDP requests in {:.1} s{tcp}; no other port was tried, and a firewall may let out \
                 single ports only",
                log.server,
                log.ended.as_secs_f64()
            );
            (ReasonCode::ServerUnreachable, text).into()
        }
    }
}
