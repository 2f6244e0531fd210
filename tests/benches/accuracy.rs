//! How often the client is wrong, how often it cannot tell, how long it takes and how much it sends, over simulated NATs
//! and lines that lose: `cargo bench -p tests --bench accuracy`.

use lab::study::{Study, line};
use nat_check::net::sim::{Loss, PathSpec};

fn main() {
    let each = |rate| line(Loss::Independent(rate));
    let bursts = |rate| line(Loss::Bursty { rate, burst: 5.0 });
    let rows: [(&str, PathSpec, usize); 9] = [
        ("no loss, round trip 20 ms", line(Loss::None), 4_000),
        ("no loss, round trip 50 ms", PathSpec::with_delay_ms(25), 4_000),
        ("no loss, round trip 700 ms", PathSpec::with_delay_ms(350), 2_000),
        ("1 % each way", each(0.01), 4_000),
        ("5 % each way", each(0.05), 4_000),
        ("10 % each way", each(0.10), 10_000),
        ("20 % each way", each(0.20), 20_000),
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
