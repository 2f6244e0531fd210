//! Several servers of one family: who is there, what they see together, and which of them is examined by itself.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::nat::Mapping;
use tokio::{task::JoinSet, time::Instant};

use super::{
    address_family::Family,
    agreement::{self, Verdict},
    comparison::Comparison,
    family::{Candidate, FamilyTest},
    survey::Survey,
    unknown_features,
};
use crate::{
    classify::ServerSide,
    engine::{self, Observed, Settings},
    progress::{Event, Silent},
    report::{FamilyStatus, ReasonCode, ServerAddresses},
    selection::Selection,
    server_endpoints::{AlternateFault, ServerEndpoint},
};

/// What asking all of them is called where progress is told.
const SURVEY: &str = "servers";

impl FamilyTest<'_> {
    /// Asks several servers: all at the same time who is there and what they see of the same sockets, then one after
    /// another for the rest, since what one server's test opens must not look like another's allocation.
    pub(super) async fn ask_together(&mut self, candidates: Vec<Candidate>) {
        // Packets to all of them have to leave from one address.
        let mut groups: Vec<(IpAddr, Vec<Candidate>)> = Vec::new();
        for candidate in candidates {
            let source = match self.run.net.source_for(candidate.address) {
                Ok(_) if !self.bind.ip().is_unspecified() => self.bind.ip(),
                Ok(source) => source,
                Err(error) => {
                    self.no_way_to(candidate.address, &error);
                    continue;
                }
            };
            match groups.iter_mut().find(|(of, _)| *of == source) {
                Some((_, group)) => group.push(candidate),
                None => groups.push((source, vec![candidate])),
            }
        }
        for (_, group) in groups {
            match group.as_slice() {
                [only] => self.examine(only).await,
                _ => self.ask_group(group).await,
            }
        }
    }

    async fn ask_group(&mut self, mut candidates: Vec<Candidate>) {
        let net = self.run.net.clone();
        let Some(first) = candidates.first().cloned() else { return };
        self.run.progress.event(Event::Started {
            test: SURVEY,
            about: "which servers answer, and what they see together",
        });
        let begun = Instant::now();
        let part = 2 * self.run.servers.len() as u64 + u64::from(self.family == Family::V6);
        let ips: Vec<IpAddr> = candidates.iter().map(|c| c.address.ip()).collect();
        let randomness = self.run.setup.randomness.split(part);
        let survey = match Survey::begin(&net, first.address, ips, self.bind.ip(), randomness).await {
            Ok(survey) => survey,
            Err(error) => return self.no_way_to(first.address, &error),
        };
        // The first one alone: if its other address is among the servers, nothing may have been sent there before
        // filtering is decided.
        self.in_time(survey.find_first(first.address)).await;
        self.leave_out_other_addresses(&survey, &mut candidates);
        if has_alternate(&survey, first.address) {
            self.examine(&first).await;
        }
        let addresses: Vec<SocketAddr> = candidates.iter().map(|c| c.address).collect();
        let mut search = JoinSet::new();
        search.spawn({
            let (survey, addresses) = (survey.clone(), addresses.clone());
            async move { survey.find(&addresses).await }
        });
        self.in_time(survey.wait_for(&addresses)).await;
        self.leave_out_other_addresses(&survey, &mut candidates);
        self.examine_those_found(&survey, &candidates).await;
        self.in_time(async { while search.join_next().await.is_some() {} }).await;
        // Whoever took longer.
        self.examine_those_found(&survey, &candidates).await;
        self.run.progress.event(Event::Finished { test: SURVEY, took: begun.elapsed() });
        if survey.alive(&addresses).is_empty() {
            if !self.contact_all(&candidates).await {
                return;
            }
            // A line that took its time to wake up.
            self.in_time(survey.find(&addresses)).await;
            self.examine_those_found(&survey, &candidates).await;
        }
        self.tell_of_the_silent(&survey, &candidates);
    }

    /// Of a server with two addresses the second is no server of its own.
    fn leave_out_other_addresses(&mut self, survey: &Survey, candidates: &mut Vec<Candidate>) {
        let mut kept: Vec<(Candidate, Option<IpAddr>)> = Vec::new();
        for candidate in candidates.drain(..) {
            if let Some((of, _)) = kept.iter().find(|(_, other)| *other == Some(candidate.address.ip())) {
                let note =
                    format!("{} is the other address of {}, and not asked again", candidate.query, of.query);
                self.notes.warnings.push(note);
                continue;
            }
            let other = survey.endpoints(candidate.address).get(ServerEndpoint::IP).map(|at| at.ip());
            kept.push((candidate, other));
        }
        candidates.extend(kept.into_iter().map(|(candidate, _)| candidate));
    }

    /// Runs until it is done, until the time is up, or until the run is stopped.
    async fn in_time(&mut self, part: impl Future<Output = ()>) {
        let (begun, mut stop) = (Instant::now(), self.run.stop.clone());
        let done = tokio::select! {
            biased;
            Ok(_) = stop.wait_for(|stopped| *stopped) => false,
            () = part => true,
            () = tokio::time::sleep(self.left) => false,
        };
        self.notes.partial |= !done;
        self.left = if done { self.left.saturating_sub(begun.elapsed()) } else { Duration::ZERO };
    }

    /// Those with two addresses first, as they tell most; then all together; then the others one by one.
    async fn examine_those_found(&mut self, survey: &Arc<Survey>, candidates: &[Candidate]) {
        let addresses: Vec<SocketAddr> = candidates.iter().map(|c| c.address).collect();
        let alive = survey.alive(&addresses);
        let open = |test: &Self, candidate: &Candidate| {
            test.notes.servers[candidate.at].is_none() && alive.contains(&candidate.address)
        };
        if !candidates.iter().any(|candidate| open(self, candidate)) {
            return;
        }
        for candidate in candidates.iter().filter(|c| has_alternate(survey, c.address)) {
            if open(self, candidate) && (!candidate.few_packets || self.examined.is_empty()) {
                self.examine(candidate).await;
            }
        }
        if alive.len() > 1 {
            self.in_time(survey.compare(&alive)).await;
        }
        let comparison = survey.comparison(self.independent());
        for candidate in candidates {
            let distrusted = comparison.distrusted.iter().any(|d| d.is_at(candidate.address));
            let is_enough = candidate.few_packets && !self.examined.is_empty();
            if open(self, candidate) && !distrusted && !is_enough {
                self.examine(candidate).await;
            }
        }
        self.note_what_was_seen(survey, &comparison, candidates, &alive);
    }

    /// A server that has shown by itself that the mapping is the same for all destinations.
    fn independent(&self) -> Option<IpAddr> {
        let shows = |verdict: &Verdict| {
            let mapping = verdict.found.udp.mapping.sure();
            matches!(mapping, Some(Mapping::Direct | Mapping::EndpointIndependent))
        };
        self.examined.iter().find(|(_, verdict)| shows(verdict)).map(|(observed, _)| observed.log.server.ip())
    }

    fn note_what_was_seen(
        &mut self,
        survey: &Survey,
        comparison: &Comparison,
        candidates: &[Candidate],
        alive: &[SocketAddr],
    ) {
        for candidate in candidates.iter().filter(|c| alive.contains(&c.address)) {
            let side = self.notes.servers[candidate.at].get_or_insert_with(|| {
                let endpoints = survey.endpoints(candidate.address);
                let faults = endpoints.fault().map(AlternateFault::sentence).into_iter().collect();
                surveyed(candidate.address, endpoints.get(ServerEndpoint::BOTH), faults)
            });
            for distrusted in comparison.distrusted.iter().filter(|d| d.is_at(candidate.address)) {
                let (list, line) = match distrusted.is_wrong {
                    true => (&mut side.faults, distrusted.why.clone()),
                    false => (&mut self.notes.warnings, format!("{}: {}", candidate.query, distrusted.why)),
                };
                if !list.contains(&line) {
                    list.push(line);
                }
            }
        }
        self.notes.several = comparison.several_connections();
        let found = survey.found(comparison);
        let ips = alive.iter().map(SocketAddr::ip).collect();
        self.together = Some(Verdict { by: "all servers together".into(), ips, found });
    }

    /// Nobody answers over UDP. All at the same time: is it the way, are they slow, is there TCP? Tells whether somebody
    /// answers over UDP after all; if not, that is noted.
    async fn contact_all(&mut self, candidates: &[Candidate]) -> bool {
        if self.left.is_zero() {
            self.notes.partial = true;
            let names: Vec<&str> = candidates.iter().map(|c| c.query.as_str()).collect();
            let why = format!("no time was left to ask {}", names.join(", "));
            self.fail(FamilyStatus::Unreachable, (ReasonCode::NoTimeLeft, why));
            return false;
        }
        let begun = Instant::now();
        let mut contacts = JoinSet::new();
        for candidate in candidates {
            let settings = Settings {
                lifetime: None,
                tcp_idle: None,
                port_mapping: false,
                chain: false,
                ..self.settings(candidate, Selection::Only(Vec::new()))
            };
            let (net, stop, bind) = (self.run.net.clone(), self.run.stop.clone(), self.bind);
            let candidate = candidate.clone();
            contacts.spawn(async move {
                let contact = engine::examine(net, candidate.address, bind, &settings, &Silent, stop).await;
                (candidate, contact)
            });
        }
        let mut ended = Vec::with_capacity(candidates.len());
        while let Some(contact) = contacts.join_next().await {
            ended.extend(contact.ok());
        }
        ended.sort_by_key(|(candidate, _)| candidate.at);
        self.left = self.left.saturating_sub(begun.elapsed());
        if ended.iter().any(|(_, contact)| contact.as_ref().is_ok_and(Observed::udp_works)) {
            return true;
        }
        for (candidate, contact) in ended {
            match contact {
                Err(error) => self.no_way_to(candidate.address, &error),
                Ok(observed) => self.keep(&candidate, observed),
            }
        }
        false
    }

    fn tell_of_the_silent(&mut self, survey: &Survey, candidates: &[Candidate]) {
        for candidate in candidates {
            if self.notes.servers[candidate.at].is_some() {
                continue;
            }
            match survey.over_tcp(candidate.address) {
                Some(_) => {
                    self.notes.servers[candidate.at] = Some(surveyed(candidate.address, None, Vec::new()));
                    self.notes.warnings.push(agreement::only_over_tcp(&candidate.query));
                }
                None => self.fail(FamilyStatus::Unreachable, survey.complaint(candidate.address)),
            }
        }
    }
}

/// Whether a server has answered, and named another address and port that can be used.
fn has_alternate(survey: &Survey, server: SocketAddr) -> bool {
    survey.endpoints(server).get(ServerEndpoint::BOTH).is_some()
}

/// A server that was not examined by itself.
fn surveyed(primary: SocketAddr, alternate: Option<SocketAddr>, faults: Vec<String>) -> ServerSide {
    let reason = (ReasonCode::NotAskedFor, "this server was asked for the external endpoint only");
    ServerSide {
        addresses: ServerAddresses { primary, alternate },
        features: unknown_features(reason),
        faults,
        software: None,
    }
}
