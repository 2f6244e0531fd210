//! Connections that the server was asked to open to this host in a test session, and what came of them.

use std::{net::SocketAddr, time::Duration};

use shared::test_session::{Decline, Hop, Icmp, Source, SourceAddress, SynOutcome};

use super::Purpose;

/// What the session with the server came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum TestSessionState {
    /// Nobody has tried.
    #[default]
    NotTried,
    /// It is open.
    Open,
    /// There is none, for this reason.
    Absent(String),
}

/// A connection that the server was asked to open.
#[derive(Clone, Debug)]
pub struct Call {
    /// What for.
    pub purpose: Purpose,
    /// From which address of the server.
    pub from: SourceAddress,
    /// From which of its ports.
    pub source: Source,
    /// To which external endpoint.
    pub to: SocketAddr,
    /// When that was asked for, since the start of the run.
    pub asked: Duration,
    /// How much later the server was to begin.
    pub put_off: Duration,
    /// How long the server waits for an answer.
    pub wait: Duration,
    /// When the server said that its SYN has left.
    pub left: Option<Duration>,
    /// When the nonce of this call arrived at a socket of this host.
    pub arrived: Option<Duration>,
    /// What the server says.
    pub result: Option<CallResult>,
    /// The ICMP error that it says came.
    pub icmp: Option<Icmp>,
    /// Why it declined.
    pub declined: Option<Decline>,
}

/// What the server says came of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallResult {
    /// It tried, and this came after so long.
    Tried {
        /// What.
        outcome: SynOutcome,
        /// How long after the first SYN.
        after: Duration,
    },
    /// It did not try.
    Declined,
}

/// What came of a trace that the server was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTrace {
    /// The port of the server that it comes from.
    pub port: Option<SocketAddr>,
    /// Where the server has seen the flow that it follows come from.
    pub flow: Option<SocketAddr>,
    /// Who told the server of which TTL; none = the server has not said.
    pub hops: Option<Vec<Hop>>,
    /// The TTL that each packet was sent with which arrived here.
    pub arrived: Vec<u8>,
    /// The server does not do it.
    pub is_declined: bool,
}

impl Call {
    /// When its SYN left the server at the latest, were the session's connection without loss: an answer is due one round trip
    /// later.
    #[must_use]
    pub fn begun(&self) -> Duration {
        self.asked + self.put_off
    }

    /// What the server says came back.
    #[must_use]
    pub fn outcome(&self) -> Option<SynOutcome> {
        match self.result {
            Some(CallResult::Tried { outcome, .. }) => Some(outcome),
            Some(CallResult::Declined) | None => None,
        }
    }

    /// After how long something on the way said no, and whether it did so by ICMP.
    #[must_use]
    pub fn rejection(&self) -> Option<(SynOutcome, Duration)> {
        match self.result {
            Some(CallResult::Tried { outcome, after })
                if matches!(outcome, SynOutcome::Refused | SynOutcome::Unreachable) =>
            {
                Some((outcome, after))
            }
            Some(CallResult::Tried { .. } | CallResult::Declined) | None => None,
        }
    }

    /// Whether the server has tried.
    #[must_use]
    pub fn counts(&self) -> bool {
        let tried = self.left.is_some() || self.arrived.is_some() || self.result.is_some();
        tried && self.is_not_declined()
    }

    fn is_not_declined(&self) -> bool {
        !matches!(
            self.result,
            Some(
                CallResult::Declined
                    | CallResult::Tried { outcome: SynOutcome::Failed | SynOutcome::Unknown, .. }
            )
        )
    }
}
