//! Hairpinning (RFC 4787 section 6): does a packet that one socket here sends to the external endpoint of another
//! come back in?

use std::{net::SocketAddr, sync::Arc};

use crate::{
    contactable::{Scope, is_contactable},
    observation::{ObservationLog, Purpose, RequestKind, SocketId, Transaction},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode},
    session::{Contact, Request, Session},
};
#[cfg(feature = "sim")]
use shared::nat::model::UdpBehaviour;

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("hairpinning");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whether two hosts behind this NAT can talk over its external address",
    needs: &[],
    steps: &[Step { stage: Stage::Primary, run: |session| Box::pin(send_to_oneself(session)) }],
    udp: &[Slot::of::<Hairpinning>()],
    tcp: &[],
    server: &[],
};

/// What it finds out.
struct Hairpinning;

impl Measured for Hairpinning {
    type Value = bool;
    const KEY: &'static str = "hairpinning";
    const LABEL: &'static str = "Hairpinning";
    slot!(udp.hairpinning);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<bool> {
        conclude(log)
    }

    fn text(value: &bool) -> String {
        let text = if *value {
            "yes: hosts behind this NAT reach each other at their external addresses"
        } else {
            "no: hosts behind this NAT do not reach each other at their external addresses"
        };
        text.into()
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        nat.hairpinning.map(Into::into)
    }
}

const METHOD: &str = "RFC 5780 3.4, two sockets of this host sending to each other's external endpoint";
/// Packets each way: the first ones open each other's filter.
const COPIES: u32 = 4;

async fn send_to_oneself(session: Arc<Session>) {
    let (Ok(a), Ok(b)) = (session.open().await, session.open().await) else { return };
    let server = session.server();
    let (to_a, to_b) = tokio::join!(
        session.learn_external(&a, PURPOSE, server, 4),
        session.learn_external(&b, PURPOSE, server, 4)
    );
    let (Some(to_a), Some(to_b)) = (to_a, to_b) else { return };
    // The server may name what it likes.
    let own = |at: SocketAddr| is_contactable(at.ip(), at.port(), Scope::Server(server));
    if session.contact().await == Contact::None
        || !translated(&session, a.id, to_a)
        || !own(to_a)
        || !own(to_b)
    {
        return;
    }
    let looped = |log: &ObservationLog| {
        log.transactions.iter().any(|t| t.kind == RequestKind::Hairpin && !t.responses.is_empty())
    };
    for _ in 0..COPIES {
        let round = session.round();
        for (socket, to) in [(&a, to_b), (&b, to_a)] {
            session.send(socket, Request { purpose: PURPOSE, to, kind: RequestKind::Hairpin, round }).await;
        }
        // The way to the NAT and back is no longer than the one to the server.
        let response_timeout = session.response_timeout().min(crate::session::ROUND_INTERVAL);
        if session.until(session.now() + response_timeout, looped).await {
            return;
        }
    }
}

fn translated(session: &Session, socket: SocketId, external: SocketAddr) -> bool {
    session.read(|log| log.local(socket) != Some(external))
}

/// Draws the conclusion. A negative self-test proves nothing: some routers return packets between two hosts but not
/// to the host that sent them.
fn conclude(log: &ObservationLog) -> Finding<bool> {
    let loops: Vec<&Transaction> = log.of(PURPOSE).filter(|t| t.kind == RequestKind::Hairpin).collect();
    // At the socket that it was sent to: what comes back to the sender is an echo of somebody else.
    let came_back = |t: &Transaction| t.responses.iter().find(|it| it.on != t.socket).cloned();
    if let Some(hit) = loops.iter().find_map(|t| came_back(t)) {
        return Finding::known(true, Confidence::Certain, METHOD)
            .with("sent", loops.len())
            .with("returned", loops.iter().filter(|t| came_back(t).is_some()).count())
            .with("source_seen", hit.from);
    }
    let learned = log.of(PURPOSE).find_map(|t| Some((t.socket, t.direct()?.mapped()?)));
    let reason = match learned {
        None => (ReasonCode::NoAnswer, "no answer showed the external endpoints of the two test sockets"),
        Some((socket, mapped)) if log.local(socket) == Some(mapped) => {
            (ReasonCode::NoTranslation, "nothing translates addresses here, so there is nothing to hairpin")
        }
        Some((_, mapped)) if !is_contactable(mapped.ip(), mapped.port(), Scope::Server(log.server)) => (
            ReasonCode::ServerNotProven,
            "the server reports an external endpoint that nothing is sent to on a server's word",
        ),
        Some(_) => (ReasonCode::OneHostCannotTell, "no hairpinned packet returned; one host cannot test two"),
    };
    Finding::unknown(reason, METHOD).with("sent", loops.len()).with("returned", 0)
}
