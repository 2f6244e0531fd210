//! What the layers of NAT cost: pairs of default runs, one with the measurement and one without, in turns behind the same NAT;
//! and what looking for port mapping costs where nobody answers.
//!
//! `cargo bench -p natlab --bench layers` prints it; `-- n=NUMBER` sets the number of pairs. It fails where the median
//! difference within pairs is more than 50 ms, or looking takes more than 1.2 s.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("this benchmark needs Linux");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{process::ExitCode, time::Duration};

    use nat_check_core::net::sim::PathSpec;
    use natlab::{Lab, LabError, address::SERVER4, binaries::binary, client::nat_check, tun::TunSite};
    use shared::nat::model::{SpecError, Stack};

    /// A line: its name, the NAT, and the delay each way.
    const LINES: [(&str, &str, Duration); 3] = [
        ("one NAT, 0 ms", "linux", Duration::ZERO),
        ("one NAT, 50 ms", "port-restricted-cone", Duration::from_millis(25)),
        ("a carrier's behind it, 50 ms", "linux+symmetric", Duration::from_millis(25)),
    ];
    /// What is compared: with it, and without it.
    const LAYERS: [&[&str]; 2] = [&["-4"], &["-4", "--skip", "layers"]];
    /// Looking for who opens ports is all that the first of these does besides.
    const DISCOVERY: [&[&str]; 2] = [&["-4", "--only", "mapping,port-mapping"], &["-4", "--only", "mapping"]];
    /// The longest that looking may take where nobody answers.
    const LONGEST_DISCOVERY_S: f64 = 1.2;
    /// A median difference that a busy machine makes of nothing.
    const SPREAD_S: f64 = 0.05;

    pub(crate) fn main() -> ExitCode {
        match compare() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn compare() -> Result<bool, LabError> {
        // Built before anything is timed.
        binary("nat-check")?;
        let count = std::env::args().find_map(|it| it.strip_prefix("n=")?.parse().ok()).unwrap_or(15);
        println!("{count} pairs each; seconds as the report says, medians");
        println!("| line | compared | with | without | difference in a pair | slower in |");
        println!("|---|---|---|---|---|---|");
        let mut is_good = true;
        for line in &LINES {
            is_good &= row(line, "layers", LAYERS, count)? <= SPREAD_S;
        }
        is_good &= row(&LINES[0], "discovery, nobody answers", DISCOVERY, count)? <= LONGEST_DISCOVERY_S;
        Ok(is_good)
    }

    /// Prints a row, and gives the median difference.
    fn row(
        (name, nat, delay): &(&str, &str, Duration),
        what: &str,
        arguments: [&[&str]; 2],
        count: usize,
    ) -> Result<f64, LabError> {
        let stack: Stack = nat.parse().map_err(|e: SpecError| LabError::Words(e.to_string()))?;
        let line = PathSpec { delay: *delay, ..PathSpec::default() };
        let lab = Lab::tun(&[TunSite { line, ..TunSite::new(stack) }], 1)?;
        let _server = lab.server()?;
        let measure = |arguments: &[&str]| {
            let run = nat_check(lab.host(0), SERVER4[0].into(), arguments)?;
            let seconds = run.report["duration_s"].as_f64();
            seconds.ok_or_else(|| LabError::Words(format!("no report: {}", run.output.stderr)))
        };
        let mut pairs = Vec::new();
        for number in 0..count {
            // Each comes first in every other pair.
            let (first, second) = if number % 2 == 0 { (0, 1) } else { (1, 0) };
            let mut seconds = [0.0; 2];
            seconds[first] = measure(arguments[first])?;
            seconds[second] = measure(arguments[second])?;
            pairs.push(seconds);
        }
        let of = |value: fn(&[f64; 2]) -> f64| median(pairs.iter().map(value).collect());
        let difference = of(|[with, without]| with - without);
        println!(
            "| {name} | {what} | {:.3} | {:.3} | {difference:+.3} | {} of {count} |",
            of(|pair| pair[0]),
            of(|pair| pair[1]),
            pairs.iter().filter(|[with, without]| with > without).count()
        );
        Ok(difference)
    }

    fn median(mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }
}
