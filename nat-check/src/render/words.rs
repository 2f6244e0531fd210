//! The report's values in words for a person who never read RFC 4787.

use shared::nat::{
    Bracket, ExpiryStyle, Filtering, Granularity, Lifetime, Mapping, NatType, PortAllocation, PortPolicy,
};

use nat_check_core::report::{Confidence, PeerKind, PeerOutcome, Technique};

pub(super) fn in_front(nat_type: NatType) -> &'static str {
    match nat_type {
        NatType::UdpBlocked => "something that blocks UDP (TCP passes)",
        NatType::OpenInternet => "nothing: neither NAT nor firewall (open internet)",
        NatType::SymmetricUdpFirewall => "a firewall, but no NAT (symmetric UDP firewall)",
        NatType::FullCone => "a NAT of the most open kind (full cone)",
        NatType::RestrictedCone => "a half-open NAT (restricted cone)",
        NatType::PortRestrictedCone => "a NAT of the usual home kind (port-restricted cone)",
        NatType::Symmetric => "a NAT of the strict kind (symmetric)",
    }
}

pub(super) fn mapping(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Direct => "direct: your address and port are not translated",
        Mapping::EndpointIndependent => "endpoint-independent: everybody sees you at the same external port",
        Mapping::AddressDependent => "address-dependent: another external port for each address you send to",
        Mapping::AddressAndPortDependent => {
            "address-and-port-dependent: another external port for each address and port you send to"
        }
        Mapping::PortDependent => "port-dependent: another external port for each port number you send to",
    }
}

pub(super) fn filtering(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::EndpointIndependent => "endpoint-independent: anybody may send to you",
        Filtering::AddressDependent => "address-dependent: only addresses that you have sent to may answer",
        Filtering::AddressAndPortDependent => {
            "address-and-port-dependent: only the exact address and port that you have sent to may answer"
        }
        Filtering::PortDependent => "port-dependent: only port numbers that you have sent to may answer",
    }
}

pub(super) fn ports(allocation: &PortAllocation) -> String {
    let (low, high) = allocation.range;
    let mut text = match allocation.policy {
        PortPolicy::Preserving => "preserving: your own port number, where it is free".to_owned(),
        PortPolicy::Sequential => match allocation.delta {
            Some(delta) if delta < 0 => {
                format!("sequential: each port {} below the last", delta.unsigned_abs())
            }
            Some(delta) => format!("sequential: each port {delta} above the last"),
            None => "sequential: each port a step from the last".to_owned(),
        },
        PortPolicy::Random => format!("random: any port from {low} to {high}"),
        PortPolicy::Block => {
            format!("block: any of your about {} ports, about {low} to {high}", high - low + 1)
        }
    };
    if allocation.parity == Some(true) && allocation.policy != PortPolicy::Preserving {
        text.push_str("; even stays even, odd stays odd");
    }
    if allocation.external_ips > 1 {
        text.push_str(&format!("; spread over {} external addresses", allocation.external_ips));
    }
    text
}

pub(super) fn hairpinning(works: bool) -> &'static str {
    if works {
        "yes: two hosts behind this NAT can meet at their external addresses"
    } else {
        "no: two hosts behind this NAT cannot meet at their external addresses"
    }
}

pub(super) fn alg(rewrites: bool) -> &'static str {
    if rewrites {
        "yes: addresses inside packets are rewritten on the way"
    } else {
        "no: what is inside packets arrives as it was sent"
    }
}

pub(super) fn inbound_first(remaps: bool) -> &'static str {
    if remaps {
        "yes: when a peer's packet arrives first, your port towards that peer changes"
    } else {
        "no: it does not matter whose packet comes first"
    }
}

pub(super) fn distance(hops: u8) -> String {
    match hops {
        0 => "this host itself filters, nothing behind it does".into(),
        1 => "1 hop: the first router is the last one that filters".into(),
        _ => format!("{hops} hops: another gateway stands behind the first router, as with nested NATs"),
    }
}

pub(super) fn lifetime(lifetime: &Lifetime) -> String {
    let mut parts = Vec::new();
    if let Some(bracket) = lifetime.unreplied {
        parts.push(format!("{} without an answer", span(bracket)));
    }
    if let Some(bracket) = lifetime.stream {
        parts.push(format!("{} once traffic went both ways", span(bracket)));
    }
    match (lifetime.refresh.outbound, lifetime.refresh.inbound) {
        (Some(true), Some(true)) => parts.push("packets in either direction keep it".into()),
        (Some(true), Some(false)) => parts.push("only packets from inside keep it".into()),
        (Some(false), Some(true)) => parts.push("only packets from outside keep it".into()),
        (Some(false), Some(false)) => parts.push("no packet keeps it".into()),
        (Some(true), None) => parts.push("packets from inside keep it".into()),
        (None, Some(true)) => parts.push("packets from outside keep it".into()),
        (Some(false), None) => parts.push("packets from inside do not keep it".into()),
        (None, Some(false)) => parts.push("packets from outside do not keep it".into()),
        (None, None) => {}
    }
    match lifetime.refresh.elsewhere {
        Some(true) => parts.push("traffic with one destination keeps the way to others".into()),
        Some(false) => parts.push("every destination has a timer of its own".into()),
        None => {}
    }
    match lifetime.granularity {
        Some(Granularity { style: ExpiryStyle::Swept, seconds, sure }) => {
            let likely = if sure { "" } else { ", it seems" };
            parts.push(format!("what is due is cleared away every {} s or so{likely}", number(seconds)));
        }
        Some(Granularity { style: ExpiryStyle::Jittered, seconds, sure }) => {
            let likely = if sure { "" } else { ", it seems" };
            parts.push(format!("lives differ by {} s or so{likely}", number(seconds)));
        }
        Some(Granularity { style: ExpiryStyle::Exact, .. }) | None => {}
    }
    parts.join("; ")
}

/// What a packet every 15, 25 or 30 seconds would do, by the shorter of the timers.
pub(super) fn beats(lifetime: &Lifetime) -> Option<String> {
    let both = || [lifetime.unreplied, lifetime.stream].into_iter().flatten();
    let alive = both().map(|b| b.alive_s).reduce(f64::min)?;
    let gone = both().filter_map(|b| b.expired_s).reduce(f64::min);
    let does = |beat: f64| match gone {
        _ if beat <= alive * 0.8 => "keeps it open",
        _ if beat <= alive => "keeps it open, with little to spare",
        Some(gone) if beat >= gone => "loses it",
        Some(_) | None => "may lose it",
    };
    let beats = [15.0, 25.0, 30.0].map(|beat| format!("every {beat} s {}", does(beat)));
    Some(format!("a packet {}", beats.join("; ")))
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
        PeerKind::OpenInternet => "no NAT, no firewall",
        PeerKind::FullCone => "an open NAT (full cone)",
        PeerKind::RestrictedCone => "a half-open NAT (restricted cone)",
        PeerKind::PortRestrictedCone => "a home NAT (port-restricted cone)",
        PeerKind::SymmetricSequential => "a strict NAT, ports in a row",
        PeerKind::SymmetricRandom => "a strict NAT, random ports",
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
        Technique::Direct => "one side just sends",
        Technique::Simultaneous => "both send at once",
        Technique::Prediction => "the next port is known",
        Technique::Birthday => "many ports and guesses",
        Technique::Tcp => "over TCP",
        Technique::Relay => "a relay in between",
        Technique::Lan => "inside the same network",
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
        assert_eq!(ports(&block), "block: any of your about 512 ports, about 50000 to 50511");
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
            "30 to 31.6 s without an answer; more than 60 s once traffic went both ways; packets from inside keep it"
        );
    }
}
