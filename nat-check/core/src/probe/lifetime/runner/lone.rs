//! The lone mapping: opened when all else is done, so that only a timer can end it. Where something else may have ended
//! the others just as well, it decides.

use std::{iter, time::Duration};

use super::{Runner, Snapshot, WakeUp, ends_after};
use crate::{
    observation::SocketId,
    probe::lifetime::{
        alternatives::alternative,
        conclude::{bounds, slack},
        constants::{CHECKS_GIVE_UP, REFRESH_MARGIN, STREAM_SETUP, UNREPLIED_SETUP},
        observe::{MappingState, Role},
    },
};

/// Lone mappings, one for each timer that needs one.
#[derive(Debug, Default)]
pub(super) struct Lone {
    /// Whether that was decided.
    is_decided: bool,
    /// The idle time at which each is checked.
    mappings: Vec<(SocketId, Duration)>,
}

impl Lone {
    pub(super) fn contains(&self, socket: SocketId) -> bool {
        self.mappings.iter().any(|(lone, _)| *lone == socket)
    }
}

impl Runner {
    /// Opens lone mappings once nothing else is left to do, for those timers that may be something else and while there is
    /// time for it. Whether none is, or all have shown what they can.
    pub(super) async fn confirm_alone(&mut self, snapshot: Snapshot<'_>) -> bool {
        let Snapshot { observations, now, .. } = snapshot;
        if !self.lone.is_decided {
            self.lone.is_decided = true;
            for (role, setup) in [(Role::Unreplied, UNREPLIED_SETUP), (Role::Stream, STREAM_SETUP)] {
                let Some((_, expired)) = bounds(observations, role) else { continue };
                let idle = expired + slack(observations) + REFRESH_MARGIN;
                let due = now + Duration::from_secs_f64(setup) + idle;
                if alternative(observations, role).is_none() || due > self.begun + ends_after(self.longest) {
                    continue;
                }
                if let Ok(socket) = self.session.open().await {
                    self.send_set_up(&socket, role).await;
                    self.lone.mappings.push((socket.id, idle));
                    self.sockets.insert(socket.id, socket);
                }
            }
        }
        let open = |socket: SocketId| {
            let mapping = observations.mappings.iter().find(|m| m.socket == socket);
            // One that was opened just now is not in the log that was read.
            mapping.is_none_or(|m| {
                let is_settled = matches!(m.state, MappingState::Alive(_) | MappingState::Expired(_));
                !is_settled && (m.checks < CHECKS_GIVE_UP || m.pending > 0)
            })
        };
        !self.lone.mappings.iter().any(|(socket, _)| open(*socket))
    }

    /// Checks of lone mappings that are due.
    pub(super) fn lone_checks(&self, snapshot: Snapshot<'_>, wake_up: &mut WakeUp) -> Vec<SocketId> {
        let Snapshot { observations, now, response_timeout } = snapshot;
        let goal = observations.checks_needed.map_or(CHECKS_GIVE_UP, |needed| needed as usize);
        let mut checks = Vec::new();
        for &(socket, idle) in &self.lone.mappings {
            let Some(mapping) = observations.mappings.iter().find(|m| m.socket == socket) else { continue };
            let is_open = matches!(mapping.state, MappingState::Silent | MappingState::Unchecked);
            let Some(used) = mapping.last_used.filter(|_| is_open && mapping.checks < CHECKS_GIVE_UP) else {
                continue;
            };
            let due = mapping.last_check.map_or(used.latest + idle, |last| last + response_timeout);
            if due > now {
                wake_up.add(due);
            } else {
                let missing = goal.saturating_sub(mapping.unanswered).clamp(1, CHECKS_GIVE_UP);
                checks.extend(iter::repeat_n(socket, if mapping.checks == 0 { 1 } else { missing }));
            }
        }
        checks
    }
}
