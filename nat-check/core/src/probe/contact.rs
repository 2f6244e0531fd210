//! First contact: does the server answer over UDP, in which dialect, and if not, over TCP? Not a measurement that
//! can be chosen: every other one builds on it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use shared::stun::Dialect;
use tokio::time::timeout;

use crate::{
    observation::{ObservationLog, Purpose, RequestKind},
    report::TcpReport,
    session::{Contact, Request, Session, Socket},
    stun_over_tcp,
};

/// What its requests are sent for, in the log.
pub const PURPOSE: Purpose = Purpose::main("contact");

/// While nothing is answered, a request leaves this often.
const INTERVAL: Duration = Duration::from_millis(100);
/// From here on classic requests are sent too, and TCP is tried.
const IMPATIENT: Duration = Duration::from_millis(250);
/// UDP is called dead after this much silence; longer, if TCP turns out to be slow.
const UDP_DEAD: Duration = Duration::from_millis(2200);
/// Requests that must have gone unanswered by then: bursts of loss are shorter.
const UDP_DEAD_REQUESTS: usize = 40;
/// TCP is given up after this.
const TCP_DEAD: Duration = Duration::from_secs(4);

/// Asks until something answers, or until it is clear that nothing will. The TCP report is made only when UDP is
/// silent.
pub async fn establish(session: Arc<Session>, limit: Duration) -> Option<TcpReport> {
    let Ok(socket) = session.open().await else {
        session.declare(Contact::None);
        return None;
    };
    session.retained_sockets(|retained| retained.contact = Some(socket.clone()));
    let udp = async {
        if let Some(answer) = probe_udp(&session, &socket, limit).await {
            session.declare(answer);
        }
    };
    let tcp = async {
        tokio::time::sleep(IMPATIENT).await;
        let limit = TCP_DEAD.min(limit.saturating_sub(session.now()));
        let external = timeout(limit, ask_tcp(&session)).await.ok().flatten();
        (external, session.now())
    };
    tokio::pin!(tcp);
    let mut tcp_report = None;
    tokio::pin!(udp);
    let mut udp_done = false;
    loop {
        tokio::select! {
            biased;
            contact = session.contact() => {
                if contact != Contact::None {
                    return None;
                }
                break;
            }
            () = &mut udp, if !udp_done => udp_done = true,
            (external, _) = &mut tcp, if tcp_report.is_none() => {
                tcp_report = Some(TcpReport { reachable: external.is_some(), external });
            }
        }
        // UDP is declared dead only beside a verdict on TCP, so that a slow path gets its time.
        if udp_done && tcp_report.is_some() {
            session.declare(Contact::None);
        }
    }
    tcp_report.or(Some(TcpReport { reachable: false, external: None }))
}

/// Knocks on UDP until contact is made, or until it is clear that there will be none.
async fn probe_udp(session: &Arc<Session>, socket: &Socket, limit: Duration) -> Option<Contact> {
    let server = session.server();
    let mut sent = 0;
    let end = UDP_DEAD.min(limit);
    while session.now() < end || (sent < UDP_DEAD_REQUESTS && session.now() < limit) {
        let impatient = session.now() >= IMPATIENT;
        for dialect in if impatient { &[Dialect::Modern, Dialect::Classic][..] } else { &[Dialect::Modern] } {
            let request =
                Request { purpose: PURPOSE, to: server, kind: RequestKind::Binding, round: session.round() };
            session.send_as(socket, request, *dialect).await;
            sent += 1;
        }
        let before = session.read(ObservationLog::dialect);
        let wait = session.now() + INTERVAL;
        if session.until(wait, |log| log.dialect() == Some(Dialect::Modern)).await {
            return Some(Contact::Udp(Dialect::Modern));
        }
        if before == Some(Dialect::Classic) {
            return Some(Contact::Udp(Dialect::Classic));
        }
    }
    None
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
