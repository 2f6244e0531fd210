//! Keeps the mappings in use that show what refreshes one (RFC 4787 REQ-6), and checks them once the timers are known.

use std::{iter, time::Duration};

use super::{Runner, Snapshot, WakeUp};
use crate::{
    observation::{RequestKind, SocketId},
    probe::lifetime::{
        CheckMethod, conclude,
        constants::{CHECKS_GIVE_UP, INBOUND_CHECKS, KEEPALIVE_DIVISOR, KEEPALIVE_LEAST, KEEPALIVE_MOST},
        observe::{KEEPALIVE, MappingHistory, MappingState, Observations, Role},
    },
    session::Request,
};

impl Runner {
    /// Keeps in use what is to be kept in use.
    pub(super) async fn refresh(&mut self, snapshot: Snapshot<'_>, wake_up: &mut WakeUp) {
        self.refresh_outbound(snapshot).await;
        if self.is_bracketed() {
            return;
        }
        let Snapshot { observations, now, .. } = snapshot;
        let running = now.saturating_sub(self.begun);
        let interval = (running / KEEPALIVE_DIVISOR).clamp(KEEPALIVE_LEAST, KEEPALIVE_MOST);
        if now < self.last_keepalive + interval {
            return wake_up.add(self.last_keepalive + interval);
        }
        // One each for the inbound mapping and for the other destination.
        if self.budget.available(now) < 2 {
            return wake_up.add(self.budget.available_at(2));
        }
        self.last_keepalive = now;
        wake_up.add(now + interval);
        let round = self.session.round();
        if self.method == CheckMethod::SendAgain {
            // The requester's mapping is to last, so that losing it shows that the NAT lost its state.
            return self.control(round).await;
        }
        for mapping in observations.mappings.iter().filter(|m| m.last_used.is_some()) {
            match mapping.role {
                Role::Inbound if !self.stream.is_bracketed() => self.check(mapping.socket, round).await,
                Role::Elsewhere if !self.unreplied.is_bracketed() => {
                    let socket = self.sockets.get(&mapping.socket).cloned();
                    if let (Some(socket), Some(to)) = (socket, self.elsewhere) {
                        let kind = RequestKind::Binding;
                        self.send(&socket, Request { purpose: KEEPALIVE, to, kind, round }).await;
                    }
                }
                Role::Unreplied | Role::Stream | Role::Outbound | Role::Inbound | Role::Elsewhere => {}
            }
        }
    }

    /// Sends one packet through the outbound mapping after each checkpoint that was passed and after the last, while it is
    /// younger than those found alive.
    async fn refresh_outbound(&mut self, snapshot: Snapshot<'_>) {
        let Snapshot { observations, now, response_timeout } = snapshot;
        let passed = self.unreplied.passed() + usize::from(self.unreplied.is_bracketed());
        if passed <= self.refreshed || self.budget.available(now) == 0 {
            return;
        }
        self.refreshed = passed;
        let survived = longest_survived(observations, Role::Unreplied);
        if let Some(mapping) = observations.of_role(Role::Outbound).next()
            && now + response_timeout < mapping.first_sent + survived
            && let Some(socket) = self.sockets.get(&mapping.socket).cloned()
        {
            self.send_set_up(&socket, Role::Outbound).await;
        }
    }

    /// Once a timer is bracketed, the checks of those mappings that are due, until they have shown what they can.
    pub(super) fn refresh_checks(&self, snapshot: Snapshot<'_>, wake_up: &mut WakeUp) -> Vec<SocketId> {
        let mut checks = Vec::new();
        let goal = snapshot.observations.checks_needed.map_or(CHECKS_GIVE_UP, |needed| needed as usize);
        for (from, mapping) in self.open_questions(snapshot.observations) {
            let checked = self.checks_of(mapping);
            let is_first = checked == 0;
            let due = if is_first {
                from
            } else {
                mapping.last_check.unwrap_or_default() + snapshot.response_timeout
            };
            if due > snapshot.now {
                wake_up.add(due);
                continue;
            }
            // An answer to the first saves further checks.
            let times =
                if is_first { 1 } else { goal.saturating_sub(mapping.unanswered).clamp(1, CHECKS_GIVE_UP) };
            checks.extend(iter::repeat_n(mapping.socket, times));
        }
        checks
    }

    /// Whether those mappings have shown what they can.
    pub(super) fn refresh_is_known(&self, snapshot: Snapshot<'_>) -> bool {
        self.open_questions(snapshot.observations).is_empty()
    }

    /// Mappings that have not yet shown what refreshes them, though they could, and from when on.
    fn open_questions<'a>(&self, observations: &'a Observations) -> Vec<(Duration, &'a MappingHistory)> {
        let known = self.session.read(|log| conclude::refresh::refreshing(log, observations));
        let open = observations.mappings.iter().filter(|m| self.is_open(m));
        open.filter_map(|mapping| Some((known.shows_from(mapping)?, mapping))).collect()
    }

    fn is_open(&self, mapping: &MappingHistory) -> bool {
        let is_bracketed = match mapping.role {
            Role::Unreplied | Role::Stream => false,
            Role::Inbound => self.stream.is_bracketed(),
            Role::Outbound | Role::Elsewhere => self.unreplied.is_bracketed(),
        };
        let checked = self.checks_of(mapping);
        let is_decided = match (mapping.state, mapping.role) {
            (MappingState::Alive(_) | MappingState::Expired(_), Role::Inbound) => checked > INBOUND_CHECKS,
            (MappingState::Alive(_) | MappingState::Expired(_), _) => checked > 0,
            (MappingState::Silent | MappingState::Unchecked, _) => false,
        };
        let can_be_checked = checked < CHECKS_GIVE_UP || mapping.pending > 0;
        is_bracketed && mapping.last_used.is_some() && !is_decided && can_be_checked
    }

    fn checks_of(&self, mapping: &MappingHistory) -> usize {
        self.checks.get(&mapping.socket).copied().unwrap_or_default()
    }
}

/// The longest idle time after which a mapping of this role was alive.
fn longest_survived(observations: &Observations, role: Role) -> Duration {
    let survived = observations.of_role(role).filter_map(|m| match m.state {
        MappingState::Alive(idle) => Some(idle),
        MappingState::Expired(_) | MappingState::Silent | MappingState::Unchecked => None,
    });
    survived.max().unwrap_or_default()
}
