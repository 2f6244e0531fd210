//! The measurement against modelled NATs, in virtual time.

use std::{sync::Arc, time::Duration};

use shared::nat::{Bracket, ExpiryStyle, Lifetime};
use tokio::sync::watch;

use crate::{
    check::{ServerQuery, Setup, check},
    net::{
        Boxed, Datagram, Net, Stream,
        sim::{Fault, Loss, PathSpec, ServerSpec, SimNet, World},
    },
    progress::Silent,
    randomness::Randomness,
    report::{Confidence, Finding, Report},
    selection::Families,
    target::{FoundBy, Target},
};

struct Case {
    nat: String,
    longest: u64,
    path: PathSpec,
    server: ServerSpec,
    seed: u64,
}

fn case(nat: &str, longest: u64) -> Case {
    let path = PathSpec::with_delay_ms(10);
    Case { nat: nat.into(), longest, path, server: ServerSpec::default(), seed: 1 }
}

fn run(case: &Case) -> Report {
    run_on(case, |net| net, None)
}

/// The same, and the NAT is restarted so long after the start, with another external address or the one it had.
fn run_restarted(case: &Case, after: f64, external: Option<&str>) -> Report {
    let external = external.map(|ip| ip.parse().unwrap());
    run_in(
        case,
        |net| net,
        None,
        move |world| {
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs_f64(after)).await;
                world.restart(external, 7);
            });
        },
    )
}

/// Runs the client behind the NAT of a case, over what `wrap` makes of its network, for at most `limit`.
fn run_on<N: Net + 'static>(
    case: &Case,
    wrap: impl FnOnce(Arc<SimNet>) -> Arc<N>,
    limit: Option<Duration>,
) -> Report {
    run_in(case, wrap, limit, |_| ())
}

fn run_in<N: Net + 'static>(
    case: &Case,
    wrap: impl FnOnce(Arc<SimNet>) -> Arc<N>,
    limit: Option<Duration>,
    with_world: impl FnOnce(World),
) -> Report {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::builder(case.seed)
            .nat(case.nat.parse().unwrap())
            .path(case.path)
            .server(case.server.clone())
            .build();
        let setup = Setup {
            families: Families { v4: true, v6: false },
            lifetime: Some(Duration::from_secs(case.longest)),
            randomness: Randomness::Seeded(case.seed),
            ..Setup::default()
        };
        let target = Target {
            query: "simulated".into(),
            found_by: FoundBy::Simulated,
            v4: Some(world.server()),
            v6: None,
        };
        with_world(world.clone());
        let (stopper, stop) = watch::channel(false);
        if let Some(limit) = limit {
            tokio::spawn(async move {
                tokio::time::sleep(limit).await;
                stopper.send_replace(true);
                stopper.closed().await;
            });
        } else {
            std::mem::forget(stopper);
        }
        check(&setup, wrap(world.client()) as _, &[ServerQuery::from(target)], &Silent, stop).await
    })
}

fn finding(report: &Report) -> &Finding<Lifetime> {
    &report.ipv4.udp.as_ref().unwrap().lifetime
}

fn value(report: &Report) -> Lifetime {
    finding(report).value.unwrap_or_else(|| panic!("{:?}", finding(report).reason))
}

#[track_caller]
fn assert_brackets(bracket: Option<Bracket>, seconds: f64, width: f64) {
    let Some(Bracket { alive_s, expired_s: Some(expired_s) }) = bracket else { panic!("{bracket:?}") };
    assert!(alive_s < seconds && seconds <= expired_s, "{seconds} is not in {bracket:?}");
    assert!(expired_s - alive_s <= width, "{bracket:?} is wider than {width}");
}

fn evidence(report: &Report, name: &str) -> f64 {
    finding(report).evidence[name].as_f64().unwrap()
}

#[test]
fn linux_timers_are_distinguished_in_one_pass() {
    let report = run(&case("linux,unreplied=17,replied=17,stream=41", 60));
    let lifetime = value(&report);
    assert_brackets(lifetime.unreplied, 17.0, 1.0);
    assert_brackets(lifetime.stream, 41.0, 1.0);
    assert_eq!(lifetime.refresh.outbound, Some(true));
    assert_eq!(lifetime.refresh.inbound, Some(true));
    assert_eq!(lifetime.refresh.elsewhere, Some(false), "Linux has a timer for each flow");
    assert!(lifetime.granularity.is_none_or(|g| g.style == ExpiryStyle::Exact));
    assert_eq!(finding(&report).confidence, Confidence::Strong);
    assert_eq!(report.hole_punching.keepalive_s, Some((lifetime.unreplied.unwrap().alive_s * 0.8).floor()));
}

#[test]
fn a_stream_timer_shorter_than_the_unreplied_one_is_found() {
    let lifetime = value(&run(&case("linux,unreplied=25,replied=25,stream=11", 60)));
    assert_brackets(lifetime.unreplied, 25.0, 1.0);
    assert_brackets(lifetime.stream, 11.0, 1.0);
}

#[test]
fn a_mapping_that_survives_the_run_has_no_upper_bound() {
    let report = run(&case("linux", 60));
    assert_eq!(value(&report).stream, Some(Bracket { alive_s: 60.0, expired_s: None }));
    assert_eq!(finding(&report).confidence, Confidence::Strong);
    assert!(!report.partial);
}

#[test]
fn it_finds_which_packets_refresh() {
    for (refresh, outbound, inbound) in
        [("outbound", true, false), ("inbound", false, true), ("both", true, true)]
    {
        let lifetime = value(&run(&case(&format!("port-restricted-cone,timeout=20,refresh={refresh}"), 60)));
        assert_eq!(lifetime.refresh.outbound, Some(outbound), "{refresh}");
        assert_eq!(lifetime.refresh.inbound, Some(inbound), "{refresh}");
    }
}

#[test]
fn it_finds_whether_a_timer_is_per_mapping_or_per_flow() {
    for (per, elsewhere) in [("mapping", true), ("flow", false)] {
        let lifetime = value(&run(&case(&format!("port-restricted-cone,timeout=20,timer-per={per}"), 60)));
        assert_eq!(lifetime.refresh.elsewhere, Some(elsewhere), "{per}");
    }
}

#[test]
fn exact_swept_and_jittered_timers_are_distinguished() {
    for seed in 0..8 {
        let granularity = |nat: &str| {
            let report = run(&Case { seed, ..case(&format!("port-restricted-cone,{nat}"), 60) });
            value(&report).granularity.unwrap_or_else(|| panic!("seed {seed}: {nat} is not recognised"))
        };
        assert_eq!(granularity("timeout=16").style, ExpiryStyle::Exact, "seed {seed}");
        assert_eq!(granularity("timeout=12,jitter=10").style, ExpiryStyle::Jittered, "seed {seed}");
        let swept = granularity("timeout=12,sweep=9");
        assert_eq!(swept.style, ExpiryStyle::Swept, "seed {seed}");
        assert!((7.0..=11.0).contains(&swept.seconds), "seed {seed}: {swept:?}");
    }
}

#[test]
fn without_response_port_a_changed_external_port_shows_expiry() {
    for fault in [Fault::ResponsePortIgnored, Fault::ResponsePortRefused] {
        let server = ServerSpec::with_faults([fault]);
        let report = run(&Case { server: server.clone(), ..case("symmetric,timeout=20", 60) });
        assert_brackets(value(&report).stream, 20.0, 1.0);
        assert_eq!(value(&report).unreplied, None);

        let report = run(&Case { server, ..case("port-restricted-cone,timeout=20", 60) });
        let reason = finding(&report).reason.clone().unwrap();
        assert!(reason.contains("keeps port numbers"), "{reason}");
        assert_eq!(finding(&report).value, None);
    }
}

#[test]
fn a_server_that_reads_only_one_form_of_response_port_is_enough() {
    for fault in [Fault::ResponsePort2Only, Fault::ResponsePort4Only] {
        let server = ServerSpec::with_faults([fault]);
        let report = run(&Case { server, ..case("port-restricted-cone,timeout=20", 30) });
        assert_brackets(value(&report).unreplied, 20.0, 1.0);
    }
}

#[test]
fn without_nat_and_filter_it_does_not_wait() {
    let report = run(&case("open", 600));
    assert!(finding(&report).reason.as_ref().unwrap().contains("nothing expires"));
    assert!(report.duration_s < 10.0);
}

#[test]
fn mappings_on_other_external_addresses_do_not_count_as_expired() {
    let mut recognised = 0;
    for seed in 0..12 {
        let nat = "full-cone,ips=4,pooling=arbitrary,timeout=20";
        let report = run(&Case { seed, ..case(nat, 30) });
        // As long as all sockets happen to have one address, there is nothing to recognise.
        let bracket = finding(&report).value.and_then(|l| l.unreplied);
        if let Some(expired) = bracket.and_then(|b| b.expired_s) {
            assert!(expired >= 20.0, "seed {seed}: {bracket:?}");
        }
        recognised += usize::from(reason(&report).contains("different external addresses"));
    }
    assert!(recognised >= 6, "{recognised}");
}

#[test]
fn a_limit_of_mappings_per_host_is_recognised() {
    for (quota, timer) in [(30, 300.0), (45, 300.0), (60, 300.0), (60, 40.0), (45, 20.0)] {
        let report = run(&case(&format!("port-restricted-cone,timeout={timer},quota={quota}"), 60));
        assert!(reason(&report).contains("no more mappings"), "{quota}, {timer}: {}", reason(&report));
        let lifetime = finding(&report).value;
        for bracket in lifetime.into_iter().flat_map(|l| [l.unreplied, l.stream]).flatten() {
            let holds = bracket.alive_s < timer && bracket.expired_s.is_none_or(|expired| timer <= expired);
            assert!(holds, "{quota}, {timer}: {bracket:?}");
        }
        assert!(quota > 30 || lifetime.is_none());
    }
}

#[test]
fn an_interrupted_run_reports_what_is_known_by_then() {
    let report =
        run_on(&case("port-restricted-cone,timeout=120", 180), |net| net, Some(Duration::from_secs(40)));
    assert!(report.partial);
    let bracket = value(&report).stream.unwrap();
    assert!((30.0..40.0).contains(&bracket.alive_s), "{bracket:?}");
    assert_eq!(bracket.expired_s, None);
    assert_eq!(finding(&report).confidence, Confidence::Weak);
    assert!(report.hole_punching.keepalive_s.is_some());
}

#[test]
fn loss_widens_brackets_and_makes_none_wrong() {
    for seed in 0..20 {
        let path = PathSpec::with_delay_ms(15).with_loss(Loss::Independent(0.05));
        let report = run(&Case { path, seed, ..case("port-restricted-cone,timeout=33", 60) });
        if finding(&report).confidence == Confidence::Strong {
            assert_brackets(value(&report).unreplied, 33.0, 6.0);
            assert_brackets(value(&report).stream, 33.0, 6.0);
        }
    }
}

/// A network whose machine is suspended for a while: its clock stands still, that of the NAT goes on.
#[derive(Debug)]
struct Suspended {
    net: Arc<SimNet>,
    begun: tokio::time::Instant,
}

impl Net for Suspended {
    fn bind(&self, local: std::net::SocketAddr) -> Boxed<'_, std::io::Result<Box<dyn Datagram>>> {
        self.net.bind(local)
    }

    fn source_for(&self, remote: std::net::SocketAddr) -> std::io::Result<std::net::IpAddr> {
        self.net.source_for(remote)
    }

    fn connect(
        &self,
        local: Option<std::net::SocketAddr>,
        remote: std::net::SocketAddr,
    ) -> Boxed<'_, std::io::Result<Box<dyn Stream>>> {
        self.net.connect(local, remote)
    }

    fn suspended(&self) -> Option<Duration> {
        Some(if self.begun.elapsed().as_secs() >= 10 { Duration::from_secs(3600) } else { Duration::ZERO })
    }
}

#[test]
fn a_suspend_invalidates_the_run() {
    let wrap = |net| Arc::new(Suspended { net, begun: tokio::time::Instant::now() });
    let report = run_on(&case("port-restricted-cone,timeout=20", 30), wrap, None);
    assert_eq!(finding(&report).value, None);
    assert_eq!(
        finding(&report).reason.as_deref(),
        Some("the machine slept for 3600 s during the measurement")
    );
}

fn reason(report: &Report) -> String {
    finding(report).reason.clone().unwrap_or_default()
}

#[test]
fn a_new_external_address_invalidates_the_run() {
    for nat in ["port-restricted-cone,timeout=40", "symmetric,timeout=40", "linux,unreplied=40,replied=40"] {
        for after in [3.0, 12.0, 39.0] {
            let report = run_restarted(&case(nat, 60), after, Some("203.0.113.9"));
            assert_eq!(finding(&report).value, None, "{nat}, {after}");
            assert!(
                reason(&report).contains("changed from 203.0.113.1 to 203.0.113.9"),
                "{nat}, {after}: {}",
                reason(&report)
            );
        }
    }
}

#[test]
fn a_nat_restart_invalidates_the_run() {
    for nat in [
        "port-restricted-cone,timeout=40",
        "symmetric,timeout=40",
        "linux,unreplied=40,replied=40",
        "full-cone,timeout=40,refresh=outbound",
        "restricted-cone,timeout=40,refresh=inbound",
        "symmetric,ports=random,timeout=40",
    ] {
        for after in [6.0, 12.0, 20.0, 28.5, 39.0] {
            for seed in 0..2 {
                let report = run_restarted(&Case { seed, ..case(nat, 60) }, after, None);
                assert_eq!(finding(&report).value, None, "{nat}, {after}, seed {seed}");
                assert!(reason(&report).contains("lost its state"), "{nat}, {after}: {}", reason(&report));
            }
        }
    }
}

#[test]
fn sockets_and_packet_rate_stay_within_limits() {
    for (longest, sockets) in [(60, 60.0), (600, 300.0)] {
        for timer in [3, 5, 6, 8, 12, 20, 30, 59] {
            for loss in [Loss::None, Loss::Independent(0.05), Loss::Independent(0.2)] {
                let path = PathSpec::with_delay_ms(10).with_loss(loss);
                let report =
                    run(&Case { path, ..case(&format!("port-restricted-cone,timeout={timer}"), longest) });
                assert!(evidence(&report, "sockets") <= sockets);
                let rate = evidence(&report, "packets") / evidence(&report, "took_s");
                assert!(rate <= 10.0, "{longest}, {timer}, {loss:?}: {rate} packets a second");
            }
        }
    }
}

#[test]
fn it_takes_little_more_than_one_lifetime() {
    for timer in [6.0, 8.0, 11.0, 15.0, 15.3, 18.0, 22.5, 29.0, 36.7, 44.0, 51.0, 63.0, 90.0, 127.0, 180.0] {
        let report = run(&case(&format!("port-restricted-cone,timeout={timer}"), 600));
        let width = if timer > 60.0 { 5.0 } else { 1.0 };
        assert_brackets(value(&report).unreplied, timer, width);
        assert_brackets(value(&report).stream, timer, width);
        assert!(report.duration_s <= 1.15 * timer + 5.0, "{timer}: {}", report.duration_s);
    }
}
