//! The matrix: the real client behind every class of NAT, on lines that lose, in virtual time; and every scenario that
//! the simulated driver can express.

use std::{collections::BTreeMap, time::Duration};

use nat_check_core::{
    net::sim::{Fault, Loss, PathSpec, ServerSpec},
    selection::Selection,
};
use natlab::{
    oracle::{self, Judgement},
    requirements,
    scenario::{Driver, Scenario},
    sim::Sim,
    study::{Study, nats, on_two_threads, tcp_nats},
};
use shared::nat::model::{NatSpec, PRESETS, Stack};

const MAPPINGS: [&str; 4] = ["ei", "ad", "apd", "pd"];
const FILTERS: [&str; 4] = ["ei", "ad", "apd", "pd"];
const PORTS: [&str; 4] = ["preserving", "sequential", "random", "block,block=256"];
const LOSS: [f64; 4] = [0.0, 0.01, 0.05, 0.10];
const SEEDS: u64 = 20;
const AXES: [&str; 3] = ["ipv4.udp.mapping", "ipv4.udp.filtering", "ipv4.udp.nat_type"];

/// One run of the matrix.
struct Cell {
    spec: String,
    loss: f64,
    seed: u64,
}

fn cells() -> Vec<Cell> {
    let mut specs: Vec<String> = FILTERS.iter().map(|f| format!("mapping=direct,filtering={f}")).collect();
    for m in MAPPINGS {
        for f in FILTERS {
            specs.extend(PORTS.iter().map(|p| format!("mapping={m},filtering={f},ports={p}")));
        }
    }
    let mut cells = Vec::new();
    for spec in &specs {
        for loss in LOSS {
            cells.extend((0..SEEDS).map(|seed| Cell { spec: spec.clone(), loss, seed }));
        }
    }
    cells
}

fn run(cell: &Cell) -> Judgement {
    let nat: Stack = cell.spec.parse().expect(&cell.spec);
    let expected = oracle::expected(&nat);
    let loss = if cell.loss > 0.0 { Loss::Independent(cell.loss) } else { Loss::None };
    let path = PathSpec::with_delay_ms(10).with_loss(loss);
    let report = Sim { path, ..Sim::new(nat.clone(), cell.seed) }.run().report;
    let mut judgement = oracle::judge(&expected, &report);
    judgement.wrong.extend(requirements::hold(&nat, &report).wrong);
    judgement
}

#[test]
fn every_class_is_reported_right_at_every_loss() {
    let cells = cells();
    assert!(cells.len() > 5000);
    let judgements = on_two_threads(&cells, run);
    let mut undecided: BTreeMap<String, usize> = BTreeMap::new();
    let mut complaints = Vec::new();
    for (cell, judgement) in cells.iter().zip(&judgements) {
        let Cell { spec, loss, seed } = cell;
        let open = AXES.iter().filter(|axis| !judgement.decided(axis)).count();
        if open > 0 {
            *undecided.entry(format!("{:.0} % loss", loss * 100.0)).or_default() += 1;
        }
        if !judgement.wrong.is_empty() {
            complaints.push(format!("{spec} loss {loss} seed {seed}: {}", judgement.wrong.join("; ")));
        } else if open > 0 && *loss == 0.0 {
            complaints.push(format!("{spec} without loss, seed {seed}: {}", judgement.undecided.join("; ")));
        }
    }
    println!("{} runs; with an axis undecided: {undecided:?}", cells.len());
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), cells.len(), complaints.join("\n"));
    let at_ten = undecided.get("10 % loss").copied().unwrap_or(0);
    let of = cells.iter().filter(|c| c.loss == 0.10).count();
    assert!(at_ten * 100 <= of, "{at_ten} of {of} runs at 10 % loss left an axis undecided");
}

const TCP_FINDINGS: [&str; 5] = [
    "ipv4.tcp.mapping",
    "ipv4.tcp.filtering",
    "ipv4.tcp.same_address_as_udp",
    "ipv4.tcp.intercepted",
    "ipv4.udp.nat_type",
];

#[test]
fn every_class_is_reported_right_over_tcp() {
    let nats = tcp_nats();
    let complaints = on_two_threads(&nats, |nat| {
        let stack: Stack = nat.parse().expect(nat);
        let path = PathSpec::with_delay_ms(10);
        let run = Sim { path, ..Sim::new(stack.clone(), 3) }.run();
        let judgement = oracle::judge(&oracle::expected(&stack), &run.report);
        let open = TCP_FINDINGS.iter().filter(|path| !judgement.decided(path));
        let mut complaints: Vec<String> = open.map(|path| format!("{nat}: {path} is open")).collect();
        let undecided = judgement.undecided.iter().filter(|why| why.starts_with("ipv4.tcp."));
        complaints.extend(judgement.wrong.iter().chain(undecided).map(|why| format!("{nat}: {why}")));
        complaints
    });
    let complaints: Vec<String> = complaints.into_iter().flatten().collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// RFC 5382 REQ-4: a NAT may answer an unsolicited SYN when 6 s have passed.
#[test]
fn a_late_answer_is_seen_where_it_is_asked_for() {
    for (answer, word) in [("syn=reset", "reset"), ("syn=icmp", "icmp")] {
        let stack: Stack = format!("port-restricted-cone,{answer},syn-delay=6s").parse().expect("a NAT");
        let tests = Selection::Only(vec!["tcp-syn".to_owned()]);
        let run = Sim { path: PathSpec::with_delay_ms(10), tests, ..Sim::new(stack, 5) }.run();
        let tcp = run.report.ipv4.tcp.expect("TCP was tested");
        let syn = tcp.unsolicited_syn.value.unwrap_or_else(|| panic!("{:?}", tcp.unsolicited_syn));
        assert_eq!(serde_json::json!(syn.answer), word);
        assert!((6.0..6.2).contains(&syn.after_s), "after {} s", syn.after_s);
    }
    let stack: Stack = "port-restricted-cone".parse().expect("a NAT");
    let tests = Selection::Only(vec!["tcp-syn".to_owned()]);
    let run = Sim { path: PathSpec::with_delay_ms(10), tests, ..Sim::new(stack, 5) }.run();
    let tcp = run.report.ipv4.tcp.expect("TCP was tested");
    let syn = tcp.unsolicited_syn.value.unwrap_or_else(|| panic!("{:?}", tcp.unsolicited_syn));
    assert_eq!(serde_json::json!(syn.answer), "drop");
    assert!(syn.after_s >= 6.0, "watched for {} s", syn.after_s);
}

/// What must be reached on a line or with a server, over a sample; `cargo bench -p natlab --bench accuracy` has more of it.
struct Bar {
    about: &'static str,
    path: PathSpec,
    faults: &'static [Fault],
    /// Share of runs that decide both axes.
    decided: f64,
    /// Seconds that half of the runs, 99 % of them, and all of them may take.
    seconds: [f64; 3],
    /// Datagrams that a run may send.
    datagrams: u64,
}

/// What a clean line must reach: what is not said of others holds for them, too.
fn clean() -> Bar {
    let path = PathSpec::with_delay_ms(25);
    Bar { about: "a clean line", path, faults: &[], decided: 1.0, seconds: [0.42, 0.6, 1.0], datagrams: 150 }
}

#[test]
fn where_udp_loses_nothing_a_connection_without_an_answer_is_not_waited_for() {
    let nat = "port-restricted-cone,tcp=blocked".parse().expect("a NAT");
    let run = Sim { path: clean().path, ..Sim::new(nat, 1) }.run();
    assert!(run.report.duration_s < 0.6, "{} s", run.report.duration_s);
}

#[test]
fn what_lines_and_servers_do_delays_the_verdict_little_and_makes_none_wrong() {
    let lossy = |loss| PathSpec::with_delay_ms(10).with_loss(loss);
    let bars = [
        clean(),
        Bar {
            about: "20 % lost each way",
            path: lossy(Loss::Independent(0.20)),
            decided: 0.99,
            seconds: [1.6, 3.0, 8.0],
            datagrams: 400,
            ..clean()
        },
        Bar {
            about: "10 % in bursts of five",
            path: lossy(Loss::Bursty { rate: 0.10, burst: 5.0 }),
            decided: 0.995,
            seconds: [0.6, 2.0, 6.0],
            datagrams: 400,
            ..clean()
        },
        Bar {
            about: "20 % in bursts of five",
            path: lossy(Loss::Bursty { rate: 0.20, burst: 5.0 }),
            decided: 0.97,
            seconds: [1.0, 2.5, 6.0],
            datagrams: 400,
            ..clean()
        },
        Bar {
            about: "an uplink of 64 kbit/s",
            path: PathSpec { uplink_bits_per_s: Some(64_000), ..clean().path },
            seconds: [1.2, 2.0, 3.0],
            ..clean()
        },
        Bar {
            about: "policed at 20 packets a second",
            path: PathSpec { policed_per_s: Some(20), ..clean().path },
            decided: 0.99,
            seconds: [3.0, 4.0, 6.0],
            ..clean()
        },
        Bar {
            about: "policed at 50 packets a second",
            path: PathSpec { policed_per_s: Some(50), ..clean().path },
            decided: 0.99,
            seconds: [2.0, 3.0, 6.0],
            datagrams: 400,
            ..clean()
        },
        Bar {
            about: "a server that takes 150 ms for each request",
            faults: &[Fault::OneByOne(0.15)],
            seconds: [6.0, 6.0, 7.0],
            ..clean()
        },
        Bar {
            about: "a server that answers 10 a second",
            faults: &[Fault::RateLimit(10.0)],
            decided: 0.99,
            seconds: [4.0, 5.0, 6.0],
            ..clean()
        },
    ];
    let mut missed = Vec::new();
    for Bar { about, path, faults, decided, seconds, datagrams } in bars {
        let tally = Study { faults: faults.to_vec(), ..Study::over(path, 600, 50_000) }.run();
        let took = [0.5, 0.99, 1.0].map(|share| tally.seconds_at(share));
        let most = tally.datagrams[tally.runs - 1];
        let share = tally.decided() * 100.0;
        let found = format!("{about}: {share:.2} % decided, {took:.2?} s, at most {most} datagrams");
        println!("{found}");
        let in_time = took.iter().zip(seconds).all(|(took, may)| *took <= may);
        let good = in_time && tally.decided() >= decided && most <= datagrams;
        missed.extend((!good).then_some(found));
        missed.extend(tally.wrong.iter().map(|wrong| format!("{about}: wrong: {wrong}")));
    }
    assert!(missed.is_empty(), "\n{}", missed.join("\n"));
}

/// The NAT gives a late socket the external port 3478, from which the server takes no requests.
#[test]
fn a_socket_that_a_slow_server_never_answers_is_soon_given_up() {
    let nat = "mapping=ei,filtering=apd,ports=random".parse().expect("a NAT");
    let server = ServerSpec::with_faults([Fault::OneByOne(0.15)]);
    let run =
        Sim { path: PathSpec::with_delay_ms(10), server, trace: true, ..Sim::new(nat, 1_000_514) }.run();
    assert!(run.trace.iter().any(|packet| packet.contains("own-port")), "the seed shows it no more");
    assert!(run.report.duration_s < 8.0, "{} s", run.report.duration_s);
}

#[test]
fn the_queue_at_a_slow_server_is_no_part_of_the_way() {
    let nat = "port-restricted-cone".parse().expect("a NAT");
    let server = ServerSpec::with_faults([Fault::SingleAddress, Fault::OneByOne(0.15)]);
    let run = Sim { path: PathSpec::with_delay_ms(10), server, ..Sim::new(nat, 1) }.run();
    let rtt = run.report.ipv4.udp.and_then(|udp| udp.rtt_s).expect("it answers");
    assert!((0.1..0.2).contains(&rtt), "{rtt} s");
}

#[test]
fn every_scenario_is_reported_as_it_says() {
    let scenarios = Scenario::for_driver(Driver::Sim).expect("scenarios");
    assert!(scenarios.len() >= 45, "{} scenarios", scenarios.len());
    let complaints =
        on_two_threads(&scenarios, |scenario| (1..=3).flat_map(|seed| complaints(scenario, seed)).collect());
    let complaints: Vec<String> = complaints.into_iter().flat_map(|c: Vec<String>| c).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn complaints(scenario: &Scenario, seed: u64) -> Vec<String> {
    let expected = serde_json::to_value(&scenario.report).expect("TOML is JSON");
    let report = Sim::of(scenario, seed).run().report;
    let Judgement { mut wrong, undecided, right } = oracle::judge(&expected, &report);
    if !scenario.network.loses() {
        wrong.extend(undecided);
    }
    if right.is_empty() {
        wrong.push("nothing of it was said".to_owned());
    }
    // Whatever is wrong with the server, the NAT must not be called what it is not.
    let udp = |value: &serde_json::Value| serde_json::json!({ "ipv4": { "udp": value["ipv4"]["udp"] } });
    let served = !scenario.server.faults.contains(&Fault::UdpDead);
    if served && report.ipv4.udp.is_some() {
        wrong.extend(oracle::judge(&udp(&oracle::expected(&scenario.nat)), &report).wrong);
    }
    wrong.into_iter().map(|why| format!("{} seed {seed}: {why}", scenario.name)).collect()
}

#[test]
fn scenarios_and_model_agree() {
    for scenario in Scenario::all().expect("scenarios") {
        let blocked = scenario.nat.behaviour().udp.is_none();
        // What a firewall or a fault hides, the model still has.
        if !scenario.server.faults.is_empty() || scenario.network.only_port.is_some() || blocked {
            continue;
        }
        // Whatever a scenario says of a path that the model has an opinion on must be that opinion.
        let model = oracle::expected(&scenario.nat);
        let said = serde_json::to_value(&scenario.report).expect("TOML is JSON");
        for (path, value) in leaves("", &said) {
            if let Some(opinion) = model.pointer(&path).filter(|_| value != oracle::UNSURE) {
                assert_eq!(opinion, &value, "{}: {path}", scenario.name);
            }
        }
    }
}

fn leaves(path: &str, value: &serde_json::Value) -> Vec<(String, serde_json::Value)> {
    match value {
        serde_json::Value::Object(parts) => {
            parts.iter().flat_map(|(key, part)| leaves(&format!("{path}/{key}"), part)).collect()
        }
        leaf => vec![(path.to_owned(), leaf.clone())],
    }
}

#[test]
fn the_same_seed_leaves_the_same_trace() {
    for preset in PRESETS {
        let run = |seed| {
            let nat = Stack::from(preset.name.parse::<NatSpec>().expect(preset.name));
            let path = PathSpec { duplicate: 0.05, ..PathSpec::default().with_loss(Loss::Independent(0.1)) };
            let run = Sim { path, trace: true, ..Sim::new(nat, seed) }.run();
            (run.trace, serde_json::to_string(&run.report).expect("a report is JSON"))
        };
        let (trace, report) = run(1);
        assert!(trace.len() > 20, "{}: a trace of {} lines", preset.name, trace.len());
        assert_eq!((trace, report), run(1), "{}", preset.name);
    }
}

/// Timers on both sides of what RFC 4787 asks for, and what the RFCs say of everything else.
#[test]
fn the_requirements_of_the_rfcs_are_judged_right() {
    let timers = [
        "port-restricted-cone,timeout=60",
        "full-cone,timeout=115",
        "restricted-cone,timeout=130",
        "symmetric,timeout=320",
        "linux,unreplied=30,stream=180",
        "restricted-cone,timeout=90,refresh=inbound",
        "port-restricted-cone,timeout=90,refresh=outbound",
    ];
    let asked: Vec<(String, Option<u64>)> = timers
        .iter()
        .map(|nat| ((*nat).to_owned(), Some(310)))
        .chain(nats().into_iter().chain(tcp_nats()).map(|nat| (nat, None)))
        .collect();
    let held = on_two_threads(&asked, |(nat, lifetime)| {
        let nat: Stack = nat.parse().expect(nat);
        let lifetime = lifetime.map(Duration::from_secs);
        let path = PathSpec::with_delay_ms(10);
        let report = Sim { path, lifetime, ..Sim::new(nat.clone(), 1) }.run().report;
        requirements::hold(&nat, &report)
    });
    let mut settled: BTreeMap<String, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    for ((nat, _), held) in asked.iter().zip(held) {
        wrong.extend(held.wrong.iter().map(|it| format!("{nat}: {it}")));
        held.right.into_iter().for_each(|name| *settled.entry(name).or_default() += 1);
    }
    println!("settled, and right: {settled:#?}");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let least = |name: &str, least: usize| {
        let count = settled.get(name).copied().unwrap_or(0);
        assert!(count >= least, "{name}: settled for {count} NATs, not for {least}");
    };
    for (name, count) in [
        ("RFC 4787 REQ-1", 80),
        ("RFC 4787 REQ-4", 35),
        ("RFC 4787 REQ-5", 6),
        ("RFC 4787 REQ-5c", 5),
        ("RFC 4787 REQ-6", 3),
        ("RFC 4787 REQ-8", 110),
        ("RFC 5382 REQ-1", 80),
        ("RFC 5382 REQ-3", 80),
        ("RFC 5382 REQ-4", 10),
    ] {
        least(name, count);
    }
}
