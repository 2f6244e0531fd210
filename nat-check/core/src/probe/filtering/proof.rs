//! Whether the server answers from elsewhere at all when it is asked to (CHANGE-REQUEST, RFC 5780 section 7.2): without
//! that, silence tells nothing of a filter.

use std::sync::Arc;

use shared::nat::Mapping;

use super::{PURPOSE, TESTED, answered, control_tally};
use crate::{
    loss_test::LIKELY,
    observation::{ObservationLog, Purpose, RequestKind, Response, Transaction},
    probe::{Found, Measured, slot},
    report::{Confidence, Finding, Reason, ReasonCode},
    server_endpoints::ServerEndpoint,
    server_endpoints::{AlternateFault, ServerEndpoints},
    session::{Request, Session},
};

/// What the requests that show it are sent for.
pub(super) const PROOF: Purpose = PURPOSE.role("proof");
/// Requests for a proof, at the most: so many unanswered ones on a clean way prove the opposite.
const PROOFS: u32 = 5;

/// Behind a filter, and without receipts, silence may also mean that the server never answers from elsewhere. The
/// socket of the mapping test has sent to all four endpoints: what it asks for must come in, if it is sent.
pub(super) async fn prove_the_server(session: Arc<Session>) {
    let Some(socket) = session.retained_sockets(|retained| retained.mapping.clone()) else { return };
    let unproven = |log: &ObservationLog| {
        let open = |kind: &ServerEndpoint| !honours(log, *kind) && !is_misdirected(log, *kind);
        let possible = obstacle(log).is_none();
        TESTED.into_iter().filter(|kind| possible && open(kind)).collect::<Vec<_>>()
    };
    for _ in 0..PROOFS {
        let kinds = session.read(unproven);
        if kinds.is_empty() {
            return;
        }
        let (round, endpoints) = (session.round(), session.endpoints());
        for kind in kinds {
            // The NAT may have dropped the mapping or the filter's entry since the mapping test.
            let opens = endpoints.get(kind).map(|to| (to, RequestKind::Binding));
            let asks = (session.server(), RequestKind::ChangeRequest(kind));
            for (to, kind) in opens.into_iter().chain([asks]) {
                session.send(&socket, Request { purpose: PROOF, to, kind, round }).await;
            }
        }
        let response_timeout = session.response_timeout();
        session.until(session.now() + response_timeout, |log| unproven(log).is_empty()).await;
    }
}

/// What it finds out about the server.
pub(super) struct ChangeRequest;

impl Measured for ChangeRequest {
    type Value = bool;
    const KEY: &'static str = "change_request";
    const LABEL: &'static str = "CHANGE-REQUEST";
    const OF_THE_NAT: bool = false;
    slot!(server.change_request);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<bool> {
        server_can(log, found)
    }

    fn text(value: &bool) -> String {
        if *value { "honoured" } else { "not honoured" }.into()
    }
}

/// Whether the server answers from elsewhere on request: a feature of the server.
#[must_use]
fn server_can(log: &ObservationLog, found: &Found) -> Finding<bool> {
    const METHOD: &str = "RFC 5780 7.2, answers from elsewhere, or receipts that say so";
    let asked = log.transactions.iter().filter(|t| matches!(t.kind, RequestKind::ChangeRequest(_))).count();
    let proven = TESTED.into_iter().any(|kind| honours(log, kind));
    let finding = match (obstacle(log).or_else(|| half_hearted(log, found)), proven) {
        (None, true) => Finding::known(true, Confidence::Certain, METHOD),
        (Some(reason), true) => Finding::known(false, Confidence::Strong, METHOD).because(reason),
        (Some(reason), false) => Finding::known(false, Confidence::Certain, METHOD).because(reason),
        (None, false) if asked == 0 => Finding::not_asked_for(METHOD),
        (None, false) => Finding::unknown(
            (ReasonCode::ServerNotProven, "no answer from the alternate endpoint; cause unknown"),
            METHOD,
        ),
    };
    finding.with("asked", asked)
}

/// Which part of CHANGE-REQUEST the server does not honour, in a sentence.
pub(crate) fn half_hearted(log: &ObservationLog, found: &Found) -> Option<Reason> {
    let broken: Vec<&str> = TESTED
        .into_iter()
        .filter(|&kind| is_misdirected(log, kind) || is_disproved(log, found, kind))
        .map(ServerEndpoint::described)
        .collect();
    (!broken.is_empty() && obstacle(log).is_none()).then(|| {
        let which = broken.join(", nor from ");
        let text = format!("the server does not answer from {which} when it is asked to (CHANGE-REQUEST)");
        (ReasonCode::ServerHonoursPart, text).into()
    })
}

/// What in the server stands against the test.
pub(super) fn obstacle(log: &ObservationLog) -> Option<Reason> {
    let asked = || log.transactions.iter().filter(|t| matches!(t.kind, RequestKind::ChangeRequest(_)));
    if TESTED.iter().any(|&kind| answered(log, kind)) {
        return None;
    }
    if let Some(code) = asked().find_map(Transaction::error_code) {
        let text = format!("the server refuses to answer from elsewhere (CHANGE-REQUEST: error {code})");
        return Some((ReasonCode::ServerRefuses, text).into());
    }
    if asked().any(|t| t.direct().is_some()) {
        return Some(
            (
                ReasonCode::ServerIgnores,
                "the server ignores CHANGE-REQUEST: it answers from the address that was asked, which tells \
                 nothing of filters",
            )
                .into(),
        );
    }
    match ServerEndpoints::of(log.server, log).fault() {
        Some(fault @ AlternateFault::Missing) => Some(fault.reason()),
        _ => None,
    }
}

/// Whether the server is known to answer from this endpoint when asked to; unknown where this is false.
pub(super) fn honours(log: &ObservationLog, kind: ServerEndpoint) -> bool {
    let proves = |t: &Transaction| t.kind == RequestKind::ChangeRequest(kind) && came_from(t, kind);
    log.gives_receipts() || log.of(PURPOSE).chain(log.of(PROOF)).any(proves)
}

/// Whether the server answered from somewhere else than it was asked to: it honours half of the request.
pub(super) fn is_misdirected(log: &ObservationLog, kind: ServerEndpoint) -> bool {
    let astray = |t: &Transaction| {
        t.kind == RequestKind::ChangeRequest(kind) && t.successes().next().is_some() && !came_from(t, kind)
    };
    log.of(PURPOSE).chain(log.of(PROOF)).any(astray)
}

/// Whether a socket that had opened every filter towards this endpoint still heard nothing from it: the server never
/// answers from there. It takes a mapping that stays the same, else the answer goes to a closed one.
pub(super) fn is_disproved(log: &ObservationLog, found: &Found, kind: ServerEndpoint) -> bool {
    let endpoint = ServerEndpoints::of(log.server, log).get(kind);
    // The packet to the endpoint just before has opened the way, as its own answer shows.
    let opened =
        |round| log.of(PROOF).any(|t| t.round == round && Some(t.to) == endpoint && t.direct().is_some());
    let asked = log
        .of(PROOF)
        .filter(|t| t.kind == RequestKind::ChangeRequest(kind) && t.sent <= log.timed_out_before)
        .filter(|t| opened(t.round));
    let stays = matches!(found.udp.mapping.value, Some(Mapping::Direct | Mapping::EndpointIndependent));
    let mut tally = control_tally(log, log.timed_out_before, kind);
    tally.silent = asked.count() as u32;
    stays && !honours(log, kind) && tally.log_ratio() <= LIKELY
}

/// Judged by what the source differs in from the endpoint that was asked, so that a server that misnames its
/// alternate address cannot mislead.
pub(super) fn came_from(transaction: &Transaction, kind: ServerEndpoint) -> bool {
    transaction.successes().any(|a| is_from(transaction, a, kind))
}

pub(super) fn is_from(transaction: &Transaction, answer: &Response, kind: ServerEndpoint) -> bool {
    (answer.from.ip() != transaction.to.ip()) == kind.other_ip
        && (answer.from.port() != transaction.to.port()) == kind.other_port
}
