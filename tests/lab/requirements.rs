//! The oracle of the checklist: which requirements of the RFCs a NAT meets, by its own description.

use std::time::Duration;

use nat_check_core::{
    report::{Report, Requirement, RequirementVerdict},
    verdict::checklist,
};
use shared::nat::{
    Filtering, Mapping, PortPolicy,
    model::{Behaviour, Stack, spec::Refusal},
};

/// What came of a checklist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Requirements that are said to be met or not, and are.
    pub right: Vec<String>,
    /// Those that are said to be and are not, or the other way round, each with what was said.
    pub wrong: Vec<String>,
}

/// Holds the checklist that follows from a report against what these NATs really do.
#[must_use]
pub fn hold(stack: &Stack, report: &Report) -> Held {
    let nat = stack.behaviour();
    let mut held = Held::default();
    for Requirement { rfc, requirement, verdict, why, .. } in checklist::of(report) {
        let said = match verdict {
            RequirementVerdict::Met => true,
            RequirementVerdict::NotMet => false,
            _ => continue,
        };
        let name = format!("RFC {rfc} {requirement}");
        match is_met(&nat, rfc, &requirement) {
            Some(is_met) if is_met == said => held.right.push(name),
            None if NOT_MODELLED.contains(&(rfc, requirement.as_str())) => {}
            Some(_) | None => held.wrong.push(format!("{name}: {}, {why}", verdict.text())),
        }
    }
    held
}

/// What a client may see of a NAT although its description does not settle it: chance, the collisions of ports, or which of several
/// NATs sends a packet back.
const NOT_MODELLED: [(u16, &str); 4] = [(4787, "REQ-2"), (4787, "REQ-4"), (4787, "REQ-9"), (4787, "REQ-9a")];

/// Whether a requirement is met; none where the model says nothing of what it asks for.
fn is_met(nat: &Behaviour, rfc: u16, requirement: &str) -> Option<bool> {
    let (udp, tcp) = (nat.udp.as_ref(), nat.tcp.as_ref());
    let is_wide =
        |filtering| matches!(filtering, Filtering::EndpointIndependent | Filtering::AddressDependent);
    let live_for = |seconds| Some(udp?.unreplied.min(udp?.stream) >= Duration::from_secs(seconds));
    match (rfc, requirement) {
        (4787, "REQ-1") => Some(udp?.mapping == Mapping::EndpointIndependent && !udp?.inbound_first_remap),
        (4787 | 6888, "REQ-2") => Some(udp?.external_ips? == 1),
        (4787, "REQ-4") => udp?.parity,
        (4787, "REQ-5") => live_for(120),
        (4787, "REQ-5c") => live_for(300),
        (4787, "REQ-6") => Some(udp?.refresh.outbound),
        (4787, "REQ-8") => Some(is_wide(udp?.filtering)),
        (4787, "REQ-9") => udp?.hairpinning,
        (4787, "REQ-10") => Some(!udp?.alg),
        (4787, "REQ-11") => Some(!udp?.inbound_first_remap),
        (5382, "REQ-1") => Some(tcp?.mapping == Mapping::EndpointIndependent),
        (5382, "REQ-3") => Some(is_wide(tcp?.filtering)),
        (5382, "REQ-4") => {
            let (refusal, after) = tcp?.unsolicited_syn?;
            Some(refusal == Refusal::Drop || after >= Duration::from_secs(6))
        }
        (7857, "section-9") => Some(udp?.ports? == PortPolicy::Random),
        _ => None,
    }
}
