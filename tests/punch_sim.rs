//! Pairs of real clients that punch in the simulated laboratory: a sample of the matrix. All of it:
//! `cargo bench -p natlab --bench punch`.

use nat_check_core::punch::{report::PunchOutcome, room::report::PairOutcome};
use natlab::punch::{
    Match, classes, further_classes, further_matrix, limited_mappings, matrix, run_all, several_addresses,
    tcp_matrix,
};

/// Every so many cells of the matrix are in the sample; with 68 classes, this step walks through all of them on both
/// sides.
const STEP: usize = 13;

#[test]
fn outcomes_agree_with_predictions_in_a_sample_of_all_pairs() {
    let matrix = matrix(1);
    assert_eq!(matrix.len(), classes().len() * classes().len());
    let sample: Vec<_> = matrix.into_iter().step_by(STEP).collect();
    assert!(sample.len() > 350, "{} pairs", sample.len());
    let tally = run_all(&sample, 2);
    println!("{}", tally.figures());
    let complaints = tally.complaints();
    assert!(complaints.is_empty(), "{}\n{}", tally.figures(), complaints.join("\n"));
    assert!(tally.unknown * 20 <= tally.punches, "{}\n{:#?}", tally.figures(), tally.unknown_because);
    assert!(tally.round_trips.len() > 20, "{}", tally.figures());
}

#[test]
fn a_room_of_eight_finds_what_every_two_of_them_find_alone() {
    let room = natlab::room::Gathering::of(&natlab::room::EIGHT_NATS, 1);
    let documents: Vec<_> =
        room.run().expect("NATs").into_iter().collect::<Result<_, _>>().expect("all are let in");
    let (first, others) = documents.split_first().expect("eight");
    assert!(others.iter().all(|other| other.room.pairs == first.room.pairs), "{documents:#?}");
    let pairs = &first.room.pairs;
    assert_eq!((first.room.members.len(), pairs.len()), (8, 28), "{first:#?}");
    assert!(pairs.iter().all(|pair| pair.outcome != PairOutcome::Unknown), "{pairs:#?}");
    let nat = |id: u32| {
        let member = first.room.members.iter().find(|member| member.id == id).expect("a member");
        member.name.clone().expect("a name")
    };
    for pair in pairs {
        let (a, b) = (nat(pair.a), nat(pair.b));
        let [alone, _] = Match::of(&a, &b, 1).run().expect("NATs");
        let alone = alone.expect("a report");
        let told = format!("{a} with {b}: {pair:#?}\n{alone:#?}");
        assert_eq!(pair.predicted, alone.predicted.probability.map(|p| (p * 1e6).round() / 1e6), "{told}");
        let (here, there) = (pair.outcome == PairOutcome::Direct, alone.outcome == PunchOutcome::Direct);
        match pair.predicted {
            Some(0.0) => assert!(!here && !there, "{told}"),
            Some(p) if p >= 0.99 => assert!(here && there, "{told}"),
            // Chance decides, each time anew.
            Some(_) | None => {}
        }
    }
}

/// The same for the matrix of the further classes.
const FURTHER_STEP: usize = 47;

#[test]
fn so_do_they_where_filters_remember_more_and_routers_remap() {
    let matrix = further_matrix(1);
    let (usual, further) = (classes().len(), further_classes().len());
    assert_eq!(matrix.len(), further * (further + 2 * usual));
    let sample: Vec<_> = matrix.into_iter().step_by(FURTHER_STEP).collect();
    assert!(sample.len() > 350, "{} pairs", sample.len());
    let tally = run_all(&sample, 2);
    println!("{}", tally.figures());
    let complaints = tally.complaints();
    assert!(complaints.is_empty(), "{}\n{}", tally.figures(), complaints.join("\n"));
    assert!(tally.by_technique.get("low-ttl").is_some_and(|n| *n >= 5), "{}", tally.figures());
}

/// The same for the matrix over TCP.
const TCP_STEP: usize = 13;

#[test]
fn so_do_they_over_tcp_alone() {
    let sample: Vec<_> = tcp_matrix(1).into_iter().step_by(TCP_STEP).collect();
    assert!(sample.len() > 350, "{} pairs", sample.len());
    let tally = run_all(&sample, 2);
    println!("{}", tally.figures());
    let complaints = tally.complaints();
    assert!(complaints.is_empty(), "{}\n{}", tally.figures(), complaints.join("\n"));
    assert!(tally.by_technique.get("tcp").is_some_and(|direct| *direct > 200), "{}", tally.figures());
    // A quarter of all pairs has gateways that both refuse what comes too early.
    assert!(tally.unknown * 3 <= tally.punches, "{:#?}", tally.unknown_because);
}

#[test]
fn so_do_they_behind_several_external_addresses() {
    for (name, matches) in several_addresses(8, 1) {
        let tally = run_all(&matches, 2);
        let complaints = tally.complaints();
        assert!(complaints.is_empty(), "{name}:\n{}\n{}", tally.figures(), complaints.join("\n"));
    }
}

#[test]
fn so_do_they_where_a_nat_gives_few_mappings() {
    for (name, matches) in limited_mappings(48, 1) {
        let tally = run_all(&matches, 2);
        println!("{name}:\n{}", tally.figures());
        let complaints = tally.complaints();
        assert!(complaints.is_empty(), "{name}:\n{}\n{}", tally.figures(), complaints.join("\n"));
    }
}
