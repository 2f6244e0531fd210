//! What a tally of beacons says of each way: does it pass, or is its silence more than loss? Pure.

use shared::loss_test::LossCounts;

use super::{beacon::Tally, way::Way};

/// What is known of a way from one host to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// At least half of the beacons arrive. Radio networks lose single ones, as nobody repeats what goes to a group.
    Passes,
    /// Some arrive, fewer than half.
    Lossy,
    /// None arrives, and that is not loss.
    Silent,
    /// None has arrived so far; it may be loss.
    Open,
    /// None was sent so, or the receiver cannot hear any.
    NotTried,
}

/// With no way to a group that arrives there is nothing to measure the loss of groups by. Then it is taken to be a half, which is
/// the most that counts as passing: so many silent rounds have a chance below 1 in 10,000.
const SILENT_AT_HALF: u8 = 14;
/// Rounds from which it is said of a way how well it passes.
pub(crate) const ENOUGH: u8 = 6;

impl Tally {
    pub(crate) fn word(&self, way: Way) -> Word {
        let (sent, heard) = self.of(way);
        match (sent, heard) {
            (0, _) => Word::NotTried,
            (_, 0) if self.is_silent(way) => Word::Silent,
            (_, 0) => Word::Open,
            (sent, heard) if u16::from(heard) * 2 >= u16::from(sent) => Word::Passes,
            _ => Word::Lossy,
        }
    }

    /// The best word of several ways.
    pub(crate) fn best(&self, ways: &[Way]) -> Word {
        let words: Vec<Word> = ways.iter().map(|way| self.word(*way)).collect();
        let order = [Word::Passes, Word::Lossy, Word::Open, Word::Silent];
        order.into_iter().find(|word| words.contains(word)).unwrap_or(Word::NotTried)
    }

    /// Whether more rounds would add nothing.
    pub(crate) fn is_enough(&self) -> bool {
        Way::ALL.iter().all(|way| match self.word(*way) {
            Word::Passes => self.of(*way).0 >= ENOUGH,
            Word::Silent | Word::NotTried => true,
            Word::Lossy | Word::Open => false,
        })
    }

    pub(crate) fn of(&self, way: Way) -> (u8, u8) {
        (self.sent[way.number()], self.heard[way.number()])
    }

    /// All rounds of a tally are such in which something arrived, so each silent one is corroborated. How much a way may lose is
    /// measured by another one: that of a group by the worst of the groups that arrive, that of unicast by anything.
    fn is_silent(&self, way: Way) -> bool {
        let (silent, _) = self.of(way);
        let worst = |group_only: bool| {
            let arrive = || {
                let others = Way::ALL.iter().filter(move |other| !group_only || other.is_group());
                others.map(|other| self.of(*other)).filter(|(_, heard)| *heard > 0)
            };
            // One that arrives seldom may be kept back most of the time, by a switch that forgets.
            let passing = arrive().filter(|(sent, heard)| u16::from(*heard) * 2 >= u16::from(*sent));
            let share = |(sent, heard): &(u8, u8)| per_mille(*heard, *sent);
            passing.min_by_key(share).or_else(|| arrive().min_by_key(share))
        };
        let (control, least) = match worst(way.is_group()) {
            Some(control) => (Some(control), 0),
            None => (worst(false), SILENT_AT_HALF),
        };
        let Some((sent, heard)) = control else { return false };
        let counts = LossCounts {
            sent: silent.into(),
            answered: 0,
            silent: silent.into(),
            controls_sent: sent.into(),
            controls_answered: heard.into(),
        };
        silent >= least && counts.is_filtered()
    }
}

fn per_mille(part: u8, whole: u8) -> u32 {
    u32::from(part) * 1000 / u32::from(whole.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(counts: [(u8, u8); 8]) -> Tally {
        Tally { sent: counts.map(|(sent, _)| sent), heard: counts.map(|(_, heard)| heard) }
    }

    #[test]
    fn half_of_the_beacons_is_enough_and_silence_needs_a_control() {
        let all = tally([(10, 10), (10, 5), (10, 4), (10, 0), (0, 0), (3, 0), (10, 10), (10, 0)]);
        assert_eq!(all.word(Way::Multicast), Word::Passes);
        assert_eq!(all.word(Way::MulticastTtl4), Word::Passes);
        assert_eq!(all.word(Way::MdnsGroup), Word::Lossy);
        assert_eq!(all.word(Way::MulticastIpv6), Word::Open, "another group loses half");
        assert_eq!(all.word(Way::SubnetBroadcast), Word::NotTried);
        assert_eq!(all.word(Way::LimitedBroadcast), Word::Open);
        assert_eq!(all.best(&[Way::MdnsGroup, Way::Multicast]), Word::Passes);
        assert_eq!(all.best(&[Way::SubnetBroadcast, Way::LimitedBroadcast]), Word::Open);
        let clean = tally([(10, 10), (10, 10), (10, 0), (10, 0), (10, 0), (10, 10), (10, 10), (10, 0)]);
        assert_eq!(clean.word(Way::MdnsGroup), Word::Silent);
        assert_eq!(clean.word(Way::UnicastIpv6), Word::Silent);
        assert!(clean.is_enough() && !all.is_enough());
    }

    #[test]
    fn unicast_alone_is_a_weak_control_for_groups() {
        let only_unicast = |rounds: u8| {
            let (silent, arrives) = ((rounds, 0), (rounds, rounds));
            tally([silent, silent, silent, silent, silent, silent, arrives, arrives])
        };
        assert_eq!(only_unicast(13).word(Way::Multicast), Word::Open);
        assert_eq!(only_unicast(14).word(Way::Multicast), Word::Silent);
        assert_eq!(tally([(200, 0); 8]).word(Way::Multicast), Word::Open, "nothing at all arrives");
    }
}
