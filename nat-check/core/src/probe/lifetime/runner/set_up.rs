//! Opens sockets when they are due, and sets up their mappings.

use std::{collections::BTreeMap, time::Duration};

use super::{Runner, Snapshot, WakeUp};
use crate::{
    observation::{ObservationLog, RequestKind, SocketId, Transaction},
    probe::lifetime::{
        CheckMethod, PURPOSE,
        constants::{REUSE_WITHIN, SETUP_TRIES, STREAM_AFTER},
        observe::{MappingHistory, MappingState, Role},
        openings::{Opening, OpeningKind},
        search::Search,
    },
    session::{Request, Socket},
};

impl Runner {
    /// Opens the sockets that are due.
    pub(super) async fn open_due(&mut self, now: Duration, wake_up: &mut WakeUp) {
        let since = now.saturating_sub(self.begun);
        let mut at = 0;
        while let Some(&Opening { at: due, role, kind }) = self.openings.get(at) {
            let is_wanted = self.search_for(role).is_none_or(|search| match kind {
                OpeningKind::FineProbe => search.wants_fine_probes(),
                OpeningKind::Immediate | OpeningKind::Checkpoint => search.wants_checkpoints(),
            });
            if is_wanted && due > since {
                return wake_up.add(self.begun + due);
            }
            let reserve = kind.reserve(since);
            if is_wanted && self.budget.available(now) <= reserve {
                wake_up.add(self.budget.available_at(1 + reserve));
                at += 1;
                continue;
            }
            self.openings.remove(at);
            if is_wanted && let Ok(socket) = self.session.open().await {
                self.send_set_up(&socket, role).await;
                self.sockets.insert(socket.id, socket);
                wake_up.add(now + self.session.response_timeout());
            }
        }
    }

    /// Makes streams of mappings that earlier measurements left: that takes one packet instead of two.
    pub(super) async fn reuse(&mut self, now: Duration, wake_up: &mut WakeUp) {
        while let Some(&(id, due)) = self.reusable.first() {
            if due > now {
                return wake_up.add(due);
            }
            if self.budget.available(now) == 0 {
                return wake_up.add(self.budget.available_at(1));
            }
            self.reusable.remove(0);
            if now < due + REUSE_WITHIN
                && let Some(socket) = self.session.socket(id)
            {
                self.send_set_up(&socket, Role::Stream).await;
                self.sockets.insert(id, socket);
            }
        }
    }

    /// Sends what mappings still need until they are ready.
    pub(super) async fn set_up(&mut self, snapshot: Snapshot<'_>, wake_up: &mut WakeUp) {
        let Snapshot { observations, now, response_timeout } = snapshot;
        let is_open = |m: &&MappingHistory| m.state == MappingState::Unchecked && m.last_used.is_none();
        for mapping in observations.mappings.iter().filter(is_open) {
            let tries = if mapping.role.is_stream() { SETUP_TRIES * 2 } else { SETUP_TRIES };
            let is_wanted = self.lone.contains(mapping.socket)
                || self.search_for(mapping.role).is_none_or(Search::wants_fine_probes);
            if mapping.requests >= tries || !is_wanted {
                continue;
            }
            let due = match mapping.first_answer {
                // What was sent before that does not make a stream.
                Some(first) if mapping.last_sent < first + STREAM_AFTER => first + STREAM_AFTER,
                Some(_) | None => mapping.last_sent + response_timeout,
            };
            if due > now {
                wake_up.add(due);
            } else if self.budget.available(now) == 0 {
                return wake_up.add(self.budget.available_at(1));
            } else if let Some(socket) = self.sockets.get(&mapping.socket).cloned() {
                self.send_set_up(&socket, mapping.role).await;
                wake_up.add(now + response_timeout);
            }
        }
    }

    /// The search that mappings of this role are for; none where they show what refreshes one.
    fn search_for(&self, role: Role) -> Option<&Search> {
        match role {
            Role::Unreplied => Some(&self.unreplied),
            Role::Stream => Some(&self.stream),
            Role::Outbound | Role::Inbound | Role::Elsewhere => None,
        }
    }

    /// Sends a request that sets up or refreshes a mapping of this role.
    pub(super) async fn send_set_up(&mut self, socket: &Socket, role: Role) {
        let kind = match (role.is_stream(), self.method) {
            (false, CheckMethod::ResponsePort { long }) => {
                RequestKind::ResponsePortOf { socket: self.requester.id, port: self.requester_port, long }
            }
            (true, _) | (false, CheckMethod::SendAgain) => RequestKind::Binding,
        };
        let (to, round) = (self.session.server(), self.session.round());
        self.send(socket, Request { purpose: role.purpose(), to, kind, round }).await;
    }
}

/// Sockets that earlier measurements used for plain Binding requests only, and when their mappings can be made streams.
pub(super) fn reusable(log: &ObservationLog, now: Duration) -> Vec<(SocketId, Duration)> {
    let mut first_answer: BTreeMap<SocketId, Option<Duration>> = BTreeMap::new();
    let is_plain = |t: &Transaction| t.kind == RequestKind::Binding && t.to == log.server;
    for transaction in log.transactions.iter().filter(|t| t.purpose != PURPOSE) {
        let is_mapped = log.mapped(transaction.socket, transaction.to).is_some();
        let answered = transaction.direct().map(|a| a.at).filter(|_| is_plain(transaction) && is_mapped);
        let entry = first_answer.entry(transaction.socket).or_insert(answered);
        *entry = entry.zip(answered).map(|(a, b)| a.min(b));
    }
    let due = |(socket, at): (SocketId, Option<Duration>)| Some((socket, at? + STREAM_AFTER));
    let due = first_answer.into_iter().filter_map(due);
    let mut list: Vec<_> = due.filter(|(_, due)| *due + REUSE_WITHIN > now).collect();
    list.sort_by_key(|(_, due)| *due);
    list
}
