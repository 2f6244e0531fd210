//! Whether the server answers from elsewhere at all when it is asked to (CHANGE-REQUEST, RFC 5780 section 7.2): without
//! that, silence tells nothing of a filter.

use std::sync::Arc;

use shared::nat::Mapping;

use super::{PROBE, TESTED, answered, control_tally};
use crate::{
    ledger::{Answer, Ask, Ledger, Place, Trial},
    probe::mapping,
    report::{Confidence, Finding},
    server::{AlternateFault, Places},
    session::{Request, Session},
    silence::LIKELY,
};

/// The name of the trials that show it.
const PROOF: &str = "filtering-proof";
/// Requests for a proof, at the most: so many unanswered ones on a clean way prove the opposite.
const PROOFS: u32 = 5;

/// Behind a filter, and without receipts, silence may also mean that the server never answers from elsewhere. The
/// socket of the mapping test has sent to all four endpoints: what it asks for must come in, if it is sent.
pub(super) async fn prove_the_server(session: Arc<Session>) {
    let Some(socket) = session.slots(|slots| slots.mapping.clone()) else { return };
    let unproven = |ledger: &Ledger| {
        let open = |kind: &Place| !honours(ledger, *kind) && !is_misdirected(ledger, *kind);
        let possible = obstacle(ledger).is_none();
        TESTED.into_iter().filter(|kind| possible && open(kind)).collect::<Vec<_>>()
    };
    for _ in 0..PROOFS {
        let kinds = session.read(unproven);
        if kinds.is_empty() {
            return;
        }
        let round = session.round();
        for kind in kinds {
            let request = Request { purpose: PROOF, to: session.server(), ask: Ask::From(kind), round };
            session.send(&socket, request).await;
        }
        let patience = session.patience();
        session.until(session.now() + patience, |ledger| unproven(ledger).is_empty()).await;
    }
}

/// Whether the server answers from elsewhere on request: a feature of the server.
#[must_use]
pub(crate) fn server_can(ledger: &Ledger) -> Finding<bool> {
    const METHOD: &str = "RFC 5780 7.2, answers from elsewhere, or receipts that say so";
    let asked = ledger.trials.iter().filter(|t| matches!(t.ask, Ask::From(_))).count();
    let proven = TESTED.into_iter().any(|kind| honours(ledger, kind));
    let finding = match (obstacle(ledger).or_else(|| half_hearted(ledger)), proven) {
        (None, true) => Finding::known(true, Confidence::Certain, METHOD),
        (Some(reason), true) => Finding::known(false, Confidence::Strong, METHOD).because(reason),
        (Some(reason), false) => Finding::known(false, Confidence::Certain, METHOD).because(reason),
        (None, false) if asked == 0 => Finding::unknown("not asked for", METHOD),
        (None, false) => Finding::unknown("no answer came from elsewhere, and nothing tells why", METHOD),
    };
    finding.with("asked", asked)
}

/// Which part of CHANGE-REQUEST the server does not honour, in a sentence.
pub(crate) fn half_hearted(ledger: &Ledger) -> Option<String> {
    let broken: Vec<&str> = TESTED
        .into_iter()
        .filter(|&kind| is_misdirected(ledger, kind) || is_disproved(ledger, kind))
        .map(Place::described)
        .collect();
    (!broken.is_empty() && obstacle(ledger).is_none()).then(|| {
        format!(
            "the server does not answer from {} when it is asked to (CHANGE-REQUEST)",
            broken.join(", nor from ")
        )
    })
}

/// What in the server stands against the test.
pub(super) fn obstacle(ledger: &Ledger) -> Option<String> {
    let asked = || ledger.trials.iter().filter(|t| matches!(t.ask, Ask::From(_)));
    if TESTED.iter().any(|&kind| answered(ledger, kind)) {
        return None;
    }
    if let Some(code) = asked().find_map(Trial::refused) {
        return Some(format!("the server refuses to answer from elsewhere (CHANGE-REQUEST: error {code})"));
    }
    if asked().any(|t| t.direct().is_some()) {
        return Some(
            "the server ignores CHANGE-REQUEST: it answers from the address that was asked, which tells \
             nothing of filters"
                .into(),
        );
    }
    match Places::of(ledger.server, ledger).fault() {
        Some(fault @ AlternateFault::Missing) => Some(fault.sentence()),
        _ => None,
    }
}

/// Whether the server is known to answer from this endpoint when asked to; unknown where this is false.
pub(super) fn honours(ledger: &Ledger, kind: Place) -> bool {
    let proves = |t: &Trial| t.ask == Ask::From(kind) && came_from(t, kind);
    ledger.gives_receipts() || ledger.of(PROBE.name).chain(ledger.of(PROOF)).any(proves)
}

/// Whether the server answered from somewhere else than it was asked to: it honours half of the request.
pub(super) fn is_misdirected(ledger: &Ledger, kind: Place) -> bool {
    let astray =
        |t: &Trial| t.ask == Ask::From(kind) && t.successes().next().is_some() && !came_from(t, kind);
    ledger.of(PROBE.name).chain(ledger.of(PROOF)).any(astray)
}

/// Whether a socket that had opened every filter towards this endpoint still heard nothing from it: the server never
/// answers from there. It takes a mapping that stays the same, else the answer goes to a closed one.
pub(super) fn is_disproved(ledger: &Ledger, kind: Place) -> bool {
    let asked: Vec<&Trial> =
        ledger.of(PROOF).filter(|t| t.ask == Ask::From(kind) && t.sent <= ledger.ripe).collect();
    let stays =
        matches!(mapping::conclude(ledger).value, Some(Mapping::Direct | Mapping::EndpointIndependent));
    let endpoint = Places::of(ledger.server, ledger).get(kind);
    let opened = asked.first().zip(endpoint).is_some_and(|(t, to)| ledger.mapped(t.socket, to).is_some());
    let mut tally = control_tally(ledger, ledger.ripe, kind);
    tally.silent = asked.len() as u32;
    stays && opened && !honours(ledger, kind) && tally.log_ratio() <= LIKELY
}

/// Judged by what the source differs in from the endpoint that was asked, so that a server that misnames its
/// alternate address cannot mislead.
pub(super) fn came_from(trial: &Trial, kind: Place) -> bool {
    trial.successes().any(|a| is_from(trial, a, kind))
}

pub(super) fn is_from(trial: &Trial, answer: &Answer, kind: Place) -> bool {
    (answer.from.ip() != trial.to.ip()) == kind.other_ip
        && (answer.from.port() != trial.to.port()) == kind.other_port
}
