//! How often the client is wrong, how often it cannot tell, how long it takes and how much it sends, over simulated NATs
//! and lines that lose: `cargo bench -p natlab --bench accuracy`.

use std::time::Duration;

use lab::study::{Study, line};
use nat_check_core::net::sim::{Loss, PathSpec};

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
    let rows: [(&str, PathSpec, usize); 13] = [
        ("no loss, round trip 20 ms", line(Loss::None), 4_000),
        ("no loss, round trip 50 ms", PathSpec::with_delay_ms(25), 4_000),
        ("no loss, round trip 700 ms", PathSpec::with_delay_ms(350), 2_000),
        ("1 % each way", each(0.01), 4_000),
        ("5 % each way", each(0.05), 4_000),
        ("10 % each way", each(0.10), 10_000),
        ("20 % each way", each(0.20), 20_000),
        ("20 % on the way out alone", PathSpec { loss_up: heavy, ..line(Loss::None) }, 10_000),
        ("20 % on the way back alone", PathSpec { loss_down: heavy, ..line(Loss::None) }, 10_000),
        ("60 to 220 ms, 10 % overtaken, 5 % doubled", restless, 10_000),
        ("the same, with 5 % each way", restless.with_loss(Loss::Independent(0.05)), 10_000),
        ("10 % each way, bursts of 5", bursts(0.10), 20_000),
        ("20 % each way, bursts of 5", bursts(0.20), 10_000),
    ];
    println!(
        "| line | runs | wrong | both axes decided | median s | 99 % s | worst s | datagrams, mean | most |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for (name, path, runs) in rows {
        let tally = Study { path, runs, first_seed: 1_000_000 }.run();
        println!(
            "| {name} | {runs} | {} | {:.2} % | {:.2} | {:.2} | {:.2} | {:.0} | {} |",
            tally.wrong.len(),
            tally.decided() * 100.0,
            tally.seconds_at(0.5),
            tally.seconds_at(0.99),
            tally.seconds_at(1.0),
            tally.datagrams.iter().sum::<u64>() as f64 / runs as f64,
            tally.datagrams[runs - 1],
        );
        for wrong in &tally.wrong {
            eprintln!("wrong: {wrong}");
        }
        if name.starts_with("no loss") {
            tally.open.iter().for_each(|open| eprintln!("open: {open}"));
        }
    }
}
