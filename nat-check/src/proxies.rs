//! Proxies on the command line and in the environment: where they are, and what is told of those that are not used.

use std::{
    io,
    net::{Ipv6Addr, SocketAddr, ToSocketAddrs},
    thread,
    time::Duration,
};

use nat_check::plan::Plan;
use nat_check_core::{
    proxy::{Environment, ProxyQuery, ProxyUrl, not_asked_for},
    report::Report,
    selection::Families,
};
use tokio::{sync::oneshot, time::timeout};

use crate::interruption::Interruption;

/// How long looking up a name may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Looks all of them up, as other programs do: the hosts file counts.
pub(crate) async fn look_up(
    proxies: &[(ProxyUrl, Option<&'static str>)],
    families: Families,
    interruption: &Interruption,
) -> Vec<ProxyQuery> {
    let mut queries = Vec::new();
    for (url, variable) in proxies {
        let at = tokio::select! {
            biased;
            () = interruption.happens() => Err("the run was interrupted before its name was resolved".to_owned()),
            at = find(url, families) => at,
        };
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
    let found = timeout(PATIENCE, addresses(host.clone(), url.port())).await;
    let mut found: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found,
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
    let server = report.server.query.clone();
    if !environment.found.is_empty() && environment.excepts(&host_of(&server)) {
        report.warnings.push(format!("programs reach {server} without a proxy: NO_PROXY names it"));
    }
}

/// The host of `HOST[:PORT]`, where an IPv6 address may stand without brackets.
fn host_of(server: &str) -> String {
    if server.parse::<Ipv6Addr>().is_ok() || server.ends_with(']') {
        return server.to_owned();
    }
    server.rsplit_once(':').map_or(server, |(host, _)| host).to_owned()
}

/// Whether programs that find their proxy by themselves (WPAD) would find one here. The script is never fetched, let alone run.
pub(crate) async fn automatic(interruption: &Interruption) -> Option<String> {
    let found = tokio::select! {
        biased;
        () = interruption.happens() => return None,
        found = timeout(PATIENCE, addresses("wpad".to_owned(), 80)) => found.ok()?.ok()?.first().copied()?,
    };
    Some(format!(
        "a host named wpad exists here ({}): programs that find their proxy by themselves run a script of it; it was not fetched",
        found.ip()
    ))
}

/// Asks the system, on a thread that nobody waits for: a name server that is silent must not keep the program from ending.
async fn addresses(host: String, port: u16) -> io::Result<Vec<SocketAddr>> {
    let (answer, answered) = oneshot::channel();
    let asking = move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
        // Nobody listens any more where it took too long.
        _ = answer.send(found);
    };
    thread::Builder::new().name("look-up".into()).spawn(asking)?;
    answered.await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_a_server_is_what_stands_before_its_port() {
        for (server, host) in [
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "[2001:db8::1]"),
            ("[2001:db8::1]:3478", "[2001:db8::1]"),
            ("192.0.2.1:3478", "192.0.2.1"),
            ("a.example", "a.example"),
        ] {
            assert_eq!(host_of(server), host);
        }
    }

    #[tokio::test]
    async fn a_name_of_this_host_is_found() {
        assert!(!addresses("127.0.0.1".to_owned(), 80).await.unwrap().is_empty());
    }
}
