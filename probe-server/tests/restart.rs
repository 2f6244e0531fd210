//! Restarts and reloads lose nothing. For restarts this test is the service manager that keeps the sockets between two
//! processes, as systemd does.

#![expect(clippy::disallowed_methods, reason = "real time is measured")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod service_manager;

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use service_manager::ServiceManager;
use shared::stun::{Class, TransactionId, View, Writer};

const PROGRAM: &str = env!("CARGO_BIN_EXE_probe-server");
const RESTARTS: usize = 10;
const RELOADS: usize = 2000;

/// Starts the program with what its predecessor left, and waits until it is ready.
fn start(manager: &mut ServiceManager, arguments: &[String]) -> Child {
    let passing = manager.passing();
    let mut command = Command::new("bash");
    command.args(&passing.arguments).arg(PROGRAM).args(arguments).envs(passing.environment.clone());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    manager.wait_until_ready();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("ready udp "), "{line}");
    child
}

fn stop(mut child: Child) {
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

fn request(n: u64) -> ([u8; 20], TransactionId) {
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(n));
    let mut request = [0; 20];
    _ = Writer::new(&mut request, Class::Request, &id).len();
    (request, id)
}

/// Asks every millisecond until told to stop; how many requests, how many unanswered, the longest wait for an answer.
fn ask_every_millisecond(endpoints: &[SocketAddr], is_over: &AtomicBool) -> (u64, usize, Duration) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let mut waiting = HashMap::new();
    let (mut asked, mut longest, mut buffer) = (0, Duration::ZERO, [0; 512]);
    let mut last = None;
    loop {
        if is_over.load(Ordering::Relaxed) {
            let over = *last.get_or_insert_with(Instant::now);
            if waiting.is_empty() || over.elapsed() > Duration::from_secs(3) {
                return (asked, waiting.len(), longest);
            }
        } else {
            let (bytes, id) = request(asked);
            let to = endpoints[asked as usize % endpoints.len()];
            // An ICMP error of an earlier request would be reported here: sent again, as nobody has received it.
            while socket.send_to(&bytes, to).is_err() {}
            waiting.insert(id, Instant::now());
            asked += 1;
        }
        while let Ok((length, _)) = socket.recv_from(&mut buffer) {
            let id = View::parse(&buffer[..length]).unwrap().id();
            longest = longest.max(waiting.remove(&id).map_or(Duration::ZERO, |sent| sent.elapsed()));
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Connects again and again; how many connections were answered. None may be refused.
fn connect_again_and_again(endpoints: &[SocketAddr], is_over: &AtomicBool) -> u64 {
    let mut answered = 0;
    while !is_over.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(endpoints[answered as usize % endpoints.len()]).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // The process may end before it has read the request: such a connection is closed, and not this test's matter.
        if stream.write_all(&request(answered).0).is_ok() {
            _ = stream.read(&mut [0; 512]);
        }
        answered += 1;
    }
    answered
}

#[test]
fn ten_restarts_leave_no_request_unanswered() {
    let folder = tempfile::tempdir().unwrap();
    // Addresses of this process alone, so that the ports are free from one restart to the next.
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    let addresses = [1, 2].map(|last| Ipv4Addr::new(127, 100 + high % 100, low, last));
    let ports = [3478, 3479];
    let endpoints: Vec<SocketAddr> =
        addresses.into_iter().flat_map(|ip| ports.map(|port| SocketAddr::from((ip, port)))).collect();
    let arguments: Vec<String> =
        format!("--primary {} --alternate {} --workers 2 --check --drain 1", addresses[0], addresses[1])
            .split(' ')
            .map(str::to_owned)
            .collect();

    let mut manager = ServiceManager::new(folder.path());
    let mut child = start(&mut manager, &arguments);
    assert_eq!(manager.kept(), 12, "two UDP sockets and one listener for each endpoint");
    let is_over = Arc::new(AtomicBool::new(false));
    let udp = thread::spawn({
        let (endpoints, is_over) = (endpoints.clone(), Arc::clone(&is_over));
        move || ask_every_millisecond(&endpoints, &is_over)
    });
    let tcp = thread::spawn({
        let (endpoints, is_over) = (endpoints.clone(), Arc::clone(&is_over));
        move || connect_again_and_again(&endpoints, &is_over)
    });
    let began = Instant::now();
    for _ in 0..RESTARTS {
        thread::sleep(Duration::from_millis(200));
        stop(child);
        child = start(&mut manager, &arguments);
        assert_eq!(manager.kept(), 12, "the same sockets, not more");
    }
    thread::sleep(Duration::from_millis(200));
    let took = began.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let (asked, unanswered, longest) = udp.join().unwrap();
    let connections = tcp.join().unwrap();
    stop(child);
    println!(
        "{RESTARTS} restarts in {took:.1?}: {asked} requests over UDP, {unanswered} unanswered, longest wait {longest:.0?}; \
         {connections} TCP connections, none refused"
    );
    assert_eq!(unanswered, 0);
    // A busy machine asks less often; asked it has all the time.
    assert!(asked > 100 && connections > RESTARTS as u64);
}

/// What the kernel says about the size of a process: open files, resident memory in KiB.
fn size(child: &Child) -> (usize, u64) {
    let files = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    (files, line.split_whitespace().nth(1).unwrap().parse().unwrap())
}

#[test]
fn two_thousand_reloads_leave_no_request_unanswered() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let renew = || {
        let pair = rcgen::generate_simple_self_signed(["probe.example.org".to_owned()]).unwrap();
        std::fs::write(path("cert.pem"), pair.cert.pem()).unwrap();
        std::fs::write(path("key.pem"), pair.signing_key.serialize_pem()).unwrap();
    };
    renew();
    let write = |rate: usize| {
        let text = format!(
            "primary = \"127.0.0.1\"\nalternate = \"127.0.0.2\"\nport = 0\nalternate-port = 0\nhost-rate = {rate}\n\
             tls-port = 0\ntls-alternate-port = 0\ntls-certificate = {:?}\ntls-key = {:?}\n",
            path("cert.pem"),
            path("key.pem")
        );
        std::fs::write(path("server.toml"), text).unwrap();
    };
    write(100);
    let mut command = Command::new(PROGRAM);
    command.arg("--config").arg(path("server.toml")).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let endpoints: Vec<SocketAddr> = line.split(' ').skip(2).map(|a| a.trim().parse().unwrap()).collect();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let reload = |log: &mut BufReader<std::process::ChildStderr>| {
        kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        let mut line = String::new();
        while !line.contains("reloaded") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0);
        }
        assert!(!line.contains("not reloaded"), "{line}");
    };
    // What is used for the first time is there from then on.
    (0..50).for_each(|_| reload(&mut log));
    let before = size(&child);
    let is_over = Arc::new(AtomicBool::new(false));
    let udp = thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || ask_every_millisecond(&endpoints, &is_over)
    });
    let began = Instant::now();
    for i in 0..RELOADS {
        write(100 + i);
        if i % 100 == 0 {
            renew();
        }
        reload(&mut log);
    }
    let took = began.elapsed();
    is_over.store(true, Ordering::Relaxed);
    let (asked, unanswered, longest) = udp.join().unwrap();
    let after = size(&child);
    println!(
        "{RELOADS} reloads in {took:.1?}: {asked} requests over UDP, {unanswered} unanswered, longest wait {longest:.0?}; \
         open files {} then {}, memory {} KiB then {} KiB",
        before.0, after.0, before.1, after.1
    );
    stop(child);
    assert_eq!(unanswered, 0);
    assert!(asked > 100);
    assert_eq!(before.0, after.0);
    assert!(after.1 < before.1 + 1024, "{before:?}, then {after:?}");
}

/// A service manager that does not read, and whose queue is full from the beginning: the server starts, reloads and ends
/// all the same.
#[test]
fn a_service_manager_that_never_reads_holds_nothing_up() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let _never_read = UnixDatagram::bind(&path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send_to(b"STATUS=full", &path).is_ok() {}

    let mut command = Command::new(PROGRAM);
    command.args(["--local", "--port", "0", "--alternate-port", "0"]).env("NOTIFY_SOCKET", &path);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (lines, said) = mpsc::channel();
    let hear = |output: Box<dyn Read + Send>, lines: mpsc::Sender<String>| {
        let pass_on =
            move || BufReader::new(output).lines().map_while(Result::ok).try_for_each(|l| lines.send(l));
        thread::spawn(pass_on);
    };
    hear(Box::new(child.stdout.take().unwrap()), lines.clone());
    hear(Box::new(child.stderr.take().unwrap()), lines);
    let says = |what: &str| {
        let mut lines = std::iter::from_fn(|| said.recv_timeout(Duration::from_secs(10)).ok());
        lines.any(|line| line.contains(what))
    };
    let is_ready = says("ready udp ");
    let reloads = is_ready && {
        kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
        says("reloaded")
    };
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let stops =
        says("stopping") && said.recv_timeout(Duration::from_secs(10)) == Err(RecvTimeoutError::Disconnected);
    _ = child.kill();
    child.wait().unwrap();
    assert_eq!((is_ready, reloads, stops), (true, true, true));
}
