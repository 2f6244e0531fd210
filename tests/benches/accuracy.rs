//! How often the client is wrong, how often it cannot tell, how long it takes and how much it sends, over simulated NATs
//! and lines that lose: `cargo bench -p natlab --bench accuracy`.

use std::time::Duration;

use nat_check_core::net::sim::{Fault, Loss, PathSpec};
use natlab::study::{Study, line};

fn main() {
    let each = |rate| line(Loss::Independent(rate));
    let bursts = |rate| line(Loss::Bursty { rate, burst: 5.0 });
    // A mobile network in motion.
    let restless = PathSpec {
        delay: Duration::from_millis(30),
        jitter: Duration::from_millis(80),
        reorder: 0.1,
        duplicate: 0.05,
        ..PathSpec::default()
    };
    let heavy = Loss::Independent(0.20);
    let fault = |fault: Fault| vec![fault];
    let none = Vec::new;
    let rows: Vec<(&str, PathSpec, Vec<Fault>, usize)> = vec![
        ("no loss, round trip 20 ms", line(Loss::None), none(), 4_000),
        ("no loss, round trip 50 ms", PathSpec::with_delay_ms(25), none(), 4_000),
        ("no loss, round trip 700 ms", PathSpec::with_delay_ms(350), none(), 2_000),
        ("no loss, round trip 2.5 s", PathSpec::with_delay_ms(1250), none(), 500),
        ("1 % each way", each(0.01), none(), 4_000),
        ("5 % each way", each(0.05), none(), 4_000),
        ("10 % each way", each(0.10), none(), 10_000),
        ("20 % each way", each(0.20), none(), 20_000),
        ("20 % on the way out alone", PathSpec { loss_up: heavy, ..line(Loss::None) }, none(), 10_000),
        ("20 % on the way back alone", PathSpec { loss_down: heavy, ..line(Loss::None) }, none(), 10_000),
        ("60 to 220 ms, 10 % overtaken, 5 % doubled", restless, none(), 10_000),
        ("the same, with 5 % each way", restless.with_loss(Loss::Independent(0.05)), none(), 10_000),
        ("10 % each way, bursts of 5", bursts(0.10), none(), 20_000),
        ("20 % each way, bursts of 5", bursts(0.20), none(), 10_000),
        (
            "uplink of 64 kbit/s",
            PathSpec { uplink_bits_per_s: Some(64_000), ..line(Loss::None) },
            none(),
            2_000,
        ),
        (
            "policed at 50 packets a second",
            PathSpec { policed_per_s: Some(50), ..line(Loss::None) },
            none(),
            2_000,
        ),
        (
            "policed at 20 packets a second",
            PathSpec { policed_per_s: Some(20), ..line(Loss::None) },
            none(),
            2_000,
        ),
        (
            "policed at 20 packets a second, 5 % each way",
            PathSpec { policed_per_s: Some(20), ..each(0.05) },
            none(),
            2_000,
        ),
        ("server of one thread, 150 ms a request", line(Loss::None), fault(Fault::OneByOne(0.15)), 2_000),
        ("server that answers 10 a second", line(Loss::None), fault(Fault::RateLimit(10.0)), 2_000),
        ("server that answers 5 a second", line(Loss::None), fault(Fault::RateLimit(5.0)), 1_000),
        ("server that answers 5, then none for 10 s", line(Loss::None), fault(Fault::Lockout(5)), 500),
        ("server with a single address", line(Loss::None), fault(Fault::SingleAddress), 2_000),
        ("tcp: no loss, round trip 50 ms", PathSpec::with_delay_ms(25), none(), 2_000),
        ("tcp: 10 % each way", each(0.10), none(), 10_000),
    ];
    // Words on the command line choose rows, `n=NUMBER` limits the runs of each, `open` shows what stays undecided and which
    // run took longest, `seed=NUMBER` prints every packet of that one run.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let most = arguments.iter().find_map(|a| a.strip_prefix("n=")?.parse().ok()).unwrap_or(usize::MAX);
    let seed = arguments.iter().find_map(|a| a.strip_prefix("seed=")?.parse().ok());
    let shows_open = arguments.iter().any(|a| a == "open");
    let words: Vec<&String> = arguments.iter().filter(|a| !a.contains('=') && *a != "open").collect();
    println!(
        "| line or server | runs | wrong | both axes decided | TCP mapping | median s | 99 % s | worst s | datagrams, mean | most |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for (name, path, faults, runs) in rows {
        if !words.is_empty() && !words.iter().any(|word| name.contains(word.as_str())) {
            continue;
        }
        let runs = runs.min(most);
        let study = Study { faults, ..Study::over(path, runs, 1_000_000) };
        let study = if name.starts_with("tcp") { study.over_tcp() } else { study };
        if let Some(seed) = seed {
            study.trace(seed).trace.iter().for_each(|packet| println!("{packet}"));
            continue;
        }
        let tally = study.run();
        println!(
            "| {name} | {runs} | {} | {:.2} % | {:.1} % | {:.2} | {:.2} | {:.2} | {:.0} | {} |",
            tally.wrong.len(),
            tally.decided() * 100.0,
            tally.over_tcp as f64 * 100.0 / runs as f64,
            tally.seconds_at(0.5),
            tally.seconds_at(0.99),
            tally.seconds_at(1.0),
            tally.datagrams.iter().sum::<u64>() as f64 / runs as f64,
            tally.datagrams[runs - 1],
        );
        for wrong in &tally.wrong {
            eprintln!("wrong: {wrong}");
        }
        if shows_open {
            eprintln!("slowest: {}", tally.slowest);
            tally.open.iter().for_each(|open| eprintln!("open: {open}"));
        }
    }
}
