//! Silence, judged: is a tested answer filtered, or was it merely lost? A sequential test against the loss that
//! this very run shows.
//!
//! Each tested request is *corroborated* when something that travelled with it came back: its receipt where the
//! server gives one, otherwise both control requests that were sent right before and after it. Only corroborated
//! silence counts, so a burst of loss that swallows a whole round says nothing about filters.
//!
//! What matters is how often an answer gets lost when its neighbour has come through, and bursts make that much rarer than
//! loss as such. So the controls that are counted are those that were sent next after one that came back. They lose at
//! least as much as a tested answer does: they also have the way out to pass, and are farther from their neighbour than an
//! answer from its receipt.
//!
//! Let `k` tested answers be missing though corroborated, and let `r` such controls have come back and `l` not. If the
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
//! chance of a wrong `filtered` stays below 1 in 10,000 at every loss rate, in bursts or not (the tests count it).

/// log10 of the likelihood ratio at which no more silence is asked for.
pub const ENOUGH: f64 = -4.5;
/// log10 of the likelihood ratio at which silence is called a filter.
pub const DECIDED: f64 = -4.0;
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
    /// Counts the controls, of which it is told in the order of sending whether they came back, that follow one that did.
    #[must_use]
    pub fn after_returned(controls: impl Iterator<Item = bool>) -> Self {
        let mut counts = Self::default();
        let mut before = false;
        for returned in controls {
            counts.controls_sent += u32::from(before);
            counts.controls_answered += u32::from(before && returned);
            before = returned;
        }
        counts
    }

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

    #[test]
    fn only_what_follows_a_control_that_came_back_is_counted() {
        let counts = LossCounts::after_returned([false, true, true, false, false, true, false].into_iter());
        assert_eq!((counts.controls_sent, counts.controls_answered), (3, 1));
    }

    /// The chance of calling an open way filtered, counted over many runs of the sequential test: a burst of controls,
    /// then rounds of three requests with receipts, one of them the tested one, each of which has two answers.
    #[test]
    fn an_open_way_is_almost_never_called_filtered() {
        for (way, way_out_too) in [("each way", true), ("on the way back", false)] {
            for burst in [1.0, 2.0, 5.0, 20.0] {
                for rate in [0.01, 0.05, 0.1, 0.2, 0.3, 0.5] {
                    let mut random = fastrand::Rng::with_seed(1);
                    let mut wrong = || {
                        calls_an_open_way_filtered(
                            [way_out_too.then_some(rate), Some(rate)],
                            burst,
                            &mut random,
                        )
                    };
                    let wrong = (0..RUNS).filter(|_| wrong()).count() as f64 / f64::from(RUNS);
                    println!(
                        "loss {rate} {way}, in bursts of {burst}: an open way is called filtered with chance {wrong:.1e}"
                    );
                    assert!(wrong < 1e-4, "loss {rate} {way} in bursts of {burst}: {wrong:e}");
                }
            }
        }
    }

    const RUNS: u32 = 100_000;

    /// One run. The rates are those of the way out and back.
    fn calls_an_open_way_filtered(rates: [Option<f64>; 2], burst: f64, random: &mut fastrand::Rng) -> bool {
        // Whether each way is in a burst of loss; where bursts have one packet, each is lost by itself.
        let mut lossy = rates.map(|rate| random.f64() < rate.unwrap_or(0.0));
        let mut passes = |way: usize| {
            let Some(rate) = rates[way] else { return true };
            let change = match (burst <= 1.0, lossy[way]) {
                (true, lost) => {
                    if lost {
                        1.0 - rate
                    } else {
                        rate
                    }
                }
                (false, true) => 1.0 / burst,
                (false, false) => rate / (burst * (1.0 - rate)),
            };
            lossy[way] ^= random.f64() < change;
            !lossy[way]
        };
        let mut controls: Vec<bool> = (0..12).map(|_| passes(0) && passes(1)).collect();
        let mut silent = 0;
        for round in 0..40 {
            for position in 0..3 {
                let arrives = passes(0);
                let (answer, receipt) = (arrives && passes(1), arrives && passes(1));
                controls.push(receipt);
                if position == round % 3 {
                    if answer {
                        return false;
                    }
                    silent += u32::from(receipt);
                }
            }
            let counts = LossCounts { silent, ..LossCounts::after_returned(controls.iter().copied()) };
            if counts.is_filtered() {
                return true;
            }
        }
        false
    }
}
