//! The conclusion about TCP filtering: a call that arrives is proof; a rejected one, too; silence is judged by the loss test.

use shared::{
    nat::Filtering,
    test_session::{Source, SourceAddress},
};

use super::PURPOSE;
use crate::{
    loss_test::{DECIDED, LIKELY},
    observation::{ObservationLog, call::Call},
    probe::{
        tcp_calls::{
            counts, is_rejected_at_the_server, is_tried, log_ratio, rejected_at_the_server, rejection,
            why_no_calls,
        },
        tcp_mapping::interception,
        tcp_simultaneous_open,
    },
    report::{Confidence, Finding, Reason, ReasonCode},
};

const METHOD: &str = "RFC 5382 REQ-3, connections of the server to a listening port";
/// log10 of the likelihood ratio at which a filter by port numbers alone is ruled out where UDP has shown another filter: no
/// RFC has such a class, so that a device that has it for TCP alone is rarer than 1 in 100. Such a call can be made only once
/// at a time.
const NO_PORT_FILTER: f64 = -2.0;

/// What is told apart: where calls come from, with its name in the evidence.
const GROUPS: [(&str, SourceAddress, Source); 3] = [
    ("other_address", SourceAddress::Alternate, Source::Ephemeral),
    ("other_port", SourceAddress::Primary, Source::Ephemeral),
    ("contacted_port_of_other_address", SourceAddress::Alternate, Source::Pending),
];

/// Whether a call from there has arrived.
pub(super) fn came(log: &ObservationLog, from: SourceAddress, source: Source) -> bool {
    calls(log, from, source).any(|call| call.arrived.is_some())
}

/// Whether more calls would add nothing.
pub(super) fn is_decided(log: &ObservationLog) -> bool {
    let [address, port, same_port] = groups(log);
    judge(address, port, same_port, DECIDED).confidence >= Confidence::Strong
}

/// Draws the conclusion.
pub(super) fn conclude(log: &ObservationLog, udp: &Finding<Filtering>) -> Finding<Filtering> {
    if log.tcp.calls_of(PURPOSE).all(|call| !is_tried(log, call)) {
        return Finding::unknown(why_no_calls(log), METHOD);
    }
    let [address, port, same_port] = groups(log);
    let judged = judge(address, port, same_port, no_port_filter(udp));
    let mut finding = of_this_host(log, unlike_udp(doubted(log, judged), udp));
    let elsewhere = log.tcp.calls_of(PURPOSE).filter(|call| is_rejected_at_the_server(log, call)).count();
    if elsewhere > 0 {
        let unknown = || Finding::unknown(rejected_at_the_server(), METHOD);
        finding = if finding.value.is_none() { unknown() } else { finding };
        finding = finding.with("rejected_at_the_server", elsewhere);
    }
    for (name, from, source) in GROUPS {
        let arrived = calls(log, from, source).filter(|call| call.arrived.is_some()).count();
        let rejected = calls(log, from, source).filter(|call| rejection(log, call).is_some()).count();
        let facts = [calls(log, from, source).count(), arrived, rejected];
        finding = finding.with(&format!("{name}_asked_arrived_rejected"), facts);
    }
    finding
}

/// What came of the calls of each kind. Where another external endpoint belongs to each port of the server, the one that was
/// asked for has not contacted the port number that the last kind comes from: then those calls say nothing.
fn groups(log: &ObservationLog) -> [Group; 3] {
    let [address, port, same_port] = GROUPS.map(|(_, from, source)| Group::of(log, from, source));
    let follows = tcp_simultaneous_open::can_arrive(log);
    [address, port, if follows { same_port } else { Group::NotAsked }]
}

fn calls(log: &ObservationLog, from: SourceAddress, source: Source) -> impl Iterator<Item = &Call> {
    log.tcp.calls_of(PURPOSE).filter(move |call| call.from == from && call.source == source)
}

/// What came of the calls from one kind of source.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Group {
    /// None was made.
    NotAsked,
    /// One arrived.
    Open,
    /// So many were rejected, and none arrived.
    Rejected(usize),
    /// Nothing was heard: log10 of the chance that this is loss.
    Silent(f64),
}

impl Group {
    fn of(log: &ObservationLog, from: SourceAddress, source: Source) -> Self {
        let mut tried = calls(log, from, source).filter(|call| is_tried(log, call)).peekable();
        if tried.peek().is_none() {
            return Self::NotAsked;
        }
        if came(log, from, source) {
            return Self::Open;
        }
        match calls(log, from, source).filter(|call| rejection(log, call).is_some()).count() {
            0 => Self::Silent(log_ratio(&counts(log, calls(log, from, source)))),
            rejected => Self::Rejected(rejected),
        }
    }

    /// How sure it is that nothing gets in from there, where this likelihood ratio decides it.
    fn closed(self, decided: f64) -> Confidence {
        match self {
            // The server alone says so, and one answer may be about something else.
            Self::Rejected(1) => Confidence::Strong,
            Self::Rejected(_) => Confidence::Certain,
            Self::Silent(ratio) if ratio <= decided => Confidence::Strong,
            Self::Silent(ratio) if ratio <= LIKELY.max(decided / 2.0) => Confidence::Weak,
            Self::Silent(_) | Self::Open | Self::NotAsked => Confidence::Unknown,
        }
    }
}

/// Silence proves nothing where the server may not be able to connect at all.
fn doubted(log: &ObservationLog, finding: Finding<Filtering>) -> Finding<Filtering> {
    if finding.value.is_none() || finding.value == Some(Filtering::EndpointIndependent) {
        return finding;
    }
    let other = log.tcp.connections.iter().any(|c| c.to.ip() != log.server.ip() && c.handshake().is_some());
    if !other && calls(log, SourceAddress::Alternate, Source::Ephemeral).next().is_some() {
        let text = "the server's other address has not answered over TCP: its connections may not get out";
        return finding.at_most(Confidence::Weak).because((ReasonCode::AlternateAddressSilent, text));
    }
    if !got_out(log) && log.tcp.calls_of(tcp_simultaneous_open::PURPOSE).any(Call::counts) {
        let text = "no connection of the server arrived or was rejected at all: they may not get out";
        return finding.at_most(Confidence::Weak).because((ReasonCode::ServerNotProven, text));
    }
    finding
}

/// Where connections are answered on the way, the port that the server connects to is not this host's. Only what arrived here
/// tells something of the way to it.
fn of_this_host(log: &ObservationLog, finding: Finding<Filtering>) -> Finding<Filtering> {
    match finding.value {
        Some(Filtering::EndpointIndependent) => finding,
        _ => interception::of_this_host(log, finding),
    }
}

/// What calls need to be answered passes the line a round trip later than the controls beside them, so that one burst of loss
/// can take all of it. Silence alone is strong only where it shows what UDP has shown.
fn unlike_udp(finding: Finding<Filtering>, udp: &Finding<Filtering>) -> Finding<Filtering> {
    let is_like_udp = udp.value == finding.value && udp.confidence >= Confidence::Strong;
    if finding.confidence != Confidence::Strong || is_like_udp {
        return finding;
    }
    let text =
        "over UDP no such filter was found: connections that did not arrive may have been lost together";
    finding.at_most(Confidence::Weak).because((ReasonCode::LossLeavesDoubt, text))
}

/// Whether any SYN of the server is known to have left it: it arrived, or was rejected. Where a simultaneous open cannot
/// arrive, as the mapping depends on the destination, the server's offer is believed.
fn got_out(log: &ObservationLog) -> bool {
    let has = |call: &Call| call.arrived.is_some() || rejection(log, call).is_some();
    log.tcp.calls.iter().any(has) || !tcp_simultaneous_open::can_arrive(log)
}

/// At which likelihood ratio a filter by port numbers alone is ruled out, after what UDP has shown.
fn no_port_filter(udp: &Finding<Filtering>) -> f64 {
    match udp.value {
        None | Some(Filtering::PortDependent) => DECIDED,
        Some(_) if udp.confidence < Confidence::Strong => DECIDED,
        Some(_) => NO_PORT_FILTER,
    }
}

fn judge(address: Group, port: Group, same_port: Group, no_port_filter: f64) -> Finding<Filtering> {
    let doubt = || (ReasonCode::LossLeavesDoubt, "connections that did not arrive may have been lost");
    let known = |value, confidence: Confidence| match confidence {
        Confidence::Unknown => Finding::unknown((ReasonCode::TooMuchLoss, doubt().1), METHOD),
        Confidence::Weak => Finding::known(value, confidence, METHOD).because(doubt()),
        Confidence::Strong | Confidence::Certain => Finding::known(value, confidence, METHOD),
    };
    match (address, port, same_port) {
        (Group::Open, ..) => Finding::known(Filtering::EndpointIndependent, Confidence::Certain, METHOD),
        (Group::NotAsked, Group::Open, _) => Finding::unknown(no_alternate(), METHOD),
        (_, Group::Open, Group::Open) => {
            let text = "connections from contacted addresses and from contacted port numbers are let in, others are not";
            Finding::unknown((ReasonCode::NoClass, text), METHOD)
        }
        (_, Group::Open, _) => known(Filtering::AddressDependent, address.closed(DECIDED)),
        (_, _, Group::Open) => {
            known(Filtering::PortDependent, address.closed(DECIDED).min(port.closed(DECIDED)))
        }
        (_, _, Group::NotAsked) => {
            let text = "the server cannot connect from a port number that was contacted at its first address";
            match port.closed(DECIDED) {
                Confidence::Unknown => known(Filtering::AddressAndPortDependent, Confidence::Unknown),
                _ => Finding::known(Filtering::AddressAndPortDependent, Confidence::Weak, METHOD)
                    .because((ReasonCode::ServerHonoursPart, text)),
            }
        }
        _ => {
            let confidence = port.closed(DECIDED).min(same_port.closed(no_port_filter));
            known(Filtering::AddressAndPortDependent, confidence)
        }
    }
}

fn no_alternate() -> Reason {
    (ReasonCode::ServerHasNoAlternate, "the server has no other address to connect from").into()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use shared::test_session::SynOutcome;

    use super::*;
    use crate::observation::{
        call::CallResult,
        made,
        tcp::{Outcome, OutcomeKind},
    };

    fn found(address: Group, port: Group, same_port: Group) -> (Option<Filtering>, Confidence) {
        let finding = judge(address, port, same_port, NO_PORT_FILTER);
        (finding.value, finding.confidence)
    }

    #[test]
    fn what_arrives_is_proof() {
        use Group::{NotAsked, Open, Rejected, Silent};
        let certain = |filtering| (Some(filtering), Confidence::Certain);
        let strong = |filtering| (Some(filtering), Confidence::Strong);
        assert_eq!(found(Open, Open, Open), certain(Filtering::EndpointIndependent));
        assert_eq!(found(Rejected(2), Open, Rejected(2)), certain(Filtering::AddressDependent));
        assert_eq!(found(Rejected(2), Rejected(2), Open), certain(Filtering::PortDependent));
        assert_eq!(found(Rejected(2), Rejected(2), Rejected(2)), certain(Filtering::AddressAndPortDependent));
        assert_eq!(found(Rejected(1), Open, Rejected(1)), strong(Filtering::AddressDependent));
        assert_eq!(found(Rejected(2), Rejected(1), Open), strong(Filtering::PortDependent));
        assert_eq!(found(Silent(-9.0), Open, Open), (None, Confidence::Unknown), "no class");
        assert_eq!(found(NotAsked, Open, NotAsked), (None, Confidence::Unknown), "one address");
    }

    #[test]
    fn a_filter_by_port_numbers_is_ruled_out_sooner_where_udp_has_another_one() {
        use Group::Silent;
        let found = |udp| judge(Silent(-5.0), Silent(-5.0), Silent(-2.1), no_port_filter(&udp)).confidence;
        let udp = |filtering, confidence| Finding::known(filtering, confidence, "test");
        let strict = Filtering::AddressAndPortDependent;
        assert_eq!(found(udp(strict, Confidence::Strong)), Confidence::Strong);
        assert!(found(udp(strict, Confidence::Weak)) < Confidence::Strong);
        assert!(found(udp(Filtering::PortDependent, Confidence::Certain)) < Confidence::Strong);
        assert!(
            found(Finding::unknown((ReasonCode::NoAnswer, "UDP is blocked"), "test")) < Confidence::Strong
        );
    }

    #[test]
    fn silence_counts_as_much_as_the_loss_allows() {
        use Group::{NotAsked, Open, Silent};
        let strict = Some(Filtering::AddressAndPortDependent);
        assert_eq!(found(Silent(-1.8), Silent(-4.1), Silent(-2.1)), (strict, Confidence::Strong));
        assert_eq!(found(Silent(-1.8), Silent(-4.1), Silent(-1.5)), (strict, Confidence::Weak));
        assert_eq!(found(Silent(-1.8), Silent(-3.1), Silent(-2.1)), (strict, Confidence::Weak));
        assert_eq!(found(Silent(-1.8), Silent(-1.8), Silent(-2.1)), (None, Confidence::Unknown));
        assert_eq!(found(Silent(-1.8), Silent(-4.1), NotAsked), (strict, Confidence::Weak));
        let open = Some(Filtering::AddressDependent);
        assert_eq!(found(Silent(-4.2), Open, Silent(-2.0)), (open, Confidence::Strong));
        assert_eq!(found(Silent(-1.0), Open, Silent(-2.0)), (None, Confidence::Unknown));
    }

    #[test]
    fn silence_that_shows_another_filter_than_udp_did_may_be_one_burst_of_loss() {
        let udp = |value, confidence| Finding::known(value, confidence, METHOD);
        let silent = || judge(Group::Silent(-4.2), Group::Open, Group::Silent(-2.0), NO_PORT_FILTER);
        let confidence = |finding: Finding<Filtering>| (finding.confidence, finding.reason_code);
        let (same, other) = (Filtering::AddressDependent, Filtering::EndpointIndependent);
        let doubted = (Confidence::Weak, Some(ReasonCode::LossLeavesDoubt));
        assert_eq!(confidence(unlike_udp(silent(), &udp(same, Confidence::Strong))).0, Confidence::Strong);
        assert_eq!(confidence(unlike_udp(silent(), &udp(same, Confidence::Weak))), doubted);
        assert_eq!(confidence(unlike_udp(silent(), &udp(other, Confidence::Certain))), doubted);
        let rejected = judge(Group::Rejected(2), Group::Open, Group::Rejected(2), NO_PORT_FILTER);
        let found = unlike_udp(rejected, &udp(other, Confidence::Certain));
        assert_eq!(found.confidence, Confidence::Certain, "a rejection is no loss");
    }

    /// Behind an open NAT, 20 ms away from a server whose connections from its other address something rejects.
    fn rejected_elsewhere(after_ms: u64) -> Finding<Filtering> {
        let mut log = made::without_loss();
        let call = |from| made::call(PURPOSE, from, Source::Ephemeral);
        let after = Duration::from_millis(after_ms);
        let result = Some(CallResult::Tried { outcome: SynOutcome::Refused, after });
        let arrived = Some(Duration::from_millis(1020));
        for _ in 0..3 {
            log.tcp.calls.push(Call { arrived, ..call(SourceAddress::Primary) });
            log.tcp.calls.push(Call { result, ..call(SourceAddress::Alternate) });
        }
        let answered = log.tcp.begin(PURPOSE, None, made::at(made::OTHER), Duration::ZERO);
        let connected = Outcome { kind: OutcomeKind::Connected, at: Duration::from_millis(25) };
        log.tcp.connections[answered].outcome = Some(connected);
        conclude(&log, &Finding::known(Filtering::EndpointIndependent, Confidence::Certain, "test"))
    }

    #[test]
    fn what_the_servers_own_side_rejects_is_no_filter_of_this_one() {
        let near = rejected_elsewhere(1);
        assert_eq!((near.value, near.reason_code), (None, Some(ReasonCode::ServerNotProven)));
        let far = rejected_elsewhere(20);
        assert_eq!((far.value, far.confidence), (Some(Filtering::AddressDependent), Confidence::Certain));
    }

    #[test]
    fn where_connections_are_answered_on_the_way_only_what_arrives_counts() {
        let judged = |value| {
            let mut log = made::without_loss();
            interception::made_shown(&mut log);
            of_this_host(&log, Finding::known(value, Confidence::Certain, METHOD))
        };
        let strict = judged(Filtering::AddressAndPortDependent);
        assert_eq!((strict.value, strict.reason_code), (None, Some(ReasonCode::ConnectionsIntercepted)));
        assert_eq!(judged(Filtering::EndpointIndependent).confidence, Confidence::Certain);
    }
}
