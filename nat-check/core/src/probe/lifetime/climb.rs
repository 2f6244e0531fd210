//! Which mapping of a timer to look at next, and when. Pure: what was seen goes in, looks come out.
//!
//! A look restarts the timer of a mapping wherever packets from outside do, so each mapping tells of one idle time only.
//! Looks are spent sparingly: of the mappings between the last one alive and the first one silent, each gets one look,
//! and only where life and death meet is silence asked for again until it is beyond doubt.

use std::time::Duration;

use super::{
    comb::{self, Insisting},
    observe::State,
    view::{Move, View, spread},
};
use crate::observation::SocketId;

/// The state of one timer's measurement.
#[derive(Clone, Debug)]
pub struct Climb {
    rungs: Vec<Duration>,
    next: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Looks at one mapping a rung, until one is silent.
    Climbing {
        at: Option<SocketId>,
    },
    /// Looks at what lies between the last one alive and the first one gone, until nothing does.
    Combing,
    /// Looks at one more when its idle time falls between the two, as they are too far apart.
    Refining {
        at: Option<SocketId>,
        left: u32,
    },
    /// Looks a little later, at what should have ended by now and at what should not.
    Checking {
        since: Duration,
        at: Option<SocketId>,
        left: u32,
        looked: bool,
    },
    /// Mappings do not all end by one timer: looks at one after another, and where one has ended at several together,
    /// until it is known how they end.
    Watching {
        begun: Duration,
        since: Duration,
        together: bool,
    },
    Done,
}

/// Between two looks while waiting for a sweep: this share of the idle time, and so much.
const WATCH: (u32, Duration) = (60, Duration::from_millis(600));
/// Longest wait for a sweep, besides half the idle time.
const SWEEP: Duration = Duration::from_secs(14);
/// A look to refine a bracket has to come this soon.
const SOON: Duration = Duration::from_millis(2000);
const LONG: Duration = Duration::from_secs(60);
/// A timer of L seconds is to be known after 1.15 L + 5 from the start of the run. Looks that are good to have but not
/// necessary are given up where they would begin later than this.
const LATEST: (f64, Duration) = (1.15, Duration::from_millis(4500));
/// Up to `LONG`, brackets are to be no wider than this; beyond, than this share of the idle time.
const FINE: Duration = Duration::from_millis(950);
const COARSE: (u32, Duration) = (24, Duration::from_millis(4800));
/// Times that a bracket is refined.
const REFINED: u32 = 3;
/// Times that it is checked whether the timer is exact.
const CHECKS: u32 = 3;
/// A mapping that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(6);
/// What is this close to a mapping that was looked at says nothing new.
const NEAR: Duration = Duration::from_millis(100);
/// Mappings far older than the timer that are looked at: if lives differed, some would be there.
const ELDERS: usize = 4;

impl Climb {
    /// Begins a measurement with these rungs.
    #[must_use]
    pub fn new(rungs: Vec<Duration>) -> Self {
        Self { rungs, next: 0, phase: Phase::Climbing { at: None } }
    }

    /// Whether new mappings of high rungs are still of use.
    #[must_use]
    pub fn wants_rungs(&self) -> bool {
        matches!(self.phase, Phase::Climbing { .. })
    }

    /// Whether new mappings a little younger than the others are still of use.
    #[must_use]
    pub fn wants_teeth(&self) -> bool {
        matches!(self.phase, Phase::Climbing { .. } | Phase::Combing | Phase::Watching { .. })
    }

    /// Whether the timer is bracketed, or will not be.
    #[must_use]
    pub fn is_bracketed(&self) -> bool {
        !matches!(self.phase, Phase::Climbing { .. } | Phase::Combing | Phase::Refining { .. })
    }

    /// Whether mappings do not all end by one timer.
    #[must_use]
    pub fn is_watching(&self) -> bool {
        matches!(self.phase, Phase::Watching { .. })
    }

    /// Whether everything is known that will be.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Rungs at which a mapping was found alive.
    #[must_use]
    pub fn climbed(&self) -> usize {
        self.next
    }

    /// What to do now.
    pub fn step(&mut self, view: View<'_>) -> Move {
        // A change of phase may give something to do at once.
        loop {
            let before = self.phase;
            let next = self.advance(view);
            if self.phase == before || !next.look.is_empty() {
                return next;
            }
        }
    }

    fn advance(&mut self, view: View<'_>) -> Move {
        match self.phase {
            Phase::Climbing { at: Some(socket) } => self.at_rung(view, socket),
            Phase::Climbing { at: None } => self.next_rung(view),
            Phase::Combing => self.comb(view),
            Phase::Refining { at, left } => self.refine(view, at, left),
            Phase::Checking { since, at, left, looked } => self.check(view, since, at, left, looked),
            Phase::Watching { begun, since, together } => self.watch(view, begun, since, together),
            Phase::Done => Move::default(),
        }
    }

    fn next_rung(&mut self, view: View<'_>) -> Move {
        let Some(&rung) = self.rungs.get(self.next) else {
            self.phase = Phase::Done;
            return Move::default();
        };
        let Some((idle, socket)) = view.untouched().max() else {
            // Nothing is ready yet, or nothing is left.
            let last = view.flows.iter().map(|f| f.pushed).max().unwrap_or_default();
            if view.now > last + PATIENCE {
                self.phase = Phase::Done;
            }
            return Move::wait(last + PATIENCE + NEAR);
        };
        if idle < rung {
            return Move::wait(view.now + (rung - idle));
        }
        self.phase = Phase::Climbing { at: Some(socket) };
        Move { look: vec![socket], again: None, hopeful: true }
    }

    fn at_rung(&mut self, view: View<'_>, socket: SocketId) -> Move {
        let Some(flow) = view.flows.iter().find(|f| f.socket == socket) else {
            self.phase = Phase::Climbing { at: None };
            return Move::default();
        };
        // Where packets get lost, a few silent looks save a comb that would find nothing.
        let goal = if view.seen.is_lossless() { 1 } else { 3 };
        match comb::insist(flow, Some(goal), view) {
            Insisting::Look(times) => Move::look(vec![socket; times]),
            Insisting::Wait(until) => Move::wait(until),
            Insisting::Settled => {
                self.phase = match flow.state {
                    State::Alive(idle) => {
                        self.next += self.rungs[self.next..].iter().take_while(|&&rung| rung <= idle).count();
                        Phase::Climbing { at: None }
                    }
                    State::Gone(_) => Phase::Combing,
                    State::Silent | State::Untouched if flow.quiet >= goal as usize => Phase::Combing,
                    // Too much loss to tell: another one will.
                    State::Silent | State::Untouched => Phase::Climbing { at: None },
                };
                Move::default()
            }
        }
    }

    fn comb(&mut self, view: View<'_>) -> Move {
        // A second look before the first can have been answered makes the bracket narrower.
        let step = comb::settle_once(view, if view.plenty { 2 } else { 1 });
        if !step.is_nothing() {
            return step;
        }
        let border = comb::border(view.flows);
        // Where packets are few, one border that is beyond doubt is better than many doubtful ones.
        let confirmed = border.is_confirmed(view) && !is_fine(border.alive, border.gone);
        if let Some(gone) = border.gone
            && (view.spare || confirmed)
        {
            let (low, high) = (border.alive + NEAR, gone.saturating_sub(NEAR));
            let inside = view.untouched().filter(|(idle, _)| *idle > low && *idle < high).collect();
            let inside = spread(inside);
            let look = match view.hint.filter(|hint| hint.0 > low && hint.1 < high) {
                Some(hint) => comb::around(hint, &inside),
                None => Vec::new(),
            };
            let look = if look.is_empty() { comb::some_of(inside) } else { look };
            if !look.is_empty() {
                return Move::look(look);
            }
        }
        let step = comb::settle(&border, view);
        if step.is_nothing() {
            self.phase = match border.gone {
                // What was silent has answered after all.
                None => Phase::Climbing { at: None },
                Some(_) if view.change().overlap > Duration::ZERO => watching(view.now),
                Some(_) => Phase::Refining { at: None, left: REFINED },
            };
        }
        step
    }

    fn refine(&mut self, view: View<'_>, at: Option<SocketId>, left: u32) -> Move {
        let border = comb::border(view.flows);
        let step = comb::settle(&border, view);
        if !step.is_nothing() {
            return step;
        }
        let checking = Phase::Checking { since: view.now, at: None, left: CHECKS, looked: false };
        let change = view.change();
        let (Some(alive), Some(gone)) = (change.alive, change.gone) else {
            self.phase = match border.gone {
                _ if change.overlap > Duration::ZERO => watching(view.now),
                Some(_) => Phase::Done,
                None => Phase::Climbing { at: None },
            };
            return Move::default();
        };
        if is_fine(alive, Some(gone)) || left == 0 || change.overlap > Duration::ZERO {
            self.phase = checking;
            return Move::default();
        }
        let middle = alive + (gone - alive) / 2;
        let chosen = at.filter(|s| view.untouched().any(|(_, socket)| socket == *s));
        let next = view.untouched().filter(|(_, s)| chosen.is_none_or(|c| c == *s));
        match next.filter(|(idle, _)| *idle + NEAR < gone).max() {
            Some((idle, socket)) if idle >= middle => {
                self.phase = Phase::Refining { at: None, left: left - 1 };
                Move::look(vec![socket])
            }
            Some((idle, socket)) if view.now + (middle - idle) <= latest(alive).min(view.now + SOON) => {
                self.phase = Phase::Refining { at: Some(socket), left };
                Move::wait(view.now + (middle - idle))
            }
            Some(_) | None => {
                self.phase = checking;
                Move::default()
            }
        }
    }

    /// Looks a little later at a mapping that should just have ended, and at one that should not: so it is, unless
    /// mappings end at intervals. And at some that should have ended long ago: so they have, unless lives differ.
    fn check(
        &mut self,
        view: View<'_>,
        since: Duration,
        at: Option<SocketId>,
        left: u32,
        looked: bool,
    ) -> Move {
        let step = comb::settle(&comb::border(view.flows), view);
        if !step.is_nothing() {
            return step;
        }
        let change = view.change();
        if change.overlap > Duration::ZERO {
            self.phase = watching(view.now);
            return Move::default();
        }
        let (Some(alive), Some(gone)) = (change.alive, change.gone) else {
            self.phase = Phase::Done;
            return Move::default();
        };
        if looked {
            let (step, done) = comb::settle_late(view, since);
            if done {
                self.phase = match left {
                    0 => Phase::Done,
                    _ => Phase::Checking { since: view.now, at: None, left, looked: false },
                };
            }
            return step;
        }
        if !view.spare {
            self.phase = Phase::Done;
            return Move::default();
        }
        let chosen = at.and_then(|socket| view.untouched().find(|(_, s)| *s == socket));
        let next = chosen.or_else(|| view.untouched().filter(|(idle, _)| *idle < gone + NEAR).max());
        match next {
            Some((idle, socket)) if idle < gone + NEAR => {
                let timed_out_before = view.now + (gone + NEAR - idle);
                self.phase = match timed_out_before <= latest(alive) {
                    true => Phase::Checking { since, at: Some(socket), left, looked },
                    // None that is due soon enough: it stays open how exactly mappings end.
                    false => Phase::Done,
                };
                Move::wait(timed_out_before)
            }
            Some((_, socket)) => {
                let mut look = vec![socket];
                look.extend(view.untouched().filter(|(idle, _)| *idle + NEAR < alive).max().map(|(_, s)| s));
                look.extend(elders(view, gone).into_iter().filter(|s| *s != socket));
                self.phase = Phase::Checking { since: view.now, at, left: left - 1, looked: true };
                Move::look(look)
            }
            None => {
                self.phase = Phase::Done;
                Move::default()
            }
        }
    }

    fn watch(&mut self, view: View<'_>, begun: Duration, since: Duration, together: bool) -> Move {
        let step = comb::settle(&comb::border(view.flows), view);
        if !step.is_nothing() {
            return step;
        }
        let (step, done) = comb::settle_late(view, begun);
        if !done {
            return step;
        }
        let change = view.change();
        let life = change.alive.unwrap_or_default();
        let late = view.now > begun + life / 2 + SWEEP;
        if view.told && change.gone.is_some() || late && together {
            self.phase = Phase::Done;
            return Move::default();
        }
        if late {
            self.phase = Phase::Watching { begun, since: view.now, together: true };
            let all = spread(view.untouched().collect());
            return Move::look(all.into_iter().map(|(_, socket)| socket).collect());
        }
        let gone = || view.flows.iter().filter(|f| matches!(f.state, State::Gone(_)) || f.quiet > 1);
        // Two have ended since: what is left shows whether together.
        let ended = gone().filter(|f| f.seen.from >= begun).count() > 1;
        if ended && !together {
            self.phase = Phase::Watching { begun, since: view.now, together: true };
            let all = spread(view.untouched().collect());
            return Move::look(all.into_iter().map(|(_, socket)| socket).collect());
        }
        let watch = since + life / WATCH.0 + WATCH.1;
        if view.now < watch {
            return Move::wait(watch);
        }
        // The oldest that is younger than all that are gone: it ends next.
        let used = gone().filter_map(|f| f.last).map(|last| last.from).max();
        let oldest = used.map_or(Duration::MAX, |used| view.now.saturating_sub(used));
        let next = view.untouched().filter(|(idle, _)| *idle < oldest).max();
        self.phase = Phase::Watching { begun, since: view.now, together };
        match next {
            Some((_, socket)) => Move::look(vec![socket]),
            None => Move::wait(view.now + WATCH.1),
        }
    }
}

fn watching(now: Duration) -> Phase {
    Phase::Watching { begun: now, since: now, together: false }
}

/// Whether a bracket is narrow enough.
fn is_fine(alive: Duration, gone: Option<Duration>) -> bool {
    let fine = match alive < LONG {
        true => FINE,
        false => (alive / COARSE.0).clamp(FINE, COARSE.1),
    };
    gone.is_some_and(|gone| gone <= alive + fine)
}

/// The latest time for looks that are not necessary.
fn latest(alive: Duration) -> Duration {
    alive.mul_f64(LATEST.0) + LATEST.1
}

/// Mappings that should have ended long ago, and that nobody has looked at.
fn elders(view: View<'_>, gone: Duration) -> Vec<SocketId> {
    let mut old: Vec<_> = view.untouched().filter(|(idle, _)| *idle > gone + NEAR).collect();
    old.sort();
    old.into_iter().rev().take(ELDERS).map(|(_, socket)| socket).collect()
}
