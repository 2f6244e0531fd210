//! Application-level gateways (RFC 4787 section 7): does something rewrite addresses inside payloads? Needs no packet
//! of its own: every answer carries the external endpoint twice, in clear and XORed.

use crate::{
    observation::{ObservationLog, Response, Transaction},
    probe::{Found, Measured, Probe, Slot, slot},
    report::{Confidence, Finding, ReasonCode},
    server_position::sees_private_address,
};
#[cfg(feature = "sim")]
use shared::nat::model::UdpBehaviour;
use shared::stun::Dialect;

/// The measurement.
pub const PROBE: Probe = Probe {
    name: "alg",
    about: "whether something on the way rewrites addresses in payloads",
    needs: &[],
    steps: &[],
    udp: &[Slot::of::<Alg>()],
    tcp: &[],
    server: &[],
};

/// What it finds out.
struct Alg;

impl Measured for Alg {
    type Value = bool;
    const KEY: &'static str = "alg";
    const LABEL: &'static str = "ALG";
    const OF_THE_NAT: bool = false;
    slot!(udp.alg);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<bool> {
        conclude(log)
    }

    fn text(value: &bool) -> String {
        let text = if *value {
            "yes: addresses inside packets are rewritten on the path"
        } else {
            "no: packet contents arrive unchanged"
        };
        text.into()
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        Some(nat.alg.into())
    }
}

const METHOD: &str = "MAPPED-ADDRESS against XOR-MAPPED-ADDRESS in every answer (RFC 5780 3.6)";

/// Draws the conclusion. Classic answers tell nothing: their XORed form counts only where it confirms the other one.
fn conclude(log: &ObservationLog) -> Finding<bool> {
    let both: Vec<&Response> = log
        .transactions
        .iter()
        .filter(|t| t.dialect == Dialect::Modern)
        .flat_map(Transaction::successes)
        .filter(|a| a.mapped.is_some() && a.xor_mapped.is_some())
        .collect();
    if both.is_empty() {
        return Finding::unknown(
            (
                ReasonCode::ServerOmitsAttribute,
                "no response carried both MAPPED-ADDRESS and XOR-MAPPED-ADDRESS",
            ),
            METHOD,
        );
    }
    let rewritten: Vec<_> = both.iter().filter(|a| a.mapped != a.xor_mapped).collect();
    // One rewritten payload proves the rewriting; none in many answers leaves only what touches a few of them.
    let sure = if rewritten.is_empty() { Confidence::Strong } else { Confidence::Certain };
    let finding = Finding::known(!rewritten.is_empty(), sure, METHOD)
        .with("answers", both.len())
        .with("rewritten", rewritten.len());
    match (rewritten.first(), sees_private_address(log)) {
        (Some(answer), _) => finding.with("in_clear", answer.mapped).with("masked", answer.xor_mapped),
        // A gateway that understands STUN rewrites both forms alike.
        (None, Some(reason)) => finding.at_most(Confidence::Weak).because(reason),
        (None, None) => finding,
    }
}
