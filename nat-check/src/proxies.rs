//! Proxies on the command line and in the environment: where they are, and what is told of those that are not used.

use std::{net::SocketAddr, time::Duration};

use nat_check::plan::Plan;
use nat_check_core::{
    proxy::{Environment, ProxyQuery, ProxyUrl, not_asked_for},
    report::Report,
    selection::Families,
};
use tokio::{net::lookup_host, time::timeout};

/// How long looking up a name may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks all of them up, as other programs do: the hosts file counts.
pub(crate) async fn look_up(
    proxies: &[(ProxyUrl, Option<&'static str>)],
    families: Families,
) -> Vec<ProxyQuery> {
    let mut queries = Vec::new();
    for (url, variable) in proxies {
        let at = find(url, families).await;
        queries.push(ProxyQuery { url: url.clone(), variable: *variable, at });
    }
    queries
}

/// Where a proxy is, IPv4 before IPv6 where a name has both.
pub(crate) async fn find(url: &ProxyUrl, families: Families) -> Result<SocketAddr, String> {
    if let Some(ip) = url.literal() {
        return Ok(SocketAddr::new(ip, url.port()));
    }
    let host = url.host();
    let found = timeout(PATIENCE, lookup_host((host.as_str(), url.port()))).await;
    let mut found: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return Err(format!("the name of the proxy, {host}, does not resolve: {error}")),
        Err(_) => return Err(format!("the name of the proxy, {host}, does not resolve in time")),
    };
    found.sort_by_key(|at| (!families.contain(at.ip()), at.is_ipv6()));
    found.first().copied().ok_or_else(|| format!("the name of the proxy, {host}, has no address"))
}

/// Adds the proxies of the environment that were not used, and which servers programs reach without.
pub(crate) fn tell_unused(report: &mut Report, plan: &Plan, environment: &Environment) {
    let used = |found: &&nat_check_core::proxy::Found| {
        found.url.as_ref().is_ok_and(|url| plan.proxies.iter().any(|(used, _)| used == url))
    };
    let unused: Vec<_> = environment.found.iter().filter(|found| !used(found)).map(not_asked_for).collect();
    if !unused.is_empty() {
        report.proxy.get_or_insert_default().extend(unused);
    }
    let host = report.server.query.clone();
    if !environment.found.is_empty()
        && environment.excepts(host.rsplit_once(':').map_or(&host, |(host, _)| host))
    {
        report.warnings.push(format!("programs reach {host} without a proxy: NO_PROXY names it"));
    }
}

/// Whether programs that find their proxy by themselves (WPAD) would find one here. The script is never fetched, let alone run.
pub(crate) async fn automatic() -> Option<String> {
    let found = timeout(PATIENCE, lookup_host(("wpad", 80))).await.ok()?.ok()?.next()?;
    Some(format!(
        "a host named wpad exists here ({}): programs that find their proxy by themselves run a script of it; it was not fetched",
        found.ip()
    ))
}
