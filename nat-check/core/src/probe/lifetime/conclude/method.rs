//! How mappings can be checked here, or why they cannot. Pure.

use shared::nat::{Filtering, Mapping, PortPolicy};

use crate::{
    observation::ObservationLog,
    probe::{Found, lifetime::CheckMethod, response_port},
    report::{Reason, ReasonCode},
};

/// The method for what earlier measurements have found.
pub(in crate::probe::lifetime) fn method(log: &ObservationLog, found: &Found) -> Result<CheckMethod, Reason> {
    let mapping = found.udp.mapping.value;
    let filtering = found.udp.filtering.value;
    if mapping == Some(Mapping::Direct) && filtering == Some(Filtering::EndpointIndependent) {
        return Err((ReasonCode::NoFilter, "there is neither NAT nor filter here, so nothing expires").into());
    }
    let why: Reason = match response_port::reaction(log) {
        Some(response_port::Reaction::Honours { short, .. }) => {
            return Ok(CheckMethod::ResponsePort { long: !short });
        }
        Some(response_port::Reaction::Refuses(code)) => (
            ReasonCode::ServerRefuses,
            format!("the server refuses to answer to another port (error {code})"),
        )
            .into(),
        Some(response_port::Reaction::Ignores) => {
            (ReasonCode::ServerIgnores, "the server cannot answer to another port").into()
        }
        None if response_port::scattered(log) => {
            let text = "the NAT gives this host's sockets different external addresses, so one cannot have the server \
                        answer to another";
            (ReasonCode::SeveralExternalAddresses, text).into()
        }
        None => {
            (ReasonCode::ServerNotProven, "it is not clear whether the server can answer to another port")
                .into()
        }
    };
    if mapping == Some(Mapping::Direct) {
        return Err(why.map(|why| {
            format!("{why}, and without translation nothing else shows that a filter has forgotten")
        }));
    }
    match found.udp.port_allocation.value.as_ref().map(|ports| ports.policy) {
        Some(PortPolicy::Preserving) => {
            let text = format!(
                "{why}, and this NAT keeps port numbers, so that a new mapping looks like the old one"
            );
            Err((ReasonCode::NewMappingLooksLikeOld, text).into())
        }
        Some(PortPolicy::Sequential | PortPolicy::Random | PortPolicy::Block) => Ok(CheckMethod::SendAgain),
        None => Err(why.map(|why| format!("{why}, and it is not known how this NAT chooses ports"))),
    }
}
