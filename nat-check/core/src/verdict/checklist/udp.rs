//! RFC 4787 and what RFC 7857 and, for carriers, RFC 6888 add to it.

use shared::nat::{Filtering, Mapping, PortPolicy};

use super::{
    Rule,
    facts::{Facts, Judged, by, met, moot, not_met, open, partly, timer},
};
use std::net::SocketAddr;

use crate::report::{
    LayersKind, ReasonCode,
    RequirementLevel::{Must, MustNot, Recommended, Should, ShouldNot},
    RequirementVerdict, UdpReport,
};

const MAPPING: Option<&str> = Some("ipv4.udp.mapping");
const FILTERING: Option<&str> = Some("ipv4.udp.filtering");
const ALLOCATION: Option<&str> = Some("ipv4.udp.port_allocation");
const LIFETIME: Option<&str> = Some("ipv4.udp.lifetime");
const HAIRPINNING: Option<&str> = Some("ipv4.udp.hairpinning");

pub(super) const RFC_4787: &[Rule] = &[
    Rule {
        name: "REQ-1",
        level: Must,
        text: "endpoint-independent mapping",
        finding: MAPPING,
        judge: mapping,
    },
    Rule {
        name: "REQ-2",
        level: Recommended,
        text: "one external address for all mappings of a host",
        finding: ALLOCATION,
        judge: pooling,
    },
    Rule {
        name: "REQ-3",
        level: MustNot,
        text: "one external port for several internal endpoints",
        finding: None,
        judge: overloading,
    },
    Rule {
        name: "REQ-3a",
        level: Recommended,
        text: "external ports of the range of the internal ones",
        finding: Some("ipv4.udp.external"),
        judge: range,
    },
    Rule {
        name: "REQ-4",
        level: Recommended,
        text: "even ports stay even, odd ones odd",
        finding: ALLOCATION,
        judge: parity,
    },
    Rule {
        name: "REQ-5",
        level: MustNot,
        text: "mappings that expire in less than 2 minutes",
        finding: LIFETIME,
        judge: |facts| lifetime(facts, 120.0),
    },
    Rule {
        name: "REQ-5c",
        level: Recommended,
        text: "mappings that live 5 minutes or longer",
        finding: LIFETIME,
        judge: |facts| lifetime(facts, 300.0),
    },
    Rule {
        name: "REQ-6",
        level: Must,
        text: "outbound packets refresh mappings",
        finding: LIFETIME,
        judge: outbound_refresh,
    },
    Rule {
        name: "REQ-7",
        level: Must,
        text: "no conflict of internal and external addresses",
        finding: None,
        judge: |_| open("it shows only where the line gives out addresses of the local network"),
    },
    Rule {
        name: "REQ-8",
        level: Recommended,
        text: "endpoint-independent or address-dependent filtering",
        finding: FILTERING,
        judge: filtering,
    },
    Rule { name: "REQ-9", level: Must, text: "hairpinning", finding: HAIRPINNING, judge: hairpinning },
    Rule {
        name: "REQ-9a",
        level: Must,
        text: "hairpinned packets have the external source",
        finding: HAIRPINNING,
        judge: hairpinned_source,
    },
    Rule {
        name: "REQ-10",
        level: Should,
        text: "no application-level gateways for UDP",
        finding: Some("ipv4.udp.alg"),
        judge: alg,
    },
    Rule {
        name: "REQ-11",
        level: Must,
        text: "the same behaviour at all times",
        finding: Some("ipv4.udp.inbound_first_remap"),
        judge: deterministic,
    },
    Rule {
        name: "REQ-12",
        level: MustNot,
        text: "mappings that an ICMP message ends",
        finding: None,
        judge: no_icmp,
    },
    Rule {
        name: "REQ-13",
        level: Must,
        text: "\"fragmentation needed\" for large packets with DF",
        finding: None,
        judge: no_path,
    },
    Rule { name: "REQ-14", level: Must, text: "fragments in any order", finding: None, judge: no_path },
];

pub(super) const RFC_7857: &[Rule] = &[
    Rule {
        name: "section-7",
        level: ShouldNot,
        text: "mappings that refused packets refresh",
        finding: None,
        judge: |_| open("refused packets are not sent at intervals"),
    },
    Rule {
        name: "section-9",
        level: Should,
        text: "random external ports, where they are not kept",
        finding: ALLOCATION,
        judge: randomised,
    },
];

pub(super) const RFC_6888: &[Rule] = &[
    Rule {
        name: "REQ-2",
        level: Must,
        text: "one external address for all mappings of a subscriber",
        finding: ALLOCATION,
        judge: pooling,
    },
    Rule {
        name: "REQ-4",
        level: Must,
        text: "a limit of ports for each subscriber can be set",
        finding: None,
        judge: |_| open("it would take as many mappings as the limit allows"),
    },
    Rule {
        name: "REQ-7",
        level: Recommended,
        text: "endpoint-independent filtering",
        finding: FILTERING,
        judge: carriers_filtering,
    },
    Rule {
        name: "REQ-9",
        level: Must,
        text: "a protocol by which subscribers open ports",
        finding: None,
        judge: |_| open("the carrier's NAT is not asked, only this network's gateway"),
    },
    Rule {
        name: "REQ-15",
        level: Should,
        text: "external ports that are hard to guess",
        finding: ALLOCATION,
        judge: hard_to_guess,
    },
];

fn mapping(facts: &Facts<'_>) -> Judged {
    let Some(udp) = facts.udp else { return open("it was not measured") };
    if udp.inbound_first_remap.sure() == Some(&true) {
        return not_met("towards a peer whose packet came first the mapping is another one");
    }
    by(Some(&udp.mapping), |mapping| of_mapping(mapping, is_port_kept(udp.local, &udp.external)))
}

/// Whether the port outside is the one inside.
pub(super) fn is_port_kept(local: Option<SocketAddr>, external: &[SocketAddr]) -> bool {
    external.iter().any(|seen| Some(seen.port()) == local.map(|local| local.port()))
}

/// The same for TCP. A NAT that makes a mapping of its own for each destination, and keeps ports while they are free, looks like
/// one that has a single mapping for all: Linux does.
pub(super) fn of_mapping(mapping: &Mapping, is_port_kept: bool) -> Judged {
    match mapping {
        Mapping::EndpointIndependent if is_port_kept => {
            partly("one external endpoint for all destinations; the port was free outside for each")
        }
        Mapping::EndpointIndependent => met("one external endpoint for all destinations"),
        Mapping::Direct => moot("nothing translates addresses"),
        other => not_met(format!("the mapping is {other}")),
    }
}

fn pooling(facts: &Facts<'_>) -> Judged {
    by(facts.udp.map(|udp| &udp.port_allocation), |allocation| match allocation.external_ips {
        0 | 1 => partly("all sockets were seen at one address"),
        // Behind a tunnel that translates nothing itself.
        several if facts.kind == Some(LayersKind::DsLite) => {
            not_met(format!("{several} external addresses were seen"))
        }
        several => {
            open(format!("{several} external addresses were seen, of a pool or of several connections"))
        }
    })
}

fn overloading(_: &Facts<'_>) -> Judged {
    open("it shows only where two hosts use the same port at a time")
}

fn range(facts: &Facts<'_>) -> Judged {
    let Some(udp) = facts.udp else { return open("it was not measured") };
    let low = |port: u16| port < 1024;
    match udp.local {
        Some(local) if low(local.port()) => open("the local port was one below 1024"),
        Some(_) if udp.external.is_empty() => open("no external port was seen"),
        Some(_) if udp.external.iter().any(|external| low(external.port())) => {
            not_met("a port below 1024 was given for one above")
        }
        Some(_) => partly(format!("external ports seen: {}", udp.external.len())),
        None => open("the local port is not known"),
    }
}

/// A port that is kept is one of the same parity; but where each destination has a mapping of its own, no more than one of them
/// can keep it.
fn parity(facts: &Facts<'_>) -> Judged {
    let is_one_mapping = facts.udp.and_then(|udp| udp.mapping.sure()) == Some(&Mapping::EndpointIndependent);
    by(facts.udp.map(|udp| &udp.port_allocation), |allocation| match (allocation.policy, allocation.parity) {
        (_, Some(false)) => not_met("parity was not kept"),
        (PortPolicy::Preserving, _) if !is_one_mapping => partly("the first mapping of a port keeps it"),
        // What becomes of a port that is taken was not seen.
        (PortPolicy::Preserving, _) => partly("most ports were kept"),
        (_, Some(true)) => met("all ports kept their parity"),
        (_, None) => open("too few ports were seen"),
    })
}

pub(super) fn lifetime(facts: &Facts<'_>, at_least: f64) -> Judged {
    let judged = by(facts.udp.map(|udp| &udp.lifetime), |lifetime| {
        let expired = [lifetime.unreplied, lifetime.stream].into_iter().flatten();
        let expired = expired.filter_map(|bracket| bracket.expired_s).reduce(f64::min);
        let are_both_known = lifetime.unreplied.is_some() && lifetime.stream.is_some();
        timer(at_least, lifetime.survived_s().filter(|_| are_both_known), expired)
    });
    match judged.verdict {
        // RFC 4787 REQ-5a, RFC 6092 REC-15.
        RequirementVerdict::NotMet if facts.is_well_known_port => {
            open(format!("{}, which is allowed towards ports below 1024", judged.why))
        }
        _ => facts.of_the_way(judged),
    }
}

pub(super) fn outbound_refresh(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.udp.map(|udp| &udp.lifetime), |lifetime| match lifetime.refresh.outbound {
        Some(true) => met("they do"),
        Some(false) => not_met("they do not"),
        None => open("it lived too long to see what refreshes it"),
    });
    facts.of_the_way(judged)
}

pub(super) fn filtering(facts: &Facts<'_>) -> Judged {
    let judged = by(facts.udp.map(|udp| &udp.filtering), of_filtering);
    facts.of_the_way(judged)
}

/// The same for TCP, and for firewalls.
pub(super) fn of_filtering(filtering: &Filtering) -> Judged {
    match filtering {
        Filtering::EndpointIndependent | Filtering::AddressDependent => {
            met(format!("the filtering is {filtering}"))
        }
        other => not_met(format!("the filtering is {other}")),
    }
}

/// A router in front of the carrier's NAT may be what filters.
fn carriers_filtering(facts: &Facts<'_>) -> Judged {
    by(facts.udp.map(|udp| &udp.filtering), |filtering| match filtering {
        Filtering::EndpointIndependent => met("the filtering is endpoint-independent"),
        other => {
            open(format!("the filtering is {other}, which a router in front of the carrier's NAT may do"))
        }
    })
}

fn hairpinning(facts: &Facts<'_>) -> Judged {
    by(facts.udp.map(|udp| &udp.hairpinning), |hairpins| match hairpins {
        true => met("a packet to the own external endpoint came back"),
        false => open(NO_HAIRPIN),
    })
}

/// This host drops packets that come in with its own address as their source.
const NO_HAIRPIN: &str = "a packet to the own external endpoint did not come back: there is no hairpinning, or one with the internal source";

fn hairpinned_source(facts: &Facts<'_>) -> Judged {
    let Some(udp) = facts.udp else { return open("it was not measured") };
    by(Some(&udp.hairpinning), |hairpins| {
        let source = udp.hairpinning.evidence.get("source_seen").and_then(|source| source.as_str());
        let source = source.and_then(|source| source.parse::<std::net::SocketAddr>().ok());
        match (hairpins, source) {
            (false, _) => open(NO_HAIRPIN),
            (true, Some(source)) if udp.external.iter().any(|external| external.ip() == source.ip()) => {
                partly(format!(
                    "the packet came from {source}; whether the port is the right one was not compared"
                ))
            }
            (true, Some(source)) if udp.local.is_some_and(|local| local.ip() == source.ip()) => {
                not_met(format!("the packet came from {source}"))
            }
            (true, _) => open("its source was not recognised"),
        }
    })
}

fn alg(facts: &Facts<'_>) -> Judged {
    let is_behind = |udp: &UdpReport| udp.mapping.reason_code == Some(ReasonCode::NatBeforeServer);
    if facts.udp.is_some_and(is_behind) {
        return open("a NAT before the server may rewrite payloads, too");
    }
    by(facts.udp.map(|udp| &udp.alg), |rewrites| match rewrites {
        true => not_met("addresses inside payloads are rewritten"),
        false => partly("STUN payloads pass unchanged; other protocols were not tried"),
    })
}

fn deterministic(facts: &Facts<'_>) -> Judged {
    if facts.udp.is_some_and(|udp| udp.mapping.reason_code == Some(ReasonCode::NotDeterministic)) {
        return open("mappings were not the same each time");
    }
    by(facts.udp.map(|udp| &udp.inbound_first_remap), |remaps| match remaps {
        true => not_met("a packet from outside that comes first changes the mapping towards its sender"),
        false => partly("no change was seen in this run"),
    })
}

/// ICMP errors are not sent to a mapping.
pub(super) fn no_icmp(_: &Facts<'_>) -> Judged {
    open("ICMP messages are not measured")
}

fn no_path(_: &Facts<'_>) -> Judged {
    open("large packets and fragments are not measured")
}

fn randomised(facts: &Facts<'_>) -> Judged {
    by(facts.udp.map(|udp| &udp.port_allocation), |allocation| match allocation.policy {
        PortPolicy::Preserving => moot("ports are kept"),
        PortPolicy::Random => partly("no order of external ports was seen"),
        // RFC 6056 section 3.3.3 counts up for each destination, from another number.
        PortPolicy::Sequential => {
            open("external ports follow each other, by one counter or by one for each destination (RFC 6056)")
        }
        PortPolicy::Block => partly("external ports come from a small block"),
    })
}

fn hard_to_guess(facts: &Facts<'_>) -> Judged {
    by(facts.udp.map(|udp| &udp.port_allocation), |allocation| match allocation.policy {
        // A router in front of it may be what counts up, and counters may be one for each destination.
        PortPolicy::Sequential => {
            open("external ports follow each other, by the carrier's NAT or a router in front of it")
        }
        PortPolicy::Preserving => open("external ports are those of this host"),
        PortPolicy::Random | PortPolicy::Block => partly("external ports do not follow each other"),
    })
}
