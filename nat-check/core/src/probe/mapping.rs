//! Mapping behaviour (RFC 4787 section 4.1, RFC 5780 section 4.3): does the external endpoint depend on the
//! destination? One socket, all four endpoints, and the first one again.

pub(super) mod readings;
pub(crate) mod spread;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use shared::nat::Mapping;
use tokio::task::JoinSet;

use crate::{
    mapping_limit::MappingLimit,
    observation::{ObservationLog, Purpose, RequestKind, SocketId, Transaction},
    probe::{
        Found, Measured, Probe, Slot, Stage, Step,
        mapping::readings::{Axes, Readings, all_readings},
        slot,
    },
    report::{Confidence, Finding, Reason, ReasonCode},
    server_endpoints::{ServerEndpoint, ServerEndpoints},
    server_position::sees_private_address,
    session::{Contact, ROUND_INTERVAL, Request, Session, Socket},
    silent_endpoints::blocked,
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
    tcp: &[],
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
        text(*value).into()
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        Some(serde_json::json!(nat.mapping))
    }
}

/// A mapping for a person.
pub(super) fn text(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Direct => "direct: address and port are not translated",
        Mapping::EndpointIndependent => {
            "endpoint-independent: the same external endpoint for every destination"
        }
        Mapping::AddressDependent => {
            "address-dependent: a different external endpoint for each destination address"
        }
        Mapping::AddressAndPortDependent => {
            "address-and-port-dependent: a different external endpoint for each destination address and port"
        }
        Mapping::PortDependent => "port-dependent: a different external endpoint for each destination port",
    }
}

const METHOD: &str = "RFC 5780 4.3, all four endpoints and the first again";
/// What the requests that look for an earlier run's mapping are sent for.
const EARLIER_RUN: Purpose = PURPOSE.role("earlier-run");
/// What an old socket asks for once new ones hear nothing.
const LATE_CONTROL: Purpose = PURPOSE.role("late-control");
/// Sockets that ask all four endpoints in the end where there are several external addresses.
const SPREAD_SOCKETS: usize = 8;
/// What they take of the budget, without loss.
pub(crate) const SPREAD_PACKETS: usize = 4 * SPREAD_SOCKETS;
/// Requests to an endpoint that does not answer, at the most.
const TRIES: u32 = 12;
/// Where anything is answered they end after this time and what two answers may take: where they have to be sent slowly, few
/// are left.
const LONGEST: Duration = Duration::from_millis(1200);
/// The first of them follow one another at once, the others apart, as a burst of loss takes its time.
const QUICK_TRIES: u32 = 4;

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
/// for an endpoint that did not answer the first one. Where there are several external addresses, one socket may have
/// met with the same one by chance: more of them ask.
async fn ask_again_late(session: Arc<Session>) {
    if session.contact().await == Contact::None {
        return;
    }
    let late = ask_from_another(session.clone(), &ServerEndpoint::ALL).await;
    let heard = late.is_some_and(|id| session.read(|log| log.mapped(id, session.server()).is_some()));
    if !heard {
        return ask_for_more_mappings(session).await;
    }
    if session.read(|log| external_addresses(log).len() < 2) {
        return;
    }
    let mut others = JoinSet::new();
    for _ in 1..SPREAD_SOCKETS {
        others.spawn(ask_from_another(session.clone(), &ServerEndpoint::ALL));
    }
    while others.join_next().await.is_some() {}
}

/// A NAT that gives no more mappings shows it by several new sockets that hear nothing beside an old one that does.
async fn ask_for_more_mappings(session: Arc<Session>) {
    let mut others = JoinSet::new();
    for _ in 0..2 {
        others.spawn(ask_from_another(session.clone(), &[ServerEndpoint::PRIMARY]));
    }
    while others.join_next().await.is_some() {}
    if let Some(old) = session.retained_sockets(|retained| retained.contact.clone()) {
        let round = session.round();
        let to = session.server();
        session.send(&old, Request { purpose: LATE_CONTROL, to, kind: RequestKind::Binding, round }).await;
        let answered = |log: &ObservationLog| log.of(LATE_CONTROL).any(Transaction::returned);
        session.until(session.now() + session.response_timeout(), answered).await;
    }
}

async fn ask_from_another(session: Arc<Session>, which: &[ServerEndpoint]) -> Option<SocketId> {
    let another = session.open().await.ok()?;
    ask(&session, &another, &session.endpoints(), which).await;
    Some(another.id)
}

/// Asks these endpoints from one socket until each has answered or has had its tries.
async fn ask(session: &Arc<Session>, socket: &Socket, endpoints: &ServerEndpoints, which: &[ServerEndpoint]) {
    let targets: Vec<SocketAddr> = which.iter().filter_map(|&p| endpoints.get(p)).collect();
    let begun = session.now();
    let heard = |log: &ObservationLog| log.transactions.iter().any(|t| t.first_reaction() > Some(begun));
    for attempt in 1..=TRIES {
        session.turn(PURPOSE).await;
        let round = session.round();
        let is_open = |log: &ObservationLog, to: SocketAddr| log.mapped(socket.id, to).is_none();
        let open: Vec<_> =
            session.read(|log| targets.iter().copied().filter(|&to| is_open(log, to)).collect());
        for &to in &open {
            session.send(socket, Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round }).await;
        }
        let sent = session.now();
        let answered = |log: &ObservationLog| open.iter().all(|&to| !is_open(log, to));
        if session.until_due(sent, answered).await
            || attempt > QUICK_TRIES && session.until(sent + ROUND_INTERVAL * 2, answered).await
            || session.budget() == 0
            || session.now() > begun + LONGEST + session.response_timeout() * 2 && session.read(heard)
        {
            return;
        }
        // On a way that loses nothing, an endpoint that is silent three times is dead.
        let timed_out_before = session.now().saturating_sub(session.response_timeout());
        // One socket on a port that the server does not talk to is no loss.
        let nearly_all = |log: &ObservationLog| {
            let lost = log.controls(timed_out_before).filter(|t| !t.returned()).count();
            lost * 10 <= log.controls(timed_out_before).count()
        };
        // A socket that hears nothing at all has no mapping, or a port that the server does not talk to.
        let deaf =
            |log: &ObservationLog| targets.iter().chain([&session.server()]).all(|&to| is_open(log, to));
        // At a slow server a round takes so long that one is enough: other sockets tell why.
        if attempt >= 3 && session.read(nearly_all)
            || (attempt >= 3 || session.has_queue()) && session.read(deaf)
        {
            return;
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
    let sockets = all_readings(log, endpoints);
    if readings.is_direct(log.local(socket)) {
        let translated = sockets.iter().any(|(s, r)| !r.seen.is_empty() && !r.is_direct(log.local(*s)));
        let finding = direct(log, readings);
        let text = "the NAT is not deterministic: the first socket was not translated, a later one was";
        return match translated {
            true => finding.at_most(Confidence::Weak).because((ReasonCode::NotDeterministic, text)),
            false => finding,
        };
    }
    if external_addresses(log).len() > 1 {
        return spread::judge(&sockets)
            .unwrap_or_else(|| Finding::unknown(why_unknown(log, endpoints, readings), METHOD));
    }
    let others = sockets.iter().filter(|(s, _)| *s != socket).map(|(_, other)| other);
    let (axes, late) = (readings.axes(), others.map(Readings::axes).fold(Axes::default(), Axes::join));
    let known = axes.join(late).mapping();
    // Different readings by endpoints that differ in both things show a dependence; equal ones are no proof against it.
    let known =
        known.or((!readings.is_uniform()).then_some((Mapping::AddressAndPortDependent, Confidence::Weak)));
    let known = known.filter(|(value, _)| *value != Mapping::EndpointIndependent || readings.is_uniform());
    let Some((value, confidence)) = known else {
        return Finding::unknown(why_unknown(log, endpoints, readings), METHOD);
    };
    let finding = Finding::known(value, confidence, METHOD);
    if axes.contradicts(late) {
        let word = |axes: Axes| axes.mapping().map_or_else(|| "otherwise".to_owned(), |(m, _)| m.to_string());
        let (first, other) = (word(axes), word(late));
        let text =
            format!("the NAT is not deterministic: the first socket behaved {first}, a later one {other}");
        return finding
            .at_most(Confidence::Weak)
            .because((ReasonCode::NotDeterministic, text))
            .with("first_socket", first);
    }
    match confidence {
        Confidence::Weak => finding.because(kind_unknown(why_unknown(log, endpoints, readings))),
        _ => finding,
    }
}

/// That it depends on the destination is certain, whatever it is that leaves the kind open.
fn kind_unknown(why: Reason) -> Reason {
    let text = format!("it depends on the destination for certain, but not on what of it is known: {why}");
    (ReasonCode::MappingKindUnknown, text).into()
}

/// No reading differs from the local endpoint.
fn direct(log: &ObservationLog, readings: &Readings) -> Finding<Mapping> {
    let sure = if readings.seen.len() > 1 { Confidence::Certain } else { Confidence::Strong };
    let finding = Finding::known(Mapping::Direct, sure, METHOD);
    let doubt = if log.has_xor_mapped() {
        sees_private_address(log)
    } else {
        let text = "the server shows the external endpoint in clear only, where a gateway may have put the local one";
        Some((ReasonCode::AddressNotMasked, text).into())
    };
    match doubt {
        Some(doubt) => finding.at_most(Confidence::Weak).because(doubt),
        None => finding,
    }
}

/// The external addresses that answers to Binding requests of any socket show.
pub(crate) fn external_addresses(log: &ObservationLog) -> BTreeSet<IpAddr> {
    let asked = log.transactions.iter().filter(|t| t.kind == RequestKind::Binding);
    asked.filter_map(|t| log.external(t.direct()?)).map(|external| external.ip()).collect()
}

fn why_unknown(log: &ObservationLog, endpoints: &ServerEndpoints, readings: &Readings) -> Reason {
    if log.ended_early {
        return (ReasonCode::EndedEarly, "the run ended before all endpoints were asked").into();
    }
    if readings.seen.is_empty() {
        return (ReasonCode::NoAnswer, "no answer showed the external endpoint of the test socket").into();
    }
    if let Some(limit) = MappingLimit::seen(log, log.timed_out_before) {
        return limit.reason();
    }
    if let Some(fault) = endpoints.fault() {
        return fault
            .reason()
            .map(|text| text + ": one endpoint alone cannot tell what the mapping depends on");
    }
    if let Some(blocked) = blocked(log, endpoints) {
        return blocked;
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
