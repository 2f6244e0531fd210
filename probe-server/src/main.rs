//! The probe server as a program: arguments, log, ready lines, signals, exit codes.

mod args;
mod service_manager;
mod signals;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use args::{Args, Chosen, Generate};
use clap::{CommandFactory, Parser};
use probe_server::{
    Server, Service, SocketPool, StartError,
    config::{LogFormat, LogLevel},
};
use service_manager::ServiceManager;
use shared::log_writer::LogWriter;
use signals::{Signal, Signals};
use tracing::{error, info, warn};
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// A socket or the self-check failed.
const FAILED: u8 = 1;
/// Usage or configuration error.
const USAGE: u8 = 2;
/// How often the addresses of this host are looked at.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(1);
/// How often the end of the certificate is looked at.
const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
/// How long the end waits for whoever reads the log, or what the service manager is told.
const LAST_LINES: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let inherited = service_manager::passed_sockets();
    let args = Args::parse();
    if let Some(what) = args.generate {
        return exit(generate(what).map_err(|error| (FAILED, error.to_string())));
    }
    let chosen = match args.choose() {
        Ok(chosen) => chosen,
        Err(error) => return exit(Err((USAGE, error.to_string()))),
    };
    let log = match start_log(&chosen) {
        Ok(log) => log,
        Err(error) => return exit(Err((FAILED, error.to_string()))),
    };
    let ended = run(&args, chosen, inherited, &log);
    log.flush_within(LAST_LINES);
    exit(ended)
}

fn exit(result: Result<(), (u8, String)>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err((code, message)) => {
            // Where nobody can read it, the exit code still tells.
            _ = writeln!(io::stderr(), "probe-server: {message}");
            ExitCode::from(code)
        }
    }
}

fn run(
    args: &Args,
    chosen: Chosen,
    inherited: SocketPool,
    log_writer: &LogWriter,
) -> Result<(), (u8, String)> {
    let failed = |error: &dyn std::fmt::Display| (FAILED, error.to_string());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    runtime.block_on(async {
        let log = (chosen.log, chosen.log_format);
        let manager = ServiceManager::start().map_err(|e| failed(&e))?;
        // Before anything is served, so that no signal finds the system's own way of ending a program.
        let mut signals = Signals::new().map_err(|e| failed(&e))?;
        let files = chosen.config.most_files() as u64;
        let allowed = allow_files();
        if !inherited.is_empty() {
            info!(sockets = inherited.len(), "taken over from the predecessor");
        }
        let mut server = match Server::start_from(chosen.config, inherited) {
            Ok(server) => server,
            Err(StartError::Tls(error)) if error.is_configuration() => {
                return Err((USAGE, error.to_string()));
            }
            // Asked to stop while it was still starting.
            Err(_) if signals.have_said_stop().await => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        server.observe_log(log_writer);
        manager.keep(server.take_sockets_to_keep(), server.unused_sockets());
        tell_topology(&server);
        let mut readiness = Readiness::default();
        readiness.announce(&server, &manager);
        if let Some(allowed) = allowed.filter(|&allowed| allowed < files) {
            warn!(
                allowed,
                wanted = files,
                "fewer open files are allowed than there may be connections (ulimit -n)"
            );
        }
        manager.ready();
        let mut watchdog =
            tokio::time::interval(service_manager::watchdog().unwrap_or(Duration::from_secs(10)));
        let mut addresses = tokio::time::interval(ADDRESS_INTERVAL);
        let mut certificate = tokio::time::interval(CERTIFICATE_INTERVAL);
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => break,
                    Signal::Reload => {
                        manager.reloading();
                        reload(args, &mut server, log);
                        manager.ready();
                    }
                },
                _ = watchdog.tick() => {
                    if server.is_broken() {
                        return Err((FAILED, "a worker has ended".into()));
                    }
                    if server.is_stuck() {
                        error!("a worker does not move");
                    } else {
                        manager.alive();
                    }
                }
                _ = addresses.tick() => {
                    for change in server.look_for_addresses() {
                        if change.is_present {
                            info!(ip = %change.ip, "an address is there");
                        } else {
                            warn!(ip = %change.ip, "an address is gone: not an address of this host");
                        }
                    }
                    readiness.announce(&server, &manager);
                }
                _ = certificate.tick() => tell_certificate(&server),
            }
        }
        info!("stopping");
        manager.stopping();
        server.stop();
        manager.finish_within(LAST_LINES);
        Ok(())
    })
}

/// Which families have been announced: each is, once, when it first has all its addresses.
#[derive(Default)]
struct Readiness {
    announced: Vec<usize>,
}

impl Readiness {
    /// The ready lines, on standard output, of those families that are complete now and were not before.
    fn announce(&mut self, server: &Server, manager: &ServiceManager) {
        let mut lines = String::new();
        let mut complete = Vec::new();
        for Service { transport, family, addresses } in server.services() {
            let Some(family) = family else { continue };
            if self.announced.contains(&family) || !server.is_complete(family) {
                continue;
            }
            complete.push(family);
            let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            lines += &format!("ready {transport} {}\n", list.join(" "));
        }
        if complete.is_empty() {
            return;
        }
        self.announced.append(&mut complete);
        let missing = server.missing_addresses();
        manager.status(&if missing.is_empty() {
            "serving all addresses".into()
        } else {
            format!("missing {}", missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        });
        // Whoever started it may not listen: no reason not to serve.
        _ = io::stdout().write_all(lines.as_bytes()).and_then(|()| io::stdout().flush());
    }
}

/// In the log: what clients see, and what they do not get.
fn tell_topology(server: &Server) {
    for service in server.services().iter().filter(|service| service.transport == "admin") {
        service.addresses.iter().for_each(|address| info!(%address, "metrics and health"));
    }
    if server.test_sessions().is_some() {
        info!(
            "connects back to clients that ask for it, at their own addresses (no-test-sessions turns it off)"
        );
    }
    for ip in server.missing_addresses() {
        warn!(%ip, "not an address of this host: what needs it is not served until it is");
    }
    for topology in server.topologies() {
        if !topology.has_alternate() {
            warn!("one address only: filtering cannot be tested, CHANGE-REQUEST is refused");
        }
        for endpoint in topology.endpoints() {
            if let (Some(bound), Some(seen)) = (topology.bound(endpoint), topology.advertised(endpoint))
                && bound != seen
            {
                info!(%bound, %seen, "clients see another address");
            }
        }
    }
}

fn tell_certificate(server: &Server) {
    const WARN: i64 = 14 * 24 * 3600;
    match server.certificate_seconds() {
        Some(seconds) if seconds <= 0 => error!("the certificate has ended: clients refuse it"),
        Some(seconds) if seconds < WARN => warn!(hours = seconds / 3600, "the certificate ends soon"),
        Some(_) | None => {}
    }
}

/// Lets this process have as many open files as the system allows it, for each connection is one; how many these are.
#[cfg(target_os = "linux")]
fn allow_files() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

#[cfg(not(target_os = "linux"))]
fn allow_files() -> Option<u64> {
    None
}

/// Reads the file again; whatever is wrong leaves everything as it was.
fn reload(args: &Args, server: &mut Server, log: (LogLevel, LogFormat)) {
    let chosen = match args.choose() {
        Ok(chosen) => chosen,
        Err(wrong) => return error!(%wrong, "not reloaded"),
    };
    let logs = [("log", chosen.log != log.0), ("log-format", chosen.log_format != log.1)];
    let logs = logs.into_iter().filter_map(|(key, changed)| changed.then_some(key));
    let reloaded = server.reload(chosen.config).map(|keys| keys.into_iter().chain(logs).collect::<Vec<_>>());
    match reloaded {
        Ok(restart) if restart.is_empty() => info!("reloaded"),
        Ok(restart) => warn!(keys = restart.join(", "), "reloaded; these keys change with a restart only"),
        Err(wrong) => error!(%wrong, "not reloaded"),
    }
}

/// Logs to standard error, what this crate says at the chosen level, what others say when it is a warning: at their
/// finest levels they print what clients sent, session codes among it.
fn start_log(chosen: &Chosen) -> io::Result<LogWriter> {
    let level = match chosen.log {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let others = level.min(tracing::Level::WARN);
    let filter = Targets::new().with_target("probe_server", level).with_default(others);
    let writer = LogWriter::start(io::stderr())?;
    let make_writer = {
        let writer = writer.clone();
        move || writer.clone()
    };
    let lines = fmt::layer().with_writer(make_writer).with_target(false).log_internal_errors(false);
    let registry = tracing_subscriber::registry();
    match chosen.log_format {
        LogFormat::Text => {
            let lines = lines.with_ansi(io::IsTerminal::is_terminal(&io::stderr()));
            registry.with(lines.with_filter(filter)).init();
        }
        LogFormat::Json => registry.with(lines.json().with_filter(filter)).init(),
    }
    Ok(writer)
}

fn generate(what: Generate) -> io::Result<()> {
    use clap_complete::{Shell, generate};
    let mut command = Args::command();
    let mut out = Vec::new();
    let shell = match what {
        Generate::Man => {
            clap_mangen::Man::new(command).render(&mut out)?;
            return io::stdout().write_all(&out);
        }
        Generate::Bash => Shell::Bash,
        Generate::Elvish => Shell::Elvish,
        Generate::Fish => Shell::Fish,
        Generate::Powershell => Shell::PowerShell,
        Generate::Zsh => Shell::Zsh,
    };
    generate(shell, &mut command, "probe-server", &mut out);
    io::stdout().write_all(&out)
}
