//! Two clients in one simulated world: the very code that runs on real networks, in virtual time.

use std::{net::SocketAddr, sync::Mutex};

use shared::nat::{NatType, model::Stack};

mod families;
mod hold;
mod hostile;
mod hostile_server;
mod interrupted;
mod misuse;

use super::{report::PunchOutcome, *};
use crate::{
    net::{
        Stream,
        sim::{PathSpec, SiteSpec, World},
    },
    progress::Silent,
    target::FoundBy,
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

/// Nobody interrupts.
fn never() -> watch::Receiver<bool> {
    watch::channel(false).1
}

fn setup(seed: u8) -> PunchSetup {
    PunchSetup { randomness: Randomness::Seeded(seed.into()), ..PunchSetup::default() }
}

type Result2 = (Result<PunchDocument, IntroError>, Result<PunchDocument, IntroError>);

async fn both(world: &World, setups: [PunchSetup; 2]) -> Result2 {
    between([world.host(0, 0), world.host(1, 0)], &target(world), setups).await
}

/// Lets two punch, each with a network of its own.
async fn between(nets: [Arc<dyn Net>; 2], target: &Target, setups: [PunchSetup; 2]) -> Result2 {
    let ([a, b], [first, second]) = (nets, setups);
    let (told, code) = tokio::sync::oneshot::channel();
    let ear = Ear(Mutex::new(Some(told)));
    // The ear goes with the attempt: if that ends early, nobody waits for a code any more.
    let opens = async move { punch(&first, a, target, &Silent, &ear, never()).await };
    tokio::join!(opens, async {
        let second = PunchSetup { code: Some(code.await.expect("a code")), ..second };
        punch(&second, b, target, &Silent, &Ear::default(), never()).await
    })
}

fn punched(a: &str, b: &str) -> (PunchReport, PunchReport) {
    run(async {
        let world = world(a, b);
        let (a, b) = both(&world, [setup(1), setup(2)]).await;
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
        ("udp-blocked,syn=reset", "udp-blocked", Some(T::Tcp)),
        ("linux,udp=blocked", "linux-open-input,udp=blocked,syn=reset", Some(T::Tcp)),
        ("symmetric,udp=blocked", "restricted-cone,udp=blocked", Some(T::Tcp)),
        ("symmetric-sequential,udp=blocked", "udp-blocked", Some(T::Tcp)),
        ("linux+carrier", "linux", Some(T::Simultaneous)),
    ];
    for (a, b, technique) in cases {
        let (first, second) = punched(a, b);
        let told = format!("{a} with {b}:\n{:#?}\n{:#?}", first, second);
        assert_eq!(first.technique, technique, "{told}");
        assert_eq!(second.technique, technique, "{told}");
        assert_eq!(first.predicted.outcome, first.outcome, "{told}");
        if technique != Some(T::Birthday) {
            assert_eq!(first.rounds, 1, "what was predicted is tried first: {told}");
        }
        if let (Some(local), Some(_)) = (first.local, first.remote) {
            assert!(local.port() > 0 && first.rtt_s.unwrap() < 0.2 && first.loss == Some(0.0), "{told}");
            assert!(first.rtt_via_server_s.unwrap() >= 0.1, "{told}");
            assert_eq!(first.held_s.map(f64::round), Some(5.0), "{told}");
        }
    }
}

#[test]
fn nobody_comes() {
    run(async {
        let world = world("open", "open");
        let ear = Ear::default();
        let early = punch(&setup(1), world.host(0, 0), &target(&world), &Silent, &ear, never()).await;
        assert_eq!(early.unwrap_err(), IntroError::NoPeer(60));
        let wrong = PunchSetup { code: Some(Code::from_bits(1)), ..setup(1) };
        let refused = punch(&wrong, world.host(0, 0), &target(&world), &Silent, &ear, never()).await;
        assert_eq!(refused.unwrap_err(), IntroError::Refused(shared::rendezvous::Refusal::UnknownCode));
    });
}
