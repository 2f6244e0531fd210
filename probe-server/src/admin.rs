//! The address for operators, over plain HTTP/1.1: `/metrics` in Prometheus' text format, `/livez` (the process moves)
//! and `/readyz` (clients get everything; `/healthz` is the same). Off by default, and never on a port that strangers'
//! STUN comes to.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Mutex,
    task::JoinSet,
    time,
};

use crate::{
    counters::Snapshot,
    health::{self, Health},
    metrics,
    rendezvous::Rendezvous,
    shared_state::Shared,
    streams::ConnectionLimiter,
    topology::{Endpoint, Topology},
};

/// How long one request may take to arrive and its answer to be taken.
const PATIENCE: Duration = Duration::from_secs(5);
/// Requests at once; more wait.
const AT_ONCE: usize = 16;
/// Longest request head.
const HEAD: usize = 4096;

/// Serves until the future is dropped.
pub(crate) async fn serve(
    listener: TcpListener,
    shared: Arc<Shared>,
    limiter: Arc<ConnectionLimiter>,
    rendezvous: Option<Arc<Rendezvous>>,
) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    // One check at a time, however many ask.
    let turn = Arc::new(Mutex::new(()));
    let mut requests = JoinSet::new();
    loop {
        while requests.len() >= AT_ONCE {
            requests.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let request = one(
                    stream,
                    Arc::clone(&shared),
                    Arc::clone(&limiter),
                    rendezvous.clone(),
                    Arc::clone(&turn),
                );
                requests.spawn(async { _ = time::timeout(PATIENCE, request).await });
            }
            Err(_) => time::sleep(Duration::from_millis(100)).await,
        }
        while requests.try_join_next().is_some() {}
    }
}

async fn one(
    mut stream: TcpStream,
    shared: Arc<Shared>,
    limiter: Arc<ConnectionLimiter>,
    rendezvous: Option<Arc<Rendezvous>>,
    turn: Arc<Mutex<()>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 512];
        let length = stream.read(&mut piece).await?;
        if length == 0 || head.len() > HEAD {
            return Ok(());
        }
        head.extend_from_slice(&piece[..length]);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let method = words.next().unwrap_or_default();
    let path = words.next().and_then(|target| target.split(|byte| *byte == b'?').next());
    let (status, kind, body) = match (method, path) {
        (b"GET" | b"HEAD", Some(b"/metrics")) => (
            "200 OK",
            "text/plain; version=0.0.4",
            metrics::text(
                &udp(&shared),
                &limiter.counts(),
                rendezvous.as_ref().map(|r| r.counts()),
                &program(&shared),
            ),
        ),
        // The thread that answers this serves all connections; of the others the watchdog tells.
        (b"GET" | b"HEAD", Some(b"/livez")) => ("200 OK", "text/plain", "ok\n".into()),
        (b"GET" | b"HEAD", Some(b"/readyz" | b"/healthz")) => {
            let turn = turn.lock_owned().await;
            let check = move || {
                // Held until the check has ended, even if nobody waits for it any more.
                let _turn = turn;
                health::check_all(&shared)
            };
            match tokio::task::spawn_blocking(check).await {
                Ok(Health { problems, summary }) if problems.is_empty() => {
                    ("200 OK", "text/plain", format!("{summary}\n"))
                }
                Ok(Health { problems, .. }) => {
                    ("503 Service Unavailable", "text/plain", problems.join("\n") + "\n")
                }
                Err(_) => ("500 Internal Server Error", "text/plain", "the check did not end\n".into()),
            }
        }
        (b"GET" | b"HEAD", _) => ("404 Not Found", "text/plain", "try /metrics, /livez or /readyz\n".into()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET\n".into()),
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
    );
    let body = if method == b"HEAD" { "" } else { &body };
    stream.write_all(answer.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

fn program(shared: &Shared) -> metrics::Program {
    metrics::Program {
        uptime_seconds: shared.clock.now() / 1_000_000_000,
        lost_log_lines: shared.lost_log_lines(),
        certificate_seconds: shared.certificate_seconds(),
        missing_addresses: shared.missing().len() as u64,
    }
}

/// What has happened over UDP, by family.
fn udp(shared: &Shared) -> Vec<(&'static str, Snapshot)> {
    let name = |topology: &Topology| match topology.bound(Endpoint::Primary) {
        Some(SocketAddr::V6(_)) => "ipv6",
        Some(SocketAddr::V4(_)) | None => "ipv4",
    };
    shared.current().topologies.iter().map(name).zip(shared.count_families()).collect()
}
