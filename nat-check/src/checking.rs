//! `nat-check` without a subcommand: looks the servers up, measures, prints the report, judges it.

use std::{collections::BTreeMap, io, net::IpAddr, sync::Arc, time::SystemTime};

use anyhow::Context;
use nat_check::{
    args::Args,
    plan::{Network, Plan, Surroundings},
    terminal::{Terminal, style},
    usage::{UsageError, Verbosity},
};
use nat_check_core::{
    check::{ServerQuery, check},
    net::{Net, os::OsNet, sim},
    probe::REGISTRY,
    progress::{Progress, Silent},
    proxy::Environment,
    report::{FamilyReport, FamilyStatus, Report},
    resolve::{Query, Resolver},
    target::{FoundBy, Target},
};
use probe_server::{Server, config::Config, topology::Endpoint};
use tokio::task::JoinSet;

use crate::{
    SUCCESS, UNMET, UNREACHED,
    interruption::Interruption,
    output::{complain, log_to_stderr, print},
    proxies,
};

/// Measures, prints the report, and gives the exit code.
///
/// # Errors
/// A command line that makes no sense, or a report that cannot be written.
pub(crate) fn run(args: Args) -> anyhow::Result<u8> {
    let environment = Environment::read(|name| std::env::var(name).ok());
    let plan = plan(args, &environment)?;
    log_to_stderr(plan.verbosity);
    let interruption = Interruption::watch();
    let mut report = measure(&plan, &interruption)?;
    let interrupted = interruption.end();
    report.partial |= interrupted.is_some();
    if !matches!(plan.network, Network::Simulated(_)) {
        proxies::tell_unused(&mut report, &plan, &environment);
    }
    print(&(plan.format.render)(&report, &style(plan.verbosity >= Verbosity::Evidence)))?;
    match interrupted {
        Some(code) => {
            complain("interrupted: the report is partial");
            Ok(code)
        }
        None => judge(&plan, &report),
    }
}

fn plan(args: Args, proxies: &Environment) -> Result<Plan, UsageError> {
    let server = std::env::var("NAT_CHECK_SERVER").ok();
    let tests: Vec<&str> = REGISTRY.iter().map(|probe| probe.name).collect();
    let seed = fastrand::u64(..);
    Plan::new(args, Surroundings { server: server.as_deref(), tests: &tests, seed, proxies })
}

#[tokio::main(flavor = "current_thread")]
async fn measure(plan: &Plan, interruption: &Interruption) -> anyhow::Result<Report> {
    // Kept till the end: the embedded server answers for as long as it is held.
    let mut embedded = None;
    let mut one_address = false;
    let (net, servers): (Arc<dyn Net>, Vec<ServerQuery>) = match &plan.network {
        Network::Servers(queries) => (Arc::new(OsNet), look_up(plan, queries, interruption).await),
        Network::Simulated(nat) => {
            let simulated =
                sim::simulate(nat, plan.seed).map_err(|e| UsageError::value("simulate", nat, e))?;
            let found_by = FoundBy::Simulated;
            let target =
                Target { query: format!("simulated {nat}"), found_by, v4: Some(simulated.server), v6: None };
            (simulated.net, vec![target.into()])
        }
        Network::Local => {
            let config = with_addresses_of_this_system(Config::local(), can_bind);
            one_address = config.families.iter().any(|family| family.alternate.is_none());
            let server = embedded.insert(Server::start(config).context("--local")?);
            let primary = server.topologies().first().and_then(|topology| topology.bound(Endpoint::Primary));
            let query = "embedded server".to_owned();
            let target = Target { query, found_by: FoundBy::Local, v4: primary, v6: None };
            (Arc::new(OsNet), vec![target.into()])
        }
    };
    if let Some(bind) = plan.bind {
        net.bind(bind).await.map_err(|e| UsageError::value("bind", bind, e))?;
    }
    let terminal =
        (plan.verbosity > Verbosity::Quiet).then(|| Terminal::new(plan.verbosity > Verbosity::Normal));
    let progress: &dyn Progress = terminal.as_ref().map_or(&Silent, |terminal| terminal);
    #[expect(clippy::disallowed_methods, reason = "the edge where the report gets its date")]
    let mut setup = plan.setup(SystemTime::now());
    setup.proxies = proxies::look_up(&plan.proxies, plan.families, interruption).await;
    let mut report = check(&setup, net, &servers, progress, interruption.flag()).await;
    if one_address {
        report.warnings.push(ONE_ADDRESS.to_owned());
    }
    if !plan.proxies.is_empty() {
        report.warnings.extend(proxies::automatic(interruption).await);
    }
    drop(embedded);
    Ok(report)
}

/// What `--local` lacks where loopback has one address only.
const ONE_ADDRESS: &str = "this system has no 127.0.0.2, so the embedded server has one address and filtering cannot be \
    measured: add the address (macOS: sudo ifconfig lo0 alias 127.0.0.2), or use --simulate";

/// The embedded server without a second address where the system does not have it: macOS gives loopback only one.
fn with_addresses_of_this_system(mut config: Config, exists: impl Fn(IpAddr) -> bool) -> Config {
    for family in &mut config.families {
        family.alternate = family.alternate.filter(|ip| exists(*ip));
    }
    config
}

fn can_bind(ip: IpAddr) -> bool {
    // Any other failure is for the server to tell.
    let bound = std::net::UdpSocket::bind((ip, 0));
    bound.map_or_else(|error| error.kind() != io::ErrorKind::AddrNotAvailable, |_| true)
}

/// Looks all servers up at the same time, so that a dead name server does not cost its wait for each of them.
async fn look_up(plan: &Plan, named: &[Query], interruption: &Interruption) -> Vec<ServerQuery> {
    let resolver = Arc::new(Resolver::system());
    let mut seeds = fastrand::Rng::with_seed(plan.seed);
    let mut lookups = JoinSet::new();
    let queries =
        || named.iter().map(|query| (query, false)).chain(plan.public.iter().map(|query| (query, true)));
    for (at, (query, _)) in queries().enumerate() {
        let (resolver, query, families, mut rng) =
            (resolver.clone(), query.clone(), plan.families, seeds.fork());
        lookups.spawn(async move { (at, resolver.resolve(&query, families, &mut rng).await) });
    }
    let mut found = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            () = interruption.happens() => break,
            ended = lookups.join_next() => match ended {
                None => break,
                Some(ended) => found.extend(ended.ok()),
            },
        }
    }
    let interrupted = || Err("the run was interrupted before its name was resolved".to_owned());
    let target = |at| found.remove(&at).map_or_else(interrupted, |found| found.map_err(|e| e.to_string()));
    let targets: Vec<_> = (0..queries().count()).map(target).collect();
    queries()
        .zip(targets)
        .map(|((query, few_packets), target)| {
            let mut server = ServerQuery::new(query.given(), target);
            server.few_packets = few_packets;
            server
        })
        .collect()
}

/// The exit code that the report deserves, and why, on standard error.
fn judge(plan: &Plan, report: &Report) -> anyhow::Result<u8> {
    let families = [&report.ipv4, &report.ipv6];
    if families.iter().all(|family| family.status != FamilyStatus::Tested) {
        let reasons: Vec<&str> = families
            .into_iter()
            .filter(|family| family.status != FamilyStatus::Skipped)
            .filter_map(|family: &FamilyReport| family.reason.as_deref())
            .collect();
        complain(&format!("no probe server could be reached: {}", distinct(&reasons).join("; ")));
        return Ok(UNREACHED);
    }
    let report = serde_json::to_value(report).context("the report as JSON")?;
    let unmet: Vec<String> = plan
        .requires
        .iter()
        .filter_map(|requirement| requirement.check(&report).err())
        .map(|unmet| unmet.to_string())
        .collect();
    unmet.iter().for_each(|line| complain(line));
    Ok(if unmet.is_empty() { SUCCESS } else { UNMET })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_server_has_the_addresses_that_the_system_has() {
        let alternate = |config: Config| config.families[0].alternate;
        assert!(alternate(with_addresses_of_this_system(Config::local(), |_| true)).is_some());
        assert_eq!(alternate(with_addresses_of_this_system(Config::local(), |_| false)), None);
        assert!(can_bind("127.0.0.1".parse().unwrap()));
        assert!(!can_bind("192.0.2.1".parse().unwrap()), "an address for documents is nobody's");
    }
}
