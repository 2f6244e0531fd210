//! Rooms in one simulated world: the very code that runs on real networks, in virtual time.

use std::sync::{Mutex, PoisonError};

use shared::{nat::model::Stack, rendezvous::peer::WireTechnique, rendezvous::room::PairResult};
use tokio::{sync::oneshot, time::sleep};

use super::{
    super::secure::UseTls,
    report::{PairOutcome, PairReport},
    *,
};
use crate::{
    net::sim::{PathSpec, SiteSpec, World},
    progress::Silent,
    randomness::Randomness,
    report::ReasonCode,
    target::FoundBy,
    technique::Technique,
};

fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("runtime")
        .block_on(test)
}

/// Passes the name of the room on.
#[derive(Default)]
struct Ear(Mutex<Option<oneshot::Sender<RoomName>>>);

impl RoomAudience for Ear {
    fn note(&self, note: RoomNote<'_>) {
        if let RoomNote::Entered { room, .. } = note
            && let Some(told) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
        {
            told.send(room.clone()).unwrap();
        }
    }
}

/// A site behind each of these.
fn world(nats: &[&str]) -> World {
    let nat = |text: &str| -> Stack { text.parse().expect(text) };
    let first = World::builder(3).nat(nat(nats[0])).path(PathSpec::with_delay_ms(20));
    let site =
        |text: &&str| SiteSpec { nat: nat(text), path: PathSpec::with_delay_ms(30), ..SiteSpec::default() };
    nats[1..].iter().fold(first, |world, text| world.site(site(text))).build()
}

fn target(world: &World) -> Target {
    Target { query: "sim".into(), found_by: FoundBy::Simulated, v4: Some(world.server()), v6: None }
}

fn never() -> watch::Receiver<bool> {
    watch::channel(false).1
}

fn setup(number: usize, until: Until) -> RoomSetup {
    RoomSetup {
        room: Some("team".parse().unwrap()),
        name: Some(format!("host {number}")),
        until,
        wait: Duration::from_secs(60),
        punch: PunchSetup { randomness: Randomness::Seeded(number as u64), ..PunchSetup::default() },
    }
}

async fn member(world: &World, number: usize, until: Until) -> Result<RoomDocument, IntroError> {
    let net = world.host(number, 0);
    room(&setup(number, until), net, &target(world), &Silent, &Ear::default(), never()).await
}

fn pair(document: &RoomDocument, a: u32, b: u32) -> &PairReport {
    document
        .room
        .pairs
        .iter()
        .find(|pair| (pair.a, pair.b) == (a, b))
        .unwrap_or_else(|| panic!("{document:#?}"))
}

/// A member that does with the protocol what it likes.
async fn hostile(world: &World, number: usize) -> Introducer {
    let mut link =
        Introducer::connect(&*world.host(number, 0), &target(world), &UseTls::Never).await.unwrap();
    link.enter(Some("team".parse().unwrap())).await.unwrap();
    link.say(ToServer::Available { payload: Payload::write(&Readiness::default()).unwrap() }).await.unwrap();
    link
}

#[test]
fn everybody_sees_the_same_matrix_which_is_as_predicted() {
    let world = world(&["full-cone", "port-restricted-cone", "symmetric", "symmetric"]);
    let until = Until::Members(4);
    let (documents, took) = run(async {
        let begun = Instant::now();
        let (a, b, c, d) = tokio::join!(
            member(&world, 0, until),
            member(&world, 1, until),
            member(&world, 2, until),
            member(&world, 3, until)
        );
        ([a.unwrap(), b.unwrap(), c.unwrap(), d.unwrap()], begun.elapsed())
    });
    assert!(took < Duration::from_secs(90), "{took:?}");
    for document in &documents {
        let told = format!("{document:#?}");
        assert!(!document.partial, "{told}");
        assert_eq!(document.room.pairs, documents[0].room.pairs, "{told}");
        assert_eq!((document.room.members.len(), document.room.pairs.len()), (4, 6), "{told}");
        // Who came first is not known; their NATs are.
        let is_symmetric = |id: u32| {
            let member = document.room.members.iter().find(|member| member.id == id).unwrap();
            member.nat_type == Some(shared::nat::NatType::Symmetric)
        };
        for pair in &document.room.pairs {
            if is_symmetric(pair.a) && is_symmetric(pair.b) {
                assert_eq!((pair.outcome, pair.predicted), (PairOutcome::Relay, Some(0.0)), "{told}");
            } else {
                assert_eq!(pair.outcome, PairOutcome::Direct, "{told}");
                assert!(pair.predicted.unwrap() > 0.9 && pair.rtt_s.unwrap() < 0.3, "{told}");
            }
        }
    }
}

#[test]
fn a_member_that_leaves_or_lies_or_hangs_spoils_nothing_for_the_others() {
    let world = world(&["full-cone", "full-cone", "open", "open", "open"]);
    let until = Until::After(Duration::from_secs(280));
    let (first, second) = run(async {
        let leaves = async {
            let mut link = hostile(&world, 2).await;
            sleep(Duration::from_secs(18)).await;
            // In the middle of a pair, perhaps.
            drop(link.hear_until(Instant::now() + Duration::from_secs(1)).await);
        };
        let lies = async {
            let mut link = hostile(&world, 3).await;
            let yes = PairResult {
                through: Some(true),
                technique: Some(WireTechnique::Lan),
                ipv6: true,
                rtt_us: Some(1),
                predicted: Some(1_000_000),
            };
            let until = Instant::now() + Duration::from_secs(200);
            while Instant::now() < until {
                let heard = link.hear_until(Instant::now() + Duration::from_secs(20)).await;
                match heard {
                    Ok(Some(ToClient::Pair { peer, .. })) => {
                        // Of the pair it is in, and of others that are none of its business.
                        for to in [peer, 1, 2, 77] {
                            let payload = Payload::write(&yes).unwrap();
                            link.say(ToServer::Result { peer: to, payload }).await.unwrap();
                        }
                    }
                    Ok(None) => link.say(ToServer::Ping { id: 0 }).await.unwrap(),
                    Ok(Some(_)) => {}
                    Err(_) => break,
                }
            }
        };
        let hangs = async {
            let mut link = hostile(&world, 4).await;
            while link
                .hear_until(Instant::now() + Duration::from_secs(300))
                .await
                .is_ok_and(|heard| heard.is_some())
            {}
        };
        let (first, second, ..) =
            tokio::join!(member(&world, 0, until), member(&world, 1, until), leaves, lies, hangs);
        (first.unwrap(), second.unwrap())
    });
    assert_eq!(first.room.pairs, second.room.pairs);
    let named = |name: &str| {
        first.room.members.iter().find(|member| member.name.as_deref() == Some(name)).expect("there").id
    };
    let (one, other) = (named("host 0"), named("host 1"));
    let ours = pair(&first, one.min(other), one.max(other));
    assert_eq!(
        (ours.outcome, ours.technique),
        (PairOutcome::Direct, Some(Technique::Simultaneous)),
        "{first:#?}"
    );
    let lies: Vec<_> =
        first.room.pairs.iter().filter(|pair| pair.reason_code == Some(ReasonCode::OneSideSays)).collect();
    for pair in &first.room.pairs {
        // Nothing counts that only one side says.
        let is_ours = pair.a == ours.a && pair.b == ours.b;
        assert!(is_ours || pair.outcome == PairOutcome::Unknown && pair.technique.is_none(), "{pair:?}");
        assert!(is_ours || pair.reason_code.is_some() && pair.rtt_s.is_none(), "{pair:?}");
    }
    assert!(!lies.is_empty(), "{first:#?}");
}

#[test]
fn nobody_else_comes() {
    let world = world(&["open"]);
    run(async {
        assert_eq!(member(&world, 0, Until::Settled).await.unwrap_err(), IntroError::NoPeer(60));
        let none = RoomSetup {
            room: Some(shared::rendezvous::Code::from_bits(1).into()),
            ..setup(0, Until::Settled)
        };
        let refused = room(&none, world.host(0, 0), &target(&world), &Silent, &Ear::default(), never()).await;
        assert_eq!(refused.unwrap_err(), IntroError::Refused(shared::rendezvous::Refusal::UnknownRoom));
    });
}

#[test]
fn the_first_makes_a_name_and_an_interruption_shows_what_is_known() {
    let world = world(&["open", "open"]);
    let (first, second) = run(async {
        let (told, name) = oneshot::channel();
        let ear = Ear(Mutex::new(Some(told)));
        let (stop, stopped) = watch::channel(false);
        let made = RoomSetup { room: None, ..setup(0, Until::After(Duration::from_secs(3000))) };
        let at = target(&world);
        tokio::join!(room(&made, world.host(0, 0), &at, &Silent, &ear, stopped), async {
            let name = name.await.unwrap();
            assert!(name.is_code());
            let enters = RoomSetup { room: Some(name), ..setup(1, Until::Settled) };
            let document = room(&enters, world.host(1, 0), &at, &Silent, &Ear::default(), never()).await;
            stop.send(true).unwrap();
            document
        })
    });
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((first.partial, second.partial), (true, false));
    assert_eq!(first.room.ended, "Interrupted.");
    assert_eq!(pair(&first, 1, 2).outcome, PairOutcome::Direct);
    assert_eq!(first.room.pairs, second.room.pairs);
}

#[test]
fn a_pair_that_gets_no_session_keeps_nobody() {
    let world = world(&["open", "open"]);
    let (document, took) = run(async {
        let opens_none = async {
            let mut link = hostile(&world, 1).await;
            let until = Instant::now() + Duration::from_secs(600);
            while Instant::now() < until {
                match link.hear_until(Instant::now() + Duration::from_secs(20)).await.unwrap() {
                    Some(ToClient::Pair { peer, .. }) => {
                        let yes = PairResult { through: Some(true), ..PairResult::default() };
                        let payload = Payload::write(&yes).unwrap();
                        link.say(ToServer::Result { peer, payload }).await.unwrap();
                    }
                    Some(_) => {}
                    None => link.say(ToServer::Ping { id: 0 }).await.unwrap(),
                }
            }
        };
        let comes = async {
            sleep(Duration::from_secs(5)).await;
            let begun = Instant::now();
            (member(&world, 0, Until::Settled).await.unwrap(), begun.elapsed())
        };
        tokio::join!(comes, opens_none).0
    });
    assert!(!document.partial && took < Duration::from_secs(60), "{took:?} {document:#?}");
    let pair = pair(&document, 1, 2);
    assert_eq!((pair.outcome, pair.reason_code), (PairOutcome::Unknown, Some(ReasonCode::OneSideSays)));
}

#[test]
fn who_stays_for_an_hour_is_not_sent_away() {
    let world = world(&["open", "open"]);
    let until = Until::After(Duration::from_secs(3600));
    let (first, second) = run(async { tokio::join!(member(&world, 0, until), member(&world, 1, until)) });
    for document in [first.unwrap(), second.unwrap()] {
        assert_eq!((document.partial, document.room.ended.as_str()), (false, "The time for it is over."));
        assert_eq!(pair(&document, 1, 2).outcome, PairOutcome::Direct);
    }
}
