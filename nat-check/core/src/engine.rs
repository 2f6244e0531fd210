//! Runs the registry against one server over one family: stage by stage, all steps of a stage at the same time.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{sync::watch, task::JoinSet, time::timeout_at};

use crate::{
    net::Net,
    observation::ObservationLog,
    probe::{Probe, REGISTRY, Stage, contact, lifetime, tcp_mapping},
    progress::{Event, Progress},
    randomness::Randomness,
    report::TcpReport,
    selection::Selection,
    session::{Contact, Session},
};

/// How a server is to be examined.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which tests run.
    pub tests: Selection,
    /// The time after which the run ends with what is known by then; the lifetime measurement comes on top.
    pub timeout: Duration,
    /// The longest idle time that the lifetime measurement looks at; none = it is not asked for.
    pub lifetime: Option<Duration>,
    /// The longest idle time of a TCP connection that is looked at; none = it is not asked for.
    pub tcp_idle: Option<Duration>,
    /// Whether the gateway is asked to open ports.
    pub port_mapping: bool,
    /// Whether both NATs of the user's own double NAT are opened as well.
    pub chain: bool,
    /// Where transaction ids come from.
    pub randomness: Randomness,
}

/// What was observed.
#[derive(Debug)]
pub struct Observed {
    /// Every request and what came of it.
    pub log: ObservationLog,
    /// What first contact found over TCP, which it tries only when UDP is silent.
    pub tcp: Option<TcpReport>,
    /// The round-trip time of the way.
    pub rtt: Option<Duration>,
    /// Whether the run was ended before all was done.
    pub partial: bool,
}

impl Observed {
    /// Whether the server was reached over any transport.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.udp_works()
            || self.tcp.as_ref().is_some_and(|tcp| tcp.reachable)
            // Whoever accepts a connection need be no STUN server.
            || self.log.tcp.connections.iter().any(|c| c.to == self.log.server && c.answer.is_some())
    }

    /// Whether any answer came over UDP.
    #[must_use]
    pub fn udp_works(&self) -> bool {
        self.log.dialect().is_some()
    }
}

/// Examines one server over one family.
///
/// # Errors
/// When there is no route to the server.
pub async fn examine(
    net: Arc<dyn Net>,
    server: SocketAddr,
    bind: SocketAddr,
    settings: &Settings,
    progress: &dyn Progress,
    mut stop: watch::Receiver<bool>,
) -> io::Result<Observed> {
    let session = Session::new(net, server, bind, settings.randomness)?;
    session.ask_lifetime(settings.lifetime);
    session.ask_tcp_idle(settings.tcp_idle);
    #[cfg(feature = "port-mapping")]
    session.note_layers(|log| log.is_asked_for = settings.chain || is_asked_for(settings, "layers"));
    #[cfg(feature = "port-mapping")]
    session.note_port_mapping(|log| log.is_chain_asked = settings.chain);
    let lifetime = settings.lifetime.map_or(Duration::ZERO, lifetime::longest);
    let idle = settings.tcp_idle.map_or(Duration::ZERO, longest_idle);
    let opening = match (settings.port_mapping, settings.chain) {
        (false, _) => Duration::ZERO,
        (true, false) => LONGEST_PORT_MAPPING,
        (true, true) => LONGEST_PORT_MAPPING + LONGEST_CHAIN,
    };
    let limit = settings.timeout + lifetime.max(idle) + opening;
    let mut tcp = None;
    let done = tokio::select! {
        biased;
        // An error means that nobody can stop the run any more: then it goes on.
        Ok(_) = stop.wait_for(|stopped| *stopped) => false,
        () = run(&session, settings, progress, &mut tcp) => true,
        () = tokio::time::sleep(limit) => false,
    };
    let rtt = session.path_rtt();
    #[cfg(feature = "port-mapping")]
    crate::probe::port_mapping::close_all(&session).await;
    let mut log = session.finish();
    log.ended_early = !done;
    log.tests = selected(settings).iter().map(|probe| probe.name).collect();
    Ok(Observed { log, tcp, rtt, partial: !done })
}

async fn run(
    session: &Arc<Session>,
    settings: &Settings,
    progress: &dyn Progress,
    tcp: &mut Option<TcpReport>,
) {
    let probes = selected(settings);
    let over_udp = async {
        let contact = contact::establish(session.clone(), settings.timeout);
        let stages = run_stages(session, &probes, progress);
        let (report, (), ()) = tokio::join!(contact, stages, spare_far(session, settings));
        session.allow_others();
        *tcp = report;
    };
    if is_over_tcp_asked_for(settings) {
        session.be_patient();
    }
    if !probes.iter().any(|probe| probe.name == TCP_FILTERING) {
        session.tcp_filtering_is_over();
    }
    let over_tcp = run_tcp(session, &probes, progress);
    tokio::pin!(over_udp, over_tcp);
    tokio::select! {
        biased;
        () = &mut over_udp => {
            // What is not done by then is not known, and says so.
            let limit = session.instant(test_session_limit(session, settings));
            if timeout_at(limit, &mut over_tcp).await.is_err() {
                session.end_test_session();
                let limit = session.instant(tcp_limit(session, settings));
                let _ = timeout_at(limit, over_tcp).await;
            }
        }
        () = &mut over_tcp => over_udp.await,
    }
}

/// A SYN that gets lost is sent again after a second (RFC 6298 section 2.1): so long TCP has where packets get lost.
const ONE_RETRANSMISSION: Duration = Duration::from_millis(1100);

/// Round trips that TCP takes: connecting and asking, at the first endpoint and then at the others.
const ROUND_TRIPS: u32 = 4;

/// Those of them that come after filtering.
const AFTER_FILTERING: u32 = 2;

/// Round trips that the test session takes: connecting, opening it, proving a port, calls and their patience; and those that
/// come after filtering.
const TEST_SESSION_ROUND_TRIPS: u32 = 9;

/// So much longer than packets a busy host may take over what was to be done by then, where connections come about: on a short way
/// round trips are no measure.
const BUSY: Duration = Duration::from_millis(100);

/// On a long way TCP costs no more time than this.
const LONGEST_EXTRA: Duration = Duration::from_millis(1500);

/// Until when TCP may go on, where UDP has told all that was asked. A SYN without an answer is waited for only where packets
/// do get lost, and only if the second one can be answered by then.
fn tcp_limit(session: &Session, settings: &Settings) -> Duration {
    match session.rtt() {
        Some(rtt) if !is_over_tcp_asked_for(settings) => {
            let extra = |round_trips| (rtt.smoothed * round_trips).min(LONGEST_EXTRA);
            let longest = ONE_RETRANSMISSION + extra(ROUND_TRIPS);
            let is_of_use = |begun| begun + ONE_RETRANSMISSION + extra(AFTER_FILTERING) <= longest;
            let after = rtt.smoothed * AFTER_FILTERING;
            // On the longest ways that would not be over by then either.
            let soon = session.now() + if after <= LONGEST_EXTRA { after } else { Duration::ZERO };
            match session.read(tcp_mapping::waits_since) {
                Some(begun) if session.has_lost() && is_of_use(begun) => soon.max(longest),
                Some(_) | None => soon,
            }
        }
        _ => ASKED_FOR,
    }
}

/// Leaves out the test session where the way is so long that it could not end in time: others would wait for it in vain.
async fn spare_far(session: &Session, settings: &Settings) {
    session.contact().await;
    let is_far = session.rtt().is_some_and(|rtt| rtt.smoothed * TEST_SESSION_ROUND_TRIPS > LONGEST_EXTRA);
    if is_far && !is_over_tcp_asked_for(settings) {
        session.end_test_session();
    }
}

/// Until when the test session may go on, where UDP has told all that was asked: no lost segment is waited for.
fn test_session_limit(session: &Session, settings: &Settings) -> Duration {
    match session.rtt() {
        Some(rtt) if !is_over_tcp_asked_for(settings) => {
            let has_connected = session.read(|log| log.tcp.quickest(log.server).is_some());
            let after = session.now() + if has_connected { BUSY } else { Duration::ZERO };
            after.max((rtt.smoothed * TEST_SESSION_ROUND_TRIPS).min(LONGEST_EXTRA))
        }
        _ => ASKED_FOR,
    }
}

/// Where TCP was asked for, or is all there is, its measurements end by themselves.
const ASKED_FOR: Duration = Duration::from_secs(3600);

/// The measurement that others over TCP wait for before they contact the server's other endpoints.
const TCP_FILTERING: &str = "tcp-filtering";

/// How long looking at idle connections takes at the most.
#[cfg(feature = "punch")]
fn longest_idle(idle: Duration) -> Duration {
    crate::probe::tcp_idle::longest(idle)
}

/// Without test sessions there are none.
#[cfg(not(feature = "punch"))]
fn longest_idle(_: Duration) -> Duration {
    Duration::ZERO
}

/// How long opening ports takes at the most.
#[cfg(feature = "port-mapping")]
use crate::probe::port_mapping::{LONGEST as LONGEST_PORT_MAPPING, LONGEST_CHAIN};
#[cfg(not(feature = "port-mapping"))]
const LONGEST_PORT_MAPPING: Duration = Duration::ZERO;
#[cfg(not(feature = "port-mapping"))]
const LONGEST_CHAIN: Duration = Duration::ZERO;

/// Whether this measurement was asked for by name.
#[cfg(feature = "port-mapping")]
fn is_asked_for(settings: &Settings, name: &str) -> bool {
    matches!(&settings.tests, Selection::Only(names) if names.iter().any(|it| it == name))
}

/// Whether a measurement over TCP was asked for.
fn is_over_tcp_asked_for(settings: &Settings) -> bool {
    let takes_tcp =
        |probe: &Probe| !probe.tcp.is_empty() || probe.steps.iter().any(|step| step.stage == Stage::Tcp);
    let is_tcp = |name: &String| REGISTRY.iter().any(|probe| probe.name == name && takes_tcp(probe));
    settings.tcp_idle.is_some()
        || matches!(&settings.tests, Selection::Only(names) if names.iter().any(is_tcp))
}

/// The steps over TCP.
async fn run_tcp(session: &Arc<Session>, probes: &[&'static Probe], progress: &dyn Progress) {
    let mut steps = JoinSet::new();
    for &probe in probes {
        for step in probe.steps.iter().filter(|step| step.stage >= Stage::Tcp) {
            progress.event(Event::Started { test: probe.name, about: probe.about });
            let (run, name, session) = (step.run, probe.name, session.clone());
            steps.spawn(async move {
                let begun = session.now();
                run(session.clone()).await;
                (name, session.now() - begun)
            });
        }
    }
    while let Some(ended) = steps.join_next().await {
        // A step that panics is a defect of ours; the others' findings are still good.
        if let Ok((test, took)) = ended {
            progress.event(Event::Finished { test, took });
        }
    }
}

/// When the last stage begins on a long way, after the one before it: all its packets have left by then.
const EARLY_CONFIRM: Duration = Duration::from_millis(500);

async fn run_stages(session: &Arc<Session>, probes: &[&'static Probe], progress: &dyn Progress) {
    // Steps to come and time spent, of each measurement.
    let mut under_way: HashMap<&str, (usize, Duration)> =
        probes.iter().map(|probe| (probe.name, (probe.steps.len(), Duration::ZERO))).collect();
    let mut done_early = None;
    for stage in Stage::ALL {
        if done_early == Some(stage) {
            continue;
        }
        if stage == Stage::Lifetime {
            session.lift_budget();
        }
        if stage > Stage::Primary {
            session.allow_others();
        }
        let mut steps = JoinSet::new();
        // On a long way the last stage does not wait for the answers of the one before it, only for its packets.
        done_early = (stage == Stage::Alternate && session.is_far()).then_some(Stage::Confirm);
        for at in [Some(stage), done_early] {
            for &probe in probes {
                if probe.steps.first().is_some_and(|first| Some(first.stage) == at) {
                    progress.event(Event::Started { test: probe.name, about: probe.about });
                }
                for step in probe.steps.iter().filter(|step| Some(step.stage) == at) {
                    let (run, name, session) = (step.run, probe.name, session.clone());
                    steps.spawn(async move {
                        let begun = session.now();
                        if at != Some(stage) {
                            tokio::time::sleep(EARLY_CONFIRM).await;
                        }
                        run(session.clone()).await;
                        (name, session.now() - begun)
                    });
                }
            }
        }
        let mut status = session.status();
        loop {
            tokio::select! {
                biased;
                // The session outlives this, so waiting cannot fail.
                Ok(()) = status.changed() => {
                    let (test, so_far) = status.borrow_and_update().clone();
                    progress.event(Event::Advanced { test, so_far: &so_far });
                }
                ended = steps.join_next() => match ended {
                    None => break,
                    Some(Ok((test, took))) => {
                        let (left, spent) = under_way.entry(test).or_default();
                        *left = left.saturating_sub(1);
                        *spent += took;
                        if *left == 0 {
                            progress.event(Event::Finished { test, took: *spent });
                        }
                    }
                    // A step that panics is a defect of ours; the others' findings are still good.
                    Some(Err(_)) => {}
                },
            }
        }
        if session.contact().await == Contact::None {
            return;
        }
    }
}

/// The measurements that run: those that are wanted, and what they build on.
fn selected(settings: &Settings) -> Vec<&'static Probe> {
    let asked_for = |probe: &Probe| {
        probe.steps.iter().any(|step| match step.stage {
            Stage::Lifetime => settings.lifetime.is_some(),
            Stage::TcpIdle => settings.tcp_idle.is_some(),
            Stage::PortMapping => settings.port_mapping,
            Stage::Primary | Stage::Alternate | Stage::Confirm | Stage::Tcp => false,
        })
    };
    let wants = |probe: &Probe| match probe.on_request() {
        // Asking for its time is asking for it.
        true => asked_for(probe) && !settings.tests.excludes(probe.name),
        false => settings.tests.wants(probe.name, true),
    };
    // What builds on something that is left out is left out, too.
    let possible =
        |probe: &&Probe| wants(probe) && !probe.needs.iter().any(|need| settings.tests.excludes(need));
    let wanted = |name: &str| {
        REGISTRY.iter().filter(possible).any(|probe| probe.name == name || probe.needs.contains(&name))
    };
    REGISTRY.iter().filter(|probe| wanted(probe.name)).collect()
}
