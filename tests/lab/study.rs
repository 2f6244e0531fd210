//! Many simulated runs over many NATs, judged and counted: what the accuracy of the client is, and what it costs.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use nat_check_core::net::sim::{Fault, Loss, PathSpec, ServerSpec};
use shared::nat::model::PRESETS;

use crate::{
    oracle::{self, Judgement},
    requirements,
    sim::{Run, Sim},
};

/// So many runs on one kind of line, over these NATs in turn.
#[derive(Clone, Debug)]
pub struct Study {
    /// The line.
    pub path: PathSpec,
    /// What is wrong with the server.
    pub faults: Vec<Fault>,
    /// Number of runs.
    pub runs: usize,
    /// The seed of the first run; each further one has the next.
    pub first_seed: u64,
    /// The NATs.
    pub nats: Vec<String>,
    /// The findings that are to be decided.
    pub axes: [&'static str; 2],
}

/// What came of a study.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Number of runs.
    pub runs: usize,
    /// Runs that were sure of something and mistaken, each with NAT, seed and what was said.
    pub wrong: Vec<String>,
    /// Runs that left mapping or filtering undecided, likewise.
    pub open: Vec<String>,
    /// Runs in which the mapping over TCP was decided.
    pub over_tcp: usize,
    /// How long each took, in seconds, in ascending order.
    pub seconds: Vec<f64>,
    /// The run that took longest: NAT and seed.
    pub slowest: String,
    /// UDP datagrams that each sent, in ascending order.
    pub datagrams: Vec<u64>,
}

impl Study {
    /// Runs over this line to a server without faults.
    #[must_use]
    pub fn over(path: PathSpec, runs: usize, first_seed: u64) -> Self {
        let axes = ["ipv4.udp.mapping", "ipv4.udp.filtering"];
        Self { path, faults: Vec::new(), runs, first_seed, nats: nats(), axes }
    }

    /// The same, judged by what is found over TCP.
    #[must_use]
    pub fn over_tcp(self) -> Self {
        Self { nats: tcp_nats(), axes: ["ipv4.tcp.mapping", "ipv4.tcp.filtering"], ..self }
    }

    /// Makes all the runs, on two threads.
    #[must_use]
    pub fn run(self) -> Tally {
        let nats = &self.nats;
        let seeds: Vec<u64> = (self.first_seed..).take(self.runs).collect();
        let results = on_two_threads(&seeds, |&seed| {
            let nat = &nats[seed as usize % nats.len()];
            let sim = self.sim(nat, seed);
            let expected = oracle::expected(&sim.nat);
            let stack = sim.nat.clone();
            let run = sim.run();
            let mut judgement = oracle::judge(&expected, &run.report);
            judgement.wrong.extend(requirements::hold(&stack, &run.report).wrong);
            (format!("{nat} seed {seed}"), judgement, run.report.duration_s, run.datagrams)
        });
        let mut tally = Tally { runs: self.runs, ..Tally::default() };
        for (which, judgement, seconds, datagrams) in results {
            let Judgement { wrong, undecided, .. } = &judgement;
            if !wrong.is_empty() {
                tally.wrong.push(format!("{which}: {}", wrong.join("; ")));
            }
            if self.axes.iter().any(|axis| !judgement.decided(axis)) {
                tally.open.push(format!("{which}: {}", undecided.join("; ")));
            }
            tally.over_tcp += usize::from(judgement.decided("ipv4.tcp.mapping"));
            if tally.seconds.iter().all(|&other| other < seconds) {
                tally.slowest = which;
            }
            tally.seconds.push(seconds);
            tally.datagrams.push(datagrams);
        }
        tally.seconds.sort_by(f64::total_cmp);
        tally.datagrams.sort_unstable();
        tally
    }
}

impl Study {
    /// The one run of this seed, with a trace of every packet.
    #[must_use]
    pub fn trace(&self, seed: u64) -> Run {
        let nat = &self.nats[seed as usize % self.nats.len()];
        Sim { trace: true, ..self.sim(nat, seed) }.run()
    }

    fn sim(&self, nat: &str, seed: u64) -> Sim {
        let server = ServerSpec::with_faults(self.faults.iter().copied());
        Sim { path: self.path, server, ..Sim::new(nat.parse().expect(nat), seed) }
    }
}

impl Tally {
    /// Share of runs that decided both axes.
    #[must_use]
    pub fn decided(&self) -> f64 {
        1.0 - self.open.len() as f64 / self.runs as f64
    }

    /// The duration that this share of the runs did not exceed.
    #[must_use]
    pub fn seconds_at(&self, share: f64) -> f64 {
        self.seconds[((self.runs - 1) as f64 * share) as usize]
    }
}

/// Every mapping, filtering and allocation, every NAT with a name through which UDP passes, and some in a row.
#[must_use]
pub fn nats() -> Vec<String> {
    const CLASSES: [&str; 4] = ["ei", "ad", "apd", "pd"];
    let mut nats: Vec<String> = CLASSES.map(|f| format!("mapping=direct,filtering={f}")).into();
    for m in CLASSES {
        for f in CLASSES {
            let ports = ["preserving", "sequential", "random", "block,block=256"];
            nats.extend(ports.map(|p| format!("mapping={m},filtering={f},ports={p}")));
        }
    }
    nats.extend(PRESETS.iter().filter(|p| p.name != "udp-blocked").map(|p| p.name.to_owned()));
    let others =
        ["linux+linux", "linux+carrier", "full-cone,hairpin=external", "port-restricted-cone,alg=yes"];
    nats.extend(others.map(str::to_owned));
    nats
}

/// Every class with every answer to an unsolicited SYN.
#[must_use]
pub fn tcp_nats() -> Vec<String> {
    const CLASSES: [&str; 3] = ["ei", "ad", "apd"];
    const ANSWERS: [&str; 4] = ["syn=drop", "syn=reset", "syn=icmp", "syn=reset,syn-delay=6s"];
    let class = |m: &str, f: &str| ANSWERS.map(|answer| format!("mapping={m},filtering={f},{answer}"));
    let mut nats: Vec<String> =
        CLASSES.into_iter().flat_map(|m| CLASSES.into_iter().flat_map(move |f| class(m, f))).collect();
    nats.extend(CLASSES.map(|f| format!("mapping=direct,filtering={f}")));
    nats.extend(
        ["mapping=ei,filtering=pd", "linux", "linux-random", "linux+linux", "carrier"].map(str::to_owned),
    );
    nats
}

/// An independent or bursty line with 10 ms each way.
#[must_use]
pub fn line(loss: Loss) -> PathSpec {
    PathSpec::with_delay_ms(10).with_loss(loss)
}

/// Does all the work on two threads and returns the results in order.
///
/// # Panics
/// When the work does.
pub fn on_two_threads<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else { return done };
            done.push((at, work(item)));
        }
    };
    let mut all: Vec<(usize, R)> = thread::scope(|scope| {
        let threads = [scope.spawn(worker), scope.spawn(worker)];
        threads.into_iter().flat_map(|t| t.join().expect("a worker panicked")).collect()
    });
    all.sort_by_key(|(at, _)| *at);
    all.into_iter().map(|(_, result)| result).collect()
}
