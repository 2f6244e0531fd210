//! First contact: does the server answer over UDP, in which dialect, and if not, over TCP? Not a measurement that
//! can be chosen: every other one builds on it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::stun::Dialect;
use tokio::time::timeout;

use crate::{
    observation::{ObservationLog, Purpose, RequestKind, Transaction},
    report::TcpReport,
    session::{Contact, Request, Session, Socket},
    stun_over_tcp,
};

/// What its requests are sent for, in the log.
pub const PURPOSE: Purpose = Purpose::main("contact");

/// While nothing is answered, requests leave this often; later only so often, until TCP is connected.
const INTERVAL: Duration = Duration::from_millis(100);
const LATE_INTERVAL: Duration = Duration::from_millis(250);
/// From here on classic requests are sent too, and TCP is tried.
const IMPATIENT: Duration = Duration::from_millis(250);
/// UDP is not called dead before; requests are rarer from here on.
const UDP_DEAD: Duration = Duration::from_millis(2200);
/// Requests that must have gone unanswered by then: bursts of loss are shorter.
const UDP_DEAD_REQUESTS: usize = 40;
/// What must have gone unanswered after TCP was connected: before, nothing at all may have passed, as on a line that
/// has yet to wake up.
const DEAD_BESIDE_TCP: Duration = Duration::from_millis(1500);
const DEAD_BESIDE_TCP_REQUESTS: usize = 16;
/// TCP is given up after this. Systems send their SYN again after 1 and 3 s.
const TCP_DEAD: Duration = Duration::from_secs(5);
/// How long an answer over UDP may take beyond the TCP handshake, which may have waited for its own retransmission.
const LONGEST_WAY: Duration = Duration::from_secs(2);

/// Asks until something answers, or until it is clear that nothing will. The TCP report is made only when UDP is
/// silent.
pub async fn establish(session: Arc<Session>, limit: Duration) -> Option<TcpReport> {
    let Ok(socket) = session.open().await else {
        session.declare(Contact::None);
        return None;
    };
    session.retained_sockets(|retained| retained.contact = Some(socket.clone()));
    let tcp = async {
        tokio::time::sleep(IMPATIENT).await;
        timeout(TCP_DEAD.min(limit).saturating_sub(session.now()), ask_tcp(&session)).await.ok().flatten()
    };
    tokio::pin!(tcp);
    let mut report: Option<TcpReport> = None;
    loop {
        let had_classic = session.read(ObservationLog::dialect) == Some(Dialect::Classic);
        ask_udp(&session, &socket).await;
        let next = session.now() + if is_late(&session) { LATE_INTERVAL } else { INTERVAL };
        loop {
            tokio::select! {
                biased;
                contact = session.contact() => return report.filter(|_| contact == Contact::None),
                external = &mut tcp, if report.is_none() => {
                    let (reachable, external) = (external.is_some(), external.into_iter().collect());
                    report = Some(TcpReport { reachable, external, ..TcpReport::default() });
                }
                () = tokio::time::sleep_until(session.instant(next)) => break,
            }
        }
        // A modern answer may have been late; after another interval it is not.
        if had_classic {
            session.declare(Contact::Udp(Dialect::Classic));
        }
        let over = report.as_ref().is_some_and(|tcp| {
            let now = session.now();
            now >= limit
                || session.read(|log| if tcp.reachable { is_udp_dead(log, now) } else { is_silent(log, now) })
        });
        if over {
            session.declare(Contact::None);
        }
        tokio::select! {
            biased;
            contact = session.contact() => return report.filter(|_| contact == Contact::None),
            () = std::future::ready(()) => {}
        }
    }
}

/// Whether it is known that no UDP passes, though something else does: enough requests stayed unanswered after TCP had
/// connected.
pub(crate) fn is_udp_dead(log: &ObservationLog, now: Duration) -> bool {
    let Some(connected) = log.connected else { return false };
    let way = log.handshake.map_or(LONGEST_WAY, |way| (way * 2).min(LONGEST_WAY));
    let beside = requests(log).filter(|t| t.sent >= connected && t.sent + way <= now).count();
    is_silent(log, now) && now >= connected + DEAD_BESIDE_TCP && beside >= DEAD_BESIDE_TCP_REQUESTS
}

/// Whether nothing has come over UDP for so long that waiting is of no more use.
fn is_silent(log: &ObservationLog, now: Duration) -> bool {
    log.dialect().is_none() && now >= UDP_DEAD && requests(log).count() >= UDP_DEAD_REQUESTS
}

fn requests(log: &ObservationLog) -> impl Iterator<Item = &Transaction> {
    log.of(PURPOSE).filter(|t| !t.unsent)
}

/// Whether the first haste is over, and TCP has yet to show that the line is up.
fn is_late(session: &Session) -> bool {
    session.now() >= UDP_DEAD && session.read(|log| log.connected.is_none())
}

/// Asks over UDP: in the modern dialect first, in both once that took long.
async fn ask_udp(session: &Session, socket: &Socket) {
    let impatient = session.now() >= IMPATIENT;
    for dialect in if impatient { &[Dialect::Modern, Dialect::Classic][..] } else { &[Dialect::Modern] } {
        let (to, round) = (session.server(), session.round());
        let request = Request { purpose: PURPOSE, to, kind: RequestKind::Binding, round };
        session.send_as(socket, request, *dialect).await;
    }
}

/// A Binding request over TCP (RFC 8489 section 6.2.2): the external endpoint, if anything sensible comes back.
async fn ask_tcp(session: &Session) -> Option<SocketAddr> {
    let (server, begun) = (session.server(), session.now());
    let mut stream =
        session.net().connect(Some(SocketAddr::new(session.local_ip(), 0)), server).await.ok()?;
    // Systems answer a handshake at once: it shows the way without the server's own delay.
    session.shook_hands(session.now() - begun);
    let id = session.transaction_id().ok()?;
    stun_over_tcp::binding(&mut *stream, id).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::made;

    /// A run in which a request left every 50 ms for so long, none answered, and TCP connected at some time.
    fn run(connected: u64, ended: u64) -> ObservationLog {
        let mut log = made::log();
        let socket = made::socket(&mut log, "192.168.1.2:40000");
        for sent in (0..ended).step_by(50).map(Duration::from_millis) {
            let request = made::transaction(PURPOSE, socket, log.server, RequestKind::Binding);
            log.transactions.push(Transaction { sent, ..request });
        }
        log.handshake = Some(Duration::from_millis(20));
        log.connected = Some(Duration::from_millis(connected));
        log
    }

    #[test]
    fn udp_is_dead_only_if_it_stays_silent_after_tcp_has_connected() {
        let dead = |connected, ended| is_udp_dead(&run(connected, ended), Duration::from_millis(ended));
        assert!(dead(270, 2200));
        assert!(!dead(270, 2100), "too short");
        assert!(!dead(3270, 3300) && !dead(3270, 4700), "the line has only just come up");
        assert!(dead(3270, 4800));
        let mut log = run(270, 2200);
        log.transactions.iter_mut().skip(10).for_each(|t| t.unsent = true);
        assert!(!is_udp_dead(&log, Duration::from_secs(3)), "what was not sent cannot be answered");
    }
}
