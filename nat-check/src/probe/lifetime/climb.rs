//! Which mapping of a timer to look at next, and when. Pure: what was seen goes in, sockets come out.
//!
//! A look restarts the timer of a mapping wherever packets from outside do, so each is looked at once.

use std::{collections::BTreeSet, time::Duration};

use super::{
    fit::{Change, Sample},
    observe::{Flow, State},
};
use crate::ledger::SocketId;

/// The state of one timer's measurement.
#[derive(Clone, Debug)]
pub struct Climb {
    rungs: Vec<Duration>,
    next: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Looks at one mapping a rung, until one is gone.
    Climbing {
        at: Option<SocketId>,
    },
    /// Looks at all that lie between the last one alive and the first one gone.
    Combing {
        since: Duration,
        first: bool,
    },
    /// Looks at one more a little later, when it should just have ended as well.
    Checking {
        since: Duration,
    },
    /// It did not end: looks at one after another, until they end together.
    Watching {
        since: Duration,
        last: Duration,
    },
    /// Looks at whatever is left.
    Clearing,
    Done,
}

/// What to do now, and when to ask again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Move {
    /// Mappings to look at now.
    pub look: Vec<SocketId>,
    /// When there will be more to do; none = when these are decided.
    pub again: Option<Duration>,
}

/// Between two looks while waiting for a sweep.
const WATCH: Duration = Duration::from_millis(900);
/// The second look has to come this soon; later, where the timer is long.
const CHECK: Duration = Duration::from_millis(2000);
const LONG: Duration = Duration::from_secs(60);
/// A mapping that is not ready by then never will be.
const PATIENCE: Duration = Duration::from_secs(6);
/// Teeth closer than this to one another tell nothing more.
const CLOSEST: Duration = Duration::from_millis(300);

impl Climb {
    /// Begins a measurement with these rungs.
    #[must_use]
    pub fn new(rungs: Vec<Duration>) -> Self {
        Self { rungs, next: 0, phase: Phase::Climbing { at: None } }
    }

    /// Whether new mappings are still of use.
    #[must_use]
    pub fn wants_more(&self) -> bool {
        matches!(self.phase, Phase::Climbing { .. })
    }

    /// Whether the timer is bracketed, or will not be.
    #[must_use]
    pub fn is_bracketed(&self) -> bool {
        matches!(self.phase, Phase::Checking { .. } | Phase::Watching { .. } | Phase::Clearing | Phase::Done)
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

    /// What to do at `now`, given the mappings of this timer and those that are being looked at.
    pub fn step(&mut self, flows: &[&Flow], flying: &BTreeSet<SocketId>, now: Duration) -> Move {
        // A change of phase may give something to do at once.
        loop {
            let before = self.phase;
            let next = self.advance(flows, flying, now);
            if self.phase == before || !next.look.is_empty() {
                return next;
            }
        }
    }

    fn advance(&mut self, flows: &[&Flow], flying: &BTreeSet<SocketId>, now: Duration) -> Move {
        let busy = flows.iter().any(|f| flying.contains(&f.socket));
        let samples: Vec<Sample> = flows.iter().filter_map(|f| Sample::of(f)).collect();
        let change = Change::of(&samples);
        match self.phase {
            Phase::Done => Move::default(),
            _ if busy => Move::default(),
            Phase::Climbing { at: Some(socket) } => {
                let state = flows.iter().find(|f| f.socket == socket).map(|f| f.state);
                match state {
                    Some(State::Gone(_)) => self.phase = Phase::Combing { since: now, first: true },
                    Some(State::Alive(idle)) => {
                        self.next += self.rungs[self.next..].iter().take_while(|&&rung| rung <= idle).count();
                        self.phase = Phase::Climbing { at: None };
                    }
                    // Too much loss to tell: another one will.
                    Some(State::Silent | State::Untouched) | None => {
                        self.phase = Phase::Climbing { at: None };
                    }
                }
                Move::default()
            }
            Phase::Climbing { at: None } => {
                let Some(&rung) = self.rungs.get(self.next) else {
                    self.phase = Phase::Done;
                    return Move::default();
                };
                let Some((idle, socket)) = untouched(flows, now).max() else {
                    // Nothing is ready yet, or nothing is left.
                    let last = flows.iter().map(|f| f.pushed).max().unwrap_or_default();
                    if now > last + PATIENCE {
                        self.phase = Phase::Done;
                    }
                    return Move { look: Vec::new(), again: Some(last + PATIENCE) };
                };
                if idle < rung {
                    return Move { look: Vec::new(), again: Some(now + (rung - idle)) };
                }
                self.phase = Phase::Climbing { at: Some(socket) };
                Move { look: vec![socket], again: None }
            }
            Phase::Combing { since, first } => {
                let look = comb(flows, now, &change, first);
                self.phase = match look.is_empty() {
                    true => Phase::Checking { since },
                    false => Phase::Combing { since: now, first: false },
                };
                Move { look, again: None }
            }
            Phase::Checking { since } => self.check(flows, now, since, &change),
            Phase::Watching { since, last } => {
                let later = flows.iter().filter(|f| f.seen.from > since);
                let ended = later.filter(|f| matches!(f.state, State::Gone(_))).count() > 0;
                let spent = now > since + change.alive.unwrap_or_default() / 2 + WATCH * 12;
                if ended || spent {
                    self.phase = Phase::Clearing;
                    let look = spread(untouched(flows, now).collect(), CLOSEST);
                    return Move { look, again: None };
                }
                if now < last + WATCH {
                    return Move { look: Vec::new(), again: Some(last + WATCH) };
                }
                // The oldest that is younger than all that are gone: it ends next.
                let gone = samples.iter().filter(|s| !s.alive).map(|s| s.used.from).max();
                let oldest = gone.map_or(Duration::MAX, |used| now.saturating_sub(used));
                let next = untouched(flows, now).filter(|(idle, _)| *idle < oldest).max();
                self.phase = Phase::Watching { since, last: now };
                match next {
                    Some((_, socket)) => Move { look: vec![socket], again: None },
                    None => Move { look: Vec::new(), again: Some(now + WATCH) },
                }
            }
            Phase::Clearing => {
                self.phase = Phase::Done;
                Move::default()
            }
        }
    }

    /// Looks a little later at a mapping that should just have ended: it has, unless mappings end at intervals.
    fn check(&mut self, flows: &[&Flow], now: Duration, since: Duration, change: &Change) -> Move {
        if change.overlap > Duration::ZERO {
            self.phase = Phase::Watching { since, last: now };
            return Move::default();
        }
        let later = flows.iter().filter(|f| f.seen.from > since + CLOSEST).max_by_key(|f| f.seen.from);
        match later.map(|f| f.state) {
            Some(State::Alive(_)) => {
                self.phase = Phase::Watching { since, last: now };
                return Move::default();
            }
            Some(State::Gone(_) | State::Silent) => {
                self.phase = Phase::Done;
                return Move::default();
            }
            Some(State::Untouched) | None => {}
        }
        let (Some(alive), Some(gone)) = (change.alive, change.gone) else {
            self.phase = Phase::Done;
            return Move::default();
        };
        let width = gone - alive;
        // What ended at an interval then lives longer than the bracket is wide.
        let earliest = since + width + width / 3;
        let due = |(idle, socket)| ((now + gone).saturating_sub(idle), socket);
        let next = untouched(flows, now).map(due).filter(|(at, _)| *at + CLOSEST > earliest).min();
        match next {
            Some((at, socket)) if at <= now && now >= earliest => Move { look: vec![socket], again: None },
            Some((at, _)) if at <= since + CHECK + gone.saturating_sub(LONG) / 40 => {
                Move { look: Vec::new(), again: Some(at.max(earliest)) }
            }
            // None that is due soon enough: it stays open how exactly mappings end.
            Some(_) | None => {
                self.phase = Phase::Done;
                Move::default()
            }
        }
    }
}

/// Mappings that nobody has looked at, and how long they have been idle.
fn untouched(flows: &[&Flow], now: Duration) -> impl Iterator<Item = (Duration, SocketId)> {
    let ready = flows.iter().filter(|f| f.state == State::Untouched && f.outside.is_some());
    ready.filter_map(move |f| Some((f.idle(now)?, f.socket)))
}

/// What lies between the longest life and the shortest death: every second mapping first, so that some are left for a
/// later look. One that should surely be alive is looked at as well: it shows whether older ones outlive younger ones.
fn comb(flows: &[&Flow], now: Duration, change: &Change, first: bool) -> Vec<SocketId> {
    let (alive, gone) = (change.alive.unwrap_or_default(), change.gone.unwrap_or(Duration::MAX));
    let inside: Vec<_> =
        untouched(flows, now).filter(|(idle, _)| *idle > alive + NEAR && *idle + NEAR < gone).collect();
    let inside = spread(inside, CLOSEST);
    let mut look: Vec<SocketId> = match inside.len() {
        0..=2 => inside,
        _ => inside.into_iter().skip(1).step_by(2).collect(),
    };
    if first {
        let mut below: Vec<_> = untouched(flows, now).filter(|(idle, _)| *idle <= alive).collect();
        below.sort();
        look.extend(below.into_iter().rev().nth(1).map(|(_, socket)| socket));
    }
    look
}

/// What is this close to a mapping that was looked at says nothing new.
const NEAR: Duration = Duration::from_millis(100);

/// Of mappings that are idle for almost the same time, one.
fn spread(mut list: Vec<(Duration, SocketId)>, apart: Duration) -> Vec<SocketId> {
    list.sort();
    let mut kept: Vec<(Duration, SocketId)> = Vec::new();
    for (idle, socket) in list {
        if kept.last().is_none_or(|(last, _)| idle >= *last + apart) {
            kept.push((idle, socket));
        }
    }
    kept.into_iter().map(|(_, socket)| socket).collect()
}
