//! Mapping behaviour (RFC 4787 section 4.1, RFC 5780 section 4.3): does the external endpoint depend on the
//! destination? One socket, all four endpoints, and the first one again.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use shared::nat::Mapping;

use crate::{
    observation::{ObservationLog, Purpose, RequestKind, SocketId, Transaction},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, Reason, ReasonCode},
    server_endpoints::ServerEndpoint,
    server_endpoints::ServerEndpoints,
    session::{Contact, Request, Session, Socket},
};
#[cfg(feature = "sim")]
use shared::nat::model::UdpBehaviour;

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("mapping");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whether the external endpoint depends on the destination",
    needs: &[],
    steps: &[
        Step { stage: Stage::Primary, run: |session| Box::pin(open_mapping(session)) },
        Step { stage: Stage::Alternate, run: |session| Box::pin(ask_everywhere(session)) },
        Step { stage: Stage::Confirm, run: |session| Box::pin(ask_again_late(session)) },
    ],
    udp: &[Slot::of::<MappingBehaviour>()],
    server: &[],
};

/// What it finds out.
struct MappingBehaviour;

impl Measured for MappingBehaviour {
    type Value = Mapping;
    const KEY: &'static str = "mapping";
    const LABEL: &'static str = "Mapping";
    slot!(udp.mapping);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<Mapping> {
        conclude(log)
    }

    fn text(value: &Mapping) -> String {
        let text = match *value {
            Mapping::Direct => "direct: address and port are not translated",
            Mapping::EndpointIndependent => {
                "endpoint-independent: the same external port for every destination"
            }
            Mapping::AddressDependent => {
                "address-dependent: a different external port for each destination address"
            }
            Mapping::AddressAndPortDependent => {
                "address-and-port-dependent: a different external port for each destination address and port"
            }
            Mapping::PortDependent => "port-dependent: a different external port for each destination port",
        };
        text.into()
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        Some(serde_json::json!(nat.mapping))
    }
}

const METHOD: &str = "RFC 5780 4.3, all four endpoints and the first again";
/// What the requests that look for an earlier run's mapping are sent for.
const EARLIER_RUN: Purpose = PURPOSE.role("earlier-run");
/// Requests to an endpoint that does not answer, at the most.
const TRIES: u32 = 7;

async fn open_mapping(session: Arc<Session>) {
    let Ok(socket) = session.open_at(session.forced_port().unwrap_or(0)).await else { return };
    session.retained_sockets(|retained| retained.mapping = Some(socket.clone()));
    let learn = session.learn_external(&socket, PURPOSE, session.server(), TRIES);
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
        let request = Request {
            purpose: EARLIER_RUN,
            to,
            kind: RequestKind::ChangeRequest(ServerEndpoint::BOTH),
            round,
        };
        session.send(socket, request).await;
    }
    session.until(session.now() + session.response_timeout(), let_in).await;
}

/// Whether a wanted port let in a stranger.
fn let_in(log: &ObservationLog) -> bool {
    log.of(EARLIER_RUN).any(|t| t.kind != RequestKind::Binding && t.successes().any(|a| a.from != t.to))
}

/// What to warn of when the user's own port behaves more openly than a fresh one.
#[must_use]
pub fn leftover(log: &ObservationLog, fresh_is_open: bool) -> Option<String> {
    let local = log.local(log.of(EARLIER_RUN).next()?.socket)?;
    (let_in(log) && !fresh_is_open).then(|| {
        format!(
            "port {} let in a packet from an address that this run had not sent to, though a fresh port did not: \
             either an earlier run left its mapping open, or the port is forwarded",
            local.port()
        )
    })
}

async fn ask_everywhere(session: Arc<Session>) {
    let (contact, endpoints) = (session.contact().await, session.endpoints());
    let Some(mut socket) = session.retained_sockets(|retained| retained.mapping.clone()) else { return };
    if contact == Contact::None {
        return;
    }
    // A socket whose external port happens to be one that the server does not talk to is of no use.
    if session.read(|log| log.mapped(socket.id, session.server()).is_none()) {
        let Ok(another) = session.open().await else { return };
        session.retained_sockets(|retained| retained.mapping = Some(another.clone()));
        socket = another;
    }
    // A2:P2 may have sent to a wanted port unasked, which some routers answer with another mapping. The other three
    // endpoints tell as much.
    let rest: &[ServerEndpoint] = match session.forced_port() {
        None => &[ServerEndpoint::PORT, ServerEndpoint::IP, ServerEndpoint::BOTH],
        Some(_) => &[ServerEndpoint::PORT, ServerEndpoint::IP],
    };
    let first = ask(&session, &socket, &endpoints, rest);
    let again = async {
        let round = session.round();
        let request = Request { purpose: PURPOSE, to: session.server(), kind: RequestKind::Binding, round };
        session.send(&socket, request).await;
    };
    tokio::join!(first, again);
    if let (Some(_), Some(both)) = (session.forced_port(), endpoints.get(ServerEndpoint::BOTH)) {
        // Not for the mapping: the proof of the filtering test needs a socket that has sent to all four.
        session.learn_external(&socket, EARLIER_RUN, both, 3).await;
    }
}

/// A second socket, opened after all others: a NAT that changes its ways under load shows it here. It also makes up
/// for an endpoint that did not answer the first one.
async fn ask_again_late(session: Arc<Session>) {
    if session.contact().await == Contact::None {
        return;
    }
    let Ok(late) = session.open().await else { return };
    ask(&session, &late, &session.endpoints(), &ServerEndpoint::ALL).await;
}

/// Asks these endpoints from one socket until each has answered or has had its tries.
async fn ask(session: &Arc<Session>, socket: &Socket, endpoints: &ServerEndpoints, which: &[ServerEndpoint]) {
    let targets: Vec<SocketAddr> = which.iter().filter_map(|&p| endpoints.get(p)).collect();
    for attempt in 1..=TRIES {
        let round = session.round();
        let is_open = |log: &ObservationLog, to: SocketAddr| log.mapped(socket.id, to).is_none();
        let open: Vec<_> =
            session.read(|log| targets.iter().copied().filter(|&to| is_open(log, to)).collect());
        for &to in &open {
            session.send(socket, Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round }).await;
        }
        let deadline = session.now() + session.response_timeout().max(session.round_interval());
        let answered = |log: &ObservationLog| open.iter().all(|&to| !is_open(log, to));
        if session.until(deadline, answered).await || session.budget() == 0 {
            return;
        }
        // On a way that loses nothing, an endpoint that is silent three times is dead.
        let timed_out_before = session.now().saturating_sub(session.response_timeout());
        // One socket on a port that the server does not talk to is no loss.
        let nearly_all = |log: &ObservationLog| {
            let lost = log.controls(timed_out_before).filter(|t| !t.returned()).count();
            lost * 10 <= log.controls(timed_out_before).count()
        };
        if attempt >= 3 && session.read(nearly_all) {
            return;
        }
    }
}

/// What the server's endpoints saw of one socket.
#[derive(Clone, Debug, Default)]
struct Readings {
    seen: BTreeMap<ServerEndpoint, SocketAddr>,
    /// The first endpoint showed another external endpoint the second time.
    drifted: Option<SocketAddr>,
}

impl Readings {
    fn of(log: &ObservationLog, endpoints: &ServerEndpoints, socket: SocketId) -> Self {
        let mut readings = Self::default();
        for transaction in log.of(PURPOSE).filter(|t| t.socket == socket && t.kind == RequestKind::Binding) {
            let (Some(endpoint), Some(mapped)) =
                (endpoints.endpoint_at(transaction.to), transaction.direct().and_then(|a| log.external(a)))
            else {
                continue;
            };
            let first = *readings.seen.entry(endpoint).or_insert(mapped);
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
        let depends = |concerns: fn(&ServerEndpoint, &ServerEndpoint) -> bool| {
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
fn conclude(log: &ObservationLog) -> Finding<Mapping> {
    let endpoints = ServerEndpoints::of(log.server, log);
    let Some(socket) = main_socket(log) else {
        return Finding::not_asked_for(METHOD);
    };
    let readings = Readings::of(log, &endpoints, socket);
    let seen: BTreeMap<_, _> = readings.seen.iter().map(|(p, a)| (p.name(), a)).collect();
    judge(log, &endpoints, socket, &readings)
        .with("seen", seen)
        .with("local", log.local(socket))
        .with("stable", readings.drifted.is_none())
}

/// The socket of the mapping test: the first that the measurement opened, unless it was not heard of while the
/// second one was.
#[must_use]
pub fn main_socket(log: &ObservationLog) -> Option<SocketId> {
    let first = log.of(PURPOSE).next()?.socket;
    let heard = |t: &&Transaction| t.direct().is_some();
    let mut others = log.of(PURPOSE).filter(heard).map(|t| t.socket);
    if log.of(PURPOSE).filter(heard).any(|t| t.socket == first) {
        return Some(first);
    }
    others.next().or(Some(first))
}

fn judge(
    log: &ObservationLog,
    endpoints: &ServerEndpoints,
    socket: SocketId,
    readings: &Readings,
) -> Finding<Mapping> {
    if let (Some(first), Some(drifted)) = (readings.seen.get(&ServerEndpoint::PRIMARY), readings.drifted) {
        let text = format!(
            "the NAT is not deterministic: one socket and destination showed {first} first, {drifted} later"
        );
        return Finding::unknown((ReasonCode::NotDeterministic, text), METHOD);
    }
    let Some((value, confidence)) = readings.behaviour(log.local(socket)) else {
        return Finding::unknown(why_unknown(log, endpoints, readings), METHOD);
    };
    if value == Mapping::Direct && !log.has_xor_mapped() {
        return Finding::known(value, confidence.min(Confidence::Weak), METHOD).because((
            ReasonCode::AddressNotMasked,
            "the server shows the external endpoint in clear only, where a gateway may have put the local one",
        ));
    }
    let finding = Finding::known(value, confidence, METHOD);
    let late = log.of(PURPOSE).map(|t| t.socket).find(|&s| s != socket);
    let late = late.and_then(|s| Readings::of(log, endpoints, s).behaviour(log.local(s)));
    let differs = |other: Mapping| {
        let text =
            format!("the NAT is not deterministic: the first socket behaved {value}, a later one {other}");
        (ReasonCode::NotDeterministic, text)
    };
    match late {
        Some((other, _)) if other > value => Finding::known(other, Confidence::Weak, METHOD)
            .because(differs(other))
            .with("first_socket", value),
        Some((other, _)) if other < value && confidence == Confidence::Certain => {
            finding.because(differs(other)).at_most(Confidence::Weak)
        }
        _ if confidence == Confidence::Weak => finding.because(why_unknown(log, endpoints, readings)),
        _ => finding,
    }
}

fn why_unknown(log: &ObservationLog, endpoints: &ServerEndpoints, readings: &Readings) -> Reason {
    if log.ended_early {
        return (ReasonCode::EndedEarly, "the run ended before all endpoints were asked").into();
    }
    if readings.seen.is_empty() {
        return (ReasonCode::NoAnswer, "no answer showed the external endpoint of the test socket").into();
    }
    if let Some(fault) = endpoints.fault() {
        return fault
            .reason()
            .map(|text| text + ": one endpoint alone cannot tell what the mapping depends on");
    }
    let dead: Vec<_> = ServerEndpoint::ALL
        .into_iter()
        .filter(|p| !readings.seen.contains_key(p))
        .filter_map(|p| endpoints.get(p))
        .map(|endpoint| endpoint.to_string())
        .collect();
    let controls: Vec<_> = log.controls(log.timed_out_before).map(Transaction::returned).collect();
    let lost = controls.iter().filter(|&&returned| !returned).count();
    if lost * 10 > controls.len() {
        (ReasonCode::TooMuchLoss, format!("too much loss: no answer from {}", dead.join(", "))).into()
    } else {
        (ReasonCode::ServerEndpointSilent, format!("the server does not answer at {}", dead.join(", ")))
            .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::made;

    const LOCAL: &str = "192.168.1.2:40000";

    /// What four endpoints saw (A1:P1, A1:P2, A2:P1, A2:P2), as ports at one external address; 0 = no answer.
    fn finding(seen: [u16; 4]) -> Finding<Mapping> {
        let mut log = made::log();
        let socket = made::socket(&mut log, LOCAL);
        for (endpoint, port) in ServerEndpoint::ALL.into_iter().zip(seen) {
            let external = format!("203.0.113.1:{port}");
            log.transactions.push(match port {
                0 => made::transaction(PURPOSE, socket, made::address_of(endpoint), RequestKind::Binding),
                _ => made::answered(PURPOSE, socket, endpoint, &external),
            });
        }
        conclude(&log)
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
        let mut log = made::log();
        let socket = made::socket(&mut log, LOCAL);
        for endpoint in ServerEndpoint::ALL {
            log.transactions.push(made::answered(PURPOSE, socket, endpoint, LOCAL));
        }
        assert_eq!(conclude(&log).value, Some(Mapping::Direct));
    }

    #[test]
    fn what_could_have_been_rewritten_on_the_way_proves_no_direct_mapping() {
        let mut log = made::log();
        let socket = made::socket(&mut log, LOCAL);
        for endpoint in ServerEndpoint::ALL {
            let mut transaction = made::answered(PURPOSE, socket, endpoint, LOCAL);
            transaction.responses[0].xor_mapped = None;
            log.transactions.push(transaction);
        }
        let finding = conclude(&log);
        assert_eq!((finding.value, finding.confidence), (Some(Mapping::Direct), Confidence::Weak));
        assert!(finding.reason.unwrap().contains("in clear only"));
    }

    #[test]
    fn a_mapping_that_drifts_is_no_behaviour() {
        let mut log = made::log();
        let socket = made::socket(&mut log, LOCAL);
        for endpoint in ServerEndpoint::ALL {
            log.transactions.push(made::answered(PURPOSE, socket, endpoint, "203.0.113.1:5"));
        }
        log.transactions.push(made::answered(PURPOSE, socket, ServerEndpoint::PRIMARY, "203.0.113.1:9"));
        assert!(conclude(&log).reason.unwrap().contains("not deterministic"));
    }
}
