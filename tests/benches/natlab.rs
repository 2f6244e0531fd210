//! What natlab costs: start and end, several laboratories at once, throughput of a user-space NAT, a large topology, and
//! what is left behind after every kind of end.

natlab::on_linux!(linux);

#[cfg(target_os = "linux")]
mod linux {
    use std::{
        fs,
        io::{Read, Write},
        net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
        process::{Child, Command, ExitCode, Stdio},
        thread,
        time::Duration,
    };

    use natlab::{Lab, LabError, netns::obtain_privilege, topology::Topology};
    use rustix::process::{Pid, Signal, kill_process};
    use tokio::time::Instant;

    pub(crate) fn main() -> ExitCode {
        if std::env::args().any(|argument| argument == "--list") {
            return ExitCode::SUCCESS;
        }
        let parts: [fn() -> Result<(), LabError>; 5] =
            [start_and_end, eight_at_once, throughput, large, left_behind];
        for part in parts {
            if let Err(e) = obtain_privilege().and_then(|()| part()) {
                eprintln!("natlab: {e}");
                return ExitCode::FAILURE;
            }
        }
        ExitCode::SUCCESS
    }

    const PAIR: [&str; 11] = [
        "pair",
        "-q",
        "--nat",
        "symmetric",
        "--nat",
        "port-restricted-cone",
        "--",
        "true",
        "---",
        "true",
        "",
    ];

    fn natlab(arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_natlab"));
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn pair() -> Result<Child, LabError> {
        natlab(&PAIR[..10]).spawn().map_err(LabError::io("starting natlab"))
    }

    fn start_and_end() -> Result<(), LabError> {
        let mut times = Vec::new();
        for _ in 0..20 {
            let begun = Instant::now();
            let ended = pair()?.wait().map_err(LabError::io("waiting for natlab"))?;
            assert!(ended.success(), "the pair ends well");
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        println!(
            "two hosts behind two NATs, server, commands `true`, end: median {:.3} s, best {:.3} s, worst {:.3} s of {}",
            times[times.len() / 2].as_secs_f64(),
            times[0].as_secs_f64(),
            times[times.len() - 1].as_secs_f64(),
            times.len()
        );
        Ok(())
    }

    fn eight_at_once() -> Result<(), LabError> {
        let begun = Instant::now();
        let labs: Vec<_> = (0..8).map(|_| pair()).collect::<Result<_, _>>()?;
        let good = labs.into_iter().map(|mut lab| lab.wait().is_ok_and(|status| status.success()));
        let good = good.filter(|good| *good).count();
        println!(
            "8 such laboratories at once: {good} end well, after {:.3} s",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// One TCP connection for three seconds, from behind a NAT.
    fn throughput() -> Result<(), LabError> {
        const FOR: Duration = Duration::from_secs(3);
        for nat in ["port-restricted-cone", "linux+symmetric"] {
            let lab =
                Lab::build(&Topology::new().router("home", nat).host("alice", "home").internet("sink"))?;
            let to = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 20), 5001));
            let failed = |what: &str| LabError::io(what.to_owned());
            let listener =
                lab.find("sink")?.run(move || TcpListener::bind(to)).map_err(failed("listening"))?;
            let sink = thread::spawn(move || -> std::io::Result<u64> {
                let (mut stream, _) = listener.accept()?;
                let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
                loop {
                    match stream.read(&mut buffer)? {
                        0 => return Ok(total),
                        length => total += length as u64,
                    }
                }
            });
            let connect = move || TcpStream::connect(to);
            let mut stream = lab.find("alice")?.run(connect).map_err(failed("connecting"))?;
            let (begun, spent) = (Instant::now(), forwarder_time());
            let block = vec![0; 1 << 20];
            while begun.elapsed() < FOR {
                stream.write_all(&block).map_err(failed("sending"))?;
            }
            drop(stream);
            let bytes = sink.join().unwrap_or(Ok(0)).map_err(failed("receiving"))?;
            let (took, spent) = (begun.elapsed().as_secs_f64(), forwarder_time().saturating_sub(spent));
            let busy = spent.as_secs_f64();
            let bits = bytes as f64 * 8.0;
            println!(
                "TCP through {nat}: {:.2} Gbit/s; the one thread that forwards was busy for {:.0} % of the time: {:.2} \
                 Gbit/s a core",
                bits / took / 1e9,
                100.0 * busy / took,
                bits / busy / 1e9
            );
        }
        Ok(())
    }

    /// Processor time of this process's forwarder threads.
    fn forwarder_time() -> Duration {
        let tasks = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let of = |task: fs::DirEntry| {
            let name = fs::read_to_string(task.path().join("comm")).ok()?;
            let time = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let time = time.split_whitespace().next()?.parse().ok()?;
            (name.trim() == "forwarder").then(|| Duration::from_nanos(time))
        };
        tasks.filter_map(of).sum()
    }

    /// 32 hosts, two behind each of 16 NATs: each asks the echo service, and each pair of neighbours each other.
    fn large() -> Result<(), LabError> {
        let mut topology = Topology::new();
        for router in 0..16 {
            let name = format!("r{router}");
            topology = topology.router(&name, "linux");
            for host in 0..2 {
                topology = topology.host(&format!("h{router}-{host}"), &name);
            }
        }
        let begun = Instant::now();
        let lab = Lab::build(&topology)?;
        let services = lab.services()?;
        let built = begun.elapsed().as_secs_f64();
        let mut answered = 0;
        for host in 0..32 {
            let asked = lab.host(host).run(|| -> std::io::Result<()> {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_read_timeout(Some(Duration::from_secs(5)))?;
                socket.send_to(b"hello", "198.51.100.10:7")?;
                socket.recv_from(&mut [0; 16]).map(drop)
            });
            answered += usize::from(asked.is_ok());
        }
        let begun = Instant::now();
        drop(services);
        drop(lab);
        println!(
            "32 hosts behind 16 NATs: built in {built:.3} s, {answered} of 32 got an echo, removed in {:.3} s",
            begun.elapsed().as_secs_f64()
        );
        Ok(())
    }

    /// Programs that stay for ever, under every kind of end.
    fn left_behind() -> Result<(), LabError> {
        let mark = format!("{}.5", 80_000 + std::process::id() % 10_000);
        let stays = format!("sleep {mark} & sleep {mark} & echo up; exec sleep {mark}");
        let ends = [
            ("SIGKILL", Some(Signal::KILL)),
            ("SIGTERM", Some(Signal::TERM)),
            ("SIGHUP", Some(Signal::HUP)),
            ("the command's end", None),
        ];
        for (name, signal) in ends {
            let stays = if signal.is_some() { stays.clone() } else { stays.replace("exec sleep", "true") };
            let mut child = natlab(&["run", "-q", "--", "sh", "-c", &stays])
                .stdout(Stdio::piped())
                .spawn()
                .map_err(LabError::io("starting natlab"))?;
            let mut output = child.stdout.take();
            let mut first = [0; 3];
            if let Some(output) = &mut output {
                output.read_exact(&mut first).map_err(LabError::io("reading"))?;
            }
            if let Some(signal) = signal {
                kill_process(Pid::from_child(&child), signal)
                    .map_err(|e| LabError::io("a signal")(e.into()))?;
            }
            // Everything that runs in the laboratory holds the pipe open.
            if let Some(mut output) = output {
                output.read_to_end(&mut Vec::new()).map_err(LabError::io("reading"))?;
            }
            child.wait().map_err(LabError::io("waiting"))?;
            println!("after {name}: {} programs left", programs_with(&mark));
        }
        Ok(())
    }

    fn programs_with(mark: &str) -> usize {
        let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
        let line = |process: fs::DirEntry| fs::read_to_string(process.path().join("cmdline")).ok();
        processes.filter_map(line).filter(|line| line.split('\0').any(|word| word == mark)).count()
    }
}
