//! The program: ready lines, signals, exit codes, messages.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(unix)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::UdpSocket,
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

const PROGRAM: &str = env!("CARGO_BIN_EXE_probe-server");

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).output().unwrap()
}

/// Exit code and standard error.
fn fail(arguments: &[&str]) -> (i32, String) {
    let output = run(arguments);
    assert!(output.stdout.is_empty(), "nothing but ready lines goes there");
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// A server that is ended with the test.
struct Running {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(PROGRAM);
        let mut child =
            command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Reads the log until a line contains this text.
    fn log_until(stderr: &mut impl BufRead, text: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(stderr.read_line(&mut line).unwrap() > 0, "the log ends without '{text}'");
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn ready_then_asked_to_stop() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Running::start(&["--local", "--port", "0", "--alternate-port", "0", "--check"]);
        let udp = server.line();
        let addresses: Vec<&str> = udp.strip_prefix("ready udp ").unwrap().split(' ').collect();
        assert_eq!(addresses.len(), 4);
        assert!(addresses[0].starts_with("127.0.0.1:") && addresses[2].starts_with("127.0.0.2:"));
        let port = |i: usize| addresses[i].split(':').nth(1).unwrap();
        assert_eq!((port(0), port(1)), (port(2), port(3)), "the same two ports on both addresses");
        assert_eq!(server.line(), udp.replace("udp", "tcp"));
        server.signal(signal);
        let mut log = String::new();
        server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{log}");
        assert!(!log.contains("panicked"));
    }
}

#[test]
fn a_line_for_each_transport_and_family() {
    let mut server = Running::start(&[
        "--primary",
        "127.0.0.1",
        "--alternate",
        "127.0.0.2",
        "--primary",
        "::1",
        "--port",
        "0",
        "--alternate-port",
        "0",
    ]);
    let lines: Vec<String> = (0..4).map(|_| server.line()).collect();
    let words = |i: usize| lines[i].split(' ').take(3).collect::<Vec<_>>();
    assert!(words(0)[..2] == ["ready", "udp"] && words(0)[2].starts_with("127.0.0.1:"));
    assert!(words(1)[..2] == ["ready", "udp"] && words(1)[2].starts_with("[::1]:"));
    assert!(words(2)[1] == "tcp" && words(3)[1] == "tcp");
}

#[test]
fn usage_and_configuration_errors_are_exit_code_2_and_name_the_value() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let unknown = file("unknown.toml", "primary = \"127.0.0.1\"\nprot = 3478\n");
    let broken = file("broken.toml", "primary = \"127.0.0.1\nport = 3478\n");
    let no_pem = file("no.pem", "this is no certificate\n");
    let local_tls = [
        "--local",
        "--port",
        "0",
        "--alternate-port",
        "0",
        "--tls-certificate",
        &no_pem,
        "--tls-key",
        &no_pem,
    ];
    let rows: &[(&[&str], &str)] = &[
        (&[], "primary: no address"),
        (&["--primary", "here"], "'here'"),
        (&["--primary", "127.0.0.1", "--alternate", "127.0.0.1"], "alternate: 127.0.0.1"),
        (&["--primary", "0.0.0.0"], "primary: 0.0.0.0"),
        (&["--port", "70000"], "70000"),
        (&["--local", "--idle-timeout", "9223372036854775807"], "idle-timeout: 9223372036854775807"),
        (&["--local", "--drain", "18446744073709551615"], "drain: 18446744073709551615"),
        (&["--wrong"], "--wrong"),
        (&["--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (&["--config", &unknown], "line 2: unknown field `prot`"),
        (&["--config", &broken], "line 1"),
        (&local_tls, "tls-certificate"),
    ];
    for (arguments, text) in rows {
        let (code, message) = fail(arguments);
        assert_eq!(code, 2, "{arguments:?}: {message}");
        assert!(message.contains(text), "{arguments:?}: {message}");
        assert!(!message.contains("panicked"));
    }
}

#[test]
fn what_the_system_refuses_is_exit_code_1_and_names_the_address() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let port = address.port().to_string();
    let (code, message) = fail(&["--local", "--port", &port, "--alternate-port", "0"]);
    assert_eq!((code, message), (1, format!("probe-server: udp {address}: the port is in use\n")));
    let (code, message) = fail(&["--primary", "203.0.113.1", "--port", "34790"]);
    assert_eq!((code, message.lines().count()), (1, 1));
    assert!(message.contains("203.0.113.1:34790: not an address of this host"), "{message}");
}

#[test]
fn a_hangup_reads_the_file_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.toml");
    let write = |text: &str| {
        let common = "primary = \"127.0.0.1\"\nalternate = \"127.0.0.2\"\nport = 0\nalternate-port = 0\nlog-format = \"json\"\n";
        std::fs::write(&path, format!("{common}{text}")).unwrap();
    };
    write("");
    let mut server = Running::start(&["--config", path.to_str().unwrap()]);
    assert!(server.line().starts_with("ready udp"));
    let mut log = BufReader::new(server.child.stderr.take().unwrap());
    write("host-rate = 7\n");
    server.signal(Signal::HUP);
    assert!(Running::log_until(&mut log, "reloaded").starts_with('{'), "the log is JSON");
    write("host-rat = 7\n");
    server.signal(Signal::HUP);
    let line = Running::log_until(&mut log, "not reloaded");
    assert!(line.contains("host-rat"), "{line}");
    write("workers = 9\n");
    server.signal(Signal::HUP);
    assert!(Running::log_until(&mut log, "restart").contains("workers"));
    server.signal(Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn man_page_and_completions() {
    for (what, text) in [
        ("man", ".TH probe"),
        ("bash", "complete -F"),
        ("zsh", "#compdef probe-server"),
        ("fish", "complete -c probe-server"),
    ] {
        let output = run(&["--generate", what]);
        assert!(output.status.success());
        let page = String::from_utf8(output.stdout).unwrap();
        assert!(page.contains(text), "{what}");
        assert!(page.contains("alternate"), "{what}");
    }
}

fn get(admin: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(admin).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn metric(admin: &str, name: &str) -> u64 {
    let answer = get(admin, "/metrics");
    let line = answer.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// An address on loopback that is this process's alone, where nobody is given a port.
fn own_address(number: u8) -> String {
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    format!("127.{}.{low}.{number}:9478", 100 + high % 100)
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let full = || Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    let broken = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let unread = || {
        let (reader, mut writer) = std::io::pipe().unwrap();
        // Kept open by a thread that never reads, and full already.
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        while writer.write(&[b'x'; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&writer, false).unwrap();
        std::mem::forget(reader);
        Stdio::from(writer)
    };
    let kinds: [(&str, &dyn Fn() -> Stdio); 3] =
        [("full disk", &full), ("dead reader", &broken), ("reader that does not read", &unread)];
    for (number, (kind, stderr)) in (10..).zip(kinds) {
        let admin = own_address(number);
        let mut command = Command::new(PROGRAM);
        command.args(["--local", "--port", "0", "--alternate-port", "0", "--admin", &admin]);
        let mut child = command.stdout(Stdio::piped()).stderr(stderr()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut server = Running { child, stdout };
        assert!(server.line().starts_with("ready udp"), "{kind}");
        server.signal(Signal::HUP);
        // One line tells of the admin address, one of the reload: lost, or waiting for the reader.
        let mut asked = (0..20_000).map(|_| metric(&admin, "probe_log_lost_lines_total"));
        assert!(
            kind == "reader that does not read" || asked.any(|lost| lost >= 2),
            "{kind}: nothing is lost"
        );
        assert!(metric(&admin, "probe_uptime_seconds") < 60, "{kind}");
        server.signal(Signal::TERM);
        assert_eq!(server.child.wait().unwrap().code(), Some(0), "{kind}");
    }
}

#[test]
fn messages_that_nobody_can_read_leave_the_exit_code() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let rows: [(&[&str], i32); 3] = [
        (&["--primary", "0.0.0.0"], 2),
        (&["--wrong"], 2),
        (&["--local", "--port", &port, "--alternate-port", "0"], 1),
    ];
    for (arguments, code) in rows {
        let status = Command::new(PROGRAM).args(arguments).stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(code), "{arguments:?}");
    }
    // Nobody hears that it is ready: it serves all the same.
    let mut command = Command::new(PROGRAM);
    command.args(["--local", "--port", "0", "--alternate-port", "0", "--admin", "0"]);
    let mut child = command.stdout(full()).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    Running::log_until(&mut log, "metrics and health");
    kill_process(Pid::from_child(&child), Signal::HUP).unwrap();
    Running::log_until(&mut log, "reloaded");
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn the_finest_log_holds_no_words_of_other_crates() {
    let mut server = Running::start(&[
        "--local",
        "--port",
        "0",
        "--alternate-port",
        "0",
        "--log",
        "trace",
        "--drain",
        "0",
    ]);
    let address = server.line().split(' ').nth(2).unwrap().to_owned();
    // What a browser or a client of the rendezvous would send: a request that the HTTP layer logs at its finest level.
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = "GET /punch HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).unwrap();
    assert!(stream.read(&mut [0; 512]).unwrap() > 0);
    server.signal(Signal::TERM);
    let mut log = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(!log.contains("TRACE") && !log.contains("dGhlIHNhbXBsZSBub25jZQ"), "{log}");
}

/// Certificate and key of the same pair, in PEM; the certificate ends at the beginning of this year.
fn pair(year: i32) -> (String, String) {
    let mut params = rcgen::CertificateParams::new(["probe.example.org".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 1);
    let key = rcgen::KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

#[test]
fn a_half_renewed_certificate_is_exit_code_1_so_that_it_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let ((old, _), (new, new_key)) = (pair(2050), pair(2051));
    let start = |certificate: &str| {
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), &new_key).unwrap();
        let arguments = ["--local", "--port", "0", "--alternate-port", "0", "--tls-port", "0"];
        let files = [
            "--tls-alternate-port",
            "0",
            "--tls-certificate",
            &path("cert.pem"),
            "--tls-key",
            &path("key.pem"),
        ];
        let mut command = Command::new(PROGRAM);
        command.args(arguments).args(files).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Running { child, stdout }
    };
    let mut server = start(&old);
    let mut message = String::new();
    server.child.stderr.take().unwrap().read_to_string(&mut message).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(1), "{message}");
    assert!(message.contains("tls-certificate"), "{message}");
    let mut server = start(&new);
    assert!(server.line().starts_with("ready udp "));
}

#[test]
fn a_certificate_that_has_ended_is_told_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let start = |year, admin: String| {
        let (certificate, key) = pair(year);
        std::fs::write(path("cert.pem"), certificate).unwrap();
        std::fs::write(path("key.pem"), key).unwrap();
        let mut server = Running::start(&[
            "--local",
            "--check",
            "--port",
            "0",
            "--alternate-port",
            "0",
            "--tls-port",
            "0",
            "--tls-alternate-port",
            "0",
            "--admin",
            &admin,
            "--tls-certificate",
            &path("cert.pem"),
            "--tls-key",
            &path("key.pem"),
        ]);
        assert!(server.line().starts_with("ready udp "));
        (server, admin)
    };
    let (_server, admin) = start(2050, own_address(20));
    let health = get(&admin, "/readyz");
    assert!(health.contains("4 endpoints over tls, the certificate ends in "), "{health}");
    assert!(metric(&admin, "probe_certificate_seconds") > 1_000_000);

    let (mut server, admin) = start(2020, own_address(21));
    let mut log = BufReader::new(server.child.stderr.take().unwrap());
    Running::log_until(&mut log, "the certificate has ended");
    let health = get(&admin, "/readyz");
    assert!(health.starts_with("HTTP/1.1 503") && health.contains("the certificate ended "), "{health}");
    assert!(get(&admin, "/livez").starts_with("HTTP/1.1 200"));
    assert_eq!(metric(&admin, "probe_certificate_seconds"), 0);
}
