//! Readiness: whether clients get everything that this server is meant to give, over every transport. Asked by real
//! requests from this host, which are charged to no client's budget.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
};

use shared::stun::{Class, TransactionId, View, Writer, frame};
use socket2::{Domain, Protocol, Socket, Type};
use tokio_rustls::rustls::{
    self, ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use crate::{
    certificate,
    check::{self, Deadline},
    self_check::Turn,
    shared_state::Shared,
    topology::{Endpoint, Topology},
};

/// What a whole check found.
#[derive(Debug, Default)]
pub(crate) struct Health {
    /// What is wrong, a line each; none = ready.
    pub problems: Vec<String>,
    /// What was asked with success, in one line.
    pub summary: String,
}

/// Asks every endpoint of every family that is there, over UDP, TCP and TLS.
pub(crate) fn check_all(shared: &Shared) -> Health {
    let current = shared.current();
    let turn = shared.self_check.begin();
    let deadline = Deadline::begin();
    let mut rng = fastrand::Rng::with_seed(shared.clock.now());
    let mut health = Health::default();
    for ip in shared.missing() {
        health.problems.push(format!("{ip} is not an address of this host"));
    }
    let mut combinations = 0;
    for topology in &current.topologies {
        match check::check(topology, &mut rng, &turn, &deadline) {
            Ok(asked) => combinations += asked,
            Err(wrong) => health.problems.push(wrong.to_string()),
        }
    }
    health.summary = format!("ok, {combinations} combinations answered");
    let tcp: &[Topology] = if shared.serves_tcp() { &current.topologies } else { &[] };
    let transports: [(_, _, Exchange); 2] = [("tcp", tcp, over_tcp), ("tls", &current.tls, over_tls)];
    for (transport, topologies, exchange) in transports {
        let endpoints = || topologies.iter().flat_map(|t| t.endpoints().map(move |e| (t, e)));
        for (topology, at) in endpoints() {
            if let Err(wrong) = ask_stream(topology, at, exchange, &mut rng, &turn, &deadline) {
                let address = topology.bound(at).map(|a| a.to_string()).unwrap_or_default();
                health.problems.push(format!("{transport} {address}: {wrong}"));
            }
        }
        match endpoints().count() {
            0 => {}
            n => health.summary += &format!(", {n} endpoints over {transport}"),
        }
    }
    if let Some(seconds) = shared.certificate_seconds() {
        let left = certificate::time_left(seconds);
        if seconds <= 0 {
            health.problems.push(left);
        } else {
            health.summary += &format!(", {left}");
        }
    }
    health
}

/// Sends a request over a connection and reads what comes back.
type Exchange = fn(TcpStream, &[u8]) -> io::Result<Vec<u8>>;

/// One Binding request over a connection of its own.
fn ask_stream(
    topology: &Topology,
    at: Endpoint,
    exchange: Exchange,
    rng: &mut fastrand::Rng,
    turn: &Turn<'_>,
    deadline: &Deadline,
) -> io::Result<()> {
    let Some(address) = topology.bound(at) else { return Ok(()) };
    let late = || io::Error::other("the answers before took too long");
    let timeout = deadline.of_stream().ok_or_else(late)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&SocketAddr::new(address.ip(), 0).into())?;
    let local = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let _registered = turn.register(local);
    socket.connect_timeout(&address.into(), timeout)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let id = TransactionId::modern(rng);
    let mut buffer = [0; 64];
    let length = Writer::new(&mut buffer, Class::Request, &id).len();
    let answer = exchange(stream, &buffer[..length]).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => io::Error::other("no answer"),
        io::ErrorKind::UnexpectedEof => io::Error::other("the connection was closed without an answer"),
        _ => error,
    })?;
    match View::parse(&answer) {
        Ok(view) if view.id() == id && view.mapped() == Some(local) => Ok(()),
        Ok(_) | Err(_) => Err(io::Error::other("the answer is wrong")),
    }
}

fn over_tcp(mut stream: TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(request)?;
    read_message(&mut stream)
}

fn over_tls(mut stream: TcpStream, request: &[u8]) -> io::Result<Vec<u8>> {
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyName(provider)))
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut stream = rustls::Stream::new(&mut connection, &mut stream);
    stream.write_all(request)?;
    read_message(&mut stream)
}

fn read_message(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 4];
    stream.read_exact(&mut bytes)?;
    let length = frame::length(&bytes, 512).ok().flatten().ok_or(io::ErrorKind::InvalidData)?;
    bytes.resize(length, 0);
    stream.read_exact(&mut bytes[4..])?;
    Ok(bytes)
}

/// The check knows neither the name that clients use nor whom they trust: it wants a working handshake with the holder
/// of the key, on this host.
#[derive(Debug)]
struct AnyName(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
