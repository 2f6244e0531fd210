//! The hole-punching verdict against brute force: two simulated peers really punch through two modelled NATs, for
//! every pair of mapping x filtering x filter keying x port allocation, and do as often as was predicted.

#[path = "punch_matrix/peers.rs"]
mod peers;

use std::collections::BTreeMap;

use nat_check_core::{
    report::{PeerOutcome, Technique},
    verdict::predict::{Budget, Next, Prediction, Side, Strategy, predict},
};
use peers::{Class, Pair};
use shared::nat::{Filtering, Mapping, PortPolicy, model::spec::Keying};

const MAPPINGS: [Mapping; 5] = [
    Mapping::Direct,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
    Mapping::PortDependent,
];
const FILTERINGS: [Filtering; 4] = [
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
    Filtering::PortDependent,
];
const KEYINGS: [Keying; 3] = [Keying::Mapping, Keying::Endpoint, Keying::Host];
const POLICIES: [PortPolicy; 4] =
    [PortPolicy::Preserving, PortPolicy::Sequential, PortPolicy::Random, PortPolicy::Block];

fn classes() -> Vec<Class> {
    let mut classes = Vec::new();
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for keying in KEYINGS {
                for policy in POLICIES {
                    classes.push(Class::new(mapping, filtering, keying, policy));
                }
            }
        }
    }
    classes
}

/// Runs and successes of one kind of cell.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    cells: u32,
    runs: u32,
    met: u32,
    expected: f64,
    variance: f64,
}

/// The chance of so few or so many successes, whichever is the rarer end, given the probability of one.
fn tail(runs: u32, met: u32, p: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        let certain = if p >= 1.0 { runs } else { 0 };
        return if met == certain { 1.0 } else { 0.0 };
    }
    let ln_factorial = |n: u32| (2..=n).map(|k| f64::from(k).ln()).sum::<f64>();
    let term = |k: u32| {
        let ways = ln_factorial(runs) - ln_factorial(k) - ln_factorial(runs - k);
        (ways + f64::from(k) * p.ln() + f64::from(runs - k) * (1.0 - p).ln()).exp()
    };
    let low: f64 = (0..=met).map(term).sum();
    let high: f64 = (met..=runs).map(term).sum();
    low.min(high)
}

/// One cell: the prediction against so many runs. What is not plain must also fail when it is tried plainly.
fn run_cell(a: &Class, b: &Class, runs: u32, seed: u64) -> (Prediction, u32) {
    let budget = Budget::DEFAULT;
    let prediction = predict(&Side::Udp(a.side), &Side::Udp(b.side), &budget);
    let plain = matches!(prediction.technique, Technique::Direct | Technique::Simultaneous);
    if !plain {
        let mut pair = Pair::new(a, b, seed);
        assert!(
            !pair.follow(Strategy::BothSend, &budget),
            "{a:?}\n{b:?}\nmeet plainly, not by {prediction:?}"
        );
    }
    let runs = if prediction.outcome == PeerOutcome::Relay { 0 } else { runs };
    let met = (0..runs)
        .filter(|run| {
            Pair::new(a, b, seed.wrapping_add(u64::from(*run))).follow(prediction.strategy, &budget)
        })
        .count();
    (prediction, u32::try_from(met).expect("few runs"))
}

/// Cells are this unlikely to be called wrong by chance: about one in thirty runs of the whole matrix, were the seed
/// not fixed.
const IMPROBABLE: f64 = 1e-6;

/// Further runs of a cell that missed.
const MORE: u32 = 40;

#[test]
fn a_cell_that_never_meets_is_condemned_whatever_was_predicted() {
    // The smallest chance that is worth an attempt, and the usual one, after the fewest runs there are.
    for p in [Budget::DEFAULT.worth, Budget::DEFAULT.aim] {
        assert!(tail(2 + MORE, 0, p) < IMPROBABLE);
    }
    assert!(tail(2 + MORE, 24, 0.99) < IMPROBABLE, "a little more than half instead of nearly always");
    assert!(tail(2 + MORE, 41, 0.99) > IMPROBABLE, "one miss is what 99 % means");
}

#[test]
fn every_pair_fares_as_predicted() {
    let classes = classes();
    let pairs: Vec<(usize, usize)> =
        (0..classes.len()).flat_map(|a| (a..classes.len()).map(move |b| (a, b))).collect();
    let half = pairs.len().div_ceil(2);
    let tallies: Vec<BTreeMap<String, Tally>> = std::thread::scope(|scope| {
        let threads: Vec<_> = pairs
            .chunks(half)
            .map(|chunk| {
                let classes = &classes;
                scope.spawn(move || tally(classes, chunk))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a cell is wrong")).collect()
    });
    let mut all: BTreeMap<String, Tally> = BTreeMap::new();
    for (name, part) in tallies.into_iter().flatten() {
        let sum = all.entry(name).or_default();
        sum.cells += part.cells;
        sum.runs += part.runs;
        sum.met += part.met;
        sum.expected += part.expected;
        sum.variance += part.variance;
    }
    println!("{:32} {:>6} {:>7} {:>7} {:>9}", "strategy", "cells", "runs", "met", "expected");
    for (name, t) in &all {
        println!("{name:32} {:>6} {:>7} {:>7} {:>9.1}", t.cells, t.runs, t.met, t.expected);
        let off = (f64::from(t.met) - t.expected).abs();
        assert!(off <= 5.0 * t.variance.sqrt() + 1e-9, "{name}: {t:?}");
    }
    assert_eq!(all.values().map(|t| t.cells).sum::<u32>() as usize, pairs.len());
}

fn tally(classes: &[Class], pairs: &[(usize, usize)]) -> BTreeMap<String, Tally> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    for &(a, b) in pairs {
        // Both orders take part, so that it never matters who is called the first one.
        let (a, b) = if (a + b) % 2 == 0 { (a, b) } else { (b, a) };
        let (a, b, seed) = (&classes[a], &classes[b], (a * classes.len() + b) as u64 * 1000);
        let expected = predict(&Side::Udp(a.side), &Side::Udp(b.side), &Budget::DEFAULT);
        let (name, runs) = match expected.strategy {
            Strategy::OneSends(_) => ("one side just sends", 2),
            Strategy::BothSend => ("both send", 2),
            Strategy::PredictOne { ports: 1, .. } => ("window of one", 3),
            Strategy::PredictOne { .. } => ("window", 10),
            Strategy::Birthday { .. } if expected.packets > Some(200) => ("birthday, all ports", 2),
            Strategy::Birthday { .. } => ("birthday, a block", 4),
            Strategy::PredictBoth(_) => ("both predict", 10),
            Strategy::GuessBoth { .. } => ("both guess", 4),
            Strategy::Tcp(_) | Strategy::Relay(_) => ("relay", 0),
        };
        let (prediction, met) = run_cell(a, b, runs, seed);
        let p = prediction.probability.expect("both sides are known");
        // So few runs cannot condemn a cell by themselves: one that missed at all is run until they could. Only the
        // first runs are counted below, so the totals stay what chance makes them.
        let (all_runs, all_met) = if met < runs && p < 1.0 {
            let (_, more) = run_cell(a, b, MORE, seed + 500);
            (runs + MORE, met + more)
        } else {
            (runs, met)
        };
        assert!(
            tail(all_runs, all_met, p) > IMPROBABLE,
            "{all_met} of {all_runs} met, predicted {p}:\n{prediction:?}\n{:?}\n{:?}",
            a.side,
            b.side
        );
        let sum = tallies.entry(name.into()).or_default();
        sum.cells += 1;
        sum.runs += runs;
        sum.met += met;
        sum.expected += f64::from(runs) * p;
        sum.variance += f64::from(runs) * p * (1.0 - p);
    }
    tallies
}

#[test]
fn less_than_certain_chances_are_met_as_often_as_predicted() {
    use Filtering as F;
    use Mapping as M;
    let strict = |mapping, policy| Class::new(mapping, F::AddressAndPortDependent, Keying::Mapping, policy);
    let home = strict(M::EndpointIndependent, PortPolicy::Preserving);
    let with = |cross_traffic: f64, class: Class| {
        let mut class = class;
        class.spec.ports.cross_traffic = cross_traffic;
        class.side.ports.next = Next::Step { cross_traffic };
        class
    };
    let sequential = || strict(M::AddressAndPortDependent, PortPolicy::Sequential);
    let random = || strict(M::AddressAndPortDependent, PortPolicy::Random);
    let small = Budget { packets: 175, worth: 0.0, ..Budget::DEFAULT };
    let few = Budget { sockets: 64, packets: 600, worth: 0.0, ..Budget::DEFAULT };
    let once = Budget { rounds: 1, worth: 0.0, ..Budget::DEFAULT };
    for (name, a, b, budget) in [
        ("175 guesses at 256 ports", home.clone(), random(), small),
        ("600 guesses at 64 ports", home.clone(), random(), few),
        ("a busy sequential NAT, once", home.clone(), with(440.0, sequential()), once),
        ("two busy sequential NATs, once", with(200.0, sequential()), with(220.0, sequential()), once),
        (
            "two busy sequential NATs by address, once",
            with(430.0, strict(M::AddressDependent, PortPolicy::Sequential)),
            with(400.0, strict(M::AddressDependent, PortPolicy::Sequential)),
            once,
        ),
        (
            "a known port against random ones",
            strict(M::AddressDependent, PortPolicy::Preserving),
            random(),
            Budget { sockets: 128, packets: 300, worth: 0.0, ..Budget::DEFAULT },
        ),
    ] {
        let prediction = predict(&Side::Udp(a.side), &Side::Udp(b.side), &budget);
        let p = prediction.probability.expect("both sides are known");
        assert!((0.02..0.98).contains(&p), "{name}: {p} would test nothing");
        let runs = 400;
        let met = (0..runs)
            .filter(|run| Pair::new(&a, &b, u64::from(*run)).follow(prediction.strategy, &budget))
            .count();
        let met = u32::try_from(met).expect("few runs");
        println!("{name}: {met} of {runs} met, {:.1} expected", f64::from(runs) * p);
        assert!(tail(runs, met, p) > 1e-5, "{name}: {met} of {runs} met, predicted {p}: {prediction:?}");
    }
}
