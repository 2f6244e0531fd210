//! How long an idle mapping exists, and which packets refresh it (RFC 4787 section 4.3, RFC 5780 section 4.6).
//!
//! RFC 5780 waits for one idle time after another, which takes several lifetimes. Here many mappings are idle side by side,
//! each is checked once at an idle time of its own, and when the first is found expired, others that were opened a little
//! later are checked in that instant: little more than one lifetime is enough. A check uses RESPONSE-PORT: one socket has
//! the server respond to the external port of another. `nat-check/docs/lifetime.md` explains it with a timing diagram.
//!
//! `schedule` and `openings` say what is opened when, `search` what is checked when, `runner` does it,
//! `observe` reads the log, and `conclude` draws the conclusion with `bracket`, `expiry_model`,
//! `invalidation` and `alternatives`.

mod alternatives;
mod bracket;
mod conclude;
mod constants;
mod expiry_model;
mod found;
mod invalidation;
mod observe;
mod openings;
mod packet_budget;
mod runner;
mod schedule;
mod search;
mod step;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use conclude::conclude;

use crate::{
    observation::Purpose,
    probe::{Probe, Slot, Stage, Step, so_far},
    session::{Contact, Session},
};

/// The purpose of its requests, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("lifetime");

const NEEDS: &[&str] = &["mapping", "filtering", "port-allocation", "response-port"];

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "how long a mapping lives, what keeps it alive",
    needs: NEEDS,
    steps: &[Step { stage: Stage::Lifetime, run: |session| Box::pin(run(session)) }],
    udp: &[Slot::of::<found::MappingLifetime>()],
    tcp: &[],
    server: &[],
};

/// How to check whether a mapping still exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CheckMethod {
    /// The server responds to its external port when another socket asks for it with RESPONSE-PORT.
    ResponsePort {
        /// Whether the value is written with its padding counted.
        long: bool,
    },
    /// Its own socket sends again, and a new mapping shows by a new external port.
    SendAgain,
}

/// How long the measurement takes at the most.
#[must_use]
pub fn longest(idle: Duration) -> Duration {
    runner::ends_after(idle) + constants::CALLER_ALLOWS
}

async fn run(session: Arc<Session>) {
    let Some(longest) = session.lifetime() else { return };
    if session.contact().await == Contact::None {
        return;
    }
    if let Ok(method) = session.read(|log| conclude::method(log, &so_far(log, NEEDS))) {
        runner::measure(session, method, longest).await;
    }
}
