//! Where the server stands, read off the external addresses that it shows: in the Internet, behind a NAT of its own (a
//! container's proxy, a load balancer), or in this host's private network.

use std::net::IpAddr;

use crate::{
    contactable::is_global,
    observation::{ObservationLog, RequestKind},
    report::{Reason, ReasonCode},
};

/// Why nothing that this server shows of a NAT is this host's: a NAT on the server's side rewrites the source of
/// requests, so the mappings and filters that show are its own.
pub(crate) fn nat_before_server(log: &ObservationLog) -> Option<Reason> {
    let shown =
        shown(log).find(|s| s.external != s.local && (!is_global(s.external) || s.external == s.server))?;
    let text = format!(
        "there is a NAT in front of the server: it sees this host at {}, which is no address of this host's side of \
         the Internet",
        shown.external
    );
    Some((ReasonCode::NatBeforeServer, text).into())
}

/// Why an external endpoint that is the local one does not prove that nothing translates: a server in the Internet
/// cannot see a private address.
pub(crate) fn sees_private_address(log: &ObservationLog) -> Option<Reason> {
    let shown = shown(log).find(|s| s.external == s.local && !is_global(s.local))?;
    let text = format!(
        "the server shows this host's own private address {}: either a gateway has put it there, or the server stands \
         in the same private network",
        shown.external
    );
    Some((ReasonCode::PrivateAddressShown, text).into())
}

/// What one answer of a server in the Internet shows.
struct Shown {
    server: IpAddr,
    local: IpAddr,
    external: IpAddr,
}

fn shown(log: &ObservationLog) -> impl Iterator<Item = Shown> {
    let asked = log.transactions.iter().filter(|t| t.kind == RequestKind::Binding && is_global(t.to.ip()));
    asked.filter_map(|t| {
        let external = log.external(t.direct()?)?.ip();
        Some(Shown { server: t.to.ip(), local: log.local(t.socket)?.ip(), external })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::{Purpose, made},
        server_endpoints::ServerEndpoint,
    };

    /// A run in which a host at `local` was shown `external`.
    fn run(local: &str, external: &str) -> ObservationLog {
        let mut log = made::log();
        let socket = made::socket(&mut log, local);
        log.transactions.push(made::answered(
            Purpose::main("any"),
            socket,
            ServerEndpoint::PRIMARY,
            external,
        ));
        log
    }

    #[test]
    fn a_server_in_the_internet_sees_no_private_address_of_others() {
        let nat = |local, external| nat_before_server(&run(local, external)).is_some();
        assert!(nat("192.168.1.2:40000", "172.17.0.1:40000"), "a container's proxy");
        assert!(nat("203.0.113.7:40000", "100.64.0.1:40000"), "no NAT at all on this side");
        assert!(nat("203.0.113.7:40000", "127.0.0.1:40000"));
        assert!(nat("203.0.113.7:40000", "198.51.100.10:40000"), "its own address");
        assert!(!nat("192.168.1.2:40000", "203.0.113.7:40000"));
        assert!(!nat("203.0.113.7:40000", "203.0.113.7:40000"));
        assert!(!nat("192.168.1.2:40000", "192.168.1.2:40000"));
    }

    #[test]
    fn a_private_address_of_ones_own_is_no_proof() {
        let private = |local, external| sees_private_address(&run(local, external)).is_some();
        assert!(private("192.168.1.2:40000", "192.168.1.2:40000"));
        assert!(!private("203.0.113.7:40000", "203.0.113.7:40000"));
        assert!(!private("192.168.1.2:40000", "203.0.113.7:40000"));
    }

    #[test]
    fn a_server_in_a_private_network_may_show_what_it_likes() {
        let mut log = run("192.168.1.2:40000", "192.168.1.2:40000");
        let at: std::net::SocketAddr = "192.168.1.1:3478".parse().unwrap();
        log.server = at;
        log.transactions[0].to = at;
        log.transactions[0].responses[0].from = at;
        assert_eq!((nat_before_server(&log), sees_private_address(&log)), (None, None));
    }
}
