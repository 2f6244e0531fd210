//! Mapping behaviour (RFC 4787 section 4.1, RFC 5780 section 4.3): does the external endpoint depend on the
//! destination? One socket, all four endpoints, and the first one again.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use shared::nat::Mapping;

use crate::{
    ledger::{Ask, Ledger, Place, SocketId, Trial},
    probe::{Probe, Stage, Step},
    report::{Confidence, Finding},
    server::Places,
    session::{Contact, Request, Session, Socket},
};

/// The measurement.
pub const PROBE: Probe = Probe {
    name: "mapping",
    about: "whether the external endpoint depends on the destination",
    needs: &[],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(open_mapping(session)) },
        Step { stage: Stage::Alternate, run: |session| Box::pin(ask_everywhere(session)) },
        Step { stage: Stage::Confirm, run: |session| Box::pin(ask_again_late(session)) },
    ],
};

const METHOD: &str = "RFC 5780 4.3, all four endpoints and the first again";
/// The name of the trials that look for an earlier run's mapping.
const EARLIER_RUN: &str = "earlier-run";
/// Requests to an endpoint that does not answer, at the most.
const TRIES: u32 = 7;

async fn open_mapping(session: Arc<Session>) {
    let Ok(socket) = session.open_at(session.forced_port().unwrap_or(0)).await else { return };
    session.slots(|slots| slots.mapping = Some(socket.clone()));
    let learn = session.learn(&socket, PROBE.name, session.server(), TRIES);
    if session.forced_port().is_some() {
        tokio::join!(learn, knock_from_elsewhere(&session, &socket));
    } else {
        learn.await;
    }
}

/// On a port that the user wants, an earlier run may have left a mapping that is still open to the server's other
/// endpoints: it shows by letting in whom this run has not sent to.
async fn knock_from_elsewhere(session: &Arc<Session>, socket: &Socket) {
    if session.contact().await == Contact::None {
        return;
    }
    let (to, round) = (session.server(), session.round());
    for _ in 0..3 {
        let request = Request { purpose: EARLIER_RUN, to, ask: Ask::From(Place::BOTH), round };
        session.send(socket, request).await;
    }
    session.until(session.now() + session.patience(), let_in).await;
}

/// Whether a wanted port let in a stranger.
fn let_in(ledger: &Ledger) -> bool {
    ledger.of(EARLIER_RUN).any(|t| t.ask != Ask::Plain && t.successes().any(|a| a.from != t.to))
}

/// What to warn of when the user's own port behaves more openly than a fresh one.
#[must_use]
pub fn leftover(ledger: &Ledger, fresh_is_open: bool) -> Option<String> {
    let local = ledger.local(ledger.of(EARLIER_RUN).next()?.socket)?;
    (let_in(ledger) && !fresh_is_open).then(|| {
        format!(
            "port {} let in a packet from an address that this run had not sent to, though a fresh port did not: \
             either an earlier run left its mapping open, or the port is forwarded",
            local.port()
        )
    })
}

async fn ask_everywhere(session: Arc<Session>) {
    let (contact, places) = (session.contact().await, session.places());
    let Some(mut socket) = session.slots(|slots| slots.mapping.clone()) else { return };
    if contact == Contact::None {
        return;
    }
    // A socket whose external port happens to be one that the server does not talk to is of no use.
    if session.read(|ledger| ledger.mapped(socket.id, session.server()).is_none()) {
        let Ok(another) = session.open().await else { return };
        session.slots(|slots| slots.mapping = Some(another.clone()));
        socket = another;
    }
    // A2:P2 may have sent to a wanted port unasked, which some routers answer with another mapping. The other three
    // endpoints tell as much.
    let rest: &[Place] = match session.forced_port() {
        None => &[Place::PORT, Place::IP, Place::BOTH],
        Some(_) => &[Place::PORT, Place::IP],
    };
    let first = ask(&session, &socket, &places, rest);
    let again = async {
        let round = session.round();
        let request = Request { purpose: PROBE.name, to: session.server(), ask: Ask::Plain, round };
        session.send(&socket, request).await;
    };
    tokio::join!(first, again);
    if let (Some(_), Some(both)) = (session.forced_port(), places.get(Place::BOTH)) {
        // Not for the mapping: the proof of the filtering test needs a socket that has sent to all four.
        session.learn(&socket, EARLIER_RUN, both, 3).await;
    }
}

/// A second socket, opened after all others: a NAT that changes its ways under load shows it here. It also makes up
/// for an endpoint that did not answer the first one.
async fn ask_again_late(session: Arc<Session>) {
    if session.contact().await == Contact::None {
        return;
    }
    let Ok(late) = session.open().await else { return };
    ask(&session, &late, &session.places(), &Place::ALL).await;
}

/// Asks these endpoints from one socket until each has answered or has had its tries.
async fn ask(session: &Arc<Session>, socket: &Socket, places: &Places, which: &[Place]) {
    let targets: Vec<SocketAddr> = which.iter().filter_map(|&p| places.get(p)).collect();
    for attempt in 1..=TRIES {
        let round = session.round();
        let is_open = |ledger: &Ledger, to: SocketAddr| ledger.mapped(socket.id, to).is_none();
        let open: Vec<_> =
            session.read(|ledger| targets.iter().copied().filter(|&to| is_open(ledger, to)).collect());
        for &to in &open {
            session.send(socket, Request { purpose: PROBE.name, to, ask: Ask::Plain, round }).await;
        }
        let deadline = session.now() + session.patience().max(session.beat());
        let answered = |ledger: &Ledger| open.iter().all(|&to| !is_open(ledger, to));
        if session.until(deadline, answered).await || session.budget() == 0 {
            return;
        }
        // On a way that loses nothing, an endpoint that is silent three times is dead.
        let ripe = session.now().saturating_sub(session.patience());
        // One socket on a port that the server does not talk to is no loss.
        let nearly_all = |ledger: &Ledger| {
            let lost = ledger.controls(ripe).filter(|t| !t.returned()).count();
            lost * 10 <= ledger.controls(ripe).count()
        };
        if attempt >= 3 && session.read(nearly_all) {
            return;
        }
    }
}

/// What the server's endpoints saw of one socket.
#[derive(Clone, Debug, Default)]
struct Readings {
    seen: BTreeMap<Place, SocketAddr>,
    /// The first endpoint showed another external endpoint the second time.
    drifted: Option<SocketAddr>,
}

impl Readings {
    fn of(ledger: &Ledger, places: &Places, socket: SocketId) -> Self {
        let mut readings = Self::default();
        for trial in ledger.of(PROBE.name).filter(|t| t.socket == socket && t.ask == Ask::Plain) {
            let (Some(place), Some(mapped)) =
                (places.place_of(trial.to), trial.direct().and_then(|a| ledger.external(a)))
            else {
                continue;
            };
            let first = *readings.seen.entry(place).or_insert(mapped);
            if first != mapped {
                readings.drifted = Some(mapped);
            }
        }
        readings
    }

    /// The behaviour that explains the readings, and how sure that is: `None` when they are too few.
    fn behaviour(&self, local: Option<SocketAddr>) -> Option<(Mapping, Confidence)> {
        let count = self.seen.len();
        if count > 0 && self.seen.values().all(|&seen| Some(seen) == local) {
            let sure = if count > 1 { Confidence::Certain } else { Confidence::Strong };
            return Some((Mapping::Direct, sure));
        }
        let pairs = || {
            let seen = self.seen.iter();
            seen.clone().flat_map(move |a| seen.clone().map(move |b| (a, b))).filter(|(a, b)| a.0 < b.0)
        };
        // Pairs that differ in one thing only tell whether the mapping depends on it.
        let depends = |concerns: fn(&Place, &Place) -> bool| {
            let mut pairs = pairs().filter(|(a, b)| concerns(a.0, b.0)).peekable();
            pairs.peek()?;
            Some(pairs.any(|(a, b)| a.1 != b.1))
        };
        let on_port = depends(|a, b| a.other_ip == b.other_ip && a.other_port != b.other_port);
        let on_ip = depends(|a, b| a.other_ip != b.other_ip && a.other_port == b.other_port);
        let same = self.seen.values().collect::<std::collections::BTreeSet<_>>().len() == 1;
        match (on_ip, on_port) {
            (Some(false), Some(false)) if same => Some((Mapping::EndpointIndependent, Confidence::Certain)),
            (Some(true), Some(false)) => Some((Mapping::AddressDependent, Confidence::Certain)),
            (Some(false), Some(true)) => Some((Mapping::PortDependent, Confidence::Certain)),
            (Some(true), Some(true)) => Some((Mapping::AddressAndPortDependent, Confidence::Certain)),
            // Depends on one thing, the other is not known: at least as strict as this.
            (Some(true), None) | (None, Some(true)) => {
                Some((Mapping::AddressAndPortDependent, Confidence::Weak))
            }
            (Some(false), Some(false) | None) | (None, Some(false) | None) => None,
        }
    }
}

/// Draws the conclusion.
#[must_use]
pub fn conclude(ledger: &Ledger) -> Finding<Mapping> {
    let places = Places::of(ledger.server, ledger);
    let Some(socket) = main_socket(ledger) else {
        return Finding::unknown("not asked for", METHOD);
    };
    let readings = Readings::of(ledger, &places, socket);
    let seen: BTreeMap<_, _> = readings.seen.iter().map(|(p, a)| (p.name(), a)).collect();
    judge(ledger, &places, socket, &readings)
        .with("seen", seen)
        .with("local", ledger.local(socket))
        .with("stable", readings.drifted.is_none())
}

/// The socket of the mapping test: the first that the measurement opened, unless it was not heard of while the
/// second one was.
#[must_use]
pub fn main_socket(ledger: &Ledger) -> Option<SocketId> {
    let first = ledger.of(PROBE.name).next()?.socket;
    let heard = |t: &&Trial| t.direct().is_some();
    let mut others = ledger.of(PROBE.name).filter(heard).map(|t| t.socket);
    if ledger.of(PROBE.name).filter(heard).any(|t| t.socket == first) {
        return Some(first);
    }
    others.next().or(Some(first))
}

fn judge(ledger: &Ledger, places: &Places, socket: SocketId, readings: &Readings) -> Finding<Mapping> {
    if let (Some(first), Some(drifted)) = (readings.seen.get(&Place::PRIMARY), readings.drifted) {
        return Finding::unknown(
            format!(
                "the NAT is not deterministic: one socket and destination showed {first} first, {drifted} later"
            ),
            METHOD,
        );
    }
    let Some((value, confidence)) = readings.behaviour(ledger.local(socket)) else {
        return Finding::unknown(why_unknown(ledger, places, readings), METHOD);
    };
    if value == Mapping::Direct && !ledger.is_masked() {
        return Finding::known(value, confidence.min(Confidence::Weak), METHOD).because(
            "the server shows the external endpoint in clear only, where a gateway may have put the local one",
        );
    }
    let finding = Finding::known(value, confidence, METHOD);
    let late = ledger.of(PROBE.name).map(|t| t.socket).find(|&s| s != socket);
    let late = late.and_then(|s| Readings::of(ledger, places, s).behaviour(ledger.local(s)));
    match late {
        Some((other, _)) if other != value && other > value => {
            let mut worse = Finding::known(other, Confidence::Weak, METHOD);
            worse.reason = Some(format!(
                "the NAT is not deterministic: the first socket behaved {value}, a later one {other}"
            ));
            worse.with("first_socket", value)
        }
        Some((other, _)) if other < value && confidence == Confidence::Certain => {
            let mut finding = finding.because(format!(
                "the NAT is not deterministic: the first socket behaved {value}, a later one {other}"
            ));
            finding.confidence = Confidence::Weak;
            finding
        }
        _ if confidence == Confidence::Weak => finding.because(why_unknown(ledger, places, readings)),
        _ => finding,
    }
}

fn why_unknown(ledger: &Ledger, places: &Places, readings: &Readings) -> String {
    if ledger.cut_short {
        return "the run ended before all endpoints were asked".into();
    }
    if readings.seen.is_empty() {
        return "no answer showed the external endpoint of the test socket".into();
    }
    if let Some(fault) = places.fault() {
        return format!("{}: one endpoint alone cannot tell what the mapping depends on", fault.sentence());
    }
    let dead: Vec<_> = Place::ALL
        .into_iter()
        .filter(|p| !readings.seen.contains_key(p))
        .filter_map(|p| places.get(p))
        .map(|endpoint| endpoint.to_string())
        .collect();
    let controls: Vec<_> = ledger.controls(ledger.ripe).map(Trial::returned).collect();
    let lost = controls.iter().filter(|&&returned| !returned).count();
    if lost * 10 > controls.len() {
        format!("too much loss: no answer from {}", dead.join(", "))
    } else {
        format!("the server does not answer at {}", dead.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::made;

    const LOCAL: &str = "192.168.1.2:40000";

    /// What four endpoints saw (A1:P1, A1:P2, A2:P1, A2:P2), as ports at one external address; 0 = no answer.
    fn finding(seen: [u16; 4]) -> Finding<Mapping> {
        let mut ledger = made::ledger();
        let socket = made::socket(&mut ledger, LOCAL);
        for (place, port) in Place::ALL.into_iter().zip(seen) {
            let external = format!("203.0.113.1:{port}");
            ledger.trials.push(match port {
                0 => made::trial(PROBE.name, socket, made::endpoint(place), Ask::Plain),
                _ => made::answered(PROBE.name, socket, place, &external),
            });
        }
        conclude(&ledger)
    }

    #[test]
    fn four_readings_tell_every_mapping() {
        let certain = |seen| {
            let finding = finding(seen);
            assert_eq!(finding.confidence, Confidence::Certain, "{seen:?}");
            finding.value.unwrap()
        };
        assert_eq!(certain([5, 5, 5, 5]), Mapping::EndpointIndependent);
        assert_eq!(certain([5, 5, 6, 6]), Mapping::AddressDependent);
        assert_eq!(certain([5, 6, 5, 6]), Mapping::PortDependent);
        assert_eq!(certain([5, 6, 7, 8]), Mapping::AddressAndPortDependent);
    }

    #[test]
    fn one_missing_reading_changes_nothing() {
        for (full, value) in [
            ([5, 5, 5, 5], Mapping::EndpointIndependent),
            ([5, 5, 6, 6], Mapping::AddressDependent),
            ([5, 6, 5, 6], Mapping::PortDependent),
            ([5, 6, 7, 8], Mapping::AddressAndPortDependent),
        ] {
            for missing in 1..4 {
                let mut seen = full;
                seen[missing] = 0;
                assert_eq!(finding(seen).value, Some(value), "{seen:?}");
            }
        }
    }

    #[test]
    fn two_readings_never_prove_independence() {
        for seen in [[5, 5, 0, 0], [5, 0, 5, 0], [5, 0, 0, 5], [5, 0, 0, 0], [0, 0, 0, 0]] {
            let finding = finding(seen);
            assert_eq!((finding.value, finding.confidence), (None, Confidence::Unknown), "{seen:?}");
            assert!(finding.reason.is_some());
        }
    }

    #[test]
    fn no_translation_is_direct() {
        let mut ledger = made::ledger();
        let socket = made::socket(&mut ledger, LOCAL);
        for place in Place::ALL {
            ledger.trials.push(made::answered(PROBE.name, socket, place, LOCAL));
        }
        assert_eq!(conclude(&ledger).value, Some(Mapping::Direct));
    }

    #[test]
    fn what_could_have_been_rewritten_on_the_way_proves_no_direct_mapping() {
        let mut ledger = made::ledger();
        let socket = made::socket(&mut ledger, LOCAL);
        for place in Place::ALL {
            let mut trial = made::answered(PROBE.name, socket, place, LOCAL);
            trial.answers[0].masked = None;
            ledger.trials.push(trial);
        }
        let finding = conclude(&ledger);
        assert_eq!((finding.value, finding.confidence), (Some(Mapping::Direct), Confidence::Weak));
        assert!(finding.reason.unwrap().contains("in clear only"));
    }

    #[test]
    fn a_mapping_that_drifts_is_no_behaviour() {
        let mut ledger = made::ledger();
        let socket = made::socket(&mut ledger, LOCAL);
        for place in Place::ALL {
            ledger.trials.push(made::answered(PROBE.name, socket, place, "203.0.113.1:5"));
        }
        ledger.trials.push(made::answered(PROBE.name, socket, Place::PRIMARY, "203.0.113.1:9"));
        assert!(conclude(&ledger).reason.unwrap().contains("not deterministic"));
    }
}
