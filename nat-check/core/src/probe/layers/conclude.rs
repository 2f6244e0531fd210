//! From the evidence to the kind of way. Pure.
//!
//! Each rule names a kind that one piece of evidence speaks for, whatever else there is: more evidence never makes a rule less
//! sure. Where two rules are sure of different kinds, none of them is believed, so that no kind is ever reported as sure that
//! other evidence contradicts.

use std::{net::IpAddr, time::Duration};

use shared::nat::{Filtering, Mapping};

use super::evidence::{Evidence, is_private, is_shared_address_space, is_through_ipv6, is_vpn};
use crate::{
    contactable::is_global,
    net::InterfaceKind,
    report::{Confidence, Finding, Layers, LayersKind, Reason, ReasonCode},
};

const KIND: &str = "addresses of the gateway and of the routers on the way (RFC 1918, 6598, 7335), compared with the one \
                    that the server sees";
const AT_LEAST: &str =
    "every change of address on the way is a box; what only filters counts where it is seen";
const NAMED: &str = "the gateway's word (NAT-PMP, RFC 6886 section 3.2; UPnP GetExternalIPAddress)";
/// A router of the user's own answers sooner than this after the gateway, with a margin for a busy one.
const NEAR: Duration = Duration::from_millis(3);

type Candidate = Finding<LayersKind>;

/// What stands between this host and the Internet.
pub(super) fn conclude(evidence: &Evidence) -> Layers {
    let kind = kind(evidence);
    Layers {
        at_least: at_least(evidence, &kind),
        kind: kind
            .with("local", evidence.local)
            .with("external", &evidence.external)
            .with("named_by_gateway", evidence.named.iter().map(|(_, at)| at).collect::<Vec<_>>())
            .with(
                "named_by_second_router",
                evidence.second_named.iter().map(|(_, at)| at).collect::<Vec<_>>(),
            )
            .with("nat_before_second_router", evidence.is_nat_before_second)
            .with("external_address_answered_at_hop", evidence.holder())
            .with("turned_back_at_hop", evidence.turned_at)
            .with("routers_from_outermost_nat", evidence.from_outermost)
            .with("outermost_filter_at_hop", evidence.sure_distance()),
        gateway: evidence.gateway,
        gateway_external_address: gateway_external_address(evidence),
        hops: evidence.hops(),
    }
}

/// The rules; of those that are not sure the first one counts.
const RULES: [fn(&Evidence) -> Option<Candidate>; 8] = [
    no_translation,
    through_ipv6,
    shared_address_space,
    own_double,
    several,
    private_network_of_a_carrier,
    second_filter,
    one,
];

fn kind(evidence: &Evidence) -> Candidate {
    // Nothing else is about this line.
    if let Some(vpn) = vpn(evidence) {
        return vpn;
    }
    let candidates: Vec<Candidate> = RULES.iter().filter_map(|rule| rule(evidence)).collect();
    let mut sure = candidates.iter().filter(|it| it.confidence >= Confidence::Strong);
    match (sure.next(), candidates.first()) {
        (Some(first), _)
            if sure.any(|other| other.value != first.value) || speaks_against(first, evidence) =>
        {
            let text = "other evidence contradicts it";
            first.clone().at_most(Confidence::Weak).because((ReasonCode::EvidenceContradicts, text))
        }
        (Some(first), _) => first.clone(),
        (None, Some(first)) => first.clone(),
        (None, None) => Finding::unknown(not_known(evidence), KIND),
    }
}

fn strong(kind: LayersKind) -> Candidate {
    Finding::known(kind, Confidence::Strong, KIND)
}

fn weak(kind: LayersKind, reason: (ReasonCode, &str)) -> Candidate {
    Finding::known(kind, Confidence::Weak, KIND).because(reason)
}

const WHOSE: (ReasonCode, &str) =
    (ReasonCode::PrivateAddressOnly, "a private address does not tell whose network it belongs to");
const GATEWAYS_WORD: (ReasonCode, &str) = (ReasonCode::GatewaysWordOnly, "only the gateway itself says so");

/// What no rule is sure of by itself, and what would not be so behind a way of this kind.
fn speaks_against(candidate: &Candidate, evidence: &Evidence) -> bool {
    let is_beyond =
        |hop: u8| evidence.is_held_beyond(hop) || evidence.sure_distance().is_some_and(|at| at > hop);
    let has_private = evidence.named.iter().any(|(_, at)| is_private(*at) || is_shared_address_space(*at));
    // A gateway of several connections may name the one that is not in use.
    let is_at_gateway = evidence.is_held_by_gateway() || evidence.keeps_external();
    if evidence.has_two_outermost() {
        return true;
    }
    match candidate.value {
        Some(LayersKind::One) => has_private || evidence.passes_external_on(1) || is_beyond(1),
        Some(LayersKind::OwnDouble) => is_at_gateway || evidence.passes_external_on(2) || is_beyond(2),
        Some(LayersKind::CarrierGrade) => is_at_gateway || is_filter_behind_outermost(evidence),
        _ => false,
    }
}

/// A filter that stands behind whoever has the external address is somewhere in the Internet, and so may the router be whose
/// address is a carrier's.
fn is_filter_behind_outermost(evidence: &Evidence) -> bool {
    let is_behind = evidence.outermost().is_some_and(|at| evidence.sure_distance() > Some(at));
    let is_named = evidence.named.iter().any(|(_, at)| is_shared_address_space(*at));
    is_behind && !is_named && evidence.carriers_before_outermost() != Some(true)
}

/// The default route is a tunnel, and the server is beyond it.
fn vpn(evidence: &Evidence) -> Option<Candidate> {
    let is_vpn = is_vpn(evidence.interface, evidence.takes_all, evidence.local);
    (is_vpn && evidence.no_word_of_the_way.is_none()).then(|| strong(LayersKind::Vpn))
}

/// The server sees this host's own address.
fn no_translation(evidence: &Evidence) -> Option<Candidate> {
    let is_direct = evidence.mapping.value == Some(Mapping::Direct) && evidence.no_word_of_the_way.is_none();
    let is_seen = evidence.local.is_some_and(|local| evidence.external == [local] && is_global(local));
    (is_direct && is_seen).then(|| {
        let kind = Finding::known(LayersKind::None, evidence.mapping.confidence, KIND);
        match evidence.mapping.confidence {
            Confidence::Certain | Confidence::Strong => kind,
            Confidence::Weak | Confidence::Unknown => {
                let doubt = (ReasonCode::LossLeavesDoubt, "the mapping is only likely");
                kind.because(evidence.mapping.reason_or(doubt))
            }
        }
    })
}

/// An address of RFC 7335, of this host, of its gateway, or of a router.
fn through_ipv6(evidence: &Evidence) -> Option<Candidate> {
    let is_far_end = |at: IpAddr| at == IpAddr::from([192, 0, 0, 1]);
    let routers = || evidence.to_server.range(2..).chain(evidence.to_external.range(2..));
    let meets_far_end = routers().any(|(_, hop)| is_far_end(hop.address));
    let gateway_is_near_end = evidence.named.iter().any(|(_, at)| *at == IpAddr::from([192, 0, 0, 2]));
    let is_of_host = evidence.local.is_some_and(is_through_ipv6);
    let is_of_gateway = evidence.named.iter().any(|(_, at)| is_through_ipv6(*at));
    match evidence.interface {
        InterfaceKind::InIpv6 if is_of_host => Some(strong(LayersKind::DsLite)),
        InterfaceKind::Tunnel { .. } if is_of_host => Some(strong(LayersKind::Xlat464)),
        _ if meets_far_end && gateway_is_near_end => Some(strong(LayersKind::DsLite)),
        _ if meets_far_end || is_of_host || is_of_gateway => {
            let text = "DS-Lite and 464XLAT use the same addresses (192.0.0.0/29)";
            Some(weak(LayersKind::DsLite, (ReasonCode::PrivateAddressOnly, text)))
        }
        _ => None,
    }
}

/// An address of RFC 6598. Carriers have to give them; VPNs and clusters give them to hosts, and networks in the Internet to
/// their routers.
fn shared_address_space(evidence: &Evidence) -> Option<Candidate> {
    if !evidence.is_translated() {
        return None;
    }
    let is_of_gateway = evidence.named.iter().any(|(_, at)| is_shared_address_space(*at));
    let is_of_host = evidence.local.is_some_and(is_shared_address_space);
    let before_outermost = evidence.carriers_before_outermost();
    // What stands behind the outermost box is the Internet, whatever address it has.
    let shared_up_to = |most: u8| {
        let hops = || evidence.to_server.iter().filter(|(hop, _)| (2..=most).contains(*hop));
        hops().any(|(_, it)| is_shared_address_space(it.address))
    };
    let is_on_the_way = shared_up_to(evidence.outermost().unwrap_or(u8::MAX));
    let is_filtered_there = evidence.sure_distance().is_some_and(shared_up_to);
    let is_inside = before_outermost == Some(true) || evidence.has_carriers_inside();
    if is_of_gateway || is_inside || is_filtered_there && evidence.passes_external_on(1) {
        return Some(strong(LayersKind::CarrierGrade));
    }
    if is_of_host {
        return Some(weak(LayersKind::CarrierGrade, WHOSE));
    }
    (is_on_the_way || before_outermost.is_some()).then(|| {
        let text = "a router on the way has an address of a carrier (100.64.0.0/10), and carriers number other \
                    routers with them, too";
        weak(LayersKind::CarrierGrade, (ReasonCode::PrivateAddressOnly, text))
    })
}

/// The gateway has a private address outside, or another router with one follows it.
fn own_double(evidence: &Evidence) -> Option<Candidate> {
    if !evidence.is_translated() {
        return None;
    }
    let is_outermost = is_second_outermost(evidence);
    let is_translated_before = named_private(evidence).is_some() || evidence.is_nat_before_second;
    if is_outermost && is_translated_before {
        // No carrier's router opens ports by NAT-PMP or UPnP.
        return Some(strong(LayersKind::OwnDouble));
    }
    let is_home = |at: IpAddr| matches!(at, IpAddr::V4(v4) if is_private(at) && v4.octets()[0] != 10);
    let follows = evidence.to_server.get(&2).filter(|_| evidence.is_beyond_gateway());
    let network = named_private(evidence).or(follows.map(|hop| hop.address));
    let is_likely = !evidence.second_named.is_empty() || network.is_some_and(is_home) && !is_far(evidence);
    is_likely.then(|| weak(LayersKind::OwnDouble, WHOSE))
}

/// Whether the router behind the gateway has the address that the server sees, as it says itself.
fn is_second_outermost(evidence: &Evidence) -> bool {
    evidence.second_named.iter().any(|(_, at)| evidence.external == [*at])
}

/// The private external address that the gateway names.
fn named_private(evidence: &Evidence) -> Option<IpAddr> {
    evidence.named.iter().map(|(_, at)| *at).find(|at| is_private(*at))
}

/// Whether the second router answers much later than the first.
fn is_far(evidence: &Evidence) -> bool {
    let took = |hop| evidence.to_server.get(&hop).map(|hop| hop.took);
    took(1).zip(took(2)).is_some_and(|(first, second)| second.saturating_sub(first) >= NEAR)
}

/// Several external addresses at the same time.
fn several(evidence: &Evidence) -> Option<Candidate> {
    evidence.several.clone()
}

/// Some carriers use RFC 1918 before their NAT.
fn private_network_of_a_carrier(evidence: &Evidence) -> Option<Candidate> {
    let follows = evidence.to_server.get(&2).filter(|_| evidence.is_beyond_gateway());
    let network = named_private(evidence).or(follows.map(|hop| hop.address).filter(|at| is_private(*at)));
    (evidence.is_translated() && network.is_some()).then(|| weak(LayersKind::CarrierGrade, WHOSE))
}

/// A second router filters, and nothing tells whose it is. Carriers have more of them than homes.
fn second_filter(evidence: &Evidence) -> Option<Candidate> {
    let is_beyond = evidence.sure_distance().is_some_and(|hops| hops > 1) || evidence.is_held_beyond(1);
    (evidence.is_translated() && is_beyond).then(|| {
        let text = "a second box stands behind the gateway, and nothing tells whose it is";
        weak(LayersKind::CarrierGrade, (ReasonCode::RoutersSilent, text))
    })
}

/// The gateway itself has the address that the server sees.
fn one(evidence: &Evidence) -> Option<Candidate> {
    // Before a host in 100.64.0.0/10 the one NAT may be the carrier's.
    if !evidence.is_translated() || evidence.local.is_some_and(is_shared_address_space) {
        return None;
    }
    if evidence.named.iter().any(|(_, at)| evidence.external == [*at]) {
        // Gateways pass the question, and what is to be opened, on to the carrier's NAT (RFC 6970, RFC 7648), so packets have to
        // show that the address is the gateway's own.
        let holds = evidence.is_held_by_gateway() || evidence.keeps_external();
        return Some(match (holds, evidence.is_opened) {
            (true, true) => Finding::known(LayersKind::One, Confidence::Certain, KIND),
            (true, false) => strong(LayersKind::One),
            (false, _) => weak(LayersKind::One, GATEWAYS_WORD),
        });
    }
    // The gateway counts hops, or it would not be the first to answer.
    let first = evidence.to_server.get(&1);
    let is_gateway_first =
        first.is_some_and(|hop| hop.is_expired && evidence.gateway.is_some_and(|at| at == hop.address));
    if evidence.is_held_by_gateway() && is_gateway_first {
        return Some(strong(LayersKind::One));
    }
    (evidence.keeps_external() && evidence.named.is_empty()).then(|| {
        let text =
            "the gateway drops packets to the external address in silence, as the one does that has it";
        weak(LayersKind::One, (ReasonCode::RoutersSilent, text))
    })
}

/// Why no rule has anything to say.
fn not_known(evidence: &Evidence) -> Reason {
    if let Some(reason) = &evidence.no_word_of_the_way {
        return reason.clone();
    }
    if evidence.external.is_empty() || evidence.local.is_none() {
        return evidence
            .mapping
            .reason_or((ReasonCode::NoAnswer, "no answer shows this host's external address"));
    }
    if !evidence.is_translated() {
        return evidence.mapping.reason_or((ReasonCode::MappingUnknown, "the mapping is not known"));
    }
    if !evidence.named.is_empty() {
        let text = "the gateway names another public address than the server sees: several Internet connections, a VPN \
                    of the gateway's, or a second NAT";
        return (ReasonCode::AnotherPublicAddress, text).into();
    }
    match &evidence.no_trace {
        Some(_) if evidence.to_server.is_empty() => {
            let text = "there is a NAT; the gateway does not name its external address, and this system does not tell \
                        which routers follow";
            (ReasonCode::SystemCannotTell, text).into()
        }
        _ => {
            let text = "there is a NAT; neither the gateway nor the routers tell whether another one follows";
            (ReasonCode::RoutersSilent, text).into()
        }
    }
}

/// How many boxes there are at the least: what is sure, unless the kind, which may be only likely, needs more.
fn at_least(evidence: &Evidence, kind: &Candidate) -> Finding<u8> {
    let known = |count, confidence| Finding::known(count, confidence, AT_LEAST);
    let Some(sure) = boxes(evidence) else {
        let reason = kind.reason_or((ReasonCode::MappingUnknown, "the mapping is not known"));
        return Finding::unknown(reason, AT_LEAST);
    };
    let is_double = matches!(kind.value, Some(LayersKind::OwnDouble))
        || kind.value == Some(LayersKind::CarrierGrade)
            && !evidence.local.is_some_and(is_shared_address_space);
    let contradicted = kind.reason_code == Some(ReasonCode::EvidenceContradicts);
    match sure.value {
        Some(count) if count > 1 && contradicted => {
            known(count, Confidence::Weak).because(kind.reason_or(WHOSE))
        }
        Some(count) if count < 2 && is_double => known(2, Confidence::Weak).because(kind.reason_or(WHOSE)),
        _ => sure,
    }
}

/// Changes of address that were seen; without one, the filter.
fn boxes(evidence: &Evidence) -> Option<Finding<u8>> {
    let known = |count, confidence| Finding::known(count, confidence, AT_LEAST);
    if no_translation(evidence).is_some() {
        let (mapping, filtering) = (&evidence.mapping, &evidence.filtering);
        return match filtering.sure() {
            Some(Filtering::EndpointIndependent) | None => Some(known(0, mapping.confidence)),
            Some(_) => Some(known(1, filtering.confidence)),
        }
        .filter(|it| it.confidence >= Confidence::Strong);
    }
    if !evidence.is_translated() {
        return None;
    }
    let named =
        evidence.named.iter().map(|(_, at)| *at).find(|at| is_private(*at) || is_shared_address_space(*at));
    let is_of_carrier = evidence.local.is_some_and(is_shared_address_space);
    let carriers_follow = evidence.carriers_before_outermost() == Some(true) && !is_of_carrier;
    // Two routers in a row, each seen to translate.
    let is_double = evidence.is_nat_before_second && is_second_outermost(evidence);
    Some(match named {
        _ if carriers_follow || is_double => known(2, Confidence::Strong),
        Some(_) if evidence.is_beyond_gateway() => known(2, Confidence::Strong),
        Some(_) => known(2, Confidence::Weak).because(GATEWAYS_WORD),
        None => known(1, Confidence::Certain),
    })
}

fn gateway_external_address(evidence: &Evidence) -> Finding<IpAddr> {
    let mut named = evidence.named.iter().map(|(_, at)| *at);
    let Some(first) = named.next() else {
        let text = match evidence.gateway {
            None => (ReasonCode::GatewayUnknown, "this system does not say which gateway this host uses"),
            Some(_) => (ReasonCode::NoExternalAddressNamed, "the gateway names no external address"),
        };
        return Finding::unknown(text, NAMED);
    };
    let finding = match (named.all(|other| other == first), evidence.external.contains(&first)) {
        (false, _) => {
            let text = "the gateway names different addresses over different protocols";
            Finding::known(first, Confidence::Weak, NAMED).because((ReasonCode::EvidenceContradicts, text))
        }
        (true, true) => Finding::known(first, Confidence::Certain, NAMED),
        (true, false) => Finding::known(first, Confidence::Strong, NAMED).because(GATEWAYS_WORD),
    };
    finding.with(
        "named",
        evidence.named.iter().map(|(by, at)| format!("{}: {at}", by.name())).collect::<Vec<_>>(),
    )
}
