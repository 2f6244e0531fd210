//! Certificate and key from PEM files.

use std::{path::PathBuf, sync::Arc};

use tokio_rustls::rustls::{
    self, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject},
    server::NoServerSessionStorage,
};

use super::Identity;
use crate::config::Tls;

/// A certificate or key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds nothing of the kind.
    #[error("{key} {path}: {source}")]
    File {
        /// The key of the setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// The certificate file holds no certificate.
    #[error("tls-certificate {0}: no certificate in it")]
    Empty(PathBuf),
    /// Certificate and key do not belong together, or are of an unknown kind.
    #[error("tls-certificate {path}: {source}")]
    Pair {
        /// The certificate file.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
}

impl TlsError {
    /// Whether a person has to mend it. A file that is missing, or a pair that does not fit, may be a renewal in
    /// progress: another try can succeed.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Empty(_) | Self::File { source: pem::Error::NoItemsFound, .. })
    }
}

/// Reads both files.
pub(crate) fn identity(tls: &Tls) -> Result<Identity, TlsError> {
    let certificate =
        |source| TlsError::File { key: "tls-certificate", path: tls.certificate.clone(), source };
    let chain = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(certificate)?;
    if chain.is_empty() {
        return Err(TlsError::Empty(tls.certificate.clone()));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|source| TlsError::File {
        key: "tls-key",
        path: tls.key.clone(),
        source,
    })?;
    let pair = |source| TlsError::Pair { path: tls.certificate.clone(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(pair)?;
    // Nobody comes back soon enough to resume anything: tickets would only cost work and memory.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
