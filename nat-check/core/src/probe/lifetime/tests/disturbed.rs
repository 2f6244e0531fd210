//! Runs that something disturbs, against modelled NATs in virtual time: what is reported is never wrong.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use super::{Case, case, finding, reason, run, run_in, run_on, value};
use crate::{
    net::{Boxed, Datagram, Net, Stream, sim::SimNet},
    report::{Confidence, Report},
};

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
fn mappings_that_make_room_for_others_show_no_timer() {
    for keeps in [20, 32] {
        for ports in ["preserving", "random"] {
            for (seed, longest) in [(1, 60), (2, 180)] {
                let nat = format!("port-restricted-cone,ports={ports},timeout=120,keeps={keeps}");
                let report = run(&Case { seed, ..case(&nat, longest) });
                let told = format!("{keeps}, {ports}, {longest}: {:?}", finding(&report));
                assert_eq!(finding(&report).value, None, "{told}");
                assert!(report.hole_punching.keepalive_s.is_none(), "{told}");
            }
        }
    }
}

#[test]
fn a_nat_restart_before_the_first_check_is_no_timer() {
    for nat in ["port-restricted-cone,timeout=40", "symmetric,timeout=40", "linux,unreplied=40,replied=40"] {
        for after in [2.0, 2.5, 3.0, 3.3, 3.6, 4.2] {
            for seed in 0..2 {
                let report = run_restarted(&Case { seed, ..case(nat, 60) }, after, None);
                assert_eq!(finding(&report).value, None, "{nat}, {after}, {seed}: {}", reason(&report));
            }
        }
    }
}

#[test]
fn a_keepalive_survives_the_next_sweep() {
    let mut some = 0;
    for (timer, sweep) in [(12.0, 10.0), (20.0, 9.0), (30.0, 15.0)] {
        for seed in 0..9 {
            let nat = format!("port-restricted-cone,timeout={timer},sweep={sweep}");
            let report = run(&Case { seed, ..case(&nat, 60) });
            assert!(finding(&report).value.is_some(), "{nat}, seed {seed}: {}", reason(&report));
            // Where the interval is not known well there may be none.
            let every = report.hole_punching.keepalive_s;
            assert!(every.is_none_or(|every| every < timer), "{nat}, seed {seed}: every {every:?} s");
            some += usize::from(every.is_some());
        }
    }
    assert!(some >= 15, "{some} of 27");
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

/// A network whose machine is suspended for a while: its clock stands still, that of the NAT goes on.
#[derive(Debug)]
struct Suspended {
    net: Arc<SimNet>,
    begun: Instant,
}

impl Net for Suspended {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        self.net.bind(local)
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        self.net.source_for(remote)
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        self.net.connect(local, remote)
    }

    fn suspended(&self) -> Option<Duration> {
        Some(if self.begun.elapsed().as_secs() >= 10 { Duration::from_secs(3600) } else { Duration::ZERO })
    }
}

#[test]
fn a_suspend_invalidates_the_run() {
    let wrap = |net| Arc::new(Suspended { net, begun: Instant::now() });
    let report = run_on(&case("port-restricted-cone,timeout=20", 30), wrap, None);
    assert_eq!(finding(&report).value, None);
    assert_eq!(
        finding(&report).reason.as_deref(),
        Some("the machine slept for 3600 s during the measurement")
    );
}

/// Runs the client behind the NAT of a case, which is restarted so long after the start, with another external address or
/// the one it had.
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

/// A network whose line to the NAT stands still for a while: what is sent meanwhile arrives afterwards.
#[derive(Debug)]
struct StandingStill {
    net: Arc<SimNet>,
    from: Instant,
    until: Instant,
}

impl Net for StandingStill {
    fn bind(&self, local: SocketAddr) -> Boxed<'_, io::Result<Box<dyn Datagram>>> {
        Box::pin(async move {
            let socket = self.net.bind(local).await?.into();
            Ok(Box::new(HeldBack { socket, from: self.from, until: self.until }) as _)
        })
    }

    fn source_for(&self, remote: SocketAddr) -> io::Result<IpAddr> {
        self.net.source_for(remote)
    }

    fn connect(
        &self,
        local: Option<SocketAddr>,
        remote: SocketAddr,
    ) -> Boxed<'_, io::Result<Box<dyn Stream>>> {
        self.net.connect(local, remote)
    }
}

#[derive(Debug)]
struct HeldBack {
    socket: Arc<dyn Datagram>,
    from: Instant,
    until: Instant,
}

impl Datagram for HeldBack {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn send_to<'a>(&'a self, datagram: &'a [u8], to: SocketAddr) -> Boxed<'a, io::Result<()>> {
        if !(self.from..self.until).contains(&Instant::now()) {
            return self.socket.send_to(datagram, to);
        }
        let (socket, until, datagram) = (Arc::clone(&self.socket), self.until, datagram.to_vec());
        tokio::spawn(async move {
            sleep_until(until).await;
            socket.send_to(&datagram, to).await
        });
        Box::pin(async { Ok(()) })
    }

    fn recv_from<'a>(&'a self, buffer: &'a mut [u8]) -> Boxed<'a, io::Result<(usize, SocketAddr)>> {
        self.socket.recv_from(buffer)
    }

    fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.socket.set_ttl(ttl)
    }
}

/// Checks that arrive after the timer, though they were sent before it, do not shorten it.
#[test]
fn a_line_that_stands_still_makes_no_timer_shorter() {
    let mut known = 0;
    for begin in (150..240).step_by(2) {
        let from = Duration::from_millis(begin * 100);
        let wrap = |net| {
            let from = Instant::now() + from;
            Arc::new(StandingStill { net, from, until: from + Duration::from_millis(700) })
        };
        let report = run_on(&case("port-restricted-cone,timeout=20", 30), wrap, None);
        let lifetime = finding(&report).value;
        for bracket in lifetime.into_iter().flat_map(|l| [l.unreplied, l.stream]).flatten() {
            let holds = bracket.alive_s < 20.0 && bracket.expired_s.is_none_or(|expired| 20.0 <= expired);
            assert!(holds, "from {from:?} on: {bracket:?}");
            known += 1;
        }
    }
    assert!(known >= 40, "{known}");
}
