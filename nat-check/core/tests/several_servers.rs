//! Servers with one address each, asked together, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use nat_check_core::{
    check::{ServerQuery, Setup, check},
    net::{
        Net,
        sim::{Fault, Loss, PathSpec, ServerSpec, World},
    },
    probe::REGISTRY,
    progress::Silent,
    report::{Confidence, FamilyStatus, Report, UdpReport},
    target::{FoundBy, Target},
};
use serde_json::Value;
use shared::nat::{Filtering, Mapping, NatType, model::Stack};
use tokio::sync::watch;

const SINGLE: &[Fault] = &[Fault::SingleAddress];
const DEAD: &[Fault] = &[Fault::UdpDead, Fault::TcpClosed];

/// Servers with these faults, the first one's port as given and the others' 3478.
fn world(nat: &str, port: u16, servers: &[&[Fault]]) -> World {
    let builder = World::builder(7).nat(nat.parse().expect(nat)).path(PathSpec::with_delay_ms(25));
    let placed = |(number, faults): (usize, &&[Fault])| ServerSpec {
        ports: if number == 0 { (port, port + 1) } else { (3478, 3479) },
        ..ServerSpec::with_faults(faults.iter().copied())
    };
    servers.iter().enumerate().map(placed).fold(builder, |builder, server| builder.server(server)).build()
}

fn queries(world: &World) -> Vec<ServerQuery> {
    let query = |(number, server): (usize, &ServerSpec)| {
        let v4 = Some(SocketAddr::new(server.primary, server.ports.0));
        let (query, found_by) = (format!("server-{number}"), FoundBy::Simulated);
        ServerQuery::from(Target { query, found_by, v4, v6: None })
    };
    world.servers().iter().enumerate().map(query).collect()
}

async fn ask(world: &World, queries: &[ServerQuery]) -> Report {
    let net: Arc<dyn Net> = world.client();
    let (_never, stop) = watch::channel(false);
    let report = check(&Setup::default(), net, queries, &Silent, stop).await;
    assert_eq!(report.ipv4.status, FamilyStatus::Tested, "{:?}", report.ipv4);
    report
}

async fn report(nat: &str, port: u16, servers: &[&[Fault]]) -> Report {
    let world = world(nat, port, servers);
    ask(&world, &queries(&world)).await
}

fn udp(report: &Report) -> &UdpReport {
    report.ipv4.udp.as_ref().unwrap()
}

fn mapping(report: &Report) -> (Option<Mapping>, Confidence) {
    let mapping = &udp(report).mapping;
    (mapping.value, mapping.confidence)
}

#[tokio::test(start_paused = true)]
async fn two_servers_with_one_address_each_tell_whether_the_mapping_depends_on_the_destination() {
    for nat in ["symmetric", "mapping=ad,filtering=apd,ports=random", "symmetric-sequential"] {
        let report = report(nat, 3478, &[SINGLE, SINGLE]).await;
        let nat_type = &udp(&report).nat_type;
        assert_eq!(
            (nat_type.value, nat_type.confidence),
            (Some(NatType::Symmetric), Confidence::Certain),
            "{nat}: {:?}",
            udp(&report).mapping
        );
        assert_eq!(mapping(&report).1, Confidence::Weak, "{nat}: its kind is not shown");
        assert_eq!(udp(&report).external.len(), 2, "{nat}: both servers' views of one socket");
        assert!(udp(&report).port_allocation.value.is_some());
        assert!(report.hole_punching.summary.starts_with("Hole punching works at least with"), "{nat}");
    }
    for nat in ["full-cone", "port-restricted-cone", "linux"] {
        let report = report(nat, 19_302, &[SINGLE, SINGLE]).await;
        let independent = (Some(Mapping::EndpointIndependent), Confidence::Certain);
        assert_eq!(mapping(&report), independent, "{nat}: {:?}", udp(&report).mapping);
        assert_eq!(udp(&report).filtering.value, None);
        let summary = &report.hole_punching.summary;
        assert!(
            summary.starts_with("Hole punching works with most peers if the filter here is"),
            "{summary}"
        );
    }
    let open = report("open", 3478, &[SINGLE, SINGLE]).await;
    assert_eq!(mapping(&open), (Some(Mapping::Direct), Confidence::Certain));
}

#[tokio::test(start_paused = true)]
async fn one_port_number_excludes_no_mapping_by_port() {
    for nat in ["full-cone", "mapping=pd,filtering=apd,ports=random"] {
        let report = report(nat, 3478, &[SINGLE, SINGLE]).await;
        assert_eq!(mapping(&report), (Some(Mapping::EndpointIndependent), Confidence::Weak), "{nat}");
    }
    let by_port = report("mapping=pd,filtering=apd,ports=random", 19_302, &[SINGLE, SINGLE]).await;
    assert_eq!(udp(&by_port).nat_type.value, Some(NatType::Symmetric), "{:?}", udp(&by_port).mapping);
}

#[tokio::test(start_paused = true)]
async fn of_four_servers_one_may_be_dead_and_one_may_lie() {
    for lie in [Fault::MappedConstant, Fault::MappedByProxy, Fault::BehindNat] {
        for (nat, value) in [
            ("port-restricted-cone", Mapping::EndpointIndependent),
            ("symmetric", Mapping::AddressAndPortDependent),
        ] {
            let liar: &[Fault] = &[Fault::SingleAddress, lie];
            let report = report(nat, 19_302, &[SINGLE, DEAD, liar, SINGLE]).await;
            let context = || format!("{nat}, {lie:?}: {:#?} {:?}", udp(&report).mapping, report.warnings);
            assert!(report.duration_s < 2.2, "{} s", report.duration_s);
            let (found, sure) = mapping(&report);
            assert!(found.is_none_or(|found| found == value || sure <= Confidence::Weak), "{}", context());
            let policy = udp(&report).port_allocation.value.as_ref().map(|p| p.external_ips);
            assert_eq!(policy, Some(1), "the liar's word counts nowhere: {}", context());
            if lie != Fault::MappedByProxy {
                assert_eq!(found, Some(value), "{}", context());
                assert!(!report.more_servers[1].faults.is_empty(), "{:?}", report.more_servers);
            } else if value == Mapping::EndpointIndependent {
                let named = |line: &String| line.starts_with("server-2: ") && line.contains("192.0.2.50");
                assert!(report.warnings.iter().any(named), "{}", context());
            }
            let dead = |line: &String| line.contains("198.51.100.20:3478 answered none");
            assert!(report.warnings.iter().any(dead), "{}", context());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_servers_one_may_lie() {
    for lie in [Fault::MappedConstant, Fault::MappedByProxy, Fault::BehindNat] {
        let liar: &[Fault] = &[Fault::SingleAddress, lie];
        for servers in [[SINGLE, liar], [liar, SINGLE]] {
            let report = report("full-cone", 19_302, &servers).await;
            let (found, sure) = mapping(&report);
            assert!(found.is_none() || sure <= Confidence::Weak, "{lie:?}: {:?}", udp(&report).mapping);
            assert_ne!(udp(&report).nat_type.value, Some(NatType::Symmetric), "{lie:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_with_two_addresses_settles_it_beside_one_that_lies() {
    let liar: &[Fault] = &[Fault::SingleAddress, Fault::MappedByProxy];
    for servers in [[&[][..], liar], [liar, &[]]] {
        let report = report("restricted-cone", 3478, &servers).await;
        assert_eq!(mapping(&report), (Some(Mapping::EndpointIndependent), Confidence::Certain));
        assert_eq!(udp(&report).nat_type.value, Some(NatType::RestrictedCone));
        assert!(report.warnings.iter().any(|line| line.contains("192.0.2.50")), "{:?}", report.warnings);
    }
}

#[tokio::test(start_paused = true)]
async fn public_servers_get_a_handful_of_packets_each() {
    for (nat, nat_type) in [("symmetric", Some(NatType::Symmetric)), ("port-restricted-cone", None)] {
        let world = world(nat, 19_302, &[SINGLE; 5]);
        let mut queries = queries(&world);
        queries.iter_mut().for_each(|query| query.few_packets = true);
        let report = ask(&world, &queries).await;
        assert_eq!(udp(&report).nat_type.value, nat_type);
        assert!(udp(&report).mapping.value.is_some());
        assert!(
            udp(&report).port_allocation.confidence >= Confidence::Strong,
            "{:?}",
            udp(&report).port_allocation
        );
        println!("{nat}: {} packets to five servers", world.datagrams());
        assert!(world.datagrams() <= 75, "{nat}: {} packets", world.datagrams());
    }
}

#[tokio::test(start_paused = true)]
async fn one_server_by_two_names_is_asked_once() {
    let world = world("full-cone", 3478, &[&[]]);
    let mut queries = queries(&world);
    let mut again = queries[0].clone();
    again.query = "another-name".into();
    queries.push(again);
    let mut other = queries[0].clone();
    other.query = "other-address".into();
    if let Ok(target) = &mut other.target {
        target.v4 = Some(SocketAddr::new(world.servers()[0].alternate, 3478));
    }
    queries.push(other);
    let report = ask(&world, &queries).await;
    assert_eq!(udp(&report).nat_type.value, Some(NatType::FullCone));
    let told = |text: &str| report.warnings.iter().any(|line| line == text);
    assert!(told("another-name is the same server as server-0"), "{:?}", report.warnings);
    assert!(
        told("other-address is the other address of server-0, and not asked again"),
        "{:?}",
        report.warnings
    );
}

#[tokio::test(start_paused = true)]
async fn a_filter_that_remembers_for_the_whole_host_is_not_called_open() {
    // The second server is asked at both of its addresses, so its filtering test comes too late.
    let world = world("mapping=ei,filtering=ad,keyed=host", 3478, &[&[], &[]]);
    let mut queries = queries(&world);
    let mut swapped = queries[1].clone();
    swapped.query = "swapped".into();
    if let Ok(target) = &mut swapped.target {
        target.v4 = Some(SocketAddr::new(world.servers()[1].alternate, 3478));
    }
    queries.push(swapped.clone());
    let report = ask(&world, &queries).await;
    let filtering = &udp(&report).filtering;
    assert_eq!(filtering.value, Some(Filtering::AddressDependent), "{filtering:?} {:?}", report.warnings);
    // Of a pair alone the first is asked before anything is sent to the second.
    let fresh = self::world("mapping=ei,filtering=ad,keyed=host", 3478, &[&[], &[]]);
    let report = ask(&fresh, &[queries[1].clone(), swapped]).await;
    let filtering = &udp(&report).filtering;
    assert_eq!(filtering.value, Some(Filtering::AddressDependent), "{filtering:?} {:?}", report.warnings);
    assert!(filtering.confidence >= Confidence::Strong, "{filtering:?}");
}

#[tokio::test(start_paused = true)]
async fn that_the_server_lacks_a_family_says_nothing_of_this_host() {
    let world = World::builder(7).nat("full-cone".parse().unwrap()).ipv6(true).build();
    let report = ask(&world, &queries(&world)).await;
    assert_eq!(report.ipv6.status, FamilyStatus::Unavailable);
    let reason = report.ipv6.reason.unwrap();
    assert_eq!(reason, "server-0 has no IPv6 address; this host has one, 2001:db8:77::2");
    let own: Vec<(String, bool)> =
        report.ipv6.addresses.iter().map(|own| (own.address.to_string(), own.used)).collect();
    assert_eq!(own, [("2001:db8:77::2".to_owned(), true)]);
    let without = World::builder(7).nat("full-cone".parse().unwrap()).build();
    let report = ask(&without, &queries(&without)).await;
    assert_eq!(report.ipv6.reason.unwrap(), "server-0 has no IPv6 address; this host has none either");
    assert!(report.ipv6.addresses.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_wakes_up_late_is_no_blocked_one() {
    let path = PathSpec { dark: Duration::from_millis(2300), ..PathSpec::with_delay_ms(25) };
    let builder = World::builder(7).nat("symmetric".parse().unwrap()).path(path);
    let single = || ServerSpec::with_faults([Fault::SingleAddress]);
    let world = builder.server(single()).server(single()).build();
    let report = ask(&world, &queries(&world)).await;
    assert_eq!(udp(&report).nat_type.value, Some(NatType::Symmetric), "{:?}", udp(&report).nat_type);
    assert_eq!(report.warnings, [""; 0]);
    assert!(report.duration_s < 6.0, "{} s", report.duration_s);
}

#[tokio::test(start_paused = true)]
async fn blocked_udp_is_told_of_all_servers_at_once() {
    let report = report("udp-blocked", 3478, &[SINGLE; 4]).await;
    assert_eq!(udp(&report).nat_type.value, Some(NatType::UdpBlocked), "{:?}", udp(&report).nat_type);
    assert!(report.duration_s < 6.0, "{} s", report.duration_s);
}

#[tokio::test(start_paused = true)]
async fn a_name_with_ipv6_alone_is_named_where_there_is_none() {
    let world = world("full-cone", 3478, &[&[]]);
    let mut queries = queries(&world);
    let v6 = Some("[2001:db8::9]:3478".parse().unwrap());
    let target = Target { query: "six.example".into(), found_by: FoundBy::Address, v4: None, v6 };
    queries.push(target.into());
    let report = ask(&world, &queries).await;
    let named = |line: &String| line.starts_with("six.example has no IPv4 address, and was not reached");
    assert!(report.warnings.iter().any(named), "{:?}", report.warnings);
    assert_eq!(udp(&report).nat_type.value, Some(NatType::FullCone));
}

/// What a report is sure of, and what the NAT does not do.
fn wrong(report: &Report, nat: &Stack) -> Vec<String> {
    let behaviour = nat.behaviour();
    let Some(udp) = behaviour.udp else { return Vec::new() };
    let mut expected: Vec<(&str, Value)> = REGISTRY
        .iter()
        .flat_map(|probe| probe.udp)
        .filter_map(|slot| Some((slot.key, slot.expected(&udp)?)))
        .collect();
    expected.push(("nat_type", serde_json::to_value(behaviour.nat_type).unwrap()));
    let found = serde_json::to_value(report).unwrap()["ipv4"]["udp"].clone();
    let is_so = |found: &Value, wanted: &Value| match wanted.as_object() {
        Some(parts) => parts.iter().all(|(key, part)| found[key] == *part),
        None => found == wanted,
    };
    let is_sure = |finding: &Value| finding["confidence"] == "certain" || finding["confidence"] == "strong";
    expected
        .into_iter()
        .filter(|(key, wanted)| is_sure(&found[key]) && !is_so(&found[key]["value"], wanted))
        .map(|(key, wanted)| format!("{key}: {} instead of {wanted}", found[key]["value"]))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn nothing_is_certain_and_wrong_whoever_answers() {
    let liar: &[Fault] = &[Fault::SingleAddress, Fault::MappedByProxy];
    let constant: &[Fault] = &[Fault::SingleAddress, Fault::MappedConstant];
    let behind: &[Fault] = &[Fault::SingleAddress, Fault::BehindNat];
    let sets: [(u16, Vec<&[Fault]>); 10] = [
        (3478, vec![SINGLE, SINGLE]),
        (19_302, vec![SINGLE, SINGLE]),
        (19_302, vec![SINGLE, SINGLE, SINGLE]),
        (19_302, vec![SINGLE, liar]),
        (3478, vec![liar, SINGLE, SINGLE]),
        (19_302, vec![constant, SINGLE, DEAD, SINGLE]),
        (3478, vec![&[], liar, SINGLE]),
        (19_302, vec![behind, SINGLE, SINGLE]),
        (3478, vec![&[], &[]]),
        (3478, vec![SINGLE, &[]]),
    ];
    let mut nats: Vec<String> = vec!["mapping=direct,filtering=apd".into()];
    for mapping in ["ei", "ad", "apd", "pd"] {
        for ports in ["preserving", "sequential", "random"] {
            nats.push(format!("mapping={mapping},filtering=apd,ports={ports}"));
        }
    }
    for pooling in ["flow", "destination"] {
        nats.push(format!("port-restricted-cone,ips=2,pooling={pooling}"));
    }
    for nat in [
        "open",
        "full-cone",
        "restricted-cone",
        "mapping=ei,filtering=ad,keyed=host",
        "mapping=ad,filtering=ad,ports=random",
        "linux-open-input",
        "symmetric,quota=20",
        "carrier",
        "linux+symmetric",
    ] {
        nats.push(nat.into());
    }
    let (mut complaints, mut runs) = (Vec::new(), 0);
    for nat in &nats {
        let stack: Stack = nat.parse().unwrap();
        for (port, faults) in &sets {
            for (seed, loss) in
                [(1, Loss::None), (2, Loss::None), (3, Loss::Independent(0.1)), (4, Loss::Independent(0.2))]
            {
                let path = PathSpec::with_delay_ms(25).with_loss(loss);
                let builder = World::builder(seed).nat(stack.clone()).path(path);
                let placed = |(number, faults): (usize, &&[Fault])| ServerSpec {
                    ports: if number == 0 { (*port, *port + 1) } else { (3478, 3479) },
                    ..ServerSpec::with_faults(faults.iter().copied())
                };
                let servers = faults.iter().enumerate().map(placed);
                let world = servers.fold(builder, |builder, server| builder.server(server)).build();
                let mut queries = queries(&world);
                // Public servers get fewer packets, and so fewer findings.
                queries.iter_mut().for_each(|query| query.few_packets = runs % 2 == 0);
                let report = ask(&world, &queries).await;
                runs += 1;
                let wrong = wrong(&report, &stack);
                if !wrong.is_empty() {
                    complaints
                        .push(format!("{nat}, port {port}, {faults:?}, loss {loss:?}: {}", wrong.join("; ")));
                }
            }
        }
    }
    assert!(
        runs > 300 && complaints.is_empty(),
        "{} of {runs}:\n{}",
        complaints.len(),
        complaints.join("\n")
    );
}
