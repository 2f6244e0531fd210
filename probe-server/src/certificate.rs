//! When the certificate of STUN over TLS ends (RFC 5280 section 4.1.2.5).

use std::{net::IpAddr, path::Path};

use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// The end of the certificate in this PEM file, in seconds since 1970: of the chain, the one that ends first. `None`
/// where it cannot be told, which is no reason not to serve with it.
pub(crate) fn end(file: &Path) -> Option<u64> {
    let chain = CertificateDer::pem_file_iter(file).ok()?;
    chain.map(|certificate| end_of(&certificate.ok()?)).min().flatten()
}

fn end_of(der: &[u8]) -> Option<u64> {
    let certificate = Certificate::from_der(der).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some(validity.not_after.to_unix_duration().as_secs())
}

/// The names and addresses that the first certificate in this PEM file is for (RFC 5280 section 4.2.1.6); none where
/// they cannot be told.
pub(crate) fn names(file: &Path) -> Vec<String> {
    let Some(Ok(der)) = CertificateDer::pem_file_iter(file).ok().and_then(|mut chain| chain.next()) else {
        return Vec::new();
    };
    names_of(&der).unwrap_or_default()
}

fn names_of(der: &[u8]) -> Option<Vec<String>> {
    let certificate = Certificate::from_der(der).ok()?;
    let (_, SubjectAltName(names)) =
        certificate.tbs_certificate().get_extension::<SubjectAltName>().ok()??;
    let name = |name: &GeneralName| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(ip) => match ip.as_bytes() {
            [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            bytes => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::from(bytes).to_string()),
        },
        _ => None,
    };
    Some(names.iter().filter_map(name).collect())
}

/// How much time is left, in words.
pub(crate) fn time_left(seconds: i64) -> String {
    const DAY: i64 = 24 * 3600;
    match seconds {
        ..=0 => format!("the certificate ended {} days ago", -seconds / DAY),
        1..DAY => format!("the certificate ends in {} hours", seconds / 3600),
        _ => format!("the certificate ends in {} days", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_the_certificate_that_ends_first() {
        let folder = tempfile::tempdir().unwrap();
        let make = |year| {
            let mut params = rcgen::CertificateParams::new(["probe.example.org".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 31);
            params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
        };
        let file = folder.path().join("chain.pem");
        std::fs::write(&file, make(2040) + &make(2030)).unwrap();
        assert_eq!(end(&file), Some(1_896_048_000), "2030-01-31");
        std::fs::write(&file, "nothing").unwrap();
        assert_eq!((end(&file), end(Path::new("/no/such/file"))), (None, None));
    }

    #[test]
    fn the_names_in_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["probe.example.org", "198.51.100.10", "2001:db8::10"].map(str::to_owned);
        let params = rcgen::CertificateParams::new(names.clone()).unwrap();
        let file = folder.path().join("chain.pem");
        std::fs::write(&file, params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem())
            .unwrap();
        assert_eq!(super::names(&file), names);
        assert_eq!(super::names(Path::new("/no/such/file")), [""; 0]);
    }

    #[test]
    fn words() {
        assert_eq!(time_left(-86400), "the certificate ended 1 days ago");
        assert_eq!(time_left(7200), "the certificate ends in 2 hours");
        assert_eq!(time_left(86400 * 30), "the certificate ends in 30 days");
    }
}
