//! Whether TCP leaves from the same external IP address as UDP: some carriers have a gateway for each, and then what a peer
//! is told over one transport does not hold for the other (RFC 4787 REQ-2, RFC 7857 section 5).

use std::{collections::BTreeSet, net::IpAddr};

use super::{PURPOSE, external_over_tcp};
use crate::{
    observation::ObservationLog,
    probe::{Found, Measured, mapping, mapping::external_addresses, measured::Transport, slot},
    report::{Confidence, Finding, ReasonCode},
};

/// What it finds out.
pub(super) struct SameAddressAsUdp;

impl Measured for SameAddressAsUdp {
    type Value = bool;
    const KEY: &'static str = "same_address_as_udp";
    const LABEL: &'static str = "TCP and UDP";
    const LINE_KEY: Option<&'static str> = None;
    const TRANSPORT: Transport = Transport::Tcp;
    slot!(tcp.same_address_as_udp);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<bool> {
        let (tcp, udp): (BTreeSet<IpAddr>, _) = (external_over_tcp(log).collect(), external_addresses(log));
        judge(&tcp, &udp).with("tcp", &tcp).with("udp", &udp).with("ports_kept", ports_kept(log))
    }

    fn text(value: &bool) -> String {
        match value {
            true => "the same external address",
            false => "different external addresses",
        }
        .into()
    }

    #[cfg(feature = "sim")]
    fn expected_tcp(nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        nat.same_address.map(|same| serde_json::json!(same))
    }
}

const METHOD: &str = "external addresses of all sockets of this run";

fn judge(tcp: &BTreeSet<IpAddr>, udp: &BTreeSet<IpAddr>) -> Finding<bool> {
    if udp.is_empty() {
        return Finding::unknown((ReasonCode::UdpBlocked, "no external address is known over UDP"), METHOD);
    }
    if tcp.is_empty() {
        return Finding::unknown((ReasonCode::NoAnswer, "no external address is known over TCP"), METHOD);
    }
    if tcp.len() > 1 || udp.len() > 1 {
        let text = "this host has several external addresses: which one a connection gets may be chance";
        return Finding::unknown((ReasonCode::SeveralExternalAddresses, text), METHOD);
    }
    Finding::known(tcp == udp, Confidence::Certain, METHOD)
}

/// Whether the port under test kept its number outside, over TCP and over UDP.
fn ports_kept(log: &ObservationLog) -> [Option<bool>; 2] {
    let tcp = log.tcp.of(PURPOSE).find_map(|c| Some(c.local?.port() == c.answer?.mapped.port()));
    let socket = mapping::main_socket(log);
    let udp =
        socket.and_then(|socket| Some(log.mapped(socket, log.server)?.port() == log.local(socket)?.port()));
    [tcp, udp]
}
