//! The report's values in plain English, by the terms of RFC 3489 and RFC 4787.

use shared::nat::{
    Bracket, ExpiryStyle, Filtering, Granularity, Lifetime, Mapping, NatType, PortAllocation, PortPolicy,
};

use nat_check_core::report::{Confidence, PeerKind, PeerOutcome, Technique};

pub(super) fn nat_type(nat_type: NatType) -> &'static str {
    match nat_type {
        NatType::UdpBlocked => "UDP blocked",
        NatType::OpenInternet => "no NAT, no firewall (open internet)",
        NatType::SymmetricUdpFirewall => "firewall without NAT (symmetric UDP firewall)",
        NatType::FullCone => "full-cone NAT",
        NatType::RestrictedCone => "restricted-cone NAT",
        NatType::PortRestrictedCone => "port-restricted cone NAT (typical home router)",
        NatType::Symmetric => "symmetric NAT",
    }
}

pub(super) fn mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Direct => "direct: address and port are not translated",
        Mapping::EndpointIndependent => "endpoint-independent: the same external port for every destination",
        Mapping::AddressDependent => {
            "address-dependent: a different external port for each destination address"
        }
        Mapping::AddressAndPortDependent => {
            "address-and-port-dependent: a different external port for each destination address and port"
        }
        Mapping::PortDependent => "port-dependent: a different external port for each destination port",
    }
}

pub(super) fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent: packets from any host are let in",
        Filtering::AddressDependent => {
            "address-dependent: only packets from addresses this host has sent to are let in"
        }
        Filtering::AddressAndPortDependent => {
            "address-and-port-dependent: only packets from an address and port this host has sent to are let in"
        }
        Filtering::PortDependent => {
            "port-dependent: only packets from port numbers this host has sent to are let in"
        }
    }
}

pub(super) fn ports(allocation: &PortAllocation) -> String {
    let (low, high) = allocation.range;
    let mut text = match allocation.policy {
        PortPolicy::Preserving => "preserving: the local port number, where it is free".to_owned(),
        PortPolicy::Sequential => match allocation.delta {
            Some(delta) if delta < 0 => {
                format!("sequential: each port {} below the last", delta.unsigned_abs())
            }
            Some(delta) => format!("sequential: each port {delta} above the last"),
            None => "sequential: each port a fixed step from the last".to_owned(),
        },
        PortPolicy::Random => format!("random: any port from {low} to {high}"),
        PortPolicy::Block => {
            format!("block: one of about {} ports, about {low} to {high}", high - low + 1)
        }
    };
    if allocation.parity == Some(true) && allocation.policy != PortPolicy::Preserving {
        text.push_str("; parity is kept (even to even, odd to odd)");
    }
    if allocation.external_ips > 1 {
        text.push_str(&format!("; spread over {} external addresses", allocation.external_ips));
    }
    text
}

pub(super) fn hairpinning(works: bool) -> &'static str {
    if works {
        "yes: hosts behind this NAT reach each other at their external addresses"
    } else {
        "no: hosts behind this NAT do not reach each other at their external addresses"
    }
}

pub(super) fn alg(rewrites: bool) -> &'static str {
    if rewrites {
        "yes: addresses inside packets are rewritten on the path"
    } else {
        "no: packet contents arrive unchanged"
    }
}

pub(super) fn inbound_first(remaps: bool) -> &'static str {
    if remaps {
        "yes: if a peer's packet arrives first, the external port towards that peer changes"
    } else {
        "no: a peer's packet that arrives first changes nothing"
    }
}

pub(super) fn distance(hops: u8) -> String {
    match hops {
        0 => "0 hops: only this host itself filters".into(),
        1 => "1 hop: the first router is the outermost device that filters".into(),
        _ => format!("{hops} hops: a second device filters beyond the first router, as with nested NATs"),
    }
}

pub(super) fn lifetime(lifetime: &Lifetime) -> String {
    let mut parts = Vec::new();
    if let Some(bracket) = lifetime.unreplied {
        parts.push(format!("{} before any reply", span(bracket)));
    }
    if let Some(bracket) = lifetime.stream {
        parts.push(format!("{} after traffic in both directions", span(bracket)));
    }
    match (lifetime.refresh.outbound, lifetime.refresh.inbound) {
        (Some(true), Some(true)) => parts.push("packets in either direction refresh it".into()),
        (Some(true), Some(false)) => parts.push("only outbound packets refresh it".into()),
        (Some(false), Some(true)) => parts.push("only inbound packets refresh it".into()),
        (Some(false), Some(false)) => parts.push("no packet refreshes it".into()),
        (Some(true), None) => parts.push("outbound packets refresh it".into()),
        (None, Some(true)) => parts.push("inbound packets refresh it".into()),
        (Some(false), None) => parts.push("outbound packets do not refresh it".into()),
        (None, Some(false)) => parts.push("inbound packets do not refresh it".into()),
        (None, None) => {}
    }
    match lifetime.refresh.elsewhere {
        Some(true) => parts.push("traffic to one destination refreshes all".into()),
        Some(false) => parts.push("each destination has its own timer".into()),
        None => {}
    }
    match lifetime.granularity {
        Some(Granularity { style: ExpiryStyle::Swept, seconds, sure }) => {
            let likely = if sure { "" } else { " (likely)" };
            parts.push(format!("expired mappings are removed about every {} s{likely}", number(seconds)));
        }
        Some(Granularity { style: ExpiryStyle::Jittered, seconds, sure }) => {
            let likely = if sure { "" } else { " (likely)" };
            parts.push(format!("lifetimes vary by about {} s{likely}", number(seconds)));
        }
        Some(Granularity { style: ExpiryStyle::Exact, .. }) | None => {}
    }
    parts.join("; ")
}

/// What a keepalive every 15, 25 or 30 seconds would do, by the shorter of the timers.
pub(super) fn keepalives(lifetime: &Lifetime) -> Option<String> {
    let both = || [lifetime.unreplied, lifetime.stream].into_iter().flatten();
    let alive = both().map(|b| b.alive_s).reduce(f64::min)?;
    let gone = both().filter_map(|b| b.expired_s).reduce(f64::min);
    let does = |every: f64| match gone {
        _ if every <= alive * 0.8 => "keeps it open",
        _ if every <= alive => "keeps it open, with little margin",
        Some(gone) if every >= gone => "loses it",
        Some(_) | None => "may lose it",
    };
    let intervals = [15.0, 25.0, 30.0].map(|every| format!("every {every} s {}", does(every)));
    Some(format!("a packet {}", intervals.join("; ")))
}

/// "30.7 to 31.6 s", "more than 60 s".
fn span(bracket: Bracket) -> String {
    match bracket.expired_s {
        Some(expired) => format!("{} to {} s", number(bracket.alive_s), number(expired)),
        None => format!("more than {} s", number(bracket.alive_s)),
    }
}

pub(super) fn confidence(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Certain => "certain",
        Confidence::Strong => "strong",
        Confidence::Weak => "weak",
        Confidence::Unknown => "unknown",
    }
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

/// A chance in percent, never rounded up to certainty.
pub(super) fn chance(probability: f64) -> String {
    if probability >= 1.0 {
        "100 %".into()
    } else if probability > 0.99 {
        "over 99 %".into()
    } else if probability > 0.0 && probability < 0.01 {
        "under 1 %".into()
    } else {
        format!("{:.0} %", probability * 100.0)
    }
}

/// At most one decimal place.
pub(super) fn number(value: f64) -> String {
    let text = format!("{value:.1}");
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use shared::nat::Refresh;

    use super::*;

    #[test]
    fn a_chance_is_never_rounded_to_certainty() {
        let text: Vec<String> = [1.0, 0.998, 0.99, 0.5, 0.004, 0.0].into_iter().map(chance).collect();
        assert_eq!(text, ["100 %", "over 99 %", "99 %", "50 %", "under 1 %", "0 %"]);
    }

    #[test]
    fn what_is_estimated_is_called_so() {
        let range = (50_000, 50_511);
        let block =
            PortAllocation { policy: PortPolicy::Block, delta: None, range, external_ips: 1, parity: None };
        assert_eq!(ports(&block), "block: one of about 512 ports, about 50000 to 50511");
    }

    #[test]
    fn lifetimes_read_as_spans() {
        let lifetime = Lifetime {
            unreplied: Some(Bracket { alive_s: 30.0, expired_s: Some(31.62) }),
            stream: Some(Bracket { alive_s: 60.0, expired_s: None }),
            refresh: Refresh { outbound: Some(true), inbound: None, elsewhere: None },
            granularity: None,
        };
        assert_eq!(
            super::lifetime(&lifetime),
            "30 to 31.6 s before any reply; more than 60 s after traffic in both directions; outbound packets refresh it"
        );
    }
}
