//! The rules of prediction, over every pair.

use shared::nat::{PortAllocation, PortPolicy};

use super::{
    ports::{MOST_CROSS_TRAFFIC, MOST_IPS},
    *,
};

use Filtering as F;
use Mapping as M;

const MAPPINGS: [M; 5] =
    [M::Direct, M::EndpointIndependent, M::AddressDependent, M::AddressAndPortDependent, M::PortDependent];
const FILTERINGS: [F; 4] =
    [F::EndpointIndependent, F::AddressDependent, F::AddressAndPortDependent, F::PortDependent];
const KEYINGS: [Keying; 3] = [Keying::Mapping, Keying::Endpoint, Keying::Host];
const ALLOCATIONS: [Ports; 4] = [
    Ports { next: Next::Local, range: 64512, addresses: Addresses::ONE },
    Ports { next: Next::Step { cross_traffic: 10.0 }, range: 64512, addresses: Addresses::ONE },
    Ports::ANYWHERE,
    Ports { next: Next::Anywhere, range: 512, addresses: Addresses::ONE },
];

fn every_side() -> Vec<Side> {
    let mut sides = vec![Side::UdpBlocked];
    for mapping in MAPPINGS {
        for filtering in FILTERINGS {
            for keying in KEYINGS {
                for ports in ALLOCATIONS {
                    sides.push(Side::Udp(Behaviour { mapping, filtering, keying, ports }));
                }
            }
        }
    }
    sides
}

fn udp(mapping: M, filtering: F, ports: Ports) -> Side {
    Side::Udp(Behaviour { mapping, filtering, keying: Keying::Mapping, ports })
}

#[test]
fn it_does_not_matter_who_is_called_a() {
    let sides = every_side();
    for a in &sides {
        for b in &sides {
            let (one, two) = (predict(a, b, &Budget::DEFAULT), predict(b, a, &Budget::DEFAULT));
            let told = |p: Prediction| (p.outcome, p.technique, p.packets);
            assert_eq!(told(one), told(two), "{a:?} {b:?}");
            let chance = |p: Prediction| p.probability.unwrap_or(0.0);
            assert!((chance(one) - chance(two)).abs() < 1e-9, "{a:?} {b:?}");
        }
    }
}

#[test]
fn plain_punching_fails_where_both_look_at_ports_and_one_moves() {
    // The rule of the field, for filters that belong to the endpoint where they look at addresses, and to the
    // mapping where they look at ports.
    let usual = |filtering| if filtering == F::AddressDependent { Keying::Endpoint } else { Keying::Mapping };
    for (ma, fa) in MAPPINGS.into_iter().flat_map(|m| FILTERINGS.map(|f| (m, f))) {
        for (mb, fb) in MAPPINGS.into_iter().flat_map(|m| FILTERINGS.map(|f| (m, f))) {
            let side = |mapping, filtering| Behaviour {
                mapping,
                filtering,
                keying: usual(filtering),
                ports: Ports::ANYWHERE,
            };
            let (a, b) = (side(ma, fa), side(mb, fb));
            let fails = a.looks_at_ports() && b.looks_at_ports() && !(a.is_fixed() && b.is_fixed());
            assert_eq!(plain(a, b).is_none(), fails, "{ma}/{fa} {mb}/{fb}");
        }
    }
}

#[test]
fn the_budget_is_never_exceeded() {
    let (sides, budget) = (every_side(), Budget::DEFAULT);
    for a in &sides {
        for b in &sides {
            let p = predict(a, b, &budget);
            assert!(p.packets.unwrap_or(0) <= budget.packets, "{a:?} {b:?} {p:?}");
            assert!(p.probability.is_none_or(|chance| (0.0..=1.0).contains(&chance)));
            match p.outcome {
                PeerOutcome::Direct => assert!(p.probability >= Some(budget.worth)),
                PeerOutcome::Relay => assert_eq!(p.probability, Some(0.0)),
                PeerOutcome::Unknown => assert_eq!(p.probability, None),
            }
        }
    }
}

#[test]
fn the_usual_pairs() {
    let cone = udp(M::EndpointIndependent, F::AddressAndPortDependent, ALLOCATIONS[0]);
    let strict = |ports| udp(M::AddressAndPortDependent, F::AddressAndPortDependent, ports);
    let tell = |a: Side, b: Side| {
        let p = predict(&a, &b, &Budget::DEFAULT);
        (p.technique, (p.probability.unwrap() * 1000.0).floor() as i32, p.packets)
    };
    assert_eq!(tell(cone, cone), (Technique::Simultaneous, 1000, Some(2)));
    assert_eq!(tell(cone, strict(ALLOCATIONS[0])), (Technique::Prediction, 1000, Some(1)));
    let (technique, chance, packets) = tell(cone, strict(ALLOCATIONS[1]));
    assert_eq!((technique, chance), (Technique::Prediction, 999));
    assert!(packets < Some(10));
    let busy = Ports { next: Next::Step { cross_traffic: 1000.0 }, range: 64512, addresses: Addresses::ONE };
    assert_eq!(tell(cone, strict(busy)).0, Technique::Birthday, "nobody can tell the next of so many ports");
    let (technique, chance, packets) = tell(cone, strict(ALLOCATIONS[2]));
    assert_eq!((technique, chance), (Technique::Birthday, 990));
    assert!((1100..1200).contains(&packets.unwrap()));
    // A few packets more make it certain, where a few are enough.
    let (technique, chance, packets) = tell(cone, strict(ALLOCATIONS[3]));
    assert_eq!((technique, chance), (Technique::Birthday, 999));
    assert!((10..20).contains(&packets.unwrap()));
    assert_eq!(tell(strict(ALLOCATIONS[1]), strict(ALLOCATIONS[1])).0, Technique::Prediction);
    assert_eq!(tell(strict(ALLOCATIONS[2]), strict(ALLOCATIONS[2])), (Technique::Relay, 0, None));
    assert_eq!(tell(strict(ALLOCATIONS[1]), strict(ALLOCATIONS[2])), (Technique::Relay, 0, None));
    let open = udp(M::Direct, F::EndpointIndependent, ALLOCATIONS[0]);
    assert_eq!(tell(strict(ALLOCATIONS[2]), open), (Technique::Direct, 1000, Some(2)));
    assert_eq!(tell(Side::UdpBlocked, open), (Technique::Tcp, 1000, None));
    assert_eq!(tell(Side::UdpBlocked, cone), (Technique::Relay, 0, None));
}

/// The same NAT with so many external addresses.
fn spread(side: Side, count: u32, by_destination: bool, is_vouched: bool) -> Side {
    match side {
        Side::Udp(mut behaviour) => {
            behaviour.ports.addresses = Addresses { count, by_destination, is_vouched };
            behaviour.ports.range *= if by_destination { 1 } else { count };
            Side::Udp(behaviour)
        }
        Side::UdpBlocked => Side::UdpBlocked,
    }
}

#[test]
fn several_external_addresses_make_a_guess_less_likely_to_be_right() {
    let cone = udp(M::EndpointIndependent, F::AddressAndPortDependent, ALLOCATIONS[0]);
    let strict = |ports| udp(M::AddressAndPortDependent, F::AddressAndPortDependent, ports);
    let chance = |a: Side, b: Side| predict(&a, &b, &Budget::DEFAULT).probability;
    // A known port: both addresses are tried, so it is found at either.
    assert_eq!(chance(cone, spread(strict(ALLOCATIONS[0]), 2, false, true)), Some(1.0));
    // Far more addresses than may be tried, each round at another one.
    let many = chance(cone, spread(strict(ALLOCATIONS[0]), 20, false, true)).unwrap();
    assert!(many < 0.5, "{many}");
    let both = spread(strict(ALLOCATIONS[0]), 2, false, true);
    assert_eq!(chance(both, both), Some(1.0 - 0.75_f64.powi(3)), "both have to be at the right one of two");
    // Which address another destination brings up, nobody knows.
    let by_destination = spread(strict(ALLOCATIONS[2]), 2, true, true);
    let found = predict(&cone, &by_destination, &Budget::DEFAULT);
    assert_eq!((found.outcome, found.technique), (PeerOutcome::Unknown, Technique::Birthday));
    assert!(found.why("this side", "the peer").contains("not known"));
    // Nobody vouches for the address: that many packets may not go there.
    assert_eq!(chance(cone, spread(strict(ALLOCATIONS[2]), 1, false, false)), Some(0.0));
    assert_eq!(chance(spread(cone, 1, false, false), strict(ALLOCATIONS[2])), Some(0.0));
    // A fixed mapping shows its address.
    assert_eq!(chance(spread(cone, 4, false, true), spread(cone, 4, true, true)), Some(1.0));
}

#[test]
fn filters_that_look_at_addresses_meet_those_that_are_not_expected() {
    let restricted = udp(M::EndpointIndependent, F::AddressDependent, ALLOCATIONS[0]);
    let strict = udp(M::AddressAndPortDependent, F::AddressAndPortDependent, ALLOCATIONS[2]);
    let with = |side| predict(&restricted, &side, &Budget::DEFAULT);
    assert_eq!(with(spread(strict, 4, false, true)).technique, Technique::Simultaneous, "all are tried");
    assert_eq!(with(spread(strict, 2, true, true)).outcome, PeerOutcome::Unknown);
    let open = udp(M::EndpointIndependent, F::EndpointIndependent, ALLOCATIONS[0]);
    assert_eq!(predict(&open, &spread(strict, 9, true, true), &Budget::DEFAULT).probability, Some(1.0));
}

#[test]
fn one_rule_makes_ports_of_a_measurement_whatever_it_says() {
    let of = |policy, range, external_ips, cross_traffic| {
        let measured = PortAllocation {
            policy,
            delta: None,
            range,
            external_ips,
            parity: None,
            external_ip_by_destination: None,
            cross_traffic_per_s: None,
        };
        Ports::of(&measured, cross_traffic)
    };
    let step = |cross_traffic| match of(PortPolicy::Sequential, (1024, 65535), 1, cross_traffic).next {
        Next::Step { cross_traffic } => cross_traffic,
        other => panic!("{other:?}"),
    };
    assert_eq!([None, Some(0.0), Some(-1e300), Some(f64::NAN)].map(step), [CROSS_TRAFFIC; 4]);
    assert_eq!([Some(25.0), Some(1e300)].map(step), [25.0, MOST_CROSS_TRAFFIC]);
    assert_eq!(of(PortPolicy::Random, (1024, 65535), 4, None).range, 4 * 64512);
    // Nonsense of a peer is no reason to fail, nor to guess at the ports of services.
    assert_eq!(of(PortPolicy::Random, (9, 5), 0, None).range, 1);
    assert_eq!(of(PortPolicy::Random, (0, 1033), 1, None).range, 10);
    assert!(of(PortPolicy::Block, (0, 65535), u32::MAX, None).range <= 65536 * MOST_IPS);
    let block = PortAllocation {
        policy: PortPolicy::Block,
        delta: None,
        range: (50_000, 50_511),
        external_ips: 1,
        parity: None,
        external_ip_by_destination: None,
        cross_traffic_per_s: None,
    };
    assert_eq!(ports_to_try(&block), (50_000 - 64, 50_511 + 64));
    assert_eq!(ports_to_try(&PortAllocation { range: (1030, 1541), ..block.clone() }).0, 1024);
    for policy in [PortPolicy::Preserving, PortPolicy::Sequential, PortPolicy::Random, PortPolicy::Block] {
        for range in [(1, 1023), (1023, 1), (0, 0), (1, 65535)] {
            let (low, high) = ports_to_try(&PortAllocation { policy, range, ..block.clone() });
            assert!((1024..=high).contains(&low), "{policy:?} {range:?}: {low} to {high}");
        }
    }
}
