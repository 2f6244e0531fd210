//! STUN over TLS: the same answers, a certificate that a reload replaces, files that cannot be used.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use probe_server::{
    Server,
    config::{Config, Streams, Tls},
};
use shared::stun::{Class, TransactionId, View, Writer, attr};
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring, pki_types::CertificateDer,
};

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// Writes a new certificate and key, and gives the certificate.
    fn issue(&self) -> CertificateDer<'static> {
        let issued = rcgen::generate_simple_self_signed(["probe.example.org".to_owned()]).unwrap();
        std::fs::write(self.tls().certificate, issued.cert.pem()).unwrap();
        std::fs::write(self.tls().key, issued.signing_key.serialize_pem()).unwrap();
        issued.cert.der().clone()
    }

    fn tls(&self) -> Tls {
        let path = |name: &str| -> PathBuf { self.folder.path().join(name) };
        Tls { certificate: path("cert.pem"), key: path("key.pem"), ports: (0, 0) }
    }

    fn config(&self) -> Config {
        Config { tls: Some(self.tls()), ..Config::local() }
    }
}

fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> std::io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connection =
        ClientConnection::new(Arc::new(config), "probe.example.org".try_into().unwrap()).unwrap();
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(StreamOwned::new(connection, stream))
}

/// Asks one Binding request and gives the answer; fails where the server's certificate is another one.
fn ask(address: SocketAddr, trusted: &CertificateDer<'static>) -> std::io::Result<Vec<u8>> {
    let mut stream = connect(address, trusted)?;
    let mut request = [0; 20];
    let id = TransactionId::modern(&mut fastrand::Rng::with_seed(1));
    let length = Writer::new(&mut request, Class::Request, &id).len();
    stream.write_all(&request[..length])?;
    let mut answer = vec![0; 68];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn tls_addresses(server: &Server) -> Vec<SocketAddr> {
    server.services().into_iter().find(|service| service.transport == "tls").unwrap().addresses
}

#[test]
fn all_four_endpoints_answer_and_name_themselves() {
    let files = Files::new();
    let trusted = files.issue();
    let server = Server::start(files.config()).unwrap();
    let addresses = tls_addresses(&server);
    assert_eq!(addresses.len(), 4);
    for (i, address) in addresses.iter().enumerate() {
        let answer = ask(*address, &trusted).unwrap();
        let view = View::parse(&answer).unwrap();
        assert_eq!(view.address(attr::RESPONSE_ORIGIN), Some(*address));
        assert_eq!(view.address(attr::OTHER_ADDRESS), Some(addresses[3 - i]), "of TLS, not of UDP");
    }
}

#[test]
fn a_reload_takes_the_new_certificate() {
    let files = Files::new();
    let old = files.issue();
    let mut server = Server::start(files.config()).unwrap();
    let address = tls_addresses(&server)[0];
    ask(address, &old).unwrap();
    let new = files.issue();
    ask(address, &old).unwrap();
    assert!(server.reload(files.config()).unwrap().is_empty());
    ask(address, &new).unwrap();
    assert!(ask(address, &old).is_err());

    std::fs::write(files.tls().key, "no key").unwrap();
    let error = server.reload(files.config()).unwrap_err().to_string();
    assert!(error.starts_with("tls-key "), "{error}");
    ask(address, &new).unwrap();
}

#[test]
fn another_protocol_is_closed() {
    let files = Files::new();
    files.issue();
    let server = Server::start(files.config()).unwrap();
    let mut stream = TcpStream::connect(tls_addresses(&server)[0]).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42]).unwrap();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    let is_closed = end.as_ref().map_or_else(|e| e.kind() == std::io::ErrorKind::ConnectionReset, |_| true);
    assert!(is_closed, "{end:?}");
}

/// The library would wait, and keep room, for records of 16 KiB.
#[test]
fn a_long_record_is_not_waited_for() {
    let files = Files::new();
    let trusted = files.issue();
    let long = Duration::from_secs(60);
    let streams = Streams { idle: long, slow: long, ..Streams::default() };
    let server = Server::start(Config { streams, ..files.config() }).unwrap();
    let address = tls_addresses(&server)[0];
    let rows = [(4000, true), (4096, false), (16384, false)];
    for (at_once, (length, is_kept)) in [false, true].into_iter().flat_map(|it| rows.map(|row| (it, row))) {
        let mut client = connect(address, &trusted).unwrap();
        while client.conn.is_handshaking() {
            while client.conn.wants_write() {
                client.conn.write_tls(&mut client.sock).unwrap();
            }
            client.conn.read_tls(&mut client.sock).unwrap();
            client.conn.process_new_packets().unwrap();
        }
        // The end of the handshake goes before the record, or along with it.
        if !at_once {
            client.conn.complete_io(&mut client.sock).unwrap();
        }
        client.conn.writer().write_all(&vec![0xff; length]).unwrap();
        let mut record = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut record).unwrap();
        }
        client.sock.write_all(&record[..record.len() - 1]).unwrap();
        if is_kept {
            // Ones are no STUN: it was read as a whole before it was not taken.
            client.sock.write_all(&record[record.len() - 1..]).unwrap();
        }
        let mut rest = Vec::new();
        let end = client.sock.read_to_end(&mut rest);
        let is_closed =
            end.as_ref().map_or_else(|e| e.kind() == std::io::ErrorKind::ConnectionReset, |_| true);
        assert!(is_closed, "{length}: {end:?}");
        assert_eq!(server.stream_counts().broken, 1 + u64::from(at_once), "{length}");
    }
}
