//! The report's values in plain English, by the terms of RFC 3489 and RFC 4787.

use nat_check_core::report::{
    AddressKind, Confidence, FamilyReport, FamilyStatus, OwnAddress, PeerKind, PeerOutcome, ReasonCode,
    Technique,
};
pub(super) use nat_check_core::report::{number, percent as chance};

pub(super) fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "certain",
        Confidence::Strong => "strong",
        Confidence::Weak => "weak",
        Confidence::Unknown => "unknown",
    }
}

/// What there is to say of a family that was not tested. That the server has no address says nothing of this host.
pub(super) fn status(family: &FamilyReport) -> &'static str {
    match (family.status, family.reason_code) {
        (FamilyStatus::Unavailable, Some(ReasonCode::ServerHasNoAddress)) => "not tested",
        (FamilyStatus::Unavailable, _) => "unavailable",
        (FamilyStatus::Unreachable, _) => "unreachable",
        (FamilyStatus::Skipped, _) => "skipped",
        (FamilyStatus::Tested | _, _) => "tested",
    }
}

pub(super) fn addresses(own: &[OwnAddress]) -> String {
    let address = |own: &OwnAddress| {
        let kind = match own.kind {
            AddressKind::Stable => Some("stable"),
            AddressKind::Temporary => Some("temporary"),
            AddressKind::Deprecated => Some("deprecated"),
            AddressKind::UniqueLocal => Some("unique local"),
            AddressKind::Unknown | _ => None,
        };
        let used = own.used.then_some("used by applications");
        let words: Vec<&str> = kind.into_iter().chain(used).collect();
        let remark = if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) };
        format!("{}{remark}", own.address)
    };
    own.iter().map(address).collect::<Vec<_>>().join(", ")
}

pub(super) fn peer(kind: PeerKind) -> &'static str {
    match kind {
        PeerKind::OpenInternet => "no NAT or firewall",
        PeerKind::FullCone => "full-cone NAT",
        PeerKind::RestrictedCone => "restricted-cone NAT",
        PeerKind::PortRestrictedCone => "port-restricted cone NAT",
        PeerKind::SymmetricSequential => "symmetric NAT, sequential ports",
        PeerKind::SymmetricRandom => "symmetric NAT, random ports",
        PeerKind::UdpBlocked => "UDP blocked",
    }
}

pub(super) fn outcome(outcome: PeerOutcome) -> &'static str {
    match outcome {
        PeerOutcome::Direct => "yes",
        PeerOutcome::Relay => "no",
        PeerOutcome::Unknown => "not known",
    }
}

pub(super) fn technique(technique: Technique) -> &'static str {
    match technique {
        Technique::Direct => "one side sends",
        Technique::Simultaneous => "both sides send",
        Technique::LowTtl => "both sides send, low TTL first",
        Technique::Ipv6 => "both sides send, IPv6",
        Technique::Prediction => "port prediction",
        Technique::Birthday => "birthday (many ports)",
        Technique::Tcp => "TCP",
        Technique::Relay => "relay (TURN)",
        Technique::Lan => "local network",
    }
}
