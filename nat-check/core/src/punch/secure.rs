//! TLS to the rendezvous (RFC 8446): the server proves to be the one that the user named.
//!
//! The name is the one that was given, wherever SRV records lead: DNS answers can be forged, a certificate for
//! another name cannot (RFC 6125 section 1.8).

use std::{
    fmt, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CertificateError, ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{net::Stream, printable::printable, target::Target};

/// Whether the rendezvous is reached over TLS.
#[derive(Clone, Debug)]
pub enum UseTls {
    /// Never.
    Never,
    /// Where the server offers it, as the host of this name, by the authorities that this system trusts. Nothing secret is
    /// sent before; where TLS fails, the attempt goes on without it and says so.
    IfOffered(String),
    /// Always, or the attempt fails.
    Always(Secure),
}

impl UseTls {
    /// The same, by the address family of this endpoint alone.
    pub(super) fn of_family_of(&self, one: SocketAddr) -> Self {
        match self {
            Self::Always(secure) => {
                Self::Always(Secure { at: secure.at.of_family_of(one), ..secure.clone() })
            }
            Self::Never | Self::IfOffered(_) => self.clone(),
        }
    }
}

/// Where the rendezvous answers over TLS, and as whom it has to prove itself.
#[derive(Clone)]
pub struct Secure {
    /// Where.
    pub at: Target,
    name: String,
    config: Arc<ClientConfig>,
}

/// Whom certificates have to come from.
#[derive(Clone, Debug)]
pub struct Trust(RootCertStore);

/// Nobody to trust.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The file cannot be read, or is no PEM.
    #[error("--ca {}: {reason}", file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file holds none.
    #[error("--ca {}: no certificate in it", .0.display())]
    Empty(PathBuf),
    /// The system has none.
    #[error("--tls: this system knows no certificate authority to trust; give one with --ca FILE")]
    None,
    /// A name that no certificate can be for.
    #[error("--tls: no certificate can be for `{0}`")]
    Name(String),
}

/// What is wrong with the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// Its certificate is somebody else's.
    #[error("its certificate is not for {wanted}{}", told(presented))]
    Name {
        /// Whom it should be for.
        wanted: String,
        /// Whom it is for.
        presented: Vec<String>,
    },
    /// Nobody who is trusted vouches for it.
    #[error(
        "its certificate is not from an authority that this system trusts; one that is self-signed, or an authority of \
         your own, is trusted with --ca FILE"
    )]
    Issuer,
    /// It is the certificate of an authority, as self-signed ones often are.
    #[error(
        "its certificate is one for an authority, which a server must not show: make it with basicConstraints=CA:FALSE, and \
         trust it with --ca FILE"
    )]
    Authority,
    /// Its time is over.
    #[error("its certificate has expired")]
    Expired,
    /// Its time has not come.
    #[error("its certificate is not valid yet: is the clock right?")]
    NotYet,
    /// Anything else about it.
    #[error("its certificate is refused: {0}")]
    Certificate(String),
    /// Something else is spoken there.
    #[error("no TLS is spoken there; the port of TLS is given with --tls=PORT")]
    NotSpoken,
    /// The two cannot agree, or the connection broke.
    #[error("{0}")]
    Failed(String),
}

impl Trust {
    /// The authorities that this system trusts.
    ///
    /// # Errors
    /// When it has none.
    pub fn system() -> Result<Self, TrustError> {
        let mut roots = RootCertStore::empty();
        // Single files that cannot be read leave the others.
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() { Err(TrustError::None) } else { Ok(Self(roots)) }
    }

    /// Nobody but the authorities in this PEM file.
    ///
    /// # Errors
    /// When it cannot be read, or has no certificate in it.
    pub fn file(file: &Path) -> Result<Self, TrustError> {
        let wrong = |reason: String| TrustError::File { file: file.to_owned(), reason };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(file).map_err(|e| wrong(reason(&e)))? {
            let certificate = certificate.map_err(|e| wrong(reason(&e)))?;
            roots.add(certificate).map_err(|e| wrong(e.to_string()))?;
        }
        if roots.is_empty() { Err(TrustError::Empty(file.to_owned())) } else { Ok(Self(roots)) }
    }
}

/// The system's own words, where it is the system that refuses.
fn reason(error: &rustls::pki_types::pem::Error) -> String {
    match error {
        rustls::pki_types::pem::Error::Io(error) => error.to_string(),
        other => other.to_string(),
    }
}

impl Secure {
    /// TLS to the host of this name or address, found there.
    ///
    /// # Errors
    /// When no certificate can be for such a name.
    pub fn new(host: &str, at: Target, trust: Trust) -> Result<Self, TrustError> {
        if ServerName::try_from(host).is_err() {
            return Err(TrustError::Name(host.to_owned()));
        }
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| TrustError::None)?
            .with_root_certificates(trust.0)
            .with_no_client_auth();
        Ok(Self { at, name: host.to_owned(), config: Arc::new(config) })
    }

    /// Whom the server has to prove to be, with the port, as a URL has it.
    pub(super) fn authority(&self, server: SocketAddr) -> String {
        let bracketed = if self.name.contains(':') { format!("[{}]", self.name) } else { self.name.clone() };
        format!("{bracketed}:{}", server.port())
    }

    /// Shakes hands.
    pub(super) async fn greet(&self, stream: Box<dyn Stream>) -> Result<Box<dyn Stream>, TlsFault> {
        let name = ServerName::try_from(self.name.clone()).map_err(|e| TlsFault::Failed(e.to_string()))?;
        let connector = TlsConnector::from(Arc::clone(&self.config));
        match connector.connect(name, stream).await {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => Err(self.fault(&error)),
        }
    }

    fn fault(&self, error: &io::Error) -> TlsFault {
        let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                // Whoever expects something else than a greeting closes the connection.
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => TlsFault::NotSpoken,
                _ => TlsFault::Failed(error.to_string()),
            };
        };
        match tls {
            rustls::Error::InvalidMessage(_) => TlsFault::NotSpoken,
            rustls::Error::InvalidCertificate(wrong) => self.certificate_fault(wrong),
            other => TlsFault::Failed(format!("TLS failed: {other}")),
        }
    }

    fn certificate_fault(&self, wrong: &CertificateError) -> TlsFault {
        let name = |presented| TlsFault::Name { wanted: self.name.clone(), presented };
        match wrong {
            CertificateError::NotValidForName => name(Vec::new()),
            CertificateError::NotValidForNameContext { presented, .. } => {
                name(presented.iter().map(|text| plain(text)).collect())
            }
            // An authority that was made again under the same name has another key.
            CertificateError::UnknownIssuer
            | CertificateError::BadSignature
            | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => TlsFault::Issuer,
            // rustls has no name of its own for it.
            CertificateError::Other(_) if wrong.to_string().contains("CaUsedAsEndEntity") => {
                TlsFault::Authority
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFault::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => TlsFault::NotYet,
            other => TlsFault::Certificate(other.to_string()),
        }
    }
}

/// A name out of `DnsName("probe.example.org")`, as the library tells it.
fn plain(text: &str) -> String {
    let inner = text.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(text);
    printable(inner.trim_matches('"'))
}

fn told(presented: &[String]) -> String {
    if presented.is_empty() { String::new() } else { format!(" but for {}", presented.join(", ")) }
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure").field("at", &self.at).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Stream for TlsStream<Box<dyn Stream>> {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.get_ref().0.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::FoundBy;

    fn secure(host: &str) -> Result<Secure, TrustError> {
        let at = Target { query: host.into(), found_by: FoundBy::Literal, v4: None, v6: None };
        Secure::new(host, at, Trust(RootCertStore::empty()))
    }

    #[test]
    fn faults_are_told_in_one_line_each() {
        let secure = secure("probe.example.org").unwrap();
        let of = |error: rustls::Error| secure.fault(&io::Error::other(error)).to_string();
        let certificate = |error| of(rustls::Error::InvalidCertificate(error));
        let other = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("probe.example.org").unwrap(),
            presented: vec!["DnsName(\"example.net\")".into(), "IpAddress(192.0.2.1)".into()],
        };
        assert_eq!(
            certificate(other),
            "its certificate is not for probe.example.org but for example.net, 192.0.2.1"
        );
        assert!(certificate(CertificateError::UnknownIssuer).contains("self-signed"));
        let authority = rustls::OtherError(Arc::new(io::Error::other("CaUsedAsEndEntity")));
        assert!(certificate(CertificateError::Other(authority)).contains("CA:FALSE"));
        assert_eq!(certificate(CertificateError::Expired), "its certificate has expired");
        assert!(certificate(CertificateError::NotValidYet).contains("clock"));
        assert!(certificate(CertificateError::Revoked).starts_with("its certificate is refused: "));
        let garbage = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(of(garbage).contains("--tls=PORT"));
        let closed = secure.fault(&io::ErrorKind::UnexpectedEof.into());
        assert_eq!(closed, TlsFault::NotSpoken);
    }

    #[test]
    fn a_name_or_an_address_can_be_proven_and_nothing_else() {
        for host in ["probe.example.org", "192.0.2.1", "2001:db8::1", "localhost"] {
            assert!(secure(host).is_ok(), "{host}");
        }
        assert_eq!(secure("a..b").unwrap_err(), TrustError::Name("a..b".into()));
        let at = |host: &str| secure(host).unwrap().authority("192.0.2.1:5349".parse().unwrap());
        assert_eq!(at("2001:db8::1"), "[2001:db8::1]:5349");
        assert_eq!(at("probe.example.org"), "probe.example.org:5349");
    }

    #[test]
    fn files_without_an_authority_are_named() {
        let missing = Trust::file(Path::new("/nonexistent/ca.pem")).unwrap_err().to_string();
        assert!(missing.starts_with("--ca /nonexistent/ca.pem: "), "{missing}");
        let empty = Trust::file(Path::new("/dev/null")).unwrap_err();
        assert_eq!(empty, TrustError::Empty("/dev/null".into()));
    }
}
