//! Whether something limits the rate, the server or the line to it, read off the log. Loss looks the same at first. What
//! tells them apart: a limit passes the first packets of a round rather than the last ones, and it ends when less is sent.

use std::time::Duration;

use crate::observation::{ObservationLog, RequestKind, Transaction};

/// What one round sends within this time was sent together: what a limit allows hardly grows in between.
const TOGETHER: Duration = Duration::from_millis(10);
/// Rounds of which the first packet passed and the last did not, so many more than the other way round that chance makes it
/// no more often than this, ... Loss does not know a first packet from a last one; under a limit it is the last one that passes
/// now and then only, where other traffic, as TCP's, has used up what was allowed. Who found a slower pace of no use is
/// convinced again by so much more each time.
const CUT_BY_CHANCE: f64 = 1.0 / 32.0;
const AGAIN: f64 = 1.0 / 8.0;
/// ... with so much of them lost, are suspected of meeting a limit.
const LOST: f64 = 0.45;
/// The other sign of a limit: so many pass at first, and then of so many at most one in eight.
const PASSED: usize = 3;
const LATER: usize = 24;
/// The first slower pace, as a share of what seems to pass in a second; it is not below this, as that is a rough guess.
const SHARE: f64 = 0.75;
const FIRST: f64 = 10.0;
/// The slowest and the fastest pace that is tried.
const SLOWEST: f64 = 5.0;
const FASTEST: f64 = 100.0;
/// By so much the pace grows with each request that passes, and shrinks with each that does not: at the limit one in five
/// is lost.
const FASTER: f64 = 1.1;
const SLOWER: f64 = 0.67;
/// Who passes so many a second is not limited by any measure that matters here.
const UNLIMITED: f64 = 70.0;
/// What the last fast requests have used up is back after so long.
const SETTLES: Duration = Duration::from_millis(250);
/// So many requests at the slower pace show whether it halves the loss, ...
const TRIED: usize = 4;
/// ... and so many whether no more than this is lost, as at a limit that the pace follows. Few: one long burst of loss, at
/// first, looks like the end of what a limit allows, and each request takes its time at this pace.
const TRIED_LONG: usize = 8;
const LOST_AT_LIMIT: f64 = 0.25;
/// log10 of the likelihood ratio at which "it loses as much at either pace" is unlikely enough to speak of a limit.
const LIKELY: f64 = -2.0;

/// A limit of the rate: suspected when the session slowed down, made likely by what has passed since.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// From here on too much was sent ...
    pub from: Duration,
    /// ... until here.
    pub slowed: Duration,
    /// Requests a second that were sent at first from then on.
    pub per_s: f64,
    /// Suspicions before this one.
    pub before: i32,
    /// When it was found that a slower pace is of no use.
    pub given_up: Option<Duration>,
}

impl RateLimit {
    /// What raises the suspicion, in what was sent until `timed_out_before`: at the first time, or after one was given up.
    #[must_use]
    pub fn suspected(log: &ObservationLog, timed_out_before: Duration, now: Duration) -> Option<Self> {
        let given_up = log.rate_limit.and_then(|limit| Some((limit, limit.given_up?)));
        let before = given_up.map_or(0, |(limit, _)| limit.before + 1);
        let seen = Seen { log, from: given_up.map_or(Duration::ZERO, |(_, at)| at), timed_out_before };
        let from = match seen.rounds_cut_short(CUT_BY_CHANCE * AGAIN.powi(before)) {
            None if before == 0 => seen.end_of_burst(),
            from => from,
        }?;
        let sent = || {
            let later = log.transactions.iter().filter(|t| is_answerable(t) && t.sent > from);
            later.filter(|t| t.sent <= timed_out_before)
        };
        let passed = sent().filter(|t| t.first_reaction().is_some()).count();
        let last = sent().next_back().map_or(from, |t| t.sent);
        let per_s = passed as f64 / (last - from).as_secs_f64().max(0.05);
        let per_s = (per_s * SHARE).clamp(FIRST, FASTEST);
        // Then all that was sent since the first suspicion was too fast.
        let from = given_up.map_or(from, |(limit, _)| limit.from);
        Some(Self { from, slowed: now, per_s, before, given_up: None })
    }

    /// The limit that the session keeps to, unless keeping to it has been shown to be of no use.
    #[must_use]
    pub fn stands(log: &ObservationLog, timed_out_before: Duration) -> Option<Self> {
        log.rate_limit.filter(|limit| limit.given_up.is_none() && limit.is_of_use(log, timed_out_before))
    }

    fn is_of_use(&self, log: &ObservationLog, timed_out_before: Duration) -> bool {
        let [(lost, passed), (lost_since, passed_since)] = self.phases(log, timed_out_before);
        let tried = lost_since + passed_since;
        let halves = tried < TRIED || 2 * lost_since * (lost + passed) <= lost * tried;
        let follows = tried < TRIED_LONG || lost_since as f64 <= LOST_AT_LIMIT * tried as f64;
        // Where all was silent, sending faster is of no use either.
        passed + passed_since == 0 || halves && follows && self.pace(log, timed_out_before) < UNLIMITED
    }

    /// The limit, if chance hardly made the difference between the two paces.
    #[must_use]
    pub fn likely(log: &ObservationLog, timed_out_before: Duration) -> Option<Self> {
        let limit = Self::stands(log, timed_out_before)?;
        let [fast, slow] = limit.phases(log, timed_out_before);
        let all = best_log_likelihood(fast.0 + slow.0, fast.1 + slow.1);
        let each = best_log_likelihood(fast.0, fast.1) + best_log_likelihood(slow.0, slow.1);
        (all - each <= LIKELY).then_some(limit)
    }

    /// The time between requests: shorter while all pass, longer where they do not.
    #[must_use]
    pub fn interval(&self, log: &ObservationLog, timed_out_before: Duration) -> Duration {
        Duration::from_secs_f64(1.0 / self.pace(log, timed_out_before))
    }

    /// Requests a second that pass, as far as it has been tried.
    #[must_use]
    pub fn pace(&self, log: &ObservationLog, timed_out_before: Duration) -> f64 {
        let since = controls(log, timed_out_before).filter(|t| t.sent > self.slowed);
        since.fold(self.per_s, |pace, control| {
            let change = if control.returned() { FASTER } else { SLOWER };
            (pace * change).clamp(SLOWEST, FASTEST)
        })
    }

    /// Requests lost and passed, while too much was sent and since.
    fn phases(&self, log: &ObservationLog, timed_out_before: Duration) -> [(usize, usize); 2] {
        let count = |from, until: Duration| {
            let sent = controls(log, until.min(timed_out_before)).filter(|t| t.sent >= from);
            sent.fold((0, 0), |(lost, passed), t| match t.returned() {
                true => (lost, passed + 1),
                false => (lost + 1, passed),
            })
        };
        [count(self.from, self.slowed), count(self.slowed + SETTLES, Duration::MAX)]
    }
}

/// Answers before a long silence that followed them at once, and how long it lasted: what a server does that locks out
/// whoever asks much.
#[must_use]
pub fn lockout(log: &ObservationLog, timed_out_before: Duration) -> Option<(usize, Duration)> {
    let limit = RateLimit::stands(log, timed_out_before)?;
    let answered = controls(log, timed_out_before).take_while(|t| t.returned()).count();
    let silent = controls(log, timed_out_before).skip(answered).take_while(|t| !t.returned());
    let (asked, last) = silent.fold((0, limit.from), |(asked, _), t| (asked + 1, t.sent));
    let silence = last.saturating_sub(limit.from);
    (asked >= LATER && silence >= LOCKOUT).then_some((answered, silence))
}

/// Silence of this length is no burst of loss.
const LOCKOUT: Duration = Duration::from_secs(2);

/// The requests whose fate is known, of a stretch of time.
struct Seen<'a> {
    log: &'a ObservationLog,
    from: Duration,
    timed_out_before: Duration,
}

impl<'a> Seen<'a> {
    fn controls(&self) -> impl Iterator<Item = &'a Transaction> + use<'a> {
        let from = self.from;
        controls(self.log, self.timed_out_before).filter(move |t| t.sent >= from)
    }

    /// Since when rounds lose their last packets and not their first ones; only if chance makes that so seldom.
    fn rounds_cut_short(&self, chance: f64) -> Option<Duration> {
        let mut rounds: Vec<Vec<&Transaction>> = Vec::new();
        for control in self.controls() {
            let together = |first: &Transaction| {
                first.round == control.round && control.sent.saturating_sub(first.sent) <= TOGETHER
            };
            match rounds.last_mut().filter(|round| together(round[0])) {
                Some(round) => round.push(control),
                None => rounds.push(vec![control]),
            }
        }
        rounds.retain(|round| round.len() >= 2);
        let ends = |round: &Vec<&Transaction>| (round[0].returned(), round[round.len() - 1].returned());
        let cut_short: Vec<_> = rounds.iter().filter(|round| ends(round) == (true, false)).collect();
        let since = cut_short.first()?[0].sent;
        let later = || rounds.iter().filter(|round| round[0].sent >= since).flatten();
        let lost = later().filter(|t| !t.returned()).count();
        let cut_late = rounds.iter().filter(|round| ends(round) == (false, true)).count();
        let is_limit = at_least_by_chance(cut_short.len(), cut_short.len() + cut_late) <= chance
            && lost as f64 >= LOST * later().count() as f64;
        is_limit.then_some(since)
    }

    /// Since when hardly anything is answered, if everything was at first.
    fn end_of_burst(&self) -> Option<Duration> {
        let passed = self.controls().take_while(|t| t.returned()).count();
        let later = || self.controls().skip(passed).take(LATER);
        let passed_later = later().filter(|t| t.returned()).count();
        let is_limit = passed >= PASSED && later().count() == LATER && passed_later * 8 <= LATER;
        later().next().filter(|_| is_limit).map(|t| t.sent)
    }
}

/// How likely `of` tosses of a coin show at least so many heads.
fn at_least_by_chance(heads: usize, of: usize) -> f64 {
    let mut ways = 1.0; // to choose all of them, then one less, ...
    let mut sum = 0.0;
    for shown in (heads..=of).rev() {
        sum += ways;
        ways *= shown as f64 / (of - shown + 1) as f64;
    }
    sum / 2f64.powi(i32::try_from(of).unwrap_or(i32::MAX))
}

/// The requests whose fate tells: what is answered by the endpoint that was asked, and what asks for a receipt.
pub(crate) fn controls(
    log: &ObservationLog,
    timed_out_before: Duration,
) -> impl Iterator<Item = &Transaction> {
    let (receipts, dialect) = (log.gives_receipts(), log.dialect());
    log.transactions.iter().filter(move |t| {
        let control = t.kind == RequestKind::Binding || (receipts && t.wants_receipt);
        let spoken = dialect.is_none_or(|d| d == t.dialect);
        control && spoken && !t.unsent && t.to == log.server && t.sent <= timed_out_before
    })
}

fn is_answerable(transaction: &Transaction) -> bool {
    !transaction.unsent && !matches!(transaction.kind, RequestKind::Hairpin | RequestKind::LimitedTtl { .. })
}

/// log10 of max over p of p^lost (1-p)^passed.
fn best_log_likelihood(lost: usize, passed: usize) -> f64 {
    let of = (lost + passed) as f64;
    let term = |count: usize| if count == 0 { 0.0 } else { count as f64 * (count as f64 / of).log10() };
    term(lost) + term(passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Purpose, made};

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn send(log: &mut ObservationLog, sent: u64, round: u32, passes: bool) {
        let socket = crate::observation::SocketId(0);
        let mut transaction =
            made::transaction(Purpose::main("any"), socket, log.server, RequestKind::Binding);
        (transaction.sent, transaction.round) = (ms(sent), round);
        if passes {
            transaction.responses.push(made::answer(socket, log.server, "203.0.113.1:5"));
        }
        log.transactions.push(transaction);
    }

    /// A burst of 12 that passes, then rounds of three every 60 ms, of which so many pass in turn.
    fn rounds(passing: &[&[bool; 3]]) -> ObservationLog {
        let mut log = made::log();
        (0..12).for_each(|n| send(&mut log, 0, n, true));
        for (n, round) in passing.iter().enumerate() {
            round.iter().for_each(|&passes| send(&mut log, 100 + 60 * n as u64, 100 + n as u32, passes));
        }
        log
    }

    const CUT: &[bool; 3] = &[true, false, false];
    const LATE: &[bool; 3] = &[false, false, true];
    const NONE: &[bool; 3] = &[false; 3];

    #[test]
    fn rounds_that_are_cut_short_are_suspected_and_loss_is_not() {
        let suspected = |passing: &[&[bool; 3]]| RateLimit::suspected(&rounds(passing), ms(1000), ms(500));
        let limit = suspected(&[CUT, NONE, CUT, CUT, CUT, NONE, CUT]).unwrap();
        assert_eq!((limit.from, limit.slowed), (ms(100), ms(500)));
        assert!((10.0..12.0).contains(&limit.per_s), "{limit:?}");
        assert_eq!(suspected(&[CUT, NONE, CUT, LATE, CUT, CUT, CUT]), None);
        assert_eq!(suspected(&[CUT, CUT, CUT, CUT]), None);
        let mixed = [CUT, CUT, LATE, CUT, NONE, CUT, CUT, CUT, CUT, CUT];
        assert!(suspected(&mixed).is_some(), "other traffic used the limit up once");
        let mut apart = rounds(&[CUT, CUT, CUT, CUT, CUT]);
        for n in 0..3 {
            send(&mut apart, 400 + 70 * n, 200, false);
            send(&mut apart, 435 + 70 * n, 200, true);
        }
        assert!(
            RateLimit::suspected(&apart, ms(1000), ms(700)).is_some(),
            "what is sent later is no part of it"
        );
        // What has not had its time tells nothing.
        assert_eq!(RateLimit::suspected(&rounds(&[CUT; 9]), ms(200), ms(500)), None);
    }

    #[test]
    fn what_ends_after_the_first_answers_is_suspected() {
        let run = |later: bool| {
            let mut log = made::log();
            (0..11).for_each(|n| send(&mut log, 0, n, n < 5));
            (0..30).for_each(|n| send(&mut log, 60 + 20 * u64::from(n), 50 + n, later && n % 3 == 0));
            RateLimit::suspected(&log, ms(5000), ms(500))
        };
        assert_eq!(run(false).map(|limit| limit.per_s), Some(FIRST));
        assert_eq!(run(true), None);
    }

    #[test]
    fn a_limit_is_likely_by_what_passes_at_a_slower_pace_and_given_up_if_nothing_changes() {
        let run = |passes: fn(u64) -> bool, requests: u64| {
            let mut log = rounds(&[CUT; 8]);
            log.rate_limit = RateLimit::suspected(&log, ms(1000), ms(600));
            (0..requests).for_each(|n| send(&mut log, 900 + 100 * n, 200 + n as u32, passes(n)));
            let at = ms(9000);
            (RateLimit::stands(&log, at).is_some(), RateLimit::likely(&log, at).is_some())
        };
        assert_eq!(run(|_| true, 3), (true, false), "too early");
        assert_eq!(run(|n| n % 8 != 7, 20), (true, true));
        assert_eq!(run(|_| true, 40), (false, false), "so much passes that there is no limit");
        assert_eq!(run(|n| n % 2 == 0, 20), (false, false), "it loses as much as before");
        assert_eq!(run(|n| n % 4 == 0, 4), (false, false), "and that soon shows");
        assert_eq!(run(|n| n % 8 > 1, 8), (true, false), "at the limit some are lost");
        assert_eq!(run(|n| n % 8 > 2, 8), (false, false), "but not so many");
    }

    #[test]
    fn what_was_given_up_is_suspected_again_by_more() {
        let run = |cut: usize| {
            let mut log = rounds(&[CUT; 8]);
            let first = RateLimit::suspected(&log, ms(1000), ms(600)).unwrap();
            log.rate_limit = Some(RateLimit { given_up: Some(ms(1000)), ..first });
            for n in 0..cut {
                CUT.iter().for_each(|&passes| send(&mut log, 1000 + 60 * n as u64, 200 + n as u32, passes));
            }
            RateLimit::suspected(&log, ms(2000), ms(1900)).map(|limit| (limit.from, limit.before))
        };
        assert_eq!(run(7), None);
        assert_eq!(run(8), Some((ms(100), 1)));
    }

    #[test]
    fn the_pace_follows_what_passes() {
        let pace = |passes: fn(u64) -> bool| {
            let mut log = rounds(&[CUT; 8]);
            log.rate_limit = RateLimit::suspected(&log, ms(1000), ms(600));
            let limit = log.rate_limit.unwrap();
            (0..12).for_each(|n| send(&mut log, 900 + 100 * n, 200 + n as u32, passes(n)));
            limit.pace(&log, ms(9000)) / limit.per_s
        };
        assert!(pace(|_| true) > 2.0);
        assert!(pace(|_| false) < 0.7);
        assert!((0.6..1.3).contains(&pace(|n| n % 5 > 0)));
    }
}
