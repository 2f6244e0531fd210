//! Why a prediction is what it is, in a sentence.

use super::{Obstacle, Prediction, Strategy, Who};
use crate::report::PeerOutcome;

impl Prediction {
    /// Why, in a sentence, with names for the two sides.
    #[must_use]
    pub fn why(&self, a: &str, b: &str) -> String {
        let why = self.of_strategy(a, b);
        match self.outcome {
            PeerOutcome::Unknown => {
                why + ", but the destination decides which external address that is at, so the chance is not known"
            }
            PeerOutcome::Direct | PeerOutcome::Relay => why,
        }
    }

    fn of_strategy(&self, a: &str, b: &str) -> String {
        let name = |who: Who| match who {
            Who::A => a,
            Who::B => b,
        };
        match self.strategy {
            Strategy::OneSends(who) => {
                format!("anybody can send to {}, so {} just sends", name(who.other()), name(who))
            }
            Strategy::BothSend => {
                "each side's first packet makes its own gateway let the other's packets in".into()
            }
            Strategy::PredictOne { hard, ports: 1 } => {
                format!("the port of {} changes with the destination, but the next one is known", name(hard))
            }
            Strategy::PredictOne { hard, ports } => format!(
                "the port of {} changes with the destination, but is one of the next {ports}",
                name(hard)
            ),
            Strategy::Birthday { hard, sockets, guesses } => format!(
                "{} opens {sockets} random ports, {} tries {guesses}: one of them meets",
                name(hard),
                name(hard.other())
            ),
            Strategy::PredictBoth(_) => {
                "both ports change with the destination, but on both sides the next ones can be predicted"
                    .into()
            }
            Strategy::GuessBoth { .. } => {
                "both ports change with the destination, but few enough combinations are left to try".into()
            }
            Strategy::Tcp(who) => {
                format!("UDP of {} is blocked, but TCP reaches {}", name(who), name(who.other()))
            }
            Strategy::Relay(Obstacle::NoUdp) => {
                "UDP is blocked, and whether TCP gets through to the other side is not known".into()
            }
            Strategy::Relay(Obstacle::Ports) => {
                "ports that change with the destination would have to be guessed on both sides at once".into()
            }
        }
    }
}
