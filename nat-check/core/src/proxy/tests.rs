//! Proxies in a simulated network, in virtual time: a scripted SOCKS5 relay behind modelled NATs, and proxies that do not do
//! what they say.

mod scripted;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    Destination, ProxyQuery, ProxyUrl, http, socks4, socks5,
    wire::{Malformed, Read},
};
use crate::{
    Check,
    nat::{Filtering, Mapping, NatType},
    net::sim::{SiteSpec, World},
    report::{
        Application, ApplicationOutcome, ProxyBind, ProxyConnect, ProxyReport, ProxyUdp, ReasonCode, Report,
    },
};
use scripted::{AT, Answer, Connect, Relay, Script, ScriptedNet};

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("runtime").block_on(test)
}

/// A host behind a port-restricted cone, and a proxy behind this NAT.
async fn measured(url: &str, nat: &str, script: Script) -> Report {
    measured_with(url, nat, script, |world| vec![world.server()]).await
}

/// The same, with these servers.
async fn measured_with(
    url: &str,
    nat: &str,
    script: Script,
    servers: impl FnOnce(&World) -> Vec<SocketAddr>,
) -> Report {
    let proxy_site = SiteSpec { nat: nat.parse().expect(nat), ..SiteSpec::default() };
    let world = World::builder(3).nat("port-restricted-cone".parse().unwrap()).site(proxy_site).build();
    let net = Arc::new(ScriptedNet::new(world.client(), world.host(1, 0), script));
    let mut check = Check::with(servers(&world)).net(net);
    let url = ProxyUrl::parse(url).unwrap();
    check.setup().proxies = vec![ProxyQuery { url, variable: None, at: Ok(AT.parse().unwrap()) }];
    check.run().await
}

fn proxy(report: &Report) -> &ProxyReport {
    &report.proxy.as_ref().expect("proxies")[0]
}

#[test]
fn the_class_of_a_relay_is_that_of_the_nat_behind_it() {
    let mappings = [
        ("ei", Mapping::EndpointIndependent),
        ("ad", Mapping::AddressDependent),
        ("apd", Mapping::AddressAndPortDependent),
    ];
    let filterings = [
        ("ei", Filtering::EndpointIndependent),
        ("ad", Filtering::AddressDependent),
        ("apd", Filtering::AddressAndPortDependent),
    ];
    for (mapping_name, mapping) in mappings {
        for (filtering_name, filtering) in filterings {
            let nat = format!("mapping={mapping_name},filtering={filtering_name}");
            let report = run(measured("socks5://proxy", &nat, Script::default()));
            let it = proxy(&report);
            assert_eq!(it.udp_associate.sure(), Some(&ProxyUdp::Works), "{nat}: {:?}", it.udp_associate);
            let udp = it.udp.as_ref().expect("UDP");
            assert_eq!(udp.mapping.sure(), Some(&mapping), "{nat}: {:?}", udp.mapping);
            assert_eq!(udp.filtering.sure(), Some(&filtering), "{nat}: {:?}", udp.filtering);
            assert_eq!(udp.distance.reason_code, Some(ReasonCode::NotThroughProxy));
            // The way without it is another.
            let direct = report.ipv4.udp.as_ref().and_then(|udp| udp.nat_type.value);
            assert_eq!(direct, Some(NatType::PortRestrictedCone), "{nat}");
            assert!(it.hole_punching.is_some());
        }
    }
}

#[test]
fn connections_go_through_as_well() {
    let report = run(measured("socks5://proxy", "full-cone", Script::default()));
    let it = proxy(&report);
    assert_eq!(it.connect.sure(), Some(&ProxyConnect::Works), "{:?}", it.connect);
    assert_eq!(it.exit_address, Some("203.0.113.17".parse().unwrap()));
    assert_eq!(it.bind.sure(), Some(&ProxyBind::Refused));
    assert_eq!(it.connect_ports[0].allowed, Some(true));
    assert_eq!(it.remote_dns.reason_code, Some(ReasonCode::NoNameToLookUp));
    let outcome =
        |application| it.applications.iter().find(|it| it.application == application).map(|it| it.outcome);
    assert_eq!(outcome(Application::PeerToPeer), Some(ApplicationOutcome::ThroughProxy));
    assert_eq!(outcome(Application::BrowserCalls), Some(ApplicationOutcome::Direct));
}

#[test]
fn a_relay_that_lets_nothing_pass_is_told_from_one_that_refuses() {
    let dead =
        run(measured("socks5://proxy", "full-cone", Script { relay: Relay::Dead, ..Script::default() }));
    let it = proxy(&dead);
    assert_eq!(it.udp_associate.sure(), Some(&ProxyUdp::GrantedButDead), "{:?}", it.udp_associate);
    assert_eq!(it.connect.sure(), Some(&ProxyConnect::Works));
    let refusing = Script { relay: Relay::Refused(7), ..Script::default() };
    let refused = run(measured("socks5://proxy", "full-cone", refusing));
    let it = proxy(&refused);
    assert_eq!(it.udp_associate.sure(), Some(&ProxyUdp::Refused), "{:?}", it.udp_associate);
    assert_eq!(it.udp_associate.reason_code, Some(ReasonCode::ProxyRefuses));
    assert!(it.udp.is_none());
}

#[test]
fn a_relay_that_names_no_address_or_a_wrong_one_is_found_at_the_proxys() {
    for named in ["0.0.0.0", "10.9.9.9", "127.0.0.1", "192.168.200.2"] {
        let script = Script { relay: Relay::Named(named.parse().unwrap()), ..Script::default() };
        let report = run(measured("socks5://proxy", "full-cone", script));
        let it = proxy(&report);
        assert_eq!(it.udp_associate.sure(), Some(&ProxyUdp::Works), "{named}: {:?}", it.udp_associate);
        assert_eq!(it.udp_associate.reason_code, Some(ReasonCode::RelayAddressUnusable), "{named}");
        let class = it.udp.as_ref().and_then(|udp| udp.nat_type.sure());
        assert_eq!(class, Some(&NatType::FullCone), "{named}");
    }
}

#[test]
fn passwords_are_right_wrong_or_missing_and_never_shown() {
    let script = || Script { password: Some(("somebody", "s3cret")), ..Script::default() };
    let right = run(measured("socks5://somebody:s3cret@proxy", "full-cone", script()));
    assert_eq!(proxy(&right).connect.sure(), Some(&ProxyConnect::Works), "{:?}", proxy(&right).connect);
    assert_eq!(proxy(&right).udp_associate.sure(), Some(&ProxyUdp::Works));
    let wrong = run(measured("socks5://somebody:wr0ng@proxy", "full-cone", script()));
    assert_eq!(proxy(&wrong).connect.sure(), Some(&ProxyConnect::Refused));
    assert_eq!(proxy(&wrong).connect.reason_code, Some(ReasonCode::ProxyRefusesCredentials));
    assert_eq!(proxy(&wrong).error.as_deref(), Some("the proxy refuses the user name or the password"));
    let missing = run(measured("socks5://proxy", "full-cone", script()));
    assert_eq!(proxy(&missing).connect.reason_code, Some(ReasonCode::ProxyWantsCredentials));
    for report in [right, wrong, missing] {
        let json = serde_json::to_string(&report).unwrap();
        for secret in ["s3cret", "wr0ng", "somebody"] {
            assert!(!json.contains(secret) && !format!("{report:?}").contains(secret));
        }
    }
}

#[test]
fn what_answers_nonsense_slowly_or_not_at_all_takes_bounded_time() {
    let cases = [
        (Answer::Silence, ReasonCode::ProxyAnswerUnusable),
        (Answer::Garbage, ReasonCode::ProxyAnswerUnusable),
        (Answer::Drip, ReasonCode::ProxyAnswerUnusable),
        (Answer::HangUp, ReasonCode::ProxyAnswerUnusable),
        (Answer::Refuse, ReasonCode::ProxyUnreachable),
        (Answer::Lost, ReasonCode::ProxyUnreachable),
    ];
    for (answer, code) in cases {
        for scheme in ["socks5", "socks4", "http"] {
            let (took, report) = run(async {
                let begun = Instant::now();
                let script = Script { answer, ..Script::default() };
                let report = measured(&format!("{scheme}://proxy"), "full-cone", script).await;
                (begun.elapsed(), report)
            });
            let it = proxy(&report);
            assert_eq!(it.connect.reason_code, Some(code), "{answer:?} {scheme}: {:?}", it.connect);
            assert!(it.error.is_some() && it.udp.is_none());
            assert!(took < Duration::from_secs(20), "{answer:?} {scheme}: {took:?}");
        }
    }
}

#[test]
fn an_association_that_the_proxy_ends_is_counted() {
    let script = Script { relay: Relay::Ends, ..Script::default() };
    let report = run(measured("socks5://proxy", "full-cone", script));
    let it = proxy(&report);
    assert_eq!(it.udp_associate.value, Some(ProxyUdp::GrantedButDead), "{:?}", it.udp_associate);
    assert!(it.udp_associate.evidence["ended_by_proxy"].as_u64().unwrap() > 0);
}

#[test]
fn the_server_that_answers_without_the_proxy_is_asked_through_it() {
    let servers = |world: &World| vec!["198.51.100.77:3478".parse().unwrap(), world.server()];
    let report = run(measured_with("socks5://proxy", "full-cone", Script::default(), servers));
    let it = proxy(&report);
    assert_eq!(it.connect.sure(), Some(&ProxyConnect::Works), "{:?}", it.connect);
    assert_eq!(it.udp_associate.sure(), Some(&ProxyUdp::Works), "{:?}", it.udp_associate);
}

#[test]
fn a_silent_server_is_told_from_a_silent_proxy() {
    let script = Script { connect: Connect::Silent(3478), ..Script::default() };
    let report = run(measured("socks5://proxy", "full-cone", script));
    let it = proxy(&report);
    assert_eq!((it.connect.value, it.connect.reason_code), (None, Some(ReasonCode::NoAnswer)));
    assert_eq!(it.error, None);
    assert_eq!(it.connect_ports[0].allowed, None);
    assert_eq!(it.udp_associate.sure(), Some(&ProxyUdp::Works), "{:?}", it.udp_associate);
}

#[test]
fn the_word_of_a_proxy_that_grants_everything_is_nothing() {
    let script = Script { connect: Connect::GrantsFirst, ..Script::default() };
    let report = run(measured("socks5://proxy", "full-cone", script));
    let it = proxy(&report);
    assert_eq!(it.connect.sure(), Some(&ProxyConnect::Works), "{:?}", it.connect);
    let allowed: Vec<_> = it.connect_ports.iter().map(|it| it.allowed).collect();
    assert_eq!(allowed, [Some(true), None, None, None]);
    assert_eq!(it.applications[0].outcome, ApplicationOutcome::Unknown);
}

#[test]
fn a_relay_that_sends_anything_but_the_answer_does_not_work() {
    let script = Script { relay: Relay::Echoes, ..Script::default() };
    let report = run(measured("socks5://proxy", "full-cone", script));
    let it = proxy(&report);
    assert_eq!(it.udp_associate.value, None, "{:?}", it.udp_associate);
    assert_eq!(it.udp_associate.reason_code, Some(ReasonCode::NoAnswer));
}

/// Whatever comes, a parser ends: it wants more than there is, within bounds, or is through.
fn is_sound<T>(message: &[u8], longest: usize, parsed: Result<Read<T>, Malformed>) -> bool {
    match parsed {
        Ok(Read::Needs(length)) => length > message.len() && length <= longest.max(message.len() + 1),
        Ok(Read::Whole(_)) | Err(Malformed) => true,
    }
}

proptest! {
    #[test]
    fn parsers_take_any_input(message in prop::collection::vec(any::<u8>(), 0..600), version in 0_u8..6) {
        let mut begun = message.clone();
        if let Some(first) = begun.first_mut() {
            *first = version;
        }
        for message in [&message, &begun] {
            prop_assert!(is_sound(message, 2, socks5::parse_choice(message)));
            prop_assert!(is_sound(message, 2, socks5::parse_login(message)));
            prop_assert!(is_sound(message, 3 + 1 + 256 + 2, socks5::parse_reply(message)));
            prop_assert!(is_sound(message, 8, socks4::parse_reply(message)));
            prop_assert!(is_sound(message, http::LONGEST_HEAD, http::parse_head(message)));
            let _ = socks5::unwrap(message);
        }
    }

    #[test]
    fn heads_are_read_whatever_stands_in_them(text in "HTTP/1\\.[01] [0-9]{3} [ -~]{0,40}\r\n([A-Za-z-]{1,9}: [ -~]{0,40}\r\n){0,5}\r\n") {
        let parsed = http::parse_head(text.as_bytes());
        prop_assert!(matches!(parsed, Ok(Read::Whole(_)) | Err(Malformed)), "{parsed:?}");
    }

    #[test]
    fn datagrams_come_out_as_they_went_in(
        ip in any::<std::net::IpAddr>(),
        port in any::<u16>(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let to = std::net::SocketAddr::new(ip.to_canonical(), port);
        let wrapped = socks5::wrap(to, &payload);
        prop_assert_eq!(socks5::unwrap(&wrapped), Some((to, &payload[..])));
        // A request reads like a reply: kind, address and port stand at the same place.
        let request = socks5::request(socks5::Command::Connect, &Destination::Address(to));
        let read = socks5::parse_reply(&request);
        prop_assert_eq!(read, Ok(Read::Whole(socks5::Reply { code: 1, bound: to.into() })));
    }

    #[test]
    fn urls_take_any_text(text in any::<String>()) {
        let shown = ProxyUrl::parse(&text).map(|url| url.to_string());
        if let Ok(shown) = shown {
            prop_assert!(ProxyUrl::parse(&shown).is_ok(), "{}", shown);
        }
        let _ = ProxyUrl::redacted(&text);
    }
}
