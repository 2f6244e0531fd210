//! Two real clients in one simulated world, introduced by the server's own rendezvous: what the punching matrix and
//! its benchmark are made of.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nat_check_core::{
    net::sim::{Loss, PathSpec, SiteSpec, World},
    progress::Silent,
    punch::{
        Audience, IntroError, Note, PunchSetup, punch,
        report::{PunchOutcome, PunchReport},
    },
    randomness::Randomness,
    target::{FoundBy, Target},
    technique::Technique,
};
use shared::{
    nat::model::{SpecError, Stack},
    rendezvous::Code,
};
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};

/// A pair and everything around it.
#[derive(Clone, Debug)]
pub struct Match {
    /// The NATs of the two, as a spec says them.
    pub nats: [String; 2],
    /// One way from each to the middle of the Internet.
    pub delays: [Duration; 2],
    /// Loss in each direction of each line.
    pub loss: f64,
    /// The second client starts so much later.
    pub offset: Duration,
    /// The second client begins every round so much later.
    pub lag: Duration,
    /// What everything else follows from.
    pub seed: u64,
}

/// Every class of NAT: each mapping with each filter and each allocation of ports.
#[must_use]
pub fn classes() -> Vec<String> {
    let filters = ["ei", "ad", "apd", "pd"];
    let ports = ["preserving", "sequential", "random", "block"];
    let mut classes: Vec<String> = filters.iter().map(|f| format!("mapping=direct,filtering={f}")).collect();
    for m in ["ei", "ad", "apd", "pd"] {
        for f in filters {
            classes.extend(ports.iter().map(|p| format!("mapping={m},filtering={f},ports={p}")));
        }
    }
    classes
}

/// What the classes leave out: filters that remember whom a socket or a host has sent to, whatever mapping it left
/// through; other customers who take ports meanwhile; routers that remap when a stranger's packet comes first, alone and
/// two in a row.
#[must_use]
pub fn further_classes() -> Vec<String> {
    let (filters, ports) = (["ad", "apd", "pd"], ["preserving", "sequential", "random", "block"]);
    let mut classes = Vec::new();
    for f in filters {
        for m in ["ad", "apd", "pd"] {
            for p in ports {
                for keyed in ["endpoint", "host"] {
                    classes.push(format!("mapping={m},filtering={f},ports={p},keyed={keyed}"));
                }
            }
        }
        classes.push(format!("mapping=ei,filtering={f},keyed=host"));
        classes.push(format!("mapping=direct,filtering={f},keyed=host"));
    }
    for rate in [10, 30, 60] {
        for m in ["ad", "apd", "pd"] {
            classes.push(format!("mapping={m},filtering=apd,ports=sequential,cross-traffic={rate}"));
        }
    }
    let remapping = [
        "linux-open-input",
        "linux-random,inbound-first=yes",
        "linux-open-input+linux-open-input",
        "linux+linux-open-input",
        "linux-open-input+linux",
        "linux-open-input+linux-random,inbound-first=yes",
    ];
    classes.extend(remapping.map(String::from));
    classes
}

/// NATs with several external addresses, chosen for each mapping (as by a router that spreads flows over several
/// providers), by destination, or once for each host: behind each of the two sides, with peers that let only expected packets in.
#[must_use]
pub fn several_addresses(count: usize, seed: u64) -> Vec<(String, Vec<Match>)> {
    const LIMITED: [&str; 7] = [
        "mapping=apd,filtering=apd,ports=preserving,ips=2,pooling=arbitrary",
        "mapping=apd,filtering=apd,ports=random,ips=2,pooling=arbitrary",
        "mapping=ei,filtering=apd,ports=random,ips=4,pooling=arbitrary",
        "mapping=apd,filtering=apd,ports=random,ips=4,pooling=arbitrary",
        "mapping=apd,filtering=apd,ports=preserving,ips=2,pooling=destination",
        "mapping=apd,filtering=apd,ports=random,ips=2,pooling=destination",
        "mapping=apd,filtering=apd,ports=random,ips=4,pooling=paired",
    ];
    const PEERS: [&str; 3] = ["port-restricted-cone", "restricted-cone", LIMITED[0]];
    let all = LIMITED.iter().flat_map(|limited| PEERS.map(|peer| [*limited, peer]));
    let cell = |nats: [&str; 2], turn: usize| {
        let [limited, peer] = nats.map(String::from);
        // Whether it is the first or the second one must not matter.
        let (first, second) = if turn.is_multiple_of(2) { (limited, peer) } else { (peer, limited) };
        pairs(&[first], &vec![second; count / 2], seed.wrapping_add(turn as u64))
    };
    all.map(|nats| (nats.join(" with "), (0..2).flat_map(|turn| cell(nats, turn)).collect())).collect()
}

/// NATs that give a host a limited number of mappings and refuse further ones, or end the oldest for them, with peers whose
/// ports need no guess: the measurement itself has used some of them when ports are to be guessed.
#[must_use]
pub fn limited_mappings(count: usize, seed: u64) -> Vec<(String, Vec<Match>)> {
    const LIMITS: [&str; 6] = ["quota=32", "quota=64", "quota=80", "quota=150", "keeps=32", "keeps=64"];
    const PEER: &str = "port-restricted-cone";
    let limited = LIMITS.map(|limit| format!("mapping=apd,filtering=apd,ports=random,{limit}"));
    let cells = limited.map(|nat| {
        let matches = pairs(std::slice::from_ref(&nat), &vec![PEER.to_owned(); count], seed);
        (format!("{nat} with {PEER}"), matches)
    });
    cells.into()
}

/// Every ordered pair of classes, each with its own delays, loss, offset and lag.
#[must_use]
pub fn matrix(seed: u64) -> Vec<Match> {
    let classes = classes();
    pairs(&classes, &classes, seed)
}

/// The same for every ordered pair of which at least one is of the further classes.
#[must_use]
pub fn further_matrix(seed: u64) -> Vec<Match> {
    let (usual, further) = (classes(), further_classes());
    let all = [usual.clone(), further.clone()].concat();
    let mut matches = pairs(&further, &all, seed);
    matches.extend(pairs(&usual, &further, seed.wrapping_add(1 << 32)));
    matches
}

/// What gateways do with a TCP connection that nobody asked for.
pub const ANSWERS: [&str; 4] = ["syn=drop", "syn=reset", "syn=icmp", "syn=icmp,syn-delay=6s"];

/// Every ordered pair of classes with TCP alone, each with its own delays, loss, offset and lag; what the two gateways do with
/// connections that nobody asked for differs from pair to pair.
#[must_use]
pub fn tcp_matrix(seed: u64) -> Vec<Match> {
    let classes = classes();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut matches = pairs(&classes, &classes, seed);
    for nat in matches.iter_mut().flat_map(|one| &mut one.nats) {
        let answer = rng.choice(ANSWERS).unwrap_or(ANSWERS[0]);
        *nat = format!("{nat},udp=blocked,{answer}");
    }
    matches
}

/// Pairs of usual NATs that have TCP alone, by what the gateway of each does with a connection that nobody asked for: `count` of
/// them, each with its own delays and loss.
#[must_use]
pub fn over_tcp(answers: [&str; 2], count: usize, seed: u64) -> Vec<Match> {
    let nats = answers.map(|answer| format!("udp-blocked,{answer}"));
    let alike = vec![nats[1].clone(); count];
    pairs(&nats[..1], &alike, seed)
}

fn pairs(first: &[String], second: &[String], seed: u64) -> Vec<Match> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut all = Vec::new();
    for a in first {
        for b in second {
            let mut milliseconds = |low, high| Duration::from_millis(rng.u64(low..=high));
            let delays = [milliseconds(5, 200), milliseconds(5, 200)];
            let (offset, lag) = (milliseconds(0, 2000), milliseconds(0, 2000));
            let lag = if rng.bool() { lag } else { Duration::ZERO };
            let loss = *rng.choice(&[0.0, 0.0, 0.01, 0.05, 0.10]).unwrap_or(&0.0);
            let nats = [a.clone(), b.clone()];
            all.push(Match { nats, delays, loss, offset, lag, seed: rng.u64(..) });
        }
    }
    all
}

impl Match {
    /// Two NATs on perfect lines, both starting at once.
    #[must_use]
    pub fn of(a: &str, b: &str, seed: u64) -> Self {
        let delay = Duration::from_millis(20);
        let nats = [a.to_owned(), b.to_owned()];
        Self { nats, delays: [delay; 2], loss: 0.0, offset: Duration::ZERO, lag: Duration::ZERO, seed }
    }

    /// A round trip between the two.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        (self.delays[0] + self.delays[1]) * 2
    }

    /// Lets the two punch, in virtual time: what each of them reports.
    ///
    /// # Errors
    /// When a spec is none.
    ///
    /// # Panics
    /// When the system has no resources for a runtime.
    pub fn run(&self) -> Result<[Result<PunchReport, IntroError>; 2], SpecError> {
        let [a, b]: [Stack; 2] = [self.nats[0].parse()?, self.nats[1].parse()?];
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime of one thread");
        Ok(runtime.block_on(self.in_this_runtime(a, b)))
    }

    async fn in_this_runtime(&self, a: Stack, b: Stack) -> [Result<PunchReport, IntroError>; 2] {
        let loss = if self.loss > 0.0 { Loss::Independent(self.loss) } else { Loss::None };
        let path = |delay| PathSpec { delay, ..PathSpec::default().with_loss(loss) };
        let site = SiteSpec { nat: b, path: path(self.delays[1]), ..SiteSpec::default() };
        let world = World::builder(self.seed).nat(a).path(path(self.delays[0])).site(site).build();
        let target = Target {
            query: "simulated".into(),
            found_by: FoundBy::Simulated,
            v4: Some(world.server()),
            v6: None,
        };
        let setup = |n: u8| PunchSetup {
            hold: Duration::ZERO,
            randomness: Randomness::Seeded(self.seed.wrapping_add(n.into())),
            ..PunchSetup::default()
        };
        let (told, code) = oneshot::channel();
        let ear = Ear(Mutex::new(Some(told)));
        let (first, second) = (setup(1), PunchSetup { start_delay: self.lag, ..setup(2) });
        let (one, other) = (world.host(0, 0), world.host(1, 0));
        let target = &target;
        // The ear goes with the attempt: if that ends early, nobody waits for a code any more.
        let opens = async move { punch(&first, one, target, &Silent, &ear, never()).await };
        let joins = async {
            let Ok(code) = code.await else { return Err(IntroError::Broken) };
            sleep(self.offset).await;
            punch(&PunchSetup { code: Some(code), ..second }, other, target, &Silent, &Deaf, never()).await
        };
        let (first, second) = tokio::join!(opens, joins);
        [first.map(|d| d.punch), second.map(|d| d.punch)]
    }
}

/// Nobody interrupts.
fn never() -> watch::Receiver<bool> {
    watch::channel(false).1
}

struct Ear(Mutex<Option<oneshot::Sender<Code>>>);

impl Audience for Ear {
    fn note(&self, note: Note<'_>) {
        if let Note::Code(code) = note
            && let Some(told) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            // Whoever waited may have given up.
            let _ = told.send(code);
        }
    }
}

struct Deaf;

impl Audience for Deaf {
    fn note(&self, _: Note<'_>) {}
}

/// How far outcomes and predictions agree, over many punches.
#[derive(Debug, Default)]
pub struct Tally {
    /// Punches.
    pub punches: usize,
    /// Direct paths by technique.
    pub by_technique: BTreeMap<String, usize>,
    /// Direct paths over TCP by the number of the round.
    pub tcp_rounds: BTreeMap<u32, usize>,
    /// Predicted with at least 0.99: how many, and those that failed.
    pub sure: (usize, Vec<String>),
    /// Failures that their predictions allow for, and the variance of that.
    pub allowed: (f64, f64),
    /// Predicted with 0: how many, and those that were direct all the same.
    pub hopeless: (usize, Vec<String>),
    /// Predicted in between: how many, expected successes, their variance, successes.
    pub between: (usize, f64, f64, usize),
    /// Too little was measured for a prediction.
    pub unknown: usize,
    /// Why, how often, and how many of them were direct all the same.
    pub unknown_because: BTreeMap<String, (usize, usize)>,
    /// Pairs that never met, because a line lost every attempt to connect to the server.
    pub unmet: usize,
    /// Punches that ended in an error, or whose two sides disagree.
    pub broken: Vec<String>,
    /// Round trips from introduction to first packet, where a plain punch was possible, nobody lagged and nothing was
    /// lost.
    pub round_trips: Vec<f64>,
    /// The same with loss.
    pub round_trips_lossy: Vec<f64>,
}

impl Tally {
    /// Counts one punch.
    pub fn add(&mut self, of: &Match, reports: [Result<PunchReport, IntroError>; 2]) {
        self.punches += 1;
        let cell = || {
            let ([a, b], [da, db]) = (&of.nats, of.delays.map(|d| d.as_millis()));
            format!(
                "{a} | {b}: {da} and {db} ms, loss {}, offset {:?}, lag {:?}, seed {}",
                of.loss, of.offset, of.lag, of.seed
            )
        };
        let (first, second) = match reports {
            [Ok(first), Ok(second)] => (first, second),
            [first, second] => {
                let lost =
                    |r: &Result<PunchReport, IntroError>| matches!(r, Err(IntroError::Unreachable { .. }));
                if of.loss > 0.0 && (lost(&first) || lost(&second)) {
                    self.unmet += 1;
                    return;
                }
                let told =
                    |r: Result<PunchReport, IntroError>| r.map_or_else(|e| e.to_string(), |_| "fine".into());
                return self.broken.push(format!("{}: {}; {}", cell(), told(first), told(second)));
            }
        };
        if (first.outcome, first.technique) != (second.outcome, second.technique)
            || first.predicted.probability != second.predicted.probability
        {
            return self.broken.push(format!("{}: the two disagree", cell()));
        }
        let direct = first.outcome == PunchOutcome::Direct;
        if let Some(technique) = first.technique {
            *self.by_technique.entry(technique.to_string()).or_default() += 1;
            if technique == Technique::Tcp {
                *self.tcp_rounds.entry(first.rounds).or_default() += 1;
            }
        }
        let told = || {
            let by = first.predicted.technique.map_or("none".into(), |t| t.to_string());
            format!("{}: predicted {by}, {:?}: {}", cell(), first.predicted.probability, first.why)
        };
        match first.predicted.probability {
            None => {
                self.unknown += 1;
                let (count, met) = self.unknown_because.entry(first.predicted.why.clone()).or_default();
                (*count, *met) = (*count + 1, *met + usize::from(direct));
            }
            Some(p) if p >= 0.99 => {
                self.sure.0 += 1;
                self.allowed.0 += 1.0 - p;
                self.allowed.1 += p * (1.0 - p);
                if !direct {
                    self.sure.1.push(told());
                }
            }
            Some(p) if p > 0.0 => {
                let (count, expected, variance, successes) = &mut self.between;
                *count += 1;
                *expected += p;
                *variance += p * (1.0 - p);
                *successes += usize::from(direct);
            }
            Some(_) => {
                self.hopeless.0 += 1;
                if direct {
                    self.hopeless.1.push(told());
                }
            }
        }
        if first.predicted.technique == Some(Technique::Simultaneous)
            && of.lag.is_zero()
            && let (Some(a), Some(b)) = (first.first_packet_s, second.first_packet_s)
        {
            let trips = a.max(b) / of.round_trip().as_secs_f64();
            if of.loss > 0.0 { &mut self.round_trips_lossy } else { &mut self.round_trips }.push(trips);
        }
    }

    /// What is wrong; nothing, if outcomes and predictions agree.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = self.broken.clone();
        complaints.extend(self.hopeless.1.iter().map(|c| format!("direct against the prediction: {c}")));
        let ((expected, variance), failed) = (self.allowed, &self.sure.1);
        if failed.len() as f64 > expected + 3.0 * variance.sqrt() + 0.5 {
            complaints.extend(failed.iter().map(|c| format!("failed against the prediction: {c}")));
        }
        let (count, expected, variance, successes) = self.between;
        if count > 0 && (successes as f64 - expected).abs() > 3.5 * variance.sqrt() + 0.5 {
            complaints.push(format!("in between: {successes} of {count} direct, expected {expected:.1}"));
        }
        if self.median() > 3.0 {
            complaints.push(format!("a plain punch takes {:.2} round trips", self.median()));
        }
        complaints
    }

    /// Of the punches with a prediction: how many there were, how many were expected to be direct, and were.
    #[must_use]
    pub fn predicted_and_met(&self) -> (usize, f64, usize) {
        let (sure, hopeless, (between, expected, _, successes)) = (&self.sure, &self.hopeless, self.between);
        let sure_expected = sure.0 as f64 - self.allowed.0;
        let met = sure.0 - sure.1.len() + successes + hopeless.1.len();
        (sure.0 + hopeless.0 + between, sure_expected + expected, met)
    }

    /// Median of the round trips, without loss.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.round_trips)
    }

    /// The figures, in lines.
    #[must_use]
    pub fn figures(&self) -> String {
        let (between, expected, variance, successes) = self.between;
        format!(
            "{} punches; direct by technique {:?}, over TCP by round {:?}\n\
             predicted >= 0.99: {}, of which failed {}; the stated chances allow for {:.1} +- {:.1}\n\
             predicted in between: {between}, direct {successes}, expected {expected:.1} +- {:.1}\n\
             predicted 0: {}, of which direct {}\n\
             prediction unknown: {}; never met: {}; broken: {}\n\
             plain punch, introduction to first packet at both sides: median {:.2} round trips without loss ({} punches), \
             {:.2} with ({})\n",
            self.punches,
            self.by_technique,
            self.tcp_rounds,
            self.sure.0,
            self.sure.1.len(),
            self.allowed.0,
            self.allowed.1.sqrt(),
            variance.sqrt(),
            self.hopeless.0,
            self.hopeless.1.len(),
            self.unknown,
            self.unmet,
            self.broken.len(),
            self.median(),
            self.round_trips.len(),
            median(&self.round_trips_lossy),
            self.round_trips_lossy.len(),
        )
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Runs all on so many threads and counts what came out.
#[must_use]
pub fn run_all(matches: &[Match], threads: usize) -> Tally {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let tally = Arc::new(Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(one) = matches.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    let reports = one.run();
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    match reports {
                        Ok(reports) => tally.add(one, reports),
                        Err(error) => tally.broken.push(error.to_string()),
                    }
                }
            });
        }
    });
    std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner))
}
