//! Inbound-first remapping: does a packet from outside that arrives first change the mapping towards its sender?
//!
//! A Linux router that accepts input on its WAN side takes the stranger's packet for its own; the tuple is then
//! taken, and our later packet to that stranger leaves from another port. Two such routers cannot be punched unless
//! both sides open their own NAT before the other's packet arrives. The filtering test has just made A2:P2 such a
//! stranger.

use std::sync::Arc;

use shared::nat::Mapping;

use crate::{
    observation::{ObservationLog, Purpose, RequestKind},
    probe::{Found, Measured, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode},
    server_endpoints::ServerEndpoint,
    session::{Contact, Session},
};
#[cfg(feature = "sim")]
use shared::nat::model::UdpBehaviour;

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("inbound-first");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "whether a peer's packet that arrives first makes the NAT change the mapping towards it",
    needs: &["mapping", "filtering"],
    steps: &[Step { stage: Stage::Alternate, run: |session| Box::pin(answer_the_stranger(session)) }],
    udp: &[Slot::of::<InboundFirst>()],
    tcp: &[],
    server: &[],
};

/// What it finds out.
struct InboundFirst;

impl Measured for InboundFirst {
    type Value = bool;
    const KEY: &'static str = "inbound_first_remap";
    const LABEL: &'static str = "Inbound-first remapping";
    slot!(udp.inbound_first_remap);

    fn conclude(log: &ObservationLog, found: &Found) -> Finding<bool> {
        conclude(log, found)
    }

    fn text(value: &bool) -> String {
        let text = if *value {
            "yes: if a peer's packet arrives first, the external port towards that peer changes"
        } else {
            "no: a peer's packet that arrives first changes nothing"
        };
        text.into()
    }

    #[cfg(feature = "sim")]
    fn expected(nat: &UdpBehaviour) -> Option<serde_json::Value> {
        Some(nat.inbound_first_remap.into())
    }
}

const METHOD: &str = "external endpoint towards A2:P2 before and after A2:P2 has sent unasked";

async fn answer_the_stranger(session: Arc<Session>) {
    let Some(socket) = session.retained_sockets(|retained| retained.filtering.clone()) else { return };
    let Some(stranger) = session.endpoints().get(ServerEndpoint::BOTH) else { return };
    if session.contact().await == Contact::None || session.budget() == 0 {
        return;
    }
    session.learn_external(&socket, PURPOSE, stranger, 4).await;
}

/// Draws the conclusion.
fn conclude(log: &ObservationLog, found: &Found) -> Finding<bool> {
    let after = log.of(PURPOSE).find_map(|t| Some((t.socket, t.direct()?.mapped()?)));
    let Some((socket, after)) = after else {
        return Finding::unknown(
            (ReasonCode::NoAnswer, "the server's alternate endpoint gave no answer to compare"),
            METHOD,
        );
    };
    // The same socket towards A1:P1, whom it sent to first.
    let before = log.mapped(socket, log.server);
    let asked_unasked = log.transactions.iter().any(|t| {
        t.socket == socket
            && t.kind == RequestKind::ChangeRequest(ServerEndpoint::BOTH)
            && (t.receipt.is_some() || t.successes().count() > 0)
    });
    let mapping = &found.udp.mapping;
    let independent = matches!(mapping.value, Some(Mapping::Direct | Mapping::EndpointIndependent));
    let finding = match before {
        Some(_) if mapping.value.is_none() => {
            let unknown = (ReasonCode::MappingUnknown, "the mapping is not known");
            Finding::unknown(mapping.reason_or(unknown), METHOD)
        }
        None => Finding::unknown((ReasonCode::NoAnswer, "no answer showed the socket's external endpoint"), METHOD),
        Some(_) if !independent => Finding::unknown(
            (
                ReasonCode::MappingDependsOnDestination,
                "the mapping depends on the destination anyway, so there is nothing to compare",
            ),
            METHOD,
        ),
        Some(before) if before != after => Finding::known(true, Confidence::Strong, METHOD)
            .because((
                ReasonCode::InboundFirstRemaps,
                "if the peer's packet arrives first, the mapping towards it changes: send first, or at the same time",
            )),
        Some(_) if asked_unasked => Finding::known(false, Confidence::Strong, METHOD),
        Some(_) => Finding::known(false, Confidence::Weak, METHOD)
            .because((ReasonCode::ServerNotProven, "nothing shows that the unsolicited packet arrived first")),
    };
    finding.with("before", before).with("after", after).with("trials", log.of(PURPOSE).count())
}
