//! A user name and a password for a proxy, which no output ever shows.

use std::fmt;

use data_encoding::BASE64;

/// A user name and a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    user: Vec<u8>,
    password: Vec<u8>,
}

/// Longest part, in bytes: tokens that are given as passwords to proxies of HTTP are long.
const LONGEST: usize = 4096;

impl Credentials {
    /// A user name, which is not empty, and a password; none where no proxy can be told them.
    pub fn new(user: impl Into<Vec<u8>>, password: impl Into<Vec<u8>>) -> Option<Self> {
        let (user, password) = (user.into(), password.into());
        let fits = (1..=LONGEST).contains(&user.len()) && password.len() <= LONGEST;
        // Neither a header field (RFC 7617 section 2) nor SOCKS4 can carry these.
        let is_plain = [&user, &password].into_iter().all(|part| !part.iter().any(u8::is_ascii_control));
        (fits && is_plain).then_some(Self { user, password })
    }

    /// Whether SOCKS5 can carry them (RFC 1929 section 2).
    pub(super) fn fit_socks5(&self) -> bool {
        [&self.user, &self.password].into_iter().all(|part| u8::try_from(part.len()).is_ok())
    }

    pub(super) fn user(&self) -> &[u8] {
        &self.user
    }

    pub(super) fn password(&self) -> &[u8] {
        &self.password
    }

    /// As HTTP wants them (RFC 7617 section 2).
    pub(super) fn basic(&self) -> String {
        BASE64.encode(&[&self.user, &b":"[..], &self.password].concat())
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_never_shown() {
        let credentials = Credentials::new("somebody", "secret").unwrap();
        assert_eq!(
            format!("{credentials:?} {:#?}", Some(&credentials)).matches("Credentials(..)").count(),
            2
        );
        assert_eq!(credentials.basic(), "c29tZWJvZHk6c2VjcmV0");
    }

    #[test]
    fn what_no_proxy_can_be_told_is_none() {
        let long = "x".repeat(LONGEST + 1);
        for (user, password) in [("", "p"), (&long, "p"), ("u", &long), ("u\r\nX: y", "p"), ("u", "\0")] {
            assert_eq!(Credentials::new(user, password), None, "{user:?} {password:?}");
        }
        let token = "x".repeat(256);
        assert!(!Credentials::new("u", token).unwrap().fit_socks5());
        assert!(Credentials::new("u", "x".repeat(255)).unwrap().fit_socks5());
    }
}
