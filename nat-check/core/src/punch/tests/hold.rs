//! Holding a path that was found: what heartbeats tell of a line that loses and delays, and of a peer that is gone.

use shared::rendezvous::peer::Nonce;
use tokio::io::{AsyncWriteExt, duplex};

use super::{
    hostile_server::Wire,
    wire::{Kind, Packet},
    *,
};
use crate::net::sim::Loss;

fn world(path: PathSpec) -> World {
    let nat = || -> Stack { "port-restricted-cone".parse().unwrap() };
    World::builder(5)
        .nat(nat())
        .path(path)
        .site(SiteSpec { nat: nat(), path: PathSpec::with_delay_ms(30), ..SiteSpec::default() })
        .build()
}

fn holding(seed: u8, seconds: u64) -> PunchSetup {
    PunchSetup { hold: Duration::from_secs(seconds), ..setup(seed) }
}

#[test]
fn loss_round_trip_and_jitter_are_those_of_the_line() {
    run(async {
        let line = PathSpec { jitter: Duration::from_millis(20), ..PathSpec::with_delay_ms(20) };
        // Heartbeats and replies each cross the line once: a tenth is lost both ways, 19 in 100 of them.
        let world = world(line.with_loss(Loss::Independent(0.1)));
        let (a, b) = both(&world, [holding(1, 300), holding(2, 300)]).await;
        for report in [a.unwrap().punch, b.unwrap().punch] {
            let told = format!("{report:#?}");
            let (loss, jitter) = (report.loss.unwrap(), report.jitter_s.unwrap());
            assert!((0.12..0.27).contains(&loss), "{told}");
            // Two draws of up to 20 ms in a round trip: two such sums differ by 9.3 ms in the mean.
            assert!((0.006..0.013).contains(&jitter), "{told}");
            assert!((0.115..0.125).contains(&report.rtt_s.unwrap()), "{told}");
            assert!(report.held_s.unwrap() > 290.0, "{told}");
        }
    });
}

#[test]
fn the_shorter_wish_of_the_two_counts() {
    run(async {
        let world = world(PathSpec::with_delay_ms(20));
        let (a, b) = both(&world, [holding(1, 40), holding(2, 3)]).await;
        for report in [a.unwrap().punch, b.unwrap().punch] {
            assert_eq!(report.held_s.map(f64::round), Some(3.0), "{report:#?}");
            assert_eq!(report.loss, Some(0.0), "{report:#?}");
        }
    });
}

#[test]
fn a_peer_that_is_gone_shows_in_the_time_held() {
    run(async {
        let world = world(PathSpec::with_delay_ms(20));
        let target = target(&world);
        let (told, code) = tokio::sync::oneshot::channel();
        let ear = Ear(Mutex::new(Some(told)));
        let (first, second) = (holding(1, 60), holding(2, 60));
        let (report, gone) =
            tokio::join!(punch(&first, world.host(0, 0), &target, &Silent, &ear, never()), async {
                let second = PunchSetup { code: Some(code.await.unwrap()), ..second };
                let deaf = Ear::default();
                let punching = punch(&second, world.host(1, 0), &target, &Silent, &deaf, never());
                tokio::time::timeout(Duration::from_secs(30), punching).await
            });
        assert!(gone.is_err(), "it was to be stopped half-way");
        let report = report.unwrap().punch;
        let told = format!("{report:#?}");
        assert_eq!(report.outcome, PunchOutcome::Direct, "{told}");
        assert!((15.0..31.0).contains(&report.held_s.unwrap()), "{told}");
        assert!((0.4..0.8).contains(&report.loss.unwrap()), "{told}");
    });
}

fn keys() -> [Keys; 2] {
    let (a, b) = (Nonce([1; 16]), Nonce([2; 16]));
    [Keys::new(a, b), Keys::new(b, a)]
}

#[test]
fn a_peer_that_sends_and_never_reads_is_left_in_time() {
    run(async {
        let [mine, peers] = keys();
        let (here, mut there) = duplex(64);
        let heartbeat = Packet { kind: Kind::Heartbeat, round: 0, stamp: 0 }.write(&peers);
        let flood = tokio::spawn(async move { while there.write_all(&heartbeat).await.is_ok() {} });
        let begun = Instant::now();
        let mut held = super::super::hold::Held::default();
        super::super::hold::over_tcp(&mut Wire(here), &mine, Duration::from_secs(5), &mut held).await;
        assert!(begun.elapsed() <= Duration::from_secs(6), "{:?}", begun.elapsed());
        assert_eq!(held.replies, 0, "{held:?}");
        flood.abort();
    });
}

#[test]
fn replies_that_nobody_asked_for_are_not_kept() {
    run(async {
        let [mine, peers] = keys();
        let (here, there) = duplex(4096);
        let (mut from, mut to) = tokio::io::split(there);
        let reply = Packet { kind: Kind::HeartbeatReply, round: 0, stamp: 0 }.write(&peers);
        let flood = tokio::spawn(async move {
            for _ in 0..100_000 {
                if to.write_all(&reply).await.is_err() {
                    return;
                }
            }
        });
        let sink = tokio::spawn(async move { tokio::io::copy(&mut from, &mut tokio::io::sink()).await });
        let mut held = super::super::hold::Held::default();
        super::super::hold::over_tcp(&mut Wire(here), &mine, Duration::from_secs(5), &mut held).await;
        assert!(held.rtts.len() <= held.heartbeats as usize && held.heartbeats <= 26, "{held:?}");
        flood.abort();
        sink.abort();
    });
}
