//! One verdict from several servers: each finding is merged as its measurement says.

use std::net::IpAddr;

use shared::nat::NatType;

use crate::{
    classify,
    probe::{Found, Merge, REGISTRY, merge::Source},
    report::{TcpReport, UdpReport},
};

/// What one server says, or several together.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) by: String,
    /// Its addresses.
    pub(super) ips: Vec<IpAddr>,
    pub(super) found: Found,
}

/// Merges what servers say each by itself, and what they say `together`.
pub(super) fn merge(
    mut verdicts: Vec<Verdict>,
    together: Option<Verdict>,
    warnings: &mut Vec<String>,
) -> Option<Found> {
    // A server that answers over UDP says more than one that does not.
    verdicts.sort_by_key(|verdict| is_blocked(&verdict.found));
    let slots = || REGISTRY.iter().flat_map(|probe| probe.udp.iter().chain(probe.tcp));
    if verdicts.len() + usize::from(together.is_some()) > 1 {
        for Verdict { by, found, .. } in &mut verdicts {
            slots().for_each(|slot| slot.name_server(found, by));
        }
    }
    let mut all = verdicts.into_iter().chain(together);
    let Verdict { by, mut ips, found: mut merged } = all.next()?;
    if is_blocked(&merged) {
        // Those who answer over UDP come first: nobody does.
        return Some(merged);
    }
    let mut sources: Vec<Source> = slots().map(|_| Source::of(&by)).collect();
    for other in all {
        if is_blocked(&other.found) {
            warnings.push(only_over_tcp(&other.by));
            continue;
        }
        let shares_address = other.ips.iter().any(|ip| ips.contains(ip));
        ips.extend(&other.ips);
        if !merged.tcp.reachable && other.found.tcp.reachable {
            let TcpReport { reachable, rtt_s, local, external, .. } = other.found.tcp.clone();
            merged.tcp = TcpReport { reachable, rtt_s, local, external, ..merged.tcp };
        }
        merged.tcp_tried |= other.found.tcp_tried;
        let mapping_before = merged.udp.mapping.clone();
        for (slot, source) in slots().zip(&mut sources) {
            let merge = Merge { key: slot.key, source, by: &other.by, shares_address, warnings };
            slot.merge(merge, &mut merged, &other.found);
        }
        // The addresses are those of the socket that the mapping was concluded from.
        if merged.udp.mapping != mapping_before && merged.udp.mapping == other.found.udp.mapping {
            (merged.udp.local, merged.udp.external) = (other.found.udp.local, other.found.udp.external);
        }
    }
    let nat_type = classify::nat_type(&merged.udp.mapping, &merged.udp.filtering);
    Some(Found { udp: UdpReport { nat_type, ..merged.udp }, ..merged })
}

/// What to say of a server that another one, which answers over UDP, puts to shame.
pub(super) fn only_over_tcp(query: &str) -> String {
    format!("{query} answers over TCP only, others over UDP: it is not the network that blocks UDP")
}

fn is_blocked(found: &Found) -> bool {
    found.udp.nat_type.value == Some(NatType::UdpBlocked)
}

#[cfg(test)]
mod tests {
    use shared::nat::{Filtering, Mapping};

    use super::*;
    use crate::report::{Confidence, Finding};

    /// What a server says of the axes, with these confidences.
    fn says(query: &str, mapping: (Mapping, Confidence), filtering: (Filtering, Confidence)) -> Verdict {
        let (mapping, filtering) =
            (Finding::known(mapping.0, mapping.1, "test"), Finding::known(filtering.0, filtering.1, "test"));
        let nat_type = classify::nat_type(&mapping, &filtering);
        let udp = UdpReport { nat_type, mapping, filtering, ..UdpReport::default() };
        Verdict { by: query.to_owned(), ips: Vec::new(), found: Found { udp, ..Found::default() } }
    }

    const INDEPENDENT: Mapping = Mapping::EndpointIndependent;
    const SURE: Confidence = Confidence::Certain;

    #[test]
    fn the_name_follows_the_merged_axes() {
        // Each is sure of another axis, so neither one's own name is right.
        let mut warnings = Vec::new();
        let a = says("a", (INDEPENDENT, SURE), (Filtering::EndpointIndependent, Confidence::Weak));
        let b = says("b", (INDEPENDENT, Confidence::Weak), (Filtering::AddressDependent, Confidence::Strong));
        let udp = merge(vec![a, b], None, &mut warnings).unwrap().udp;
        assert_eq!(udp.nat_type.value, Some(NatType::RestrictedCone));
        assert_eq!(udp.nat_type.confidence, Confidence::Strong);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }

    #[test]
    fn of_three_servers_the_right_ones_are_named() {
        let mut warnings = Vec::new();
        let open = Filtering::EndpointIndependent;
        let a = says("a", (INDEPENDENT, Confidence::Weak), (open, SURE));
        let b = says("b", (INDEPENDENT, SURE), (open, SURE));
        let c = says("c", (Mapping::AddressDependent, SURE), (open, SURE));
        let d = says("d", (INDEPENDENT, SURE), (open, SURE));
        let udp = merge(vec![a, b, c, d], None, &mut warnings).unwrap().udp;
        assert_eq!(
            warnings,
            ["the servers disagree on mapping: b says endpoint-independent, c says address-dependent"]
        );
        assert_eq!(udp.mapping.confidence, Confidence::Weak, "a dispute is not settled by who comes later");
        assert_eq!(udp.mapping.reason.as_deref(), Some("c says otherwise"));
        assert_eq!(udp.nat_type.confidence, Confidence::Weak);
    }

    #[test]
    fn of_several_servers_the_one_is_named_that_a_reason_speaks_of() {
        let lacks = |query: &str| {
            let mut verdict = says(query, (INDEPENDENT, SURE), (Filtering::AddressDependent, SURE));
            let reason = (crate::report::ReasonCode::ServerHasNoAlternate, "the server names no alternate");
            verdict.found.udp.filtering = Finding::unknown(reason, "test");
            verdict
        };
        let reason = |verdicts| merge(verdicts, None, &mut Vec::new()).unwrap().udp.filtering.reason.unwrap();
        assert_eq!(reason(vec![lacks("a"), lacks("b")]), "a names no alternate");
        assert_eq!(reason(vec![lacks("a")]), "the server names no alternate");
    }

    #[test]
    fn of_two_filters_the_stricter_one_counts() {
        let merged = |address: [u8; 4]| {
            let mut warnings = Vec::new();
            let strict = Filtering::AddressDependent;
            let mut first = says("a", (INDEPENDENT, SURE), (strict, Confidence::Strong));
            let mut second = says("b", (INDEPENDENT, SURE), (Filtering::EndpointIndependent, SURE));
            first.ips.push([198, 51, 100, 10].into());
            second.ips.push(address.into());
            let both = [vec![first.clone(), second.clone()], vec![second, first]].map(|verdicts| {
                let filtering = merge(verdicts, None, &mut warnings).unwrap().udp.filtering;
                (filtering.value, filtering.confidence, filtering.reason_code)
            });
            assert_eq!(both[0], both[1], "whoever is asked first");
            assert!(warnings.iter().all(|line| line.contains("to which nothing was sent for ten minutes")));
            both[0]
        };
        let strict = Some(Filtering::AddressDependent);
        assert_eq!(merged([198, 51, 100, 10]), (strict, Confidence::Strong, None), "each other's past");
        let disputed = Some(crate::report::ReasonCode::ServersDisagree);
        assert_eq!(merged([203, 0, 113, 5]), (strict, Confidence::Weak, disputed));
    }
}
