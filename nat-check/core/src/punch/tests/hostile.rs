//! Peers that do with the protocol what they like: they vanish, keep silent, lie, flood, talk nonsense.

use shared::{
    nat::{Filtering, Mapping, PortAllocation, PortPolicy},
    rendezvous::{
        Role,
        peer::{self, Behaviour, NextPort, Nonce, Offer, RoundCandidates, TcpSide, WireTechnique},
    },
};

use super::*;

/// A second client that speaks the protocol, but does with it what it likes.
pub(super) struct Hostile {
    pub(super) introducer: Introducer,
    pub(super) offer: Offer,
    pub(super) peer: Offer,
}

/// What the hostile one says of itself, so that as much as possible is tried.
pub(super) fn bait(external: Vec<SocketAddr>) -> Offer {
    Offer {
        nonce: Nonce([9; 16]),
        behaviour: Behaviour {
            udp: true,
            mapping: Some(Mapping::AddressAndPortDependent),
            filtering: Some(Filtering::AddressAndPortDependent),
            ports: Some(PortAllocation {
                policy: PortPolicy::Random,
                delta: None,
                range: (1024, 65535),
                external_ips: 1,
                parity: None,
                external_ip_by_destination: None,
                cross_traffic_per_s: None,
            }),
            ..Behaviour::default()
        },
        techniques: WireTechnique::ALL.to_vec(),
        lan: external.clone(),
        external,
        ipv6: None,
        tcp: Some(TcpSide { fixed: true, ..TcpSide::default() }),
        remaps: None,
        opener_ttl: None,
        rtt_ms: 100,
        hold_ms: 0,
        prepares: false,
        ice: None,
    }
}

pub(super) async fn hostile(world: &World, code: Code, offer: Offer) -> Hostile {
    let mut introducer =
        Introducer::connect(&*world.host(1, 0), &target(world), &UseTls::Never).await.unwrap();
    introducer.join(code).await.unwrap();
    introducer.paired(Duration::from_secs(60)).await.unwrap();
    let PeerMessage::Offer(peer) =
        introducer.exchange(PeerMessage::Offer(Box::new(offer.clone()))).await.unwrap()
    else {
        panic!("no offer")
    };
    Hostile { introducer, offer, peer: *peer }
}

/// Lets the first client punch with whatever `hostile` makes of the code.
async fn against<T>(
    world: &World,
    hostile: impl AsyncFnOnce(Code) -> T,
) -> (Result<PunchReport, IntroError>, T) {
    against_net(world.host(0, 0), world, hostile).await
}

/// The same with a network of the first client's own.
pub(super) async fn against_net<T>(
    net: Arc<dyn Net>,
    world: &World,
    hostile: impl AsyncFnOnce(Code) -> T,
) -> (Result<PunchReport, IntroError>, T) {
    let (told, code) = tokio::sync::oneshot::channel();
    let ear = Ear(Mutex::new(Some(told)));
    let (target, first) = (target(world), setup(1));
    let (punched, rest) = tokio::join!(punch(&first, net, &target, &Silent, &ear, never()), async {
        hostile(code.await.expect("a code")).await
    },);
    (punched.map(|d| d.punch), rest)
}

#[test]
fn a_peer_that_vanishes_is_named_as_the_reason() {
    run(async {
        let world = world("port-restricted-cone", "port-restricted-cone");
        let (report, ()) =
            against(&world, async |code| drop(hostile(&world, code, bait(Vec::new())).await)).await;
        let report = report.unwrap();
        assert_eq!(report.outcome, PunchOutcome::Failed);
        assert!(report.why.contains("the peer has left"), "{}", report.why);
    });
}

#[test]
fn a_peer_that_says_nothing_is_not_waited_for_without_end() {
    run(async {
        let world = world("port-restricted-cone", "port-restricted-cone");
        let (report, _) = against(&world, async |code| {
            let silent = hostile(&world, code, bait(Vec::new())).await;
            tokio::time::sleep(Duration::from_secs(200)).await;
            silent
        })
        .await;
        assert!(report.unwrap().why.contains("has said nothing"));
    });
}

#[test]
fn whom_a_peer_names_gets_a_few_packets_at_the_most() {
    run(async {
        let world = World::builder(3)
            .nat("port-restricted-cone".parse().unwrap())
            .site(SiteSpec::default())
            .site(SiteSpec::default())
            .build();
        let victim = world.host(2, 0);
        let ip = victim.source_for(world.server()).unwrap();
        let mut sockets = Vec::new();
        for port in 5000..5008 {
            sockets.push(victim.bind(SocketAddr::new(ip, port)).await.unwrap());
        }
        let named: Vec<_> = (5000..5008).map(|port| SocketAddr::new(ip, port)).collect();
        let (report, rounds) = against(&world, async |code| {
            let mut liar = hostile(&world, code, bait(named.clone())).await;
            let candidates = RoundCandidates { at: named.clone(), next: None };
            let mut rounds = 0;
            // Says the same again and again, whatever is asked: a step of the wrong kind would end it.
            loop {
                let word =
                    match liar.introducer.exchange(PeerMessage::RoundCandidates(candidates.clone())).await {
                        Ok(word) => word,
                        Err(_) => return rounds,
                    };
                rounds += u32::from(matches!(word, PeerMessage::RoundReport(_)));
            }
        })
        .await;
        assert_eq!(report.unwrap().outcome, PunchOutcome::Failed);
        assert!(rounds > 0);
        let mut got: u32 = 0;
        for socket in &sockets {
            let mut buffer = [0; 600];
            while tokio::time::timeout(Duration::from_millis(1), socket.recv_from(&mut buffer)).await.is_ok()
            {
                got += 1;
            }
        }
        assert!(got > 0, "the test saw nothing at all");
        assert!(got <= contacts::UNVOUCHED_PACKETS, "{got} packets to somebody who was only named");
    });
}

#[test]
fn a_peer_that_floods_gets_no_flood_back() {
    run(async {
        let world = world("open", "open");
        let (report, sent) = against(&world, async |code| {
            let host = world.host(1, 0);
            let socket = host.bind("0.0.0.0:0".parse().unwrap()).await.unwrap();
            let ip = host.source_for(world.server()).unwrap();
            let at = SocketAddr::new(ip, socket.local_addr().unwrap().port());
            let mut flooder = hostile(&world, code, bait(vec![at])).await;
            let keys = wire::Keys::new(flooder.offer.nonce, flooder.peer.nonce);
            let ping = wire::Packet { kind: wire::Kind::Ping, round: 1, stamp: 0 }.write(&keys);
            let to = flooder.peer.external[0];
            let mut sent = 0_u32;
            let flood = async {
                loop {
                    for _ in 0..100 {
                        socket.send_to(&ping, to).await.unwrap();
                        socket.send_to(&[sent as u8; 500], to).await.unwrap();
                        sent += 2;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let talk = async {
                while flooder
                    .introducer
                    .exchange(PeerMessage::RoundReport(peer::RoundReport::default()))
                    .await
                    .is_ok()
                {}
            };
            tokio::select! {
                () = flood => {}
                () = talk => {}
            }
            sent
        })
        .await;
        let report = report.unwrap();
        assert!(sent > 20_000, "{sent}");
        assert!(report.packets < 1500, "{} packets back for {sent}", report.packets);
    });
}

/// An offer that no honest client makes.
pub(super) fn nonsense(rng: &mut fastrand::Rng) -> Offer {
    fn any<T: Copy>(rng: &mut fastrand::Rng, of: &[T]) -> Option<T> {
        if rng.u8(..4) == 0 { None } else { rng.choice(of).copied() }
    }
    let address = |rng: &mut fastrand::Rng| {
        let ip = match rng.u8(..4) {
            0 => std::net::IpAddr::V4(rng.u32(..).into()),
            1 => std::net::IpAddr::V6(rng.u128(..).into()),
            2 => "0.0.0.0".parse().unwrap(),
            _ => "255.255.255.255".parse().unwrap(),
        };
        SocketAddr::new(ip, rng.u16(..))
    };
    let addresses = |rng: &mut fastrand::Rng| (0..rng.usize(..8)).map(|_| address(rng)).collect::<Vec<_>>();
    let behaviour = |rng: &mut fastrand::Rng| Behaviour {
        udp: rng.u8(..8) > 0,
        mapping: any(
            rng,
            &[
                Mapping::Direct,
                Mapping::EndpointIndependent,
                Mapping::AddressDependent,
                Mapping::AddressAndPortDependent,
                Mapping::PortDependent,
            ],
        ),
        filtering: any(
            rng,
            &[
                Filtering::EndpointIndependent,
                Filtering::AddressDependent,
                Filtering::AddressAndPortDependent,
                Filtering::PortDependent,
            ],
        ),
        shared_filter: any(rng, &[false, true]),
        ports: any(
            rng,
            &[PortPolicy::Preserving, PortPolicy::Sequential, PortPolicy::Random, PortPolicy::Block],
        )
        .map(|policy| PortAllocation {
            policy,
            delta: any(rng, &[i32::MIN, -1, 0, 1, i32::MAX]),
            range: (rng.u16(..), rng.u16(..)),
            external_ips: any(rng, &[0, 1, u32::MAX]).unwrap_or(7),
            parity: None,
            external_ip_by_destination: None,
            cross_traffic_per_s: None,
        }),
        cross_traffic: any(rng, &[f64::MIN, -0.0, 3.0, f64::MAX]),
        hairpinning: any(rng, &[false, true]),
        addresses: (0..rng.u8(..4)).map(|n| std::net::IpAddr::from([203, 0, 113, n])).collect(),
    };
    Offer {
        behaviour: behaviour(rng),
        ipv6: if rng.bool() { Some(behaviour(rng)) } else { None },
        techniques: (0..rng.usize(..7)).filter_map(|_| any(rng, &WireTechnique::ALL)).collect(),
        lan: addresses(rng),
        remaps: any(rng, &[false, true]),
        opener_ttl: any(rng, &[0, 1, 255]),
        rtt_ms: rng.u32(..),
        hold_ms: rng.u32(..),
        ..bait(addresses(rng))
    }
}

#[test]
fn nonsense_is_predicted_and_planned_without_harm() {
    let mut rng = fastrand::Rng::with_seed(7);
    let (mine, theirs) = ("203.0.113.1".parse().unwrap(), "203.0.113.2".parse().unwrap());
    for round in 0..20_000 {
        let (a, b) = (nonsense(&mut rng), nonsense(&mut rng));
        let peer = if round % 3 == 0 { mine } else { theirs };
        let one = Pair::new(Role::First, a.clone(), b.clone(), mine, peer);
        let other = Pair::new(Role::Second, b, a, peer, mine);
        let (forecast, mirrored) = (one.forecast(), other.forecast());
        assert!(forecast.probability.is_none_or(|p| (0.0..=1.0).contains(&p)), "{forecast:?}");
        assert_eq!(forecast.probability, mirrored.probability, "{forecast:?} {mirrored:?}");
        let names = |pair: &Pair| technique::plan(pair).iter().map(|m| m.technique).collect::<Vec<_>>();
        assert_eq!(names(&one), names(&other), "the two would not try the same");
        for method in technique::plan(&one) {
            assert!((method.cost)(&one).is_none_or(|cost| !cost.is_empty()));
        }
    }
}

#[test]
fn a_peer_that_talks_nonsense_is_survived() {
    let mut rng = fastrand::Rng::with_seed(11);
    for round in 0..24 {
        let offer = nonsense(&mut rng);
        run(async {
            let world = world("port-restricted-cone", "symmetric");
            let (report, _) = against(&world, async |code| {
                let mut peer = hostile(&world, code, offer.clone()).await;
                let mut rng = fastrand::Rng::with_seed(round);
                // Garbage on the paths that were told, and words of any kind.
                let socket = world.host(1, 0).bind("0.0.0.0:0".parse().unwrap()).await.unwrap();
                loop {
                    for to in &peer.peer.external {
                        let garbage: Vec<u8> = (0..rng.usize(..600)).map(|_| rng.u8(..)).collect();
                        socket.send_to(&garbage, *to).await.unwrap();
                    }
                    let next = Some(NextPort { port: rng.u16(..), step: rng.i32(..) });
                    let at = nonsense(&mut rng).external;
                    let word = match rng.u8(..4) {
                        0 => PeerMessage::RoundReport(peer::RoundReport {
                            through: false,
                            sent: u32::MAX,
                            ..peer::RoundReport::default()
                        }),
                        1 => PeerMessage::Offer(Box::new(nonsense(&mut rng))),
                        _ => PeerMessage::RoundCandidates(RoundCandidates { at, next }),
                    };
                    if peer.introducer.exchange(word).await.is_err() {
                        return;
                    }
                }
            })
            .await;
            // However it ends, it ends, and nobody claims a path.
            if let Ok(report) = report {
                assert_eq!(report.outcome, PunchOutcome::Failed, "{}", report.why);
            }
        });
    }
}

#[test]
fn a_peer_that_takes_its_time_does_not_hold_it_for_ever() {
    run(async {
        let world = world("port-restricted-cone", "port-restricted-cone");
        let begun = Instant::now();
        let (report, ()) = against(&world, async |code| {
            let mut slow = hostile(&world, code, bait(vec!["203.0.113.99:6000".parse().unwrap()])).await;
            let nothing = || PeerMessage::RoundCandidates(RoundCandidates::default());
            while slow.introducer.exchange(nothing()).await.is_ok() {
                tokio::time::sleep(Duration::from_secs(50)).await;
            }
        })
        .await;
        assert_eq!(report.unwrap().outcome, PunchOutcome::Failed);
        assert!(begun.elapsed() < Duration::from_secs(400), "{:?}", begun.elapsed());
    });
}
