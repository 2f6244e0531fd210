//! Whether the NAT gives this host no more mappings, read off the log: sockets that were opened late hear nothing at all,
//! while older ones are answered. That is neither loss nor a silent server.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    loss_test::LossCounts,
    observation::{ObservationLog, RequestKind, SocketId, Transaction},
    report::{Reason, ReasonCode},
};

/// Fewer deaf sockets may each have an external port that the server does not talk to.
const FEWEST_DEAF: usize = 3;

/// The sockets that got no mapping any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MappingLimit {
    deaf: BTreeSet<SocketId>,
    /// Sockets that were answered.
    heard: usize,
}

impl MappingLimit {
    /// What shows of one in what was sent until `until`.
    pub(crate) fn seen(log: &ObservationLog, until: Duration) -> Option<Self> {
        // Requests that an endpoint which answers others has to answer, in the dialect that it speaks.
        let (dialect, receipts) = (log.dialect()?, log.gives_receipts());
        let alive =
            log.transactions.iter().filter(|t| t.direct().is_some()).map(|t| t.to).collect::<BTreeSet<_>>();
        let asked = || {
            let control = |t: &&Transaction| t.kind == RequestKind::Binding || receipts && t.wants_receipt;
            let asked = log.transactions.iter().filter(control).filter(|t| !t.unsent);
            asked.filter(|t| {
                (t.sent <= until || t.returned()) && t.dialect == dialect && alive.contains(&t.to)
            })
        };
        // When each socket first asked, and whether it ever heard anything.
        let mut sockets = BTreeMap::<SocketId, (Duration, bool)>::new();
        for transaction in asked() {
            let socket = sockets.entry(transaction.socket).or_insert((transaction.sent, false));
            socket.1 |= transaction.first_reaction().is_some();
        }
        let heard = || sockets.values().filter(|(_, heard)| *heard);
        let last_mapped = heard().map(|(first, _)| *first).max()?;
        let deaf: BTreeSet<SocketId> =
            sockets.iter().filter(|(_, s)| !s.1 && s.0 >= last_mapped).map(|(id, _)| *id).collect();
        if deaf.len() < FEWEST_DEAF {
            return None;
        }
        let since = deaf.iter().filter_map(|id| sockets.get(id)).map(|(first, _)| *first).min()?;
        let old = |t: &&Transaction| !deaf.contains(&t.socket);
        let answered_since = asked().filter(old).any(|t| t.sent >= since && t.returned());
        let silence = LossCounts {
            silent: asked().filter(|t| deaf.contains(&t.socket)).count() as u32,
            controls_sent: asked().filter(old).count() as u32,
            controls_answered: asked().filter(old).filter(|t| t.returned()).count() as u32,
            ..LossCounts::default()
        };
        (answered_since && silence.is_filtered()).then(|| Self { heard: heard().count(), deaf })
    }

    /// Whether this socket got no mapping.
    pub(crate) fn concerns(&self, socket: SocketId) -> bool {
        self.deaf.contains(&socket)
    }

    /// What to say of it.
    pub(crate) fn reason(&self) -> Reason {
        let text = format!(
            "the NAT gives this host no more mappings: {} sockets were answered, {} later ones were not, while older \
             ones still are",
            self.heard,
            self.deaf.len()
        );
        (ReasonCode::MappingLimit, text).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        observation::{Purpose, made},
        server_endpoints::ServerEndpoint,
    };

    /// A run in which `heard` sockets were answered and `deaf` later ones asked twice in vain; at the end the first one
    /// asks again.
    fn run(heard: usize, deaf: usize, still_answered: bool) -> ObservationLog {
        let mut log = made::log();
        let purpose = Purpose::main("any");
        for number in 0..heard + deaf {
            let socket = made::socket(&mut log, &format!("192.168.1.2:{}", 40_000 + number));
            let sent = Duration::from_millis(number as u64);
            let request = || match number < heard {
                true => made::answered(purpose, socket, ServerEndpoint::PRIMARY, "203.0.113.1:5"),
                false => made::transaction(
                    purpose,
                    socket,
                    made::address_of(ServerEndpoint::PRIMARY),
                    RequestKind::Binding,
                ),
            };
            log.transactions.extend([request(), request()].map(|t| Transaction { sent, ..t }));
        }
        let mut again = made::answered(purpose, SocketId(0), ServerEndpoint::PRIMARY, "203.0.113.1:5");
        again.sent = Duration::from_millis(500);
        if !still_answered {
            again.responses.clear();
        }
        log.transactions.push(again);
        log
    }

    #[test]
    fn late_sockets_that_hear_nothing_show_a_limit() {
        let seen = |log: &ObservationLog| MappingLimit::seen(log, Duration::MAX);
        let limit = seen(&run(16, 5, true)).unwrap();
        assert!(limit.concerns(SocketId(16)) && !limit.concerns(SocketId(15)));
        assert!(limit.reason().text.contains("16 sockets were answered, 5 later ones were not"));
        assert_eq!(seen(&run(16, 2, true)), None, "too few");
        assert_eq!(seen(&run(16, 5, false)), None, "nobody is answered any more");
        assert_eq!(seen(&run(16, 0, true)), None);
        let mut log = run(16, 5, true);
        log.transactions.iter_mut().take(24).for_each(|t| t.responses.clear());
        assert_eq!(seen(&log), None, "a line that loses as much");
    }
}
