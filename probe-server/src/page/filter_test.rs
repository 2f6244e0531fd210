//! Filtering behaviour (RFC 4787 section 5) as an ICE peer sees it: a browser's socket that has sent to one endpoint only
//! gets connectivity checks from all four. What it answers was let in; silence is judged by [`shared::loss_test`].

use std::time::Duration;

use shared::{loss_test::LossCounts, nat::Filtering, stun::TransactionId};

use crate::topology::Endpoint;

/// Between two rounds.
const ROUND_INTERVAL: Duration = Duration::from_millis(60);
/// An answer is waited for at least so long, whatever the round-trip time: browsers are busy.
const LEAST_TIMEOUT: Duration = Duration::from_millis(200);
/// The three endpoints that the socket has not sent to.
const TESTED: [Endpoint; 3] =
    [Endpoint::Alternate, Endpoint::PrimaryAlternatePort, Endpoint::AlternatePrimaryPort];

/// The test of one socket over one family.
#[derive(Debug)]
pub(crate) struct FilterTest {
    checks: Vec<Check>,
    /// What is not decided after so many is lost in the noise.
    max_rounds: u32,
    rounds: u32,
    next: Duration,
    proven: bool,
}

/// A check that was sent.
#[derive(Debug)]
struct Check {
    id: TransactionId,
    from: Endpoint,
    sent: Duration,
    answered: Option<Duration>,
    /// 0 = for the proof of the address.
    round: u32,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Proven by answers, or by silence that cannot be loss.
    Known(Filtering),
    /// Silence that may be loss.
    TooMuchLoss,
    /// RFC 4787 has no class for it.
    NoClass,
}

impl FilterTest {
    /// A test of at most so many rounds.
    pub(crate) const fn new(max_rounds: u32) -> Self {
        Self { checks: Vec::new(), max_rounds, rounds: 0, next: Duration::ZERO, proven: false }
    }

    /// Ends after so many rounds.
    pub(crate) fn limit(&mut self, max_rounds: u32) {
        self.max_rounds = self.max_rounds.min(max_rounds);
    }

    /// Takes note of a check that leaves now.
    pub(crate) fn sent(&mut self, id: TransactionId, from: Endpoint, now: Duration) {
        self.checks.push(Check { id, from, sent: now, answered: None, round: self.rounds });
    }

    /// Whether this id belongs to one of its checks, which is answered with that; the first answer counts.
    pub(crate) fn answered(&mut self, id: TransactionId, now: Duration) -> bool {
        let Some(check) = self.checks.iter_mut().find(|check| check.id == id) else { return false };
        check.answered.get_or_insert(now);
        self.proven |= check.from == Endpoint::Primary;
        true
    }

    /// Whether the browser has answered from the address that it was seen under: before, nothing else may be sent there.
    pub(crate) const fn is_proven(&self) -> bool {
        self.proven
    }

    /// The endpoints that the next round leaves from, if it is due: controls from the contacted one at both ends.
    pub(crate) fn round(&mut self, now: Duration) -> Option<[Endpoint; 5]> {
        if !self.proven || self.rounds >= self.max_rounds || now < self.next || self.is_decided(now) {
            return None;
        }
        let first = self.rounds as usize;
        self.rounds += 1;
        self.next = now + ROUND_INTERVAL;
        let tested = |i: usize| TESTED[(first + i) % TESTED.len()];
        Some([Endpoint::Primary, tested(0), tested(1), tested(2), Endpoint::Primary])
    }

    /// When there is something to be done or to be concluded.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        if !self.proven {
            return None;
        }
        let last = self.checks.last()?.sent + self.timeout();
        Some(if self.rounds < self.max_rounds { self.next.min(last) } else { last })
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_over(&self, now: Duration) -> bool {
        let waited = self.checks.last().is_none_or(|last| now >= last.sent + self.timeout());
        self.proven && (self.is_decided(now) || self.rounds >= self.max_rounds && waited)
    }

    /// What came of it.
    pub(crate) fn conclude(&self, now: Duration) -> Filter {
        let [both, port, address] = TESTED.map(|from| self.counts(from, now));
        let is_open = |counts: &LossCounts| counts.answered > 0;
        let closed = |counts: &LossCounts| counts.is_filtered();
        if is_open(&both) {
            return Filter::Known(Filtering::EndpointIndependent);
        }
        match (is_open(&port), is_open(&address)) {
            (true, true) if closed(&both) => Filter::NoClass,
            (true, false) if closed(&both) && closed(&address) => Filter::Known(Filtering::AddressDependent),
            (false, true) if closed(&both) && closed(&port) => Filter::Known(Filtering::PortDependent),
            (false, false) if closed(&both) && closed(&port) && closed(&address) => {
                Filter::Known(Filtering::AddressAndPortDependent)
            }
            _ => Filter::TooMuchLoss,
        }
    }

    /// Round-trip time: the shortest of all controls, since the browser's own delay is no part of it.
    pub(crate) fn round_trip(&self) -> Option<Duration> {
        self.controls().filter_map(|check| Some(check.answered? - check.sent)).min()
    }

    /// Controls that were sent long enough ago, and those of them that were answered.
    pub(crate) fn control_counts(&self, now: Duration) -> (u32, u32) {
        let due = || self.controls().filter(|check| self.is_due(check, now));
        (due().count() as u32, due().filter(|check| check.answered.is_some()).count() as u32)
    }

    /// Checks from this endpoint that were sent, and those of them that were answered.
    pub(crate) fn sent_and_answered(&self, from: Endpoint) -> (usize, usize) {
        let of = || self.checks.iter().filter(|check| check.from == from);
        (of().count(), of().filter(|check| check.answered.is_some()).count())
    }

    /// Whether more rounds would add nothing.
    fn is_decided(&self, now: Duration) -> bool {
        let all = TESTED.map(|from| self.counts(from, now));
        // Anybody is let in: the rest follows.
        all[0].answered > 0 || all.iter().all(|counts| counts.answered > 0 || counts.is_enough())
    }

    fn counts(&self, from: Endpoint, now: Duration) -> LossCounts {
        let mut counts = LossCounts::after_returned(
            self.controls().filter(|check| self.is_due(check, now)).map(|check| check.answered.is_some()),
        );
        for check in self.checks.iter().filter(|check| check.from == from) {
            counts.answered += u32::from(check.answered.is_some());
            if self.is_due(check, now) {
                counts.sent += 1;
                counts.silent += u32::from(check.answered.is_none() && self.is_corroborated(check));
            }
        }
        counts
    }

    /// Whether both controls of its round came back, so that the way was open right before and after it.
    fn is_corroborated(&self, check: &Check) -> bool {
        self.controls().filter(|control| control.round == check.round).all(|c| c.answered.is_some())
    }

    fn controls(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| check.from == Endpoint::Primary)
    }

    fn is_due(&self, check: &Check, now: Duration) -> bool {
        check.answered.is_some() || now >= check.sent + self.timeout()
    }

    /// How long an answer is waited for.
    fn timeout(&self) -> Duration {
        let slowest = self.controls().filter_map(|check| Some(check.answered? - check.sent)).max();
        slowest
            .map_or(LEAST_TIMEOUT, |slowest| (slowest * 3 / 2 + Duration::from_millis(50)).max(LEAST_TIMEOUT))
    }
}
