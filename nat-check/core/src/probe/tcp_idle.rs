//! How long a connection lives on which nobody says anything (RFC 5382 REQ-5). Many connections are idle for different times,
//! and each is looked at once: the server speaks first, since a packet from inside would bring a connection back that the NAT
//! has forgotten. It runs only when it is asked for.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{measured::Transport, tcp, tcp_calls::why_no_calls};
use crate::{
    net::Stream,
    observation::{
        ObservationLog, Purpose,
        call::TestSessionState,
        idle::{IdleConnection, IdleOutcome},
    },
    probe::{Found, Measured, Merge, Probe, Slot, Stage, Step, slot},
    report::{Confidence, Finding, ReasonCode, TcpIdle, number},
    session::{Session, TestSession},
};

/// What its connections are for, in the log.
pub(crate) const PURPOSE: Purpose = Purpose::main("tcp-idle");

/// The measurement.
pub const PROBE: Probe = Probe {
    name: PURPOSE.measurement,
    about: "how long an idle TCP connection lives",
    needs: &["tcp-mapping"],
    steps: &[Step { stage: Stage::TcpIdle, run: |session| Box::pin(run(session)) }],
    udp: &[],
    tcp: &[Slot::of::<Idle>()],
    server: &[],
};

/// What it finds out.
struct Idle;

impl Measured for Idle {
    type Value = TcpIdle;
    const KEY: &'static str = "idle";
    const LABEL: &'static str = "TCP idle time";
    const LINE_KEY: Option<&'static str> = None;
    const TRANSPORT: Transport = Transport::Tcp;
    slot!(tcp.idle);

    fn conclude(log: &ObservationLog, _: &Found) -> Finding<TcpIdle> {
        conclude(log)
    }

    // Measured with one server only, as a rule.
    fn merge(merge: Merge<'_>, mine: &mut Finding<TcpIdle>, other: &Finding<TcpIdle>) {
        merge.surest(mine, other);
    }

    fn text(value: &TcpIdle) -> String {
        let alive = number(value.alive_s);
        let Some(expired) = value.expired_s else {
            return format!("an idle connection is alive after {alive} s");
        };
        let revived = match value.revived_by_inside {
            Some(true) => "; traffic from inside brings it back",
            Some(false) => "; nothing brings it back",
            None => "",
        };
        format!("an idle connection expires after {alive} to {} s{revived}", number(expired))
    }
}

const METHOD: &str = "RFC 5382 REQ-5, idle connections on which the server speaks first";
/// The shortest idle time, and each next one: by so much longer. A timer is then between two of them that are close.
const SHORTEST: Duration = Duration::from_secs(10);
const FACTOR: f64 = 1.13;
const STEP: Duration = Duration::from_secs(3);
/// Connections that are idle at the same time: as many as the server holds for one host.
const AT_ONCE: usize = 16;
/// Between opening two.
const SPACING: Duration = Duration::from_millis(50);
/// How long what the server says may take: TCP sends it again after 0.2, 0.6, 1.4 and 3 s.
const ARRIVES: Duration = Duration::from_millis(3500);
/// How long what revives a connection is waited for: the server sends again 6.2 s after it spoke.
const REVIVES: Duration = Duration::from_secs(4);
/// How long the server may take to answer in its session.
const ANSWER: Duration = Duration::from_secs(3);
/// The session's own connection must not be idle.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long the measurement takes at the most.
#[must_use]
pub fn longest(idle: Duration) -> Duration {
    idle.mul_f64(1.2) + Duration::from_secs(30)
}

/// The idle times up to the longest.
fn idle_times(longest: Duration) -> Vec<Duration> {
    let mut times = Vec::new();
    let mut next = SHORTEST;
    while next < longest {
        times.push(next);
        next = tenths(next.mul_f64(FACTOR) + STEP);
    }
    times.push(longest);
    times
}

/// Cut to tenths of a second, which is as exact as the report is to be.
fn tenths(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis() / 100 * 100).unwrap_or(u64::MAX))
}

async fn run(session: Arc<Session>) {
    let Some(longest) = session.tcp_idle() else { return };
    // What is measured beside it must not be disturbed by the connections.
    session.others_allowed().await;
    let Some(test) = session.test_session().await else { return };
    let longest = longest.min(Duration::from_millis(test.welcome.hold_ms.into()));
    if longest.is_zero() {
        return;
    }
    let mut waiting = idle_times(longest).into_iter();
    let mut idle = JoinSet::new();
    let pings = async {
        loop {
            sleep(PING_INTERVAL).await;
            test.ping();
        }
    };
    let looks = async {
        for time in waiting.by_ref().take(AT_ONCE) {
            idle.spawn(look(Arc::clone(&session), Arc::clone(&test), time));
            sleep(SPACING).await;
        }
        while idle.join_next().await.is_some() && !session.read(is_decided) {
            if let Some(time) = waiting.next() {
                idle.spawn(look(Arc::clone(&session), Arc::clone(&test), time));
            }
        }
    };
    tokio::select! {
        () = looks => {}
        () = pings => {}
    }
}

/// So many have to be silent, one after the other: what is silent alone may have met an outage.
const ENOUGH: usize = 2;

/// Whether enough have expired, and all that were idle for less have been looked at.
fn is_decided(log: &ObservationLog) -> bool {
    let idle = &log.tcp.idle;
    let expired = expired(log).nth(ENOUGH - 1).map(|it| it.idle);
    expired.is_some_and(|expired| idle.iter().all(|it| it.idle >= expired || it.outcome.is_some()))
}

/// Connections that had expired, the shortest idle time first. What was silent before one that lived longer was something else.
fn expired(log: &ObservationLog) -> impl Iterator<Item = &IdleConnection> {
    let alive = log.tcp.idle.iter().filter(|it| it.is_alive()).map(|it| it.idle).max().unwrap_or_default();
    let mut expired: Vec<_> = log.tcp.idle.iter().filter(|it| it.is_expired() && it.idle > alive).collect();
    expired.sort_by_key(|it| it.idle);
    expired.into_iter()
}

/// Opens a connection, leaves it idle for so long, and looks.
async fn look(session: Arc<Session>, test: Arc<TestSession>, idle: Duration) {
    let Some(outcome) = opened_and_held(&session, &test, idle).await else { return };
    session.note_tcp(|log| {
        if let Some(entry) = log.idle.iter_mut().find(|entry| entry.idle == idle) {
            entry.outcome = Some(outcome);
        }
    });
}

async fn opened_and_held(session: &Arc<Session>, test: &TestSession, idle: Duration) -> Option<IdleOutcome> {
    let port = session.new_tcp_port().await.ok()?;
    let reached = tcp::reach(session, &*port, PURPOSE, session.server()).await?;
    let (mapped, mut stream) = reached.prove(session, test.welcome.token).await?;
    let connection = timeout(ANSWER, session.proven(mapped)).await.ok()?;
    let nonce = test.hold(session, connection, idle)?;
    session.note_tcp(|log| log.idle.push(IdleConnection { idle, outcome: None }));
    let mut heard = [0; 16];
    // Reading never times out where the connection is ended from outside.
    let has_ended = match timeout(idle + ARRIVES, stream.read_exact(&mut heard)).await {
        Ok(Ok(_)) if heard == nonce => {
            // The echo is for the server's result only.
            _ = stream.write_all(&nonce).await;
            return Some(IdleOutcome::Heard);
        }
        Ok(_) => true,
        Err(_) => false,
    };
    // Neither silence nor an end says anything where the server is gone, or this host's own connection.
    let asked = session.now();
    test.ping();
    timeout(ANSWER, session.until_log(|log| log.tcp.last_pong >= Some(asked))).await.ok()?;
    if has_ended {
        return Some(IdleOutcome::Ended);
    }
    Some(IdleOutcome::Silent { revived: is_revived(&mut *stream, nonce).await })
}

/// Whether a packet from inside brings the connection back: then what the server keeps sending arrives.
async fn is_revived(stream: &mut dyn Stream, nonce: [u8; 16]) -> bool {
    let mut heard = [0; 16];
    let reviving = async {
        stream.write_all(&[0]).await?;
        stream.read_exact(&mut heard).await
    };
    matches!(timeout(REVIVES, reviving).await, Ok(Ok(_))) && heard == nonce
}

fn conclude(log: &ObservationLog) -> Finding<TcpIdle> {
    let idle = &log.tcp.idle;
    if log.tcp.longest_idle.is_none() {
        return Finding::unknown((ReasonCode::NotAskedFor, "not asked for (--tcp-idle)"), METHOD);
    }
    let alive = idle.iter().filter(|it| it.is_alive()).map(|it| it.idle).max();
    let outages = idle.iter().filter(|it| it.is_expired()).count() - expired(log).count();
    let finding = match (alive, expired(log).next()) {
        (None, None) if idle.is_empty() && log.tcp.session == TestSessionState::Open => {
            let text = "the server holds no connections, or none came about";
            Finding::unknown((ReasonCode::ServerHonoursPart, text), METHOD)
        }
        (None, None) if idle.is_empty() => Finding::unknown(why_no_calls(log), METHOD),
        (None, None) => {
            let text = "the run ended before any connection had been idle for long enough";
            Finding::unknown((ReasonCode::EndedEarly, text), METHOD)
        }
        (Some(alive), None) => {
            let value = TcpIdle::new(alive.as_secs_f64(), None, None);
            Finding::known(value, Confidence::Certain, METHOD)
        }
        (_, Some(expired)) => {
            let alive = alive.unwrap_or_default();
            let revived = match expired.outcome {
                Some(IdleOutcome::Silent { revived }) => Some(revived),
                Some(IdleOutcome::Heard | IdleOutcome::Ended) | None => None,
            };
            let value = TcpIdle::new(alive.as_secs_f64(), Some(expired.idle.as_secs_f64()), revived);
            match self::expired(log).count() {
                1 => {
                    let text =
                        "one connection alone was silent, which an outage of some seconds may do as well";
                    Finding::known(value, Confidence::Weak, METHOD)
                        .because((ReasonCode::LossLeavesDoubt, text))
                }
                _ => Finding::known(value, Confidence::Strong, METHOD),
            }
        }
    };
    let finding = if outages > 0 { finding.with("silent_for_other_reasons", outages) } else { finding };
    let looked = idle.iter().filter(|it| it.outcome.is_some()).count();
    finding.with("connections", idle.len()).with("looked_at", looked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::made;

    fn found(outcomes: &[(u64, Option<IdleOutcome>)]) -> (Option<TcpIdle>, Confidence) {
        let mut log = made::without_loss();
        log.tcp.longest_idle = Some(Duration::from_secs(900));
        let entry = |&(idle, outcome)| IdleConnection { idle: Duration::from_secs(idle), outcome };
        log.tcp.idle = outcomes.iter().map(entry).collect();
        let finding = conclude(&log);
        (finding.value, finding.confidence)
    }

    const HEARD: Option<IdleOutcome> = Some(IdleOutcome::Heard);
    const REVIVED: Option<IdleOutcome> = Some(IdleOutcome::Silent { revived: true });

    #[test]
    fn a_timer_is_between_the_longest_that_lived_and_the_shortest_that_did_not() {
        let bracket = |alive, expired, revived| Some(TcpIdle::new(alive, expired, revived));
        assert_eq!(
            found(&[(20, REVIVED), (10, HEARD), (14, HEARD), (25, REVIVED), (32, None)]),
            (bracket(14.0, Some(20.0), Some(true)), Confidence::Strong)
        );
        let ended = Some(IdleOutcome::Ended);
        assert_eq!(found(&[(10, ended), (14, ended)]), (bracket(0.0, Some(10.0), None), Confidence::Strong));
        assert_eq!(found(&[(10, HEARD), (14, ended)]), (bracket(10.0, Some(14.0), None), Confidence::Weak));
        assert_eq!(found(&[(10, HEARD), (900, HEARD)]), (bracket(900.0, None, None), Confidence::Certain));
    }

    #[test]
    fn what_was_silent_before_one_that_lived_longer_was_an_outage() {
        let alive = |alive| Some(TcpIdle::new(alive, None, None));
        assert_eq!(found(&[(10, REVIVED), (14, HEARD)]), (alive(14.0), Confidence::Certain));
        let after = found(&[(10, REVIVED), (14, HEARD), (20, REVIVED), (25, REVIVED)]);
        assert_eq!(after, (Some(TcpIdle::new(14.0, Some(20.0), Some(true))), Confidence::Strong));
        assert_eq!(found(&[(10, None)]), (None, Confidence::Unknown));
        assert_eq!(found(&[]), (None, Confidence::Unknown));
    }

    #[test]
    fn idle_times_are_close_enough() {
        let times = idle_times(Duration::from_secs(900));
        assert_eq!((times[0], times.last()), (SHORTEST, Some(&Duration::from_secs(900))));
        for pair in times.windows(2) {
            assert!(pair[1] <= pair[0].mul_f64(1.15) + Duration::from_secs(10), "{pair:?}");
            assert_eq!(pair[1].as_millis() % 100, 0, "{pair:?}");
        }
        assert_eq!(idle_times(Duration::from_secs(5)), [Duration::from_secs(5)]);
    }
}
