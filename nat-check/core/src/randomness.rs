//! Where random numbers come from: the system's generator, as transaction ids and nonces must not be predictable
//! (RFC 8489 section 5), or a seed where a simulated run is to be repeated.

use shared::stun::{Dialect, TransactionId};

/// The origin of a run's random numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Randomness {
    /// The system's generator: nobody can predict it.
    #[default]
    System,
    /// All follow from a seed, for simulations. Whoever knows the seed, or sees enough of the numbers, can forge answers.
    Seeded(u64),
}

/// The system has no random numbers to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

impl Randomness {
    /// Another origin for the part of this number, so that no two parts of a run have the same numbers.
    #[must_use]
    pub fn split(self, part: u64) -> Self {
        match self {
            Self::System => Self::System,
            // An odd constant: parts of one seed never meet, nor do small seeds' parts.
            Self::Seeded(seed) => {
                Self::Seeded(seed.wrapping_add((part + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
            }
        }
    }

    /// A stream of them.
    #[must_use]
    pub fn source(self) -> RandomSource {
        match self {
            Self::System => RandomSource(None),
            Self::Seeded(seed) => RandomSource(Some(fastrand::Rng::with_seed(seed))),
        }
    }
}

/// A stream of random numbers.
#[derive(Debug)]
pub struct RandomSource(Option<fastrand::Rng>);

impl RandomSource {
    /// So many random bytes, as for a nonce.
    ///
    /// # Errors
    /// When the system has none.
    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], NoRandomness> {
        let mut bytes = [0; N];
        match &mut self.0 {
            Some(rng) => rng.fill(&mut bytes),
            None => getrandom::fill(&mut bytes).map_err(|_| NoRandomness)?,
        }
        Ok(bytes)
    }

    /// A transaction id of this dialect.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn transaction_id(&mut self, dialect: Dialect) -> Result<TransactionId, NoRandomness> {
        Ok(match dialect {
            Dialect::Modern => TransactionId::modern_from(self.bytes()?),
            Dialect::Classic => TransactionId::classic_from(self.bytes()?),
        })
    }

    /// A generator for choices that anybody may guess, such as ports and the order of trials.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn choices(&mut self) -> Result<fastrand::Rng, NoRandomness> {
        Ok(fastrand::Rng::with_seed(u64::from_le_bytes(self.bytes()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(from: Randomness) -> Vec<TransactionId> {
        let mut source = from.source();
        (0..100).map(|_| source.transaction_id(Dialect::Modern).unwrap()).collect()
    }

    #[test]
    fn a_seed_repeats_itself_and_the_system_does_not() {
        assert_eq!(ids(Randomness::Seeded(7)), ids(Randomness::Seeded(7)));
        assert_ne!(ids(Randomness::System), ids(Randomness::System));
        assert_eq!(Randomness::default(), Randomness::System);
    }

    #[test]
    fn no_two_parts_of_a_run_have_an_id_in_common() {
        for from in [Randomness::System, Randomness::Seeded(0)] {
            let mut all: Vec<_> = (0..16).flat_map(|part| ids(from.split(part))).collect();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), 1600, "{from:?}");
        }
    }

    #[test]
    fn ids_are_of_their_dialect() {
        for dialect in [Dialect::Modern, Dialect::Classic] {
            assert_eq!(Randomness::System.source().transaction_id(dialect).unwrap().dialect(), dialect);
        }
    }
}
