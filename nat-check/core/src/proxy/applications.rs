//! Which applications get through here, and how: from findings to verdicts. Pure.

use crate::report::{
    Application, ApplicationOutcome as Outcome, Level, ProxyApplication, ProxyReport, ProxyUdp, ReasonCode,
};

/// The verdicts; `direct_udp` says whether UDP works without the proxy, if that is known.
pub(super) fn verdicts(proxy: &ProxyReport, direct_udp: Option<bool>) -> Vec<ProxyApplication> {
    // Nothing passes a proxy that is not reached; of one that is, the server's own port tells nothing about others.
    let is_dead = proxy.connect.reason_code == Some(ReasonCode::ProxyUnreachable);
    let allows = |port: u16| match proxy.connect_ports.iter().find(|it| it.port == port) {
        Some(it) => it.allowed,
        None => is_dead.then_some(false),
    };
    vec![
        over_tcp(Application::Web, allows(HTTPS), ["connects to port 443", "does not connect to port 443"]),
        over_tcp(
            Application::OtherTcp,
            allows(SSH),
            ["connects to other ports, such as 22", "does not connect to port 22"],
        ),
        browser_calls(allows(HTTPS), direct_udp),
        peer_to_peer(proxy, direct_udp),
        other_udp(direct_udp),
    ]
}

pub(super) const HTTPS: u16 = 443;
const SSH: u16 = 22;

/// Ports of the server that a proxy is asked for besides the one that the server is at: what applications need.
pub(super) const PORTS: [u16; 3] = [SSH, HTTPS, 5349];

fn over_tcp(application: Application, allowed: Option<bool>, [yes, no]: [&str; 2]) -> ProxyApplication {
    let (outcome, how) = match allowed {
        Some(true) => (Outcome::ThroughProxy, format!("the proxy {yes}")),
        Some(false) => (Outcome::Blocked, format!("the proxy {no}")),
        None => (Outcome::Unknown, "the answer of the proxy does not tell".to_owned()),
    };
    ProxyApplication::new(application, outcome, &how)
}

/// Browsers send datagrams directly or not at all, whatever the proxy relays.
fn browser_calls(https: Option<bool>, direct_udp: Option<bool>) -> ProxyApplication {
    let (outcome, how) = match (direct_udp, https) {
        (Some(true), _) => (Outcome::Direct, "over UDP past the proxy, where the browser is allowed to"),
        (Some(false), Some(true)) => (
            Outcome::RelayOnly,
            "over TURN with TLS on port 443 through the proxy: browsers send no UDP through proxies",
        ),
        (Some(false), Some(false)) => {
            (Outcome::Blocked, "neither UDP past the proxy nor port 443 through it")
        }
        _ => (Outcome::Unknown, "not known whether UDP passes without the proxy, or port 443 through it"),
    };
    ProxyApplication::new(Application::BrowserCalls, outcome, how)
}

fn peer_to_peer(proxy: &ProxyReport, direct_udp: Option<bool>) -> ProxyApplication {
    let level = proxy.hole_punching.as_ref().map_or(Level::Unknown, |verdict| verdict.level);
    let (outcome, how) = match (proxy.udp_associate.sure(), level) {
        (Some(ProxyUdp::Works), Level::AnyPeer) => {
            (Outcome::ThroughProxy, "UDP through the relay of the proxy, with any peer")
        }
        (Some(ProxyUdp::Works), Level::MostPeers) => {
            (Outcome::ThroughProxy, "UDP through the relay of the proxy, with most peers")
        }
        (Some(ProxyUdp::Works), Level::SomePeers) => {
            (Outcome::ThroughProxy, "UDP through the relay of the proxy, with some peers")
        }
        (Some(ProxyUdp::Works), Level::Unknown) => {
            (Outcome::ThroughProxy, "UDP through the relay of the proxy; not known with which peers")
        }
        (_, _) if direct_udp == Some(true) => (Outcome::Direct, "over UDP past the proxy only"),
        (Some(ProxyUdp::Refused | ProxyUdp::GrantedButDead), _) if direct_udp == Some(false) => {
            (Outcome::RelayOnly, "no UDP with or without the proxy: over relays that are reached over TCP")
        }
        (Some(ProxyUdp::Works), _) if direct_udp == Some(false) => (
            Outcome::RelayOnly,
            "no peer is reached through the relay of the proxy: over relays of their own",
        ),
        (Some(_) | None, _) => (Outcome::Unknown, "not known whether UDP passes"),
    };
    ProxyApplication::new(Application::PeerToPeer, outcome, how)
}

fn other_udp(direct_udp: Option<bool>) -> ProxyApplication {
    let (outcome, how) = match direct_udp {
        Some(true) => (Outcome::Direct, "over UDP past the proxy"),
        Some(false) => (Outcome::Blocked, "they know no proxy, and UDP does not pass without it"),
        None => (Outcome::Unknown, "not known whether UDP passes without the proxy"),
    };
    ProxyApplication::new(Application::OtherUdp, outcome, how)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Confidence, Finding, HolePunching, ProxyConnect, ProxyPort};

    fn outcomes(proxy: &ProxyReport, direct_udp: Option<bool>) -> Vec<Outcome> {
        verdicts(proxy, direct_udp).into_iter().map(|it| it.outcome).collect()
    }

    fn proxy(ports: &[(u16, bool)], udp: ProxyUdp) -> ProxyReport {
        ProxyReport {
            connect: Finding::known(ProxyConnect::Works, Confidence::Certain, ""),
            connect_ports: ports.iter().map(|(port, yes)| ProxyPort::new(*port, Some(*yes), None)).collect(),
            udp_associate: Finding::known(udp, Confidence::Certain, ""),
            ..ProxyReport::default()
        }
    }

    #[test]
    fn a_relay_carries_only_what_knows_of_it() {
        let mut relay = proxy(&[(443, true), (22, true)], ProxyUdp::Works);
        relay.hole_punching = Some(HolePunching { level: Level::AnyPeer, ..HolePunching::default() });
        use Outcome::*;
        assert_eq!(
            outcomes(&relay, Some(false)),
            [ThroughProxy, ThroughProxy, RelayOnly, ThroughProxy, Blocked]
        );
        assert_eq!(outcomes(&relay, Some(true)), [ThroughProxy, ThroughProxy, Direct, ThroughProxy, Direct]);
        assert_eq!(outcomes(&relay, None), [ThroughProxy, ThroughProxy, Unknown, ThroughProxy, Unknown]);
    }

    #[test]
    fn a_web_proxy_leaves_peers_to_relays() {
        let web = proxy(&[(443, true), (22, false)], ProxyUdp::Refused);
        use Outcome::*;
        assert_eq!(outcomes(&web, Some(false)), [ThroughProxy, Blocked, RelayOnly, RelayOnly, Blocked]);
    }

    #[test]
    fn what_is_not_known_is_not_promised() {
        let mut weak = proxy(&[], ProxyUdp::GrantedButDead);
        weak.udp_associate.confidence = Confidence::Weak;
        use Outcome::*;
        assert_eq!(outcomes(&weak, Some(false)), [Unknown, Unknown, Unknown, Unknown, Blocked]);
        // That the server's own port is refused tells nothing about others.
        for (value, code) in [
            (ProxyConnect::Refused, ReasonCode::ProxyRefuses),
            (ProxyConnect::Refused, ReasonCode::ProxyWantsCredentials),
            (ProxyConnect::Unreachable, ReasonCode::ProxyDoesNotReachServer),
        ] {
            weak.connect = Finding::known(value, Confidence::Certain, "").because((code, ""));
            assert_eq!(outcomes(&weak, Some(false)), [Unknown, Unknown, Unknown, Unknown, Blocked]);
        }
        let asked = ProxyPort::new(443, None, Some(503));
        weak.connect_ports = vec![ProxyPort::new(3478, Some(false), Some(403)), asked];
        assert_eq!(outcomes(&weak, Some(false))[0], Unknown);
    }

    #[test]
    fn nothing_passes_a_proxy_that_is_not_reached() {
        let connect = Finding::known(ProxyConnect::Unreachable, Confidence::Certain, "");
        let connect = connect.because((ReasonCode::ProxyUnreachable, ""));
        use Outcome::*;
        let dead = ProxyReport { connect, ..ProxyReport::default() };
        assert_eq!(outcomes(&dead, Some(false)), [Blocked, Blocked, Blocked, Unknown, Blocked]);
    }

    #[test]
    fn a_relay_that_reaches_no_peer_is_no_way_to_peers() {
        let mut relay = proxy(&[], ProxyUdp::Works);
        relay.hole_punching = Some(HolePunching { level: Level::None, ..HolePunching::default() });
        use Outcome::*;
        let to_peers = |direct_udp| outcomes(&relay, direct_udp)[3];
        assert_eq!([Some(true), Some(false), None].map(to_peers), [Direct, RelayOnly, Unknown]);
    }
}
