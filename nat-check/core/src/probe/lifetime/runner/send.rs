//! Sends checks and control requests, within the packet budget.

use std::{net::SocketAddr, time::Duration};

use super::{Checks, Runner, WakeUp};
use crate::{
    observation::{ObservationLog, RequestKind, SocketId},
    probe::lifetime::{CheckMethod, PURPOSE, constants::TOGETHER, observe::SEND_AGAIN},
    session::{Request, Socket},
};

impl Runner {
    /// Sends each check, as far as there are packets left, with a control request beside where silence is to count.
    /// Returns whether all of them were sent.
    pub(super) async fn send_checks(&mut self, checks: &Checks, now: Duration, wake_up: &mut WakeUp) -> bool {
        if checks.of.is_empty() {
            return true;
        }
        let control = usize::from(checks.need_control);
        let available = self.budget.available(now);
        // Those of one instant are worth more than as many one by one, each with a control request of its own.
        let together = checks.of.len().min(TOGETHER) + control;
        if available < together {
            wake_up.add(self.budget.available_at(together));
            return false;
        }
        let some = checks.of.len().min(available - control);
        let round = self.session.round();
        for (n, &socket) in checks.of[..some].iter().enumerate() {
            self.check(socket, round).await;
            *self.checks.entry(socket).or_default() += 1;
            // In the middle it stands best for what is sent before and after it; after a single one, as it tells how late that
            // was.
            if control > 0 && n == (some - 1) / 2 {
                self.control(round).await;
            }
        }
        wake_up.add(now + self.session.response_timeout());
        if some < checks.of.len() {
            wake_up.add(self.budget.available_at(1 + control));
        }
        some == checks.of.len()
    }

    /// Sends one check of a mapping.
    pub(super) async fn check(&mut self, socket: SocketId, round: u32) {
        let to = self.session.server();
        match self.method {
            CheckMethod::ResponsePort { long } => {
                let external = self.session.read(|log| external(log, socket));
                let Some(external) = external else { return };
                let kind = RequestKind::ResponsePortOf { socket, port: external.port(), long };
                let requester = self.requester.clone();
                self.send(&requester, Request { purpose: PURPOSE, to, kind, round }).await;
            }
            CheckMethod::SendAgain => {
                let Some(own) = self.sockets.get(&socket).cloned() else { return };
                let kind = RequestKind::Binding;
                self.send(&own, Request { purpose: SEND_AGAIN, to, kind, round }).await;
            }
        }
    }

    /// Sends a control request, whose response shows that packets get through just now.
    pub(super) async fn control(&mut self, round: u32) {
        let (to, requester) = (self.session.server(), self.requester.clone());
        self.send(&requester, Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round }).await;
    }

    pub(super) async fn send(&mut self, socket: &Socket, request: Request) {
        self.budget.spend(1);
        self.session.send(socket, request).await;
    }
}

/// The external endpoint of a socket, as the first response to it shows.
fn external(log: &ObservationLog, socket: SocketId) -> Option<SocketAddr> {
    let own = log.transactions.iter().filter(|t| t.socket == socket);
    own.filter_map(|t| t.successes().find(|a| a.from == log.server)?.mapped()).next()
}
