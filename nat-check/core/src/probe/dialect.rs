//! The classic dialect: does the server still answer clients of RFC 3489? A feature of the server.

use std::sync::Arc;

use shared::stun::Dialect;

use crate::{
    loss_test::{LIKELY, LossCounts},
    observation::{ObservationLog, Purpose, RequestKind, Transaction},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode},
    session::{Contact, ROUND_INTERVAL, Request, Session},
};

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("classic");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whether the server also answers classic clients (RFC 3489)",
    needs: &[],
    steps: &[Step { stage: Stage::Alternate, run: |session| Box::pin(ask_the_old_way(session)) }],
    udp: &[],
    tcp: &[],
    server: &[Slot::of::<ClassicDialect>()],
};

/// What it finds out.
struct ClassicDialect;

impl Measured for ClassicDialect {
    type Value = bool;
    const KEY: &'static str = "classic";
    const LABEL: &'static str = "RFC 3489 clients";
    const OF_THE_NAT: bool = false;
    slot!(server.classic);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<bool> {
        conclude(log)
    }

    fn text(value: &bool) -> String {
        if *value { "answered" } else { "not answered" }.into()
    }
}

const METHOD: &str = "Binding request without the magic cookie (RFC 3489 9.3)";
/// Requests.
const TRIES: usize = 3;

async fn ask_the_old_way(session: Arc<Session>) {
    if session.contact().await != Contact::Udp(Dialect::Modern) {
        return;
    }
    let Ok(socket) = session.open().await else { return };
    let answered = |log: &ObservationLog| log.of(PURPOSE).any(Transaction::returned);
    for _ in 0..TRIES {
        session.turn(PURPOSE).await;
        if session.read(answered) {
            return;
        }
        let round = session.round();
        let request = Request { purpose: PURPOSE, to: session.server(), kind: RequestKind::Binding, round };
        session.send_as(&socket, request, Dialect::Classic).await;
        // Apart, so that one burst of loss does not swallow them all.
        if session.until(session.now() + ROUND_INTERVAL / 2, answered).await {
            return;
        }
        if session.is_slow() {
            break;
        }
    }
    session.until_due(session.now(), answered).await;
}

/// Draws the conclusion.
fn conclude(log: &ObservationLog) -> Finding<bool> {
    let asked: Vec<&Transaction> = log
        .transactions
        .iter()
        .filter(|t| t.dialect == Dialect::Classic && t.kind == RequestKind::Binding && t.to == log.server)
        .filter(|t| t.sent <= log.timed_out_before || t.returned())
        .collect();
    let answered = asked.iter().filter(|t| t.direct().is_some()).count();
    let controls: Vec<bool> = log.controls(log.timed_out_before).map(Transaction::returned).collect();
    let silence = LossCounts {
        sent: asked.len() as u32,
        answered: answered as u32,
        silent: (asked.len() - answered) as u32,
        controls_sent: controls.len() as u32,
        controls_answered: controls.iter().filter(|&&returned| returned).count() as u32,
    };
    let finding = match (asked.len(), answered) {
        (0, _) => Finding::not_asked_for(METHOD),
        (_, 1..) => Finding::known(true, Confidence::Certain, METHOD),
        (_, 0) if silence.is_filtered() => Finding::known(false, Confidence::Strong, METHOD),
        (_, 0) if silence.log_ratio() <= LIKELY => Finding::known(false, Confidence::Weak, METHOD),
        (_, 0) => Finding::unknown(
            (ReasonCode::TooMuchLoss, "too few requests to tell a refusal from loss"),
            METHOD,
        ),
    };
    finding.with("sent", asked.len()).with("answered", answered)
}
