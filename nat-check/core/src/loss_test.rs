//! Silence, judged: is a tested answer filtered, or was it merely lost? A sequential test against the loss that
//! this very run shows.
//!
//! Each tested request is *corroborated* when something that travelled with it came back: its receipt where the
//! server gives one, otherwise both control requests that were sent right before and after it. Only corroborated
//! silence counts, so a burst of loss that swallows a whole round says nothing about filters.
//!
//! Let `k` tested answers be missing though corroborated, and let `r` controls have come back and `l` not. If the
//! way were open, all `k + l` are victims of one loss rate `p`; if it is closed, only `l` are. The two
//! explanations, each given the loss rate that suits it best, are compared by their likelihoods:
//!
//! ```text
//!           max over p of  p^(k+l) (1-p)^r
//!     R  =  ------------------------------
//!           max over q of  q^l     (1-q)^r
//! ```
//!
//! Asking ends when R falls to [`ENOUGH`], and `filtered` is concluded when it is at most [`DECIDED`] at the end of the
//! run, by when later controls may have shown a little more loss. A single answer proves the opposite, so the
//! other error does not arise. As the open hypothesis may choose its loss rate after the fact, R overstates it: the
//! chance of a wrong `filtered` stays below 1 in 10,000 at every loss rate (the tests compute it).

/// log10 of the likelihood ratio at which no more silence is asked for.
pub const ENOUGH: f64 = -5.2;
/// log10 of the likelihood ratio at which silence is called a filter.
pub const DECIDED: f64 = -4.5;
/// log10 of the likelihood ratio at which silence is called likely to be one: odds of 1 in 1,000.
pub const LIKELY: f64 = -3.0;

/// What is needed to judge silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LossCounts {
    /// Tested requests that were sent long enough ago to have been answered.
    pub sent: u32,
    /// Those that were answered.
    pub answered: u32,
    /// Those that were not, though corroborated.
    pub silent: u32,
    /// Controls that were sent long enough ago.
    pub controls_sent: u32,
    /// Controls that came back.
    pub controls_answered: u32,
}

impl LossCounts {
    /// log10 of the likelihood ratio of "open, but lost" against "closed".
    #[must_use]
    pub fn log_ratio(&self) -> f64 {
        let (k, r) = (f64::from(self.silent), f64::from(self.controls_answered));
        let l = f64::from(self.controls_sent - self.controls_answered);
        best_log_likelihood(k + l, r) - best_log_likelihood(l, r)
    }

    /// Whether more silence would add nothing.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.answered == 0 && self.log_ratio() <= ENOUGH
    }

    /// Whether the silence is decided: something is in the way.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.answered == 0 && self.log_ratio() <= DECIDED
    }

    /// Share of controls that did not come back.
    #[must_use]
    pub fn loss(&self) -> f64 {
        let lost = self.controls_sent - self.controls_answered;
        f64::from(lost) / f64::from(self.controls_sent.max(1))
    }
}

/// log10 of max over p of p^lost (1-p)^returned.
fn best_log_likelihood(lost: f64, returned: f64) -> f64 {
    let term = |count: f64| if count == 0.0 { 0.0 } else { count * (count / (lost + returned)).log10() };
    term(lost) + term(returned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(silent: u32, returned: u32, lost: u32) -> LossCounts {
        LossCounts {
            sent: silent,
            answered: 0,
            silent,
            controls_sent: returned + lost,
            controls_answered: returned,
        }
    }

    #[test]
    fn without_loss_a_handful_of_silent_tests_decides() {
        assert!(!tally(2, 20, 0).is_filtered(), "two are too few");
        assert!(tally(5, 25, 0).is_filtered());
    }

    #[test]
    fn without_controls_nothing_is_ever_decided() {
        assert!(!tally(1000, 0, 0).is_filtered());
    }

    #[test]
    fn more_loss_asks_for_more_silence() {
        let needed =
            |lost| (1..100).find(|&k| tally(k, 40 - lost, lost).is_filtered()).expect("some number decides");
        assert!(needed(0) < needed(4) && needed(4) < needed(8) && needed(8) < needed(14));
    }

    /// The chance of calling an open way filtered, computed exactly by walking the distribution of what the
    /// sequential test can have seen, round by round: three receipt-bearing requests a round, the loss `p` the
    /// same on the way there and back.
    #[test]
    fn an_open_way_is_almost_never_called_filtered() {
        for p in [0.01, 0.05, 0.1, 0.2, 0.3, 0.5] {
            let wrong = chance_of_wrong_verdict(p, 25, 20);
            println!("loss {p} each way: an open way is called filtered with chance {wrong:.1e}");
            assert!(wrong < 1e-4, "loss {p} each way: {wrong:e}");
        }
    }

    fn chance_of_wrong_verdict(p: f64, burst: u32, rounds: u32) -> f64 {
        let back = (1.0 - p) * (1.0 - p);
        let mut wrong = 0.0;
        // A burst of Binding requests first, then the rounds; the tested kind is one of three in a round.
        for returned in 0..=burst {
            let start = binomial(burst, returned, back);
            // state: (silent, returned controls) -> probability, lost controls follow from the number sent
            let mut states = vec![((0u32, returned), start)];
            for round in 1..=rounds {
                let mut next: std::collections::BTreeMap<(u32, u32), f64> = Default::default();
                for ((silent, returned), chance) in states {
                    if tally(silent, returned, burst + 3 * (round - 1) - returned).is_filtered() {
                        wrong += chance;
                        continue;
                    }
                    // The tested request of this round: corroborated and answer lost; or corroborated and answered
                    // (proof, the branch ends); or no receipt and no answer. The other two are mere controls.
                    for others in 0..=2 {
                        let also = chance * binomial(2, others, back);
                        *next.entry((silent + 1, returned + 1 + others)).or_default() += also * back * p;
                        // No receipt: the request was lost, or it arrived and both answers were lost.
                        *next.entry((silent, returned + others)).or_default() +=
                            also * (p + (1.0 - p) * p * p);
                    }
                }
                states = next.into_iter().collect();
            }
        }
        wrong
    }

    fn binomial(n: u32, k: u32, p: f64) -> f64 {
        let choose = (0..k).fold(1.0, |c, i| c * f64::from(n - i) / f64::from(i + 1));
        choose * p.powi(k as i32) * (1.0 - p).powi((n - k) as i32)
    }
}
