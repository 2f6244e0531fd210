//! The classic dialect: does the server still answer clients of RFC 3489? A feature of the server.

use std::sync::Arc;

use shared::stun::Dialect;

use crate::{
    ledger::{Ask, Ledger, Trial},
    probe::{Probe, Stage, Step},
    report::{Confidence, Finding},
    session::{BUDGET, Contact, Request, Session},
};

/// The measurement.
pub const PROBE: Probe = Probe {
    name: "classic",
    about: "whether the server also answers classic clients (RFC 3489)",
    needs: &[],
    steps: &[Step { stage: Stage::Alternate, run: |session| Box::pin(ask_the_old_way(session)) }],
};

const METHOD: &str = "Binding request without the magic cookie (RFC 3489 9.3)";
/// Requests: where nothing else is lost, two unanswered ones are a no.
const TRIES: usize = 2;

async fn ask_the_old_way(session: Arc<Session>) {
    if session.contact().await != Contact::Udp(Dialect::Modern) {
        return;
    }
    let Ok(socket) = session.open().await else { return };
    let round = session.round();
    for _ in 0..TRIES {
        if session.spent() < BUDGET {
            let request = Request { purpose: PROBE.name, to: session.server(), ask: Ask::Plain, round };
            session.send_as(&socket, request, Dialect::Classic).await;
        }
    }
    session
        .until(session.now() + session.patience(), |ledger| ledger.of(PROBE.name).any(Trial::returned))
        .await;
}

/// Draws the conclusion.
#[must_use]
pub fn conclude(ledger: &Ledger) -> Finding<bool> {
    let asked: Vec<&Trial> = ledger
        .trials
        .iter()
        .filter(|t| t.dialect == Dialect::Classic && t.ask == Ask::Plain && t.to == ledger.server)
        .collect();
    let answered = asked.iter().filter(|t| t.direct().is_some()).count();
    let finding = match (asked.len(), answered) {
        (0, _) => Finding::unknown("not asked for", METHOD),
        (_, 1..) => Finding::known(true, Confidence::Certain, METHOD),
        (TRIES.., 0) if ledger.controls(ledger.ripe).all(Trial::returned) => {
            Finding::known(false, Confidence::Strong, METHOD)
        }
        (_, 0) => Finding::unknown("too few requests to tell a refusal from loss", METHOD),
    };
    finding.with("sent", asked.len()).with("answered", answered)
}
