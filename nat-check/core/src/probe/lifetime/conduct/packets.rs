//! What the conductor sends: looks, controls, and what makes mappings what they are to be.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{Agenda, Conductor, Looks};
use crate::{
    observation::{ObservationLog, RequestKind, SocketId, Transaction},
    probe::lifetime::{
        PURPOSE, Way,
        observe::{AGAIN, Role, STREAM_AFTER, Seen, State},
    },
    session::{Request, Socket},
};

/// Tries to make one mapping.
const TRIES: usize = 4;
/// Looks that are worth waiting for, to send them at once.
const TOGETHER: usize = 6;
/// A mapping that was left alone for longer may have ended.
const LATE: Duration = Duration::from_millis(300);

impl Conductor {
    /// Looks once at each, as far as there are packets left, with a control beside where silence is to count. Tells
    /// whether there were.
    pub(super) async fn look_at(&mut self, looks: &Looks, now: Duration, agenda: &mut Agenda) -> bool {
        if looks.at.is_empty() {
            return true;
        }
        let vouch = usize::from(looks.vouch);
        let ready = self.pace.ready(now);
        // Those of one instant are worth more than as many one by one, each with a control of its own.
        let together = looks.at.len().min(TOGETHER) + vouch;
        if ready < together {
            agenda.add(self.pace.when(together));
            return false;
        }
        let some = looks.at.len().min(ready - vouch);
        let round = self.session.round();
        for (n, &socket) in looks.at[..some].iter().enumerate() {
            // In the middle it vouches best for what is before and after it.
            if vouch > 0 && n == some / 2 {
                self.control(round).await;
            }
            self.look(socket, round).await;
            *self.judged.entry(socket).or_default() += 1;
        }
        agenda.add(now + self.session.response_timeout());
        if some < looks.at.len() {
            agenda.add(self.pace.when(1 + vouch));
        }
        some == looks.at.len()
    }

    /// Makes streams of mappings that earlier measurements left: that takes one packet instead of two.
    pub(super) async fn adopt(&mut self, now: Duration, agenda: &mut Agenda) {
        while let Some(&(id, due)) = self.adopted.first() {
            if due > now {
                return agenda.add(due);
            }
            if self.pace.ready(now) == 0 {
                return agenda.add(self.pace.when(1));
            }
            self.adopted.remove(0);
            if now < due + LATE
                && let Some(socket) = self.session.socket(id)
            {
                self.push(&socket, Role::Stream).await;
                self.sockets.insert(id, socket);
            }
        }
    }

    /// Brings new mappings into the state in which they are to be.
    pub(super) async fn make(
        &mut self,
        seen: &Seen,
        now: Duration,
        response_timeout: Duration,
        agenda: &mut Agenda,
    ) {
        for flow in seen.flows.iter().filter(|f| f.state == State::Untouched && f.last.is_none()) {
            let tries = if flow.role.is_stream() { TRIES * 2 } else { TRIES };
            let wanted = match flow.role {
                Role::Unreplied => self.unreplied.wants_teeth(),
                Role::Stream => self.stream.wants_teeth(),
                Role::Outbound | Role::Inbound | Role::Elsewhere => true,
            };
            if flow.made.0 >= tries || !wanted {
                continue;
            }
            let due = match flow.answered {
                // What was sent before that does not make a stream.
                Some(first) if flow.pushed < first + STREAM_AFTER => first + STREAM_AFTER,
                Some(_) | None => flow.pushed + response_timeout,
            };
            if due > now {
                agenda.add(due);
            } else if self.pace.ready(now) == 0 {
                return agenda.add(self.pace.when(1));
            } else if let Some(socket) = self.sockets.get(&flow.socket).cloned() {
                self.push(&socket, flow.role).await;
                agenda.add(now + response_timeout);
            }
        }
    }

    /// Sends a packet that makes or keeps a mapping of this role.
    pub(super) async fn push(&mut self, socket: &Socket, role: Role) {
        let kind = match (role.is_stream(), self.way) {
            (false, Way::Reach { long }) => {
                RequestKind::ResponsePortOf { socket: self.asker.id, port: self.asker_port, long }
            }
            (true, _) | (false, Way::Again) => RequestKind::Binding,
        };
        let (to, round) = (self.session.server(), self.session.round());
        self.send(socket, Request { purpose: role.purpose(), to, kind, round }).await;
    }

    /// One look at a mapping.
    pub(super) async fn look(&mut self, socket: SocketId, round: u32) {
        let to = self.session.server();
        match self.way {
            Way::Reach { long } => {
                let outside = self.session.read(|log| outside(log, socket));
                let Some(outside) = outside else { return };
                let kind = RequestKind::ResponsePortOf { socket, port: outside.port(), long };
                let asker = self.asker.clone();
                self.send(&asker, Request { purpose: PURPOSE, to, kind, round }).await;
            }
            Way::Again => {
                let Some(own) = self.sockets.get(&socket).cloned() else { return };
                self.send(&own, Request { purpose: AGAIN, to, kind: RequestKind::Binding, round }).await;
            }
        }
    }

    /// A request whose answer shows that the way to the server and back is open just now.
    pub(super) async fn control(&mut self, round: u32) {
        let (to, asker) = (self.session.server(), self.asker.clone());
        self.send(&asker, Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round }).await;
    }

    pub(super) async fn send(&mut self, socket: &Socket, request: Request) {
        self.pace.spend(1);
        self.session.send(socket, request).await;
    }
}

/// Sockets that have done nothing but ask the server plainly, and when their mappings can be made streams.
pub(super) fn adoptable(log: &ObservationLog, now: Duration) -> Vec<(SocketId, Duration)> {
    let mut first: BTreeMap<SocketId, Option<Duration>> = BTreeMap::new();
    let mapped = |t: &Transaction| t.kind == RequestKind::Binding && t.to == log.server;
    for transaction in log.transactions.iter().filter(|t| t.purpose != PURPOSE) {
        let answered = transaction
            .direct()
            .map(|a| a.at)
            .filter(|_| mapped(transaction) && log.mapped(transaction.socket, transaction.to).is_some());
        let entry = first.entry(transaction.socket).or_insert(answered);
        *entry = entry.zip(answered).map(|(a, b)| a.min(b));
    }
    let due = |(socket, at): (SocketId, Option<Duration>)| Some((socket, at? + STREAM_AFTER));
    let mut list: Vec<_> = first.into_iter().filter_map(due).filter(|(_, due)| *due + LATE > now).collect();
    list.sort_by_key(|(_, due)| *due);
    list
}

/// The external endpoint of a socket, as the first answer to it shows.
fn outside(log: &ObservationLog, socket: SocketId) -> Option<SocketAddr> {
    let own = log.transactions.iter().filter(|t| t.socket == socket);
    own.filter_map(|t| t.successes().find(|a| a.from == log.server)?.mapped()).next()
}
