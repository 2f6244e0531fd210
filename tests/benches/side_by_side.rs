//! Side by side: our client, Debian's classic `stun` and coturn's `turnutils_natdiscovery`, each run as a program on a host
//! behind the same 34 user-space NATs, all asking our server, at a round-trip time of 50 ms.
//!
//! `cargo bench -p natlab --bench side_by_side` prints the table; `-- --verbose` adds who was wrong about what.
//! A client is right when it says all that its own vocabulary can say: both axes for nat-check and natdiscovery, the
//! classic type for `stun`.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    linux::main()
}

#[cfg(not(target_os = "linux"))]
fn main() {
    eprintln!("the side-by-side benchmark needs Linux");
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        process::ExitCode,
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::Duration,
    };

    use nat_check_core::net::sim::PathSpec;
    use natlab::{Lab, LabError, address::SERVER4, binaries::binary, client::nat_check, tun::TunSite};
    use shared::nat::{
        Filtering, Mapping, NatType,
        model::{Stack, UdpBehaviour},
    };
    use tokio::time::Instant;

    const PATIENCE: Duration = Duration::from_secs(60);
    const DELAY: Duration = Duration::from_millis(25);

    /// One client: its name, and how it is asked. It gives what it said, and whether that is right.
    struct Client {
        name: &'static str,
        says: &'static str,
        ask: Ask,
    }

    type Ask = fn(&Lab, &UdpBehaviour, NatType) -> Result<(String, bool), LabError>;

    const CLIENTS: [Client; 3] = [
        Client { name: "nat-check", says: "mapping and filtering", ask: ask_ours },
        Client { name: "stun (classic)", says: "classic type", ask: ask_classic },
        Client { name: "natdiscovery", says: "mapping and filtering", ask: ask_natdiscovery },
    ];

    struct Run {
        nat: String,
        said: String,
        right: bool,
        seconds: f64,
    }

    pub(crate) fn main() -> ExitCode {
        let verbose = std::env::args().any(|argument| argument == "--verbose");
        match compare(verbose) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn compare(verbose: bool) -> Result<(), LabError> {
        // Built before anything is timed.
        binary("nat-check")?;
        let nats = nats();
        println!("{} NATs, round trip {} ms", nats.len(), 2 * DELAY.as_millis());
        println!("| client | says | right | mean s | median s | slowest s |");
        println!("|---|---|---|---|---|---|");
        for client in &CLIENTS {
            let runs = run_all(client, &nats)?;
            let right = runs.iter().filter(|r| r.right).count();
            let mut seconds: Vec<f64> = runs.iter().map(|r| r.seconds).collect();
            seconds.sort_by(f64::total_cmp);
            let mean = seconds.iter().sum::<f64>() / seconds.len() as f64;
            println!(
                "| {} | {} | {right} of {} | {mean:.2} | {:.2} | {:.2} |",
                client.name,
                client.says,
                runs.len(),
                seconds[seconds.len() / 2],
                seconds[seconds.len() - 1],
            );
            for run in runs.iter().filter(|r| verbose && !r.right) {
                println!("    wrong about {}: {}", run.nat, run.said);
            }
        }
        Ok(())
    }

    /// No translation with three filters; nine classes with three port allocations each; four common compounds.
    fn nats() -> Vec<String> {
        let kinds = ["ei", "ad", "apd"];
        let mut nats: Vec<String> = kinds.iter().map(|f| format!("mapping=direct,filtering={f}")).collect();
        for mapping in kinds {
            for filter in kinds {
                for ports in ["preserving", "sequential", "random"] {
                    nats.push(format!("mapping={mapping},filtering={filter},ports={ports}"));
                }
            }
        }
        nats.extend(["linux", "linux-open-input", "linux-random", "linux+linux"].map(str::to_owned));
        nats
    }

    /// Runs one client behind every NAT, a few at a time: they mostly wait.
    fn run_all(client: &Client, nats: &[String]) -> Result<Vec<Run>, LabError> {
        let next = AtomicUsize::new(0);
        let worker = || {
            let mut runs = Vec::new();
            while let Some(nat) = nats.get(next.fetch_add(1, Ordering::Relaxed)) {
                runs.push(run(client, nat)?);
            }
            Ok(runs)
        };
        thread::scope(|scope| {
            let threads: Vec<_> = (0..2).map(|_| scope.spawn(worker)).collect();
            let mut all = Vec::new();
            for thread in threads {
                let runs: Result<Vec<Run>, LabError> = thread.join().expect("a worker panicked");
                all.extend(runs?);
            }
            Ok(all)
        })
    }

    fn run(client: &Client, nat: &str) -> Result<Run, LabError> {
        let stack: Stack = nat.parse().map_err(|e| LabError::Words(format!("{e}")))?;
        let behaviour = stack.behaviour();
        let udp = behaviour.udp.clone().ok_or_else(|| LabError::Words(format!("{nat} blocks UDP")))?;
        let line = PathSpec { delay: DELAY, ..PathSpec::default() };
        let lab = Lab::tun(&[TunSite { line, ..TunSite::new(stack) }], 1)?;
        let _server = lab.server()?;
        let begun = Instant::now();
        let (said, right) = (client.ask)(&lab, &udp, behaviour.nat_type)?;
        Ok(Run { nat: nat.to_owned(), said, right, seconds: begun.elapsed().as_secs_f64() })
    }

    fn ask_ours(lab: &Lab, udp: &UdpBehaviour, _: NatType) -> Result<(String, bool), LabError> {
        let run = nat_check(lab.host(0), SERVER4[0].into(), &["-4"])?;
        let said = (run.finding("mapping"), run.finding("filtering"));
        let right = said == (Some(&*udp.mapping.to_string()), Some(&*udp.filtering.to_string()));
        Ok((format!("{said:?}"), right))
    }

    fn ask_classic(lab: &Lab, _: &UdpBehaviour, nat_type: NatType) -> Result<(String, bool), LabError> {
        let printed = lab.host(0).command("stun").arg(SERVER4[0].to_string()).output(PATIENCE)?.stdout;
        let verdict = printed.lines().find_map(|line| line.strip_prefix("Primary: ")).unwrap_or_default();
        let wanted = match nat_type {
            NatType::UdpBlocked => "Blocked",
            NatType::OpenInternet => "Open",
            NatType::SymmetricUdpFirewall => "Firewall",
            NatType::FullCone => "Independent Mapping, Independent Filter",
            NatType::RestrictedCone => "Independent Mapping, Address Dependent Filter",
            NatType::PortRestrictedCone => "Independent Mapping, Port Dependent Filter",
            NatType::Symmetric => "Dependent Mapping",
        };
        Ok((verdict.to_owned(), verdict.starts_with(wanted)))
    }

    fn ask_natdiscovery(lab: &Lab, udp: &UdpBehaviour, _: NatType) -> Result<(String, bool), LabError> {
        let client =
            lab.host(0).command("turnutils_natdiscovery").args(["-m", "-f", &SERVER4[0].to_string()]);
        let printed = client.output(PATIENCE)?.stdout;
        let verdicts: Vec<&str> = printed.lines().filter(|line| line.ends_with('!')).collect();
        let mapping = match udp.mapping {
            Mapping::Direct => "No NAT",
            Mapping::EndpointIndependent => "NAT with Endpoint Independent Mapping!",
            Mapping::AddressDependent => "NAT with Address Dependent Mapping!",
            Mapping::AddressAndPortDependent => "NAT with Address and Port Dependent Mapping!",
            Mapping::PortDependent => "(no word for it)",
        };
        let filtering = match udp.filtering {
            Filtering::EndpointIndependent => "NAT with Endpoint Independent Filtering!",
            Filtering::AddressDependent => "NAT with Address Dependent Filtering!",
            Filtering::AddressAndPortDependent => "NAT with Address and Port Dependent Filtering!",
            Filtering::PortDependent => "(no word for it)",
        };
        Ok((verdicts.join(" "), verdicts == [mapping, filtering]))
    }
}
