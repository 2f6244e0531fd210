//! Two real clients meet over TLS at a real server, with a certificate authority of their own; and what they say when
//! the server cannot prove itself.

#![cfg(target_os = "linux")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use natlab::binaries::binary;
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::Value;

/// A program, killed when dropped.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An authority, and a folder with what it issued.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate: Certificate = params.self_signed(&key).expect("a certificate");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("written");
        Self { folder, issuer: Issuer::new(params, key) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// A server that shows a certificate for this name, valid until the beginning of this year.
    fn server(&self, name: &str, until: i32) -> Server {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([name.to_owned()]).expect("parameters");
        (params.not_before, params.not_after) = (date_time_ymd(1990, 1, 1), date_time_ymd(until, 1, 1));
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        std::fs::write(self.file("cert.pem"), certificate.pem()).expect("written");
        std::fs::write(self.file("key.pem"), key.serialize_pem()).expect("written");
        Server::start(&self.file("cert.pem"), &self.file("key.pem"))
    }
}

/// A server on loopback.
struct Server {
    _program: Program,
    plain: SocketAddr,
    tls: SocketAddr,
}

impl Server {
    fn start(certificate: &Path, key: &Path) -> Self {
        let mut child = Command::new(binary("probe-server").expect("built"))
            .args(["--local", "--port", "0", "--alternate-port", "0"])
            .args(["--tls-port", "0", "--tls-alternate-port", "0"])
            .arg("--tls-certificate")
            .arg(certificate)
            .arg("--tls-key")
            .arg(key)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut first = |transport: &str| -> SocketAddr {
            let wanted = format!("ready {transport} ");
            let line = lines.by_ref().map(|line| line.expect("text")).find(|line| line.starts_with(&wanted));
            let line = line.unwrap_or_else(|| panic!("no `{wanted}`"));
            line.split(' ').nth(2).expect("an address").parse().expect("one")
        };
        let (plain, tls) = (first("tcp"), first("tls"));
        Self { _program: Program(child), plain, tls }
    }

    /// How a client finds it under this name.
    fn at(&self, host: &str) -> Vec<String> {
        let server = format!("{host}:{}", self.plain.port());
        vec!["--server".into(), server, format!("--tls={}", self.tls.port())]
    }
}

fn punch(arguments: &[String]) -> Command {
    let mut command = Command::new(binary("nat-check").expect("built"));
    command.arg("punch").args(arguments).env_remove("NAT_CHECK_SERVER").stdin(Stdio::null());
    command
}

/// Passes connections on to the server without TLS, and reads along.
struct Eavesdropper {
    at: SocketAddr,
    heard: Arc<Mutex<Vec<u8>>>,
}

impl Eavesdropper {
    fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (at, heard) = (listener.local_addr().expect("bound"), Arc::<Mutex<Vec<u8>>>::default());
        let all = Arc::clone(&heard);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(server).expect("the server listens");
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
                    let all = Arc::clone(&all);
                    thread::spawn(move || pass_on(from, to, &all));
                }
            }
        });
        Self { at, heard }
    }

    /// Whether a message of the rendezvous was to be read; the server's are not masked.
    fn has_heard(&self, word: &str) -> bool {
        String::from_utf8_lossy(&self.heard.lock().expect("no panic")).contains(word)
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, heard: &Mutex<Vec<u8>>) {
    let mut piece = [0; 2048];
    while let Ok(length @ 1..) = from.read(&mut piece) {
        heard.lock().expect("no panic").extend(&piece[..length]);
        if to.write_all(&piece[..length]).is_err() {
            break;
        }
    }
    // Fails only where it is closed already.
    let _ = to.shutdown(std::net::Shutdown::Write);
}

/// Exit code, standard error, and whether who reads along has heard the code, of a client without `--tls` whose system
/// trusts this authority.
fn overheard(server: &Server, host: &str, ca: &Path, flags: &[&str]) -> (i32, String, bool) {
    let between = Eavesdropper::before(server.plain);
    let mut arguments =
        vec!["--server".to_owned(), format!("{host}:{}", between.at.port()), "--wait=0".into()];
    arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
    let output = punch(&arguments).env("SSL_CERT_FILE", ca).output().expect("the client starts");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("code: "), "{told}");
    assert!(between.has_heard("GET /punch"), "it came by here");
    (output.status.code().expect("a code"), told, between.has_heard("\"code\""))
}

fn text(path: &Path) -> String {
    path.to_str().expect("text").to_owned()
}

/// Exit code and standard error of a client that gets nowhere.
fn refused(arguments: &[String]) -> (i32, String) {
    let output = punch(arguments).output().expect("the client starts");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    (output.status.code().expect("a code"), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn two_meet_over_tls_by_the_line_that_the_first_one_prints() {
    let authority = Authority::new();
    let server = authority.server("localhost", 2100);
    let mut arguments = server.at("localhost");
    arguments.extend(["--ca".into(), text(&authority.ca()), "--hold=1".into(), "--json".into()]);
    let mut first = punch(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut told: BufReader<ChildStderr> = BufReader::new(first.stderr.take().expect("a pipe"));
    let mut first = Program(first);
    let line = told
        .by_ref()
        .lines()
        .map(|line| line.expect("text"))
        .find_map(|line| line.strip_prefix("On the other machine run: nat-check punch ").map(str::to_owned))
        .expect("an invitation");
    let second: Vec<String> = line.split(' ').map(String::from).chain(["--json".into()]).collect();
    assert!(line.contains(&format!("--tls={} --ca {}", server.tls.port(), text(&authority.ca()))), "{line}");
    let second = punch(&second).output().expect("starts");
    let mut report = String::new();
    first.0.stdout.take().expect("a pipe").read_to_string(&mut report).expect("text");
    let mut rest = String::new();
    told.read_to_string(&mut rest).expect("text");
    let code = first.0.wait().expect("ended").code();
    let second_report = String::from_utf8_lossy(&second.stdout).into_owned();
    for (code, report) in [(code, report), (second.status.code(), second_report)] {
        assert_eq!(code, Some(0), "{report}{rest}{}", String::from_utf8_lossy(&second.stderr));
        let report: Value = serde_json::from_str(&report).expect("json");
        assert_eq!(report["punch"]["outcome"], "direct", "{report:#}");
    }
}

#[test]
fn tls_is_used_where_the_server_offers_it_before_anything_secret_is_said() {
    let authority = Authority::new();
    let server = authority.server("localhost", 2100);
    let (code, told, heard) = overheard(&server, "localhost", &authority.ca(), &[]);
    assert!(code == 3 && told.contains("no peer came"), "{told}");
    assert!(!heard && !told.contains("not encrypted"), "{told}");
    let (_, told, heard) = overheard(&server, "localhost", &authority.ca(), &["--no-tls"]);
    assert!(heard && !told.contains("not encrypted"), "{told}");
}

#[test]
fn tls_that_is_offered_but_cannot_be_verified_or_reached_is_told() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.server("localhost", 2100);
    let expect = |(code, told, heard): (i32, String, bool), words: &str| {
        assert!(code == 3 && heard, "{told}");
        let line =
            told.lines().find(|line| line.contains("not encrypted")).unwrap_or_else(|| panic!("{told}"));
        assert!(line.contains(words) && line.contains(&server.tls.to_string()), "{line}");
    };
    let unknown = "not from an authority that this system trusts";
    expect(overheard(&server, "localhost", &stranger.ca(), &[]), unknown);
    expect(overheard(&server, "127.0.0.1", &authority.ca(), &[]), "not for 127.0.0.1 but for localhost");
}

#[test]
fn a_server_that_cannot_prove_itself_is_refused_in_one_line() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let server = authority.server("localhost", 2100);
    let trusting = |server: &Server, host: &str, ca: PathBuf| {
        let mut arguments = server.at(host);
        arguments.extend(["--ca".into(), text(&ca)]);
        refused(&arguments)
    };
    let expect = |(code, error): (i32, String), words: &str| {
        assert_eq!((code, error.lines().count()), (3, 1), "{error}");
        assert!(error.contains(words) && error.contains("127.0.0.1:"), "{error}");
    };
    expect(trusting(&server, "localhost", stranger.ca()), "not from an authority that this system trusts");
    expect(refused(&server.at("localhost")), "not from an authority that this system trusts");
    expect(trusting(&server, "127.0.0.1", authority.ca()), "not for 127.0.0.1 but for localhost");
    let old = authority.server("localhost", 2020);
    expect(trusting(&old, "localhost", authority.ca()), "has expired");
}

#[test]
fn a_self_signed_certificate_is_trusted_by_its_file_unless_it_is_one_for_an_authority() {
    let folder = tempfile::tempdir().expect("a folder");
    let (certificate, key_file) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let outcomes = [
        (IsCa::ExplicitNoCa, "no peer came"),
        (IsCa::Ca(BasicConstraints::Unconstrained), "basicConstraints=CA:FALSE"),
    ];
    for (is_ca, words) in outcomes {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["localhost".to_owned()]).expect("parameters");
        params.is_ca = is_ca;
        std::fs::write(&certificate, params.self_signed(&key).expect("signed").pem()).expect("written");
        std::fs::write(&key_file, key.serialize_pem()).expect("written");
        let server = Server::start(&certificate, &key_file);
        let mut arguments = server.at("localhost");
        let (code, error) = refused(&arguments);
        assert!(code == 3 && error.contains("--ca FILE") && error.lines().count() == 1, "{error}");
        arguments.extend(["--ca".into(), text(&certificate), "--wait=0".into()]);
        let (code, error) = refused(&arguments);
        assert!(code == 3 && error.contains(words), "{error}");
    }
}

#[test]
fn the_ports_of_plain_and_of_tls_are_told_apart() {
    let authority = Authority::new();
    let server = authority.server("localhost", 2100);
    let arguments = |port: u16, tls: Option<u16>| {
        let mut arguments = vec!["--server".into(), format!("localhost:{port}")];
        arguments.extend(tls.map(|port| format!("--tls={port}")));
        arguments.extend(tls.iter().flat_map(|_| ["--ca".into(), text(&authority.ca())]));
        refused(&arguments)
    };
    let (code, error) = arguments(server.plain.port(), Some(server.plain.port()));
    assert_eq!((code, error.lines().count()), (3, 1), "{error}");
    assert!(error.contains("no TLS is spoken there"), "{error}");
    let (code, error) = arguments(server.tls.port(), None);
    assert_eq!((code, error.lines().count()), (3, 1), "{error}");
    assert!(error.contains("give --tls"), "{error}");
}

#[test]
fn an_authority_that_is_none_is_a_usage_error() {
    let authority = Authority::new();
    let server = authority.server("localhost", 2100);
    for (ca, words) in
        [(authority.file("missing.pem"), "No such file"), (authority.file("key.pem"), "no certificate in it")]
    {
        let mut arguments = server.at("localhost");
        arguments.extend(["--ca".into(), text(&ca)]);
        let (code, error) = refused(&arguments);
        assert_eq!((code, error.lines().count()), (2, 1), "{error}");
        assert!(error.contains(words) && error.contains("--ca"), "{error}");
    }
}
