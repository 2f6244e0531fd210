//! The measurement against modelled NATs, in virtual time.

mod disturbed;

use std::{sync::Arc, time::Duration};

use shared::nat::{Bracket, ExpiryStyle, Lifetime};
use tokio::sync::watch;

use crate::{
    check::{ServerQuery, Setup, check},
    net::{
        Net,
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

fn reason(report: &Report) -> String {
    finding(report).reason.clone().unwrap_or_default()
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
    let mut undecided = Vec::new();
    for seed in 0..8 {
        let found = |nat: &str| run(&Case { seed, ..case(&format!("port-restricted-cone,{nat}"), 60) });
        let granularity = |nat: &str| {
            value(&found(nat)).granularity.unwrap_or_else(|| panic!("seed {seed}: {nat} is not recognised"))
        };
        assert_eq!(granularity("timeout=16").style, ExpiryStyle::Exact, "seed {seed}");
        let swept = granularity("timeout=12,sweep=9");
        assert_eq!(swept.style, ExpiryStyle::Swept, "seed {seed}");
        assert!((7.0..=11.0).contains(&swept.seconds), "seed {seed}: {swept:?}");
        // Of a hundred seeds two leave jitter undecided; none may say something else.
        match finding(&found("timeout=12,jitter=10")).value.and_then(|value| value.granularity) {
            Some(jittered) => assert_eq!(jittered.style, ExpiryStyle::Jittered, "seed {seed}"),
            None => undecided.push(seed),
        }
    }
    assert!(undecided.len() <= 1, "{undecided:?}");
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
        // Short ones may have to be confirmed by a mapping that is opened when all else is done.
        let most = if timer < 15.0 { 2.3 * timer + 10.0 } else { 1.15 * timer + 5.0 };
        assert!(report.duration_s <= most, "{timer}: {}", report.duration_s);
    }
}
