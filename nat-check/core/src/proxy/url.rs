//! The URL of a proxy, as `--proxy` and the environment have it.

use std::{fmt, net::IpAddr};

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::credentials::Credentials;
use crate::report::ProxyKind;

/// A proxy as it is named: kind, host, port, and who asks. Shown without user name and password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl {
    kind: ProxyKind,
    scheme: &'static str,
    host: Host,
    port: u16,
    credentials: Option<Credentials>,
}

/// Why a text names no proxy. It never repeats the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyUrlError {
    /// It is no URL.
    #[error("not a URL such as socks5://HOST:PORT")]
    NotUrl,
    /// It names a protocol that is not spoken here.
    #[error("a proxy is one of socks5://, socks5h://, socks4://, socks4a:// and http://")]
    Scheme,
    /// It names no host.
    #[error("no host in it")]
    NoHost,
    /// Nobody can be told user name and password.
    #[error(
        "a user name and a password without control characters, of at most 255 bytes each for SOCKS5, are possible"
    )]
    Credentials,
    /// SOCKS4 has no passwords.
    #[error("SOCKS4 has user names, but no passwords")]
    PasswordOfSocks4,
}

/// Schemes, the protocol of each, and its port where none is given.
const SCHEMES: [(&str, ProxyKind, u16); 6] = [
    ("socks5h", ProxyKind::Socks5, 1080),
    ("socks5", ProxyKind::Socks5, 1080),
    // As desktops write it.
    ("socks", ProxyKind::Socks5, 1080),
    ("socks4a", ProxyKind::Socks4a, 1080),
    ("socks4", ProxyKind::Socks4, 1080),
    ("http", ProxyKind::HttpConnect, 80),
];

impl ProxyUrl {
    /// Reads it. Without a scheme it is a proxy of HTTP, as other programs take it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, ProxyUrlError> {
        let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let url = Url::parse(with_scheme.trim()).map_err(|error| match error {
            url::ParseError::EmptyHost => ProxyUrlError::NoHost,
            _ => ProxyUrlError::NotUrl,
        })?;
        // A password with one of / ? # in it ends the host for this parser, and its rest would be shown as one.
        if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
            return Err(ProxyUrlError::NotUrl);
        }
        let known = SCHEMES.into_iter().find(|(scheme, ..)| url.scheme() == *scheme);
        let (scheme, kind, usual) = known.ok_or(ProxyUrlError::Scheme)?;
        let host = url.host().ok_or(ProxyUrlError::NoHost)?.to_owned();
        // Of other schemes than http the host is not looked into.
        let host = match host {
            Host::Domain(name) => Host::parse(&name).map_err(|_| ProxyUrlError::NotUrl)?,
            address => address,
        };
        let credentials = match (url.username(), url.password()) {
            ("", None | Some("")) => None,
            (user, password) => {
                let [user, password] = [user, password.unwrap_or_default()]
                    .map(|part| percent_decode_str(part).collect::<Vec<u8>>());
                if kind != ProxyKind::Socks5 && kind != ProxyKind::HttpConnect && !password.is_empty() {
                    return Err(ProxyUrlError::PasswordOfSocks4);
                }
                let credentials = Credentials::new(user, password)
                    .filter(|credentials| kind != ProxyKind::Socks5 || credentials.fit_socks5());
                Some(credentials.ok_or(ProxyUrlError::Credentials)?)
            }
        };
        Ok(Self { kind, scheme, host, port: url.port().unwrap_or(usual), credentials })
    }

    /// The protocol.
    #[must_use]
    pub fn kind(&self) -> ProxyKind {
        self.kind
    }

    /// The name to be looked up, or the address as text.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Domain(name) => name.clone(),
            Host::Ipv4(ip) => ip.to_string(),
            Host::Ipv6(ip) => ip.to_string(),
        }
    }

    /// The address, where it is not a name.
    #[must_use]
    pub fn literal(&self) -> Option<IpAddr> {
        match self.host {
            Host::Domain(_) => None,
            Host::Ipv4(ip) => Some(ip.into()),
            Host::Ipv6(ip) => Some(ip.into()),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Who asks, if anybody in particular.
    #[must_use]
    pub fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }
}

impl fmt::Display for ProxyUrl {
    /// Without user name and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}", self.scheme, self.host, self.port)
    }
}

/// A text that may be the URL of a proxy, without what may be a user name and a password: for messages about it.
#[must_use]
pub(super) fn without_credentials(text: &str) -> String {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) if is_scheme(scheme) => (format!("{scheme}://"), rest),
        Some(_) | None => (String::new(), text),
    };
    match rest.rsplit_once('@') {
        None if is_harmless(rest) => format!("{scheme}{rest}"),
        Some((_, host)) if is_harmless(host) => format!("{scheme}...@{host}"),
        None | Some(_) => format!("{scheme}..."),
    }
}

/// Schemes of proxies that are not spoken here.
const OTHER_SCHEMES: [&str; 4] = ["https", "ftp", "socks5s", "quic"];

/// Whether this is a scheme of a proxy, and not the beginning of a password.
fn is_scheme(text: &str) -> bool {
    let mut known = SCHEMES.iter().map(|(scheme, ..)| scheme).chain(&OTHER_SCHEMES);
    known.any(|scheme| scheme.eq_ignore_ascii_case(text))
}

/// Whether this can be a host and a port and nothing else.
fn is_harmless(text: &str) -> bool {
    let outside = match (text.strip_prefix('['), text.split_once(']')) {
        (Some(_), Some((address, rest))) if address[1..].bytes().all(is_of_address) => rest,
        _ => text,
    };
    outside.matches(':').count() <= 1 && !outside.contains(['%', '#', '?'])
}

fn is_of_address(byte: u8) -> bool {
    byte.is_ascii_hexdigit() || byte == b':' || byte == b'.'
}

impl ProxyUrl {
    /// A text that names no proxy, as it can be shown: without what may be a user name and a password.
    #[must_use]
    pub fn redacted(text: &str) -> String {
        crate::printable::printable(&without_credentials(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_all_kinds() {
        for (text, shown, kind) in [
            ("socks5://192.0.2.1", "socks5://192.0.2.1:1080", ProxyKind::Socks5),
            ("socks5h://[2001:db8::1]:9", "socks5h://[2001:db8::1]:9", ProxyKind::Socks5),
            ("SOCKS5://Proxy.example:1081/", "socks5://proxy.example:1081", ProxyKind::Socks5),
            ("socks4a://a.example", "socks4a://a.example:1080", ProxyKind::Socks4a),
            ("socks4://u@a.example", "socks4://a.example:1080", ProxyKind::Socks4),
            ("http://u:p@a.example:3128", "http://a.example:3128", ProxyKind::HttpConnect),
            ("proxy:8080", "http://proxy:8080", ProxyKind::HttpConnect),
            ("http://proxy", "http://proxy:80", ProxyKind::HttpConnect),
        ] {
            let url = ProxyUrl::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((url.to_string().as_str(), url.kind()), (shown, kind));
        }
        assert!(ProxyUrl::parse("socks5://192.0.2.1").unwrap().literal().is_some());
        assert_eq!(ProxyUrl::parse("socks5://[::1]").unwrap().host(), "::1");
        let token = "x".repeat(900);
        assert!(ProxyUrl::parse(&format!("http://u:{token}@h")).is_ok());
        let too_long = ProxyUrl::parse(&format!("socks5://u:{token}@h"));
        assert_eq!(too_long, Err(ProxyUrlError::Credentials));
    }

    #[test]
    fn what_names_no_proxy_is_refused() {
        use ProxyUrlError as E;
        for (text, wanted) in [
            ("", E::NoHost),
            ("https://a.example", E::Scheme),
            ("quic://a.example", E::Scheme),
            ("socks5://", E::NoHost),
            ("socks5://a:b:c", E::NotUrl),
            ("socks5://a.example:99999", E::NotUrl),
            ("socks5://alice:12#34@a.example", E::NotUrl),
            ("socks5://alice:12/34@a.example", E::NotUrl),
            ("http://alice:12?34@a.example", E::NotUrl),
            ("http://a.example/path", E::NotUrl),
            ("socks4://u:p@a.example", E::PasswordOfSocks4),
            ("http://u%0d%0aX:p@a.example", E::Credentials),
        ] {
            assert_eq!(ProxyUrl::parse(text), Err(wanted), "{text}");
        }
    }

    #[test]
    fn neither_user_name_nor_password_is_ever_shown() {
        let url = ProxyUrl::parse("socks5://somebody:s3cret%40x@192.0.2.1:1080").unwrap();
        assert_eq!(url.credentials().unwrap().password(), b"s3cret@x");
        let shown = format!("{url} {url:?} {url:#?} {:?}", ProxyUrl::parse("x://somebody:s3cret@y:z"));
        assert!(!shown.contains("s3cret") && !shown.contains("somebody"), "{shown}");
        for (text, shown) in [
            ("socks5://somebody:s3cret@x@[::1", "socks5://..."),
            ("socks5://somebody:s3cret@[::1]:x", "socks5://...@[::1]:x"),
            ("somebody:s3cret@h", "...@h"),
            ("host:1080:somebody:s3cret", "..."),
            ("socks5://host:1080:somebody:s3cret", "socks5://..."),
            ("http://somebody%3As3cret%40h", "http://..."),
            ("http://h?s3cret", "http://..."),
            ("somebody:s3://cret@h", "...@h"),
            ("s3cret://x@h", "...@h"),
            ("socks5://x@h:1080:s3cret", "socks5://..."),
            ("ftp://h:99999", "ftp://h:99999"),
        ] {
            assert_eq!(ProxyUrl::redacted(text), shown, "{text}");
        }
    }
}
