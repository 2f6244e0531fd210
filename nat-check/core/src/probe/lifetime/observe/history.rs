//! From the requests and checks of one mapping to its history. Pure.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use super::{MappingHistory, MappingState, Role, TimeRange, Timeouts};
use crate::{
    observation::{RequestKind, Response, SocketId, Transaction},
    probe::lifetime::constants::STREAM_AFTER,
};

impl MappingHistory {
    /// What the requests that set it up show.
    pub(in crate::probe::lifetime) fn set_up(
        role: Role,
        socket: SocketId,
        requests: &[&Transaction],
        timeouts: Timeouts,
    ) -> Self {
        let answers = || requests.iter().filter_map(|t| Some((*t, t.successes().find(|a| a.from == t.to)?)));
        let first_sent = requests.iter().map(|t| t.sent).min().unwrap_or_default();
        let first_answer = answers().map(|(_, a)| a.at).min();
        let mut external: Vec<SocketAddr> = answers().filter_map(|(_, a)| a.mapped()).collect();
        external.dedup();
        // What was sent last and not answered may have passed the NAT all the same.
        let unanswered = requests.iter().filter(|t| t.responses.is_empty());
        let lost = unanswered.map(|t| t.sent + timeouts.response_timeout).max();
        let earliest = if role.is_stream() {
            let promotes = |t: &Transaction| first_answer.is_some_and(|first| t.sent >= first + STREAM_AFTER);
            answers().filter(|(t, _)| promotes(t)).map(|(t, _)| t.sent).max()
        } else {
            // Where outbound packets do not refresh a mapping, its timer runs since the first.
            first_answer.map(|_| first_sent)
        };
        let latest = answers().map(|(_, a)| a.at).max().max(lost);
        let last_answered = answers().max_by_key(|(t, _)| t.sent);
        Self {
            role,
            socket,
            requests: requests.len(),
            answered: answers().count(),
            first_sent,
            last_sent: requests.iter().map(|t| t.sent).max().unwrap_or_default(),
            first_answer,
            external: external.first().copied().filter(|_| external.len() == 1),
            created: TimeRange { earliest: first_sent, latest: first_answer.unwrap_or(first_sent) },
            last_answered: last_answered.map(|(t, a)| TimeRange { earliest: t.sent, latest: a.at }),
            last_used: earliest.zip(latest).map(|(earliest, latest)| TimeRange { earliest, latest }),
            state: MappingState::Unchecked,
            checked_at: TimeRange { earliest: Duration::ZERO, latest: Duration::ZERO },
            checks: 0,
            last_check: None,
            pending: 0,
            unanswered: 0,
            last_alive: None,
        }
    }

    /// Adds what checks show.
    pub(super) fn read_checks(
        &mut self,
        checks: &[&Transaction],
        answered_rounds: &BTreeMap<u32, Duration>,
        needed: Option<u32>,
        timeouts: Timeouts,
    ) {
        self.checks = checks.len();
        self.last_check = checks.last().map(|t| t.sent);
        let (Some(first), Some(last_used)) = (checks.first(), self.last_used) else { return };
        self.state = MappingState::Silent;
        self.checked_at = TimeRange { earliest: first.sent, latest: first.sent };
        self.last_alive = checks.iter().filter_map(|t| self.when(Shows::Alive, t)).max();
        let last_found = checks.iter().rposition(|t| self.when(Shows::Alive, t).is_some());
        let is_checked_all_the_time = self.role == Role::Inbound;
        if let Some(at) = last_found {
            // Whatever the first check refreshed, the mapping existed when it came.
            let earliest = if is_checked_all_the_time { checks[at].sent } else { first.sent };
            let latest = self.when(Shows::Alive, checks[at]).unwrap_or(earliest);
            self.state = MappingState::Alive(earliest.saturating_sub(last_used.latest));
            self.checked_at = TimeRange { earliest, latest };
            if !is_checked_all_the_time {
                return;
            }
        }
        // Where it is checked all the time, checks after the last one that was answered may show that it has expired.
        let recent = &checks[last_found.map_or(0, |at| at + 1)..];
        let timed_out = |t: &&&Transaction| t.responses.is_empty() && t.sent <= timeouts.sent_until;
        let silent = |t: &&&Transaction| timed_out(t) && answered_rounds.contains_key(&t.round);
        self.checks = recent.len();
        self.pending =
            recent.iter().filter(|t| t.responses.is_empty() && t.sent > timeouts.sent_until).count();
        self.unanswered = recent.iter().filter(silent).count();
        let decisive = needed.and_then(|needed| recent.iter().filter(silent).nth(needed as usize - 1));
        let reassigned = checks.iter().find_map(|t| self.when(Shows::Reassigned, t));
        // Where the server is late, it has sent the response to the check that late, too.
        let late = |t: &Transaction| answered_rounds.get(&t.round).copied().unwrap_or_default();
        let silent_until = decisive.map(|t| (t.sent + timeouts.response_timeout).max(late(t)));
        if let Some(end) = silent_until.into_iter().chain(reassigned).min() {
            self.state = MappingState::Expired(end.saturating_sub(last_used.earliest));
            let begin = recent.first().map_or(end, |t| t.sent);
            self.checked_at = TimeRange { earliest: begin.min(end), latest: end };
        }
    }

    /// When a response to a check first showed this.
    fn when(&self, what: Shows, check: &Transaction) -> Option<Duration> {
        check.successes().filter(|a| self.shows(check, a) == Some(what)).map(|a| a.at).min()
    }

    fn shows(&self, check: &Transaction, answer: &Response) -> Option<Shows> {
        let is_same = match check.kind {
            RequestKind::Binding => Some(answer.mapped()?) == self.external,
            RequestKind::ResponsePortOf { .. } if answer.on == self.socket => true,
            // A response to the requester itself means that the server ignored RESPONSE-PORT.
            RequestKind::ResponsePortOf { .. } if answer.on == check.socket => return None,
            RequestKind::ResponsePortOf { .. } => false,
            RequestKind::ChangeRequest(_)
            | RequestKind::ResponsePort { .. }
            | RequestKind::ToMappedPort { .. }
            | RequestKind::Hairpin
            | RequestKind::LimitedTtl { .. } => return None,
        };
        Some(if is_same { Shows::Alive } else { Shows::Reassigned })
    }
}

/// What a response to a check shows of the mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shows {
    /// It came through the mapping.
    Alive,
    /// The external port is another mapping's now, or the socket has another external port.
    Reassigned,
}
