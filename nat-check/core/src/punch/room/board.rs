//! What a member knows of its room: who is there, and what they say of each other. Pure.

use std::collections::BTreeMap;

use shared::rendezvous::room::{MAX_MEMBERS, MemberNews, PairResult, Readiness, ResultNews};

use super::report::{MemberReport, PairReport, pair_report};
use crate::printable::printable;

/// Members of whom something is known, those who left included: a server that names more is not believed.
const MOST: usize = 2 * MAX_MEMBERS;

/// The room as it is known.
#[derive(Debug)]
pub(super) struct Board {
    /// This side's number.
    you: u32,
    members: BTreeMap<u32, Known>,
    /// By who says it, and of whom.
    said: BTreeMap<(u32, u32), PairResult>,
    /// Members that were ready at some time.
    seen: usize,
}

#[derive(Debug)]
struct Known {
    here: bool,
    ready: Option<Readiness>,
}

impl Board {
    /// Nothing is known yet.
    pub(super) fn new(you: u32) -> Self {
        Self { you, members: BTreeMap::new(), said: BTreeMap::new(), seen: 0 }
    }

    /// Takes what this side itself has found, whatever others make of it.
    pub(super) fn found(&mut self, peer: u32, result: PairResult) {
        self.said.insert((self.you, peer), result);
    }

    /// Takes the news. What this side says, it knows better; only that a pair with it has come to nothing, it may not know.
    pub(super) fn learn(&mut self, members: Vec<MemberNews>, results: Vec<ResultNews>) {
        for news in members {
            // What is nothing that this version understands is no name, and no reason to be left alone.
            let ready = news.ready.map(|ready| ready.read::<Readiness>().unwrap_or_default());
            if !self.members.contains_key(&news.id) && !self.make_place() {
                continue;
            }
            let known = self.members.entry(news.id).or_insert(Known { here: true, ready: None });
            self.seen += usize::from(known.ready.is_none() && ready.is_some());
            known.here = news.here;
            known.ready = ready.or(known.ready.take());
        }
        for ResultNews { from, to, result } in results {
            if from != to && self.members.contains_key(&from) && self.members.contains_key(&to) {
                if from == self.you {
                    self.said.entry((from, to)).or_default();
                } else {
                    self.said.insert((from, to), result.read().unwrap_or_default());
                }
            }
        }
    }

    /// How many have been ready to be paired, those who left included.
    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    /// How many are there now, of those who can be paired. Whoever has left after all its pairs with those who are here counts
    /// as well: it saw sooner that there is nothing left to do.
    pub(super) fn present(&self) -> usize {
        let here = self.members.iter().filter(|(_, other)| other.here);
        let ready = self.members.iter().filter(|(_, member)| member.ready.is_some());
        let counts = |id: u32, member: &Known| {
            member.here || here.clone().all(|(&other, _)| self.is_said(id.min(other), id.max(other)))
        };
        ready.filter(|(id, member)| counts(**id, member)).count()
    }

    /// Whether nothing more is to be expected of those who are here, this side among them.
    pub(super) fn is_settled(&self) -> bool {
        self.members.get(&self.you).is_some_and(|own| own.ready.is_some())
            && self.members.values().all(|member| !member.here || member.ready.is_some())
            && self.pairs().all(|(a, b)| !self.are_here(a, b) || self.is_said(a, b))
    }

    /// Pairs of which both have said what came of it, and all pairs.
    pub(super) fn progress(&self) -> (usize, usize) {
        let done = self.pairs().filter(|(a, b)| self.is_said(*a, *b));
        (done.count(), self.pairs().count())
    }

    pub(super) fn members(&self) -> Vec<MemberReport> {
        let report = |(id, known): (&u32, &Known)| {
            let ready = known.ready.clone().unwrap_or_default();
            let name = ready.name.as_deref().map(short).filter(|name| !name.is_empty());
            MemberReport { id: *id, name, nat_type: ready.nat_type, here: known.here }
        };
        self.members.iter().map(report).collect()
    }

    pub(super) fn pair_reports(&self) -> Vec<PairReport> {
        self.pairs().map(|(a, b)| pair_report((a, b), self.said_of(a, b), self.are_here(a, b))).collect()
    }

    /// Every two members.
    fn pairs(&self) -> impl Iterator<Item = (u32, u32)> {
        let all = self.members.keys();
        all.clone().flat_map(move |&a| all.clone().filter(move |&&b| a < b).map(move |&b| (a, b)))
    }

    fn said_of(&self, a: u32, b: u32) -> [Option<&PairResult>; 2] {
        [self.said.get(&(a, b)), self.said.get(&(b, a))]
    }

    fn is_said(&self, a: u32, b: u32) -> bool {
        self.said_of(a, b).iter().all(Option::is_some)
    }

    fn are_here(&self, a: u32, b: u32) -> bool {
        [a, b].iter().all(|id| self.members.get(id).is_some_and(|member| member.here))
    }

    /// Forgets the oldest one that left, where there are too many.
    fn make_place(&mut self) -> bool {
        if self.members.len() < MOST {
            return true;
        }
        let gone = self.members.iter().find(|(_, member)| !member.here).map(|(id, _)| *id);
        let Some(gone) = gone else { return false };
        self.members.remove(&gone);
        self.said.retain(|(from, to), _| *from != gone && *to != gone);
        true
    }
}

/// Longest name that is shown, in characters.
const LONGEST: usize = 32;

fn short(name: &str) -> String {
    printable(&name.trim().chars().take(LONGEST).collect::<String>())
}

#[cfg(test)]
mod tests {
    use shared::rendezvous::Payload;

    use super::{super::report::PairOutcome, *};

    fn member(id: u32, here: bool, name: &str) -> MemberNews {
        let ready = Readiness { name: Some(name.into()), nat_type: None };
        MemberNews { id, here, ready: Some(Payload::write(&ready).unwrap()) }
    }

    const YES: PairResult =
        PairResult { through: Some(true), technique: None, ipv6: false, rtt_us: None, predicted: None };

    fn says(from: u32, to: u32, through: bool) -> ResultNews {
        ResultNews {
            from,
            to,
            result: Payload::write(&PairResult { through: Some(through), ..YES }).unwrap(),
        }
    }

    #[test]
    fn a_room_is_settled_when_those_who_are_here_have_said_all() {
        let mut board = Board::new(1);
        board.found(2, YES);
        board.found(3, YES);
        board.learn(vec![member(1, true, "a"), member(2, true, "b"), member(3, true, "c")], vec![]);
        assert_eq!((board.is_settled(), board.progress()), (false, (0, 3)));
        board.learn(vec![], vec![says(2, 1, true)]);
        assert_eq!((board.is_settled(), board.progress()), (false, (1, 3)));
        board.learn(vec![member(3, false, "c")], vec![]);
        assert!(board.is_settled(), "nothing more is heard of 3");
        assert_eq!(board.seen(), 3);
        let outcomes: Vec<_> = board.pair_reports().into_iter().map(|pair| pair.outcome).collect();
        assert_eq!(outcomes, [PairOutcome::Direct, PairOutcome::Unknown, PairOutcome::Unknown]);
        board.learn(vec![MemberNews { id: 4, here: true, ready: None }], vec![]);
        assert!(!board.is_settled(), "one has come that is not ready");
    }

    #[test]
    fn what_this_side_has_found_is_not_for_others_to_say() {
        let mut board = Board::new(1);
        board.learn(
            vec![member(1, true, "a"), member(2, true, "b")],
            vec![says(2, 1, true), says(1, 2, true)],
        );
        assert_eq!(board.pair_reports()[0].outcome, PairOutcome::Unknown, "it has found nothing");
        assert!(board.is_settled(), "the server says that this pair is over");
        board.found(2, YES);
        board.learn(vec![], vec![says(1, 2, false)]);
        assert_eq!(board.pair_reports()[0].outcome, PairOutcome::Direct);
    }

    #[test]
    fn members_are_counted_that_are_here_or_have_left_with_nothing_to_do() {
        let mut board = Board::new(2);
        board.learn(
            vec![member(1, true, "a"), member(3, true, "c")],
            vec![says(1, 3, true), says(3, 1, true)],
        );
        assert_eq!((board.is_settled(), board.present()), (false, 2), "this side is not in it yet");
        board.learn(vec![member(2, true, "b")], vec![]);
        board.learn(vec![member(3, false, "c")], vec![]);
        assert_eq!((board.seen(), board.present()), (3, 2), "one has left half-way");
        board.found(3, YES);
        board.found(1, YES);
        board.learn(vec![], vec![says(3, 2, true), says(1, 2, true)]);
        assert_eq!((board.is_settled(), board.present()), (true, 3), "it was only quicker");
        board.learn(vec![MemberNews { id: 4, here: true, ready: None }], vec![]);
        assert_eq!(
            (board.is_settled(), board.present()),
            (false, 2),
            "it has not met the one that comes now"
        );
    }

    #[test]
    fn whatever_is_said_is_bounded_and_safe_to_show() {
        let mut board = Board::new(2);
        let wide = format!("\u{1b}[2J{}", "x".repeat(500));
        board.learn((0..1000).map(|id| member(id, id % 2 == 0, &wide)).collect(), vec![]);
        assert!(board.members().len() <= MOST);
        for name in board.members().into_iter().filter_map(|member| member.name) {
            assert!(name.len() < 60 && name.chars().all(|c| !c.is_control()), "{name}");
        }
        let garbage = Payload::write(&[[1], [2]]).unwrap();
        let mut board = Board::new(1);
        board.found(2, YES);
        board.learn(
            vec![member(1, true, "a"), MemberNews { id: 2, here: true, ready: Some(garbage.clone()) }],
            vec![
                ResultNews { from: 2, to: 1, result: garbage.clone() },
                ResultNews { from: 1, to: 1, result: garbage.clone() },
                ResultNews { from: 9, to: 1, result: garbage },
            ],
        );
        assert_eq!((board.said.len(), board.is_settled()), (2, true));
        assert_eq!(board.pair_reports()[0].outcome, PairOutcome::Unknown);
    }
}
