//! Attempts that are ended early: the report tells what is known by then.

use super::*;

/// What the first side reports when it is stopped at the moment that this note tells of, or so long after it.
async fn stopped(
    world: &World,
    at: impl Fn(&Note<'_>) -> bool + Send + Sync + 'static,
    after: Duration,
) -> PunchDocument {
    let (told, code) = tokio::sync::oneshot::channel();
    let (stop, stopped) = watch::channel(false);
    let ear = Stopper { ear: Ear(Mutex::new(Some(told))), at: Box::new(at), stop: Arc::new(stop), after };
    let (first, second, target) = (setup(1), setup(2), target(world));
    let opens = async move { punch(&first, world.host(0, 0), &target, &Silent, &ear, stopped).await };
    let target = super::target(world);
    let joins = async move {
        let second = PunchSetup { code: Some(code.await.expect("a code")), ..second };
        _ = punch(&second, world.host(1, 0), &target, &Silent, &Ear::default(), never()).await;
    };
    let (first, ()) = tokio::join!(opens, joins);
    first.expect("a report")
}

struct Stopper {
    ear: Ear,
    at: Box<dyn Fn(&Note<'_>) -> bool + Send + Sync>,
    stop: Arc<watch::Sender<bool>>,
    after: Duration,
}

impl Audience for Stopper {
    fn note(&self, note: Note<'_>) {
        if (self.at)(&note) {
            let (stop, after) = (Arc::clone(&self.stop), self.after);
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                stop.send_replace(true);
            });
        }
        self.ear.note(note);
    }
}

#[test]
fn while_nobody_has_come_this_side_is_told() {
    run(async {
        let world = world("port-restricted-cone", "open");
        let (stop, stopped) = watch::channel(false);
        let begun = Instant::now();
        let (ear, setup, target) = (Ear::default(), setup(1), target(&world));
        let opens = punch(&setup, world.host(0, 0), &target, &Silent, &ear, stopped);
        let (document, ()) = tokio::join!(opens, async {
            tokio::time::sleep(Duration::from_secs(20)).await;
            stop.send_replace(true);
        });
        let PunchDocument { partial, punch, .. } = document.unwrap();
        assert_eq!(begun.elapsed().as_secs(), 20);
        assert!(partial);
        assert_eq!((punch.outcome, punch.rounds), (PunchOutcome::Unknown, 0));
        assert_eq!(punch.this.nat_type, Some(NatType::PortRestrictedCone));
        assert_eq!(punch.peer.nat_type, None, "nobody was there");
        assert!(punch.why.contains("nterrupted"), "{}", punch.why);
    });
}

#[test]
fn in_the_middle_of_a_round_nothing_is_claimed() {
    run(async {
        let world = world("symmetric", "port-restricted-cone");
        let begins = |note: &Note<'_>| matches!(note, Note::Round { technique: Technique::Birthday, .. });
        let PunchDocument { partial, punch, .. } = stopped(&world, begins, Duration::from_millis(300)).await;
        assert!(partial);
        assert_eq!((punch.outcome, punch.technique), (PunchOutcome::Unknown, None), "{punch:#?}");
        assert_eq!(punch.peer.nat_type, Some(NatType::PortRestrictedCone));
        assert!(punch.rounds > 0 && punch.why.contains("nterrupted"), "{punch:#?}");
    });
}

#[test]
fn a_path_that_was_found_stays_found() {
    run(async {
        let world = world("full-cone", "port-restricted-cone");
        let through = |note: &Note<'_>| matches!(note, Note::Through(_));
        let PunchDocument { partial, punch, .. } = stopped(&world, through, Duration::from_secs(3)).await;
        assert!(partial);
        assert_eq!(punch.outcome, PunchOutcome::Direct);
        assert!((1.0..3.0).contains(&punch.held_s.unwrap()), "as long as it was held: {punch:#?}");
    });
}
