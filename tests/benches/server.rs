//! What the probe server costs, and what it stands: `cargo bench -p natlab --bench server -- [MEASUREMENT]`.
//!
//! - `throughput [FLAG]...`: answers per second of the server's processor time (with these flags), alternating with
//!   a minimal responder, coturn and the classic stund;
//! - `workers`: the same for one and for two workers;
//! - `memory`: resident memory after 100,000 and after 1,000,000 sources;
//! - `hostile`: processor time for one packet of each hostile kind;
//! - `flood`: answers that a client gets while one /24 floods the server;
//! - `endurance [SECONDS]`: mixed hostile and honest load with reloads and restarts in it, 600 seconds if not said otherwise.
//!
//! Everything happens in a network namespace without a name, over its loopback device, with addresses that are not
//! loopback's, so that the limits work as they do for strangers. Exit code 1 says that a bar was missed.

mod minimal;
#[path = "../../probe-server/tests/service_manager/mod.rs"]
mod service_manager;

use std::{
    env,
    error::Error,
    io::Write,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use natlab::{
    load,
    load::{Harvest, Honest, Loop, median, mixed, spent},
    netns::{Namespace, obtain_privilege},
    process::Running,
};
use rustix::process::Signal;
use service_manager::ServiceManager;
use shared::stun::attr;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PRIMARY: Ipv4Addr = load::SERVER[0];
const ALTERNATE: Ipv4Addr = load::SERVER[1];
const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(PRIMARY), 3478);
/// The core that the server runs on, and the one for the load.
const CORES: (usize, usize) = (0, 1);
/// Pairs of runs that alternate; the first of all runs is not counted.
const PAIRS: usize = 5;
const RUN: Duration = Duration::from_secs(2);
/// Limits that are worked out for each packet and never reached.
const NO_LIMIT: [&str; 10] = [
    "--host-rate",
    "100000000",
    "--host-burst",
    "1000000",
    "--net-rate",
    "100000000",
    "--net-burst",
    "1000000",
    "--egress-mbit",
    "4000000",
];

fn main() -> ExitCode {
    // Cargo adds --bench.
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["minimal"] => return serve_minimal(),
        ["serve", flags @ ..] => return serve(flags),
        _ => {}
    }
    if let Err(error) = obtain_privilege() {
        eprintln!("no network namespace: {error}");
        return ExitCode::FAILURE;
    }
    let measured = match words.as_slice() {
        ["throughput", flags @ ..] => throughput(flags),
        ["workers"] => workers(),
        ["memory"] => memory(),
        ["hostile"] => hostile(),
        ["flood"] => flood(),
        ["endurance"] => endurance(600),
        ["endurance", seconds] => seconds.parse().map_err(Into::into).and_then(endurance),
        [] => throughput(&[]).and_then(|a| Ok(workers()? & memory()? & hostile()? & flood()? & a)),
        _ => Err("throughput, workers, memory, hostile, flood, endurance [SECONDS] or minimal".into()),
    };
    match measured {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// The minimal responder, as a process of its own.
fn serve_minimal() -> ExitCode {
    let end = UdpSocket::bind(SERVER).and_then(|socket| {
        writeln!(std::io::stdout(), "ready")?;
        minimal::serve(&socket)
    });
    eprintln!("{end:?}");
    ExitCode::FAILURE
}

/// Our server, as a process of its own: what the program does, without building it beside this one.
fn serve(flags: &[&str]) -> ExitCode {
    use clap::Parser;
    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Serve {
        #[command(flatten)]
        settings: probe_server::config::Settings,
    }
    let settings = Serve::parse_from(flags).settings;
    let started = settings.check(false).map_err(|e| e.to_string());
    match started.and_then(|config| probe_server::Server::start(config).map_err(|e| e.to_string())) {
        Ok(_server) => loop {
            thread::park();
        },
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// So many that the kernel spreads them over all workers.
fn clients() -> Vec<IpAddr> {
    (1..=32).map(|i| IpAddr::from([192, 0, 2, i])).collect()
}

/// The servers that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours { workers: usize },
    Minimal,
    Coturn,
    Stund,
}

/// Starts a server on its core and waits until it answers.
fn start(network: &Namespace, kind: Kind, limits: &[&str]) -> Result<Running> {
    network.run(|| spent::pin(CORES.0))?;
    let (primary, alternate) = (PRIMARY.to_string(), ALTERNATE.to_string());
    let database = env::temp_dir().join(format!("probe-bench-{}.db", std::process::id()));
    let database = database.to_string_lossy();
    let command = match kind {
        Kind::Ours { workers } => network
            .command(env::current_exe()?)
            .args([
                "serve",
                "--primary",
                &primary,
                "--alternate",
                &alternate,
                "--workers",
                &workers.to_string(),
            ])
            .args(limits),
        Kind::Minimal => network.command(env::current_exe()?).arg("minimal"),
        Kind::Coturn => network.command("turnserver").args([
            "-n",
            "-S",
            "-L",
            &primary,
            "-L",
            &alternate,
            "-p",
            "3478",
            "-m",
            "1",
            "--no-tcp",
            "--no-tls",
            "--no-dtls",
            "--no-cli",
            "--log-file",
            "/dev/null",
            "--pidfile",
            "/dev/null",
            "-b",
            &database,
        ]),
        Kind::Stund => {
            network.command("stund").args(["-h", &primary, "-a", &alternate, "-p", "3478", "-o", "3479"])
        }
    };
    let server = command.start()?;
    if kind == (Kind::Ours { workers: 2 }) {
        // As many cores as workers.
        spent::unpin(server.id())?;
    }
    let answers = network.run(|| -> std::io::Result<bool> {
        let mut client = Honest::new(IpAddr::from([192, 0, 2, 99]), SERVER, 1)?;
        // Whoever is not there yet does not answer; each question waits for a while.
        for _ in 0..100 {
            if client.sees_anything(Duration::from_millis(50))? {
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    if answers { Ok(server) } else { Err(format!("{kind:?} does not answer: {}", server.printed()).into()) }
}

/// Answers a second of the server's processor time, what came of them, and the time of each of our workers.
fn rate(network: &Namespace, kind: Kind, flags: &[&str]) -> Result<(f64, Harvest, Vec<Duration>)> {
    let server = start(network, kind, &[&NO_LIMIT[..], flags].concat())?;
    let mut harvest = network.run(|| -> std::io::Result<Loop> {
        spent::pin(CORES.1)?;
        Loop::new(&clients(), SERVER, 8)
    })?;
    let pid = server.id();
    let (harvest, used) = network.run(move || -> std::io::Result<_> {
        harvest.run(Duration::from_millis(200));
        let before = spent::processor_time(pid)?;
        let harvest = harvest.run(RUN);
        Ok((harvest, spent::processor_time(pid)? - before))
    })?;
    let workers = spent::worker_times(pid)?;
    drop(server);
    Ok((harvest.answered as f64 / used.as_secs_f64(), harvest, workers))
}

fn throughput(flags: &[&str]) -> Result<bool> {
    let network = load::network()?;
    let ours = Kind::Ours { workers: 1 };
    println!(
        "answers per second of the server's processor time, 20-byte requests, {PAIRS} alternating pairs"
    );
    rate(&network, ours, flags)?;
    let mut reached = true;
    for (other, bar) in [(Kind::Minimal, 0.95), (Kind::Coturn, 1.2), (Kind::Stund, 1.2)] {
        let mut ratios = Vec::new();
        let (mut mine, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..PAIRS {
            let (theirs_now, ..) = rate(&network, other, flags)?;
            let (mine_now, harvest, _) = rate(&network, ours, flags)?;
            ratios.push(mine_now / theirs_now);
            mine.push(mine_now);
            theirs.push(theirs_now);
            if harvest.lost > 0 {
                println!("  {} of {} requests lost", harvest.lost, harvest.sent);
            }
        }
        println!(
            "ours {:7.0}  {other:?} {:7.0}  ratio {:.3} (pairs {}), bar {bar}",
            median(mine),
            median(theirs),
            median(ratios.clone()),
            ratios.iter().map(|r| format!("{r:.3}")).collect::<Vec<_>>().join(" "),
        );
        reached &= median(ratios) >= bar;
    }
    Ok(reached)
}

fn workers() -> Result<bool> {
    let network = load::network()?;
    println!(
        "answers per second of processor time with two workers, as a share of those with one, {PAIRS} pairs"
    );
    println!(
        "(the load needs a core itself: with two cores in all, two workers cannot show twice the answers)"
    );
    let (mut ratios, mut shares) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let (one, ..) = rate(&network, Kind::Ours { workers: 1 }, &[])?;
        let (two, _, times) = rate(&network, Kind::Ours { workers: 2 }, &[])?;
        let of =
            |longer: bool| times.iter().copied().reduce(if longer { Duration::max } else { Duration::min });
        let (Some(least), Some(most), 2) = (of(false), of(true), times.len()) else {
            return Err(format!("two workers were asked for, there are {}", times.len()).into());
        };
        let share = least.as_secs_f64() / most.as_secs_f64();
        println!(
            "one worker {one:7.0}  two workers {two:7.0}, the one works {share:.2} times as much as the other"
        );
        ratios.push(two / one);
        shares.push(share);
    }
    let (ratio, share) = (median(ratios), median(shares));
    println!(
        "ratio {ratio:.3}; times two cores: {:.2}, bar 1.7; work shared {share:.2}, bar 0.5",
        2.0 * ratio
    );
    Ok(2.0 * ratio >= 1.7 && share >= 0.5)
}

fn memory() -> Result<bool> {
    let network = load::network()?;
    let server = start(&network, Kind::Ours { workers: 1 }, &["--admin", "9478"])?;
    let pid = server.id();
    println!("resident memory by number of distinct source addresses and ports");
    println!("       0 sources: {} KiB", spent::resident_kib(pid)?);
    let request = load::binding_request(1);
    let changed = mixed::with(|w| _ = w.u32(attr::CHANGE_REQUEST, 6));
    let mut at = Vec::new();
    let mut sources = 0;
    for goal in [100_000, 1_000_000] {
        let first = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + sources);
        let (plain, changed) = (request.clone(), changed.clone());
        let sent = network.run(move || {
            let each = |i| if i % 2 == 0 { plain.clone() } else { changed.clone() };
            load::from_many_sources(first, goal - sources, SERVER, each)
        })?;
        assert_eq!(sent, u64::from(goal - sources), "every source has sent");
        sources = goal;
        let resident = spent::resident_kib(pid)?;
        at.push(resident);
        println!("{goal:8} sources: {resident} KiB");
    }
    // At the end only: whoever looks at the counters takes memory of its own.
    let received = network
        .run(|| load::counted(SocketAddr::from((Ipv4Addr::LOCALHOST, 9478)), "probe_udp_received_total"))?;
    println!("{received} datagrams received");
    assert!(received >= 900_000, "the server has seen most of them");
    let grown = at[1] - at[0];
    println!("grown by {grown} KiB from 100,000 to 1,000,000; bar: 0, and 16384 KiB in all");
    Ok(grown == 0 && at[1] <= 16384)
}

/// What the server does for one packet beyond the operating system's part, measured without sockets.
fn hostile() -> Result<bool> {
    use probe_server::{
        last_heard::LastHeard,
        limits::{Buckets, Limits},
        respond::{Answers, respond},
        topology::{Endpoint, Topology},
    };
    const TIMES: u32 = 200_000;
    let topology = Topology::new(PRIMARY.into(), Some(ALTERNATE.into()), (3478, 3479));
    let (last_heard, buckets, mut out) = (LastHeard::new(1, false), Buckets::new(1), Answers::new());
    println!(
        "nanoseconds of processor time for one packet: screen, read, judge, write, limits; from a new source each time"
    );
    let mut worst: f64 = 0.0;
    let bare = ("a bare request", load::binding_request(1));
    for (name, packet) in std::iter::once(bare).chain(mixed::hostile_packets()) {
        let mut best = f64::MAX;
        for _ in 0..5 {
            let before = spent::own_processor_time();
            for i in 0..TIMES {
                let from = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + i), 40000));
                let unheard = last_heard.note(from.ip(), Endpoint::Primary, 1);
                let packet = std::hint::black_box(&packet);
                if respond(&topology, Endpoint::Primary, from, unheard, packet, &mut out).is_ok() {
                    _ = std::hint::black_box(buckets.admit(&Limits::default(), from, 1));
                }
                std::hint::black_box(&out);
            }
            let used = spent::own_processor_time() - before;
            best = best.min(used.as_nanos() as f64 / f64::from(TIMES));
        }
        println!("{best:8.1}  {name}");
        worst = worst.max(best);
    }
    println!("worst {worst:.1}, bar 2000");
    Ok(worst <= 2000.0)
}

/// One /24 asks as fast as it can while a client elsewhere asks now and then.
fn flood() -> Result<bool> {
    const SECONDS: u64 = 20;
    let network = load::network()?;
    let server = start(&network, Kind::Ours { workers: 1 }, &[])?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let flooding = network.run(move || {
        thread::spawn(move || -> std::io::Result<u64> {
            spent::pin(CORES.1)?;
            let flood: Vec<IpAddr> = (1..=250).map(|i| IpAddr::from([10, 9, 9, i])).collect();
            let mut flood = load::Flood::new(&flood, SERVER, vec![load::binding_request(1)])?;
            while !stopped.load(Ordering::Relaxed) {
                flood.round(u64::MAX / 1_000_000_000);
            }
            Ok(flood.sent())
        })
    });
    let honest = network.run(move || -> std::io::Result<_> {
        let mut client = Honest::new(IpAddr::from([192, 0, 2, 1]), SERVER, 1)?;
        let (mut asked, mut answered) = (0_u64, 0_u64);
        let end = tokio::time::Instant::now() + Duration::from_secs(SECONDS);
        while tokio::time::Instant::now() < end {
            asked += 1;
            answered += u64::from(client.ask(Duration::from_secs(1))?.is_some());
            // Below the limit for one host.
            thread::sleep(Duration::from_millis(11));
        }
        Ok((asked, answered))
    });
    stop.store(true, Ordering::Relaxed);
    let sent = flooding.join().map_err(|_| "the flood panicked")??;
    drop(server);
    let (asked, answered) = honest?;
    let share = answered as f64 / asked as f64;
    println!(
        "{} packets a second from one /24 for {SECONDS} s; a client elsewhere: {answered} of {asked} answered ({:.2} %), \
         bar 99.9 %",
        sent / SECONDS,
        share * 100.0
    );
    Ok(share >= 0.999)
}

/// Everything hostile at once, honest clients in between, and a server that is reloaded every five seconds and restarted
/// every thirty.
fn endurance(seconds: u64) -> Result<bool> {
    let network = load::network()?;
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("server.toml");
    std::fs::write(&config, format!("primary = \"{PRIMARY}\"\nalternate = \"{ALTERNATE}\"\nworkers = 2\n"))?;
    let program = natlab::binaries::binary("probe-server")?;
    let mut manager = ServiceManager::new(folder.path());
    let start = |manager: &mut ServiceManager| -> Result<Running> {
        let passing = manager.passing();
        let mut command = network.command("bash").args(&passing.arguments).arg(&program).arg("--config");
        command = command.arg(&config).arg("--check");
        for (name, value) in passing.environment.clone() {
            command = command.env(name, value);
        }
        let server = command.start()?;
        manager.wait_until_ready();
        Ok(server)
    };
    let mut server = start(&mut manager)?;
    let pid = Arc::new(AtomicU32::new(server.id()));
    let its = Arc::clone(&pid);
    let load =
        network.run(move || thread::spawn(move || mixed::endure(&its, SERVER, Duration::from_secs(seconds))));
    let files = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count);
    let (mut reloads, mut restarts, mut most_files) = (0, 0, 0);
    while !load.is_finished() {
        thread::sleep(Duration::from_secs(5).min(Duration::from_secs(seconds) / 10));
        most_files = most_files.max(files(server.id())?);
        if load.is_finished() {
            break;
        }
        server.signal(Signal::HUP)?;
        // What it reports is heard: a reload that is over.
        manager.wait_until_ready();
        reloads += 1;
        if reloads % 6 == 0 {
            server.signal(Signal::TERM)?;
            server.finish(Duration::from_secs(10))?;
            server = start(&mut manager)?;
            pid.store(server.id(), Ordering::Relaxed);
            restarts += 1;
        }
    }
    let report = load.join().map_err(|_| "the load panicked")??;
    println!("{report}");
    println!("{reloads} reloads and {restarts} restarts meanwhile; at most {most_files} open files");
    drop(server);
    Ok(report.is_clean_despite(restarts))
}
