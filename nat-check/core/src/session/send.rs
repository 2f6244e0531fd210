//! Sending: one request at a time, when its turn has come and as long as the budget lasts.

use std::time::Duration;

use shared::stun::Dialect;
use tokio::time::timeout_at;

use super::{
    BUDGET, BUDGET_UNDER_LOSS, Contact, ROUND_INTERVAL, Request, Session, Socket, State, pace::Pace, request,
};
use crate::{
    observation::{Purpose, RequestKind, Transaction},
    probe::{contact, filtering, mapping},
    rate_limit::{self, RateLimit},
};

/// Longest request.
const DATAGRAM: usize = 1500;
/// A way that loses more than this share of the controls is given the larger budget, ...
const MUCH_LOSS: f64 = 0.15;
/// ... once so many of them have had their time.
const CONTROLS: usize = 20;
/// How long an answer is waited for before any has come.
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
/// How often what can wait looks whether something urgent still does.
const YIELDS: Duration = Duration::from_millis(10);

impl Session {
    /// Sends one request in the dialect that the server speaks, as far as that is known. Like [`Self::send_as`], sends
    /// nothing once the budget is spent.
    pub async fn send(&self, socket: &Socket, request: Request) {
        let dialect = match self.lock().contact {
            Contact::Udp(dialect) => dialect,
            Contact::Pending | Contact::None => Dialect::Modern,
        };
        self.send_as(socket, request, dialect).await;
    }

    /// Sends one request in this dialect, under an id of its own.
    pub async fn send_as(&self, socket: &Socket, request: Request, dialect: Dialect) {
        let Request { purpose, to, kind, round } = request;
        let is_answered_elsewhere =
            matches!(kind, RequestKind::ChangeRequest(_) | RequestKind::ToMappedPort { .. });
        let wants_receipt = is_answered_elsewhere && dialect == Dialect::Modern;
        let mut buffer = [0; DATAGRAM];
        // What never reaches the server takes nobody's turn.
        if !matches!(kind, RequestKind::Hairpin | RequestKind::LimitedTtl { .. }) {
            // Another thread may get in between: one request more on the way is no harm.
            self.turn(purpose).await;
        }
        let (length, transaction) = {
            let (now, mut state) = (self.now(), self.lock());
            if state.log.transactions.len() >= state.budget(now)
                || to.ip() != self.server.ip() && !state.strangers.admit(to.ip(), is_urgent(purpose))
            {
                return;
            }
            let id = match state.random.transaction_id(dialect) {
                Ok(id) => id,
                Err(error) => {
                    state.log.socket_error.get_or_insert(error.to_string());
                    return;
                }
            };
            let Ok(length) = request::write(&mut buffer, &id, kind, wants_receipt.then(|| to.is_ipv6()))
            else {
                return; // no request comes near the size of the buffer
            };
            let transaction = state.log.transactions.len();
            state.log.sent(
                id,
                Transaction {
                    purpose,
                    socket: socket.id,
                    to,
                    kind,
                    round,
                    dialect,
                    wants_receipt,
                    sent: now,
                    responses: Vec::new(),
                    unsent: false,
                    receipt: None,
                    alternate_unheard: None,
                },
            );
            (length, transaction)
        };
        if let Err(error) = socket.datagram.send_to(&buffer[..length], to).await {
            tracing::debug!(%to, %error, "not sent");
            self.lock().log.transactions[transaction].unsent = true;
        }
    }

    /// Packets that may still be sent.
    #[must_use]
    pub fn budget(&self) -> usize {
        let (now, state) = (self.now(), self.lock());
        state.budget(now).saturating_sub(state.log.transactions.len())
    }

    /// The time between rounds of a test: shorter where many of them are needed.
    #[must_use]
    pub fn round_interval(&self) -> Duration {
        let (now, state) = (self.now(), self.lock());
        if state.loses_much(now) { ROUND_INTERVAL * 2 / 3 } else { ROUND_INTERVAL }
    }

    /// From here on each measurement keeps to a budget and a pace of its own.
    pub fn lift_budget(&self) {
        self.lock().unlimited = true;
    }

    /// Whether something limits the rate, or takes long over each request, as far as can be told by now. Then what can be
    /// done without is left out.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        let (now, state) = (self.now(), self.lock());
        state.rate_limit(now).is_some() || Pace::of(&state.log).is_some_and(|pace| pace.is_slow())
    }

    /// Whether requests wait for one another at a bottleneck, the server or the line.
    #[must_use]
    pub fn has_queue(&self) -> bool {
        Pace::of(&self.lock().log).is_some_and(|pace| pace.has_queue())
    }

    /// Waits until a request for this purpose may leave: no queue on the way grows long, and a limit of the rate is kept
    /// to. What the verdict rests on comes first.
    pub async fn turn(&self, purpose: Purpose) {
        if purpose == contact::PURPOSE {
            return;
        }
        let is_urgent = is_urgent(purpose);
        let mut waiting = None;
        loop {
            let changed = self.changed.notified();
            let now = self.now();
            let next = self.lock().next_turn(now, is_urgent);
            if next <= now {
                return;
            }
            if is_urgent && waiting.is_none() {
                waiting = Some(Waiting::new(self));
            }
            // Whatever arrives may change it.
            let _ = timeout_at(self.instant(next), changed).await;
        }
    }
}

/// Whether the verdict rests on it.
fn is_urgent(purpose: Purpose) -> bool {
    [mapping::PURPOSE.measurement, filtering::PURPOSE.measurement].contains(&purpose.measurement)
}

/// Something urgent waits for its turn, for as long as this is kept.
struct Waiting<'a>(&'a Session);

impl<'a> Waiting<'a> {
    fn new(session: &'a Session) -> Self {
        session.lock().urgent += 1;
        Self(session)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.lock().urgent -= 1;
    }
}

impl State {
    /// How long after sending an answer would have been here.
    pub(super) fn response_timeout(&self) -> Duration {
        let Some(rtt) = self.rtt else { return FIRST_TIMEOUT };
        let usual = rtt.response_timeout();
        if self.unlimited {
            return usual;
        }
        Pace::of(&self.log).map_or(usual, |pace| pace.response_timeout(usual))
    }

    /// The limit of the rate that is kept to.
    fn rate_limit(&self, now: Duration) -> Option<RateLimit> {
        RateLimit::stands(&self.log, now.saturating_sub(self.response_timeout()))
    }

    /// When the next request may leave.
    fn next_turn(&mut self, now: Duration, is_urgent: bool) -> Duration {
        let Some(pace) = Pace::of(&self.log) else { return now };
        if self.unlimited || self.log.transactions.len() >= self.budget(now) {
            return now;
        }
        if self.urgent > 0 && !is_urgent {
            return now + YIELDS;
        }
        let timed_out_before = now.saturating_sub(self.response_timeout());
        if self.log.rate_limit.is_none_or(|limit| limit.given_up.is_some()) {
            let suspected = RateLimit::suspected(&self.log, timed_out_before, now);
            self.log.rate_limit = suspected.or(self.log.rate_limit);
        }
        let limit = RateLimit::stands(&self.log, timed_out_before);
        if let (None, Some(limit)) = (limit, &mut self.log.rate_limit) {
            limit.given_up.get_or_insert(now);
        }
        let limited = limit.map(|limit| pace.last_sent() + limit.interval(&self.log, timed_out_before));
        pace.next(now).max(limited.unwrap_or_default())
    }

    /// Packets that may be sent in all.
    fn budget(&self, now: Duration) -> usize {
        if self.unlimited {
            return usize::MAX;
        }
        if self.loses_much(now) && self.log.gives_receipts() { BUDGET_UNDER_LOSS } else { BUDGET }
    }

    fn loses_much(&self, now: Duration) -> bool {
        let timed_out_before = now.saturating_sub(self.response_timeout());
        // Also what was sent before a line woke up: it did not burden the server.
        let controls = rate_limit::controls(&self.log, timed_out_before);
        let (sent, lost) =
            controls.fold((0, 0), |(sent, lost), t| (sent + 1, lost + usize::from(!t.returned())));
        sent >= CONTROLS && lost as f64 > MUCH_LOSS * sent as f64
    }
}
