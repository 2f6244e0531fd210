//! The verdict over reports of every class.

use shared::nat::{PortAllocation, PortPolicy};

use super::*;
use crate::report::{Confidence, Finding, ReasonCode};

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
        cross_traffic_per_s: None,
    };
    let udp = UdpReport {
        nat_type: finding(mapping.zip(filtering).map(|(m, f)| NatType::derive(m, f))),
        mapping: finding(mapping),
        filtering: finding(filtering),
        port_allocation: finding(policy.map(ports)),
        ..UdpReport::default()
    };
    FamilyReport { status: FamilyStatus::Tested, reason: None, reason_code: None, udp: Some(udp), tcp: None }
}

fn absent() -> FamilyReport {
    FamilyReport {
        status: FamilyStatus::Skipped,
        reason: Some("not asked for".into()),
        reason_code: Some(ReasonCode::NotAskedFor),
        udp: None,
        tcp: None,
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
    assert_eq!((blocked.outcome, blocked.technique), (PeerOutcome::Relay, Some(Technique::Relay)));
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
fn the_better_family_makes_the_headline_and_is_named_where_they_differ() {
    use Filtering as F;
    let family = |mapping, filtering| tested(Some(mapping), Some(filtering), Some(PortPolicy::Preserving));
    let home = family(Mapping::EndpointIndependent, F::AddressAndPortDependent);
    let open = family(Mapping::Direct, F::EndpointIndependent);
    let mut blocked = tested(None, None, None);
    blocked.udp.as_mut().unwrap().nat_type = finding(Some(NatType::UdpBlocked));
    let undecided = tested(None, None, None);

    let verdict = conclude(&blocked, &home);
    assert_eq!(verdict.level, Level::MostPeers, "blocked IPv4 does not spoil IPv6");
    assert!(verdict.summary.starts_with("Over IPv6, hole punching works"), "{}", verdict.summary);
    assert!(verdict.summary.ends_with("Over IPv4, UDP is blocked."), "{}", verdict.summary);
    assert_eq!(row(&verdict, PeerKind::FullCone).outcome, PeerOutcome::Direct);
    assert_eq!(conclude(&home, &open).level, Level::AnyPeer);
    assert!(conclude(&open, &home).summary.starts_with("Over IPv4,"));
    assert_eq!(conclude(&blocked, &undecided).level, Level::Unknown, "unknown is not blocked");
    for same in [conclude(&home, &home), conclude(&home, &absent()), conclude(&absent(), &home)] {
        assert!(!same.summary.contains("IPv"), "{}", same.summary);
    }
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
