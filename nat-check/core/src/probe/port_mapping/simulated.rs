//! The measurement against modelled gateways, in virtual time: whatever a gateway does, nothing wrong is said with certainty.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use crate::{
    check::{ServerQuery, Setup, check},
    net::{
        Net,
        sim::{Entry, Fate, PathSpec, Place, World},
    },
    port_mapping::{
        MappingError, Protocol, Transport,
        keep::{Event, Kept, keep},
    },
    progress::Silent,
    randomness::Randomness,
    report::{Confidence, PortMapping, ReasonCode},
    selection::{Families, Selection},
    target::{FoundBy, Target},
};

fn in_virtual_time<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(future)
}

/// Measures port mapping alone behind this NAT.
fn measured(nat: &str) -> (PortMapping, Vec<Entry>) {
    in_virtual_time(async {
        let path = PathSpec::with_delay_ms(10);
        let world = World::builder(1).nat(nat.parse().unwrap()).path(path).trace(true).build();
        let setup = Setup {
            families: Families { v4: true, v6: false },
            tests: Selection::Only(vec!["port-mapping".into()]),
            port_mapping: true,
            randomness: Randomness::Seeded(1),
            ..Setup::default()
        };
        let (query, v4) = ("simulated".to_owned(), Some(world.server()));
        let target = Target { query, found_by: FoundBy::Simulated, v4, v6: None };
        let (_never, stop) = watch::channel(false);
        let report = check(&setup, world.client() as _, &[ServerQuery::from(target)], &Silent, stop).await;
        (report.port_mapping.unwrap(), world.trace())
    })
}

#[test]
fn a_gateway_that_restarts_is_never_said_to_do_nothing() {
    let (mut seen, mut runs) = (0, 0);
    for eighths in 1..48 {
        let restarts = f64::from(eighths) / 8.0;
        let (found, _) = measured(&format!("port-restricted-cone,port-mapping=both,restarts={restarts}"));
        for (name, it) in [("PCP", found.pcp.unwrap()), ("NAT-PMP", found.nat_pmp.unwrap())] {
            let told = format!("{name}, restart after {restarts} s: {it:#?}");
            for finding in [&it.reachable_udp, &it.reachable_tcp] {
                assert_ne!(finding.value, Some(false), "it did open the port; {told}");
            }
            runs += 1;
            if it.lost_mappings.value == Some(true) {
                assert_eq!(it.lost_mappings.reason_code, Some(ReasonCode::GatewayLostMappings), "{told}");
                seen += 1;
            }
        }
    }
    assert!(seen >= 8 && seen < runs, "{seen} of {runs}");
}

/// What is answered to a deletion proves nothing: the server knocks again.
#[test]
fn a_gateway_that_closes_nothing_is_found_out() {
    for nat in ["port-restricted-cone", "symmetric", "linux"] {
        for (opens, value) in [("ports", true), ("kept", false)] {
            let (found, _) = measured(&format!("{nat},port-mapping=both,opens={opens}"));
            for (name, it) in [("PCP", found.pcp.unwrap()), ("NAT-PMP", found.nat_pmp.unwrap())] {
                assert_eq!(it.deleted.value, Some(value), "{name} at {nat}: {it:#?}");
            }
        }
    }
}

/// Nobody else is asked than the gateway, the local network and a carrier's PCP server.
#[test]
fn discovery_ends_soon_and_asks_the_gateway_alone() {
    let (found, trace) = measured("port-restricted-cone");
    assert!(found.reason.is_none() && found.pcp.is_none() && found.nat_pmp.is_none());
    let is_question = |entry: &&Entry| {
        entry.fate == Fate::Sent
            && entry.place == Place::Host(0)
            && [1900, 5351].contains(&entry.destination.port())
    };
    let asked: Vec<String> =
        trace.iter().filter(is_question).map(|entry| entry.destination.ip().to_string()).collect();
    let allowed = ["192.168.77.1", "239.255.255.250", "192.0.0.9"];
    assert!(asked.len() >= 10 && asked.iter().all(|ip| allowed.contains(&ip.as_str())), "{asked:?}");
}

#[test]
fn a_pcp_server_of_the_carrier_is_found_and_refuses_what_passed_a_nat() {
    let (found, _) = measured("port-restricted-cone+symmetric,port-mapping=pcp");
    let pcp = found.pcp.unwrap();
    assert_eq!(pcp.gateway.map(|ip| ip.to_string()).as_deref(), Some("192.0.0.9"));
    assert_eq!(pcp.error.as_deref(), Some("ADDRESS_MISMATCH"));
    assert!(found.nat_pmp.is_none());
}

/// What happens to a port that is kept open for so long behind this NAT, in words.
fn kept(nat: &str, seconds: u64) -> Vec<String> {
    in_virtual_time(async {
        let world = World::builder(1).nat(nat.parse().unwrap()).build();
        let net: Arc<dyn Net> = world.client();
        let kept = Kept {
            port: 42_000,
            transports: Transport::ALL.to_vec(),
            hold: Some(Duration::from_secs(seconds)),
            over_ipv6: false,
            server: Some(world.server()),
        };
        let events = std::sync::Mutex::new(Vec::new());
        let note = |event: Event<'_>| {
            let word = match &event {
                Event::Opened { protocol: Protocol::Pcp, .. } => "opened by PCP".to_owned(),
                Event::Opened { .. } => "opened by another".to_owned(),
                Event::Tested { reachable, .. } if reachable.confidence == Confidence::Certain => {
                    format!("reached: {:?}", reachable.value)
                }
                Event::Tested { reachable, .. } => format!("{:?}", reachable.reason_code),
                Event::Renewed(..) => "renewed".to_owned(),
                Event::Restored(..) => "restored".to_owned(),
                Event::NotRenewed(_, MappingError::NoAnswer) => "no answer".to_owned(),
                Event::NotRenewed(_, why) | Event::NotClosed(_, why) => why.to_string(),
                Event::Closed(_) => "closed".to_owned(),
            };
            events.lock().unwrap().push(format!("{} {word}", event.transport().name()));
        };
        let (_never, stop) = watch::channel(false);
        keep(&net, &kept, &note, stop).await.unwrap();
        events.into_inner().unwrap()
    })
}

#[test]
fn a_port_is_kept_open_for_hours_and_opened_again_after_a_restart() {
    let quiet = kept("linux,port-mapping=pcp", 700);
    let begun =
        ["UDP opened by PCP", "TCP opened by PCP", "UDP reached: Some(true)", "TCP reached: Some(true)"];
    assert_eq!(quiet[..4], begun, "{quiet:?}");
    assert_eq!(
        quiet[4..],
        ["UDP renewed", "TCP renewed", "UDP renewed", "TCP renewed", "UDP closed", "TCP closed"]
    );
    let restarted = kept("linux,port-mapping=pcp,restarts=400", 700);
    assert_eq!(restarted[..6], quiet[..6], "{restarted:?}");
    assert_eq!(restarted[6..], ["UDP restored", "TCP restored", "UDP closed", "TCP closed"], "{restarted:?}");
    let leases = kept("linux,port-mapping=nat-pmp,lease=60", 100);
    assert_eq!(leases.iter().filter(|line| line.ends_with("renewed")).count(), 6, "every 30 s: {leases:?}");
}
