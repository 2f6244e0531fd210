//! Accuracy and duration of the lifetime measurement: `cargo bench -p natlab --bench lifetime`. First in virtual time, then
//! with real sockets over modelled NATs, where this system allows it. Names of parts after `--` (`exact`, `lossy`,
//! `styles`, `real`) run only those.

use std::{error::Error, ops::Range, time::Duration};

use nat_check_core::{
    net::sim::{Loss, PathSpec},
    report::{Finding, Report},
};
use natlab::{
    lifetime::{Verdict, bound, judge, width},
    sim::Sim,
    study::on_two_threads,
};
use shared::nat::{ExpiryStyle, Lifetime, Refresh, model::Stack};

fn main() -> Result<(), Box<dyn Error>> {
    // Privilege can be had while there is one thread.
    #[cfg(target_os = "linux")]
    let privilege = natlab::netns::obtain_privilege();
    let named: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let wanted = |part: &str| named.is_empty() || named.iter().any(|name| name == part);
    if wanted("exact") {
        random_timers(5.0..590.0, 600, 300, Loss::None);
        random_timers(5.0..15.0, 180, 200, Loss::None);
        random_timers(5.0..60.0, 60, 200, Loss::None);
    }
    if wanted("lossy") {
        random_timers(5.0..590.0, 600, 5_000, Loss::Independent(0.05));
    }
    if wanted("styles") {
        refresh_and_styles(100);
    }
    #[cfg(target_os = "linux")]
    if wanted("real") {
        match privilege {
            Ok(()) => real::main()?,
            Err(reason) => println!("\nSKIPPED: real sockets: {reason}"),
        }
    }
    Ok(())
}

/// One run in virtual time.
struct Run {
    timer: f64,
    verdict: Verdict,
    width: Option<f64>,
    seconds: f64,
    sockets: f64,
    rate: f64,
    /// False statements about what refreshes mappings and how they expire.
    untrue: usize,
    text: String,
}

fn finding(report: &Report) -> Option<&Finding<Lifetime>> {
    Some(&report.ipv4.udp.as_ref()?.lifetime)
}

fn run(nat: &str, longest: u64, loss: Loss, seed: u64) -> Report {
    let stack: Stack = nat.parse().expect(nat);
    let path = PathSpec::with_delay_ms(5 + seed % 40).with_loss(loss);
    Sim { path, lifetime: Some(Duration::from_secs(longest)), ..Sim::new(stack, seed) }.run().report
}

fn random_timers(timers: Range<f64>, longest: u64, runs: u64, loss: Loss) {
    let seeds: Vec<u64> = (0..runs).collect();
    let results = on_two_threads(&seeds, |&seed| {
        let timer = fastrand::Rng::with_seed(seed).f64() * (timers.end - timers.start) + timers.start;
        let timer = (timer * 100.0).round() / 100.0;
        let report = run(&format!("port-restricted-cone,timeout={timer}"), longest, loss, seed);
        let Some(finding) = finding(&report) else {
            let text = format!("seed {seed}: no UDP");
            return Run {
                timer,
                verdict: Verdict::Unknown,
                width: None,
                seconds: 0.0,
                sockets: 0.0,
                rate: 0.0,
                untrue: 0,
                text,
            };
        };
        let fact = |name: &str| finding.evidence.get(name).and_then(serde_json::Value::as_f64).unwrap_or(0.0);
        Run {
            timer,
            verdict: judge(finding, timer, timer),
            width: finding.value.as_ref().and_then(width),
            seconds: report.duration_s,
            sockets: fact("sockets"),
            rate: fact("packets") / fact("took_s").max(0.1),
            untrue: finding.value.as_ref().map_or(0, untrue),
            text: format!("seed {seed}, {timer} s: {:?} {:?}", finding.value, finding.reason),
        }
    });
    println!(
        "\n{runs} runs, timers of {} to {} s, {loss:?} each way, --lifetime={longest}",
        timers.start, timers.end
    );
    let count = |verdict| results.iter().filter(|r| r.verdict == verdict).count();
    println!(
        "  true value inside the bracket {}, unknown {}, false but weak {}, false and strong {}",
        count(Verdict::Inside),
        count(Verdict::Unknown),
        count(Verdict::Doubtful),
        count(Verdict::Wrong)
    );
    println!(
        "  false about what refreshes mappings and how they expire: {} runs",
        results.iter().filter(|r| r.untrue > 0).count()
    );
    let most = |of: fn(&Run) -> f64| results.iter().map(of).fold(0.0, f64::max);
    let widest = |low: f64, high: f64| {
        let some = results.iter().filter(|r| r.timer >= low && r.timer < high);
        some.filter_map(|r| r.width).fold(0.0, f64::max)
    };
    println!(
        "  widest bracket: {:.2} s up to 60 s, {:.2} s up to 180 s, {:.2} s beyond",
        widest(0.0, 60.0),
        widest(60.0, 180.0),
        widest(180.0, 1e9)
    );
    let late = |r: &&Run| (15.0..=180.0).contains(&r.timer) && r.seconds > bound(r.timer);
    let of = results.iter().filter(|r| (15.0..=180.0).contains(&r.timer)).count();
    println!(
        "  later than 1.15 L + 5 s: {} of {of} timers from 15 to 180 s",
        results.iter().filter(late).count()
    );
    println!("  most sockets {}, most packets a second {:.1}", most(|r| r.sockets), most(|r| r.rate));
    let busy = |r: &&Run| r.rate > 10.0;
    println!(
        "  more than 10 packets a second: {} runs, longest timer {:.1} s",
        results.iter().filter(busy).count(),
        results.iter().filter(busy).map(|r| r.timer).fold(0.0, f64::max)
    );
    for run in results.iter().filter(|r| r.untrue > 0).take(10) {
        println!("  untrue: {}", run.text);
    }
    for run in results.iter().filter(|r| r.verdict >= Verdict::Unknown).take(10) {
        println!("  {:?}: {}", run.verdict, run.text);
    }
    for run in results.iter().filter(|r| r.timer < 60.0 && r.width.unwrap_or(0.0) > 1.0).take(10) {
        println!("  wide: {}", run.text);
    }
    for run in results.iter().filter(late).take(5) {
        println!("  late, {:.2} s of {:.2}: {}", run.seconds, bound(run.timer), run.text);
    }
}

/// False statements about a NAT with one exact timer per mapping that packets in both directions refresh.
fn untrue(lifetime: &Lifetime) -> usize {
    let Refresh { outbound, inbound, elsewhere } = lifetime.refresh;
    let refresh = [outbound, inbound, elsewhere].into_iter().filter(|said| *said == Some(false)).count();
    refresh + usize::from(lifetime.granularity.is_some_and(|g| g.style != ExpiryStyle::Exact))
}

/// How often what refreshes mappings and how they expire is recognised.
fn refresh_and_styles(runs: u64) {
    println!(
        "\n{runs} runs each, what refreshes and how mappings expire: right, likely but wrong, sure but wrong, unknown"
    );
    /// Whether a statement is right, and whether it is marked as sure.
    type Reading = fn(&Lifetime) -> Option<(bool, bool)>;
    type Any = Box<dyn Fn(&Lifetime) -> Option<(bool, bool)> + Sync>;
    let style = |is: ExpiryStyle| move |l: &Lifetime| l.granularity.map(|g| (g.style == is, g.sure));
    let rows: [(&str, &str, Any); 11] = [
        (
            "20,refresh=both",
            "outbound refreshes",
            Box::new((|l| l.refresh.outbound.map(|b| (b, true))) as Reading),
        ),
        (
            "20,refresh=both",
            "inbound refreshes",
            Box::new((|l| l.refresh.inbound.map(|b| (b, true))) as Reading),
        ),
        (
            "20,refresh=outbound",
            "inbound does not",
            Box::new((|l| l.refresh.inbound.map(|b| (!b, true))) as Reading),
        ),
        (
            "20,refresh=inbound",
            "outbound does not",
            Box::new((|l| l.refresh.outbound.map(|b| (!b, true))) as Reading),
        ),
        (
            "20,timer-per=mapping",
            "per mapping",
            Box::new((|l| l.refresh.elsewhere.map(|b| (b, true))) as Reading),
        ),
        ("20,timer-per=flow", "per flow", Box::new((|l| l.refresh.elsewhere.map(|b| (!b, true))) as Reading)),
        ("20", "exact", Box::new(style(ExpiryStyle::Exact))),
        ("20,sweep=6", "swept", Box::new(style(ExpiryStyle::Swept))),
        ("45,sweep=10", "swept", Box::new(style(ExpiryStyle::Swept))),
        ("20,jitter=8", "jittered", Box::new(style(ExpiryStyle::Jittered))),
        ("45,jitter=15", "jittered", Box::new(style(ExpiryStyle::Jittered))),
    ];
    for (settings, name, reading) in &rows {
        let seeds: Vec<u64> = (0..runs).collect();
        let said = on_two_threads(&seeds, |&seed| {
            // So that sweeps and the client's own schedule coincide differently in every run.
            let (timer, rest) = settings.split_once(',').unwrap_or((settings, ""));
            let timer = timer.parse::<u64>().expect("seconds") * 1000 + 300 * (seed % 25);
            let report =
                run(&format!("port-restricted-cone,timeout={timer}ms,{rest}"), 120, Loss::None, seed);
            finding(&report).and_then(|f| reading(f.value.as_ref()?))
        });
        let count = |what: &[Option<(bool, bool)>]| said.iter().filter(|s| what.contains(s)).count();
        println!(
            "  timer of {settings}: {name}: {}, {}, {}, {}",
            count(&[Some((true, true)), Some((true, false))]),
            count(&[Some((false, false))]),
            count(&[Some((false, true))]),
            count(&[None])
        );
    }
}

#[cfg(target_os = "linux")]
mod real {
    use std::{error::Error, thread};

    use natlab::{Lab, LabError, address::SERVER4, client::nat_check, lifetime::bound, tun::TunSite};
    use serde_json::Value;

    /// Timers of 6, 20 and 45 seconds at the same time, each in a laboratory of its own.
    pub(crate) fn main() -> Result<(), Box<dyn Error>> {
        println!(
            "\nreal sockets over modelled NATs, --lifetime=180: whole run in seconds, and what was found"
        );
        let runs = [6.0, 20.0, 45.0].map(|timer| thread::spawn(move || run(timer)));
        for run in runs {
            let line = run.join().map_err(|_| "a run panicked")??;
            println!("  {line}");
        }
        Ok(())
    }

    fn run(timer: f64) -> Result<String, LabError> {
        let nat = format!("port-restricted-cone,timeout={timer}");
        let nat: shared::nat::model::Stack =
            nat.parse().map_err(|e: shared::nat::model::SpecError| LabError::Words(e.to_string()))?;
        let lab = Lab::tun(&[TunSite::new(nat)], 1)?;
        let _server = lab.server()?;
        let run = nat_check(lab.host(0), SERVER4[0].into(), &["-4", "--lifetime=180"])?;
        let finding = &run.family()["udp"]["lifetime"];
        let seconds = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
        let took = seconds(&run.report["duration_s"]);
        let evidence = &finding["evidence"];
        let (value, sent) = (&finding["value"], seconds(&evidence["packets"]));
        Ok(format!(
            "{timer} s: {took:.2} s of at most {:.2}; unreplied {}, stream {}; {} sockets, {:.1} packets a second",
            bound(timer),
            value["unreplied"],
            value["stream"],
            evidence["sockets"],
            sent / seconds(&evidence["took_s"])
        ))
    }
}
