//! Two address families: both on each side, or one, and a server that is known by one of its addresses only.

use std::{io, net::IpAddr};

use super::*;
use crate::net::{Boxed, Datagram};

/// What is wrong with the IPv4 of a host.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// It has none.
    Absent,
    /// Connections get no answer.
    Silent,
}

/// A host that has one family only, or one that does not work.
struct Crippled {
    net: Arc<dyn Net>,
    v4: bool,
    fault: Fault,
}

impl Crippled {
    fn hits(&self, at: SocketAddr) -> bool {
        at.is_ipv4() == self.v4
    }
}

impl Net for Crippled {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        self.net.bind(local)
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        match self.fault {
            Fault::Absent if self.hits(remote) => Err(io::ErrorKind::NetworkUnreachable.into()),
            Fault::Absent | Fault::Silent => self.net.source_for(remote),
        }
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        match self.fault {
            Fault::Absent if self.hits(remote) => {
                Box::pin(async { Err(io::ErrorKind::NetworkUnreachable.into()) })
            }
            Fault::Silent if self.hits(remote) => Box::pin(std::future::pending()),
            Fault::Absent | Fault::Silent => self.net.connect(local, remote),
        }
    }
}

fn world(a: &str, b: &str) -> World {
    let nat = |text: &str| -> Stack { text.parse().expect(text) };
    World::builder(3)
        .nat(nat(a))
        .path(PathSpec::with_delay_ms(20))
        .site(SiteSpec { nat: nat(b), path: PathSpec::with_delay_ms(30), ..SiteSpec::default() })
        .ipv6(true)
        .build()
}

/// The server by name: both its addresses.
fn named(world: &World) -> Target {
    let v6 = world.servers()[0].v6.map(|(primary, _)| SocketAddr::new(primary, world.server().port()));
    Target { v6, ..target(world) }
}

fn without(net: Arc<dyn Net>, v4: bool) -> Arc<dyn Net> {
    Arc::new(Crippled { net, v4, fault: Fault::Absent })
}

async fn punched(nets: [Arc<dyn Net>; 2], target: &Target) -> [PunchReport; 2] {
    let (a, b) = between(nets, target, [setup(1), setup(2)]).await;
    [a.unwrap().punch, b.unwrap().punch]
}

#[test]
fn neighbours_are_promised_nothing_that_was_not_measured() {
    let offer = || super::hostile::bait(vec!["203.0.113.1:5000".parse().unwrap()]);
    let seen = "203.0.113.1".parse().unwrap();
    let forecast = Pair::new(Role::First, offer(), offer(), seen, seen).forecast();
    assert_eq!((forecast.direct, forecast.probability), (None, None), "{forecast:?}");
    assert_eq!(forecast.technique, Some(Technique::Lan), "and it is tried first");
    let other = Pair::new(Role::First, offer(), offer(), seen, "203.0.113.2".parse().unwrap()).forecast();
    assert_eq!(other.technique, Some(Technique::Tcp), "{other:?}");
}

/// Whether neighbours reach each other on their own network is tried before it is promised.
#[test]
fn neighbours_are_promised_what_was_measured() {
    let predicted = |first: SiteSpec, others: Vec<SiteSpec>, hosts: [(usize, usize); 2]| {
        run(async {
            let mut builder = World::builder(3).nat(first.nat.clone()).hosts(first.hosts);
            for site in others {
                builder = builder.site(site);
            }
            let world = builder.build();
            let nets = hosts.map(|(site, host)| world.host(site, host) as Arc<dyn Net>);
            let [report, other] = punched(nets, &target(&world)).await;
            assert_eq!(report.predicted.outcome, other.predicted.outcome, "{report:#?}");
            assert_eq!(report.predicted.probability, other.predicted.probability, "{report:#?}");
            report
        })
    };
    let nat = |text: &str| -> Stack { text.parse().expect(text) };
    let home = SiteSpec { nat: nat("symmetric"), hosts: 2, ..SiteSpec::default() };
    let report = predicted(home, Vec::new(), [(0, 0), (0, 1)]);
    assert_eq!(report.technique, Some(Technique::Lan), "{report:#?}");
    assert_eq!((report.predicted.probability, report.predicted.assumed), (Some(1.0), false), "{report:#?}");
    assert_eq!(report.predicted.technique, Some(Technique::Lan));
    let carrier = SiteSpec { nat: nat("port-restricted-cone"), ..SiteSpec::default() };
    let customer = || SiteSpec { nat: nat("port-restricted-cone"), behind: Some(0), ..SiteSpec::default() };
    let report = predicted(carrier, vec![customer(), customer()], [(1, 0), (2, 0)]);
    assert_ne!(report.predicted.technique, Some(Technique::Lan), "{report:#?}");
    assert!(report.predicted.why.contains("no packet passed between them"), "{report:#?}");
}

#[test]
fn the_server_tells_of_the_family_that_it_was_not_named_by() {
    run(async {
        let world = world("symmetric", "symmetric");
        let reports = punched([world.host(0, 0), world.host(1, 0)], &target(&world)).await;
        for report in reports {
            let told = format!("{report:#?}");
            assert_eq!(report.technique, Some(Technique::Ipv6), "{told}");
            assert_eq!(report.predicted.technique, Some(Technique::Ipv6), "{told}");
            assert_eq!(
                (report.predicted.probability, report.predicted.assumed),
                (Some(1.0), false),
                "{told}"
            );
            assert!(report.remote.is_some_and(|remote| remote.is_ipv6()), "{told}");
            assert_eq!(report.this.nat_type, Some(NatType::Symmetric), "IPv4 is told of where there is one");
        }
    });
}

#[test]
fn where_udp_is_blocked_ipv6_is_no_way_either() {
    run(async {
        let world = world("udp-blocked", "open");
        let [report, _] = punched([world.host(0, 0), world.host(1, 0)], &target(&world)).await;
        assert!(report.attempts.iter().all(|round| round.technique != Technique::Ipv6), "{report:#?}");
        assert_ne!(report.predicted.technique, Some(Technique::Ipv6));
    });
}

#[test]
fn a_side_may_have_ipv6_alone() {
    run(async {
        let world = world("symmetric", "symmetric");
        let nets = [without(world.host(0, 0), true), world.host(1, 0) as Arc<dyn Net>];
        let reports = punched(nets, &named(&world)).await;
        for report in &reports {
            assert_eq!(report.technique, Some(Technique::Ipv6), "{report:#?}");
        }
        assert_eq!(reports[0].this.nat_type, Some(NatType::SymmetricUdpFirewall), "its IPv6 is told of");
    });
}

#[test]
fn two_without_a_family_in_common_are_told_so() {
    run(async {
        let world = world("open", "open");
        let nets = [without(world.host(0, 0), true), without(world.host(1, 0), false)];
        let [first, second] = punched(nets, &named(&world)).await;
        for report in [&first, &second] {
            assert_eq!(report.outcome, PunchOutcome::Failed, "{report:#?}");
            assert_eq!(report.predicted.probability, Some(0.0), "{report:#?}");
        }
        assert!(first.why.contains("this side has no IPv4"), "{}", first.why);
        assert!(second.why.contains("the peer has no IPv4"), "{}", second.why);
    });
}

#[test]
fn a_family_that_does_not_answer_costs_half_a_second() {
    run(async {
        let world = world("open", "open");
        let net = Crippled { net: world.host(0, 0), v4: true, fault: Fault::Silent };
        let begun = Instant::now();
        let introducer = Introducer::connect(&net, &named(&world), &UseTls::Never).await;
        assert!(introducer.is_ok());
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        let nowhere = Introducer::connect(&net, &target(&world), &UseTls::Never).await;
        assert!(matches!(nowhere.err(), Some(IntroError::Unreachable { .. })));
    });
}
