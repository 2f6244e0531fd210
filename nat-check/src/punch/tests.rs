//! Two clients in one simulated world: the very code that runs on real networks, in virtual time.

use std::sync::Mutex;

use shared::nat::model::Stack;

use super::*;
use crate::{
    net::sim::{PathSpec, SiteSpec, World},
    progress::Silent,
    resolve::FoundBy,
};

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("runtime")
        .block_on(test)
}

/// Passes the code on.
#[derive(Default)]
struct Ear(Mutex<Option<tokio::sync::oneshot::Sender<Code>>>);

impl Audience for Ear {
    fn note(&self, note: Note<'_>) {
        if let Note::Code(code) = note
            && let Some(told) = self.0.lock().unwrap().take()
        {
            told.send(code).unwrap();
        }
    }
}

fn world(a: &str, b: &str) -> World {
    let nat = |text: &str| -> Stack { text.parse().expect(text) };
    World::builder(3)
        .nat(nat(a))
        .path(PathSpec::with_delay_ms(20))
        .site(SiteSpec { nat: nat(b), path: PathSpec::with_delay_ms(30), ..SiteSpec::default() })
        .build()
}

fn target(world: &World) -> Target {
    Target { query: "sim".into(), found_by: FoundBy::Simulated, v4: Some(world.server()), v6: None }
}

fn setup(seed: u8) -> PunchSetup {
    PunchSetup { seed: u64::from(seed), nonce: [seed; 16], ..PunchSetup::default() }
}

type Result2 = (Result<PunchDocument, IntroError>, Result<PunchDocument, IntroError>);

async fn both(world: &World, hosts: [(usize, usize); 2], setups: [PunchSetup; 2]) -> Result2 {
    let target = target(world);
    let [(site_a, host_a), (site_b, host_b)] = hosts;
    let (a, b) = (world.host(site_a, host_a), world.host(site_b, host_b));
    let [first, second] = setups;
    let (told, code) = tokio::sync::oneshot::channel();
    let ear = Ear(Mutex::new(Some(told)));
    tokio::join!(punch(&first, a, &target, &Silent, &ear), async {
        let second = PunchSetup { code: Some(code.await.expect("a code")), ..second };
        punch(&second, b, &target, &Silent, &Ear::default()).await
    })
}

fn punched(a: &str, b: &str) -> (PunchReport, PunchReport) {
    run(async {
        let world = world(a, b);
        let (a, b) = both(&world, [(0, 0), (1, 0)], [setup(1), setup(2)]).await;
        (a.unwrap().punch, b.unwrap().punch)
    })
}

#[test]
fn pairs_find_the_way_that_was_predicted() {
    use Technique as T;
    let cases = [
        ("open", "open", Some(T::Simultaneous)),
        ("full-cone", "symmetric", Some(T::Simultaneous)),
        ("port-restricted-cone", "port-restricted-cone", Some(T::Simultaneous)),
        ("linux-open-input", "linux-open-input", Some(T::LowTtl)),
        ("port-restricted-cone", "symmetric-sequential", Some(T::Prediction)),
        ("symmetric-sequential", "symmetric-sequential", Some(T::Prediction)),
        ("symmetric", "port-restricted-cone", Some(T::Birthday)),
        ("symmetric", "symmetric", None),
        ("udp-blocked", "port-restricted-cone", Some(T::Tcp)),
        ("linux+carrier", "linux", Some(T::Simultaneous)),
    ];
    for (a, b, technique) in cases {
        let (first, second) = punched(a, b);
        let told = format!("{a} with {b}:\n{}\n{}", table(&first), table(&second));
        assert_eq!(first.technique, technique, "{told}");
        assert_eq!(second.technique, technique, "{told}");
        assert_eq!(first.predicted.outcome, first.outcome, "{told}");
        if let (Some(local), Some(_)) = (first.local, first.remote) {
            assert!(local.port() > 0 && first.rtt_s.unwrap() < 0.2 && first.loss == Some(0.0), "{told}");
            assert!(first.rtt_via_server_s.unwrap() >= 0.1, "{told}");
            assert_eq!(first.held_s.map(f64::round), Some(5.0), "{told}");
        }
    }
}

/// A second client that speaks the protocol, but does with it what it likes.
struct Hostile {
    introducer: Introducer,
    offer: Offer,
    peer: Offer,
}

/// What the hostile one says of itself, so that as much as possible is tried.
fn bait(external: Vec<std::net::SocketAddr>) -> Offer {
    use shared::nat::{Filtering, Mapping, PortAllocation, PortPolicy};
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
            }),
            ..Behaviour::default()
        },
        techniques: Technique::ALL.to_vec(),
        lan: external.clone(),
        external,
        ipv6: None,
        tcp: Some(shared::rendezvous::TcpSide { fixed: true }),
        remaps: None,
        opener_ttl: None,
        hold_ms: 0,
    }
}

async fn hostile(world: &World, code: Code, offer: Offer) -> Hostile {
    let mut introducer = Introducer::connect(&*world.host(1, 0), &target(world), None).await.unwrap();
    introducer.join(code).await.unwrap();
    introducer.paired(Duration::from_secs(60)).await.unwrap();
    let Word::Offer(peer) = introducer.exchange(Word::Offer(Box::new(offer.clone()))).await.unwrap() else {
        panic!("no offer")
    };
    Hostile { introducer, offer, peer: *peer }
}

/// Lets the first client punch with whatever `hostile` makes of the code.
async fn against<T>(
    world: &World,
    hostile: impl AsyncFnOnce(Code) -> T,
) -> (Result<PunchReport, IntroError>, T) {
    let (told, code) = tokio::sync::oneshot::channel();
    let ear = Ear(Mutex::new(Some(told)));
    let (target, first) = (target(world), setup(1));
    let (punched, rest) = tokio::join!(punch(&first, world.host(0, 0), &target, &Silent, &ear), async {
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
            sockets.push(victim.bind(std::net::SocketAddr::new(ip, port)).await.unwrap());
        }
        let named: Vec<_> = (5000..5008).map(|port| std::net::SocketAddr::new(ip, port)).collect();
        let (report, rounds) = against(&world, async |code| {
            let mut liar = hostile(&world, code, bait(named.clone())).await;
            let hint = shared::rendezvous::Hint { at: named.clone(), next: None };
            let mut rounds = 0;
            // Says the same again and again, whatever is asked: a step of the wrong kind would end it.
            loop {
                let word = match liar.introducer.exchange(Word::Hint(hint.clone())).await {
                    Ok(word) => word,
                    Err(_) => return rounds,
                };
                rounds += u32::from(matches!(word, Word::Account(_)));
            }
        })
        .await;
        assert_eq!(report.unwrap().outcome, PunchOutcome::Failed);
        assert!(rounds > 0);
        let mut got = 0;
        for socket in &sockets {
            let mut buffer = [0; 600];
            while tokio::time::timeout(Duration::from_millis(1), socket.recv_from(&mut buffer)).await.is_ok()
            {
                got += 1;
            }
        }
        assert!(got > 0, "the test saw nothing at all");
        assert!(got <= 150, "{got} packets to somebody who was only named");
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
            let at = std::net::SocketAddr::new(ip, socket.local_addr().unwrap().port());
            let mut flooder = hostile(&world, code, bait(vec![at])).await;
            let nonces = Nonces { mine: flooder.offer.nonce, peer: flooder.peer.nonce };
            let knock = wire::Packet { kind: wire::Kind::Knock, round: 1, stamp: 0 }.write(&nonces);
            let to = flooder.peer.external[0];
            let mut sent = 0_u32;
            let flood = async {
                loop {
                    for _ in 0..100 {
                        socket.send_to(&knock, to).await.unwrap();
                        socket.send_to(&[sent as u8; 500], to).await.unwrap();
                        sent += 2;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            };
            let talk = async {
                while flooder.introducer.exchange(Word::Account(Account::default())).await.is_ok() {}
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

#[test]
fn nobody_comes() {
    run(async {
        let world = world("open", "open");
        let ear = Ear::default();
        let early = punch(&setup(1), world.host(0, 0), &target(&world), &Silent, &ear).await;
        assert_eq!(early.unwrap_err(), IntroError::NoPeer(60));
        let wrong = PunchSetup { code: Some(Code::from_bits(1)), ..setup(1) };
        let refused = punch(&wrong, world.host(0, 0), &target(&world), &Silent, &ear).await;
        assert_eq!(refused.unwrap_err(), IntroError::Refused(shared::rendezvous::Refusal::UnknownCode));
    });
}
