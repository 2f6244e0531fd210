//! Several external addresses: does each destination have its own, each flow, or each socket (RFC 4787 section 4.1,
//! pooling)? One socket cannot tell, as it may meet with the same address by chance; the readings of several can.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use shared::nat::Mapping;

use super::{Axes, METHOD, Readings, all_readings, external_addresses};
use crate::{
    observation::{ObservationLog, SocketId},
    report::{Confidence, Finding, LayersKind, Reason, ReasonCode},
    server_endpoints::{ServerEndpoint, ServerEndpoints},
};

/// log10 of the chance below which equal addresses are no accident.
const DECIDED: f64 = -4.0;
const WAYS_OUT: &str = "external addresses of several sockets towards several destinations";

/// The mapping that explains the readings of all sockets together. That it depends on something is seen, that it does not
/// is judged by the chance of so many equal readings.
pub(super) fn judge(sockets: &[(SocketId, Readings)]) -> Option<Finding<Mapping>> {
    let axes = sockets.iter().map(|(_, readings)| readings.axes()).fold(Axes::default(), Axes::join);
    let (value, confidence) = axes.mapping()?;
    let readings = || sockets.iter().map(|(_, readings)| readings);
    let doubtful = [
        (axes.on_ip, (|e| usize::from(e.other_port)) as fn(&ServerEndpoint) -> usize),
        (axes.on_port, |e| usize::from(e.other_ip)),
    ];
    // What another endpoint in the same group shows would be another draw, if each flow drew an address of its own.
    let doubtful = doubtful
        .iter()
        .any(|(depends, group)| *depends == Some(false) && chance_of_equality(readings(), group) > DECIDED);
    let several = |text: &str| -> Reason { (ReasonCode::SeveralExternalAddresses, text).into() };
    let finding = match (value, confidence, doubtful) {
        (_, Confidence::Weak, _) => Finding::known(value, Confidence::Weak, METHOD)
            .because(several("of several external addresses too few were seen to tell what they depend on")),
        (Mapping::AddressAndPortDependent, ..) => Finding::known(value, Confidence::Certain, METHOD),
        (.., false) => Finding::known(value, Confidence::Strong, METHOD),
        (.., true) => Finding::known(value, Confidence::Weak, METHOD)
            .because(several("there are several external addresses, and the equal ones may be an accident")),
    };
    Some(finding.with("sockets", readings().filter(|r| !r.seen.is_empty()).count()))
}

/// log10 of the likelihood of these readings if every flow drew its external address by itself, against one draw for
/// each group of a socket's endpoints.
fn chance_of_equality<'a>(
    sockets: impl Iterator<Item = &'a Readings>,
    group: &fn(&ServerEndpoint) -> usize,
) -> f64 {
    let (mut flows, mut groups) = (BTreeMap::<IpAddr, u32>::new(), BTreeMap::<IpAddr, u32>::new());
    for readings in sockets {
        let mut drawn = BTreeMap::new();
        for (endpoint, seen) in &readings.seen {
            *flows.entry(seen.ip()).or_default() += 1;
            drawn.insert(group(endpoint), seen.ip());
        }
        drawn.into_values().for_each(|ip| *groups.entry(ip).or_default() += 1);
    }
    best_log_likelihood(&flows) - best_log_likelihood(&groups)
}

/// log10 of the greatest likelihood that draws with these counts can have.
fn best_log_likelihood(counts: &BTreeMap<IpAddr, u32>) -> f64 {
    let all = f64::from(counts.values().sum::<u32>());
    counts.values().map(|&n| f64::from(n) * (f64::from(n) / all).log10()).sum()
}

/// Whether packets of one socket leave over several external addresses: several Internet connections, or a pool.
pub(crate) fn several_connections(log: &ObservationLog) -> Option<Finding<LayersKind>> {
    let addresses = external_addresses(log);
    let sockets = all_readings(log, &ServerEndpoints::of(log.server, log));
    let ips = |readings: &Readings| readings.seen.values().map(|seen| seen.ip()).collect::<BTreeSet<_>>();
    if addresses.len() < 2 || !sockets.iter().any(|(_, readings)| ips(readings).len() > 1) {
        return None;
    }
    let spread = if is_by_destination(&sockets) { "by-destination" } else { "by-flow" };
    let text = "a NAT with a pool of addresses that does not keep to one of them looks the same";
    Some(
        Finding::known(LayersKind::MultiWan, Confidence::Weak, WAYS_OUT)
            .because((ReasonCode::SeveralExternalAddresses, text))
            .with("external_addresses", addresses)
            .with("spread", spread),
    )
}

/// The sentence for a person.
pub(crate) fn warning(log: &ObservationLog) -> Option<String> {
    several_connections(log)?;
    let addresses: Vec<String> = external_addresses(log).iter().map(ToString::to_string).collect();
    let chosen = match is_by_destination(&all_readings(log, &ServerEndpoints::of(log.server, log))) {
        true => "each destination address sees one of them",
        false => "each flow sees one of them",
    };
    Some(format!(
        "packets leave over {} external addresses ({}), and {chosen}: a router with several Internet connections, or a \
         NAT with a pool of addresses",
        addresses.len(),
        addresses.join(", ")
    ))
}

/// Whether all sockets agree on the external address for each destination address.
fn is_by_destination(sockets: &[(SocketId, Readings)]) -> bool {
    let mut by_destination = BTreeMap::<bool, BTreeSet<IpAddr>>::new();
    for (endpoint, seen) in sockets.iter().flat_map(|(_, readings)| &readings.seen) {
        by_destination.entry(endpoint.other_ip).or_default().insert(seen.ip());
    }
    by_destination.values().all(|ips| ips.len() == 1)
}
