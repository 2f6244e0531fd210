//! The conclusions. Pure.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use shared::nat::Filtering;

use super::{CALL, PROBE, SILENT};
use crate::{
    observation::{ObservationLog, RequestKind, Transaction},
    probe::{
        Found,
        port_mapping::{datagram_counts, is_refused_or_silent},
        tcp_calls::is_tried,
    },
    report::{Confidence, Finding, Ipv6Findings, Ipv6Inbound, Ipv6Translation, Reason, ReasonCode},
    server_position::nat_before_server,
};

const TRANSLATION: &str =
    "own addresses and ports, compared with those that the server sees (RFC 6296 section 3)";
const INBOUND_UDP: &str =
    "datagrams of the probe server to a port that has sent nothing; filtering where there is some";
const INBOUND_TCP: &str =
    "connections of the probe server to a port that has sent nothing; filtering where there is some";
/// Bits of an interface identifier below which a router may easily have the same one: `::1`, `::2`.
const SHORT_IDENTIFIER: u32 = 16;

/// What the run says of it; none over IPv4, or where it was not asked for.
#[must_use]
pub fn conclude(log: &ObservationLog, found: &Found) -> Option<Ipv6Findings> {
    if log.server.is_ipv4() || !log.tests.contains(&PROBE.name) {
        return None;
    }
    Some(Ipv6Findings {
        translation: translation(log),
        inbound: Ipv6Inbound { udp: inbound_udp(log, found), tcp: inbound_tcp(log, found) },
    })
}

/// Own endpoints, and where the server saw them.
fn seen(log: &ObservationLog) -> Vec<(SocketAddr, SocketAddr)> {
    let asked = log.transactions.iter().filter(|t| t.kind == RequestKind::Binding && t.to == log.server);
    let mut seen: Vec<_> =
        asked.filter_map(|t| Some((log.local(t.socket)?, t.direct()?.mapped()?))).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

fn translation(log: &ObservationLog) -> Finding<Ipv6Translation> {
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, TRANSLATION);
    }
    let seen = seen(log);
    let Some(&(local, external)) = seen.first() else {
        let reason = (ReasonCode::NoAnswer, "no answer shows where the server sees this host");
        return Finding::unknown(reason, TRANSLATION);
    };
    if external.ip().to_canonical().is_ipv4() {
        let text = format!(
            "the server has IPv4 alone and sees {}: a NAT64 is on the way to it",
            external.ip().to_canonical()
        );
        return Finding::unknown((ReasonCode::ServerHasNoAddress, text), TRANSLATION);
    }
    let (value, confidence, reason) = judge(&seen, log.ipv6.second);
    let finding = Finding::known(value, confidence, TRANSLATION)
        .with("local", local.ip())
        .with("external", external.ip())
        .with("sockets", seen.len())
        .with("checksum_neutral", is_neutral(local.ip(), external.ip()));
    let finding = match log.ipv6.second {
        Some((local, external)) => {
            finding.with("second_local", local.ip()).with("second_external", external.ip())
        }
        None => finding,
    };
    match reason {
        Some(reason) => finding.because(reason),
        None => finding,
    }
}

type Judged = (Ipv6Translation, Confidence, Option<Reason>);

/// Of endpoints of one address, and one of a second address where there is one.
fn judge(seen: &[(SocketAddr, SocketAddr)], second: Option<(SocketAddr, SocketAddr)>) -> Judged {
    use Ipv6Translation::{Nat66, None as Untranslated, Nptv6};
    let (local, external) = (seen[0].0.ip(), seen[0].1.ip());
    let keeps_ports = seen.iter().chain(&second).all(|(local, external)| local.port() == external.port());
    let is_one_address = seen.iter().all(|(_, it)| it.ip() == external);
    if is_one_address && external == local {
        return match keeps_ports {
            true => (Untranslated, Confidence::Certain, None),
            // Nothing but a NAT changes ports.
            false => (Nat66, Confidence::Certain, None),
        };
    }
    if !is_one_address || !keeps_ports || second.is_some_and(|(_, it)| it.ip() == external) {
        return (Nat66, Confidence::Certain, None);
    }
    let is_by_prefix = |(local, external)| keeps_identifier(local, external) || is_neutral(local, external);
    match second.map(|(local, external)| (local.ip(), external.ip())) {
        Some(second) if is_by_prefix((local, external)) && is_by_prefix(second) => {
            (Nptv6, Confidence::Certain, None)
        }
        Some(_) => (Nat66, Confidence::Strong, None),
        None if !is_by_prefix((local, external)) => (Nat66, Confidence::Strong, None),
        None if is_neutral(local, external) || !is_short(local) => (Nptv6, Confidence::Strong, None),
        None => {
            let text = "the interface identifier is so short that a router may have the same one, and this host has no second \
                        address to compare";
            (Nptv6, Confidence::Weak, Some((ReasonCode::IdentifierTooShort, text).into()))
        }
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Whether only the network part differs.
fn keeps_identifier(local: IpAddr, external: IpAddr) -> bool {
    bits(local) as u64 == bits(external) as u64
}

fn is_short(local: IpAddr) -> bool {
    (bits(local) as u64) >> SHORT_IDENTIFIER == 0
}

/// Whether the ones' complement sums of both are equal, so that checksums of what they carry stay right (RFC 6296 section 3.1).
fn is_neutral(local: IpAddr, external: IpAddr) -> bool {
    let sum = |ip| {
        let words = Ipv6Addr::from_bits(bits(ip)).segments();
        // The remainder is the sum with its carries added; 0 and 0xffff are both zero.
        words.into_iter().map(u32::from).sum::<u32>() % 0xffff
    };
    sum(local) == sum(external)
}

fn inbound_udp(log: &ObservationLog, found: &Found) -> Finding<bool> {
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, INBOUND_UDP);
    }
    let tests = || log.of(SILENT);
    let Some(silent) = log.ipv6.silent.filter(|_| tests().next().is_some()) else {
        return by_filter(&found.udp.filtering, INBOUND_UDP);
    };
    let counts = datagram_counts(log, SILENT, silent, log.timed_out_before);
    let finding = if counts.answered > 0 || tests().any(|t| t.successes().any(|answer| answer.on == silent)) {
        Finding::known(true, Confidence::Certain, INBOUND_UDP)
    } else if let Some(code) = tests().find_map(Transaction::error_code) {
        let text = format!("the server refuses to answer to another port (error {code})");
        Finding::unknown((ReasonCode::ServerRefuses, text), INBOUND_UDP)
    } else if tests().any(|t| t.successes().next().is_some()) {
        let text = "the server ignores RESPONSE-PORT: it answers to the port that asked";
        Finding::unknown((ReasonCode::ServerIgnores, text), INBOUND_UDP)
    } else if !log.gives_receipts() {
        let text = "the server confirms no receipt of requests, so that silence proves nothing";
        Finding::unknown((ReasonCode::ServerGivesNoReceipts, text), INBOUND_UDP)
    } else if counts.is_filtered() {
        Finding::known(false, Confidence::Strong, INBOUND_UDP).because(AFTER_SENDING)
    } else {
        Finding::unknown(undecided(log), INBOUND_UDP)
    };
    finding.with("sent", counts.sent).with("arrived", counts.answered)
}

fn inbound_tcp(log: &ObservationLog, found: &Found) -> Finding<bool> {
    if let Some(reason) = nat_before_server(log) {
        return Finding::unknown(reason, INBOUND_TCP);
    }
    let calls = || log.tcp.calls_of(CALL).filter(|call| is_tried(log, call));
    if calls().next().is_none() {
        return by_filter(&found.tcp.filtering, INBOUND_TCP);
    }
    let arrived = calls().filter(|call| call.arrived.is_some()).count();
    let finding = if arrived > 0 {
        Finding::known(true, Confidence::Certain, INBOUND_TCP)
    } else if is_refused_or_silent(log, calls) {
        Finding::known(false, Confidence::Strong, INBOUND_TCP).because(AFTER_SENDING)
    } else {
        Finding::unknown(undecided(log), INBOUND_TCP)
    };
    finding.with("calls", calls().count()).with("arrived", arrived)
}

const AFTER_SENDING: (ReasonCode, &str) =
    (ReasonCode::FilterOpensBySending, "strangers reach ports that have sent something, and no others");

/// Whoever is not let in at a port that has sent something is let in nowhere; the other way round that does not follow.
fn by_filter(filtering: &Finding<Filtering>, method: &str) -> Finding<bool> {
    let unknown = |code, text: &str| Finding::unknown(filtering.reason_or((code, text)), method);
    match filtering.value {
        None => unknown(ReasonCode::FilteringUnknown, "filtering is not known"),
        Some(Filtering::EndpointIndependent) => {
            let text = "strangers reach ports that have sent something; others were not tried";
            Finding::unknown((ReasonCode::Unfinished, text), method)
        }
        Some(_) => {
            let finding = Finding::known(false, filtering.confidence, method);
            match filtering.confidence {
                Confidence::Weak => finding
                    .because(filtering.reason_or((ReasonCode::FilteringUnknown, "filtering is not sure"))),
                _ => finding,
            }
        }
    }
}

fn undecided(log: &ObservationLog) -> Reason {
    if log.ended_early {
        return (ReasonCode::EndedEarly, "the run ended before this was done").into();
    }
    (ReasonCode::TooMuchLoss, "nothing came through, and too much was lost to tell why").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Purpose, made};

    #[test]
    fn a_nat64_is_no_nat66() {
        let mut log = ObservationLog::new(at("[64:ff9b::c633:640a]:3478"));
        let own = made::socket(&mut log, "[2001:db8::2]:50000");
        let mut seen = made::transaction(Purpose::main("test"), own, log.server, RequestKind::Binding);
        seen.responses.push(made::answer(own, log.server, "203.0.113.7:41000"));
        log.transactions.push(seen);
        assert_eq!(translation(&log).value, None);
    }

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn judged(pairs: &[[&str; 2]], second: Option<[&str; 2]>) -> (Ipv6Translation, Confidence) {
        let pairs: Vec<_> = pairs.iter().map(|pair| (at(pair[0]), at(pair[1]))).collect();
        let (value, confidence, reason) = judge(&pairs, second.map(|pair| (at(pair[0]), at(pair[1]))));
        assert_eq!(reason.is_some(), confidence == Confidence::Weak);
        (value, confidence)
    }

    #[test]
    fn untranslated_addresses_keep_their_ports() {
        use Ipv6Translation::{Nat66, None as Untranslated};
        let own = ["[2001:db8::2]:1", "[2001:db8::2]:1"];
        assert_eq!(judged(&[own], None), (Untranslated, Confidence::Certain));
        assert_eq!(
            judged(&[own, ["[2001:db8::2]:2", "[2001:db8::2]:9"]], None),
            (Nat66, Confidence::Certain)
        );
    }

    #[test]
    fn prefix_translation_keeps_the_identifier_or_the_checksum() {
        use Ipv6Translation::Nptv6;
        let telling = ["[fd00:1::aaaa:bbbb:cccc:dddd]:1", "[2001:db8:8::aaaa:bbbb:cccc:dddd]:1"];
        assert_eq!(judged(&[telling], None), (Nptv6, Confidence::Strong));
        let short = ["[fd00:1::2]:1", "[2001:db8:8::2]:1"];
        assert_eq!(judged(&[short], None), (Nptv6, Confidence::Weak));
        assert_eq!(
            judged(&[short], Some(["[fd00:1::3]:5", "[2001:db8:8::3]:5"])),
            (Nptv6, Confidence::Certain)
        );
        // What Linux's SNPT makes of it, which changes bits 64 to 79 of a /64.
        let neutral = ["[fd00:1::2]:1", "[2001:db8:8:0:cf40::2]:1"];
        assert!(is_neutral(at(neutral[0]).ip(), at(neutral[1]).ip()));
        assert_eq!(judged(&[neutral], None), (Nptv6, Confidence::Strong));
    }

    #[test]
    fn a_nat_hides_addresses() {
        use Ipv6Translation::Nat66;
        let hidden = ["[fd00:1::2]:1", "[2001:db8:8::77]:1"];
        assert_eq!(judged(&[hidden], None), (Nat66, Confidence::Strong));
        assert_eq!(
            judged(&[hidden], Some(["[fd00:1::3]:5", "[2001:db8:8::77]:5"])),
            (Nat66, Confidence::Certain)
        );
        // Of a pool, with an identifier that looks the same by chance.
        let alike = ["[fd00:1::2]:1", "[2001:db8:8::2]:1"];
        assert_eq!(
            judged(&[alike], Some(["[fd00:1::3]:5", "[2001:db8:8::9]:5"])),
            (Nat66, Confidence::Strong)
        );
        assert_eq!(judged(&[["[fd00:1::2]:1", "[2001:db8:8::2]:7"]], None), (Nat66, Confidence::Certain));
        let two = [["[fd00:1::2]:1", "[2001:db8:8::2]:1"], ["[fd00:1::2]:2", "[2001:db8:8::3]:2"]];
        assert_eq!(judged(&two, None), (Nat66, Confidence::Certain));
    }
}
