//! What game consoles call this network, from what was found. Pure. The makers' definitions stand in `docs/consoles.md`.

use shared::nat::{Filtering, Mapping};

use crate::{
    contactable::is_global,
    report::{
        Confidence, Consoles, Finding, MappingProtocol, MicrosoftNat, PortMapping, Reason, ReasonCode,
        SonyNat, UdpReport,
    },
};

const MICROSOFT: &str = "Microsoft KB 840420 and its dashboard: port assignment, filtering, UPnP";
const SONY: &str = "Sony, PlayStation 4 user's guide, Test Internet Connection";

/// The makers' words; none where nothing is known that they rest on. `has_firewall`: whether this host has a stateful firewall of its
/// own, which a console has not.
#[must_use]
pub fn of(
    udp: Option<&UdpReport>,
    port_mapping: Option<&PortMapping>,
    has_firewall: Option<bool>,
) -> Option<Consoles> {
    let may_filter = has_firewall != Some(false);
    // What a server near by sees says nothing of the Internet.
    let udp = udp.filter(|udp| udp.external.iter().all(|seen| is_global(seen.ip())))?;
    let upnp = Upnp::of(port_mapping, may_filter);
    let (microsoft, sony) = (microsoft(udp, &upnp, may_filter), sony(udp, &upnp));
    (microsoft.is_some() || sony.is_some()).then(|| Consoles {
        microsoft: microsoft.unwrap_or_else(|| Finding::unknown(not_known(udp), MICROSOFT)),
        sony: sony.unwrap_or_else(|| Finding::unknown(not_known(udp), SONY)),
    })
}

/// Whether the router opens ports by UPnP, which consoles ask it for.
enum Upnp {
    /// A port that it opened was reached from outside.
    Opens,
    /// It does not, or nothing arrives through its ports.
    OpensNothing,
    /// That is not known, for this reason.
    Unknown(Reason),
}

impl Upnp {
    fn of(port_mapping: Option<&PortMapping>, may_filter: bool) -> Self {
        let not_asked = (ReasonCode::NotAskedFor, "it was not asked whether the router opens ports by UPnP");
        let Some(asked) = port_mapping else { return Self::Unknown(not_asked.into()) };
        let unknown = |text: &Option<String>, code| {
            let text = text.clone().unwrap_or_else(|| "it is not known whether UPnP opens ports".into());
            Self::Unknown((code, text).into())
        };
        match (&asked.reason_code, &asked.upnp) {
            (Some(code), _) => unknown(&asked.reason, *code),
            (None, None) => Self::OpensNothing,
            (None, Some(MappingProtocol { reachable_udp, .. })) => match reachable_udp.sure() {
                Some(true) => Self::Opens,
                Some(false) if may_filter => Self::Unknown(of_this_host()),
                Some(false) => Self::OpensNothing,
                None if reachable_udp.reason_code == Some(ReasonCode::MappingRefused) => Self::OpensNothing,
                None => unknown(
                    &reachable_udp.reason,
                    reachable_udp.reason_code.unwrap_or(ReasonCode::Unfinished),
                ),
            },
        }
    }
}

fn microsoft(udp: &UdpReport, upnp: &Upnp, may_filter: bool) -> Option<Finding<MicrosoftNat>> {
    let found = |value, confidence| Some(Finding::known(value, confidence, MICROSOFT));
    if matches!(upnp, Upnp::Opens) {
        return found(MicrosoftNat::Open, Confidence::Strong);
    }
    let (word, rests_on) = match (udp.mapping.value?, udp.filtering.value) {
        (Mapping::Direct | Mapping::EndpointIndependent, Some(Filtering::EndpointIndependent)) => {
            (MicrosoftNat::Open, udp.mapping.confidence.min(udp.filtering.confidence))
        }
        (Mapping::Direct | Mapping::EndpointIndependent, Some(_)) => {
            (MicrosoftNat::Moderate, udp.mapping.confidence.min(udp.filtering.confidence))
        }
        (Mapping::Direct | Mapping::EndpointIndependent, None) => return None,
        (_, _) => (MicrosoftNat::Strict, udp.mapping.confidence),
    };
    let finding = found(word, rests_on.min(Confidence::Strong))?;
    Some(match upnp {
        _ if rests_on <= Confidence::Weak => finding.because(not_known(udp)),
        // What UPnP opens is open.
        Upnp::Unknown(reason) if word != MicrosoftNat::Open => {
            finding.at_most(Confidence::Weak).because(reason.clone())
        }
        _ if word == MicrosoftNat::Moderate && may_filter => {
            finding.at_most(Confidence::Weak).because(of_this_host())
        }
        Upnp::Opens | Upnp::OpensNothing | Upnp::Unknown(_) => finding,
    })
}

fn of_this_host() -> Reason {
    let text = "a firewall of this host, which a console has not, may be what filters";
    (ReasonCode::OneHostCannotTell, text).into()
}

fn sony(udp: &UdpReport, upnp: &Upnp) -> Option<Finding<SonyNat>> {
    let routed = |value| {
        let text = "Sony says of types 2 and 3 that a router is in between, not what tells them apart";
        Some(Finding::known(value, Confidence::Weak, SONY).because((ReasonCode::VendorRuleUnknown, text)))
    };
    match udp.mapping.value? {
        Mapping::Direct if udp.local.is_some_and(|local| is_global(local.ip())) => {
            let finding =
                Finding::known(SonyNat::Type1, udp.mapping.confidence.min(Confidence::Strong), SONY);
            let is_weak = udp.mapping.confidence <= Confidence::Weak;
            Some(if is_weak { finding.because(not_known(udp)) } else { finding })
        }
        Mapping::Direct => None,
        Mapping::EndpointIndependent => routed(SonyNat::Type2),
        _ if matches!(upnp, Upnp::Opens) => routed(SonyNat::Type2),
        _ => routed(SonyNat::Type3),
    }
}

/// Why what the words rest on is not sure.
fn not_known(udp: &UdpReport) -> Reason {
    let doubt = (ReasonCode::LossLeavesDoubt, "what it rests on is not sure");
    let is_unsure = udp.mapping.confidence <= Confidence::Weak;
    if is_unsure { udp.mapping.reason_or(doubt) } else { udp.filtering.reason_or(doubt) }
}

#[cfg(test)]
mod tests {
    use shared::nat::NatType;

    use super::*;
    use Confidence::{Certain, Strong, Weak};

    fn udp(mapping: Mapping, filtering: Filtering) -> UdpReport {
        UdpReport {
            local: Some("198.51.100.77:5000".parse().unwrap()),
            mapping: Finding::known(mapping, Certain, "test"),
            filtering: Finding::known(filtering, Strong, "test"),
            nat_type: Finding::known(NatType::derive(mapping, filtering), Strong, "test"),
            ..UdpReport::default()
        }
    }

    fn upnp(reachable: Finding<bool>) -> PortMapping {
        let upnp = MappingProtocol { reachable_udp: reachable, ..MappingProtocol::default() };
        PortMapping { upnp: Some(upnp), ..PortMapping::default() }
    }

    #[test]
    fn each_network_has_its_word() {
        let (ei, apd) = (Filtering::EndpointIndependent, Filtering::AddressAndPortDependent);
        let nobody = Some(PortMapping::default());
        let opens = Some(upnp(Finding::known(true, Certain, "test")));
        let dead = Some(upnp(Finding::known(false, Strong, "test")));
        let table = [
            (Mapping::Direct, ei, None, ("open", Strong), ("type-1", Strong)),
            (Mapping::Direct, apd, nobody.clone(), ("moderate", Strong), ("type-1", Strong)),
            (Mapping::EndpointIndependent, ei, None, ("open", Strong), ("type-2", Weak)),
            (Mapping::EndpointIndependent, apd, None, ("moderate", Weak), ("type-2", Weak)),
            (Mapping::EndpointIndependent, apd, nobody, ("moderate", Strong), ("type-2", Weak)),
            (Mapping::EndpointIndependent, apd, opens.clone(), ("open", Strong), ("type-2", Weak)),
            (Mapping::EndpointIndependent, apd, dead.clone(), ("moderate", Strong), ("type-2", Weak)),
            (Mapping::AddressAndPortDependent, apd, None, ("strict", Weak), ("type-3", Weak)),
            (Mapping::AddressAndPortDependent, apd, dead, ("strict", Strong), ("type-3", Weak)),
            (Mapping::AddressAndPortDependent, apd, opens, ("open", Strong), ("type-2", Weak)),
        ];
        for (mapping, filtering, asked, microsoft, sony) in table {
            let found = of(Some(&udp(mapping, filtering)), asked.as_ref(), Some(false)).unwrap();
            let word = |value| serde_json::to_value(value).unwrap();
            let told = format!("{mapping:?}, {filtering:?}: {found:?}");
            assert_eq!(word(found.microsoft.value).as_str(), Some(microsoft.0), "{told}");
            assert_eq!(serde_json::to_value(found.sony.value).unwrap().as_str(), Some(sony.0), "{told}");
            assert_eq!((found.microsoft.confidence, found.sony.confidence), (microsoft.1, sony.1), "{told}");
            for (confidence, code) in [
                (found.microsoft.confidence, found.microsoft.reason_code),
                (found.sony.confidence, found.sony.reason_code),
            ] {
                assert_eq!(confidence <= Weak, code.is_some(), "{told}");
            }
        }
    }

    #[test]
    fn what_is_not_known_has_no_word() {
        assert!(of(None, None, None).is_none());
        assert!(of(Some(&UdpReport::default()), None, None).is_none());
        let here = UdpReport {
            external: vec!["127.0.0.1:5000".parse().unwrap()],
            ..udp(Mapping::Direct, Filtering::EndpointIndependent)
        };
        assert!(of(Some(&here), None, None).is_none());
        let half = UdpReport {
            filtering: Finding::default(),
            ..udp(Mapping::EndpointIndependent, Filtering::EndpointIndependent)
        };
        let found = of(Some(&half), None, None).unwrap();
        assert_eq!((found.microsoft.value, found.sony.value), (None, Some(SonyNat::Type2)));
        assert!(found.microsoft.reason_code.is_some());
        assert_eq!(crate::report::console_rows(&found).len(), 1);
        // What is only likely stays so.
        let mut likely = udp(Mapping::EndpointIndependent, Filtering::EndpointIndependent);
        likely.filtering = Finding::known(Filtering::EndpointIndependent, Weak, "test")
            .because((ReasonCode::LossLeavesDoubt, "loss"));
        assert_eq!(of(Some(&likely), None, None).unwrap().microsoft.confidence, Weak);
    }

    #[test]
    fn a_firewall_of_this_host_is_no_consoles() {
        let strict = udp(Mapping::EndpointIndependent, Filtering::AddressAndPortDependent);
        let dead = upnp(Finding::known(false, Strong, "test"));
        for (asked, has_firewall, sure) in [
            (PortMapping::default(), Some(false), Strong),
            (PortMapping::default(), Some(true), Weak),
            (PortMapping::default(), None, Weak),
            (dead, Some(true), Weak),
        ] {
            let microsoft = of(Some(&strict), Some(&asked), has_firewall).unwrap().microsoft;
            assert_eq!((microsoft.value, microsoft.confidence), (Some(MicrosoftNat::Moderate), sure));
        }
    }
}
