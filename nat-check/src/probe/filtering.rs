//! Filtering behaviour (RFC 4787 section 5, RFC 5780 section 4.4): whose packets does an open mapping let in?
//!
//! One fresh socket sends to A1:P1 alone and asks for answers from the other three endpoints. What arrives proves
//! that it is let in; what does not is judged by [`crate::silence`].

mod proof;

use std::{sync::Arc, time::Duration};

use shared::{nat::Filtering, stun::Dialect};

use crate::{
    ledger::{Ask, Ledger, Place, SocketId, Trial},
    probe::{Probe, Stage, Step},
    report::{Confidence, Finding},
    server::Places,
    session::{BEAT, Contact, Request, Session, Socket},
    silence::{LIKELY, Tally},
};
use proof::{came_from, honours, is_disproved, is_from, is_misdirected, obstacle};
pub(crate) use proof::{half_hearted, server_can};

/// The measurement.
pub const PROBE: Probe = Probe {
    name: "filtering",
    about: "whose packets are let in: anybody's, those of contacted addresses, or of contacted endpoints",
    needs: &["mapping"],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(ask_from_elsewhere(session)) },
        Step { stage: Stage::Confirm, run: |session| Box::pin(proof::prove_the_server(session)) },
    ],
};

const METHOD: &str = "RFC 5780 4.4, all four CHANGE-REQUEST cases, silence judged beside controls";
/// The endpoints that are asked to answer.
const TESTED: [Place; 3] = [Place::BOTH, Place::PORT, Place::IP];
/// What later measurements need of the budget.
const RESERVE: usize = 42;
/// Rounds, at the most, and with a server that limits the rate.
const ROUNDS: u32 = 34;
const SLOW_ROUNDS: u32 = 8;

async fn ask_from_elsewhere(session: Arc<Session>) {
    let Ok(mut socket) = session.open().await else { return };
    session.slots(|slots| slots.filtering = Some(socket.clone()));
    round(&session, &socket, &TESTED).await;
    match session.contact().await {
        Contact::None | Contact::Pending => return,
        // The first round was in a dialect that the server does not speak.
        Contact::Udp(Dialect::Classic) => round(&session, &socket, &TESTED).await,
        Contact::Udp(Dialect::Modern) => {}
    }
    // What is let in is about to arrive.
    session.until(session.now() + BEAT / 3, |ledger| answered(ledger, Place::BOTH)).await;
    for round_number in 1..ROUNDS {
        if session.is_slow() {
            if round_number > SLOW_ROUNDS {
                return;
            }
            session.cool_down().await;
        }
        let patience = session.patience();
        let now = session.now();
        let (done, kinds, last) = session.read(|ledger| {
            let sight = Sight { ledger, now, patience };
            (sight.is_decided(), sight.open_kinds(), sight.last_sent())
        });
        if session.read(|ledger| is_deaf(ledger, socket.id, now.saturating_sub(patience))) {
            let Ok(another) = session.open().await else { return };
            session.slots(|slots| slots.filtering = Some(another.clone()));
            socket = another;
        }
        let afford = session.budget() > RESERVE;
        if done || (kinds.is_empty() && last + patience < now) || (!afford && last + patience < now) {
            return;
        }
        let more = afford && !kinds.is_empty();
        if more {
            round(&session, &socket, &kinds).await;
        }
        let next = if more { now + session.beat() } else { last + patience + Duration::from_millis(1) };
        session.until(next, |ledger| Sight { ledger, now: session.now(), patience }.is_decided()).await;
    }
}

/// One round: the tests between two controls. Where the server gives receipts, each test is its own control.
async fn round(session: &Arc<Session>, socket: &Socket, kinds: &[Place]) {
    let (to, round) = (session.server(), session.round());
    let request = |ask| Request { purpose: PROBE.name, to, ask, round };
    let receipts = session.read(Ledger::gives_receipts);
    if !receipts {
        session.send(socket, request(Ask::Plain)).await;
    }
    for &kind in kinds {
        session.send(socket, request(Ask::From(kind))).await;
    }
    if !receipts {
        session.send(socket, request(Ask::Plain)).await;
    }
}

/// Whether a socket hears nothing at all while others do: its external port may be one that the server does not
/// talk to. Servers rightly keep quiet towards the ports of services that can be made to echo.
fn is_deaf(ledger: &Ledger, socket: SocketId, ripe: Duration) -> bool {
    let mut own = ledger.controls(ripe).filter(|t| t.socket == socket).peekable();
    let since = own.peek().map(|t| t.sent);
    let tries = own.clone().count();
    let others = || ledger.controls(ripe).filter(|t| t.socket != socket && Some(t.sent) >= since);
    let heard = others().filter(|t| t.returned()).count();
    tries >= 5 && own.all(|t| !t.returned()) && heard >= 6 && heard * 2 >= others().count()
}

/// What is known at a moment.
struct Sight<'a> {
    ledger: &'a Ledger,
    now: Duration,
    patience: Duration,
}

impl Sight<'_> {
    fn is_decided(&self) -> bool {
        answered(self.ledger, Place::BOTH)
            || obstacle(self.ledger).is_some()
            || TESTED
                .iter()
                .all(|&kind| answered(self.ledger, kind) || tally(self.ledger, kind, self.ripe()).is_enough())
    }

    /// The kinds that need another round: those that would stay open even if all that is under way stayed silent.
    fn open_kinds(&self) -> Vec<Place> {
        let under_way = |kind| {
            let asked = self.ledger.of(PROBE.name).filter(|t| t.ask == Ask::From(kind));
            asked.filter(|t| t.sent > self.ripe()).count() as u32
        };
        let hopeful = |kind| {
            let (mut tally, more) = (tally(self.ledger, kind, self.ripe()), under_way(kind));
            tally.silent += more;
            tally.controls_sent += more;
            tally.controls_answered += more;
            tally
        };
        TESTED
            .into_iter()
            .filter(|&kind| !answered(self.ledger, kind) && !hopeful(kind).is_enough())
            .collect()
    }

    fn last_sent(&self) -> Duration {
        self.ledger.of(PROBE.name).map(|t| t.sent).max().unwrap_or_default()
    }

    /// What was sent until then has had its time.
    fn ripe(&self) -> Duration {
        self.now.saturating_sub(self.patience)
    }
}

/// Whether an answer came in from an endpoint of this kind.
fn answered(ledger: &Ledger, kind: Place) -> bool {
    ledger.of(PROBE.name).any(|t| t.ask == Ask::From(kind) && let_in(ledger, t, kind))
}

/// Whether the filter let in an answer of this kind. Once anything was sent to another endpoint than the first, later
/// measurements may have opened the very hole that a late answer comes in through: then it proves nothing.
fn let_in(ledger: &Ledger, trial: &Trial, kind: Place) -> bool {
    let elsewhere = |t: &&Trial| t.to != ledger.server && !t.unsent && matches!(t.ask, Ask::Plain);
    let opened = ledger.trials.iter().filter(elsewhere).map(|t| t.sent).min().unwrap_or(Duration::MAX);
    trial.successes().any(|a| is_from(trial, a, kind) && a.at <= opened)
}

/// The counts for one kind, of what was sent until `ripe`.
fn tally(ledger: &Ledger, kind: Place, ripe: Duration) -> Tally {
    let receipts = ledger.gives_receipts();
    let mut tally = Tally::default();
    let had_its_time = |t: &&Trial| t.sent <= ripe || came_from(t, kind);
    let asked = ledger.of(PROBE.name).filter(|t| !t.unsent && t.ask == Ask::From(kind));
    for trial in asked.filter(had_its_time) {
        let let_in = let_in(ledger, trial, kind);
        if came_from(trial, kind) && !let_in {
            continue;
        }
        let vouched = if receipts { trial.receipt.is_some() } else { flanked(ledger, trial.round) };
        tally.sent += 1;
        tally.answered += u32::from(let_in);
        tally.silent += u32::from(vouched && trial.successes().next().is_none());
    }
    let Tally { controls_sent, controls_answered, .. } = control_tally(ledger, ripe, kind);
    Tally { controls_sent, controls_answered, ..tally }
}

/// The controls for an answer from this endpoint. The way from the alternate address may lose more than the one from
/// the primary: where it clearly does, its own controls count.
pub(crate) fn control_tally(ledger: &Ledger, ripe: Duration, kind: Place) -> Tally {
    let count = |tally: Tally, control: &Trial| Tally {
        controls_sent: tally.controls_sent + 1,
        controls_answered: tally.controls_answered + u32::from(control.returned()),
        ..tally
    };
    let near = ledger.controls(ripe).filter(|t| !is_superseded(ledger, t)).fold(Tally::default(), count);
    if !kind.other_ip {
        return near;
    }
    let elsewhere = |t: &&Trial| t.ask == Ask::Plain && !t.unsent && t.to.ip() != ledger.server.ip();
    let far = ledger.trials.iter().filter(elsewhere).filter(|t| t.sent <= ripe).fold(Tally::default(), count);
    if is_clearly_worse(far, near) { far } else { near }
}

/// Whether one way loses more than another by more than chance has it (two proportions, four standard deviations); a wrong filter takes two silent kinds anyway.
fn is_clearly_worse(far: Tally, near: Tally) -> bool {
    let (n, m) = (f64::from(far.controls_sent), f64::from(near.controls_sent));
    let lost = |t: Tally| f64::from(t.controls_sent - t.controls_answered);
    let pooled = (lost(far) + lost(near)) / (n + m);
    let deviation = (pooled * (1.0 - pooled) * (1.0 / n + 1.0 / m)).sqrt();
    n >= 4.0 && m > 0.0 && deviation > 0.0 && far.loss() - near.loss() > 4.0 * deviation
}

/// Whether a trial belongs to a filtering socket that was given up as deaf: it tells nothing of the loss.
fn is_superseded(ledger: &Ledger, trial: &Trial) -> bool {
    let last = ledger.of(PROBE.name).last().map(|t| t.socket);
    trial.purpose == PROBE.name && Some(trial.socket) != last
}

/// Whether all controls of a round came back.
fn flanked(ledger: &Ledger, round: u32) -> bool {
    let mut controls = ledger.of(PROBE.name).filter(|t| t.round == round && t.ask == Ask::Plain).peekable();
    controls.peek().is_some() && controls.all(Trial::returned)
}

/// What one kind of stranger meets with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    LetIn,
    ShutOut(Confidence),
    Unknown,
}

/// Draws the conclusion.
#[must_use]
pub fn conclude(ledger: &Ledger) -> Finding<Filtering> {
    let places = Places::of(ledger.server, ledger);
    let finding = judge(ledger, &places);
    let tallies = TESTED.map(|kind| (kind, tally(ledger, kind, ledger.ripe)));
    let controls = tallies[0].1;
    let mut finding = finding
        .with("controls_sent", controls.controls_sent)
        .with("controls_answered", controls.controls_answered)
        .with("receipts", ledger.gives_receipts());
    for (kind, tally) in tallies {
        finding = finding.with(
            &format!("from_{}", kind.name()),
            serde_json::json!({
                "sent": tally.sent, "answered": tally.answered, "silent_beside_controls": tally.silent,
            }),
        );
    }
    finding
}

fn judge(ledger: &Ledger, places: &Places) -> Finding<Filtering> {
    if ledger.of(PROBE.name).next().is_none() {
        return Finding::unknown("not asked for", METHOD);
    }
    if let Some(reason) = obstacle(ledger) {
        return Finding::unknown(reason, METHOD);
    }
    let fate = |kind| {
        let tally = tally(ledger, kind, ledger.ripe);
        let alive = places.get(kind).is_some_and(|endpoint| ledger.is_alive(endpoint));
        match () {
            () if tally.answered > 0 => Fate::LetIn,
            () if !alive || is_misdirected(ledger, kind) || is_disproved(ledger, kind) => Fate::Unknown,
            () if tally.is_filtered() && honours(ledger, kind) => Fate::ShutOut(Confidence::Strong),
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
        (LetIn, _, _) => Finding::known(Filtering::EndpointIndependent, Confidence::Certain, METHOD),
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
            "the filter lets in whoever has either a contacted address or a contacted port: RFC 4787 has no word \
             for it",
            METHOD,
        ),
        (Unknown, _, _) | (_, Unknown, _) | (_, _, Unknown) => {
            Finding::unknown(why_undecided(ledger, places, [both, port, ip]), METHOD)
        }
    };
    if finding.confidence == Confidence::Weak {
        let reason = if TESTED.iter().all(|&kind| honours(ledger, kind)) {
            "loss leaves room for doubt"
        } else {
            "nothing shows that this server really answers from elsewhere: it gives no receipts, and the NAT \
             hides the proof"
        };
        return finding.because(reason);
    }
    finding
}

fn why_undecided(ledger: &Ledger, places: &Places, fates: [Fate; 3]) -> String {
    let dead = TESTED
        .iter()
        .filter_map(|&p| places.get(p))
        .find(|&endpoint| !ledger.is_alive(endpoint) && ledger.trials.iter().any(|t| t.to == endpoint));
    let known = match fates[1] {
        Fate::LetIn => "; other ports of a contacted address are let in",
        Fate::ShutOut(_) => "; other ports of a contacted address are shut out",
        Fate::Unknown => "",
    };
    if let Some(fault) = places.fault() {
        return format!("{}{known}", fault.sentence());
    }
    if let Some(reason) = half_hearted(ledger) {
        return format!("{reason}{known}");
    }
    if let Some(dead) = dead {
        return format!(
            "the server's endpoint {dead} does not answer from here even when it is asked itself, so silence from \
             it means nothing{known}"
        );
    }
    let loss = tally(ledger, Place::BOTH, ledger.ripe).loss();
    format!(
        "too much loss to tell filtered from lost: {:.0} % of the controls went unanswered{known}",
        loss * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Answer, made};

    /// A run in which `let_in` were answered and the others not, in `rounds` rounds with both controls; the server
    /// gives receipts or not, and its alternate address answers or not.
    fn run(let_in: &[Place], rounds: u32, receipts: bool, alive: bool) -> Ledger {
        let mut ledger = made::ledger();
        let socket = made::socket(&mut ledger, "192.168.1.2:40000");
        let server = ledger.server;
        for round in 1..=rounds {
            let asks = [Ask::Plain].into_iter().chain(TESTED.map(Ask::From)).chain([Ask::Plain]);
            for ask in asks {
                let mut trial = made::trial(PROBE.name, socket, server, ask);
                trial.round = round;
                match ask {
                    Ask::From(kind) => {
                        trial.receipt = receipts.then_some(Duration::from_millis(10));
                        if let_in.contains(&kind) {
                            trial.answers.push(from(socket, kind));
                        }
                    }
                    _ => trial.answers.push(from(socket, Place::PRIMARY)),
                }
                ledger.trials.push(trial);
            }
        }
        for place in TESTED.into_iter().filter(|_| alive) {
            // The mapping test comes later.
            let sent = Duration::from_secs(1);
            ledger.trials.push(Trial { sent, ..made::answered("mapping", socket, place, "203.0.113.1:5") });
        }
        ledger
    }

    fn from(socket: crate::ledger::SocketId, place: Place) -> Answer {
        made::answer(socket, made::endpoint(place), "203.0.113.1:5")
    }

    #[test]
    fn the_truth_table_with_receipts() {
        use Confidence::{Certain, Strong};
        for (let_in, value, confidence) in [
            (&TESTED[..], Filtering::EndpointIndependent, Certain),
            (&[Place::BOTH], Filtering::EndpointIndependent, Certain),
            (&[Place::PORT], Filtering::AddressDependent, Strong),
            (&[Place::IP], Filtering::PortDependent, Strong),
            (&[], Filtering::AddressAndPortDependent, Strong),
        ] {
            let finding = conclude(&run(let_in, 8, true, true));
            assert_eq!((finding.value, finding.confidence), (Some(value), confidence), "{let_in:?}");
        }
    }

    #[test]
    fn what_comes_in_through_a_hole_of_a_later_measurement_proves_nothing() {
        let mut ledger = run(&[], 8, true, true);
        let socket = ledger.trials[0].socket;
        let last = ledger.trials.iter_mut().rfind(|t| t.ask == Ask::From(Place::BOTH)).unwrap();
        last.answers.push(Answer { at: Duration::from_millis(1050), ..from(socket, Place::BOTH) });
        assert_eq!(conclude(&ledger).value, Some(Filtering::AddressAndPortDependent));
    }

    #[test]
    fn silence_from_a_dead_endpoint_means_nothing() {
        let finding = conclude(&run(&[], 8, true, false));
        assert_eq!(finding.value, None);
    }

    #[test]
    fn without_receipts_and_proof_silence_is_only_weak() {
        let finding = conclude(&run(&[], 8, false, true));
        assert_eq!(finding.value, Some(Filtering::AddressAndPortDependent));
        assert_eq!(finding.confidence, Confidence::Weak);
    }

    #[test]
    fn a_single_silence_decides_nothing() {
        assert_eq!(conclude(&run(&[], 1, true, true)).value, None);
    }

    #[test]
    fn an_answer_from_the_address_that_was_asked_accuses_the_server() {
        let mut ledger = run(&[], 8, false, true);
        for trial in &mut ledger.trials {
            if matches!(trial.ask, Ask::From(_)) {
                trial.answers.push(from(trial.socket, Place::PRIMARY));
            }
        }
        let finding = conclude(&ledger);
        assert!(finding.value.is_none() && finding.reason.unwrap().contains("ignores CHANGE-REQUEST"));
    }
}
