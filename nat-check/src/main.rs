//! The `nat-check` program: from the command line to a report and an exit code.

mod generate;
mod punching;

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::Arc,
    time::SystemTime,
};

use anyhow::Context;
use clap::Parser;
use nat_check::{
    args::{Args, Command},
    plan::{Network, Plan, Surroundings, UsageError, Verbosity},
    terminal::{Terminal, style, tell},
};
use nat_check_core::{
    check::{ServerQuery, check},
    net::{Net, os::OsNet, sim},
    probe::REGISTRY,
    progress::{Progress, Silent},
    punch::IntroError,
    report::{FamilyReport, FamilyStatus, Report},
    resolve::{Query, ResolveError, Resolver},
    target::{FoundBy, Target},
};
use probe_server::{Server, config::Config, topology::Endpoint};
use tokio::sync::watch;

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            let code = exit_code(&error);
            complain(&format!("{error:#}"));
            ExitCode::from(code)
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(Command::Punch(args)) = &args.command {
        return punching::run(args);
    }
    if let Some(what) = args.generate {
        return print(&generate::text(what)?);
    }
    if args.list {
        return print(&tests());
    }
    let plan = plan(args)?;
    log_to_stderr(plan.verbosity);
    let report = measure(&plan)?;
    print(&(plan.format.render)(&report, &style(plan.verbosity >= Verbosity::Evidence)))?;
    judge(&plan, &report)
}

/// Exit codes beside 0, see the contract in the help text.
const UNMET: u8 = 1;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNREACHED: u8 = 3;

/// What an error that ended the program means for scripts: only a server that could not be reached is one.
fn exit_code(error: &anyhow::Error) -> u8 {
    if error.is::<UsageError>() {
        USAGE
    } else if error.is::<ResolveError>() || error.is::<IntroError>() {
        UNREACHED
    } else {
        FAILED
    }
}

fn plan(args: Args) -> Result<Plan, UsageError> {
    let server = std::env::var("NAT_CHECK_SERVER").ok();
    let tests: Vec<&str> = REGISTRY.iter().map(|probe| probe.name).collect();
    Plan::new(args, Surroundings { server: server.as_deref(), tests: &tests, seed: fastrand::u64(..) })
}

#[tokio::main(flavor = "current_thread")]
async fn measure(plan: &Plan) -> anyhow::Result<Report> {
    // Kept till the end: the embedded server answers for as long as it is held.
    let mut embedded = None;
    let (net, servers): (Arc<dyn Net>, Vec<ServerQuery>) = match &plan.network {
        Network::Servers(queries) => (Arc::new(OsNet), look_up(plan, queries).await),
        Network::Simulated(nat) => {
            let simulated = sim::simulate(nat, plan.seed).map_err(|e| UsageError::Simulate(e.to_string()))?;
            let found_by = FoundBy::Simulated;
            let target =
                Target { query: format!("simulated {nat}"), found_by, v4: Some(simulated.server), v6: None };
            (simulated.net, vec![target.into()])
        }
        Network::Local => {
            let server = embedded.insert(Server::start(Config::local()).context("--local")?);
            let primary = server.topologies().first().and_then(|topology| topology.bound(Endpoint::Primary));
            let query = "embedded server".to_owned();
            let target = Target { query, found_by: FoundBy::Local, v4: primary, v6: None };
            (Arc::new(OsNet), vec![target.into()])
        }
    };
    if let Some(bind) = plan.bind {
        net.bind(bind).await.map_err(|e| UsageError::BindRefused { bind, reason: e.to_string() })?;
    }
    let terminal =
        (plan.verbosity > Verbosity::Quiet).then(|| Terminal::new(plan.verbosity > Verbosity::Normal));
    let progress: &dyn Progress = terminal.as_ref().map_or(&Silent, |terminal| terminal);
    #[expect(clippy::disallowed_methods, reason = "the edge where the report gets its date")]
    let setup = plan.setup(SystemTime::now());
    let report = check(&setup, net, &servers, progress, interruption()).await;
    if let Some(terminal) = &terminal {
        terminal.end();
    }
    drop(embedded);
    Ok(report)
}

async fn look_up(plan: &Plan, queries: &[Query]) -> Vec<ServerQuery> {
    let resolver = Resolver::system();
    let mut rng = fastrand::Rng::with_seed(plan.seed);
    let mut servers = Vec::with_capacity(queries.len());
    for query in queries {
        let target = resolver.resolve(query, plan.families, &mut rng).await;
        servers
            .push(ServerQuery { query: query.given().to_owned(), target: target.map_err(|e| e.to_string()) });
    }
    servers
}

/// Becomes true at the first Ctrl-C: the report then tells what is known. The second one ends the program.
fn interruption() -> watch::Receiver<bool> {
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok()
            && stop.send(true).is_ok()
            && tokio::signal::ctrl_c().await.is_ok()
        {
            std::process::exit(130);
        }
        // Without a signal handler nothing ever stops the run.
        std::future::pending::<()>().await;
    });
    stopped
}

/// The exit code that the report deserves, and why, on standard error.
fn judge(plan: &Plan, report: &Report) -> anyhow::Result<ExitCode> {
    let families = [&report.ipv4, &report.ipv6];
    if families.iter().all(|family| family.status != FamilyStatus::Tested) {
        let reasons: Vec<&str> = families
            .into_iter()
            .filter(|family| family.status != FamilyStatus::Skipped)
            .filter_map(|family: &FamilyReport| family.reason.as_deref())
            .collect();
        complain(&format!("no probe server could be reached: {}", distinct(&reasons).join("; ")));
        return Ok(ExitCode::from(UNREACHED));
    }
    let report = serde_json::to_value(report).context("the report as JSON")?;
    let unmet: Vec<String> = plan
        .requires
        .iter()
        .filter_map(|requirement| requirement.check(&report).err())
        .map(|unmet| unmet.to_string())
        .collect();
    unmet.iter().for_each(|line| complain(line));
    Ok(if unmet.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(UNMET) })
}

fn tests() -> String {
    let width = REGISTRY.iter().map(|probe| probe.name.len()).max().unwrap_or(0);
    REGISTRY.iter().map(|probe| format!("{:width$}  {}\n", probe.name, probe.about)).collect()
}

/// Writes to standard output. Whoever closes the pipe has read enough.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    let mut out = anstream::stdout();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("standard output"),
        Ok(()) | Err(_) => Ok(ExitCode::SUCCESS),
    }
}

/// Writes to standard error; where that is closed there is nobody to tell.
fn complain(message: &str) {
    tell(&format!("nat-check: {message}"));
}

fn log_to_stderr(verbosity: Verbosity) {
    if verbosity < Verbosity::Logs {
        return;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("nat_check_core=debug"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).init();
}

fn distinct<'a>(lines: &[&'a str]) -> Vec<&'a str> {
    let mut kept: Vec<&str> = Vec::new();
    for line in lines {
        if !kept.contains(line) {
            kept.push(line);
        }
    }
    kept
}
