//! Filtering behaviour (RFC 4787 section 5, RFC 5780 section 4.4): whose packets does an open mapping let in?
//!
//! One fresh socket sends to A1:P1 alone and asks for answers from the other three endpoints. What arrives proves
//! that it is let in; what does not is judged by [`crate::loss_test`].

mod controls;
mod fresh;
mod proof;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use shared::{nat::Filtering, stun::Dialect};
use tokio::time::sleep_until;

use crate::{
    loss_test::{LIKELY, LossCounts},
    mapping_limit::MappingLimit,
    observation::{ObservationLog, Purpose, RequestKind, SocketId, Transaction},
    probe::{Found, Measured, Merge, Probe, Slot, Stage, Step, mapping, slot},
    report::{Confidence, Finding, Reason, ReasonCode},
    server_endpoints::{ServerEndpoint, ServerEndpoints},
    session::{Contact, ROUND_INTERVAL, Request, Session, Socket},
    silent_endpoints::blocked,
};
use controls::near_tally;
pub(crate) use controls::{control_tally, neighbour_tally};
pub(crate) use proof::half_hearted;
use proof::{ChangeRequest, came_from, honours, is_disproved, is_from, is_misdirected, obstacle};
#[cfg(feature = "sim")]
use shared::nat::model::UdpBehaviour;

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("filtering");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whose packets are let in: anybody's, those of contacted addresses, or of contacted endpoints",
    needs: &["mapping"],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(ask_from_elsewhere(session)) },
        Step { stage: Stage::Confirm, run: |session| Box::pin(proof::prove_the_server(session)) },
    ],
    udp: &[Slot::of::<FilteringBehaviour>()],
    tcp: &[],
    server: &[Slot::of::<ChangeRequest>()],
};

/// What it finds out about the network.
struct FilteringBehaviour;

impl Measured for FilteringBehaviour {
    type Value = Filtering;
    const KEY: &'static str = "filtering";
    const LABEL: &'static str = "Filtering";
    slot!(udp.filtering);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<Filtering> {
        conclude(log, found)
    }

    fn text(value: &Filtering) -> String {
        let text = match *value {
            Filtering::EndpointIndependent => "endpoint-independent: packets from any host are let in",
            Filtering::AddressDependent => {
                "address-dependent: only packets from addresses this host has sent to are let in"
            }
            Filtering::AddressAndPortDependent => {
                "address-and-port-dependent: only packets from an address and port this host has sent to are let in"
            }
            Filtering::PortDependent => {
                "port-dependent: only packets from port numbers this host has sent to are let in"
            }
        };
        text.into()
    }

    fn merge(merge: Merge<'_>, mine: &mut Finding<Filtering>, other: &Finding<Filtering>) {
        merge.stricter(mine, other, is_stricter);
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        Some(serde_json::json!(nat.filtering))
    }
}

/// Whether one filter lets in less than another, where one lets in everything that the other does.
fn is_stricter(a: &Filtering, b: &Filtering) -> bool {
    use Filtering::{AddressAndPortDependent, EndpointIndependent};
    a != b && (*a == AddressAndPortDependent || *b == EndpointIndependent)
}

const METHOD: &str = "RFC 5780 4.4, all four CHANGE-REQUEST cases, silence judged beside controls";
/// The endpoints that are asked to answer.
const TESTED: [ServerEndpoint; 3] = [ServerEndpoint::BOTH, ServerEndpoint::PORT, ServerEndpoint::IP];
/// What later measurements need of the budget at least.
const RESERVE: usize = 42;
/// How long is asked after contact was made; longer where the rate is limited.
const LONGEST: Duration = Duration::from_millis(4000);
const LONGEST_SLOW: Duration = Duration::from_secs(8);
/// While no answer has come, so many more rounds are sent: the way may be long.
const EARLY_ROUNDS: u32 = 4;
/// When the first of them leaves, and the time between them: a server that takes long for each request is not to drown.
const EARLY: Duration = Duration::from_millis(300);
const EARLY_INTERVAL: Duration = Duration::from_millis(250);

async fn ask_from_elsewhere(session: Arc<Session>) {
    let Ok(mut socket) = session.open().await else { return };
    session.retained_sockets(|retained| retained.filtering = Some(socket.clone()));
    round(&session, &socket, &TESTED).await;
    tokio::select! {
        biased;
        _ = session.contact() => {}
        () = early_rounds(&session, &socket) => {}
    }
    match session.contact().await {
        Contact::None | Contact::Pending => return,
        // The first round was in a dialect that the server does not speak.
        Contact::Udp(Dialect::Classic) => round(&session, &socket, &TESTED).await,
        Contact::Udp(Dialect::Modern) => {}
    }
    let begun = session.now();
    // What is let in is about to arrive.
    session.until(session.now() + ROUND_INTERVAL / 3, |log| answered(log, ServerEndpoint::BOTH)).await;
    loop {
        // What has arrived by then may make the next round needless.
        session.turn(PURPOSE).await;
        let response_timeout = session.response_timeout();
        let now = session.now();
        let (done, kinds, last) = session.read(|log| {
            let sight = Sight { log, now, response_timeout };
            (sight.is_decided(), sight.open_kinds(), sight.last_sent())
        });
        if session.read(|log| is_deaf(log, socket.id, now.saturating_sub(response_timeout))) {
            let Ok(another) = session.open().await else { return };
            session.retained_sockets(|retained| retained.filtering = Some(another.clone()));
            socket = another;
        }
        let longest = if session.is_slow() { LONGEST_SLOW } else { LONGEST };
        let more = !kinds.is_empty() && session.budget() > session.read(reserve) && now < begun + longest;
        if done || (!more && last + response_timeout < now) {
            return;
        }
        if more {
            round(&session, &socket, &kinds).await;
        }
        let next = if more {
            now + session.round_interval()
        } else {
            last + response_timeout + Duration::from_millis(1)
        };
        session.until(next, |log| Sight { log, now: session.now(), response_timeout }.is_decided()).await;
    }
}

/// What later measurements need of the budget. Several external addresses take more.
fn reserve(log: &ObservationLog) -> usize {
    let several = mapping::external_addresses(log).len() > 1;
    RESERVE + if several { mapping::SPREAD_PACKETS } else { 0 }
}

/// On a long way these are answered together with the first round.
async fn early_rounds(session: &Arc<Session>, socket: &Socket) {
    for number in 0..EARLY_ROUNDS {
        sleep_until(session.instant(EARLY + EARLY_INTERVAL * number)).await;
        round(session, socket, &TESTED).await;
    }
}

/// One round: the tests between two controls. Where the server gives receipts, each test is its own control. Each round
/// begins with another kind, so that a short queue on the way does not always drop the same one.
async fn round(session: &Arc<Session>, socket: &Socket, kinds: &[ServerEndpoint]) {
    let (to, round) = (session.server(), session.round());
    let request = |kind| Request { purpose: PURPOSE, to, kind, round };
    let receipts = session.read(ObservationLog::gives_receipts);
    if !receipts {
        session.send(socket, request(RequestKind::Binding)).await;
    }
    let first = round as usize % kinds.len().max(1);
    for &kind in kinds.iter().cycle().skip(first).take(kinds.len()) {
        session.send(socket, request(RequestKind::ChangeRequest(kind))).await;
    }
    if !receipts {
        session.send(socket, request(RequestKind::Binding)).await;
    }
}

/// Whether a socket hears nothing at all while others do: its external port may be one that the server does not
/// talk to. Servers rightly keep quiet towards the ports of services that can be made to echo.
fn is_deaf(log: &ObservationLog, socket: SocketId, timed_out_before: Duration) -> bool {
    let mut own = log.controls(timed_out_before).filter(|t| t.socket == socket).peekable();
    let since = own.peek().map(|t| t.sent);
    let tries = own.clone().count();
    let others = || log.controls(timed_out_before).filter(|t| t.socket != socket && Some(t.sent) >= since);
    let heard = others().filter(|t| t.returned()).count();
    tries >= 5 && own.all(|t| !t.returned()) && heard >= 6 && heard * 2 >= others().count()
}

/// What is known at a moment.
struct Sight<'a> {
    log: &'a ObservationLog,
    now: Duration,
    response_timeout: Duration,
}

impl Sight<'_> {
    fn is_decided(&self) -> bool {
        answered(self.log, ServerEndpoint::BOTH)
            || obstacle(self.log).is_some()
            || TESTED.iter().all(|&kind| {
                answered(self.log, kind) || tally(self.log, kind, self.timed_out_before()).is_enough()
            })
    }

    /// The kinds that need another round: those that would stay open even if all that is under way stayed silent.
    fn open_kinds(&self) -> Vec<ServerEndpoint> {
        let under_way = |kind| {
            let asked = self.log.of(PURPOSE).filter(|t| t.kind == RequestKind::ChangeRequest(kind));
            asked.filter(|t| t.sent > self.timed_out_before()).count() as u32
        };
        let hopeful = |kind| {
            let (mut tally, more) = (tally(self.log, kind, self.timed_out_before()), under_way(kind));
            tally.silent += more;
            tally.controls_sent += more;
            tally.controls_answered += more;
            tally
        };
        TESTED.into_iter().filter(|&kind| !answered(self.log, kind) && !hopeful(kind).is_enough()).collect()
    }

    fn last_sent(&self) -> Duration {
        self.log.of(PURPOSE).map(|t| t.sent).max().unwrap_or_default()
    }

    /// What was sent until then has had its time.
    fn timed_out_before(&self) -> Duration {
        self.now.saturating_sub(self.response_timeout)
    }
}

/// Whether an answer came in from an endpoint of this kind.
fn answered(log: &ObservationLog, kind: ServerEndpoint) -> bool {
    log.of(PURPOSE).any(|t| t.kind == RequestKind::ChangeRequest(kind) && let_in(log, t, kind))
}

/// Whether the filter let in an answer of this kind. Once anything was sent to another endpoint than the first, later
/// measurements may have opened the very hole that a late answer comes in through: then it proves nothing.
fn let_in(log: &ObservationLog, transaction: &Transaction, kind: ServerEndpoint) -> bool {
    let elsewhere =
        |t: &&Transaction| t.to != log.server && !t.unsent && matches!(t.kind, RequestKind::Binding);
    let opened = log.transactions.iter().filter(elsewhere).map(|t| t.sent).min().unwrap_or(Duration::MAX);
    transaction.successes().any(|a| is_from(transaction, a, kind) && a.at <= opened)
}

/// The counts for one kind, of what was sent until `timed_out_before`.
fn tally(log: &ObservationLog, kind: ServerEndpoint, timed_out_before: Duration) -> LossCounts {
    let receipts = log.gives_receipts();
    let mut tally = LossCounts::default();
    let had_its_time = |t: &&Transaction| t.sent <= timed_out_before || came_from(t, kind);
    let asked = log.of(PURPOSE).filter(|t| !t.unsent && t.kind == RequestKind::ChangeRequest(kind));
    for transaction in asked.filter(had_its_time) {
        let let_in = let_in(log, transaction, kind);
        if came_from(transaction, kind) && !let_in {
            continue;
        }
        let corroborated =
            if receipts { transaction.receipt.is_some() } else { flanked(log, transaction.round) };
        tally.sent += 1;
        tally.answered += u32::from(let_in);
        tally.silent += u32::from(corroborated && transaction.successes().next().is_none());
    }
    // Near controls of its own time: what the line does to later measurements is another matter.
    let last = log.of(PURPOSE).last().map_or(timed_out_before, |t| t.sent + ROUND_INTERVAL);
    let until = [timed_out_before, timed_out_before.min(last)];
    let LossCounts { controls_sent, controls_answered, .. } = neighbour_tally(log, until, kind);
    LossCounts { controls_sent, controls_answered, ..tally }
}

/// Whether all controls of a round came back.
fn flanked(log: &ObservationLog, round: u32) -> bool {
    let mut controls =
        log.of(PURPOSE).filter(|t| t.round == round && t.kind == RequestKind::Binding).peekable();
    controls.peek().is_some() && controls.all(Transaction::returned)
}

/// What one kind of stranger meets with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    LetIn,
    ShutOut(Confidence),
    Unknown,
}

/// Draws the conclusion.
fn conclude(log: &ObservationLog, found: &Found) -> Finding<Filtering> {
    let endpoints = ServerEndpoints::of(log.server, log);
    let finding = judge(log, found, &endpoints);
    let tallies = TESTED.map(|kind| (kind, tally(log, kind, log.timed_out_before)));
    let controls = near_tally(log, log.timed_out_before);
    let mut finding = finding
        .with("controls_sent", controls.controls_sent)
        .with("controls_answered", controls.controls_answered)
        .with("receipts", log.gives_receipts());
    for (kind, tally) in tallies {
        finding = finding.with(
            &format!("from_{}", kind.name()),
            serde_json::json!({
                "sent": tally.sent, "answered": tally.answered, "silent_beside_controls": tally.silent,
                "beside_answered_sent": tally.controls_sent, "beside_answered_answered": tally.controls_answered,
            }),
        );
    }
    finding
}

fn judge(log: &ObservationLog, found: &Found, endpoints: &ServerEndpoints) -> Finding<Filtering> {
    if log.of(PURPOSE).next().is_none() {
        return Finding::not_asked_for(METHOD);
    }
    if let Some(reason) = obstacle(log) {
        return Finding::unknown(reason, METHOD);
    }
    let fate = |kind| {
        let tally = tally(log, kind, log.timed_out_before);
        let alive = endpoints.get(kind).is_some_and(|endpoint| log.is_alive(endpoint));
        match () {
            () if tally.answered > 0 => Fate::LetIn,
            () if !alive || is_misdirected(log, kind) || is_disproved(log, found, kind) => Fate::Unknown,
            () if tally.is_filtered() && honours(log, kind) => Fate::ShutOut(Confidence::Strong),
            () if tally.log_ratio() <= LIKELY => Fate::ShutOut(Confidence::Weak),
            () => Fate::Unknown,
        }
    };
    let [both, port, ip] = TESTED.map(fate);
    let weakest = |fates: &[Fate]| {
        let weak = fates.contains(&Fate::ShutOut(Confidence::Weak));
        if weak { Confidence::Weak } else { Confidence::Strong }
    };
    use Fate::{LetIn, ShutOut, Unknown};
    let finding = match (both, port, ip) {
        (LetIn, _, _) => {
            let finding = Finding::known(Filtering::EndpointIndependent, Confidence::Certain, METHOD);
            return match fresh::doubt(log) {
                Some(doubt) => finding.at_most(Confidence::Weak).because(doubt),
                None => finding,
            };
        }
        (ShutOut(_), LetIn, ShutOut(_)) => {
            Finding::known(Filtering::AddressDependent, weakest(&[both, ip]), METHOD)
        }
        (ShutOut(_), ShutOut(_), LetIn) => {
            Finding::known(Filtering::PortDependent, weakest(&[both, port]), METHOD)
        }
        (ShutOut(_), ShutOut(_), ShutOut(_)) => {
            Finding::known(Filtering::AddressAndPortDependent, weakest(&[both, port, ip]), METHOD)
        }
        (ShutOut(_), LetIn, LetIn) => Finding::unknown(
            (
                ReasonCode::NoClass,
                "the filter lets in whoever has either a contacted address or a contacted port: RFC 4787 has no \
                 class for it",
            ),
            METHOD,
        ),
        (Unknown, _, _) | (_, Unknown, _) | (_, _, Unknown) => {
            Finding::unknown(why_undecided(log, found, endpoints, [both, port, ip]), METHOD)
        }
    };
    if finding.confidence == Confidence::Weak {
        let reason = if TESTED.iter().all(|&kind| honours(log, kind)) {
            (ReasonCode::LossLeavesDoubt, "loss leaves room for doubt")
        } else {
            (
                ReasonCode::ServerNotProven,
                "nothing shows that this server really answers from elsewhere: it gives no receipts, and the NAT \
                 hides the proof",
            )
        };
        return finding.because(reason);
    }
    finding
}

fn why_undecided(
    log: &ObservationLog,
    found: &Found,
    endpoints: &ServerEndpoints,
    fates: [Fate; 3],
) -> Reason {
    let dead = TESTED
        .iter()
        .filter_map(|&p| endpoints.get(p))
        .find(|&endpoint| !log.is_alive(endpoint) && log.transactions.iter().any(|t| t.to == endpoint));
    let known = match fates[1] {
        Fate::LetIn => "; other ports of a contacted address are let in",
        Fate::ShutOut(_) => "; other ports of a contacted address are shut out",
        Fate::Unknown => "",
    };
    if let Some(fault) = endpoints.fault() {
        return fault.reason().map(|text| text + known);
    }
    if let Some(reason) = half_hearted(log, found) {
        return reason.map(|text| text + known);
    }
    if let Some(limit) = MappingLimit::seen(log, log.timed_out_before) {
        return limit.reason().map(|text| text + known);
    }
    if let Some(blocked) = blocked(log, endpoints) {
        return blocked.map(|text| text + known);
    }
    if let Some(dead) = dead {
        let text = format!(
            "the server's endpoint {dead} does not answer from here even when it is asked itself, so silence from \
             it means nothing{known}"
        );
        return (ReasonCode::ServerEndpointSilent, text).into();
    }
    let loss = near_tally(log, log.timed_out_before).loss();
    let text = format!(
        "too much loss to tell filtered from lost: {:.0} % of the controls went unanswered{known}",
        loss * 100.0
    );
    (ReasonCode::TooMuchLoss, text).into()
}
