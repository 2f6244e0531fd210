//! How long a mapping lives when nothing is sent, and what keeps it alive (RFC 4787 section 4.3, RFC 5780 section 4.6).
//!
//! RFC 5780 waits for one idle time after the other, several lifetimes in all. Here many mappings wait side by side,
//! each is looked at once, at an idle time of its own, and when the first is found gone, others made a little later are
//! looked at in that instant: so little more than one lifetime is enough. Looking is done with RESPONSE-PORT: one
//! socket has the server answer to the external port of another.

pub mod climb;
mod comb;
mod conclude;
mod conduct;
pub mod fit;
pub mod ladder;
pub mod manner;
pub mod observe;
pub mod pace;
mod plan;
#[cfg(test)]
mod tests;
mod upset;
pub mod view;

use std::{sync::Arc, time::Duration};

pub use conclude::conclude;

use crate::{
    observation::Purpose,
    probe::{Probe, Stage, Step},
    session::{Contact, Session},
};

/// What its requests are sent for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("lifetime");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "how long a mapping lives, what keeps it alive",
    needs: &["mapping", "filtering", "port-allocation", "response-port"],
    steps: &[Step { stage: Stage::Lifetime, run: |session| Box::pin(run(session)) }],
};

/// Seconds from the opening of a socket until its mapping is one without answers.
pub const UNREPLIED_HEAD: f64 = 0.0;
/// Seconds from the opening of a socket until its mapping is a stream.
pub const STREAM_HEAD: f64 = 2.2;

/// The measurement ends this long after the longest idle time, and a share of that: the head, the time by which high
/// rungs are late, two decisions, and a wide margin.
const TAIL: (Duration, u32) = (Duration::from_secs(15), 10);

/// How to see whether a mapping is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// The server answers to its external port when another socket asks for it, with the value in this form.
    Reach {
        /// Whether the value is written with its padding counted.
        long: bool,
    },
    /// Its own socket sends again, and a new mapping shows by a new external port.
    Again,
}

/// How long the measurement takes at the most.
#[must_use]
pub fn longest(idle: Duration) -> Duration {
    ends_after(idle) + Duration::from_secs(2)
}

fn ends_after(idle: Duration) -> Duration {
    idle + TAIL.0 + idle / TAIL.1
}

async fn run(session: Arc<Session>) {
    let Some(longest) = session.lifetime() else { return };
    if session.contact().await == Contact::None {
        return;
    }
    if let Ok(way) = session.read(conclude::way) {
        conduct::measure(session, way, longest).await;
    }
}
