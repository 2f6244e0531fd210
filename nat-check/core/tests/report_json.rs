//! The report is read as it is written: JSON to types and back to the same JSON.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{net::SocketAddr, time::Duration};

use nat_check_core::{
    Check,
    net::sim::{Fault, PathSpec, ServerSpec, World},
    report::Report,
};

async fn check(nat: &str, servers: &[&[Fault]], lifetime: Option<Duration>) -> Report {
    let builder = World::builder(5).nat(nat.parse().unwrap()).path(PathSpec::with_delay_ms(25)).ipv6(true);
    let with_server = |b: nat_check_core::net::sim::Builder, faults: &&[Fault]| {
        b.server(ServerSpec::with_faults(faults.iter().copied()))
    };
    let world = servers.iter().fold(builder, with_server).build();
    let addresses = world.servers().iter().map(|server| SocketAddr::new(server.primary, server.ports.0));
    let check = Check::with(addresses.collect::<Vec<_>>()).net(world.client());
    match lifetime {
        Some(longest) => check.lifetime(longest).run().await,
        None => check.run().await,
    }
}

#[tokio::test(start_paused = true)]
async fn json_becomes_the_report_that_it_came_from() {
    let lifetime = Some(Duration::from_secs(60));
    for (nat, servers, lifetime) in [
        ("open", &[&[][..]][..], None),
        ("port-restricted-cone", &[&[]], lifetime),
        ("symmetric", &[&[]], None),
        ("mapping=apd,filtering=apd,ports=sequential", &[&[], &[]], None),
        ("full-cone", &[&[Fault::SingleAddress], &[Fault::UdpDead]], None),
        ("udp-blocked", &[&[]], None),
    ] {
        let report = check(nat, servers, lifetime).await;
        let written = serde_json::to_string_pretty(&report).unwrap();
        let read: Report = serde_json::from_str(&written).unwrap_or_else(|e| panic!("{nat}: {e}\n{written}"));
        assert_eq!(serde_json::to_string_pretty(&read).unwrap(), written, "{nat}");
    }
}

#[tokio::test(start_paused = true)]
async fn fields_of_a_later_version_are_passed_over() {
    let mut json = serde_json::to_value(check("full-cone", &[&[]], None).await).unwrap();
    json["a_later_part"] = 1.into();
    json["ipv4"]["udp"]["a_later_finding"] = 2.into();
    let read: Report = serde_json::from_value(json).unwrap();
    assert_eq!(read.version, 1);
}
