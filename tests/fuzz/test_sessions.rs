//! Test sessions, fuzzed: whatever a client says and proves, the server connects to nobody else, and seldom.

use std::{
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use probe_server::{
    test_session::{
        Attempt, Attempted, ConnectBack, HelperPorts, NoConnection, ServerSide, TestLimits, TestSessions,
    },
    topology::{Endpoint, Topology},
};
use shared::test_session::{CONNECTS_AT_ONCE, NAMED_PORTS, SynOutcome, ToClient, Token};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    time::{Instant, sleep, timeout},
};

use super::rendezvous::frame;

const UPGRADE: &[u8] = b"GET /probe HTTP/1.1\r\nHost: probe\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const CLIENT: [u8; 4] = [192, 0, 2, 7];
const OWN_PORTS: [u16; 2] = [3478, 3479];
/// Longer than anything that the server waits for.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A network in which nobody answers.
#[derive(Default)]
struct Silence {
    attempts: Mutex<Vec<(Instant, Attempt)>>,
}

impl ConnectBack for Silence {
    fn connect(&self, attempt: Attempt) -> Pin<Box<dyn Future<Output = Attempted> + Send>> {
        self.attempts.lock().expect("whole").push((Instant::now(), attempt));
        Box::pin(async move {
            sleep(attempt.wait).await;
            let none = NoConnection { outcome: SynOutcome::Timeout, icmp: None };
            Attempted { from: Some(attempt.from), after: attempt.wait, end: Err(none) }
        })
    }

    fn helper_ports(&self, addresses: [Option<IpAddr>; 2]) -> [HelperPorts; 2] {
        addresses.map(|address| HelperPorts {
            pending: address.map(|ip| SocketAddr::new(ip, 40001)),
            closed: address.map(|ip| SocketAddr::new(ip, 40002)),
        })
    }
}

/// Each line is a message; one that begins with `!` proves the port that follows, from the client's address or, with `!!`,
/// from another one. The session ends in bounded time, and everything that was connected to was the client's own.
pub(crate) fn test_sessions(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let network = Arc::new(Silence::default());
        let sessions = TestSessions::new(TestLimits::default(), OWN_PORTS.to_vec(), network.clone());
        let topology = Topology::new(
            IpAddr::from([198, 51, 100, 10]),
            Some(IpAddr::from([198, 51, 100, 11])),
            (OWN_PORTS[0], OWN_PORTS[1]),
        );
        let at = SocketAddr::new(IpAddr::from([198, 51, 100, 10]), OWN_PORTS[0]);
        let (mut client, server) = duplex(1 << 20);
        let side = ServerSide { topology, at: Endpoint::Primary, serves_tcp: true };
        let serving = sessions.serve(server, (CLIENT, 40000).into(), side);
        let mut proven = Vec::new();
        let talking = async {
            client.write_all(UPGRADE).await.expect("room");
            // Frames that come before the answer would end the connection.
            read_until(&mut client, "\r\n\r\n").await.expect("an answer");
            let mut token = None;
            for line in bytes.split(|byte| *byte == b'\n') {
                if let Some(rest) = line.strip_prefix(b"!") {
                    if token.is_none() {
                        token = read_token(&mut client).await;
                    }

                    let Some(token) = token else { break };
                    let is_other = rest.starts_with(b"!");
                    let port = rest
                        .iter()
                        .fold(0_u16, |port, byte| port.wrapping_mul(10).wrapping_add(u16::from(*byte & 15)));
                    let ip = IpAddr::from(if is_other { [192, 0, 2, 8] } else { CLIENT });
                    if sessions.prove(&token, SocketAddr::new(ip, port), at).is_some() && !is_other {
                        proven.push(port);
                    }
                    continue;
                }
                if client.write_all(&frame(line)).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            // It stays until the session is over.
            _ = client.read_to_end(&mut Vec::new()).await;
        };
        timeout(LONGEST, async { tokio::join!(serving, talking) }).await.expect("it ends");
        assert_eq!(sessions.counts().sessions, 0);
        judge(&network.attempts.lock().expect("whole"), &proven);
    });
}

fn judge(attempts: &[(Instant, Attempt)], proven: &[u16]) {
    let mut named = Vec::new();
    for (_, attempt) in attempts {
        assert_eq!(attempt.to.ip(), IpAddr::from(CLIENT), "somebody else");
        let port = attempt.to.port();
        assert!(!OWN_PORTS.contains(&port), "a port of the server");
        if !proven.contains(&port) {
            assert!(port >= 1024, "a low port");
            named.push(port);
        }
    }
    named.sort_unstable();
    named.dedup();
    assert!(named.len() <= NAMED_PORTS, "{} ports", named.len());
    let span =
        attempts.first().zip(attempts.last()).map_or(0.0, |(first, last)| (last.0 - first.0).as_secs_f64());
    // What was put off, for two seconds at the most, counts when it was asked for.
    assert!(
        attempts.len() as f64 <= f64::from(CONNECTS_AT_ONCE) + span + 3.0,
        "{} in {span} s",
        attempts.len()
    );
}

/// The token in the welcome.
async fn read_token(client: &mut DuplexStream) -> Option<Token> {
    let heard = read_until(client, r#""trace_ms":1500}"#).await?;
    match ToClient::parse(&heard[heard.find(r#"{"type":"welcome""#)?..]) {
        Ok(ToClient::Welcome(welcome)) => Some(welcome.token),
        _ => None,
    }
}

/// What comes until it ends with this.
async fn read_until(client: &mut DuplexStream, end: &str) -> Option<String> {
    let mut heard = Vec::new();
    while !heard.ends_with(end.as_bytes()) {
        heard.push(timeout(Duration::from_secs(1), client.read_u8()).await.ok()?.ok()?);
    }
    Some(String::from_utf8_lossy(&heard).into_owned())
}
