//! Every ordered pair of NAT classes really punches, in the simulated laboratory: `cargo bench -p natlab --bench punch`.
//!
//! `-- addresses` runs the part about NATs with several external addresses or few mappings alone, `-- tcp` the one with TCP
//! alone. `-- SEED PASSES` chooses other delays, losses, offsets; PASSES times the matrix of mapping x filtering x allocation (2
//! if not said otherwise), then once all pairs with filters that remember more than that, and with routers that remap. In the
//! end all classes with UDP blocked, over TCP, and how many rounds fail there by lost segments alone.
//! Exit code 1 says that outcomes and predictions do not agree.

use std::process::ExitCode;

use natlab::punch::{
    ANSWERS, Match, classes, further_classes, further_matrix, limited_mappings, matrix, over_tcp, run_all,
    several_addresses, tcp_matrix,
};

fn main() -> ExitCode {
    let is_asked_for = |part: &str| std::env::args().any(|argument| argument == part);
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (seed, passes) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(2));
    let agreed = match (is_asked_for("addresses"), is_asked_for("tcp")) {
        (false, false) => [classic(seed, passes), addresses(seed), tcp(seed)].iter().all(|agreed| *agreed),
        (true, false) => addresses(1),
        (_, true) => tcp(seed),
    };
    if agreed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn classic(seed: u64, passes: u64) -> bool {
    let (usual, further) = (classes().len(), further_classes().len());
    let all: Vec<_> = (0..passes).flat_map(|pass| matrix(seed.wrapping_add(pass))).collect();
    let usual_agree =
        agree(&format!("{usual} classes, mapping x filtering x allocation, {passes} times"), &all);
    let further = format!("{further} further classes, with each other and with those {usual}, once");
    agree(&further, &further_matrix(seed)) && usual_agree
}

/// NATs with several external addresses, or with few mappings: by pair, what was predicted and what was met.
fn addresses(seed: u64) -> bool {
    const PAIRS: usize = 40;
    println!("Several external addresses, few mappings; {PAIRS} punches each:");
    let mut agreed = true;
    for (name, matches) in several_addresses(PAIRS, seed).into_iter().chain(limited_mappings(PAIRS, seed)) {
        let tally = run_all(&matches, 2);
        let (known, expected, met) = tally.predicted_and_met();
        let unknown = tally.unknown;
        let direct: usize = tally.by_technique.values().sum();
        println!(
            "  {name}: predicted {known}, expected {expected:.1}, met {met}; not predicted {unknown}, met {}",
            direct - met
        );
        let complaints = tally.complaints();
        complaints.iter().take(5).for_each(|complaint| println!("    {complaint}"));
        agreed &= complaints.is_empty();
    }
    agreed
}

/// UDP blocked on both sides: every pair of classes over TCP, and usual NATs by what they do with connections from outside.
fn tcp(seed: u64) -> bool {
    const PAIRS: usize = 200;
    let name = format!("{} classes, mapping x filtering x allocation, over TCP alone", classes().len());
    let mut agreed = agree(&name, &tcp_matrix(seed));
    println!(
        "Usual NATs over TCP alone, {PAIRS} punches each, by what gateways do with connections from outside:"
    );
    for a in ANSWERS {
        for b in ANSWERS {
            let tally = run_all(&over_tcp([a, b], PAIRS, seed), 2);
            let (known, expected, met) = tally.predicted_and_met();
            println!(
                "  {a} with {b}: predicted {known}, expected {expected:.1}, met {met}, by round {:?}; not predicted {}",
                tally.tcp_rounds, tally.unknown
            );
            agreed &= tally.complaints().is_empty();
        }
    }
    agreed
}

fn agree(name: &str, all: &[Match]) -> bool {
    let begun = tokio::time::Instant::now();
    let tally = run_all(all, 2);
    println!("{name}:\n{}took {:.0} s", tally.figures(), begun.elapsed().as_secs_f64());
    for (why, (count, met)) in &tally.unknown_because {
        println!("not predicted {count}, met {met}: {why}");
    }
    for failed in tally.sure.1.iter().take(20) {
        println!("failed against the prediction: {failed}");
    }
    let complaints = tally.complaints();
    complaints.iter().take(50).for_each(|complaint| println!("{complaint}"));
    complaints.is_empty()
}
