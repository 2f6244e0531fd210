//! The probe server as a program: arguments, log, ready lines, signals, exit codes.

mod args;

use std::{
    io::{self, Write},
    process::ExitCode,
    time::Duration,
};

use args::{Args, Chosen, Generate};
use clap::{CommandFactory, Parser};
use probe_server::{
    Server, StartError,
    config::{LogFormat, LogLevel},
    topology::Endpoint,
};
use shared::log_writer::LogWriter;
use tracing::{error, info, warn};
use tracing_subscriber::{Layer, filter::Targets, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// A socket or the self-check failed.
const FAILED: u8 = 1;
/// Usage or configuration error.
const USAGE: u8 = 2;
/// How long the end waits for whoever reads the log.
const LAST_LINES: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
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
    let ended = run(&args, chosen, &log);
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

fn run(args: &Args, chosen: Chosen, log_writer: &LogWriter) -> Result<(), (u8, String)> {
    let failed = |error: &dyn std::fmt::Display| (FAILED, error.to_string());
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| failed(&e))?;
    runtime.block_on(async {
        let log = (chosen.log, chosen.log_format);
        // Before anything is served, so that no signal finds the system's own way of ending a program.
        let mut signals = Signals::new().map_err(|e| failed(&e))?;
        let files = chosen.config.most_files() as u64;
        let allowed = allow_files();
        let mut server = match Server::start(chosen.config) {
            Ok(server) => server,
            Err(error @ StartError::Tls(_)) => return Err((USAGE, error.to_string())),
            // Asked to stop while it was still starting.
            Err(_) if signals.have_said_stop().await => return Ok(()),
            Err(error) => return Err(failed(&error)),
        };
        server.observe_log(log_writer);
        tell(&server);
        if let Some(allowed) = allowed.filter(|&allowed| allowed < files) {
            warn!(
                allowed,
                wanted = files,
                "fewer open files are allowed than there may be connections (ulimit -n)"
            );
        }
        notify::ready();
        let mut watchdog = tokio::time::interval(notify::watchdog().unwrap_or(Duration::from_secs(10)));
        loop {
            tokio::select! {
                signal = signals.next() => match signal {
                    Signal::Stop => break,
                    Signal::Reload => {
                        notify::reloading();
                        reload(args, &mut server, log);
                        notify::ready();
                    }
                },
                _ = watchdog.tick() => {
                    if server.is_broken() {
                        return Err((FAILED, "a worker has ended".into()));
                    }
                    match server.is_stuck() {
                        true => error!("a worker does not move"),
                        false => notify::alive(),
                    }
                }
            }
        }
        info!("stopping");
        notify::stopping();
        server.stop();
        Ok(())
    })
}

/// The ready lines on standard output, what clients see in the log.
fn tell(server: &Server) {
    let mut lines = String::new();
    for (transport, addresses) in server.services() {
        if transport == "admin" {
            addresses.iter().for_each(|address| info!(%address, "metrics and health"));
            continue;
        }
        let list: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        lines += &format!("ready {transport} {}\n", list.join(" "));
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
    for topology in server.topologies() {
        let moved = |e| topology.bound(e) != topology.advertised(e);
        if topology.has_alternate() && moved(Endpoint::Primary) != moved(Endpoint::Alternate) {
            warn!("only one of the two addresses is advertised: behind a 1:1 NAT both have to be");
        }
    }
    // Whoever started it may not listen: no reason not to serve.
    _ = io::stdout().write_all(lines.as_bytes()).and_then(|()| io::stdout().flush());
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

enum Signal {
    Stop,
    Reload,
}

#[cfg(unix)]
struct Signals([tokio::signal::unix::Signal; 3]);

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
            signal(SignalKind::hangup())?,
        ]))
    }

    async fn next(&mut self) -> Signal {
        let [terminate, interrupt, hangup] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => Signal::Stop,
            _ = interrupt.recv() => Signal::Stop,
            _ = hangup.recv() => Signal::Reload,
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) -> Signal {
        _ = tokio::signal::ctrl_c().await;
        Signal::Stop
    }
}

impl Signals {
    /// Whether a signal to stop has come while nobody listened.
    async fn have_said_stop(&mut self) -> bool {
        let soon = Duration::from_millis(50);
        matches!(tokio::time::timeout(soon, self.next()).await, Ok(Signal::Stop))
    }
}

/// What systemd is told, where it asked for it (sd_notify). That nobody listens is no error.
mod notify {
    use std::time::Duration;

    use sd_notify::NotifyState;

    pub(super) fn ready() {
        tell(&[NotifyState::Ready]);
    }

    pub(super) fn reloading() {
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    pub(super) fn stopping() {
        tell(&[NotifyState::Stopping]);
    }

    pub(super) fn alive() {
        tell(&[NotifyState::Watchdog]);
    }

    /// How often systemd wants to hear from us, halved; `None` if it does not.
    pub(super) fn watchdog() -> Option<Duration> {
        sd_notify::watchdog_enabled().map(|interval| interval / 2)
    }

    fn tell(states: &[NotifyState<'_>]) {
        _ = sd_notify::notify(states);
    }
}
