//! The search for one timer, from coarse to fine: which mapping to check next, and when. Pure: observations go in, checks
//! come out.
//!
//! A check refreshes a mapping wherever packets from outside do, so each mapping tells of one idle time only. Checks are
//! spent sparingly: of the mappings between the last one alive and the first one silent, each gets one check, and only at
//! the boundary is a silent mapping checked again until it is certain that it has expired.

mod confirm;
mod expiry_style;
mod fine;

use std::{cmp::Reverse, time::Duration};

use confirm::Confirmation;
use expiry_style::{Sampling, Verification};

use super::{
    constants::{INDISTINCT, SETUP_GIVES_UP, SILENT_LOSSLESS, SILENT_LOSSY},
    observe::MappingState,
    step::{SearchInput, Step},
};
use crate::observation::SocketId;

/// The state of the search for one timer.
#[derive(Clone, Debug)]
pub(super) struct Search {
    checkpoints: Vec<Duration>,
    /// Checkpoints at which a mapping was found alive.
    passed: usize,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Checks one mapping at each checkpoint, until one is silent.
    Coarse { checking: Option<SocketId> },
    /// Checks what lies between the last one alive and the first one silent, until nothing does.
    Fine,
    /// Checks one more when its idle time falls into the bracket, as that is too wide.
    Narrowing { chosen: Option<SocketId>, left: u32 },
    /// Verifies that the timer is exact.
    Verifying(Verification),
    /// Mappings do not expire by one exact timer: samples how they do.
    Sampling(Sampling),
    /// All is known that will be.
    Done,
}

impl Search {
    /// Begins a search with these checkpoints.
    pub(super) fn new(checkpoints: Vec<Duration>) -> Self {
        Self { checkpoints, passed: 0, phase: Phase::Coarse { checking: None } }
    }

    /// Whether new mappings for late checkpoints are still of use.
    pub(super) fn wants_checkpoints(&self) -> bool {
        matches!(self.phase, Phase::Coarse { .. })
    }

    /// Whether new fine probes are still of use.
    pub(super) fn wants_fine_probes(&self) -> bool {
        matches!(self.phase, Phase::Coarse { .. } | Phase::Fine | Phase::Sampling(_))
    }

    /// Whether the timer is bracketed, or will not be.
    pub(super) fn is_bracketed(&self) -> bool {
        !matches!(self.phase, Phase::Coarse { .. } | Phase::Fine | Phase::Narrowing { .. })
    }

    /// Whether mappings do not expire by one exact timer.
    pub(super) fn is_sampling(&self) -> bool {
        matches!(self.phase, Phase::Sampling(_))
    }

    /// Whether all is known that will be.
    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    /// Checkpoints at which a mapping was found alive.
    pub(super) fn passed(&self) -> usize {
        self.passed
    }

    /// What to do now.
    pub(super) fn step(&mut self, input: SearchInput<'_>) -> Step {
        // A change of phase may give something to do at once.
        loop {
            let before = self.phase;
            let step = self.advance(input);
            if self.phase == before || !step.check.is_empty() {
                return step;
            }
        }
    }

    fn advance(&mut self, input: SearchInput<'_>) -> Step {
        match self.phase {
            Phase::Coarse { checking: Some(socket) } => self.at_checkpoint(input, socket),
            Phase::Coarse { checking: None } => self.next_checkpoint(input),
            Phase::Fine => self.fine(input),
            Phase::Narrowing { chosen, left } => self.narrow(input, chosen, left),
            Phase::Verifying(verification) => self.verify(input, verification),
            Phase::Sampling(sampling) => self.sample(input, sampling),
            Phase::Done => Step::default(),
        }
    }

    fn next_checkpoint(&mut self, input: SearchInput<'_>) -> Step {
        let Some(&checkpoint) = self.checkpoints.get(self.passed) else {
            self.phase = Phase::Done;
            return Step::default();
        };
        // Of several that are as old, the one that was opened first.
        let oldest = input.unchecked().max_by_key(|&(idle, socket)| (idle, Reverse(socket)));
        let Some((idle, socket)) = oldest else {
            // No mapping is ready yet, or none is left.
            let last_sent = input.mappings.iter().map(|m| m.last_sent).max().unwrap_or_default();
            if input.now > last_sent + SETUP_GIVES_UP {
                self.phase = Phase::Done;
            }
            return Step::wait(last_sent + SETUP_GIVES_UP + INDISTINCT);
        };
        if idle < checkpoint {
            return Step::wait(input.now + (checkpoint - idle));
        }
        self.phase = Phase::Coarse { checking: Some(socket) };
        Step { check: vec![socket], again_at: None, expects_answer: true }
    }

    fn at_checkpoint(&mut self, input: SearchInput<'_>, socket: SocketId) -> Step {
        let Some(mapping) = input.mappings.iter().find(|m| m.socket == socket) else {
            self.phase = Phase::Coarse { checking: None };
            return Step::default();
        };
        let goal = if input.observations.is_lossless() { SILENT_LOSSLESS } else { SILENT_LOSSY };
        match confirm::confirm(mapping, Some(goal), input) {
            Confirmation::Check(times) => Step::check(vec![socket; times]),
            Confirmation::Wait(until) => Step::wait(until),
            Confirmation::Settled => {
                self.phase = match mapping.state {
                    MappingState::Alive(idle) => {
                        let later = &self.checkpoints[self.passed..];
                        self.passed += later.iter().take_while(|&&at| at <= idle).count();
                        Phase::Coarse { checking: None }
                    }
                    MappingState::Expired(_) => Phase::Fine,
                    MappingState::Silent | MappingState::Unchecked if mapping.unanswered >= goal as usize => {
                        Phase::Fine
                    }
                    // Too much loss to tell: another one will.
                    MappingState::Silent | MappingState::Unchecked => Phase::Coarse { checking: None },
                };
                Step::default()
            }
        }
    }
}
