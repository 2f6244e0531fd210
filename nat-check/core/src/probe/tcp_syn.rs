//! What a SYN from outside gets that nothing asked for, and after how long (RFC 5382 REQ-4): silence, so that two sides can
//! open a connection at the same time, or an answer that makes the first of them give up. The calls of the filtering test show
//! it; a late answer takes 6 s, and is waited for only when this measurement is asked for by name.

use std::{sync::Arc, time::Duration};

use shared::test_session::{Source, SourceAddress, SynOutcome};
use tokio::time::sleep;

use super::{
    measured::Transport,
    tcp_calls::{Caller, counts, end_of, is_tried, log_ratio, rejection, why_no_calls},
    tcp_filtering,
    tcp_mapping::interception,
};
use crate::{
    loss_test::{DECIDED, LIKELY},
    observation::{
        ObservationLog, Purpose,
        call::{Call, CallResult},
    },
    probe::{Found, Measured, Merge, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode, SynAnswer, UnsolicitedSyn, number},
    session::{CallRequest, Session},
};

/// What its calls are for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("tcp-syn");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "what unsolicited TCP connections from outside get; asked for by name, late answers are waited for",
    needs: &["tcp-mapping", "tcp-filtering"],
    steps: &[Step { stage: Stage::Tcp, run: |session| Box::pin(run(session)) }],
    udp: &[],
    tcp: &[Slot::of::<SynAnswered>()],
    server: &[],
};

/// What it finds out.
struct SynAnswered;

impl Measured for SynAnswered {
    type Value = UnsolicitedSyn;
    const KEY: &'static str = "unsolicited_syn";
    const LABEL: &'static str = "Unsolicited SYN";
    const LINE_KEY: Option<&'static str> = None;
    const TRANSPORT: Transport = Transport::Tcp;
    slot!(tcp.unsolicited_syn);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<UnsolicitedSyn> {
        interception::of_this_host(log, conclude(log, found))
    }

    // How long nothing came, or an answer took, is another time with each server.
    fn merge(merge: Merge<'_>, mine: &mut Finding<UnsolicitedSyn>, other: &Finding<UnsolicitedSyn>) {
        let answer = |finding: &Finding<UnsolicitedSyn>| finding.value.map(|value| value.answer);
        match answer(mine) == answer(other) {
            true => merge.surest(mine, other),
            false => merge.agree(mine, other),
        }
    }

    fn text(value: &UnsolicitedSyn) -> String {
        let seconds = number(value.after_s);
        match value.answer {
            SynAnswer::Drop => format!("dropped: nothing came within {seconds} s"),
            SynAnswer::Reset => format!("answered with a reset after {seconds} s"),
            SynAnswer::Icmp => format!("answered with ICMP unreachable after {seconds} s"),
        }
    }

    #[cfg(feature = "sim")]
    fn expected_tcp(nat: &shared::nat::model::TcpBehaviour) -> Option<serde_json::Value> {
        use shared::nat::model::spec::Refusal;
        let (refusal, after) = nat.unsolicited_syn?;
        let answer = match refusal {
            Refusal::Drop => SynAnswer::Drop,
            // How long is waited for a late answer depends on the run.
            Refusal::Reset | Refusal::Unreachable if !after.is_zero() => return None,
            Refusal::Reset => SynAnswer::Reset,
            Refusal::Unreachable => SynAnswer::Icmp,
        };
        Some(serde_json::json!({ "answer": answer }))
    }
}

const METHOD: &str = "RFC 5382 REQ-4, connections of the server that are not let in";
/// Calls that wait for a late answer.
const LATE_CALLS: usize = 4;
/// Between them.
const INTERVAL: Duration = Duration::from_millis(50);
/// How long the server waits for a late answer.
const LATE: Duration = Duration::from_secs(7);
/// The same, and the way to and fro.
const LATE_AND_BACK: Duration = Duration::from_millis(7500);

async fn run(session: Arc<Session>) {
    if !session.is_patient() {
        return;
    }
    session.tcp_filtering_over().await;
    let Some(test) = session.test_session().await else { return };
    let filtered = |log: &ObservationLog| {
        let first = log.tcp.calls_of(tcp_filtering::PURPOSE).next().map(|call| call.to);
        let open = |from| tcp_filtering::came(log, from);
        let closed = [SourceAddress::Primary, SourceAddress::Alternate].into_iter().find(|from| !open(*from));
        first.zip(closed)
    };
    let Some((to, from)) = session.read(filtered) else { return };
    let caller = Caller { session: &session, test: &test, to };
    for _ in 0..LATE_CALLS {
        sleep(INTERVAL).await;
        let (source, put_off) = (Source::Ephemeral, Duration::ZERO);
        caller.call(CallRequest { purpose: PURPOSE, from, source, to, put_off, wait: LATE }).await;
    }
    caller.settle(PURPOSE).await;
    let told = |log: &ObservationLog| log.tcp.calls_of(PURPOSE).all(|call| call.result.is_some());
    session.until(session.now() + LATE_AND_BACK, told).await;
}

fn conclude(log: &ObservationLog, found: &Found) -> Finding<UnsolicitedSyn> {
    let calls = || {
        let calls = log.tcp.calls_of(tcp_filtering::PURPOSE).chain(log.tcp.calls_of(PURPOSE));
        calls.filter(|call| is_tried(log, call) && call.arrived.is_none())
    };
    let outcomes: Vec<_> = calls().map(|call| call.outcome()).collect();
    if log.tcp.calls_of(tcp_filtering::PURPOSE).all(|call| !is_tried(log, call)) {
        return Finding::unknown(why_no_calls(log), METHOD);
    }
    let rejections = calls().filter_map(|call| rejection(log, call));
    if let Some((outcome, after)) = rejections.min_by_key(|(_, after)| *after) {
        let answer = if outcome == SynOutcome::Refused { SynAnswer::Reset } else { SynAnswer::Icmp };
        let rejected = calls().filter(|call| rejection(log, call).is_some()).count();
        // The server alone says so, and one answer may be about something else.
        let sure = if rejected > 1 { Confidence::Certain } else { Confidence::Strong };
        return Finding::known(UnsolicitedSyn::new(answer, seconds(after)), sure, METHOD)
            .with("calls", outcomes.len())
            .with("rejected", rejected);
    }
    if found.tcp.filtering.value == Some(shared::nat::Filtering::EndpointIndependent) {
        let text = "nothing is filtered: every SYN reaches the host";
        return Finding::unknown((ReasonCode::NoFilter, text), METHOD);
    }
    let finding = silence(log, &calls().collect::<Vec<_>>());
    let finding = match found.tcp.filtering.reason_code {
        // Where it is not sure that they were filtered, it is not that they were dropped.
        Some(ReasonCode::LossLeavesDoubt) => {
            let text = "the connections that were not let in may have been lost";
            finding.at_most(Confidence::Weak).because((ReasonCode::LossLeavesDoubt, text))
        }
        _ => finding,
    };
    finding.with("calls", outcomes.len()).with("rejected", 0)
}

/// Nothing came back: for the longest time for which enough calls were watched.
fn silence(log: &ObservationLog, calls: &[&Call]) -> Finding<UnsolicitedSyn> {
    let watched = |call: &Call| match call.result {
        Some(CallResult::Tried { after, .. }) => after,
        Some(CallResult::Declined) | None => {
            let way = log.tcp.quickest(log.server).unwrap_or_default();
            end_of(log).saturating_sub(call.begun() + way).min(call.wait)
        }
    };
    let mut times: Vec<Duration> = calls.iter().map(|call| watched(call)).collect();
    times.sort_unstable();
    for (decided, confidence) in [(DECIDED, Confidence::Strong), (LIKELY, Confidence::Weak)] {
        let enough = |least: &&Duration| {
            let calls = calls.iter().copied().filter(|call| watched(call) >= **least);
            log_ratio(&counts(log, calls)) <= decided
        };
        if let Some(longest) = times.iter().rev().find(enough) {
            let finding =
                Finding::known(UnsolicitedSyn::new(SynAnswer::Drop, seconds(*longest)), confidence, METHOD);
            let doubt = (ReasonCode::LossLeavesDoubt, "answers that did not come may have been lost");
            return if confidence == Confidence::Weak { finding.because(doubt) } else { finding };
        }
    }
    let text = "too few connections were tried for the silence to mean anything under this loss";
    Finding::unknown((ReasonCode::TooMuchLoss, text), METHOD)
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::made;

    fn call(result: Option<CallResult>) -> Call {
        let call = made::call(tcp_filtering::PURPOSE, SourceAddress::Primary, Source::Ephemeral);
        Call { result, ..call }
    }

    fn tried(outcome: SynOutcome, after_ms: u64) -> Option<CallResult> {
        Some(CallResult::Tried { outcome, after: Duration::from_millis(after_ms) })
    }

    fn found(calls: Vec<Call>) -> (Option<UnsolicitedSyn>, Confidence) {
        let mut log = made::without_loss();
        log.tcp.calls = calls;
        let finding = conclude(&log, &Found::default());
        (finding.value, finding.confidence)
    }

    #[test]
    fn two_answers_are_proof_and_the_quickest_one_counts() {
        let reset =
            vec![call(None), call(tried(SynOutcome::Refused, 30)), call(tried(SynOutcome::Refused, 20))];
        assert_eq!(found(reset), (Some(UnsolicitedSyn::new(SynAnswer::Reset, 0.02)), Confidence::Certain));
        let icmp = vec![call(tried(SynOutcome::Unreachable, 6010))];
        assert_eq!(
            found(icmp),
            (Some(UnsolicitedSyn::new(SynAnswer::Icmp, 6.01)), Confidence::Strong),
            "one"
        );
        let near = vec![call(tried(SynOutcome::Refused, 1)); 2];
        assert_eq!(found(near), (None, Confidence::Unknown), "the server's own side");
    }

    #[test]
    fn what_answers_in_this_hosts_place_says_nothing_of_it() {
        let mut log = made::without_loss();
        log.tcp.calls = vec![call(tried(SynOutcome::Refused, 20)); 3];
        interception::made_shown(&mut log);
        let finding = SynAnswered::conclude(&log, &Found::default());
        assert_eq!((finding.value, finding.reason_code), (None, Some(ReasonCode::ConnectionsIntercepted)));
    }

    #[test]
    fn silence_counts_for_as_long_as_enough_calls_were_watched() {
        let drop = |after_s| (Some(UnsolicitedSyn::new(SynAnswer::Drop, after_s)), Confidence::Strong);
        let short = || call(tried(SynOutcome::Timeout, 3000));
        assert_eq!(found(vec![short(), short(), short(), short()]), drop(3.0));
        let late = || call(tried(SynOutcome::Timeout, 7000));
        assert_eq!(found(vec![short(), short(), short(), late()]), drop(3.0), "one is too few");
        assert_eq!(found(vec![short(), late(), late(), late(), late()]), drop(7.0));
        assert_eq!(found(vec![short()]), (None, Confidence::Unknown));
    }

    #[test]
    fn what_was_not_tried_and_what_arrived_say_nothing() {
        assert_eq!(found(vec![call(Some(CallResult::Declined)); 5]), (None, Confidence::Unknown));
        let arrived = Call { arrived: Some(Duration::from_secs(1)), ..call(None) };
        assert_eq!(found(vec![arrived; 5]), (None, Confidence::Unknown));
    }
}
