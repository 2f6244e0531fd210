//! `check()` as a library, in virtual time: what the user can ask for besides the plain run.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use nat_check_core::{
    check::{ServerQuery, Setup, check},
    net::{
        Net,
        sim::{Fault, PathSpec, ServerSpec, World},
    },
    progress::Silent,
    report::{Confidence, FamilyStatus, PeerKind, ReasonCode, Report, Technique},
    selection::Selection,
    target::{FoundBy, Target},
};
use shared::nat::{Filtering, Mapping, NatType};
use tokio::sync::watch;

fn world(nat: &str, servers: &[&[Fault]]) -> World {
    let path = PathSpec::with_delay_ms(25);
    let builder = World::builder(5).nat(nat.parse().expect(nat)).path(path);
    let with_server = |b: nat_check_core::net::sim::Builder, faults: &&[Fault]| {
        b.server(ServerSpec::with_faults(faults.iter().copied()))
    };
    servers.iter().fold(builder, with_server).build()
}

fn servers(world: &World) -> Vec<ServerQuery> {
    let asked = |(number, server): (usize, &ServerSpec)| {
        let v4 = Some(SocketAddr::new(server.primary, server.ports.0));
        ServerQuery::from(Target {
            query: format!("server-{number}"),
            found_by: FoundBy::Simulated,
            v4,
            v6: None,
        })
    };
    world.servers().iter().enumerate().map(asked).collect()
}

async fn run(world: &World, setup: &Setup) -> Report {
    let net: Arc<dyn Net> = world.client();
    let (_never, stop) = watch::channel(false);
    check(setup, net, &servers(world), &Silent, stop).await
}

/// A satellite, or a queue: three exchanges one after another, and no more.
#[tokio::test(start_paused = true)]
async fn a_round_trip_of_two_and_a_half_seconds_is_waited_for_three_times() {
    for (nat, filtering) in [
        ("full-cone", Filtering::EndpointIndependent),
        ("restricted-cone", Filtering::AddressDependent),
        ("port-restricted-cone", Filtering::AddressAndPortDependent),
        ("symmetric", Filtering::AddressAndPortDependent),
    ] {
        let path = PathSpec::with_delay_ms(1250);
        let world = World::builder(5).nat(nat.parse().unwrap()).path(path).build();
        let over_udp = [
            "mapping",
            "filtering",
            "port-allocation",
            "hairpinning",
            "alg",
            "inbound-first",
            "response-port",
        ];
        let tests = Selection::Only(over_udp.map(String::from).into());
        let report = run(&world, &Setup { tests, ..Setup::default() }).await;
        let told = format!("{nat}: {:.2} s\n{:#?}", report.duration_s, report.ipv4);
        println!("{nat}: {:.2} s", report.duration_s);
        assert!(report.duration_s < 8.0, "{told}");
        let udp = report.ipv4.udp.unwrap();
        assert_eq!(udp.filtering.value, Some(filtering), "{told}");
        let mapping =
            if nat == "symmetric" { Mapping::AddressAndPortDependent } else { Mapping::EndpointIndependent };
        assert_eq!(
            (udp.mapping.value, udp.mapping.confidence),
            (Some(mapping), Confidence::Certain),
            "{told}"
        );
        assert!(udp.port_allocation.value.is_some(), "{told}");
        assert_eq!(report.server.features.response_port.value, Some(true), "{told}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_port_that_an_earlier_run_left_open_is_noticed() {
    for filtering in ["ad", "apd"] {
        let world = world(&format!("mapping=ei,filtering={filtering}"), &[&[]]);
        let local = world.client().source_for(world.server()).unwrap();
        let wanted = Setup { bind: Some(SocketAddr::new(local, 40_000)), ..Setup::default() };
        let first = run(&world, &wanted).await;
        assert_eq!(first.warnings, [""; 0], "a fresh port is nothing to warn of");
        let second = run(&world, &wanted).await;
        let udp = second.ipv4.udp.unwrap();
        assert_eq!(udp.local, wanted.bind);
        assert_eq!(udp.mapping.value, Some(Mapping::EndpointIndependent));
        assert_eq!(
            udp.filtering.value,
            first.ipv4.udp.unwrap().filtering.value,
            "the verdict is that of a fresh port"
        );
        assert!(
            second.warnings.iter().any(|w| w.contains("port 40000") && w.contains("earlier run")),
            "{:?}",
            second.warnings
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_wanted_port_is_classified_like_any_other() {
    for (nat, mapping) in [
        ("linux-open-input", Mapping::EndpointIndependent),
        ("mapping=ad,filtering=apd", Mapping::AddressDependent),
        ("symmetric", Mapping::AddressAndPortDependent),
    ] {
        let world = world(nat, &[&[]]);
        let local = world.client().source_for(world.server()).unwrap();
        let setup = Setup { bind: Some(SocketAddr::new(local, 40_001)), ..Setup::default() };
        let udp = run(&world, &setup).await.ipv4.udp.unwrap();
        assert_eq!(
            (udp.mapping.value, udp.mapping.confidence),
            (Some(mapping), Confidence::Certain),
            "{nat}"
        );
        assert_eq!(udp.filtering.value, Some(Filtering::AddressAndPortDependent), "{nat}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_one_server_cannot_tell_another_does() {
    let world = world("port-restricted-cone", &[&[Fault::SingleAddress], &[]]);
    let report = run(&world, &Setup::default()).await;
    let udp = report.ipv4.udp.unwrap();
    assert_eq!(udp.nat_type.value, Some(NatType::PortRestrictedCone));
    assert_eq!(udp.nat_type.confidence, Confidence::Strong);
    assert_eq!(report.server.query, "server-0");
    assert!(
        report.server.faults.iter().any(|f| f.contains("no alternate address")),
        "{:?}",
        report.server.faults
    );
    assert_eq!(report.more_servers.len(), 1);
    assert_eq!(report.more_servers[0].faults, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_udp_is_dead_does_not_make_udp_blocked() {
    let world = world("full-cone", &[&[Fault::UdpDead], &[]]);
    let report = run(&world, &Setup::default()).await;
    assert_eq!(report.ipv4.udp.unwrap().nat_type.value, Some(NatType::FullCone));
    assert!(
        report.warnings.iter().any(|w| w.contains("not the network that blocks UDP")),
        "{:?}",
        report.warnings
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_not_there_is_warned_of_beside_one_that_is() {
    let world = world("full-cone", &[&[Fault::UdpDead, Fault::TcpClosed], &[]]);
    let mut asked = servers(&world);
    asked.push(ServerQuery::new("typo", Err("typo does not resolve".into())));
    let net: Arc<dyn Net> = world.client();
    let (_never, stop) = watch::channel(false);
    let report = check(&Setup::default(), net, &asked, &Silent, stop).await;
    assert_eq!(report.ipv4.udp.unwrap().nat_type.value, Some(NatType::FullCone));
    let dead = world.servers()[0].primary.to_string();
    assert_eq!(report.warnings.len(), 2, "{:?}", report.warnings);
    assert!(report.warnings.iter().any(|line| line.contains(&dead) && line.contains("answered none")));
    assert!(report.warnings.iter().any(|line| line == "typo does not resolve"));
}

#[tokio::test(start_paused = true)]
async fn dead_servers_cost_the_others_no_time() {
    let dead: &[Fault] = &[Fault::UdpDead, Fault::TcpClosed];
    let setup = |timeout| Setup { timeout: Duration::from_millis(timeout), ..Setup::default() };
    let report = run(&world("full-cone", &[dead, dead, &[]]), &setup(15_000)).await;
    assert_eq!(report.ipv4.status, FamilyStatus::Tested);
    assert!(report.duration_s < 2.0, "{}", report.duration_s);
    // Nobody there: all are asked at once.
    let report = run(&world("full-cone", &[dead, dead, dead, dead]), &setup(15_000)).await;
    assert_eq!(report.ipv4.status, FamilyStatus::Unreachable);
    assert!(report.duration_s < 7.0, "{}", report.duration_s);
    let report = run(&world("full-cone", &[dead, dead]), &setup(1000)).await;
    assert!(report.duration_s <= 1.01 && report.partial, "{}", report.duration_s);
    assert!(report.ipv4.reason.unwrap().contains("no time was left to ask server-0, server-1"));
}

#[tokio::test(start_paused = true)]
async fn the_lifetime_measurement_takes_no_time_from_further_servers() {
    let world = world("port-restricted-cone,timeout=30", &[&[], &[]]);
    let setup = Setup { lifetime: Some(Duration::from_secs(45)), ..Setup::default() };
    let report = run(&world, &setup).await;
    assert!(report.ipv4.udp.unwrap().lifetime.value.is_some());
    assert!(report.duration_s > 30.0, "longer than the timeout of 15 s: {}", report.duration_s);
    assert_eq!((report.partial, report.warnings), (false, Vec::new()));
    assert!(report.more_servers[0].ipv4.is_some(), "the second server is asked as well");
}

#[tokio::test(start_paused = true)]
async fn a_nat_that_changes_its_ways_is_called_so() {
    let world = world("port-restricted-cone,change-after=25", &[&[]]);
    let mapping = run(&world, &Setup::default()).await.ipv4.udp.unwrap().mapping;
    assert!(mapping.confidence <= Confidence::Weak, "{mapping:?}");
    assert!(mapping.reason.unwrap().contains("not deterministic"));
}

#[tokio::test(start_paused = true)]
async fn ports_that_strangers_take_are_not_promised_to_a_peer() {
    for (rate, technique) in [(0, Technique::Prediction), (1000, Technique::Birthday)] {
        let nat = format!("mapping=apd,filtering=apd,ports=sequential,cross-traffic={rate}");
        let report = run(&world(&nat, &[&[]]), &Setup::default()).await;
        let ports = report.ipv4.udp.unwrap().port_allocation;
        let measured = ports.evidence["cross_traffic_per_s"].as_f64().unwrap();
        assert!((measured - f64::from(rate)).abs() <= f64::from(rate) / 4.0, "{rate}: measured {measured}");
        assert_eq!(ports.value.unwrap().range, (1024, 65535), "{rate}");
        let home =
            report.hole_punching.peers.iter().find(|p| p.peer == PeerKind::PortRestrictedCone).unwrap();
        assert_eq!(home.technique, Some(technique), "{rate}: {home:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gateway_that_rewrites_payloads_is_no_second_external_address() {
    let report = run(&world("symmetric,alg=yes", &[&[]]), &Setup::default()).await;
    let udp = report.ipv4.udp.unwrap();
    assert_eq!(udp.alg.value, Some(true));
    assert_eq!(udp.port_allocation.value.unwrap().external_ips, 1);
}

#[tokio::test(start_paused = true)]
async fn a_chosen_test_brings_what_it_builds_on_and_nothing_else() {
    let world = world("restricted-cone", &[&[]]);
    let setup = Setup { tests: Selection::Only(vec!["filtering".into()]), ..Setup::default() };
    let udp = run(&world, &setup).await.ipv4.udp.unwrap();
    assert_eq!(udp.nat_type.value, Some(NatType::RestrictedCone));
    assert_eq!(udp.hairpinning.value, None);
    assert!(world.datagrams() < 45, "{} packets", world.datagrams());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_stopped_reports_what_is_known() {
    let world = world("symmetric", &[&[]]);
    let (stop, stopped) = watch::channel(false);
    let (net, setup, servers): (Arc<dyn Net>, _, _) = (world.client(), Setup::default(), servers(&world));
    let check = check(&setup, net, &servers, &Silent, stopped);
    let interrupt = async {
        tokio::time::sleep(Duration::from_millis(120)).await;
        stop.send_replace(true);
    };
    let (report, ()) = tokio::join!(check, interrupt);
    assert!(report.partial && report.duration_s < 0.2, "{}", report.duration_s);
    assert_eq!(report.ipv4.status, FamilyStatus::Tested);
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_said_within_seconds() {
    let world = world("open", &[&[Fault::UdpDead, Fault::TcpClosed]]);
    let report = run(&world, &Setup::default()).await;
    assert_eq!(report.ipv4.status, FamilyStatus::Unreachable);
    assert!(report.duration_s < 5.0, "{}", report.duration_s);
    assert!(report.ipv4.reason.unwrap().contains("nor over TCP"));
}

#[tokio::test(start_paused = true)]
async fn loss_on_the_way_from_the_alternate_address_alone_makes_no_filter() {
    for share in [0.3, 0.5, 0.7, 0.9] {
        for seed in 0..60 {
            let server = ServerSpec::with_faults([Fault::AlternateLossy(share), Fault::NoReceipt]);
            let world = World::builder(seed).nat("open".parse().unwrap()).server(server).build();
            let filtering = run(&world, &Setup::default()).await.ipv4.udp.unwrap().filtering;
            let wrong = filtering.value.is_some_and(|f| f != Filtering::EndpointIndependent);
            assert!(
                !(wrong && filtering.confidence >= Confidence::Strong),
                "{share} seed {seed}: {filtering:?}"
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_is_out_of_time_blames_nobody() {
    for millis in [20, 60, 100, 150, 200, 300] {
        for nat in ["full-cone", "symmetric", "port-restricted-cone"] {
            let world = world(nat, &[&[]]);
            let setup = Setup { timeout: Duration::from_millis(millis), ..Setup::default() };
            let report = run(&world, &setup).await;
            assert_eq!(report.server.faults, [""; 0], "{nat} {millis} ms");
            let classic = &report.server.features.classic;
            assert_ne!(classic.value, Some(false), "{nat} {millis} ms: {classic:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_out_is_not_asked_for() {
    let world = world("full-cone", &[&[]]);
    let tests = Selection::Except(vec!["mapping".into(), "alg".into()]);
    let udp = run(&world, &Setup { tests, ..Setup::default() }).await.ipv4.udp.unwrap();
    for reason in [udp.mapping.reason, udp.filtering.reason, udp.alg.reason, udp.inbound_first_remap.reason] {
        assert_eq!(reason.as_deref(), Some("not asked for"));
    }
    assert!(udp.port_allocation.value.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_nat_that_gives_few_mappings_is_no_server_that_limits_the_rate() {
    for quota in [6, 10, 14] {
        let world = world(&format!("port-restricted-cone,quota={quota}"), &[&[]]);
        let report = run(&world, &Setup::default()).await;
        assert!(!report.server.faults.iter().any(|f| f.contains("limit the rate")), "quota {quota}");
        assert!(report.duration_s < 8.0, "quota {quota}: {} s", report.duration_s);
    }
}

#[tokio::test(start_paused = true)]
async fn a_nat_that_gives_no_more_mappings_is_neither_loss_nor_a_silent_server() {
    for (nat, quota) in [("symmetric", 16), ("mapping=ad,filtering=ad", 16), ("linux", 16)] {
        let world = world(&format!("{nat},quota={quota}"), &[&[]]);
        let report = run(&world, &Setup::default()).await;
        let udp = report.ipv4.udp.unwrap();
        assert_eq!(
            udp.mapping.reason_code,
            Some(ReasonCode::MappingLimit),
            "{nat}: {:?}",
            udp.mapping.reason
        );
        assert_eq!(
            udp.filtering.reason_code,
            Some(ReasonCode::MappingLimit),
            "{nat}: {:?}",
            udp.filtering.reason
        );
        assert_eq!(report.server.faults, [""; 0], "{nat}");
        assert_eq!(udp.loss, Some(0.0), "{nat}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_run_behind_a_filter_for_the_whole_host_is_not_sure_of_an_open_one() {
    for kind in ["ad", "apd"] {
        let world = world(&format!("mapping=ei,filtering={kind},keyed=host"), &[&[]]);
        let first = run(&world, &Setup::default()).await.ipv4.udp.unwrap().filtering;
        assert_eq!(first.confidence, Confidence::Strong, "{kind}: {:?}", first.reason);
        // The first run has sent to the alternate address, which the filter remembers.
        let second = run(&world, &Setup::default()).await.ipv4.udp.unwrap().filtering;
        let doubtful = (Confidence::Weak, Some(ReasonCode::AlternateNotFresh));
        assert_eq!((second.confidence, second.reason_code), doubtful, "{kind}: {:?}", second.value);
    }
}
