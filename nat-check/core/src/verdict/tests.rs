//! The verdict over reports of every class.

use shared::nat::{PortAllocation, PortPolicy};

use super::*;
use crate::report::{
    Confidence, Finding, PeerKind, PeerOutcome, PeerVerdict, ReasonCode, TcpReport, Technique,
};

const MAPPINGS: [Mapping; 5] = [
    Mapping::Direct,
    Mapping::EndpointIndependent,
    Mapping::AddressDependent,
    Mapping::AddressAndPortDependent,
    Mapping::PortDependent,
];
const FILTERINGS: [Filtering; 4] = [
    Filtering::EndpointIndependent,
    Filtering::AddressDependent,
    Filtering::AddressAndPortDependent,
    Filtering::PortDependent,
];

fn finding<T>(value: Option<T>) -> Finding<T> {
    match value {
        Some(value) => Finding::known(value, Confidence::Certain, "test"),
        None => Finding::not_asked_for("test"),
    }
}

fn tested(
    mapping: Option<Mapping>,
    filtering: Option<Filtering>,
    policy: Option<PortPolicy>,
) -> FamilyReport {
    let ports = |policy| PortAllocation {
        policy,
        delta: None,
        range: (1024, 65535),
        external_ips: 1,
        parity: None,
        external_ip_by_destination: None,
        cross_traffic_per_s: None,
    };
    let udp = UdpReport {
        nat_type: finding(mapping.zip(filtering).map(|(m, f)| NatType::derive(m, f))),
        mapping: finding(mapping),
        filtering: finding(filtering),
        port_allocation: finding(policy.map(ports)),
        ..UdpReport::default()
    };
    FamilyReport { status: FamilyStatus::Tested, udp: Some(udp), ..FamilyReport::default() }
}

fn absent() -> FamilyReport {
    FamilyReport {
        status: FamilyStatus::Skipped,
        reason: Some("not asked for".into()),
        reason_code: Some(ReasonCode::NotAskedFor),
        ..FamilyReport::default()
    }
}

fn row(verdict: &HolePunching, kind: PeerKind) -> &PeerVerdict {
    verdict.peers.iter().find(|peer| peer.peer == kind).unwrap()
}

#[test]
fn the_level_follows_the_class() {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            let fixed = matches!(mapping, Mapping::Direct | Mapping::EndpointIndependent);
            let expected = match filtering {
                Filtering::EndpointIndependent | Filtering::AddressDependent => Level::AnyPeer,
                Filtering::AddressAndPortDependent if fixed => Level::MostPeers,
                Filtering::AddressAndPortDependent | Filtering::PortDependent => Level::SomePeers,
            };
            let policy = Some(PortPolicy::Random);
            let verdict = conclude(&tested(Some(mapping), Some(filtering), policy), &absent());
            assert_eq!(verdict.level, expected, "{mapping} {filtering}");
            assert_eq!(verdict.peers.len(), 7);
        }
    }
}

#[test]
fn a_level_promises_nothing_that_the_table_denies() {
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for policy in [PortPolicy::Preserving, PortPolicy::Sequential, PortPolicy::Random] {
                let verdict = conclude(&tested(Some(mapping), Some(filtering), Some(policy)), &absent());
                let refused = |kind| row(&verdict, kind).outcome == PeerOutcome::Relay;
                let plain = [PeerKind::OpenInternet, PeerKind::FullCone, PeerKind::RestrictedCone];
                assert!(!plain.into_iter().any(refused));
                if verdict.level == Level::AnyPeer {
                    let hard = [
                        PeerKind::PortRestrictedCone,
                        PeerKind::SymmetricSequential,
                        PeerKind::SymmetricRandom,
                    ];
                    assert!(!hard.into_iter().any(refused), "{mapping} {filtering} {policy}: {verdict:#?}");
                }
                if verdict.level == Level::MostPeers {
                    assert!(!refused(PeerKind::PortRestrictedCone));
                }
            }
        }
    }
}

#[test]
fn a_home_router_against_a_strict_nat_takes_the_birthday() {
    let home = tested(
        Some(Mapping::EndpointIndependent),
        Some(Filtering::AddressAndPortDependent),
        Some(PortPolicy::Preserving),
    );
    let verdict = conclude(&home, &absent());
    let strict = row(&verdict, PeerKind::SymmetricRandom);
    assert_eq!((strict.outcome, strict.technique), (PeerOutcome::Direct, Some(Technique::Birthday)));
    assert_eq!((strict.probability, strict.packets, strict.seconds), (Some(0.99), Some(1148), Some(11.48)));
    let blocked = row(&verdict, PeerKind::UdpBlocked);
    assert_eq!((blocked.outcome, blocked.technique), (PeerOutcome::Unknown, None), "TCP was not measured");
}

#[test]
fn where_udp_is_blocked_the_table_says_what_tcp_gives() {
    let blocked = |filtering, simultaneous_open| {
        let mut family = tested(None, None, None);
        family.udp.as_mut().unwrap().nat_type = finding(Some(NatType::UdpBlocked));
        let tcp = family.tcp.insert(TcpReport { reachable: true, ..TcpReport::default() });
        tcp.mapping = finding(Some(Mapping::EndpointIndependent));
        (tcp.filtering, tcp.simultaneous_open) = (finding(Some(filtering)), finding(simultaneous_open));
        row(&conclude(&family, &absent()), PeerKind::UdpBlocked).clone()
    };
    let open = blocked(Filtering::EndpointIndependent, None);
    assert_eq!((open.outcome, open.technique), (PeerOutcome::Direct, Some(Technique::Tcp)), "{open:?}");
    assert!(open.probability.is_some_and(|chance| chance > 0.99 && chance < 1.0), "{open:?}");
    let home = blocked(Filtering::AddressAndPortDependent, Some(true));
    assert_eq!((home.outcome, home.technique, home.probability), (PeerOutcome::Unknown, None, None));
    assert!(home.why.contains("a chance of 0.99") && home.why.contains("RFC 5382"), "{}", home.why);
    let unknown = blocked(Filtering::AddressAndPortDependent, None);
    assert_eq!(unknown.outcome, home.outcome, "the peer's gateway may let it in: {unknown:?}");
}

#[test]
fn what_is_not_known_is_not_promised() {
    let verdict = conclude(&tested(Some(Mapping::EndpointIndependent), None, None), &absent());
    assert_eq!(verdict.level, Level::Unknown);
    assert_eq!(row(&verdict, PeerKind::FullCone).outcome, PeerOutcome::Direct);
    // Every filter lets this one through, by one way or another.
    assert_eq!(row(&verdict, PeerKind::PortRestrictedCone).outcome, PeerOutcome::Direct);

    let verdict = conclude(
        &tested(Some(Mapping::AddressAndPortDependent), Some(Filtering::AddressAndPortDependent), None),
        &absent(),
    );
    let sequential = row(&verdict, PeerKind::SymmetricSequential);
    assert_eq!((sequential.outcome, sequential.probability), (PeerOutcome::Unknown, None));
    assert!(sequential.why.contains("how its ports are chosen"), "{}", sequential.why);
}

#[test]
fn ipv6_serves_where_ipv4_was_not_tested() {
    let six = tested(Some(Mapping::Direct), Some(Filtering::AddressAndPortDependent), None);
    assert_eq!(conclude(&absent(), &six).level, Level::MostPeers);
    let nothing = conclude(&absent(), &absent());
    assert_eq!((nothing.level, nothing.peers.len()), (Level::Unknown, 0));
}

#[test]
fn ipv6_promises_nothing_to_peers_that_have_none() {
    use Filtering as F;
    let family = |mapping, filtering| tested(Some(mapping), Some(filtering), Some(PortPolicy::Random));
    let home = family(Mapping::EndpointIndependent, F::AddressAndPortDependent);
    let open = family(Mapping::Direct, F::EndpointIndependent);
    let symmetric = family(Mapping::AddressAndPortDependent, F::AddressAndPortDependent);
    let mut blocked = tested(None, None, None);
    blocked.udp.as_mut().unwrap().nat_type = finding(Some(NatType::UdpBlocked));
    let undecided = tested(None, None, None);

    let verdict = conclude(&symmetric, &open);
    assert_eq!(verdict.level, Level::SomePeers, "a peer without IPv6 finds a symmetric NAT");
    assert_eq!(row(&verdict, PeerKind::SymmetricRandom).outcome, PeerOutcome::Relay);
    assert_eq!(over(&open).unwrap().level, Level::AnyPeer);
    assert!(verdict.summary.starts_with("Over IPv4, hole punching works with some"), "{}", verdict.summary);
    let addition = "Over IPv6, if the peer has it, too, it works with any peer.";
    assert!(verdict.summary.ends_with(addition), "{}", verdict.summary);

    let verdict = conclude(&blocked, &home);
    assert_eq!(verdict.level, Level::SomePeers, "blocked IPv4 does not spoil IPv6");
    assert!(verdict.summary.starts_with("If the peer has IPv6, too, hole punching"), "{}", verdict.summary);
    assert!(verdict.summary.ends_with("Over IPv4, UDP is blocked."), "{}", verdict.summary);
    assert_eq!(row(&verdict, PeerKind::FullCone).outcome, PeerOutcome::Unknown, "over IPv4, by TCP");
    assert_eq!(conclude(&blocked, &blocked).level, Level::None);

    assert_eq!(conclude(&open, &home).level, Level::AnyPeer);
    assert_eq!(conclude(&undecided, &open).level, Level::Unknown);
    assert_eq!(conclude(&blocked, &undecided).level, Level::None);
    assert!(conclude(&absent(), &home).summary.starts_with("If the peer has IPv6, too,"));
    for same in [conclude(&home, &home), conclude(&home, &absent())] {
        assert!(!same.summary.contains("IPv"), "{}", same.summary);
    }
}

#[test]
fn the_shorter_keepalive_serves_both_families() {
    let living = |alive_s| {
        let mut family = tested(Some(Mapping::Direct), Some(Filtering::EndpointIndependent), None);
        let refresh = shared::nat::Refresh { outbound: None, inbound: None, elsewhere: None };
        let stream = Some(shared::nat::Bracket { alive_s, expired_s: None });
        family.udp.as_mut().unwrap().lifetime =
            finding(Some(Lifetime { unreplied: None, stream, refresh, granularity: None }));
        family
    };
    assert_eq!(conclude(&living(100.0), &living(50.0)).keepalive_s, Some(40.0));
    assert_eq!(over(&living(100.0)).unwrap().keepalive_s, Some(80.0));
}

#[test]
fn the_headline_promises_no_more_than_the_table() {
    let guessing =
        tested(Some(Mapping::AddressDependent), Some(Filtering::AddressDependent), Some(PortPolicy::Random));
    let verdict = conclude(&guessing, &absent());
    assert_eq!(verdict.level, Level::AnyPeer);
    assert!(verdict.summary.contains("by guessing ports"), "{}", verdict.summary);
    let cone = tested(
        Some(Mapping::EndpointIndependent),
        Some(Filtering::AddressDependent),
        Some(PortPolicy::Preserving),
    );
    assert!(!conclude(&cone, &absent()).summary.contains("guessing"));
}

#[test]
fn where_the_outcome_is_unknown_no_technique_is_named() {
    for mapping in [None, Some(Mapping::AddressAndPortDependent)] {
        for filtering in [None, Some(Filtering::AddressAndPortDependent)] {
            for peer in conclude(&tested(mapping, filtering, None), &absent()).peers {
                assert!(peer.outcome != PeerOutcome::Unknown || peer.technique.is_none(), "{peer:?}");
            }
        }
    }
}

#[test]
fn the_keepalive_is_shorter_than_what_was_survived() {
    let lifetime = |unreplied: Option<f64>, stream: Option<f64>| {
        let bracket = |alive_s| shared::nat::Bracket { alive_s, expired_s: None };
        let refresh = shared::nat::Refresh { outbound: None, inbound: None, elsewhere: None };
        keepalive(&Lifetime {
            unreplied: unreplied.map(bracket),
            stream: stream.map(bracket),
            refresh,
            granularity: None,
        })
    };
    assert_eq!(lifetime(Some(30.7), Some(120.0)), Some(24.0));
    assert_eq!(lifetime(None, Some(120.0)), Some(96.0));
    assert_eq!(lifetime(None, None), None);
    assert_eq!(lifetime(Some(1.0), None), None);
}

/// Every combination of known and unknown axes.
fn all_knowledge() -> impl Iterator<Item = Knowledge> {
    fn some<T: Copy>(values: &[T]) -> Vec<Option<T>> {
        values.iter().copied().map(Some).chain([None]).collect()
    }
    let policies = some(&POLICIES);
    some(&MAPPINGS).into_iter().flat_map(move |mapping| {
        let policies = policies.clone();
        some(&FILTERINGS).into_iter().flat_map(move |filtering| {
            policies.clone().into_iter().map(move |policy| (mapping, filtering, policy))
        })
    })
}

type Knowledge = (Option<Mapping>, Option<Filtering>, Option<PortPolicy>);
const POLICIES: [PortPolicy; 4] =
    [PortPolicy::Preserving, PortPolicy::Sequential, PortPolicy::Random, PortPolicy::Block];

fn peers((mapping, filtering, policy): Knowledge) -> Vec<PeerVerdict> {
    over(&tested(mapping, filtering, policy)).unwrap().peers
}

#[test]
fn nothing_is_promised_that_the_unknown_part_could_deny() {
    let fits = |known: Knowledge, whole: Knowledge| {
        (known.0.is_none() || known.0 == whole.0)
            && (known.1.is_none() || known.1 == whole.1)
            && (known.2.is_none() || known.2 == whole.2)
    };
    let complete: Vec<(Knowledge, Vec<PeerVerdict>)> = all_knowledge()
        .filter(|k| k.0.is_some() && k.1.is_some() && k.2.is_some())
        .map(|k| (k, peers(k)))
        .collect();
    let mut partial = 0;
    for known in all_knowledge() {
        let completions: Vec<&Vec<PeerVerdict>> =
            complete.iter().filter(|(whole, _)| fits(known, *whole)).map(|(_, peers)| peers).collect();
        partial += usize::from(completions.len() > 1);
        for (at, told) in peers(known).iter().enumerate() {
            let possible: Vec<&PeerVerdict> = completions.iter().map(|peers| &peers[at]).collect();
            let context = || format!("{known:?}: {told:?} of {possible:#?}");
            match told.outcome {
                PeerOutcome::Unknown => assert_eq!(told.probability, None, "{}", context()),
                outcome => assert!(possible.iter().all(|p| p.outcome == outcome), "{}", context()),
            }
            let least = possible.iter().filter_map(|p| p.probability).reduce(f64::min);
            if told.outcome != PeerOutcome::Unknown {
                assert!(told.probability <= least, "{}", context());
                let better = possible.iter().any(|p| p.probability > told.probability);
                assert!(told.at_least || !better, "{}", context());
            }
            let claimed = possible.iter().any(|p| p.why == told.why);
            assert!(!claimed || possible.iter().all(|p| p.why == told.why), "{}", context());
        }
    }
    assert!(partial > 40, "{partial}");
}

#[test]
fn what_is_not_known_is_in_no_reason() {
    for peer in peers((None, None, None)) {
        assert!(!peer.why.contains("send to this side"), "{peer:?}");
        assert!(!peer.why.contains("its own gateway"), "{peer:?}");
    }
}

#[test]
fn a_headline_over_a_table_of_yes_is_no_not_known() {
    for known in all_knowledge() {
        let verdict = over(&tested(known.0, known.1, known.2)).unwrap();
        let direct = verdict.peers.iter().any(|peer| peer.outcome == PeerOutcome::Direct);
        assert!(!direct || verdict.summary.starts_with("Hole punching works"), "{known:?}: {verdict:#?}");
    }
}

#[test]
fn what_is_only_likely_is_said_to_be() {
    let weaken = |mapping: Confidence, filtering: Confidence, kind| {
        let mut family = tested(
            Some(Mapping::EndpointIndependent),
            Some(Filtering::EndpointIndependent),
            Some(PortPolicy::Random),
        );
        let udp = family.udp.as_mut().unwrap();
        (udp.mapping.confidence, udp.filtering.confidence) = (mapping, filtering);
        let verdict = over(&family).unwrap();
        let summary = verdict.summary.clone();
        (row(&verdict, kind).why.clone(), summary)
    };
    use Confidence::{Certain, Weak};
    let (why, summary) = weaken(Certain, Weak, PeerKind::SymmetricRandom);
    assert!(why.ends_with("; only likely here: filtering"), "{why}");
    assert!(summary.ends_with("That rests on the filtering, which is only likely."), "{summary}");
    let (why, _) = weaken(Certain, Weak, PeerKind::OpenInternet);
    assert!(!why.contains("likely"), "what this side is does not matter: {why}");
    let (why, summary) = weaken(Certain, Certain, PeerKind::SymmetricRandom);
    assert!(!why.contains("likely") && !summary.contains("likely"), "{why} {summary}");
}
