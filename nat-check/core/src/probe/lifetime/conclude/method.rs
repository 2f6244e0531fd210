//! How mappings can be checked here, or why they cannot. Pure.

use shared::nat::{Filtering, Mapping, PortPolicy};

use crate::{
    observation::ObservationLog,
    probe::{filtering, lifetime::CheckMethod, mapping, port_allocation, response_port},
};

/// The method for what earlier measurements have found.
pub(in crate::probe::lifetime) fn method(log: &ObservationLog) -> Result<CheckMethod, String> {
    let mapping = mapping::conclude(log).value;
    let filtering = filtering::conclude(log).value;
    if mapping == Some(Mapping::Direct) && filtering == Some(Filtering::EndpointIndependent) {
        return Err("there is neither NAT nor filter here, so nothing expires".into());
    }
    let why = match response_port::reaction(log) {
        Some(response_port::Reaction::Honours { short, .. }) => {
            return Ok(CheckMethod::ResponsePort { long: !short });
        }
        Some(response_port::Reaction::Refuses(code)) => {
            format!("the server refuses to answer to another port (error {code})")
        }
        Some(response_port::Reaction::Ignores) => "the server cannot answer to another port".into(),
        None if response_port::scattered(log) => {
            "the NAT gives this host's sockets different external addresses, so one cannot have the server answer \
             to another"
                .into()
        }
        None => "it is not clear whether the server can answer to another port".to_owned(),
    };
    if mapping == Some(Mapping::Direct) {
        return Err(format!("{why}, and without translation nothing else shows that a filter has forgotten"));
    }
    match port_allocation::conclude(log).value.map(|ports| ports.policy) {
        Some(PortPolicy::Preserving) => Err(format!(
            "{why}, and this NAT keeps port numbers, so that a new mapping looks like the old one"
        )),
        Some(PortPolicy::Sequential | PortPolicy::Random | PortPolicy::Block) => Ok(CheckMethod::SendAgain),
        None => Err(format!("{why}, and it is not known how this NAT chooses ports")),
    }
}
