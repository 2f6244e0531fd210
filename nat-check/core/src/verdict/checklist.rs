//! The requirements of RFC 4787, 5382, 7857, 5508, 6888 and 6092, judged by the findings of a report. Pure: no packet is sent for
//! it.
//!
//! What is judged is the whole way, with all NATs on it. `met` and `not-met` rest on findings that are strong or certain; what
//! held in all that was tried, but is asked for always, is `partly-settled`. Where a firewall of this host itself may be what
//! was seen, nothing is held against the NAT.

mod facts;
mod icmp;
mod ipv6;
mod tcp;
#[cfg(test)]
mod tests;
mod udp;

use std::net::SocketAddr;

use crate::report::{FamilyReport, Report, Requirement, RequirementLevel};
use facts::{Facts, Judged, moot, open};
use shared::nat::Mapping;

/// The requirements of all RFCs, and what the report says of them.
#[must_use]
pub fn of(report: &Report) -> Vec<Requirement> {
    let judged = RFCS.iter().flat_map(|rfc| {
        let facts = Facts::new(report, (rfc.family)(report));
        let applies = (rfc.applies)(&facts);
        rfc.rules.iter().map(move |rule| {
            let Judged { verdict, why } = match &applies {
                Ok(()) => (rule.judge)(&facts),
                Err(judged) => judged.clone(),
            };
            Requirement {
                rfc: rfc.number,
                requirement: rule.name.into(),
                level: rule.level,
                text: rule.text.into(),
                verdict,
                finding: rule.finding.filter(|_| applies.is_ok()).map(str::to_owned),
                why,
            }
        })
    });
    judged.collect()
}

/// The requirements that there are: number of the RFC and name.
pub fn names() -> impl Iterator<Item = (u16, &'static str)> {
    RFCS.iter().flat_map(|rfc| rfc.rules.iter().map(|rule| (rfc.number, rule.name)))
}

/// An RFC that asks something of NATs or firewalls.
struct Rfc {
    number: u16,
    family: fn(&Report) -> &FamilyReport,
    /// Whether it is about what stands here; if not, what is said of all its requirements.
    applies: fn(&Facts<'_>) -> Result<(), Judged>,
    rules: &'static [Rule],
}

/// What an RFC asks for, and how a report is judged by it.
struct Rule {
    name: &'static str,
    level: RequirementLevel,
    text: &'static str,
    finding: Option<&'static str>,
    judge: fn(&Facts<'_>) -> Judged,
}

const RFCS: &[Rfc] = &[
    Rfc { number: 4787, family: ipv4, applies: translates_udp, rules: udp::RFC_4787 },
    Rfc { number: 5382, family: ipv4, applies: translates_tcp, rules: tcp::RFC_5382 },
    Rfc { number: 7857, family: ipv4, applies: translates_udp, rules: udp::RFC_7857 },
    Rfc { number: 5508, family: ipv4, applies: translates_udp, rules: icmp::RFC_5508 },
    Rfc { number: 6888, family: ipv4, applies: is_of_the_carrier, rules: udp::RFC_6888 },
    Rfc { number: 6092, family: ipv6, applies: has_ipv6, rules: ipv6::RFC_6092 },
];

fn ipv4(report: &Report) -> &FamilyReport {
    &report.ipv4
}

fn ipv6(report: &Report) -> &FamilyReport {
    &report.ipv6
}

fn translates_udp(facts: &Facts<'_>) -> Result<(), Judged> {
    let Some(udp) = facts.udp else { return Err(facts.not_tested()) };
    translates(udp.mapping.sure(), udp.local, &udp.external)
}

/// What belongs to a NAT is asked of one that is there.
fn translates(
    mapping: Option<&Mapping>,
    local: Option<SocketAddr>,
    external: &[SocketAddr],
) -> Result<(), Judged> {
    let is_seen_elsewhere = || external.iter().any(|seen| Some(seen.ip()) != local.map(|local| local.ip()));
    match mapping {
        Some(Mapping::Direct) => Err(moot("nothing translates addresses over IPv4")),
        Some(_) => Ok(()),
        None if is_seen_elsewhere() => Ok(()),
        None => Err(open("whether anything translates addresses is not sure")),
    }
}

fn translates_tcp(facts: &Facts<'_>) -> Result<(), Judged> {
    let Some(tcp) = facts.tcp else { return Err(facts.not_tested()) };
    if tcp.intercepted.sure() == Some(&true) {
        return Err(open("something on the way answers connections in the server's place"));
    }
    translates(tcp.mapping.sure(), tcp.local, &tcp.external)
}

fn is_of_the_carrier(facts: &Facts<'_>) -> Result<(), Judged> {
    use crate::report::LayersKind as K;
    match facts.kind {
        Some(K::CarrierGrade | K::DsLite) => Ok(()),
        // Home routers say where they are seen; carriers' NATs do not answer this host.
        Some(K::One) if !facts.is_gateway_named => {
            Err(open("whether the one NAT is a carrier's is not known"))
        }
        Some(kind @ (K::None | K::One | K::OwnDouble)) => {
            Err(moot(format!("no NAT of a carrier: {}", kind.text())))
        }
        Some(K::Vpn | K::Xlat464 | K::MultiWan) | None => {
            Err(open("whether a carrier translates is not known"))
        }
    }
}

fn has_ipv6(facts: &Facts<'_>) -> Result<(), Judged> {
    use crate::report::FamilyStatus as S;
    match facts.family.status {
        // That strangers come in at a port that has sent something is what the RFC asks a firewall for.
        S::Tested if facts.strangers_come_in() => Err(moot("nothing filters over IPv6")),
        S::Tested => Ok(()),
        S::Unavailable if facts.has_own_ipv6() => Err(open("this host has IPv6, which was not tested")),
        S::Unavailable => Err(moot(facts.family.reason.as_deref().unwrap_or("no IPv6 here"))),
        S::Unreachable | S::Skipped => Err(facts.not_tested()),
    }
}
