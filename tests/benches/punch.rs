//! Every ordered pair of NAT classes really punches, in the simulated laboratory: `cargo bench -p natlab --bench punch`.
//!
//! `-- addresses` runs the part about NATs with several external addresses or few mappings alone. `-- SEED PASSES` chooses other delays, losses, offsets; PASSES times the matrix of mapping x filtering x allocation (2
//! if not said otherwise), then once all pairs with filters that remember more than that, and with routers that remap.
//! In the end pairs that have TCP alone, by what their gateways answer to a connection that nobody asked for: no
//! client can measure that, so the chance that is stated for TCP is an assumption, and this is what it stands on.
//! Exit code 1 says that outcomes and predictions do not agree.

use std::process::ExitCode;

use natlab::punch::{
    Match, REFUSALS, classes, further_classes, further_matrix, limited_mappings, matrix, over_tcp, run_all,
    several_addresses,
};

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "addresses") {
        return if addresses(1) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let (seed, passes) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(2));
    let (usual, further) = (classes().len(), further_classes().len());
    let all: Vec<_> = (0..passes).flat_map(|pass| matrix(seed.wrapping_add(pass))).collect();
    let agreed = [
        agree(&format!("{usual} classes, mapping x filtering x allocation, {passes} times"), &all),
        agree(
            &format!("{further} further classes, with each other and with those {usual}, once"),
            &further_matrix(seed),
        ),
    ];
    let agreed = [agreed[0], agreed[1], addresses(seed)];
    tcp(seed);
    if agreed == [true; 3] { ExitCode::SUCCESS } else { ExitCode::FAILURE }
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

fn tcp(seed: u64) {
    const PAIRS: usize = 100;
    println!("TCP alone, direct of {PAIRS} pairs by what gateways answer to an unsolicited SYN:");
    for a in REFUSALS {
        let cells = REFUSALS.map(|b| {
            let tally = run_all(&over_tcp([a, b], PAIRS, seed), 2);
            format!("{b} {}", tally.by_technique.get("tcp").copied().unwrap_or_default())
        });
        println!("  {a} with {}", cells.join(", "));
    }
}

fn agree(name: &str, all: &[Match]) -> bool {
    let begun = tokio::time::Instant::now();
    let tally = run_all(all, 2);
    println!("{name}:\n{}took {:.0} s", tally.figures(), begun.elapsed().as_secs_f64());
    for failed in tally.sure.1.iter().take(20) {
        println!("failed against the prediction: {failed}");
    }
    let complaints = tally.complaints();
    complaints.iter().take(50).for_each(|complaint| println!("{complaint}"));
    complaints.is_empty()
}
