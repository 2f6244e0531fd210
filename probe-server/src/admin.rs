//! The address for operators, over plain HTTP/1.1: `/metrics` in Prometheus' text format, `/livez` (the process moves)
//! and `/readyz` (clients get everything; `/healthz` is the same). Off by default, and never on a port that strangers'
//! STUN comes to.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{Mutex, watch},
    task::JoinSet,
    time,
};

use crate::{
    counters::Snapshot,
    health::{self, Health},
    metrics,
    shared_state::Shared,
    streams::Observed,
    topology::{Endpoint, Topology},
};

/// How long one request may take to arrive and its answer to be taken.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Requests at once; more wait.
const MAX_REQUESTS: usize = 16;
/// Longest request head.
const MAX_HEAD: usize = 4096;

/// The thread that serves it: one of its own, so that connections of strangers never delay operators.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

/// What is asked.
#[derive(Clone)]
struct Sources {
    shared: Arc<Shared>,
    observed: Observed,
    /// One check at a time, however many ask.
    turn: Arc<Mutex<()>>,
}

/// Starts the thread.
pub(crate) fn start(listener: TcpListener, shared: Arc<Shared>, observed: Observed) -> io::Result<Running> {
    let (stop, mut stopped) = watch::channel(false);
    let sources = Sources { shared, observed, turn: Arc::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                () = serve(listener, sources) => {}
                _ = stopped.wait_for(|stop| *stop) => {}
            }
        });
        // A check that is still running is nobody's any more.
        runtime.shutdown_background();
    };
    let thread = std::thread::Builder::new().name("admin".into()).spawn(run)?;
    Ok(Running { stop, thread })
}

impl Running {
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        // A thread that panicked has said so on standard error.
        _ = self.thread.join();
    }
}

async fn serve(listener: TcpListener, sources: Sources) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut requests = JoinSet::new();
    loop {
        while requests.len() >= MAX_REQUESTS {
            requests.join_next().await;
        }
        match listener.accept().await {
            Ok((stream, _)) => {
                let request = one(stream, sources.clone());
                requests.spawn(async { _ = time::timeout(REQUEST_TIMEOUT, request).await });
            }
            Err(_) => time::sleep(Duration::from_millis(100)).await,
        }
        while requests.try_join_next().is_some() {}
    }
}

async fn one(mut stream: TcpStream, sources: Sources) -> io::Result<()> {
    let Sources { shared, observed, turn } = sources;
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let mut piece = [0; 512];
        let length = stream.read(&mut piece).await?;
        if length == 0 || head.len() > MAX_HEAD {
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
                &observed.limiter.counts(),
                observed.rendezvous.as_ref().map(|r| r.counts()),
                observed.test_sessions.as_ref().map(|sessions| sessions.counts()),
                observed.page.as_ref().map(|page| page.counts()),
                &program(&shared),
            ),
        ),
        // Of the threads that serve clients the watchdog tells.
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
