//! How far away the outermost filter stands: this host itself, the first router, or another one behind it (nested LANs,
//! a provider's NAT). No RFC has a test for it.
//!
//! Each of several sockets sends an opener to A2:P2 that dies after so many hops, and asks A1:P1 to have A2:P2 answer. The
//! answer comes in only if the opener has passed every filter on the way. The socket that sends no opener must hear
//! nothing. The most hops that were not enough are the distance; that silence is judged by [`crate::loss_test`].

use std::{sync::Arc, time::Duration};

use shared::nat::{Filtering, Mapping};
use tokio::time::sleep;

use crate::{
    loss_test::{LIKELY, LossCounts},
    observation::{ObservationLog, Purpose, RequestKind},
    probe::{Found, Measured, Probe, Slot, Stage, Step, filtering, slot, so_far},
    report::{Confidence, Finding, Reason, ReasonCode},
    server_endpoints::ServerEndpoint,
    session::{self, Contact, Request, Session, Socket},
};
#[cfg(feature = "sim")]
use shared::nat::model::UdpBehaviour;

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("distance");

const NEEDS: &[&str] = &["mapping", "filtering"];

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "how far away the outermost filter is: this host, the first router, or another one behind it",
    needs: NEEDS,
    steps: &[Step { stage: Stage::Confirm, run: |session| Box::pin(open_from_afar(session)) }],
    udp: &[Slot::of::<Distance>()],
    tcp: &[],
    server: &[],
};

/// What it finds out.
struct Distance;

impl Measured for Distance {
    type Value = u8;
    const KEY: &'static str = "distance";
    const LABEL: &'static str = "Outermost filter";
    slot!(udp.distance);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<u8> {
        conclude(log, found)
    }

    fn text(value: &u8) -> String {
        match *value {
            0 => "0 hops: this host itself filters, or a device that does not count hops".into(),
            1 => "1 hop: the first router is the outermost device that filters".into(),
            _ => {
                format!("{value} hops: a second device filters beyond the first router, as with nested NATs")
            }
        }
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        nat.distance.map(Into::into)
    }
}

pub(crate) const METHOD: &str = "answers that only packets of a limited time to live have opened the way for";
/// Openers die after 0 (none is sent) to this many hops. Two gateways in a row are usual, more than four unheard of.
const MOST: u8 = 6;
/// Rounds at the most, and questions a round once it is known which one is open.
const ROUNDS: usize = 6;
const COPIES: usize = 3;
/// Between copies, so that one burst of loss does not swallow them all.
const APART: Duration = Duration::from_millis(5);
/// The time to live of everything else.
const FAR: u32 = 64;

async fn open_from_afar(session: Arc<Session>) {
    if session.contact().await == Contact::None
        || session.is_slow()
        || session.is_far()
        || session.read(|log| hindrance(log, &so_far(log, NEEDS)).is_some())
    {
        return;
    }
    let mut sockets = Vec::new();
    for _ in 0..=MOST {
        let Ok(socket) = session.open().await else { return };
        sockets.push(socket);
    }
    for hops in 0..=MOST {
        ask(&session, &sockets, hops).await;
    }
    for _ in 0..ROUNDS {
        let wait = session.now() + session.response_timeout();
        session.until(wait, |log| farthest_silent(log).is_none_or(|hops| hops <= 1)).await;
        let timed_out_before = session.now().saturating_sub(session.response_timeout());
        // The nearest router is nearly always the one: its silence needs no second round.
        let Some(open) = session.read(farthest_silent) else { return };
        if session.read(|log| tally(log, open, timed_out_before).is_enough()) {
            return;
        }
        for _ in 0..COPIES {
            ask(&session, &sockets, open).await;
            sleep(APART).await;
        }
    }
}

/// One opener that dies after so many hops, and the question for an answer from where it was sent to.
async fn ask(session: &Session, sockets: &[Socket], hops: u8) {
    let (Some(socket), Some(other)) =
        (sockets.get(usize::from(hops)), session.endpoints().get(ServerEndpoint::BOTH))
    else {
        return;
    };
    let round = session.round();
    let request = |to, kind| Request { purpose: PURPOSE, to, kind, round };
    if hops > 0 && session.set_ttl(socket, hops.into()) {
        session.send(socket, request(other, RequestKind::LimitedTtl { hops })).await;
        session.set_ttl(socket, FAR);
    }
    session.send(socket, request(session.server(), RequestKind::ChangeRequest(ServerEndpoint::BOTH))).await;
}

/// What stands against the test.
fn hindrance(log: &ObservationLog, found: &Found) -> Option<Reason> {
    if !log.gives_receipts() {
        return Some(
            (ReasonCode::ServerGivesNoReceipts, "the server gives no receipts, so silence proves nothing")
                .into(),
        );
    }
    let mapping = &found.udp.mapping;
    match mapping.value {
        Some(Mapping::Direct | Mapping::EndpointIndependent) => {}
        Some(_) => {
            let text = "the mapping depends on the destination, so no packet opens the way for another";
            return Some((ReasonCode::MappingDependsOnDestination, text).into());
        }
        None => return Some(mapping.reason_or((ReasonCode::MappingUnknown, "the mapping is not known"))),
    }
    let filtering = &found.udp.filtering;
    match filtering.value {
        Some(Filtering::EndpointIndependent) => {
            Some((ReasonCode::NoFilter, "nothing is filtered, so no filter shows where it stands").into())
        }
        Some(_) => None,
        None => Some(filtering.reason_or((ReasonCode::FilteringUnknown, "the filtering is not known"))),
    }
}

/// The questions after openers of so many hops. The sockets are told apart by their openers; the one without is the first.
fn questions(log: &ObservationLog, hops: u8) -> impl Iterator<Item = &crate::observation::Transaction> {
    let first = log.of(PURPOSE).next().map(|t| t.socket);
    let opener = log.of(PURPOSE).find(|t| t.kind == RequestKind::LimitedTtl { hops }).map(|t| t.socket);
    let socket = if hops == 0 { first } else { opener };
    log.of(PURPOSE).filter(move |t| {
        t.kind == RequestKind::ChangeRequest(ServerEndpoint::BOTH) && Some(t.socket) == socket
    })
}

fn is_heard(log: &ObservationLog, hops: u8) -> bool {
    questions(log, hops).any(|t| t.successes().any(|a| a.from != t.to))
}

/// The most hops that were not enough so far.
fn farthest_silent(log: &ObservationLog) -> Option<u8> {
    (0..=MOST).rev().find(|&hops| !is_heard(log, hops))
}

fn tally(log: &ObservationLog, hops: u8, timed_out_before: Duration) -> LossCounts {
    let mut tally = filtering::neighbour_tally(log, [timed_out_before; 2], ServerEndpoint::BOTH);
    for question in questions(log, hops).filter(|t| t.sent <= timed_out_before && !t.unsent) {
        tally.sent += 1;
        tally.silent += u32::from(question.receipt.is_some() && question.successes().next().is_none());
    }
    tally
}

/// Why nothing was sent, though nothing stood against it.
fn not_tried(log: &ObservationLog) -> Finding<u8> {
    if !log.tests.contains(&PURPOSE.measurement) {
        return Finding::not_asked_for(METHOD);
    }
    let why: Reason = match log.quickest().filter(|&way| way >= session::FAR) {
        Some(way) => {
            let text =
                format!("left out: a round trip takes {:.1} s, and the test several", way.as_secs_f64());
            (ReasonCode::LongRoundTrip, text).into()
        }
        None => {
            let text = "each request takes so long that what the verdict does not rest on was left out";
            (ReasonCode::ServerSlow, text).into()
        }
    };
    Finding::unknown(why, METHOD)
}

/// Draws the conclusion: the number of routers up to the outermost that filters, 0 for this host itself.
fn conclude(log: &ObservationLog, found: &Found) -> Finding<u8> {
    if let Some(reason) = hindrance(log, found) {
        return Finding::unknown(reason, METHOD);
    }
    if log.of(PURPOSE).next().is_none() {
        return not_tried(log);
    }
    let Some(silent) = farthest_silent(log) else {
        let text = "the filter remembers for all sockets of this host together whom it has sent to";
        return Finding::unknown((ReasonCode::FilterCountsHosts, text), METHOD);
    };
    let tally = tally(log, silent, log.timed_out_before);
    let heard: Vec<u8> = (0..=MOST).filter(|&hops| is_heard(log, hops)).collect();
    let finding = match () {
        () if silent == MOST => {
            let text = format!("no packet that dies within {MOST} hops opens the way");
            Finding::unknown((ReasonCode::TooFarAway, text), METHOD)
        }
        () if tally.is_filtered() => match uncounted(log, found, silent) {
            None => Finding::known(silent, Confidence::Strong, METHOD),
            Some(why) => {
                Finding::known(silent, Confidence::Weak, METHOD).because((ReasonCode::HopsNotCounted, why))
            }
        },
        () if tally.log_ratio() <= LIKELY => Finding::known(silent, Confidence::Weak, METHOD)
            .because((ReasonCode::LossLeavesDoubt, "loss leaves room for doubt")),
        () => Finding::unknown(
            (ReasonCode::TooMuchLoss, "too much loss to tell a packet that died from one that was lost"),
            METHOD,
        ),
    };
    finding
        .with("hops_enough", heard)
        .with("silent_beside_controls", tally.silent)
        .with("controls_sent", tally.controls_sent)
        .with("controls_answered", tally.controls_answered)
}

/// Why the hops may have been counted wrongly: devices on the way that leave the time to live alone, or set it anew.
fn uncounted(log: &ObservationLog, found: &Found, silent: u8) -> Option<String> {
    if silent == 0 && found.udp.mapping.value != Some(Mapping::Direct) {
        let text = "the filter seems to be this host's own, but the device that translates may be one that does not \
                    count hops";
        return Some(text.into());
    }
    // Servers are farther away than gateways: the shortest-lived opener that was enough has no business there.
    let enough = RequestKind::LimitedTtl { hops: silent + 1 };
    let arrived = log.of(PURPOSE).any(|t| t.kind == enough && t.direct().is_some());
    arrived.then(|| {
        format!(
            "packets that die after {} hops reach the server: either it is that near, or a device on the way sets the \
             time to live anew",
            silent + 1
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::{SocketId, made},
        probe::mapping,
    };

    fn conclude(log: &ObservationLog) -> Finding<u8> {
        super::conclude(log, &so_far(log, NEEDS))
    }

    /// A run behind a port-restricted NAT in which openers of these hops were enough, each asked `times`.
    fn run(enough: impl Fn(u8) -> bool, times: usize) -> ObservationLog {
        let mut log = made::log();
        let external = "203.0.113.1:5";
        let socket = made::socket(&mut log, "192.168.1.2:40000");
        for endpoint in ServerEndpoint::ALL {
            log.transactions.push(made::answered(mapping::PURPOSE, socket, endpoint, external));
        }
        for _ in 0..8 {
            for endpoint in [ServerEndpoint::BOTH, ServerEndpoint::PORT, ServerEndpoint::IP] {
                let mut transaction = made::transaction(
                    filtering::PURPOSE,
                    socket,
                    log.server,
                    RequestKind::ChangeRequest(endpoint),
                );
                transaction.receipt = Some(Duration::from_millis(10));
                log.transactions.push(transaction);
            }
        }
        for hops in 0..=MOST {
            let socket = made::socket(&mut log, &format!("192.168.1.2:5000{hops}"));
            for _ in 0..times {
                if hops > 0 {
                    let to = made::address_of(ServerEndpoint::BOTH);
                    log.transactions.push(made::transaction(
                        PURPOSE,
                        socket,
                        to,
                        RequestKind::LimitedTtl { hops },
                    ));
                }
                let mut transaction = made::transaction(
                    PURPOSE,
                    socket,
                    log.server,
                    RequestKind::ChangeRequest(ServerEndpoint::BOTH),
                );
                transaction.receipt = Some(Duration::from_millis(10));
                if enough(hops) {
                    transaction.responses.push(made::answer(
                        SocketId(0),
                        made::address_of(ServerEndpoint::BOTH),
                        external,
                    ));
                }
                log.transactions.push(transaction);
            }
        }
        log
    }

    #[test]
    fn the_outermost_filter_is_where_openers_stop_being_enough() {
        for distance in 0..MOST {
            let finding = conclude(&run(|hops| hops > distance, 5));
            // Where something translates, a filter of this host's own is more likely a device that counts no hops.
            let sure = if distance == 0 { Confidence::Weak } else { Confidence::Strong };
            assert_eq!((finding.value, finding.confidence), (Some(distance), sure), "{finding:?}");
        }
    }

    #[test]
    fn a_time_to_live_that_is_set_anew_leaves_doubt() {
        let mut log = run(|hops| hops > 1, 5);
        let opener =
            log.transactions.iter_mut().find(|t| t.kind == RequestKind::LimitedTtl { hops: 2 }).unwrap();
        opener.responses.push(made::answer(opener.socket, opener.to, "203.0.113.1:5"));
        let finding = conclude(&log);
        assert_eq!(
            (finding.confidence, finding.reason_code),
            (Confidence::Weak, Some(ReasonCode::HopsNotCounted))
        );
    }

    #[test]
    fn what_cannot_be_told_is_said() {
        let why = |log: &ObservationLog| conclude(log).reason.unwrap_or_default();
        assert!(why(&run(|_| true, 5)).contains("all sockets"));
        assert!(why(&run(|_| false, 5)).contains("within 6 hops"));
        assert_eq!(conclude(&run(|hops| hops > 1, 1)).value, None, "a single silence proves nothing");
    }

    #[test]
    fn what_was_left_out_says_why() {
        let code = |log: &ObservationLog| conclude(log).reason_code;
        let mut log = run(|hops| hops > 1, 1);
        log.transactions.retain(|t| t.purpose != PURPOSE);
        assert_eq!(code(&log), Some(ReasonCode::NotAskedFor));
        log.tests = vec![PURPOSE.measurement];
        assert_eq!(code(&log), Some(ReasonCode::ServerSlow));
        for transaction in &mut log.transactions {
            let at = transaction.sent + Duration::from_millis(2500);
            transaction.responses.iter_mut().for_each(|response| response.at = at);
            transaction.receipt = transaction.receipt.map(|_| at);
        }
        assert_eq!(code(&log), Some(ReasonCode::LongRoundTrip));
    }
}
