//! The server's pace: whether it limits the rate, read off the log. A burst of loss looks the same at first; what
//! tells them apart is that loss ends.

use std::time::Duration;

use crate::observation::{ObservationLog, RequestKind, Transaction};

/// How long the first burst lasts.
const BURST: Duration = Duration::from_millis(30);
/// How long after it a server that limits the rate may still be holding the burst against us.
const COOLING: Duration = Duration::from_millis(1500);
/// So many of the first burst have to pass, and so many to fail, before a limit is suspected.
const PASSED: usize = 3;
const FAILED: usize = 10;
/// So many later requests tell a limit from a burst of loss: behind a limit at most a quarter of them is answered.
const LATER: usize = 16;

/// A server that stopped answering in the middle of a burst, and hardly answered for a while after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests of the burst that were answered.
    pub answered: usize,
    /// Requests in the burst.
    pub of: usize,
    /// From here on hardly anything was answered.
    pub from: Duration,
    /// From here on a slower pace has a fresh start.
    pub cooled: Duration,
}

impl RateLimit {
    /// What shows of one in what was sent until `timed_out_before`: the first requests of the burst were answered, all others
    /// were not, and of the next ones next to none was.
    #[must_use]
    pub fn seen(log: &ObservationLog, timed_out_before: Duration) -> Option<Self> {
        let begin = log.transactions.first()?.sent;
        let asked = || {
            log.transactions.iter().filter(|t| t.to == log.server && !t.unsent && t.sent <= timed_out_before)
        };
        let burst = || asked().filter(|t| t.sent <= begin + BURST && t.kind == RequestKind::Binding);
        let answered = burst().take_while(|t| t.returned()).count();
        let rest = || burst().skip(answered);
        if answered < PASSED || rest().count() < FAILED || rest().any(Transaction::returned) {
            return None;
        }
        let receipts = log.gives_receipts();
        let control = |t: &&Transaction| t.kind == RequestKind::Binding || (receipts && t.wants_receipt);
        let later = || asked().filter(|t| t.sent > begin + BURST).filter(control).take(LATER);
        let passed = later().filter(|t| t.returned()).count();
        (later().count() == LATER && passed * 4 <= LATER).then_some(Self {
            answered,
            of: burst().count(),
            from: rest().next()?.sent,
            cooled: begin + COOLING,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::{Purpose, made};

    /// A burst of 25 of which the first 10 are answered, and 20 later requests, of which every `nth` is.
    fn run(nth: usize) -> ObservationLog {
        let mut log = made::log();
        let socket = made::socket(&mut log, "192.168.1.2:40000");
        for number in 0..45 {
            let later = number >= 25;
            let passes = if later { (number - 25) % nth == nth - 1 } else { number < 10 };
            let mut transaction =
                made::transaction(Purpose::main("any"), socket, log.server, RequestKind::Binding);
            transaction.sent = Duration::from_millis(if later { 60 + 15 * (number as u64 - 25) } else { 1 });
            if passes {
                transaction.responses.push(made::answer(socket, log.server, "203.0.113.1:5"));
            }
            log.transactions.push(transaction);
        }
        log
    }

    #[test]
    fn silence_that_stays_is_a_limit() {
        let limit = RateLimit::seen(&run(6), Duration::MAX).unwrap();
        assert_eq!((limit.answered, limit.of), (10, 25));
    }

    #[test]
    fn silence_that_ends_was_loss() {
        assert_eq!(RateLimit::seen(&run(2), Duration::MAX), None);
    }

    #[test]
    fn what_has_not_had_its_time_tells_nothing() {
        assert_eq!(RateLimit::seen(&run(6), Duration::from_millis(200)), None);
    }
}
